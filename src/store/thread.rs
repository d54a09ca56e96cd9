//! The store's thread: a sync can take seconds on worn flash, and a cut never waits for it. It holds at most two
//! records: one that waits and one that failed.
//!
//! Records that arrive while one is being written replace each other, so documents that arrive together cost one
//! write. A write that fails is reported at once and then tried again until it succeeds or a newer record takes its
//! place.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use care_engine::durable::filesystem::Filesystem;
use care_engine::durable::slots::{Slots, WriteFault};
use care_engine::token_bucket::TokenBucket;
use portable_atomic::AtomicU64;

use super::StoreError;
use crate::backoff::{Backoff, Delays, Jitter};

/// How long the store waits before it tries a failed write again.
const RETRY: Delays = Delays::new(Duration::from_millis(200), Duration::from_secs(30), Jitter::None);

/// How many writes may follow each other at once, before [`WRITE_EVERY`] spaces them.
const WRITE_BURST: u32 = 10;
/// The spacing of writes during a burst of documents. A flash that syncs in a tenth of a millisecond would otherwise
/// get a write for nearly every document.
const WRITE_EVERY: Duration = Duration::from_millis(25);

/// The result for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The record of this ticket, or a newer one than that of any ticket before it, is durable.
    Done {
        /// The newest ticket that is covered; all earlier ones are covered too.
        ticket: u64,
    },
    /// This record is not durable yet. Reported once for a ticket; the store keeps trying by itself.
    Failed {
        /// The ticket of the failed write.
        ticket: u64,
        /// The attempted operation and its error.
        why: String,
    },
}

/// The running store. Dropped without [`stop`](Self::stop), it still tries once to write the waiting record.
#[derive(Debug)]
pub struct StoreThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    writes: Arc<AtomicU64>,
}

/// The caller's input for the thread: one record at most.
#[derive(Debug, Default)]
struct Desk {
    waiting: Option<Order>,
    /// Whether the next record is to be the only one in the file.
    only: bool,
    stop_by: Option<Instant>,
    /// Set as the thread ends: whether nothing was left unwritten.
    ended: Option<bool>,
}

#[derive(Debug)]
struct Order {
    ticket: u64,
    record: Vec<u8>,
}

impl StoreThread {
    pub(super) fn start<F: Filesystem>(
        slots: Slots<F>,
        explain: impl Fn(&Slots<F>, &[u8], WriteFault) -> StoreError + Send + 'static,
        done: impl Fn(Written) + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared { desk: Mutex::default(), changed: Condvar::new(), writes: slots.writes() });
        let theirs = Arc::clone(&shared);
        let worker = move || {
            let mut end = End { shared: &theirs, clean: false };
            end.clean = Worker::new(&theirs, slots, explain, done).run();
        };
        let thread = crate::threads::named("store").spawn(worker);
        match thread {
            Ok(thread) => Self { shared, thread: Some(thread) },
            // As `std::thread::spawn` does: an agent that cannot start a thread cannot run.
            Err(why) => panic!("cannot start the store's thread: {why}"),
        }
    }

    /// Queues a record to be made durable; the `done` callback receives the result. Never blocks for long. Tickets
    /// rise; a newer record replaces one that still waits, and its result covers both.
    pub fn write(&self, ticket: u64, record: Vec<u8>) {
        self.shared.lock().waiting = Some(Order { ticket, record });
        self.shared.changed.notify_all();
    }

    /// The same, and leaves no byte of an earlier record in the file, because that belongs to another owner.
    pub fn write_only(&self, ticket: u64, record: Vec<u8>) {
        self.shared.lock().only = true;
        self.write(ticket, record);
    }

    /// Writes the waiting record and ends the thread, waiting until the deadline at most. Returns whether all records
    /// are durable.
    pub fn stop(mut self, deadline: Duration) -> bool {
        let stop_by = Instant::now() + deadline;
        let mut desk = self.shared.lock();
        desk.stop_by = Some(stop_by);
        self.shared.changed.notify_all();
        while desk.ended.is_none() {
            let left = stop_by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A hanging sync cannot be cancelled; the thread ends when it returns, or with the process.
                return false;
            }
            desk = self.shared.wait(desk, Some(left));
        }
        let clean = desk.ended == Some(true);
        drop(desk);
        if let Some(thread) = self.thread.take() {
            return thread.join().is_ok() && clean;
        }
        clean
    }

    /// Slot writes so far, successful or not: a measure of flash wear.
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        let mut desk = self.shared.lock();
        desk.stop_by.get_or_insert_with(Instant::now);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        // Every change is one assignment, so the lock's poison flag can be ignored.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, desk: MutexGuard<'a, Desk>, most: Option<Duration>) -> MutexGuard<'a, Desk> {
        match most {
            Some(most) => self.changed.wait_timeout(desk, most).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Signals that the thread has ended, even by a panic.
struct End<'a> {
    shared: &'a Shared,
    clean: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.shared.lock().ended = Some(self.clean);
        self.shared.changed.notify_all();
    }
}

