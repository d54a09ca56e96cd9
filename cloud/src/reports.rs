//! What cameras say: reports (kept, and matched with the documents they answer), status, and `get`, which is answered from
//! the database.

use care_protocol::{DeviceId, Outcome, Position, Report};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::Serialize;

use crate::{
    db::{DbError, now_us},
    outbox::CHASE_AFTER_US,
};

/// What a camera has said of itself, as far as it has been heard.
#[derive(Debug, Serialize)]
pub struct Heard {
    /// `online`, `offline` or `unknown`.
    pub status: String,
    /// It has not reported on its newest document in time.
    pub silent: bool,
    /// Its last report.
    pub report: Option<Report>,
    /// When that arrived, microseconds since 1970.
    pub reported_us: Option<i64>,
}

/// Keeps a report and marks the documents it answers. `false`: it is the one already kept (a retained copy).
pub fn keep(tx: &Transaction<'_>, report: &Report, at: i64) -> Result<bool, DbError> {
    let device = report.device.as_str();
    let body = serde_json::to_string(report).expect("plain data");
    let last: Option<String> =
        tx.query_row("SELECT body FROM reports WHERE device = ?1 ORDER BY id DESC LIMIT 1", [device], |row| row.get(0)).optional()?;
    if last.is_some_and(|last| last == body) {
        return Ok(false);
    }
    tx.execute("INSERT INTO reports (device, received_at, body) VALUES (?1, ?2, ?3)", params![device, at, body])?;
    // What is in force answers everything before it; what was judged answers for itself, whatever the outcome.
    let judged = report.judged.unwrap_or(Position::NONE);
    tx.execute(
        "UPDATE documents SET reported_at = ?6
         WHERE device = ?1 AND ((epoch, seq) <= (?2, ?3) OR (epoch, seq) = (?4, ?5)) AND reported_at IS NULL",
        params![device, report.epoch, report.seq, judged.epoch, judged.seq, at],
    )?;
    // The figures belong to the document that was judged. The first answer tells its story, unless it was refused first
    // (its key was not known yet) and applied later.
    if let Some(judged) = report.judged {
        let applied = report.outcome == Outcome::Applied;
        tx.execute(
            "UPDATE documents SET report = ?4, reported_at = ?5 WHERE device = ?1 AND epoch = ?2 AND seq = ?3
             AND (report IS NULL OR (?6 AND report ->> 'outcome' != 'applied'))",
            params![device, judged.epoch, judged.seq, body, at, applied],
        )?;
    }
    Ok(true)
}

/// Keeps a status; `false` if it is the one already kept.
pub fn set_status(tx: &Transaction<'_>, device: &DeviceId, status: &str, at: i64) -> Result<bool, DbError> {
    let sql = "UPDATE cameras SET status = ?2, status_at = ?3 WHERE device = ?1 AND status != ?2";
    Ok(tx.execute(sql, params![device.as_str(), status, at])? > 0)
}

/// What has been heard of a camera whose newest document is at this position.
pub fn heard(connection: &Connection, device: &DeviceId, newest: Position) -> Result<Heard, DbError> {
    let silent = "SELECT EXISTS (SELECT 1 FROM documents d JOIN outbox o ON o.document = d.id
                  WHERE d.device = ?1 AND d.epoch = ?2 AND d.seq = ?3 AND d.reported_at IS NULL AND o.issued_at < ?4)";
    let silent_since = params![device.as_str(), newest.epoch, newest.seq, now_us() - CHASE_AFTER_US];
    let last = "SELECT body, received_at FROM reports WHERE device = ?1 ORDER BY id DESC LIMIT 1";
    let last: Option<(String, i64)> =
        connection.prepare_cached(last)?.query_row([device.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (body, reported_us) = last.unzip();
    let read = |body: String| serde_json::from_str(&body).map_err(|e| DbError::Damaged { what: "reports.body", why: e.to_string() });
    Ok(Heard {
        status: connection.query_row("SELECT status FROM cameras WHERE device = ?1", [device.as_str()], |row| row.get(0))?,
        silent: connection.query_row(silent, silent_since, |row| row.get(0))?,
        report: body.map(read).transpose()?,
        reported_us,
    })
}
