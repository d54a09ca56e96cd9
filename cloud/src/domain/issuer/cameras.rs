//! Cameras as the database has them: model, account, binding epoch, and the sequence of the newest document.

use care_protocol::DeviceId;
use rusqlite::{Connection, OptionalExtension as _};

use crate::storage::db::DbError;

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
    let mut statement =
        connection.prepare_cached("SELECT model, account, bound, epoch, seq, reset_at IS NOT NULL FROM cameras WHERE device = ?1")?;
    let found = statement.query_row([device.as_str()], |row| {
        let device = device.clone();
        Ok(Camera {
            device,
            model: row.get(0)?,
            account: row.get(1)?,
            bound: row.get(2)?,
            epoch: row.get(3)?,
            seq: row.get(4)?,
            reset: row.get(5)?,
        })
    });
    Ok(found.optional()?)
}

/// Bound cameras of an account in the order of their seats, or all cameras there are.
pub fn devices(connection: &Connection, account: Option<&str>) -> Result<Vec<DeviceId>, DbError> {
    let mut statement = connection
        .prepare_cached("SELECT device FROM cameras WHERE ?1 IS NULL OR (account = ?1 AND bound = 1) ORDER BY bound_at, rowid")?;
    let rows = statement.query_map([account], |row| row.get::<_, String>(0))?;
    rows.map(|row| row?.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "cameras.device", why: e.to_string() }))
        .collect()
}
