//! The timeline's thread: reads the file, then writes what has changed, seldom.

use std::{
    path::Path,
    sync::PoisonError,
    time::{Duration, Instant},
};

use care_engine::{durable::filesystem::Filesystem, token_bucket::TokenBucket};

use super::{Entry, Erasure, Timeline, file::File};
use crate::{
    backoff::{Backoff, Delays, Jitter},
    conditions::{Conditions, Kind},
};

/// How many writes may follow each other, before [`WRITE_EVERY`] spaces them.
const WRITE_BURST: u32 = 20;
const WRITE_EVERY: Duration = Duration::from_secs(300);
/// How long it waits before it tries a failed write again.
const RETRY: Delays = Delays::new(Duration::from_secs(30), Duration::from_secs(900), Jitter::None);

/// What is to be done.
struct Work {
    changed: Vec<Entry>,
    erase: bool,
    last: bool,
}

/// Signals that the thread has ended, even by a panic.
struct Ending<'a, E: Fn()>(&'a Timeline, E);

impl<E: Fn()> Drop for Ending<'_, E> {
    fn drop(&mut self) {
        self.0.lock().written = false;
        self.0.0.changed.notify_all();
        (self.1)();
    }
}

impl Timeline {
    pub(super) fn keep<F: Filesystem>(&self, mut file: File<F>, path: &Path, conditions: &Conditions, erased: impl Fn()) {
        let ending = Ending(self, erased);
        let found = file.read();
        let mut damage = found.damage.map(|damage| format!("the timeline {} was damaged: {damage}", path.display()));
        conditions.set(Kind::TimelineFault, damage.clone());
        self.lock().prepend(found.entries);
        let began = Instant::now();
        let mut pace = TokenBucket::full(WRITE_BURST, WRITE_EVERY);
        let (mut retry, mut retry_at) = (Backoff::new(RETRY), began);
        loop {
            let work = self.wait(retry_at.max(began + pace.ready_at()));
            let done = if work.erase {
                file.erase_but(&self.entries())
            } else {
                pace.spend(WRITE_EVERY, began.elapsed());
                self.write(&mut file, &work.changed)
            };
            if work.erase {
                self.end_erasure(done.is_ok());
                (ending.1)();
            }
            match done {
                Ok(()) => {
                    if work.erase {
                        damage = None;
                    }
                    retry.reset();
                    conditions.set(Kind::TimelineFault, damage.clone());
                }
                Err(why) => {
                    let delay = retry.next_delay();
                    retry_at = Instant::now() + delay;
                    self.lock().write_at = Some(retry_at);
                    conditions.raise(Kind::TimelineFault, format!("the timeline {} cannot be written: {why}", path.display()));
                }
            }
            if work.last {
                return;
            }
        }
    }

    /// Waits for something to do, which is not before this if it is only to be written.
    fn wait(&self, not_before: Instant) -> Work {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let due = state.write_at.map(|at| at.max(not_before));
            let is_due = due.is_some_and(|due| due <= now);
            if state.erasure == Erasure::Wanted || state.stopping || is_due {
                let erase = state.erasure != Erasure::Done;
                if erase {
                    state.erasure = Erasure::UnderWay;
                }
                state.write_at = None;
                let unwritten = std::mem::take(&mut state.unwritten);
                let changed = state.entries.iter().filter(|entry| unwritten.contains(&entry.number)).cloned().collect();
                return Work { changed, erase, last: state.stopping };
            }
            let changed = &self.0.changed;
            state = match due {
                Some(due) => changed.wait_timeout(state, due.saturating_duration_since(now)).unwrap_or_else(PoisonError::into_inner).0,
                None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn write<F: Filesystem>(&self, file: &mut File<F>, changed: &[Entry]) -> std::io::Result<()> {
        if !file.append(changed)? {
            let oldest = file.replace(&self.entries())?;
            self.lock().entries.retain(|entry| entry.number >= oldest);
        }
        Ok(())
    }

    /// The owner may have changed again meanwhile.
    fn end_erasure(&self, done: bool) {
        let mut state = self.lock();
        if state.erasure == Erasure::UnderWay {
            state.erasure = if done { Erasure::Done } else { Erasure::Failed };
        }
    }
}
