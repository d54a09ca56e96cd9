//! The directory of recordings on the SD card. No file stays open between two writes: a card can be unmounted while the agent runs,
//! and the next write finds the next card. Each operation opens the directory, checks that it is on a card and on the same one as
//! before, and works relative to it, so that nothing is written beneath the mount point.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use crate::{
    conditions::Kind,
    config::{self, CARD_MOUNTS, RecordingDir},
    space,
    supervision::ServiceManager,
};

/// Why the agent cannot record.
#[derive(Debug, thiserror::Error)]
pub(super) enum CardFault {
    /// The directory is on a file system of the camera's own.
    #[error("no card is mounted: {dir} is on the same file system as {own}")]
    NoCard {
        /// Where recordings belong.
        dir: String,
        /// A directory of the camera on that file system.
        own: String,
    },
    /// With `dir = "auto"`: nothing is mounted at any of the usual places.
    #[error("no card is mounted at any of {places}")]
    NoneMounted {
        /// The mount points.
        places: String,
    },
    /// The device has gone; the mount is still there.
    #[error("the card was removed without being unmounted from {dir}")]
    Removed {
        /// Where it is mounted.
        dir: String,
    },
    /// `max_bytes` is not enough for one segment.
    #[error("[recording] max_bytes ({max_bytes}) is too small for one segment")]
    TooSmall {
        /// As configured.
        max_bytes: u64,
    },
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Another card, or the same one again, has been mounted since the segment began. No fault: a new segment begins.
    #[error("another card is mounted")]
    Exchanged,
}

impl CardFault {
    /// What to do about it.
    pub fn advice(&self) -> String {
        let kind = match self {
            Self::NoCard { .. } => {
                return "Mount the card; recording then starts by itself. If recordings may go to the camera's own storage, set [recording] allow_internal_storage = true.".into();
            }
            Self::NoneMounted { .. } => {
                return "Mount the card at one of them, or name its directory in [recording] dir; recording then starts by itself.".into();
            }
            Self::Removed { .. } => return "Unmount it (umount -l), and mount the next one.".into(),
            Self::TooSmall { .. } => return "Raise [recording] max_bytes.".into(),
            Self::Exchanged => return Kind::Recording.advice().into(),
            Self::System { source, .. } => source.kind(),
        };
        match kind {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                "Mount the card, or make the directory on it, writable for the user kasa-care-agent.".into()
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "Delete other files from the card, or use a larger one: no recording is left on it to give way.".into()
            }
            ErrorKind::ReadOnlyFilesystem => {
                let unit = match ServiceManager::here() {
                    ServiceManager::Systemd => " The directory must also be within the unit's ReadWritePaths=.",
                    _ => "",
                };
                format!("The card is write-protected, or its file system is damaged: check it, or replace it.{unit}")
            }
            ErrorKind::PermissionDenied => {
                "Let the user kasa-care-agent write there: change the directory's owner, or mount a FAT card with uid=kasa-care-agent,gid=kasa-care-agent.".into()
            }
            _ => "Check the card, or replace it.".into(),
        }
    }

    /// Whether there is just no card: checking again soon costs nothing.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NoCard { .. } | Self::NoneMounted { .. } | Self::Removed { .. } => true,
            Self::System { source, .. } => source.kind() == ErrorKind::NotFound,
            Self::TooSmall { .. } | Self::Exchanged => false,
        }
    }
}

/// The recordings on the card, bounded by `max_bytes`.
pub(super) struct Card {
    config: config::Recording,
    /// The directories to try, in order; more than one with `dir = "auto"`.
    candidates: Vec<PathBuf>,
    /// The one in use.
    dir: PathBuf,
    /// The card that the segments below are on.
    mounted: Option<Mounted>,
    /// Oldest first; the last may be the one being written.
    segments: VecDeque<(String, u64)>,
    /// Of all segments.
    pub bytes: u64,
    next: u64,
}

/// Which file system, and which mounting of it (0 where the kernel does not say, before Linux 5.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mounted {
    device: u64,
    mount: u64,
}

/// A segment that is being written. Its first bytes create its file.
#[derive(Debug, Default)]
pub(super) struct Open {
    name: Option<String>,
    bytes: u64,
}

impl Card {
    pub fn new(config: &config::Recording) -> Self {
        let candidates = config.dir.candidates();
        let dir = candidates.first().cloned().unwrap_or_default();
        Self { config: config.clone(), candidates, dir, mounted: None, segments: VecDeque::new(), bytes: 0, next: 0 }
    }

    /// Checks whether a segment may begin, and lists what is on the card if it has been mounted since.
    pub fn look(&mut self) -> Result<(), CardFault> {
        self.enter().map(drop)
    }

    /// Discards what is known of the card.
    pub fn forget(&mut self) {
        self.mounted = None;
    }

