//! Cameras as the database has them: model, account, binding epoch, and the sequence of the newest document.

use std::collections::HashMap;

use care_protocol::DeviceId;
use serde::Serialize;

use super::documents::{Body, read_body};
use crate::storage::db::{Connection, DbError, OptionalExtension as _, Params, Row, SqlError, Transaction, params};

/// A camera as the database has it.
#[derive(Debug, Clone)]
pub struct Camera {
    /// Its id.
    pub device: DeviceId,
    /// Its model.
    pub model: String,
    /// Its account, or the last one it had.
    pub account: String,
    /// Whether it belongs to that account now.
    pub bound: bool,
    /// Its binding epoch.
    pub epoch: u64,
    /// The sequence of its newest document, 0 before the first.
    pub seq: u64,
    /// It was reset to factory settings under this epoch: no document of it binds the camera any more.
    pub reset: bool,
}

/// One camera.
pub fn camera(connection: &Connection, device: &DeviceId) -> Result<Camera, DbError> {
    find_camera(connection, device)?.ok_or_else(|| DbError::Damaged { what: "cameras", why: format!("{device} is missing") })
}

/// One camera, if it is known.
pub fn find_camera(connection: &Connection, device: &DeviceId) -> Result<Option<Camera>, DbError> {
    let mut statement = connection.prepare_cached(CAMERA)?;
    Ok(statement.query_row([device.as_str()], |row| read_camera(device, row)).optional()?)
}

fn read_camera(device: &DeviceId, row: &Row<'_>) -> Result<Camera, SqlError> {
    Ok(Camera {
        device: device.clone(),
        model: row.get(0)?,
        account: row.get(1)?,
        bound: row.get(2)?,
        epoch: row.get(3)?,
        seq: row.get(4)?,
        reset: row.get(5)?,
    })
}

/// These cameras in this order, each with its newest document, if it has one.
pub(super) fn with_newest(connection: &Connection, devices: &[DeviceId]) -> Result<Vec<(Camera, Option<Body>)>, DbError> {
    let by_name: HashMap<&str, &DeviceId> = devices.iter().map(|device| (device.as_str(), device)).collect();
    let list = serde_json::to_string(devices).expect("plain data");
    let mut statement = connection.prepare_cached(WITH_NEWEST)?;
    let rows = statement.query_map([list], |row| {
        let device = by_name[&row.get::<_, String>(7)?[..]];
        Ok((device, (read_camera(device, row)?, row.get::<_, Option<String>>(6)?)))
    })?;
    let mut found = rows.collect::<Result<HashMap<_, _>, _>>()?;
    let missing = |device: &DeviceId| DbError::Damaged { what: "cameras", why: format!("{device} is missing") };
    let cameras = devices.iter().map(|device| {
        let (camera, body) = found.remove(device).ok_or_else(|| missing(device))?;
        Ok((camera, body.as_deref().map(read_body).transpose()?))
    });
    cameras.collect()
}

/// Bound cameras of an account in the order of their seats, at most `limit`.
pub fn seated(connection: &Connection, account: &str, limit: usize) -> Result<Vec<DeviceId>, DbError> {
    read_devices(connection, SEATED, params![account, limit])
}

/// Bound cameras of an account in the order of their seats, or all cameras there are: for pages that show them, not for
/// changes that concern some.
pub fn devices(connection: &Connection, account: Option<&str>) -> Result<Vec<DeviceId>, DbError> {
    match account {
        Some(account) => seated(connection, account, usize::MAX >> 1),
        None => read_devices(connection, "SELECT device FROM cameras ORDER BY bound_at, rowid", []),
    }
}

/// Cameras whose document was issued at `until` (Unix seconds) or before, oldest first, at most `limit`.
pub(super) fn issued_until(connection: &Connection, until: u64, limit: usize) -> Result<Vec<DeviceId>, DbError> {
    read_devices(connection, ISSUED_UNTIL, params![until, limit])
}

/// Cameras whose document is signed by a key before number `key`, at most `limit`.
pub(super) fn signed_before(connection: &Connection, key: u64, limit: usize) -> Result<Vec<DeviceId>, DbError> {
    read_devices(connection, SIGNED_BEFORE, params![key, limit])
}

