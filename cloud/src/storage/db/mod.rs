//! The database: accounts, cameras, subscriptions, documents, outbox, reports, clips, grants. Every change is one
//! immediate transaction, so that two processes on one file never issue the same `(epoch, seq)`, and a document is
//! never there without its outbox row and the revocation of grants.

mod schema;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use thiserror::Error;

use self::schema::STEPS;

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
    #[error("the database thread has ended")]
    Gone,
}

/// The database, shared.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
}

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
    use super::{schema::FIRST, *};
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
