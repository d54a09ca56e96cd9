//! A disk in memory that separates written from synced data, and can lose, tear and reorder the difference.
//!
//! It also simulates the faults of a real one: a full file system, a read-only one, an fsync that fails and drops the
//! pages it could not write. It can also have a planted fault, to check that the tests find it.
//!
//! It is public because the agent's own tests use it too. Nothing in the firmware refers to it, so the linker leaves
//! it out.
#![allow(clippy::unwrap_used, reason = "no part of the firmware")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::filesystem::{Access, Filesystem, StateFile};

/// A shared handle; clones see the same disk.
#[derive(Clone, Default)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
    unblocked: Arc<Condvar>,
}

/// A fault planted to see whether the tests notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Syncing a file does nothing.
    NoFileSync,
    /// Syncing the directory does nothing.
    NoDirectorySync,
    /// Every record overwrites the newest one.
    InPlace,
    /// Data that an earlier process left unsynced is neither synced nor discarded.
    NoSettling,
    /// The file is created under its final name at once.
    NoRename,
}

/// The whole disk at one moment, as the process and as the platter see it.
#[derive(Clone, Default)]
pub struct Snapshot {
    files: Vec<Inode>,
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<NameChange>,
    /// The newest record acknowledged when this was taken.
    pub acknowledged: u64,
    /// The newest record passed to the store when this was taken.
    pub attempted: u64,
}

/// Up to this many unsynced pieces, every subset of them is tried.
const MOST_BITS: u32 = 10;

type Names = BTreeMap<String, usize>;

#[derive(Clone, Default)]
struct Inode {
    cache: Vec<u8>,
    platter: Vec<u8>,
    unsynced: Vec<Piece>,
}

#[derive(Clone)]
enum Piece {
    Emptied,
    Bytes { offset: usize, bytes: Vec<u8> },
}

#[derive(Clone)]
enum NameChange {
    Made { name: String, file: usize },
    Moved { from: String, to: String },
    Removed { name: String },
}

#[derive(Default)]
struct Inner {
    now: Snapshot,
    history: Vec<Snapshot>,
    operations: usize,
    fail_at: Option<(usize, io::ErrorKind)>,
    failing: Option<io::ErrorKind>,
    free: Option<u64>,
    read_only: bool,
    no_history: bool,
    blocked: bool,
    waiting_in_sync: usize,
    plant: Option<Plant>,
    misused: bool,
}

/// An open file of the disk.
pub struct DiskFile {
    disk: Disk,
    file: usize,
    writable: bool,
    wrote: Mutex<bool>,
    failed: Mutex<bool>,
}

impl Disk {
    /// A disk in this state.
    pub fn from(snapshot: Snapshot) -> Self {
        let disk = Self::default();
        disk.lock().now = snapshot;
        disk
    }

    /// An empty disk with this fault.
    pub fn planted(plant: Option<Plant>) -> Self {
        Self::default().with(plant)
    }

    /// The same disk with this fault.
    pub fn with(self, plant: Option<Plant>) -> Self {
        self.lock().plant = plant;
        self
    }

    /// A function that opens it, any number of times.
    pub fn opener(&self) -> Arc<dyn Fn() -> io::Result<Self> + Send + Sync> {
        let disk = self.clone();
        Arc::new(move || Ok(disk.clone()))
    }

    /// Keeps no history of its states: for long runs that choose the moments of power loss themselves.
    pub fn without_history(self) -> Self {
        self.lock().no_history = true;
        self
    }

    /// Every state of the disk since its beginning or the last call, one entry for each operation that changed it.
    pub fn take_history(&self) -> Vec<Snapshot> {
        std::mem::take(&mut self.lock().history)
    }

    /// Notes that this record is about to be written.
    pub fn attempt(&self, record: u64) {
        self.lock().now.attempted = record;
    }

    /// Notes that this record was reported as durable.
    pub fn acknowledge(&self, record: u64) {
        let mut inner = self.lock();
        inner.now.acknowledged = record;
        inner.record();
    }

    /// The disk as it is now.
    pub fn now(&self) -> Snapshot {
        self.lock().now.clone()
    }

    /// Makes one future operation fail, counted from here, with a disk fault or a full disk.
    pub fn fail_at(&self, operation: usize, kind: io::ErrorKind) {
        let mut inner = self.lock();
        inner.operations = 0;
        inner.fail_at = Some((operation, kind));
    }

    /// This many bytes are free from now on, whatever is written.
    pub fn set_free(&self, bytes: u64) {
        self.lock().free = Some(bytes);
    }

