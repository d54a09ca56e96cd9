//! The directory of recordings on the SD card. No file stays open between two writes: a card can be unmounted while the agent runs,
//! and the next write finds the next card. Each operation opens the directory, checks that it is on a card and on the same one as
//! before, and works relative to it, so that nothing is written beneath the mount point. What may take seconds is done by a second
//! thread (`upkeep`): syncing, and making room ahead of need. Called by `recording`, and by `check-config` through `trial`.

mod disk;
mod fault;
mod mend;
mod mount;
#[cfg(test)]
mod power_cuts;
mod segment;
mod shelf;
mod upkeep;

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{AtFlags, Mode, OFlags};

pub(super) use self::{fault::CardFault, upkeep::Upkeep};
use self::{
    fault::is_full,
    mount::{Mounted, is_gone, is_mount_point},
    segment::{Segment, stamp_now},
    shelf::Shelf,
};
use crate::config::{self, CARD_MOUNTS, RecordingDir};

/// The recordings on the card, bounded by `max_bytes`.
pub(super) struct Card {
    config: config::Recording,
    /// The directories to try, in order; more than one with `dir = "auto"`.
    candidates: Vec<PathBuf>,
    /// The one in use.
    dir: PathBuf,
    /// What is there.
    shelf: Arc<Shelf>,
}

/// A segment that is being written. Its first bytes create its file.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// When it began, if that is certain.
    began: Option<Duration>,
    /// Once it is on the card.
    segment: Option<Segment>,
}

impl Open {
    /// One that began then, if that is certain.
    pub fn at(began: Option<Duration>) -> Self {
        Self { began, segment: None }
    }
}

impl Card {
    pub fn new(config: &config::Recording) -> Self {
        let candidates = config.dir.candidates();
        let dir = candidates.first().cloned().unwrap_or_default();
        Self { config: config.clone(), candidates, dir, shelf: Arc::default() }
    }

    /// What it shares with its second thread.
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// Checks whether a segment may begin, and lists what is on the card if it has been mounted since.
    pub fn look(&mut self) -> Result<(), CardFault> {
        self.enter().map(drop)
    }

    /// Discards what is known of the card.
    pub fn forget(&mut self) {
        let mut held = self.shelf.held();
        (held.mounted, held.open) = (None, None);
    }

    /// Appends so many frames to a segment, and deletes the oldest segments if there is no room.
    pub fn append(&mut self, open: &mut Open, bytes: &[u8], frames: u64) -> Result<(), CardFault> {
        if let Some(source) = self.shelf.held().failure.take() {
            return Err(self.fault("syncing a recording in", source));
        }
        let (root, on) = self.enter_the_same(open)?;
        let more = bytes.len() as u64;
        let max_bytes = self.config.max_bytes;
        while self.shelf.held().bytes + more > max_bytes {
            if !self.delete_oldest(&root, on, false)? {
                return Err(CardFault::TooSmall { max_bytes });
            }
        }
        let created = open.segment.is_none();
        let (mut file, mut segment) = match open.segment {
            Some(segment) => (self.reopen(&root, &segment)?, segment),
            None => self.create(&root, on, open.began)?,
        };
        open.segment = Some(segment);
        let mut written = disk::append(&mut file, bytes);
        // The card is smaller than max_bytes, or others use it too. Each try begins by truncating what a failed write left.
        while written.as_ref().is_err_and(is_full) && self.delete_oldest(&root, on, true)? {
            written = disk::truncate(&file, segment.bytes).and_then(|()| disk::append(&mut file, bytes));
        }
        if let Err(source) = written {
            // The segment stays one that ends with a whole fragment.
            let _ = disk::truncate(&file, segment.bytes);
            return Err(self.fault("writing to", source));
        }
        segment.bytes += more;
        open.segment = Some(segment);
        self.shelf.appended(&segment, created, more, frames);
        Ok(())
    }

    /// Whether the file of this segment may be written: not before the one that came before it is whole on the card, so that a
    /// power cut never tears two.
    pub fn is_ready(&self, open: &Open) -> bool {
        let held = self.shelf.held();
        open.segment.is_some() || !held.syncing && held.unsynced.is_empty()
    }

    /// No more will be written to the segment that is open.
    pub fn close(&mut self) {
        self.shelf.held().open = None;
    }

    fn delete_oldest(&self, root: &OwnedFd, on: Mounted, durably: bool) -> Result<bool, CardFault> {
        self.shelf.delete_oldest(root, on, durably).map_err(|source| self.fault("deleting the oldest segment in", source))
    }

