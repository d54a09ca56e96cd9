//! The outbox: documents to publish, in the order of issue. A row is due until the broker acknowledges it, so that a
//! crash between commit and publish loses nothing. It is due again when the camera has not reported on it, or when the
//! broker has lost its memory.

use care_protocol::DeviceId;

use crate::storage::db::{Connection, DbError, Params, Transaction, params};

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

/// The messages that are due behind the document `after` (0: from the first), oldest first, at most `limit` rows. A
/// document is skipped once a newer one of its camera is at the broker, where the older one would replace it as the
/// retained message.
pub fn due(connection: &Connection, after: i64, limit: usize) -> Result<Vec<Due>, DbError> {
    read_due(connection, DUE, params![after, limit])
}

/// The rows of a statement that gives documents as [`DUE`] does.
pub(super) fn read_due(connection: &Connection, sql: &str, params: impl Params) -> Result<Vec<Due>, DbError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    rows.map(|row| {
        let (document, device, epoch, seq, token) = row?;
        let device = device.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "outbox.device", why: e.to_string() })?;
        Ok(Due { document, device, epoch, seq, token })
    })
    .collect()
}

/// What became of a document on its way to the broker. Marks are written in groups, in their order.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The document's row.
    pub document: i64,
    /// Its camera.
    pub device: DeviceId,
    /// Its sequence.
    pub seq: u64,
    /// When, microseconds.
    pub at: i64,
    /// What.
    pub what: Marked,
}

/// See [`Mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// It was handed to the broker's connection. The first time counts.
    Published,
    /// The broker has it: it is no longer due, and the camera's time to report begins.
    Acked,
}

/// Writes a group of marks.
pub fn mark(tx: &Transaction<'_>, marks: &[Mark]) -> Result<(), DbError> {
    let mut published = tx.prepare_cached(PUBLISHED)?;
    let mut acked = tx.prepare_cached(ACKED)?;
    for Mark { document, at, what, .. } in marks {
        match what {
            Marked::Published => published.execute(params![document, at])?,
            Marked::Acked => acked.execute(params![document, at, CHASE_AFTER_US, CHASE_AT_MOST_US])?,
        };
    }
    Ok(())
}

/// Adds documents that were issued at `at` (microseconds): a JSON list of objects with `document` and `device`.
pub fn add(tx: &Transaction<'_>, documents: &str, at: i64) -> Result<(), DbError> {
    tx.prepare_cached(ADD)?.execute(params![documents, at])?;
    Ok(())
}

/// Makes the newest document of a camera due again.
pub fn due_again(tx: &Transaction<'_>, device: &DeviceId) -> Result<(), DbError> {
    tx.prepare_cached(DUE_AGAIN)?.execute([device.as_str()])?;
    Ok(())
}

/// Stops sending the documents of a camera, because it accepts none of its present binding.
pub fn give_up(tx: &Transaction<'_>, device: &DeviceId) -> Result<(), DbError> {
    tx.prepare_cached(GIVE_UP)?.execute([device.as_str()])?;
    Ok(())
}

/// Makes the newest document of every camera due again: the broker has lost its retained messages. Nothing else reads
/// all cameras at once.
pub fn all_due_again(tx: &Transaction<'_>) -> Result<usize, DbError> {
    let sql = "UPDATE outbox SET due = 1 WHERE document IN (SELECT newest FROM cameras WHERE reset_at IS NULL)";
    Ok(tx.execute(sql, [])?)
}

/// The camera has reported on a document: nothing is overdue any more.
pub fn answered(tx: &Transaction<'_>, document: i64) -> Result<(), DbError> {
    tx.prepare_cached(ANSWERED)?.execute([document])?;
    Ok(())
}

/// The camera is online again: from `at` (microseconds) on it has its time to report on the document that it missed.
pub fn came_online(tx: &Transaction<'_>, device: &DeviceId, at: i64) -> Result<(), DbError> {
    tx.prepare_cached(CAME_ONLINE)?.execute(params![device.as_str(), at + CHASE_AFTER_US])?;
    Ok(())
}