    /// Makes every operation fail until this is called again.
    pub fn set_failing(&self, kind: Option<io::ErrorKind>) {
        self.lock().failing = kind;
    }

    /// Whether everything but reading fails from now on.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// Lets syncs of a file hang until unblocked.
    pub fn set_blocked(&self, blocked: bool) {
        self.lock().blocked = blocked;
        self.unblocked.notify_all();
    }

    /// Waits until a thread hangs in a sync.
    pub fn wait_until_blocked(&self) {
        let mut inner = self.lock();
        while inner.waiting_in_sync == 0 {
            inner = self.unblocked.wait(inner).unwrap();
        }
    }

    /// Whether a descriptor was used after a sync on it had failed.
    pub fn misused(&self) -> bool {
        self.lock().misused
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Snapshot {
    /// How many ways there are to lose power now: every subset of the unsynced pieces, or 1,024 of them where there
    /// are more.
    pub fn crashes(&self) -> usize {
        1 << self.unsynced().min(MOST_BITS)
    }

    fn unsynced(&self) -> u32 {
        let pieces = self.unsynced_names.len() + self.files.iter().map(|file| file.unsynced.len()).sum::<usize>();
        u32::try_from(pieces + usize::from(self.has_unsynced_move())).unwrap()
    }

    fn has_unsynced_move(&self) -> bool {
        self.unsynced_names.iter().any(|change| matches!(change, NameChange::Moved { .. }))
    }

    /// The disk after losing power: of the unsynced pieces, those named by the bits of `which` survive. The last file that
    /// was renamed may have both names: JFFS2 writes the new one before it deletes the old one.
    pub fn crash(&self, which: usize) -> Snapshot {
        let spread = self.unsynced() > MOST_BITS;
        // Spread by a golden-ratio hash; always includes the empty and the full set.
        let mut subset = match which {
            0 => 0,
            1 if spread => u64::MAX,
            _ if spread => (which as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).reverse_bits(),
            _ => which as u64,
        };
        let mut made_it = || {
            let this = subset & 1 == 1;
            subset = subset.rotate_right(1);
            this
        };
        let mut names = self.durable_names.clone();
        let mut moved = None;
        for change in &self.unsynced_names {
            if made_it() {
                change.apply(&mut names);
                moved = if let NameChange::Moved { from, to } = change { Some((from, to)) } else { None };
            }
        }
        let settle = |file: &Inode, made_it: &mut dyn FnMut() -> bool| {
            let mut platter = file.platter.clone();
            file.unsynced.iter().filter(|_| made_it()).for_each(|piece| piece.apply(&mut platter));
            Inode { cache: platter.clone(), platter, unsynced: Vec::new() }
        };
        let files = self.files.iter().map(|file| settle(file, &mut made_it)).collect();
        if self.has_unsynced_move()
            && made_it()
            && let Some((from, file)) = moved.and_then(|(from, to)| Some((from, *names.get(to)?)))
        {
            names.insert(from.clone(), file);
        }
        Snapshot { files, durable_names: names.clone(), names, unsynced_names: Vec::new(), ..*self }
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Made { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Moved { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Removed { name } => {
                names.remove(name);
            }
        }
    }
}

impl Piece {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Emptied => contents.clear(),
            Self::Bytes { offset, bytes } => {
                let end = offset + bytes.len();
                contents.resize(contents.len().max(end), 0);
                contents[*offset..end].copy_from_slice(bytes);
            }
        }
    }
}

impl Inner {
    fn record(&mut self) {
        if !self.no_history {
            self.history.push(self.now.clone());
        }
    }

    /// Counts an operation. Returns its error, if it is to fail.
    fn operation(&mut self) -> Option<io::ErrorKind> {
        let number = self.operations;
        self.operations += 1;
        match self.fail_at {
            Some((at, kind)) if at == number => Some(kind),
            _ => self.failing,
        }
    }
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        // In pieces, each of which may reach the disk without the others: the parts of a header and the halves of the
        // rest.
        let middle = 32 + bytes.len().saturating_sub(32) / 2;
        let mut from = 0;
        for to in [8, 16, 28, 32, middle, bytes.len()] {
            let to = to.min(bytes.len());
            if to > from {
                let piece = Piece::Bytes { offset: offset + from, bytes: bytes[from..to].to_vec() };
                piece.apply(&mut self.cache);
                self.unsynced.push(piece);
                from = to;
            }
        }
    }

    fn sync(&mut self) {
        for piece in std::mem::take(&mut self.unsynced) {
            piece.apply(&mut self.platter);
        }
    }
}

