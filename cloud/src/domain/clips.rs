//! The database's view of the clips in the store: marked for erasure, or known to be gone. The store itself deletes them.

use std::collections::BTreeMap;

use care_protocol::DeviceId;
use rusqlite::{Connection, Transaction, params};

use crate::clock::now_us;
use crate::storage::db::DbError;

/// A grant may still be in use this long after it was given, microseconds: the largest clip over the slowest line.
pub const GRANT_IN_USE_US: i64 = 3_600_000_000;

/// The beginning of the history at `now` (Unix seconds), in milliseconds: what began before it goes.
pub fn oldest_ms(history_h: u32, now: u64) -> u64 {
    now.saturating_sub(u64::from(history_h) * 3600).saturating_mul(1000)
}

/// Marks what a camera has in the store from before a history of so many hours; the clips' ids.
pub fn mark_older(tx: &Transaction<'_>, device: &DeviceId, history_h: u32, now: u64) -> Result<Vec<String>, DbError> {
    let clips = tx
        .prepare_cached(
            "UPDATE clips SET erased_at = ?3 WHERE device = ?1 AND started_ms < ?2 AND stored_at IS NOT NULL AND erased_at IS NULL
             RETURNING clip",
        )?
        .query_map(params![device.as_str(), oldest_ms(history_h, now), now_us()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(clips)
}

/// Marks what a camera has in the store that is not of its present binding, which is `epoch` if it is bound; the clips' ids.
pub fn mark_other_owners(tx: &Transaction<'_>, device: &DeviceId, epoch: Option<u64>) -> Result<Vec<String>, DbError> {
    let clips = tx
        .prepare_cached(
            "UPDATE clips SET erased_at = ?3 WHERE device = ?1 AND epoch IS NOT ?2 AND stored_at IS NOT NULL AND erased_at IS NULL
             RETURNING clip",
        )?
        .query_map(params![device.as_str(), epoch, now_us()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(clips)
}

/// At most so many of the clips that are marked and whose objects are not known to be gone, by camera.
pub fn to_go(connection: &Connection, at_most: usize) -> Result<BTreeMap<DeviceId, Vec<String>>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT device, clip FROM clips WHERE erased_at IS NOT NULL AND gone_at IS NULL AND NOT EXISTS
             (SELECT 1 FROM grants g WHERE g.clip = clips.clip AND g.state = 'open' AND g.granted_at > ?1)
         LIMIT ?2",
    )?;
    // A clip that is being sent again is left alone.
    let rows = statement.query_map(params![now_us() - GRANT_IN_USE_US, at_most], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let mut clips: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let (device, clip) = row?;
        let device = device.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "clips.device", why: e.to_string() })?;
        clips.entry(device).or_default().push(clip);
    }
    Ok(clips)
}

/// Books clips as gone. A clip that came back meanwhile is not gone.
pub fn book_gone(tx: &Transaction<'_>, clips: &[String]) -> Result<(), DbError> {
    let mut statement = tx.prepare_cached("UPDATE clips SET gone_at = ?2 WHERE clip = ?1 AND erased_at IS NOT NULL")?;
    for clip in clips {
        statement.execute(params![clip, now_us()])?;
    }
    Ok(())
}
