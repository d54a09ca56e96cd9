//! The database: accounts, cameras, subscriptions, documents, the outbox, reports, clips, grants. Every change is one
//! immediate transaction, so that two processes on one file never issue the same `(epoch, seq)`, and what belongs together
//! (a document, its outbox row, the grants it revokes) is there together or not at all.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use thiserror::Error;

/// What can go wrong with the database.
#[derive(Debug, Error)]
pub enum DbError {
    /// SQLite.
    #[error("the database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A row that this program did not write.
    #[error("the database holds something unreadable in {what}: {why}")]
    Damaged {
        /// Where.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The program is shutting down.
    #[error("the database thread is gone")]
    Gone,
}

/// The database, shared.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS accounts (
    id          TEXT PRIMARY KEY,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS cameras (
    device      TEXT PRIMARY KEY,
    model       TEXT NOT NULL,
    account     TEXT NOT NULL REFERENCES accounts,
    bound       INTEGER NOT NULL,               -- 0: the account is the last one it had
    bound_at    INTEGER NOT NULL,               -- seats are given in this order
    epoch       INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    status      TEXT NOT NULL DEFAULT 'unknown',
    status_at   INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS subscriptions (
    order_id    TEXT PRIMARY KEY,
    account     TEXT NOT NULL REFERENCES accounts,
    plan        TEXT NOT NULL,
    device      TEXT REFERENCES cameras,        -- NULL: the whole account
    channel     TEXT NOT NULL,
    cycle       TEXT NOT NULL,
    paid_minor  INTEGER NOT NULL,
    currency    TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    period_end  INTEGER NOT NULL,
    state       TEXT NOT NULL                   -- active, ending (until period_end), ended
) STRICT;
CREATE TABLE IF NOT EXISTS refunds (
    order_id    TEXT NOT NULL REFERENCES subscriptions,
    kind        TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency    TEXT NOT NULL,
    at          INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS documents (
    id          INTEGER PRIMARY KEY,
    device      TEXT NOT NULL REFERENCES cameras,
    epoch       INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    token       TEXT NOT NULL,
    body        TEXT NOT NULL,                  -- the entitlement as JSON
    reported_at INTEGER,                        -- microseconds; the camera has said what it made of it
    report      TEXT,
    UNIQUE (device, epoch, seq)
) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    document    INTEGER PRIMARY KEY REFERENCES documents,
    device      TEXT NOT NULL,
    due         INTEGER NOT NULL,               -- 1: to be published
    issued_at   INTEGER NOT NULL,               -- microseconds, as the following
    published_at INTEGER,
    acked_at    INTEGER,
    tries       INTEGER NOT NULL DEFAULT 0,
    chase_at    INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due) WHERE due = 1;
CREATE TABLE IF NOT EXISTS reports (
    id          INTEGER PRIMARY KEY,
    device      TEXT NOT NULL,
    received_at INTEGER NOT NULL,               -- microseconds
    body        TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS reports_device ON reports (device, id);
CREATE TABLE IF NOT EXISTS clips (
    clip        TEXT PRIMARY KEY,
    device      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    started_ms  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    stored_at   INTEGER,                        -- microseconds
    erased_at   INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS grants (
    id          TEXT PRIMARY KEY,
    clip        TEXT NOT NULL REFERENCES clips,
    device      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,               -- the document it was given under
    seq         INTEGER NOT NULL,
    granted_at  INTEGER NOT NULL,
    state       TEXT NOT NULL                   -- open, used, revoked
) STRICT;
CREATE INDEX IF NOT EXISTS grants_open ON grants (device) WHERE state = 'open';
";

impl Db {
    /// Opens or makes the database.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // A commit is on disk before anything is published.
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", "on")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs one immediate transaction; it is rolled back if `work` fails.
    pub fn transact<T, E: From<DbError>>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(DbError::from)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(DbError::from)?;
        Ok(done)
    }

    /// Reads, without a transaction.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, DbError>) -> Result<T, DbError> {
        work(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// [`Db::transact`] off the async threads.
    pub async fn transact_async<T, E>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let db = self.clone();
        tokio::task::spawn_blocking(move || db.transact(work)).await.map_err(|_| E::from(DbError::Gone))?
    }

    /// [`Db::read`] off the async threads.
    pub async fn read_async<T>(&self, work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static) -> Result<T, DbError>
    where
        T: Send + 'static,
    {
        let db = self.clone();
        tokio::task::spawn_blocking(move || db.read(work)).await.map_err(|_| DbError::Gone)?
    }
}

/// The system clock in microseconds since 1970. The cloud's clock is right: cameras confirm theirs against it.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The system clock in seconds since 1970.
pub fn now_s() -> u64 {
    u64::try_from(now_us() / 1_000_000).unwrap_or(0)
}
