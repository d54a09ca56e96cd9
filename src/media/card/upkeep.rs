//! The second thread of the card: it does what may take seconds, so that the thread that empties the ring only writes. It syncs
//! what was written, about once a second; deletes the oldest recordings before their space is needed; and mends what a power cut
//! left. Between two such works it has nothing open on the card.

use std::{
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    disk, mend,
    mount::{self, Mounted},
    segment::{Segment, stamp},
    shelf::{Shelf, Unsynced},
};
use crate::{
    config,
    media::{
        MediaError, Outlet,
        recording::{Counts, Loss},
    },
    space,
};

/// How often it looks after the card's space while nothing is written.
const TICK: Duration = Duration::from_secs(1);
/// The shortest time from one sync to the next: keyframes that follow each other closely end a fragment each.
const PACE: Duration = Duration::from_millis(500);
/// The most that is kept free ahead of need, bytes: some seconds of any camera.
const AHEAD: u64 = 8_000_000;

pub(crate) struct Upkeep {
    pub shelf: Arc<Shelf>,
    pub counts: Arc<Counts>,
    /// Knows the time, if it is certain.
    pub outlet: Arc<dyn Outlet>,
    pub max_bytes: u64,
    /// Recordings older than this go.
    pub keep: Option<Duration>,
}

impl Upkeep {
    pub fn new(config: &config::Recording, shelf: Arc<Shelf>, counts: Arc<Counts>, outlet: Arc<dyn Outlet>) -> Self {
        let keep = config.keep_days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
        Self { shelf, counts, outlet, max_bytes: config.max_bytes, keep }
    }

    pub fn start(self) -> Result<JoinHandle<()>, MediaError> {
        crate::threads::named("media-card").spawn(move || self.run()).map_err(MediaError::Thread)
    }

    fn run(&self) {
        loop {
            let ended = self.shelf.wait(TICK);
            let began = Instant::now();
            self.sync();
            if ended {
                return;
            }
            self.tidy();
            self.shelf.pause(PACE.saturating_sub(began.elapsed()));
        }
    }

    /// Syncs what has been written so far.
    pub fn sync(&self) {
        let unsynced = {
            let mut held = self.shelf.held();
            held.syncing = !held.unsynced.is_empty();
            std::mem::take(&mut held.unsynced)
        };
        if unsynced.is_empty() {
            return;
        }
        self.counts.sync_begins();
        for written in &unsynced {
            match sync(written) {
                Ok(()) => self.shelf.held().failing = false,
                // The card has been pulled or exchanged; the writing thread notices that by itself.
                Err(error) if error.kind() == ErrorKind::NotFound || mount::is_gone(written.mounted.device) => {
                    self.counts.lose(Loss::Unsynced, written.frames);
                }
                Err(error) => {
                    self.counts.failed_syncs.fetch_add(1, Ordering::Relaxed);
                    self.counts.lose(Loss::Unsynced, written.frames);
                    let mut held = self.shelf.held();
                    (held.failing, held.failure) = (true, Some(error));
                }
            }
        }
        self.shelf.held().syncing = false;
        self.counts.sync_ends();
    }

    /// Mends what a power cut left, and makes room ahead of need. What fails here fails again where it is needed, and is said there.
    pub fn tidy(&self) {
        let (dir, on) = {
            let held = self.shelf.held();
            let Some(on) = held.mounted else { return };
            (held.dir.clone(), on)
        };
        let Ok(root) = mount::open(&dir) else { return };
        if Mounted::of(&root) != Ok(on) {
            return;
        }
        self.mend(&root, on);
        // A full card is not emptied in vain while others fill it.
        while self.is_due(&root, on) && self.shelf.delete_oldest(&root, on, true).unwrap_or(false) {}
    }

    fn mend(&self, root: &OwnedFd, on: Mounted) {
        loop {
            let Some(segment) = self.shelf.held().to_mend.pop() else { return };
            let (bytes, name) = match mend::mend(root, &segment) {
                Ok(mend::Mended::Cut(bytes)) => (bytes, segment.name()),
                Ok(mend::Mended::Deleted) => (0, segment.name()),
                Ok(mend::Mended::Whole) | Err(_) => continue,
            };
            tracing::info!(
                segment = name,
                bytes,
                was = segment.bytes,
                "a power cut tore a recording; it ends with its last whole second now"
            );
            let mut held = self.shelf.held();
            let known = held.segments.iter().position(|known| known.number == segment.number);
            if let Some(at) = known.filter(|_| held.mounted == Some(on)) {
                held.bytes -= segment.bytes.saturating_sub(bytes);
                held.segments[at].bytes = bytes;
                if bytes == 0 {
                    held.segments.remove(at);
                }
            }
        }
    }

    /// Whether the oldest segment should go now: too old, or its space may be needed within seconds.
    fn is_due(&self, root: &OwnedFd, on: Mounted) -> bool {
        let free = space::of(root).ok();
        let held = self.shelf.held();
        let Some(oldest) = held.oldest(on) else { return false };
        let ahead = AHEAD.min(self.max_bytes / 16);
        let short_of_quota = held.bytes + ahead > self.max_bytes;
        let short_of_space = free.is_some_and(|space| {
            let ahead = AHEAD.min(space.whole / 16);
            space.free < ahead && held.bytes > 4 * ahead
        });
        short_of_quota || short_of_space || self.is_too_old(&oldest, held.segments.iter())
    }

    /// A segment that tells no time is at least as old as the next one that does. While the time is not certain none is too old.
    fn is_too_old<'a>(&self, oldest: &Segment, mut segments: impl Iterator<Item = &'a Segment>) -> bool {
        let Some(keep) = self.keep else { return false };
        let Some(now) = self.outlet.identity(Duration::ZERO).started_at else { return false };
        let latest = stamp(now.saturating_sub(keep));
        let dated = if oldest.is_dated() { Some(oldest) } else { segments.find(|segment| segment.is_dated()) };
        dated.is_some_and(|segment| segment.time < latest)
    }
}

fn sync(written: &Unsynced) -> io::Result<()> {
    let root = mount::open(&written.dir)?;
    if Mounted::of(&root)? != written.mounted {
        return Err(ErrorKind::NotFound.into());
    }
    // A card that is mounted `sync` has it already, and would spend seconds on nothing.
    if space::of(&root).is_ok_and(|space| space.synchronous) {
        return Ok(());
    }
    let folder = disk::folder(&root, &written.segment.day())?;
    disk::sync_file(&disk::reopen(&folder, &written.segment.name())?)?;
    if written.created {
        disk::sync_names(&folder)?;
        disk::sync_names(&root)?;
        // On a new card the directory itself is new. What is above it may not be ours to read.
        if let Some(above) = disk::folder(&root, "..").ok().filter(|above| Mounted::of(above) == Ok(written.mounted)) {
            let _ = disk::sync_names(&above);
        }
    }
    Ok(())
}
