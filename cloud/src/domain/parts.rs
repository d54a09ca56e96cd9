//! Clips that arrive in parts while they are being filmed (`docs/protocol.md#parts`): which part may come next, what there
//! is of a clip, and whether more of it is expected. The policy judges the clip, of which this module keeps the sums.

use care_protocol::{GrantRequest, Part};
use thiserror::Error;

use crate::{
    clock::now_us,
    storage::db::{Connection, DbError, OptionalExtension as _, SqlError, Transaction, params},
};

/// A clip whose next part does not come within this is complete as it stands, microseconds.
const FILMED_US: i64 = 10 * 60 * 1_000_000;

/// What one PUT stores: a whole clip, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// The clip.
    pub clip: String,
    /// The part's index; `None`: the whole clip.
    pub part: Option<u32>,
}

/// Why a part is not taken.
#[derive(Debug, Error)]
pub enum PartError {
    /// Its predecessor is not there.
    #[error("part {0} is not stored yet: parts come in their order")]
    Early(u32),
    /// The clip has ended, or it was erased.
    #[error("the clip takes no further part: {0}")]
    Over(&'static str),
    /// It was announced before, and differently.
    #[error("this part was announced with another content")]
    Changed,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<SqlError> for PartError {
    fn from(e: SqlError) -> Self {
        Self::Db(e.into())
    }
}

/// Notes that this part of a known clip is to come. Returns whether it is stored already.
///
/// # Errors
/// It may not come, or not yet.
pub fn announce(tx: &Transaction<'_>, request: &GrantRequest, part: Part) -> Result<bool, PartError> {
    let erased: bool =
        tx.prepare_cached("SELECT erased_at IS NOT NULL FROM clips WHERE clip = ?1")?.query_row([&request.clip], |row| row.get(0))?;
    if erased {
        return Err(PartError::Over("it was erased"));
    }
    let known: Option<(String, u64, bool, bool)> = tx
        .prepare_cached("SELECT sha256, bytes, last, stored_at IS NOT NULL FROM parts WHERE clip = ?1 AND part = ?2")?
        .query_row(params![request.clip, part.index], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    match known {
        Some((sha256, bytes, last, stored)) if sha256 == request.sha256 && bytes == request.bytes && last == part.last => {
            return Ok(stored);
        }
        Some(_) => return Err(PartError::Changed),
        None => {}
    }
    if let Some(before) = part.index.checked_sub(1) {
        let last: Option<bool> = tx
            .prepare_cached("SELECT last FROM parts WHERE clip = ?1 AND part = ?2 AND stored_at IS NOT NULL")?
            .query_row(params![request.clip, before], |row| row.get(0))
            .optional()?;
        match last {
            None => return Err(PartError::Early(before)),
            Some(true) => return Err(PartError::Over("its last part is stored")),
            Some(false) => {}
        }
    }
    tx.execute(
        "INSERT INTO parts (clip, part, last, duration_ms, bytes, sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![request.clip, part.index, part.last, request.duration_ms, request.bytes, request.sha256],
    )?;
    // What the policy judges is the clip with this part.
    tx.execute("UPDATE clips SET duration_ms = (SELECT sum(duration_ms) FROM parts p WHERE p.clip = ?1) WHERE clip = ?1", [&request.clip])?;
    Ok(false)
}

/// Marks a part as stored, and the clip as being there: it plays from its first part on. False if the clip was erased
/// meanwhile: the rest of it is not wanted any more.
pub fn mark_stored(tx: &Transaction<'_>, clip: &str, part: u32) -> Result<bool, DbError> {
    let now = now_us();
    let there = "UPDATE clips SET stored_at = coalesce(stored_at, ?2) WHERE clip = ?1 AND erased_at IS NULL";
    if tx.execute(there, params![clip, now])? == 0 {
        return Ok(false);
    }
    tx.execute("UPDATE parts SET stored_at = ?3 WHERE clip = ?1 AND part = ?2", params![clip, part, now])?;
    tx.execute(
        "UPDATE clips SET (duration_ms, bytes) = (SELECT sum(duration_ms), sum(bytes) FROM parts p WHERE p.clip = ?1 AND p.stored_at IS NOT NULL)
         WHERE clip = ?1",
        [clip],
    )?;
    Ok(true)
}

/// The stored parts of a clip in their order, with their sizes; none of a clip that came whole.
pub fn stored(connection: &Connection, clip: &str) -> Result<Vec<(Piece, u64)>, DbError> {
    let mut statement =
        connection.prepare_cached("SELECT part, bytes FROM parts WHERE clip = ?1 AND stored_at IS NOT NULL ORDER BY part")?;
    let rows = statement.query_map([clip], |row| Ok((Piece { clip: clip.to_owned(), part: Some(row.get(0)?) }, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Everything that the store may hold of a clip.
pub fn pieces(connection: &Connection, clip: &str) -> Result<Vec<Piece>, DbError> {
    let mut statement = connection.prepare_cached("SELECT part FROM parts WHERE clip = ?1")?;
    let rows = statement.query_map([clip], |row| Ok(Piece { clip: clip.to_owned(), part: Some(row.get(0)?) }))?;
    let parts: Vec<Piece> = rows.collect::<Result<_, _>>()?;
    Ok(if parts.is_empty() { vec![Piece { clip: clip.to_owned(), part: None }] } else { parts })
}

/// In SQL, whether more of the clip `c.clip` is expected: its last part is not there, and one came after `?4`.
pub const BEING_FILMED: &str = "(EXISTS (SELECT 1 FROM parts p WHERE p.clip = c.clip AND p.stored_at > ?4)
    AND NOT EXISTS (SELECT 1 FROM parts p WHERE p.clip = c.clip AND p.last = 1 AND p.stored_at IS NOT NULL))";

/// The `?4` of [`BEING_FILMED`], microseconds since 1970.
pub fn filmed_since() -> i64 {
    now_us().saturating_sub(FILMED_US)
}
