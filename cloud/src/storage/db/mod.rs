//! The database: accounts, cameras, subscriptions, documents, outbox, reports, clips, grants. Every change is one
//! transaction, and only one writes of an account at a time, so that two processes on one database never issue the same
//! `(epoch, seq)`, and a document is never there without its outbox row and the revocation of grants. It is a file of
//! SQLite's, or a PostgreSQL that several machines share; what runs statements does not see which.

mod connection;
mod postgres;
mod schema;
mod scope;
mod shared_schema;
mod sql;
mod tls;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::sync::oneshot;

use self::schema::STEPS;
pub use self::{
    connection::{Connection, Statement, Transaction},
    postgres::{Address, BadAddress},
    scope::Scope,
    sql::{Column, FromSql, OptionalExtension, Params, Row, SqlError, ToSql, Value},
};
pub use crate::params;

/// What can go wrong with the database.
#[derive(Debug, Error)]
pub enum DbError {
    /// A statement.
    #[error("the database: {0}")]
    Sql(#[from] SqlError),
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
    /// The commit of a group failed; nothing of it was written, unless the connection to a shared database was lost meanwhile.
    #[error("the database did not commit: {0}")]
    NotCommitted(String),
    /// The program is shutting down.
    #[error("the database thread has ended")]
    Gone,
}

/// Statements that stay prepared: more than there are.
const PREPARED: usize = 256;
/// Transactions that share one commit, at most.
const GROUP: usize = 64;

/// The database, shared.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
    waiting: Arc<Mutex<VecDeque<Box<dyn Job>>>>,
    /// Where further connections go; `None`: the embedded database, which has one.
    shared: Option<Address>,
}

/// A transaction that waits for its turn.
trait Job: Send {
    /// What it may write.
    fn scope(&self) -> &Scope;
    /// Runs it within the group's transaction. Returns whether its writes are to be kept.
    fn run(&mut self, tx: &Transaction<'_>) -> bool;
    /// Tells whoever asked, after the commit of the group, or its failure.
    fn tell(self: Box<Self>, committed: Result<(), DbError>);
}

struct Asked<F, T, E> {
    scope: Scope,
    work: Option<F>,
    done: Option<Result<T, E>>,
    asker: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Job for Asked<F, T, E>
where
    F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<DbError> + Send,
{
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn run(&mut self, tx: &Transaction<'_>) -> bool {
        self.done = self.work.take().map(|work| work(tx));
        matches!(self.done, Some(Ok(_)))
    }

    fn tell(self: Box<Self>, committed: Result<(), DbError>) {
        let answer = match committed {
            Ok(()) => self.done.unwrap_or_else(|| Err(DbError::Gone.into())),
            Err(e) => Err(e.into()),
        };
        // Whoever asked may have given up.
        drop(self.asker.send(answer));
    }
}

impl Db {
    /// Opens or makes the database.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let mut connection = Connection::from(open_sqlite(path).map_err(SqlError::from)?);
        bring_up_to_date(&mut connection)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), waiting: Arc::default(), shared: None })
    }

    /// Connects to a PostgreSQL, which other processes use too. What is missing of the schema is made.
    pub fn connect(address: &Address) -> Result<Self, DbError> {
        let mut connection = Connection::to_postgres(address)?;
        bring_shared_up_to_date(&mut connection)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), waiting: Arc::default(), shared: Some(address.clone()) })
    }

    /// Another connection to a shared database, which ends when it is lost; `None` if the database is embedded.
    pub(super) fn another(&self) -> Result<Option<Connection>, DbError> {
        Ok(self.shared.as_ref().map(Connection::to_postgres_once).transpose()?)
    }

    /// Runs one immediate transaction, which may write anything; it is rolled back if `work` fails.
    pub fn transact<T, E: From<DbError>>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        self.transact_in(&Scope::Everything, work)
    }

    /// The same, for one that writes no more than this.
    pub fn transact_in<T, E: From<DbError>>(&self, scope: &Scope, work: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.begin(scope).map_err(DbError::from)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(DbError::from)?;
        Ok(done)
    }

    /// Reads, without a transaction.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, DbError>) -> Result<T, DbError> {
        work(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// [`Db::transact_async_in`], for one that may write anything.
    pub async fn transact_async<T, E>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        self.transact_async_in(Scope::Everything, work).await
    }

    /// [`Db::transact_in`] off the async threads. Those that wait for the database at the same time run one after another
    /// in one transaction and share its commit, which costs more than most of them: a write to the disk. A failure rolls
    /// back its own work alone; if the commit fails, all of them fail.
    pub async fn transact_async_in<T, E>(
        &self,
        scope: Scope,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let (asker, answer) = oneshot::channel();
        let job = Box::new(Asked { scope, work: Some(work), done: None, asker });
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
        let db = self.clone();
        // Runs it, unless another group takes it along first.
        tokio::task::spawn_blocking(move || db.run_group());
        answer.await.map_err(|_| E::from(DbError::Gone))?
    }

    fn run_group(&self) {
        loop {
            let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let size = waiting.len().min(GROUP);
            let mut jobs: Vec<Box<dyn Job>> = waiting.drain(..size).collect();
            drop(waiting);
            if jobs.is_empty() {
                return;
            }
            let failure = run_jobs(&mut connection, &mut jobs).err().map(|e| e.to_string());
            drop(connection);
            for job in jobs {
                job.tell(failure.clone().map_or(Ok(()), |why| Err(DbError::NotCommitted(why))));
            }
        }
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

/// Runs the jobs in one transaction, each in a savepoint of its own.
fn run_jobs(connection: &mut Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), DbError> {
    // All locks at once: one that waits while it holds another's could wait for ever.
    let scope = jobs.iter().map(|job| job.scope()).fold(Scope::cameras::<String>([]), Scope::and);
    let tx = connection.begin(&scope)?;
    for job in jobs {
        in_savepoint(&tx, |tx| job.run(tx))?;
    }
    Ok(tx.commit()?)
}

/// Runs a part of a transaction, whose writes are undone if it returns `false`.
pub fn in_savepoint(tx: &Transaction<'_>, work: impl FnOnce(&Transaction<'_>) -> bool) -> Result<(), DbError> {
    tx.prepare_cached("SAVEPOINT part")?.execute([])?;
    if !work(tx) {
        tx.prepare_cached("ROLLBACK TO part")?.execute([])?;
    }
    tx.prepare_cached("RELEASE part")?.execute([])?;
    Ok(())
}

