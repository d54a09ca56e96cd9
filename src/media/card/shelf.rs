//! What the two threads of the card know together: which segments there are, and what the one that writes leaves to the other. The
//! lock is never held while the card is touched, so neither waits for the other's work on a slow card.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{disk, mount::Mounted, segment::Segment};

#[derive(Debug, Default)]
pub(crate) struct Shelf {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Where the card is.
    pub dir: PathBuf,
    /// The card that the segments are on. `None`: unknown, to be looked at again.
    pub mounted: Option<Mounted>,
    /// Oldest first.
    pub segments: VecDeque<Segment>,
    /// Of all segments.
    pub bytes: u64,
    /// The number of the next segment.
    pub next: u64,
    /// The number of the one that is being written: it never gives way.
    pub open: Option<u64>,
    /// The newest ones when the card was found: the power may have gone while they were written.
    pub to_mend: Vec<Segment>,
    pub unsynced: Vec<Unsynced>,
    /// Others are being synced.
    pub syncing: bool,
    /// A sync that failed, until the writing thread takes it.
    pub failure: Option<io::Error>,
    /// No sync has succeeded since one failed.
    pub failing: bool,
    /// Segments that gave way.
    pub deleted: u64,
    /// Nothing will be written any more.
    pub ended: bool,
}

/// A file with bytes that a power cut would take.
#[derive(Debug)]
pub(crate) struct Unsynced {
    pub segment: Segment,
    pub mounted: Mounted,
    pub dir: PathBuf,
    /// Its name may not be on the card either.
    pub created: bool,
    pub frames: u64,
}

impl Shelf {
    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `bytes` with so many frames were appended to a segment.
    pub fn appended(&self, segment: &Segment, created: bool, bytes: u64, frames: u64) {
        let mut held = self.held();
        held.bytes += bytes;
        if let Some(newest) = held.segments.back_mut().filter(|newest| newest.number == segment.number) {
            newest.bytes += bytes;
        }
        let Some(mounted) = held.mounted else { return };
        if let Some(known) = held.unsynced.iter_mut().find(|known| (known.segment.number, known.mounted) == (segment.number, mounted)) {
            known.frames += frames;
        } else {
            let dir = held.dir.clone();
            held.unsynced.push(Unsynced { segment: *segment, mounted, dir, created, frames });
        }
        drop(held);
        self.changed.notify_all();
    }

    pub fn end(&self) {
        self.held().ended = true;
        self.changed.notify_all();
    }

    /// Waits until something is to be synced, or until the end, for `patience` at most. Returns whether it is the end.
    pub fn wait(&self, patience: Duration) -> bool {
        self.wait_while(patience, |held| held.unsynced.is_empty() && !held.ended)
    }

    /// Waits for the end, for `patience` at most.
    pub fn pause(&self, patience: Duration) {
        self.wait_while(patience, |held| !held.ended);
    }

    fn wait_while(&self, patience: Duration, condition: impl FnMut(&mut Held) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.held(), patience, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Deletes the oldest segment on this card, and its day folder if it was the last in it. `durably` waits until that is on
    /// the card: before the file system gives its space away, or a power cut could bring its name back with another one's data.
    /// Returns whether there was one.
    pub fn delete_oldest(&self, root: &OwnedFd, on: Mounted, durably: bool) -> io::Result<bool> {
        let Some(oldest) = self.held().oldest(on) else { return Ok(false) };
        match disk::folder(root, &oldest.day()) {
            Ok(folder) => {
                disk::delete(&folder, &oldest.name())?;
                if durably {
                    disk::sync_names(&folder)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut held = self.held();
        if held.oldest(on).is_some_and(|front| front.number == oldest.number) {
            held.segments.pop_front();
            held.bytes = held.bytes.saturating_sub(oldest.bytes);
            held.deleted += 1;
        }
        let day = oldest.day();
        let was_last = !oldest.flat && held.segments.front().is_none_or(|next| next.day() != day);
        drop(held);
        if was_last {
            disk::remove_folder(root, &day);
        }
        Ok(true)
    }
}

impl Held {
    /// The oldest segment on this card that may give way.
    pub fn oldest(&self, on: Mounted) -> Option<Segment> {
        let oldest = self.segments.front().filter(|_| self.mounted == Some(on))?;
        (self.open != Some(oldest.number)).then_some(*oldest)
    }
}