    /// The directory, unless it is on another card than the segment.
    fn enter_the_same(&mut self, open: &Open) -> Result<(OwnedFd, Mounted), CardFault> {
        let before = self.shelf.held().mounted;
        let entered = self.enter()?;
        if open.segment.is_some() && Some(entered.1) != before { Err(CardFault::Exchanged) } else { Ok(entered) }
    }

    /// The directory as it is mounted now. Held for one operation only, because it cannot be unmounted meanwhile.
    fn enter(&mut self) -> Result<(OwnedFd, Mounted), CardFault> {
        if self.config.dir != RecordingDir::Auto {
            return self.enter_dir();
        }
        // The card in use counts as long as it is there, also if another is mounted beside it.
        let others = self.candidates.iter().filter(|dir| **dir != self.dir);
        let order: Vec<PathBuf> = std::iter::once(&self.dir).chain(others).cloned().collect();
        let mut absent = None;
        for dir in order {
            if !dir.parent().is_some_and(is_mount_point) {
                continue;
            }
            self.dir = dir;
            match self.enter_dir() {
                Err(fault @ (CardFault::NoCard { .. } | CardFault::Removed { .. })) => absent = Some(fault),
                entered => return entered,
            }
        }
        Err(absent.unwrap_or_else(|| CardFault::NoneMounted { places: CARD_MOUNTS.join(", ") }))
    }

    fn enter_dir(&self) -> Result<(OwnedFd, Mounted), CardFault> {
        let root = self.open_dir()?;
        let mounted = Mounted::of(&root).map_err(|error| self.fault("opening", error.into()))?;
        for own in &self.config.kept_off {
            if fs::metadata(own).is_ok_and(|own| own.dev() == mounted.device) {
                return Err(CardFault::NoCard { dir: self.place(), own: own.display().to_string() });
            }
        }
        if is_gone(mounted.device) {
            return Err(CardFault::Removed { dir: self.place() });
        }
        if self.shelf.held().mounted != Some(mounted) {
            self.scan(&root, mounted)?;
        }
        Ok((root, mounted))
    }

    /// Opens the directory. Makes it on a new card, if its parent is on a card.
    fn open_dir(&self) -> Result<OwnedFd, CardFault> {
        match mount::open(&self.dir) {
            Err(rustix::io::Errno::NOENT) => {
                let parent = self.dir.parent().filter(|parent| fs::metadata(parent).is_ok_and(|found| self.is_a_card(found.dev())));
                let made = parent.and_then(|parent| {
                    let (place, name) = (mount::open(parent).ok()?, self.dir.file_name()?.to_str()?);
                    // Checked on the open directory: the card may have been unmounted since.
                    let device = rustix::fs::fstat(&place).ok()?.st_dev;
                    self.is_a_card(device).then(|| disk::make_folder(&place, name))
                });
                match made {
                    Some(Ok(())) => mount::open(&self.dir),
                    Some(Err(error)) => return Err(self.fault("making", error)),
                    None => Err(rustix::io::Errno::NOENT),
                }
            }
            opened => opened,
        }
        .map_err(|error| self.fault("opening", error.into()))
    }

    /// Whether a file system is known to be a card. Where recordings may go to the camera's own storage, none is.
    fn is_a_card(&self, device: u64) -> bool {
        let own = |own: &PathBuf| fs::metadata(own).is_ok_and(|own| own.dev() == device);
        !self.config.kept_off.is_empty() && !self.config.kept_off.iter().any(own)
    }

    /// Lists the segments that are there already.
    fn scan(&self, root: &OwnedFd, mounted: Mounted) -> Result<(), CardFault> {
        let (found, empty) = segment::list(&self.dir).map_err(|source| self.fault("reading", source))?;
        for day in empty {
            disk::remove_folder(root, &day);
        }
        let mut held = self.shelf.held();
        held.dir.clone_from(&self.dir);
        (held.mounted, held.open) = (Some(mounted), None);
        held.next = found.last().map_or(0, |newest| newest.number + 1);
        held.bytes = found.iter().map(|segment| segment.bytes).sum();
        // The one that was open, and the one before it if its last sync had not ended.
        held.to_mend = found.iter().rev().take(2).copied().collect();
        held.segments = found.into();
        Ok(())
    }