fn open_sqlite(path: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A commit is on disk before anything is published.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", "on")?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(connection)
}

fn bring_up_to_date(connection: &mut Connection) -> Result<(), DbError> {
    let transaction = connection.begin(&Scope::Everything)?;
    let found: usize = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > STEPS.len() {
        return Err(DbError::Newer { found, known: STEPS.len() });
    }
    for step in &STEPS[found..] {
        transaction.execute_batch(step)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {}", STEPS.len()))?;
    Ok(transaction.commit()?)
}

fn bring_shared_up_to_date(connection: &mut Connection) -> Result<(), DbError> {
    let transaction = connection.begin(&Scope::Everything)?;
    transaction.execute_batch("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")?;
    let found: Option<usize> = transaction.query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))?;
    let (found, known) = (found.unwrap_or(0), shared_schema::STEPS.len());
    if found > known {
        return Err(DbError::Newer { found, known });
    }
    for (step, version) in shared_schema::STEPS.iter().zip(1..).skip(found) {
        transaction.execute_batch(step)?;
        transaction.execute("INSERT INTO schema_version (version) VALUES (?1)", params![version])?;
    }
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
        let old = rusqlite::Connection::open(&path).unwrap();
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
        rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Db::open(&path), Err(DbError::Newer { found: 99, .. })));
    }

    #[tokio::test]
    async fn of_transactions_that_wait_together_each_fails_alone() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("care.db")).unwrap();
        let ids =
            || db.read(|c| Ok(c.prepare("SELECT id FROM accounts")?.query_map([], |r| r.get(0))?.collect::<Result<Vec<String>, _>>()?));
        // Held, so that all of them wait.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let holder = std::thread::spawn({
            let db = db.clone();
            move || db.read(|_| Ok(held.recv().is_ok())).unwrap()
        });
        while db.connection.try_lock().is_ok() {
            std::thread::yield_now();
        }
        let asked: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|id| {
                let db = db.clone();
                tokio::spawn(async move {
                    let insert = move |tx: &Transaction<'_>| -> Result<(), DbError> {
                        tx.execute("INSERT INTO accounts (id, created_at) VALUES (?1, 1)", [id])?;
                        // The second fails after it has written.
                        if id == "b" { Err(DbError::Gone) } else { Ok(()) }
                    };
                    db.transact_async(insert).await
                })
            })
            .collect();
        while db.waiting.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        assert!(holder.join().unwrap());
        let mut done = Vec::new();
        for asked in asked {
            done.push(asked.await.unwrap().is_ok());
        }
        assert_eq!((done, ids().unwrap()), (vec![true, false, true], vec!["a".to_owned(), "c".to_owned()]));
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