    /// Appends to a segment, and deletes the oldest segments to make room.
    pub fn append(&mut self, segment: &mut Open, bytes: &[u8]) -> Result<(), CardFault> {
        let dir = self.enter_the_same(segment)?;
        let more = bytes.len() as u64;
        while self.bytes + more > self.config.max_bytes && self.may_give_way(segment) {
            self.delete_oldest(&dir)?;
        }
        if self.bytes + more > self.config.max_bytes {
            return Err(CardFault::TooSmall { max_bytes: self.config.max_bytes });
        }
        let mut file = self.open(&dir, segment)?;
        let mut written = file.write_all(bytes);
        // The card is smaller than max_bytes, or others use it too. Each try begins by truncating what a failed write left.
        while written.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull) && self.may_give_way(segment) {
            self.delete_oldest(&dir)?;
            written = file.set_len(segment.bytes).and_then(|()| file.write_all(bytes));
        }
        written.map_err(|source| self.fault("writing to", source))?;
        segment.bytes += more;
        if let Some((_, bytes)) = self.segments.back_mut() {
            *bytes += more;
        }
        self.bytes += more;
        Ok(())
    }

    /// Waits until a whole segment is on the card.
    pub fn sync(&mut self, segment: &mut Open) -> Result<(), CardFault> {
        if segment.name.is_none() {
            return Ok(());
        }
        let dir = self.enter_the_same(segment)?;
        // A card that is mounted `sync` has it already, and would spend seconds on nothing.
        if space::of(&dir).is_ok_and(|space| space.synchronous) {
            return Ok(());
        }
        let file = self.open(&dir, segment)?;
        file.sync_data().map_err(|source| self.fault("writing to", source))
    }

    /// Whether a segment older than this one is left.
    fn may_give_way(&self, segment: &Open) -> bool {
        self.segments.len() > usize::from(segment.name.is_some())
    }

    /// The directory, unless it is on another card than the segment.
    fn enter_the_same(&mut self, segment: &Open) -> Result<OwnedFd, CardFault> {
        let before = self.mounted;
        let dir = self.enter()?;
        if segment.name.is_some() && self.mounted != before { Err(CardFault::Exchanged) } else { Ok(dir) }
    }

    /// The directory as it is mounted now. Held for one operation only, because it cannot be unmounted meanwhile.
    fn enter(&mut self) -> Result<OwnedFd, CardFault> {
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

    fn enter_dir(&mut self) -> Result<OwnedFd, CardFault> {
        let dir = self.open_dir()?;
        let device = rustix::fs::fstat(&dir).map_err(|error| self.fault("opening", error.into()))?.st_dev;
        for own in &self.config.kept_off {
            if fs::metadata(own).is_ok_and(|own| own.dev() == device) {
                return Err(CardFault::NoCard { dir: self.place(), own: own.display().to_string() });
            }
        }
        if is_gone(device) {
            return Err(CardFault::Removed { dir: self.place() });
        }
        let mounted = Mounted { device, mount: mount_id(&dir) };
        if self.mounted != Some(mounted) {
            self.scan()?;
            self.mounted = Some(mounted);
        }
        Ok(dir)
    }

    /// Opens the directory. Makes it on a new card, if its parent is on a card.
    fn open_dir(&self) -> Result<OwnedFd, CardFault> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
        match open(&self.dir) {
            Err(rustix::io::Errno::NOENT) => {
                let parent = self.dir.parent().filter(|parent| fs::metadata(parent).is_ok_and(|found| self.is_a_card(found.dev())));
                let made = parent.and_then(|parent| {
                    let (place, name) = (open(parent).ok()?, self.dir.file_name()?);
                    // Checked on the open directory: the card may have been unmounted since.
                    let device = rustix::fs::fstat(&place).ok()?.st_dev;
                    self.is_a_card(device).then(|| rustix::fs::mkdirat(&place, name, Mode::from_raw_mode(0o755)))
                });
                match made {
                    Some(Ok(())) => open(&self.dir),
                    Some(Err(error)) => return Err(self.fault("making", error.into())),
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
    fn scan(&mut self) -> Result<(), CardFault> {
        let found = list(&self.dir).map_err(|source| self.fault("reading", source))?;
        self.next = found.last().map_or(0, |(number, ..)| number + 1);
        self.bytes = found.iter().map(|(_, _, bytes)| bytes).sum();
        self.segments = found.into_iter().map(|(_, name, bytes)| (name, bytes)).collect();
        Ok(())
    }

    /// Opens the file of the segment, or creates it the first time.
    fn open(&mut self, dir: &OwnedFd, segment: &mut Open) -> Result<File, CardFault> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(name) = &segment.name else { return self.create(dir, segment, flags) };
        match rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from) {
            // Where the kernel does not tell one mount from the next, the length of the file does.
            Ok(file) if file.metadata().is_ok_and(|found| found.len() == segment.bytes) => Ok(file),
            Ok(_) | Err(rustix::io::Errno::NOENT) => {
                self.mounted = None;
                Err(CardFault::Exchanged)
            }
            Err(error) => Err(self.fault("opening a segment in", error.into())),
        }
    }

    fn create(&mut self, dir: &OwnedFd, segment: &mut Open, flags: OFlags) -> Result<File, CardFault> {
        let time = crate::clock::timestamp().strftime("%Y%m%dT%H%M%SZ");
        let name = format!("{time}-{:08}.mp4", self.next);
        loop {
            match rustix::fs::openat(dir, &name, flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o644)) {
                Ok(file) => {
                    self.next += 1;
                    self.segments.push_back((name.clone(), 0));
                    segment.name = Some(name);
                    return Ok(file.into());
                }
                // A card may have no room for one more file, even where it has room for bytes.
                Err(rustix::io::Errno::NOSPC) if self.may_give_way(segment) => self.delete_oldest(dir)?,
                Err(rustix::io::Errno::EXIST) => {
                    self.mounted = None;
                    return Err(CardFault::Exchanged);
                }
                Err(error) => return Err(self.fault("making a segment in", error.into())),
            }
        }
    }

    fn delete_oldest(&mut self, dir: &OwnedFd) -> Result<(), CardFault> {
        let Some((name, bytes)) = self.segments.pop_front() else { return Ok(()) };
        self.bytes -= bytes;
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Err(error) if error != rustix::io::Errno::NOENT => Err(self.fault("deleting the oldest segment in", error.into())),
            _ => Ok(()),
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
    card.enter().and_then(|dir| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, &probe, flags, Mode::from_raw_mode(0o600));
        let written = file.map_err(io::Error::from).and_then(|file| File::from(file).write_all(b"check"));
        // It may not be there at all.
        let _ = rustix::fs::unlinkat(&dir, &probe, AtFlags::empty());
        written.map_err(|source| card.fault("writing to", source))
    })?;
    Ok(card.dir)
}

