//! Whether the plan in force allows a clip: asked before a grant is given, and again when a clip arrives under a grant that
//! was revoked meanwhile. The camera judges by the same rules before it asks.

use care_protocol::{ClipKind, DeviceId};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{db::DbError, issuer::newest_body};

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
    // The pause counts from the end of the owner's last clip that began earlier, as the camera counts it.
    let last_end_ms: Option<i64> = connection
        .prepare_cached(
            "SELECT max(started_ms + duration_ms) FROM clips
             WHERE device = ?1 AND epoch = (SELECT epoch FROM clips WHERE clip = ?2) AND clip != ?2 AND kind != 'snapshot' AND stored_at IS NOT NULL AND started_ms <= ?3",
        )?
        .query_row(params![device.as_str(), clip, started_ms], |row| row.get(0))?;
    let pause_ms = i64::from(policy.cooldown_s) * 1000;
    if pause_ms > 0 && last_end_ms.is_some_and(|end| started_ms < end + pause_ms) {
        return Ok(Some("the pause between clips is not over"));
    }
    Ok(None)
}

/// A kind of clip as the database calls it.
pub fn kind_name(kind: ClipKind) -> &'static str {
    match kind {
        ClipKind::Motion => "motion",
        ClipKind::Snapshot => "snapshot",
        ClipKind::Manual => "manual",
    }
}