/// Cameras with a clip that is older than their plan's history at `now` (Unix seconds), at most `limit`.
pub fn with_old_clips(connection: &Connection, now: u64, limit: usize) -> Result<Vec<DeviceId>, DbError> {
    read_devices(connection, WITH_OLD_CLIPS, params![now.saturating_mul(1000), limit])
}

/// Notes the history of a camera's plan, and that its clips have been looked through.
pub fn note_history(tx: &Transaction<'_>, device: &DeviceId, history_h: u32) -> Result<(), DbError> {
    tx.prepare_cached(NOTE_HISTORY)?.execute(params![device.as_str(), history_h])?;
    Ok(())
}

/// A camera's newest document, as its row has it.
#[derive(Serialize)]
pub(super) struct Newest<'a> {
    pub(super) device: &'a str,
    pub(super) document: i64,
    pub(super) seq: u64,
    pub(super) history_h: u32,
}

/// Notes the newest documents of cameras, issued at `issued_at` (Unix seconds) and signed by the key of this number.
pub(super) fn note_newest(tx: &Transaction<'_>, newest: &[Newest<'_>], issued_at: u64, signed_by: u64) -> Result<(), DbError> {
    let list = serde_json::to_string(newest).expect("plain data");
    tx.prepare_cached(NOTE_NEWEST)?.execute(params![list, issued_at, signed_by])?;
    Ok(())
}

fn read_devices(connection: &Connection, sql: &str, of: impl Params) -> Result<Vec<DeviceId>, DbError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(of, |row| row.get::<_, String>(0))?;
    rows.map(|row| row?.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "cameras.device", why: e.to_string() }))
        .collect()
}

const CAMERA: &str = "SELECT model, account, bound, epoch, seq, reset_at IS NOT NULL FROM cameras WHERE device = ?1";
const WITH_NEWEST: &str = "
    SELECT c.model, c.account, c.bound, c.epoch, c.seq, c.reset_at IS NOT NULL, d.body, c.device
    FROM json_each(?1) AS w JOIN cameras c ON c.device = w.value LEFT JOIN documents d ON d.id = c.newest";
const SEATED: &str = "SELECT device FROM cameras WHERE account = ?1 AND bound = 1 ORDER BY bound_at, rowid LIMIT ?2";
const ISSUED_UNTIL: &str = "SELECT device FROM cameras WHERE issued_at <= ?1 AND reset_at IS NULL ORDER BY issued_at LIMIT ?2";
const SIGNED_BEFORE: &str = "SELECT device FROM cameras WHERE signed_by < ?1 AND reset_at IS NULL ORDER BY signed_by LIMIT ?2";
const WITH_OLD_CLIPS: &str = "SELECT device FROM cameras WHERE oldest_ms IS NOT NULL AND oldest_ms + history_h * 3600000 < ?1 LIMIT ?2";
const NOTE_HISTORY: &str = "
    UPDATE cameras SET history_h = ?2,
        oldest_ms = (SELECT min(started_ms) FROM clips WHERE clips.device = ?1 AND stored_at IS NOT NULL AND erased_at IS NULL)
    WHERE device = ?1";
const NOTE_NEWEST: &str = "
    UPDATE cameras SET newest = w.document, seq = w.place, issued_at = ?2, signed_by = ?3, history_h = w.history
    FROM (SELECT value ->> 'device' AS camera, CAST(value ->> 'document' AS BIGINT) AS document,
                 CAST(value ->> 'seq' AS BIGINT) AS place, CAST(value ->> 'history_h' AS BIGINT) AS history
          FROM json_each(?1)) AS w
    WHERE cameras.device = w.camera";

/// The statements on the way of a change for everybody, and of every look at the clock, for the test of their plans.
pub const STATEMENTS: [&str; 8] = [CAMERA, WITH_NEWEST, SEATED, ISSUED_UNTIL, SIGNED_BEFORE, WITH_OLD_CLIPS, NOTE_HISTORY, NOTE_NEWEST];
