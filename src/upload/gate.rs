//! The one place that says whether media bytes may leave. The engine opens it and cuts; media asks it before a clip is
//! recorded; transfers hold its generation and stop when it differs. It waits for nobody: no lock here is ever held over
//! anything slow, so a cut takes microseconds whatever the uploads' thread is doing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use care_protocol::{Erased, Policy, Position};
use tokio::sync::Notify;

use super::{socket::Sockets, spool::Spool};
use crate::{
    clock::Clock,
    engine::{Admission, CutFigures, Generation},
};

/// What may leave, and what has been recorded for it.
#[derive(Debug)]
pub struct Gate {
    pub(super) sockets: Arc<Sockets>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) clock: Clock,
}

impl Gate {
    pub(super) fn new(spool_bytes: u64, clock: Clock) -> Self {
        let shelf = Shelf { spool: Mutex::new(Spool::new(spool_bytes)), wake: Notify::new() };
        Self { sockets: Arc::default(), shelf: Arc::new(shelf), clock }
    }

    /// The generation that stands.
    pub fn generation(&self) -> Generation {
        self.sockets.generation()
    }

    /// Closes the gate and aborts every transfer in the middle of a packet; nothing leaves until [`Gate::open`].
    ///
    /// Then every clip (being recorded, waiting, in flight) is judged against `keep`, oldest first, for the document at
    /// that position: what it allows waits under the new generation, the rest is erased. With `None` nothing is erased.
    /// For the control thread; takes microseconds.
    pub fn cut(&self, keep: Option<(Policy, Position)>) -> CutFigures {
        let generation = self.sockets.advance();
        // No socket opens from here on, and the spool gives out clips only under the generation before.
        let bytes_after = self.sockets.abort();
        // Nothing more leaves from here on: the kernel has forgotten every connection.
        let mut spool = self.shelf.lock();
        let transfers = spool.recall(self.sockets.generation());
        let doomed = keep.map(|(policy, position)| spool.keep(policy, position, self.clock.now())).unwrap_or_default();
        drop(spool);
        self.shelf.wake.notify_one();
        CutFigures { generation, transfers, bytes_after, doomed }
    }

    /// Lets out what `admission` allows, under the generation that stands; no transfer is disturbed. What takes something
    /// away is a [`Gate::cut`] first.
    pub fn open(&self, admission: Admission) {
        self.shelf.lock().admit(admission);
        self.shelf.wake.notify_one();
    }

    /// Lets clips whose grant was refused (402, 403) be tried again now.
    pub fn retry_refused(&self) {
        self.shelf.lock().retry_refused();
        self.shelf.wake.notify_one();
    }

    /// Cuts and erases everything, whatever a policy says: for a factory reset or a change of account.
    pub fn erase_all(&self) -> Erased {
        self.cut(Some((Policy::CLOSED, Position::NONE))).doomed
    }
}

/// The spool under its lock, and how the uploads' thread hears of a change.
#[derive(Debug)]
pub(super) struct Shelf {
    spool: Mutex<Spool>,
    pub(super) wake: Notify,
}

impl Shelf {
    pub(super) fn lock(&self) -> MutexGuard<'_, Spool> {
        // Every change leaves a whole spool behind, so a panic elsewhere does not spoil it.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
