//! The database: accounts, cameras, subscriptions, documents, the outbox, reports, clips, grants. Every change is one
//! immediate transaction, so that two processes on one file never issue the same `(epoch, seq)`, and what belongs together
//! (a document, its outbox row, the grants it revokes) is there together or not at all.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
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
    /// A newer program wrote it.
    #[error("the database is of version {found}, this care-cloud knows {known}: start a newer one, or another --data")]
    Newer {
        /// Its version.
        found: usize,
        /// The newest one known here.
        known: usize,
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

/// The steps from one version of the database to the next; `user_version` counts those that are done. A step that was
/// released is never changed. The first one was made without counting: it may have been done at 0 too.
const STEPS: [&str; 6] = [FIRST, MONEY_AND_RETENTION, PEOPLE_AND_PAYMENTS, SESSIONS, CLICKS, RESETS_AND_PAYOUTS];

const SESSIONS: &str = "
CREATE TABLE sessions (
    secret_hash TEXT PRIMARY KEY,               -- base64url of SHA-256
    account     TEXT REFERENCES accounts,       -- NULL: an engineer
    login       TEXT NOT NULL,
    opened_at   INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL
) STRICT;
";

const CLICKS: &str = "
CREATE TABLE clicks (
    document    INTEGER PRIMARY KEY REFERENCES documents,
    at          INTEGER NOT NULL                -- microseconds; the request that caused it arrived
) STRICT;
";

/// A camera may say that it was reset; credit that nothing will take is paid out, from the orders that gave it; what grows old is
/// found by its age.
const RESETS_AND_PAYOUTS: &str = "
ALTER TABLE cameras ADD COLUMN reset_at INTEGER;    -- microseconds; it reported a factory reset under its present epoch

CREATE TABLE payouts (
    id           INTEGER PRIMARY KEY,
    order_id     TEXT NOT NULL REFERENCES orders,
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    at           INTEGER NOT NULL
) STRICT;
CREATE INDEX payouts_order ON payouts (order_id);
DROP VIEW credits;
CREATE VIEW credits AS SELECT account, currency, sum(minor) AS minor FROM (
    SELECT o.account, o.currency,
           CASE l.kind WHEN 'credit' THEN l.amount_minor WHEN 'credit_used' THEN -l.amount_minor ELSE 0 END AS minor
    FROM orders o JOIN ledger l ON l.order_id = o.order_id
    UNION ALL
    SELECT o.account, o.currency, -p.amount_minor FROM orders o JOIN payouts p ON p.order_id = o.order_id
) GROUP BY account, currency;
CREATE TRIGGER payouts_are_not_changed BEFORE UPDATE ON payouts BEGIN SELECT RAISE(ABORT, 'payouts are only added to'); END;
CREATE TRIGGER payouts_are_not_erased BEFORE DELETE ON payouts BEGIN SELECT RAISE(ABORT, 'payouts are only added to'); END;
CREATE TRIGGER payout_credit_is_there AFTER INSERT ON payouts
    WHEN EXISTS (SELECT 1 FROM credits c JOIN orders o USING (account, currency) WHERE o.order_id = NEW.order_id AND c.minor < 0)
      OR (SELECT sum(amount_minor) FROM payouts WHERE order_id = NEW.order_id)
         > (SELECT coalesce(sum(amount_minor), 0) FROM ledger WHERE order_id = NEW.order_id AND kind = 'credit')
    BEGIN SELECT RAISE(ABORT, 'the account has not so much credit'); END;

CREATE INDEX reports_received ON reports (received_at);
CREATE INDEX grants_granted ON grants (granted_at);
CREATE INDEX grants_clip ON grants (clip);
";

const FIRST: &str = "
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
    state       TEXT NOT NULL                   -- active, ending (until due_at), grace (until due_at), hold, ended
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

/// Orders get a book of their own, filled with what was sold and given back before; clips remember that their object is
/// gone, not only that it is to go.
const MONEY_AND_RETENTION: &str = "
CREATE TABLE orders (
    order_id     TEXT PRIMARY KEY,
    account      TEXT NOT NULL REFERENCES accounts,
    plan         TEXT NOT NULL,
    device       TEXT REFERENCES cameras,       -- NULL: the whole account
    channel      TEXT NOT NULL,
    cycle        TEXT NOT NULL,
    zone         TEXT NOT NULL,                 -- IANA; the days of the period are its days
    price_minor  INTEGER NOT NULL CHECK (price_minor >= 0),
    currency     TEXT NOT NULL,
    period_start INTEGER NOT NULL,
    period_end   INTEGER NOT NULL
) STRICT;
CREATE TABLE ledger (
    id           INTEGER PRIMARY KEY,
    order_id     TEXT NOT NULL REFERENCES orders,
    kind         TEXT NOT NULL CHECK (kind IN ('payment', 'credit_used', 'used', 'refund', 'credit')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
    at           INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_order ON ledger (order_id);
CREATE INDEX orders_account ON orders (account);
CREATE VIEW credits AS
    SELECT o.account, o.currency,
           sum(CASE l.kind WHEN 'credit' THEN l.amount_minor WHEN 'credit_used' THEN -l.amount_minor ELSE 0 END) AS minor
    FROM orders o JOIN ledger l ON l.order_id = o.order_id GROUP BY o.account, o.currency;

INSERT INTO orders SELECT order_id, account, plan, device, channel, cycle, 'UTC', paid_minor, currency, started_at, period_end
    FROM subscriptions ORDER BY started_at, rowid;
INSERT INTO ledger (order_id, kind, amount_minor, at) SELECT order_id, 'payment', paid_minor, started_at
    FROM subscriptions ORDER BY started_at, rowid;
INSERT INTO ledger (order_id, kind, amount_minor, at) SELECT order_id, kind, amount_minor, at FROM refunds ORDER BY rowid;
INSERT INTO ledger (order_id, kind, amount_minor, at)
    SELECT s.order_id, 'used', s.paid_minor - coalesce((SELECT sum(amount_minor) FROM refunds r WHERE r.order_id = s.order_id), 0),
           coalesce((SELECT max(at) FROM refunds r WHERE r.order_id = s.order_id), s.period_end)
    FROM subscriptions s WHERE s.state = 'ended';
DROP TABLE refunds;

CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER ledger_is_not_erased BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER ledger_order_gives_what_it_has AFTER INSERT ON ledger
    WHEN (SELECT sum(CASE WHEN kind IN ('payment', 'credit_used') THEN amount_minor ELSE -amount_minor END)
          FROM ledger WHERE order_id = NEW.order_id) < 0
    BEGIN SELECT RAISE(ABORT, 'more would go out of the order than was paid'); END;
CREATE TRIGGER ledger_credit_is_there AFTER INSERT ON ledger WHEN NEW.kind = 'credit_used' AND EXISTS
        (SELECT 1 FROM credits c JOIN orders o USING (account, currency) WHERE o.order_id = NEW.order_id AND c.minor < 0)
    BEGIN SELECT RAISE(ABORT, 'the account has not so much credit'); END;

-- Periods are reckoned from the anchor: periods of them are billed. What runs already was billed until its period's end.
ALTER TABLE subscriptions ADD COLUMN zone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE subscriptions ADD COLUMN anchor_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscriptions ADD COLUMN periods INTEGER NOT NULL DEFAULT 0;
UPDATE subscriptions SET anchor_at = period_end;

ALTER TABLE clips ADD COLUMN gone_at INTEGER;   -- microseconds; a listing of the store no longer has its object
CREATE INDEX clips_kept ON clips (device, started_ms) WHERE stored_at IS NOT NULL AND erased_at IS NULL;
CREATE INDEX clips_to_go ON clips (device) WHERE erased_at IS NOT NULL AND gone_at IS NULL;
";

/// People sign in to accounts; a subscription may be the account's one trial, and its bill may fail.
const PEOPLE_AND_PAYMENTS: &str = "
ALTER TABLE accounts ADD COLUMN login TEXT;                             -- the TP-Link ID, in small letters
ALTER TABLE accounts ADD COLUMN password TEXT;                          -- its hash
ALTER TABLE accounts ADD COLUMN trial_at INTEGER;                       -- when the one trial began
ALTER TABLE accounts ADD COLUMN declines INTEGER NOT NULL DEFAULT 0;    -- 1: its card is declined
CREATE UNIQUE INDEX accounts_login ON accounts (login);
ALTER TABLE subscriptions ADD COLUMN trial INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscriptions ADD COLUMN due_at INTEGER NOT NULL DEFAULT 0; -- when something is to be done next: bill, end, hold
UPDATE subscriptions SET due_at = period_end;
CREATE INDEX subscriptions_due ON subscriptions (due_at) WHERE state != 'ended';
";

impl Db {
    /// Opens or makes the database.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // A commit is on disk before anything is published.
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", "on")?;
        bring_up_to_date(&mut connection)?;
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

fn bring_up_to_date(connection: &mut Connection) -> Result<(), DbError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > STEPS.len() {
        return Err(DbError::Newer { found, known: STEPS.len() });
    }
    for step in &STEPS[found..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len())?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::domain::money::ledger::{Balance, balance, credit};

    #[test]
    fn a_database_from_before_the_ledger_keeps_its_money_and_its_subscriptions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("care.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(FIRST).unwrap();
        old.execute_batch(
            "INSERT INTO accounts VALUES ('a', 1);
             INSERT INTO subscriptions VALUES ('KC-2026-000001', 'a', 'premium', NULL, 'portal', 'monthly', 999, 'USD', 100, 200, 'ended'),
                 ('KC-2026-000002', 'a', 'premium', NULL, 'portal', 'monthly', 999, 'USD', 150, 250, 'active');
             INSERT INTO refunds VALUES ('KC-2026-000001', 'credit', 400, 'USD', 150);",
        )
        .unwrap();
        drop(old);
        for _ in 0..2 {
            let db = Db::open(&path).unwrap();
            let (ended, running) = db.read(|c| Ok((balance(c, "KC-2026-000001")?, balance(c, "KC-2026-000002")?))).unwrap();
            assert_eq!(ended, Balance { paid: 999, used: 599, credited: 400, ..Balance::default() });
            assert_eq!((running.paid, running.held()), (999, 999));
            assert_eq!(db.read(|c| credit(c, "a", "USD")).unwrap(), 400);
        }
    }

    #[test]
    fn a_database_of_a_newer_care_cloud_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("care.db");
        drop(Db::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Db::open(&path), Err(DbError::Newer { found: 99, .. })));
    }

    #[test]
    fn the_ledger_itself_refuses_what_does_not_balance() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("care.db")).unwrap();
        let run = |sql: &str| db.read(|c| Ok(c.execute_batch(sql)?));
        run("INSERT INTO accounts (id, created_at) VALUES ('a', 1);
             INSERT INTO orders VALUES ('O', 'a', 'premium', NULL, 'portal', 'monthly', 'UTC', 999, 'USD', 1, 2);
             INSERT INTO ledger (order_id, kind, amount_minor, at) VALUES ('O', 'payment', 999, 1), ('O', 'credit', 900, 1);")
        .unwrap();
        for wrong in [
            "INSERT INTO ledger (order_id, kind, amount_minor, at) VALUES ('O', 'refund', 100, 1)",
            "INSERT INTO ledger (order_id, kind, amount_minor, at) VALUES ('O', 'credit_used', 901, 1)",
            "INSERT INTO ledger (order_id, kind, amount_minor, at) VALUES ('O', 'refund', -1, 1)",
            "UPDATE ledger SET amount_minor = 1",
            "DELETE FROM ledger",
            "INSERT INTO payouts (order_id, amount_minor, at) VALUES ('O', 901, 1)",
            "INSERT INTO payouts (order_id, amount_minor, at) VALUES ('O', 0, 1)",
        ] {
            assert!(run(wrong).is_err(), "{wrong}");
        }
        run("INSERT INTO ledger (order_id, kind, amount_minor, at) VALUES ('O', 'refund', 99, 1)").unwrap();
        run("INSERT INTO payouts (order_id, amount_minor, at) VALUES ('O', 900, 1)").unwrap();
        for wrong in
            ["INSERT INTO payouts (order_id, amount_minor, at) VALUES ('O', 1, 1)", "UPDATE payouts SET at = 2", "DELETE FROM payouts"]
        {
            assert!(run(wrong).is_err(), "{wrong}");
        }
    }
}
