//! Messages from cameras: reports, which are stored and matched with the documents they answer, and the status.

use care_protocol::{Cause, DeviceId, Outcome, Position, Report};
use serde::Serialize;

use crate::{
    clock::now_us,
    domain::issuer::{Camera, find_camera, revoke_grants},
    storage::{
        db::{Connection, DbError, OptionalExtension as _, Transaction, params},
        outbox::{self, CHASE_AFTER_US},
    },
};

/// The last status and report of a camera.
#[derive(Debug, Serialize)]
pub struct Reported {
    /// `online`, `offline` or `unknown`.
    pub status: String,
    /// Its report on the newest document is overdue.
    pub silent: bool,
    /// Its newest report, in whatever order they arrived.
    pub report: Option<Report>,
    /// When the report arrived, microseconds since 1970.
    pub reported_us: Option<i64>,
}

/// The changes made by a report.
#[derive(Debug, Default)]
pub struct Kept {
    /// The report is new, and not a retained copy of the last one.
    pub new: bool,
    /// It is the first to say that a document is in force which a click caused: the time since the click, microseconds.
    pub answered_us: Option<i64>,
    /// The report shows that the camera was reset to factory settings.
    pub reset: bool,
    /// The grants that were revoked because of it.
    pub revoked: Vec<String>,
}

/// Keeps a report and marks the documents it answers.
pub fn keep(tx: &Transaction<'_>, report: &Report, at: i64) -> Result<Kept, DbError> {
    let device = report.device.as_str();
    let body = serde_json::to_string(report).expect("plain data");
    let newest = tx.prepare_cached(NEWEST)?.query_row(params![device, body], |row| {
        let issued = Position { epoch: row.get(3)?, seq: row.get(4)? };
        Ok((Newest { body: row.get(0)?, place: row.get(1)?, issued }, row.get::<_, bool>(2)?))
    });
    let newest = newest.optional()?;
    // The broker delivers again what was not acknowledged: another report may have arrived since.
    if matches!(newest, Some((_, true))) {
        return Ok(Kept::default());
    }
    let place = place(report, newest.map(|(newest, _)| newest))?;
    tx.prepare_cached(ADD)?.execute(params![device, at, body, place])?;
    // The document in force answers every earlier one; the judged document is answered whatever the outcome.
    let judged = report.judged.unwrap_or(Position::NONE);
    let answer = |sql: &str, position: Position| -> Result<(), DbError> {
        let mut statement = tx.prepare_cached(sql)?;
        for document in statement.query_map(params![device, position.epoch, position.seq, at], |row| row.get(0))? {
            outbox::answered(tx, document?)?;
        }
        Ok(())
    };
    answer(ANSWERED_UNTIL, Position { epoch: report.epoch, seq: report.seq })?;
    answer(ANSWERED, judged)?;
    // The figures belong to the judged document. The first answer counts, unless the document was rejected first (its
    // key was not known yet) and applied later.
    if let Some(judged) = report.judged {
        let applied = report.outcome == Outcome::Applied;
        tx.prepare_cached(FIGURES)?.execute(params![device, judged.epoch, judged.seq, body, at, applied])?;
    }
    let kept = Kept { new: true, answered_us: since_click(tx, report, at)?, ..Kept::default() };
    let Some(camera) = find_camera(tx, &report.device)? else { return Ok(kept) };
    if tells_of_reset(tx, &camera, report)? {
        return note_reset(tx, &camera, at);
    }
    if camera.reset && report.epoch == camera.epoch {
        // The reset was before this binding, and its report arrived late.
        tx.execute("UPDATE cameras SET reset_at = NULL WHERE device = ?1", [device])?;
    }
    Ok(kept)
}

/// The newest report of a camera so far.
struct Newest {
    body: String,
    place: i64,
    /// The newest document that this cloud has issued for the camera.
    issued: Position,
}

/// The place of a report among those of its camera: the newest has the highest. It is the time of the judgement,
/// microseconds, or what puts the report before or behind the newest one so far.
fn place(report: &Report, newest: Option<Newest>) -> Result<i64, DbError> {
    let at = report.at.as_microsecond();
    let Some(Newest { body, place, issued }) = newest else { return Ok(at) };
    Ok(if is_older(report, &read(&body)?, issued) { at.min(place - 1) } else { at.max(place) })
}

/// Whether a report that arrives was made before the newest one so far. Trusted time says so, and within its second the
/// document in force. But trusted time falls: after a loss of the state, and when it is corrected, which the camera reports;
/// and a document that is newer shows that a report is. One beyond what this cloud has `issued` shows nothing: a backup was
/// restored, and a reset takes the camera back.
fn is_older(report: &Report, newest: &Report, issued: Position) -> bool {
    let in_force = |report: &Report| Position { epoch: report.epoch, seq: report.seq };
    let (ours, theirs) = (in_force(report), in_force(newest));
    if report.at == newest.at {
        return ours != Position::NONE && ours < theirs && theirs <= issued;
    }
    let begins_anew = matches!(report.cause, Cause::Time | Cause::StateLost | Cause::FactoryReset);
    report.at < newest.at && ours <= theirs && !begins_anew
}

fn read(body: &str) -> Result<Report, DbError> {
    serde_json::from_str(body).map_err(|e| DbError::Damaged { what: "reports.body", why: e.to_string() })
}

/// The time from the click to this report, if the report that arrived at `at` is the one that counts for its document.
fn since_click(tx: &Transaction<'_>, report: &Report, at: i64) -> Result<Option<i64>, DbError> {
    let Some(judged) = report.judged.filter(|_| report.outcome == Outcome::Applied) else { return Ok(None) };
    let found = tx.prepare_cached(SINCE_CLICK)?.query_row(params![report.device.as_str(), judged.epoch, judged.seq, at], |row| row.get(0));
    Ok(found.optional()?)
}