    /// Opens the file of the segment.
    fn reopen(&self, root: &OwnedFd, segment: &Segment) -> Result<File, CardFault> {
        match disk::folder(root, &segment.day()).and_then(|folder| disk::reopen(&folder, &segment.name())) {
            // Where the kernel does not tell one mount from the next, the length of the file does.
            Ok(file) if file.metadata().is_ok_and(|found| found.len() == segment.bytes) => return Ok(file),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.fault("opening a segment in", error)),
            _ => {}
        }
        self.shelf.held().mounted = None;
        Err(CardFault::Exchanged)
    }

    fn create(&self, root: &OwnedFd, on: Mounted, began: Option<Duration>) -> Result<(File, Segment), CardFault> {
        let segment = Segment { number: self.shelf.held().next, time: stamp_now(began), flat: false, bytes: 0 };
        let (day, mut vanished) = (segment.day(), 0);
        loop {
            let made = match disk::folder(root, &day) {
                Err(error) if error.kind() == ErrorKind::NotFound => disk::make_folder(root, &day).and_then(|()| disk::folder(root, &day)),
                opened => opened,
            };
            match made.and_then(|folder| disk::create(&folder, &segment.name())) {
                Ok(file) => {
                    let mut held = self.shelf.held();
                    held.next += 1;
                    held.open = Some(segment.number);
                    held.segments.push_back(segment);
                    return Ok((file, segment));
                }
                // A card may have no room for one more file or name, even where it has room for bytes.
                Err(error) if is_full(&error) && self.delete_oldest(root, on, false)? => {}
                // The other thread has just deleted the last segment of this day, and its folder.
                Err(error) if error.kind() == ErrorKind::NotFound && vanished < 3 => vanished += 1,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    self.shelf.held().mounted = None;
                    return Err(CardFault::Exchanged);
                }
                Err(error) => return Err(self.fault("making a segment in", error)),
            }
        }
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn fault(&self, doing: &'static str, source: io::Error) -> CardFault {
        CardFault::System { doing, path: self.place(), source }
    }
}

/// Where recordings can be made now; what stands in the way if nowhere.
pub(super) fn try_recording(config: &config::Recording) -> Result<PathBuf, CardFault> {
    let mut card = Card::new(config);
    let probe = format!(".check-config.{}", std::process::id());
    card.enter().and_then(|(dir, _)| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, &probe, flags, Mode::from_raw_mode(0o600));
        let written = file.map_err(io::Error::from).and_then(|file| disk::append(&mut File::from(file), b"check"));
        // It may not be there at all.
        let _ = rustix::fs::unlinkat(&dir, &probe, AtFlags::empty());
        written.map_err(|source| card.fault("writing to", source))
    })?;
    Ok(card.dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_stay_off_the_cameras_own_storage_unless_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config::Recording {
            dir: dir.path().join("recordings").into(),
            max_bytes: 1000,
            memory_bytes: 4_000_000,
            keep_days: None,
            kept_off: vec![dir.path().into()],
        };
        let recordings = dir.path().join("recordings");
        let fault = try_recording(&config).unwrap_err();
        let (wrong, right) = (fault.to_string(), fault.advice());
        assert!(wrong.contains("No such file") && right.starts_with("Mount the card"), "{wrong}; {right}");
        fs::create_dir(&recordings).unwrap();
        let fault = try_recording(&config).unwrap_err();
        let (wrong, right) = (fault.to_string(), fault.advice());
        assert!(wrong.contains("no card is mounted") && right.contains("allow_internal_storage"), "{wrong}; {right}");
        assert_eq!(fs::read_dir(&recordings).unwrap().count(), 0);
        config.kept_off.clear();
        try_recording(&config).unwrap();
        assert_eq!(fs::read_dir(&recordings).unwrap().count(), 0);
    }

    #[test]
    fn a_segment_that_has_vanished_means_another_card() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            config::Recording { dir: dir.path().into(), max_bytes: 1000, memory_bytes: 4_000_000, keep_days: None, kept_off: Vec::new() };
        let (mut card, mut segment) = (Card::new(&config), Open::default());
        card.append(&mut segment, b"one", 1).unwrap();
        card.append(&mut segment, b"two", 1).unwrap();
        let made = segment.segment.unwrap();
        let file = dir.path().join(made.day()).join(made.name());
        assert_eq!(fs::read(&file).unwrap(), b"onetwo");
        fs::remove_file(&file).unwrap();
        assert!(matches!(card.append(&mut segment, b"three", 1), Err(CardFault::Exchanged)));
        let mut segment = Open::default();
        card.append(&mut segment, b"three", 1).unwrap();
        assert_eq!(card.shelf.held().bytes, 5, "what was on the other card does not count");
    }
}
