//! Who takes what from the outbox. The embedded database has one publisher, which reads what is due. Processes on one
//! PostgreSQL share the publishing: each claims documents, and a camera's next document is only claimed by another once
//! the one before it is at the broker. So no camera is told twice, or out of order, by two of them.
//!
//! A publisher is a connection that holds the advisory lock of its number. The server releases it when the process dies,
//! and the others then take over what it had claimed: no clock, and no time to wait for.

use std::sync::{Arc, Mutex, PoisonError};

use crate::storage::{
    db::{Connection, Db, DbError, Transaction, params},
    outbox::{self, Due},
};

/// The first half of every publisher's advisory lock; the second is its number.
const LOCKS: i64 = 1_667_330_662;

/// Takes documents from the outbox. What it has claimed is free again when it is dropped.
#[derive(Clone)]
pub struct Publisher {
    db: Db,
    shared: Option<Arc<Mutex<Shared>>>,
}

struct Shared {
    connection: Connection,
    number: i64,
}

impl Publisher {
    /// A publisher on this database. It may wait for a connection.
    pub async fn open(db: &Db) -> Result<Self, DbError> {
        let db = db.clone();
        let open = move || -> Result<Self, DbError> {
            let shared = match db.another()? {
                Some(connection) => {
                    let number = connection.query_row("SELECT nextval('publisher_numbers')", [], |row| row.get(0))?;
                    // Nobody else has that number.
                    let lock = "SELECT pg_try_advisory_lock(CAST(?1 AS INTEGER), CAST(?2 AS INTEGER))";
                    connection.query_row(lock, params![LOCKS, number], |row| row.get::<_, bool>(0))?;
                    Some(Arc::new(Mutex::new(Shared { connection, number })))
                }
                None => None,
            };
            Ok(Self { db, shared })
        };
        tokio::task::spawn_blocking(open).await.map_err(|_| DbError::Gone)?
    }

    /// Whether other processes may publish, too.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Documents to publish, oldest first, at most `limit`. A publisher alone gets what is due behind the document `after`
    /// (0: from the first); one of several gets what it has not got before, whatever `after` is.
    pub async fn take(&self, after: i64, limit: usize) -> Result<Vec<Due>, DbError> {
        let Some(shared) = self.shared.clone() else {
            return self.db.read_async(move |connection| outbox::due(connection, after, limit)).await;
        };
        let claim = move || shared.lock().unwrap_or_else(PoisonError::into_inner).claim(limit);
        tokio::task::spawn_blocking(claim).await.map_err(|_| DbError::Gone)?
    }

    /// Makes what needs it due again at a broker that has no session of this client: it may have lost its retained
    /// messages, too. Not if this client joins others: it never had a session.
    pub async fn found_no_session(&self, client: &str) -> Result<(), DbError> {
        let client = client.to_owned();
        let shared = self.is_shared();
        let work = move |tx: &Transaction<'_>| -> Result<(), DbError> {
            if shared {
                let first: bool = tx.query_row("SELECT NOT EXISTS (SELECT 1 FROM publishers)", [], |row| row.get(0))?;
                let joins = tx.execute("INSERT INTO publishers (client) VALUES (?1) ON CONFLICT DO NOTHING", [client])? > 0;
                if joins && !first {
                    return Ok(());
                }
            }
            outbox::all_due_again(tx).map(drop)
        };
        self.db.transact_async(work).await
    }
}

impl Shared {
    fn claim(&self, limit: usize) -> Result<Vec<Due>, DbError> {
        let claimed = self.claim_free(limit)?;
        // Looked for when there is nothing else to do.
        if claimed.is_empty() && self.free_those_of_the_dead()? { self.claim_free(limit) } else { Ok(claimed) }
    }

    fn claim_free(&self, limit: usize) -> Result<Vec<Due>, DbError> {
        let mut all = outbox::read_due(&self.connection, CLAIM, params![self.number, limit])?;
        // An update gives its rows in any order.
        all.sort_by_key(|due| due.document);
        Ok(all)
    }

    /// Frees what a publisher had claimed whose lock is gone: its process has died, or has lost its connection and stops
    /// publishing. Returns whether there was any.
    fn free_those_of_the_dead(&self) -> Result<bool, DbError> {
        let dead: Vec<i64> =
            self.connection.prepare_cached(DEAD)?.query_map(params![self.number, LOCKS], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut freed = 0;
        for number in dead {
            // A number is never given again: it stays dead.
            freed += self.connection.prepare_cached(FREE)?.execute([number])?;
            tracing::info!(publisher = number, "has died; others publish what it had claimed");
        }
        Ok(freed > 0)
    }
}

// Only rows that nobody else holds: a publisher waits for no writer, and no other publisher. Of two documents of one
// camera that are due, another publisher's, or nobody's, goes first.
const CLAIM: &str = "
    WITH free AS (
        SELECT o.document FROM outbox o WHERE o.due = 1 AND o.claimed_by IS NULL
          AND NOT EXISTS (SELECT 1 FROM outbox n WHERE n.device = o.device AND n.document > o.document AND n.acked_at IS NOT NULL)
          AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.device = o.device AND e.document < o.document AND e.due = 1
                AND e.claimed_by IS DISTINCT FROM ?1 AND NOT EXISTS
                (SELECT 1 FROM outbox n WHERE n.device = e.device AND n.document > e.document AND n.acked_at IS NOT NULL))
        ORDER BY o.document LIMIT ?2 FOR UPDATE OF o SKIP LOCKED)
    UPDATE outbox SET claimed_by = ?1 FROM free JOIN documents d ON d.id = free.document WHERE outbox.document = free.document
    RETURNING d.id, d.device, d.epoch, d.seq, d.token";
const DEAD: &str = "
    SELECT DISTINCT o.claimed_by FROM outbox o WHERE o.due = 1 AND o.claimed_by IS NOT NULL AND o.claimed_by != ?1
      AND NOT EXISTS (SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
                      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND CAST(l.classid AS BIGINT) = ?2 AND CAST(l.objid AS BIGINT) = o.claimed_by)";
const FREE: &str = "
    UPDATE outbox SET claimed_by = NULL WHERE claimed_by = ?1 AND due = 1 AND document IN
        (SELECT document FROM outbox WHERE claimed_by = ?1 AND due = 1 FOR UPDATE SKIP LOCKED)";
