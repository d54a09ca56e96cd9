//! The database's view of the clips in the store: marked for erasure, or known to be deleted. The store itself deletes
//! them.

use std::collections::BTreeMap;

use care_protocol::DeviceId;
use serde::Serialize;

use crate::clock::now_us;
use crate::storage::db::{Connection, DbError, Transaction, params};

/// The longest time an upload can take after its grant, microseconds: the largest clip over the slowest line.
pub const GRANT_IN_USE_US: i64 = 3_600_000_000;

/// The start of the history at `now` (Unix seconds), milliseconds. Clips that began earlier are erased.
pub fn oldest_ms(history_h: u32, now: u64) -> u64 {
    now.saturating_sub(u64::from(history_h) * 3600).saturating_mul(1000)
}

/// Marks a camera's clips that are older than `history_h` as erased. Returns their ids.
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

/// What a camera keeps from now on.
#[derive(Debug, Serialize)]
pub struct Kept<'a> {
    /// The camera.
    pub device: &'a str,
    /// Its present binding, if any: clips belong to the account they were recorded for.
    pub epoch: Option<u64>,
    /// The start of its history, see [`oldest_ms`].
    pub oldest_ms: u64,
}

/// Marks what these cameras do not keep as erased. Returns each clip with its camera.
pub fn mark_others(tx: &Transaction<'_>, kept: &[Kept<'_>]) -> Result<Vec<(String, String)>, DbError> {
    let list = serde_json::to_string(kept).expect("plain data");
    let mut statement = tx.prepare_cached(MARK_OTHERS)?;
    let clips = statement.query_map(params![list, now_us()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(clips.collect::<Result<_, _>>()?)
}

const MARK_OTHERS: &str = "
    UPDATE clips SET erased_at = ?2
    FROM (SELECT value ->> 'device' AS camera, CAST(value ->> 'epoch' AS BIGINT) AS present,
                 CAST(value ->> 'oldest_ms' AS BIGINT) AS oldest
          FROM json_each(?1)) AS w
    WHERE clips.device = w.camera AND clips.stored_at IS NOT NULL AND clips.erased_at IS NULL
      AND (clips.epoch IS DISTINCT FROM w.present OR clips.started_ms < w.oldest)
    RETURNING device, clip";

/// The statements of a change for everybody, for the test of their plans.
pub const STATEMENTS: [&str; 1] = [MARK_OTHERS];

/// Clips that are marked as erased while their objects may still exist, by camera; at most `at_most`.
pub fn to_go(connection: &Connection, at_most: usize) -> Result<BTreeMap<DeviceId, Vec<String>>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT device, clip FROM clips WHERE erased_at IS NOT NULL AND gone_at IS NULL AND NOT EXISTS
             (SELECT 1 FROM grants g WHERE g.clip = clips.clip AND g.state = 'open' AND g.granted_at > ?1)
         LIMIT ?2",
    )?;
    // Not a clip that is being uploaded again.
    let rows = statement.query_map(params![now_us() - GRANT_IN_USE_US, at_most], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let mut clips: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let (device, clip) = row?;
        let device = device.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "clips.device", why: e.to_string() })?;
        clips.entry(device).or_default().push(clip);
    }
    Ok(clips)
}

/// Marks clips as deleted, except those that were uploaded again meanwhile.
pub fn book_gone(tx: &Transaction<'_>, clips: &[String]) -> Result<(), DbError> {
    let mut statement = tx.prepare_cached("UPDATE clips SET gone_at = ?2 WHERE clip = ?1 AND erased_at IS NOT NULL")?;
    for clip in clips {
        statement.execute(params![clip, now_us()])?;
    }
    Ok(())
}