/// Whether any report is overdue at `at` (microseconds).
pub fn anything_overdue(connection: &Connection, at: i64) -> Result<bool, DbError> {
    Ok(connection.prepare_cached(OVERDUE)?.exists(params![at, 1])?)
}

/// Makes the newest documents due again whose cameras are online and have not reported in time, and forgets those that
/// need no report any more; at most `limit`. Returns how many are due again. A camera that is offline, or was never heard,
/// gets its time when it comes ([`came_online`]).
pub fn chase(tx: &Transaction<'_>, at: i64, limit: usize) -> Result<usize, DbError> {
    let mut again = 0;
    let overdue: Vec<(i64, bool)> =
        tx.prepare_cached(OVERDUE)?.query_map(params![at, limit], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut chase = tx.prepare_cached(CHASE)?;
    for (document, waits) in overdue {
        chase.execute(params![document, waits])?;
        again += usize::from(waits);
    }
    Ok(again)
}

const DUE: &str = "
    SELECT d.id, d.device, d.epoch, d.seq, d.token FROM outbox o JOIN documents d ON d.id = o.document
    WHERE o.due = 1 AND o.document > ?1
      AND NOT EXISTS (SELECT 1 FROM outbox n WHERE n.device = o.device AND n.document > o.document AND n.acked_at IS NOT NULL)
    ORDER BY o.document LIMIT ?2";
const PUBLISHED: &str = "UPDATE outbox SET published_at = coalesce(published_at, ?2), tries = tries + 1 WHERE document = ?1";
const ACKED: &str = "
    UPDATE outbox SET due = 0, acked_at = coalesce(acked_at, ?2),
        chase_at = CASE WHEN (SELECT reported_at FROM documents WHERE id = ?1) IS NULL
                        THEN ?2 + CASE WHEN tries > 20 OR (?3 << CAST(tries AS INTEGER)) / 2 > ?4 THEN ?4 WHEN tries < 2 THEN ?3
                                       ELSE (?3 << CAST(tries AS INTEGER)) / 2 END END
    WHERE document = ?1";
const ADD: &str = "
    INSERT INTO outbox (document, device, due, issued_at)
    SELECT CAST(value ->> 'document' AS BIGINT), value ->> 'device', 1, ?2 FROM json_each(?1)";
const DUE_AGAIN: &str = "UPDATE outbox SET due = 1 WHERE document = (SELECT newest FROM cameras WHERE device = ?1)";
const GIVE_UP: &str = "UPDATE outbox SET due = 0, chase_at = NULL WHERE device = ?1";
const ANSWERED: &str = "UPDATE outbox SET chase_at = NULL WHERE document = ?1 AND chase_at IS NOT NULL";
const CAME_ONLINE: &str = "
    UPDATE outbox SET chase_at = ?2
    WHERE document = (SELECT c.newest FROM cameras c JOIN documents d ON d.id = c.newest WHERE c.device = ?1 AND d.reported_at IS NULL)
      AND due = 0 AND acked_at IS NOT NULL";
const OVERDUE: &str = "
    SELECT o.document, c.status = 'online' AND c.reset_at IS NULL AND c.newest = o.document AND d.reported_at IS NULL
    FROM outbox o JOIN cameras c ON c.device = o.device JOIN documents d ON d.id = o.document
    WHERE o.chase_at <= ?1 AND o.due = 0 ORDER BY o.chase_at LIMIT ?2";
const CHASE: &str = "UPDATE outbox SET due = ?2, chase_at = NULL WHERE document = ?1";

/// The statements on the way of a change for everybody, and of every look at the clock, for the test of their plans.
pub const STATEMENTS: [&str; 10] = [DUE, PUBLISHED, ACKED, ADD, DUE_AGAIN, GIVE_UP, ANSWERED, CAME_ONLINE, OVERDUE, CHASE];