impl Filesystem for Disk {
    type File = DiskFile;

    fn free(&self) -> io::Result<u64> {
        Ok(self.lock().free.unwrap_or(u64::MAX))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<DiskFile> {
        let mut inner = self.lock();
        let name = match (inner.plant, access) {
            (Some(Plant::NoRename), Access::Create) => "state",
            _ => name,
        };
        if access != Access::Read {
            if inner.read_only {
                let missing = access == Access::Write && !inner.now.names.contains_key(name);
                let kind = if missing { io::ErrorKind::NotFound } else { io::ErrorKind::ReadOnlyFilesystem };
                return Err(kind.into());
            }
            if let Some(kind) = inner.operation() {
                return Err(kind.into());
            }
        }
        let file = match (inner.now.names.get(name).copied(), access) {
            (Some(file), Access::Create) => {
                inner.now.files[file].cache.clear();
                inner.now.files[file].unsynced.push(Piece::Emptied);
                file
            }
            (Some(file), _) => file,
            (None, Access::Create) => {
                let file = inner.now.files.len();
                inner.now.files.push(Inode::default());
                let change = NameChange::Made { name: name.into(), file };
                change.apply(&mut inner.now.names);
                inner.now.unsynced_names.push(change);
                file
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        let writable = access != Access::Read;
        if writable {
            inner.record();
        }
        drop(inner);
        Ok(DiskFile { disk: self.clone(), file, writable, wrote: Mutex::default(), failed: Mutex::default() })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(kind) = inner.operation() {
            return Err(kind.into());
        }
        if inner.plant == Some(Plant::NoRename) {
            return Ok(());
        }
        let change = NameChange::Moved { from: from.into(), to: to.into() };
        change.apply(&mut inner.now.names);
        inner.now.unsynced_names.push(change);
        inner.record();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if let Some(kind) = inner.operation() {
            return Err(kind.into());
        }
        if !inner.now.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Removed { name: name.into() };
        change.apply(&mut inner.now.names);
        inner.now.unsynced_names.push(change);
        inner.record();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().now.names.keys().cloned().collect())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(kind) = inner.operation() {
            return Err(kind.into());
        }
        if inner.plant != Some(Plant::NoDirectorySync) {
            inner.now.durable_names = inner.now.names.clone();
            inner.now.unsynced_names.clear();
        }
        inner.record();
        Ok(())
    }
}

impl DiskFile {
    fn used(&self, inner: &mut Inner) {
        inner.misused |= *self.failed.lock().unwrap();
    }
}

impl StateFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.lock();
        self.used(&mut inner);
        let cache = &inner.now.files[self.file].cache;
        let rest = cache.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        self.used(&mut inner);
        assert!(self.writable, "written through a descriptor for reading");
        *self.wrote.lock().unwrap() = true;
        let offset = if inner.plant == Some(Plant::InPlace) { 0 } else { offset as usize };
        let fault = inner.operation();
        // A full disk writes a part.
        let taken = if fault.is_some() { &bytes[..bytes.len() / 2] } else { bytes };
        inner.now.files[self.file].write(offset, taken);
        inner.record();
        fault.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        self.used(&mut inner);
        if inner.blocked {
            inner.waiting_in_sync += 1;
            self.disk.unblocked.notify_all();
            while inner.blocked {
                inner = self.disk.unblocked.wait(inner).unwrap();
            }
            inner.waiting_in_sync -= 1;
        }
        if inner.plant == Some(Plant::NoFileSync) {
            return Ok(());
        }
        if inner.plant == Some(Plant::NoSettling) && !*self.wrote.lock().unwrap() {
            return Ok(());
        }
        if let Some(kind) = inner.operation() {
            *self.failed.lock().unwrap() = true;
            // The first pieces reached the disk. The kernel marks the others clean although they did not.
            let file = &mut inner.now.files[self.file];
            let pieces = std::mem::take(&mut file.unsynced);
            pieces[..pieces.len() / 2].iter().for_each(|piece| piece.apply(&mut file.platter));
            inner.record();
            return Err(kind.into());
        }
        inner.now.files[self.file].sync();
        inner.record();
        Ok(())
    }

    fn forget(&self) {
        let mut inner = self.disk.lock();
        if inner.plant == Some(Plant::NoSettling) {
            return;
        }
        let file = &mut inner.now.files[self.file];
        file.cache = file.platter.clone();
        file.unsynced.iter().for_each(|piece| piece.apply(&mut file.cache));
    }
}