struct Worker<'a, F: Filesystem, E, D> {
    shared: &'a Shared,
    slots: Slots<F>,
    explain: E,
    done: D,
    /// Limits the writes; its time is counted from `started`.
    pace: TokenBucket,
    started: Instant,
    failed: Option<Failure>,
    /// Whether the record that is being written, or failed, is to be the only one in the file.
    only: bool,
    retry: Backoff,
    /// Whether the stop has been noticed.
    hurried: bool,
}

/// A record that could not be written, and when to try again.
struct Failure {
    order: Order,
    retry_at: Instant,
}

impl<'a, F, E, D> Worker<'a, F, E, D>
where
    F: Filesystem,
    E: Fn(&Slots<F>, &[u8], WriteFault) -> StoreError,
    D: Fn(Written),
{
    fn new(shared: &'a Shared, slots: Slots<F>, explain: E, done: D) -> Self {
        Self {
            shared,
            slots,
            explain,
            done,
            pace: TokenBucket::full(WRITE_BURST, WRITE_EVERY),
            started: Instant::now(),
            failed: None,
            only: false,
            retry: Backoff::new(RETRY),
            hurried: false,
        }
    }

    /// Runs until stopped. Returns whether nothing was left unwritten.
    fn run(mut self) -> bool {
        while let Some((order, again)) = self.next() {
            self.write(order, again);
        }
        self.failed.is_none()
    }

    /// Waits for something to write: a new record as soon as the pace allows, or the failed one when it is due.
    fn next(&mut self) -> Option<(Order, bool)> {
        let mut desk = self.shared.lock();
        loop {
            let now = Instant::now();
            if desk.stop_by.is_some() && !std::mem::replace(&mut self.hurried, true) {
                // During a stop the write is not delayed.
                self.failed.iter_mut().for_each(|failure| failure.retry_at = now);
            }
            let due = match (&desk.waiting, &self.failed) {
                (Some(_), _) => Some(if desk.stop_by.is_some() { now } else { self.started + self.pace.ready_at() }),
                (None, Some(failure)) => Some(failure.retry_at),
                (None, None) => None,
            };
            match (due, desk.stop_by) {
                (Some(due), _) if due <= now => break,
                (None, Some(_)) => return None,
                // The deadline of the stop is earlier than the next try.
                (Some(due), Some(stop_by)) if due > stop_by => return None,
                _ => desk = self.shared.wait(desk, due.map(|due| due - now)),
            }
        }
        if let Some(order) = desk.waiting.take() {
            self.only |= std::mem::take(&mut desk.only);
            return Some((order, false));
        }
        self.failed.take().map(|failure| (failure.order, true))
    }

    fn write(&mut self, order: Order, again: bool) {
        self.pace.spend(WRITE_EVERY, self.started.elapsed());
        let ticket = order.ticket;
        let written = if self.only { self.slots.overwrite(&order.record) } else { self.slots.write(&order.record) };
        match written {
            Ok(()) => {
                (self.failed, self.only) = (None, false);
                self.retry.reset();
                (self.done)(Written::Done { ticket });
            }
            Err(fault) => {
                let hopeless = matches!(fault, WriteFault::Size);
                let why = (self.explain)(&self.slots, &order.record, fault).to_string();
                if !again {
                    tracing::debug!(ticket, why, "the record is not durable");
                }
                if !hopeless {
                    self.failed = Some(Failure { order, retry_at: Instant::now() + self.retry.next_delay() });
                }
                if !again {
                    (self.done)(Written::Failed { ticket, why });
                }
            }
        }
    }
}