/// Whether a report states that the camera was reset under its present binding. The report of the reset itself may be
/// of an earlier one, if the camera was bound again before it could send it: then nothing of the new epoch has been
/// answered yet.
fn tells_of_reset(tx: &Transaction<'_>, camera: &Camera, report: &Report) -> Result<bool, DbError> {
    if report.cause == Cause::FactoryReset && report.outcome == Outcome::Applied {
        let answered = "SELECT EXISTS (SELECT 1 FROM documents WHERE device = ?1 AND epoch = ?2 AND reported_at IS NOT NULL)";
        return Ok(tx.query_row(answered, params![camera.device.as_str(), camera.epoch], |row| row.get(0))?);
    }
    // A document of this binding was rejected for that reason.
    let refused = report.outcome == Outcome::Rejected && report.reason == Cause::FactoryReset.as_str();
    Ok(refused && report.epoch == 0 && report.judged.is_some_and(|judged| judged.epoch == camera.epoch))
}

/// Stops sending documents to a camera that was reset, and revokes its grants, until it is bound again.
fn note_reset(tx: &Transaction<'_>, camera: &Camera, at: i64) -> Result<Kept, DbError> {
    let sql = "UPDATE cameras SET reset_at = ?2 WHERE device = ?1 AND reset_at IS NULL";
    let first = tx.execute(sql, params![camera.device.as_str(), at])? > 0;
    outbox::give_up(tx, &camera.device)?;
    let revoked = revoke_grants(tx, &[camera.device.as_str()])?.into_iter().map(|(_, grant)| grant).collect();
    Ok(Kept { new: true, reset: first, revoked, ..Kept::default() })
}

/// Keeps a status. Returns `false` if it has not changed.
pub fn set_status(tx: &Transaction<'_>, device: &DeviceId, status: &str, at: i64) -> Result<bool, DbError> {
    let changed = tx.prepare_cached(STATUS)?.execute(params![device.as_str(), status, at])? > 0;
    if changed && status == "online" {
        outbox::came_online(tx, device, at)?;
    }
    Ok(changed)
}

/// The last status and report of a camera whose newest document has this position.
pub fn reported(connection: &Connection, device: &DeviceId, newest: Position) -> Result<Reported, DbError> {
    let silent = "SELECT EXISTS (SELECT 1 FROM documents d JOIN outbox o ON o.document = d.id
                  JOIN cameras c ON c.device = d.device
                  WHERE d.device = ?1 AND d.epoch = ?2 AND d.seq = ?3 AND d.reported_at IS NULL AND o.issued_at < ?4
                    AND c.reset_at IS NULL)";
    let silent_since = params![device.as_str(), newest.epoch, newest.seq, now_us() - CHASE_AFTER_US];
    let last: Option<(String, i64)> =
        connection.prepare_cached(LAST)?.query_row([device.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (body, reported_us) = last.unzip();
    Ok(Reported {
        status: connection.query_row("SELECT status FROM cameras WHERE device = ?1", [device.as_str()], |row| row.get(0))?,
        silent: connection.query_row(silent, silent_since, |row| row.get(0))?,
        report: body.as_deref().map(read).transpose()?,
        reported_us,
    })
}

/// The newest report of a camera, and whether `?2` is among those that a delivery is compared with: as many as a broker has
/// under way.
const NEWEST: &str = "
    SELECT r.body, r.place, EXISTS
        (SELECT 1 FROM reports k WHERE k.body = ?2 AND k.id IN (SELECT id FROM reports WHERE device = ?1 ORDER BY id DESC LIMIT 8)),
        c.epoch, c.seq
    FROM reports r JOIN cameras c ON c.device = r.device WHERE r.device = ?1 ORDER BY r.place DESC, r.id DESC LIMIT 1";
const LAST: &str = "SELECT body, received_at FROM reports WHERE device = ?1 ORDER BY place DESC, id DESC LIMIT 1";
const ADD: &str = "INSERT INTO reports (device, received_at, body, place) VALUES (?1, ?2, ?3, ?4)";
const ANSWERED_UNTIL: &str = "
    UPDATE documents SET reported_at = ?4 WHERE device = ?1 AND (epoch, seq) <= (?2, ?3) AND reported_at IS NULL RETURNING id";
const ANSWERED: &str = "
    UPDATE documents SET reported_at = ?4 WHERE device = ?1 AND epoch = ?2 AND seq = ?3 AND reported_at IS NULL RETURNING id";
const FIGURES: &str = "
    UPDATE documents SET report = ?4, reported_at = ?5 WHERE device = ?1 AND epoch = ?2 AND seq = ?3
       AND (report IS NULL OR (?6 = 1 AND report ->> 'outcome' != 'applied'))";
const SINCE_CLICK: &str = "
    SELECT d.reported_at - c.at FROM clicks c JOIN documents d ON d.id = c.document
    WHERE d.device = ?1 AND d.epoch = ?2 AND d.seq = ?3 AND d.reported_at = ?4";
const STATUS: &str = "UPDATE cameras SET status = ?2, status_at = ?3 WHERE device = ?1 AND status != ?2";

/// The statements of every report and status, for the test of their plans.
pub const STATEMENTS: [&str; 8] = [NEWEST, LAST, ADD, ANSWERED_UNTIL, ANSWERED, FIGURES, SINCE_CLICK, STATUS];