/// The segments in a directory, the oldest first: number, name and bytes.
fn list(dir: &Path) -> io::Result<Vec<(u64, String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok();
        if let Some((name, number)) = name.and_then(|name| number(&name).map(|number| (name, number))) {
            found.push((number, name, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The number in the name of a segment. Segments are ordered by it, because the clock may step.
pub(super) fn number(name: &str) -> Option<u64> {
    let (time, number) = name.strip_suffix(".mp4")?.split_once('-')?;
    (time.len() == 16 && time.ends_with('Z') && number.len() >= 8).then_some(())?;
    number.parse().ok()
}

/// Whether something is mounted there: its file system is another than that of the directory above.
fn is_mount_point(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mounted = |path: &Path| {
        let dir = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        Some(Mounted { device: rustix::fs::fstat(&dir).ok()?.st_dev, mount: mount_id(&dir) })
    };
    let above = path.parent().and_then(mounted);
    mounted(path).is_some_and(|here| above.is_some_and(|above| here != above))
}

fn mount_id(dir: &OwnedFd) -> u64 {
    let flags = StatxFlags::MNT_ID;
    let told = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, flags);
    told.ok().filter(|told| told.stx_mask & flags.bits() != 0).map_or(0, |told| told.stx_mnt_id)
}

/// Whether a block device has gone although its file system is still mounted: writes would be lost.
fn is_gone(device: u64) -> bool {
    let devices = Path::new("/sys/dev/block");
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    // File systems without a device have the major number 0.
    major != 0
        && devices.exists()
        && fs::symlink_metadata(devices.join(format!("{major}:{minor}"))).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_told_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(dir.path()) && !is_mount_point(&dir.path().join("missing")) && !is_mount_point(Path::new("/")));
    }

    #[test]
    fn a_device_that_has_gone_is_recognized() {
        assert!(is_gone(rustix::fs::makedev(4093, 7)));
        assert!(!is_gone(rustix::fs::makedev(0, 7)));
        assert!(!is_gone(fs::metadata("/").unwrap().dev()));
    }

    #[test]
    fn recordings_stay_off_the_cameras_own_storage_unless_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config::Recording {
            dir: dir.path().join("recordings").into(),
            max_bytes: 1000,
            memory_bytes: 4_000_000,
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
        let config = config::Recording { dir: dir.path().into(), max_bytes: 1000, memory_bytes: 4_000_000, kept_off: Vec::new() };
        let (mut card, mut segment) = (Card::new(&config), Open::default());
        card.append(&mut segment, b"one").unwrap();
        card.append(&mut segment, b"two").unwrap();
        let file = dir.path().join(segment.name.as_ref().unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"onetwo");
        fs::remove_file(&file).unwrap();
        assert!(matches!(card.append(&mut segment, b"three"), Err(CardFault::Exchanged)));
        let mut segment = Open::default();
        card.append(&mut segment, b"three").unwrap();
        assert_eq!(card.bytes, 5, "what was on the other card does not count");
    }
}
