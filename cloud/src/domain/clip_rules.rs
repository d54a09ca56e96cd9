//! Whether the plan in force allows a clip. The API asks before it gives a grant, the store asks again when a clip
//! arrives under a grant that was revoked meanwhile. The camera applies the same rules before it asks.

use std::time::Duration;

use care_protocol::{ClipKind, DeviceId, Policy};

use crate::{
    clock::now_us,
    domain::issuer::newest_body,
    storage::db::{Connection, DbError, OptionalExtension as _, params},
};

/// How long a grant may be used after it was given.
pub const GRANT_LIFE: Duration = Duration::from_secs(60);

/// An unused grant older than this no longer keeps other clips away, microseconds.
const ON_ITS_WAY_US: i64 = GRANT_LIFE.as_micros() as i64;

/// Whether the plan in force still allows a known clip.
pub fn still_allowed(connection: &Connection, device: &DeviceId, clip: &str, now: u64) -> Result<bool, DbError> {
    let epoch: Option<u64> = connection
        .prepare_cached(
            "SELECT c.epoch FROM clips c JOIN cameras k ON k.device = c.device WHERE c.clip = ?1 AND k.bound = 1 AND k.epoch = c.epoch",
        )?
        .query_row([clip], |row| row.get(0))
        .optional()?;
    Ok(epoch.is_some() && forbidden(connection, device, clip, now)?.is_none())
}

/// Why the plan in force does not allow a known clip; `None` if it does.
pub fn forbidden(connection: &Connection, device: &DeviceId, clip: &str, now: u64) -> Result<Option<&'static str>, DbError> {
    let Some(policy) = newest_body(connection, device)?.map(|body| body.policy_at(now)) else { return Ok(Some("no plan")) };
    let (kind, started_ms, duration_ms): (String, i64, i64) = connection
        .prepare_cached("SELECT kind, started_ms, duration_ms FROM clips WHERE clip = ?1")?
        .query_row([clip], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let oldest_ms = i64::try_from(now).unwrap_or(i64::MAX).saturating_mul(1000) - i64::from(policy.history_h) * 3_600_000;
    if policy.history_h == 0 || started_ms < oldest_ms {
        return Ok(Some("it is older than the plan's history"));
    }
    if kind == kind_name(ClipKind::Snapshot) {
        return Ok((!policy.snapshots).then_some("no snapshots"));
    }
    if !policy.clips {
        return Ok(Some("no clips"));
    }
    if duration_ms > i64::from(policy.clip_max_s) * 1000 {
        return Ok(Some("it is too long"));
    }
    if too_close(connection, device, clip, &policy)? {
        return Ok(Some("the pause between clips is not over"));
    }
    Ok(None)
}

/// Whether a clip that has arrived lies too close to another that arrived first, under the policy in force at `now`.
pub fn arrived_too_close(connection: &Connection, device: &DeviceId, clip: &str, now: u64) -> Result<bool, DbError> {
    let Some(policy) = newest_body(connection, device)?.map(|body| body.policy_at(now)) else { return Ok(false) };
    too_close(connection, device, clip, &policy)
}

/// The pause counts between the end of one clip and the beginning of the next, whichever was requested or arrived
/// first. A clip counts if it is in the store or if its grant may still be used, so concurrent grants take each other
/// into account.
fn too_close(connection: &Connection, device: &DeviceId, clip: &str, policy: &Policy) -> Result<bool, DbError> {
    if policy.cooldown_s == 0 {
        return Ok(false);
    }
    let close = connection
        .prepare_cached(
            "SELECT EXISTS (
                 SELECT 1 FROM clips this JOIN clips other ON other.device = this.device AND other.epoch = this.epoch
                 WHERE this.clip = ?2 AND this.device = ?1 AND this.kind != 'snapshot' AND other.clip != this.clip AND other.kind != 'snapshot'
                   AND other.started_ms < this.started_ms + this.duration_ms + ?3
                   AND this.started_ms < other.started_ms + other.duration_ms + ?3
                   AND (other.stored_at IS NOT NULL OR EXISTS
                        (SELECT 1 FROM grants g WHERE g.clip = other.clip AND g.state = 'open' AND g.granted_at > ?4)))",
        )?
        .query_row(
            params![device.as_str(), clip, i64::from(policy.cooldown_s) * 1000, now_us() - ON_ITS_WAY_US],
            |row| row.get(0),
        )?;
    Ok(close)
}

/// A kind of clip as the database calls it.
pub fn kind_name(kind: ClipKind) -> &'static str {
    match kind {
        ClipKind::Motion => "motion",
        ClipKind::Snapshot => "snapshot",
        ClipKind::Manual => "manual",
    }
}
