//! The outbox: documents to publish, in the order of issue. A row is due until the broker acknowledges it, so that a
//! crash between commit and publish loses nothing. It is due again when the camera has not reported on it, or when the
//! broker has lost its memory.

use care_protocol::DeviceId;
use rusqlite::{Connection, params};

use crate::clock::now_us;
use crate::storage::db::DbError;

/// How long a camera has to report before its document is sent again. It doubles with every try.
pub const CHASE_AFTER_US: i64 = 5_000_000;
const CHASE_AT_MOST_US: i64 = 600_000_000;

/// A document that waits for publishing.
#[derive(Debug, Clone)]
pub struct Due {
    /// The document's row.
    pub document: i64,
    /// For this camera.
    pub device: DeviceId,
    /// Its place in the order.
    pub epoch: u64,
    /// Its place in the order.
    pub seq: u64,
    /// The JWS.
    pub token: String,
}

/// The messages that are due, oldest first, at most `limit` rows. A document is skipped once a newer one of its camera
/// is at the broker, where the older one would replace it as the retained message.
pub fn due(connection: &Connection, limit: usize) -> Result<Vec<Due>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT d.id, d.device, d.epoch, d.seq, d.token FROM outbox o JOIN documents d ON d.id = o.document
         WHERE o.due = 1
           AND NOT EXISTS (SELECT 1 FROM outbox p JOIN documents n ON n.id = p.document
                           WHERE n.device = d.device AND n.id > d.id AND p.acked_at IS NOT NULL)
         ORDER BY d.id LIMIT ?1",
    )?;
    let rows = statement.query_map([limit], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    rows.map(|row| {
        let (document, device, epoch, seq, token) = row?;
        let device = device.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "outbox.device", why: e.to_string() })?;
        Ok(Due { document, device, epoch, seq, token })
    })
    .collect()
}

/// Notes that a document was handed to the broker's connection at `at` (microseconds). The first time counts.
pub fn mark_published(connection: &Connection, document: i64, at: i64) -> Result<(), DbError> {
    let sql = "UPDATE outbox SET published_at = coalesce(published_at, ?2), tries = tries + 1 WHERE document = ?1";
    connection.prepare_cached(sql)?.execute(params![document, at])?;
    Ok(())
}

/// Notes that the broker acknowledged a document: it is no longer due, and the camera's time to report begins.
pub fn mark_acked(connection: &Connection, document: i64, at: i64) -> Result<(), DbError> {
    let sql = "UPDATE outbox SET due = 0, acked_at = coalesce(acked_at, ?2),
                      chase_at = ?2 + min(?3 << min(max(tries, 1) - 1, 20), ?4) WHERE document = ?1";
    connection.prepare_cached(sql)?.execute(params![document, at, CHASE_AFTER_US, CHASE_AT_MOST_US])?;
    Ok(())
}

/// Stops sending the documents of a camera, because it accepts none of its present binding.
pub fn give_up(connection: &Connection, device: &DeviceId) -> Result<(), DbError> {
    connection.execute("UPDATE outbox SET due = 0, chase_at = NULL WHERE device = ?1", [device.as_str()])?;
    Ok(())
}

/// Makes the newest document of every camera due again: the broker has lost its retained messages.
pub fn all_due_again(connection: &Connection) -> Result<usize, DbError> {
    let sql = "UPDATE outbox SET due = 1 WHERE document IN (SELECT max(id) FROM documents GROUP BY device)
               AND device NOT IN (SELECT device FROM cameras WHERE reset_at IS NOT NULL)";
    Ok(connection.execute(sql, [])?)
}

/// Makes the newest documents due again whose cameras are online and have not reported in time.
pub fn chase(connection: &Connection) -> Result<usize, DbError> {
    let sql = "UPDATE outbox SET due = 1 WHERE due = 0 AND chase_at <= ?1
               AND document IN (SELECT max(d.id) FROM documents d JOIN cameras c ON c.device = d.device
                                WHERE c.status != 'offline' AND c.reset_at IS NULL GROUP BY d.device)
               AND document IN (SELECT id FROM documents WHERE reported_at IS NULL)";
    Ok(connection.execute(sql, [now_us()])?)
}
