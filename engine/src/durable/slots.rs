//! Two slots in one preallocated file: which one counts, and which one the next record is written to.
//!
//! A record is written over the *older* slot and synced, so the newest durable one is never touched, and an
//! interrupted write leaves the other slot readable. The file has its full length from the start: a write changes no
//! metadata, so only the slot itself can tear. It runs on any [`Filesystem`], including the one in the tests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;

use super::Restored;
use super::filesystem::{Access, Filesystem, StateFile};
use super::slot::{self, FORMAT, HEADER_BYTES, Slot};

/// The state file's name in the state directory.
pub const STATE_FILE: &str = "state";
/// The name under which it is prepared, so that a file called [`STATE_FILE`] is always complete.
const NEW_STATE_FILE: &str = "state.new";

/// Why a record could not be written.
#[derive(Debug)]
pub enum WriteFault {
    /// The record is empty, or larger than a slot; a retry cannot succeed.
    Size,
    /// The file system's error.
    Io(io::Error),
}

impl From<io::Error> for WriteFault {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

/// The two slots of a state file, open for writing.
#[derive(Debug)]
pub struct Slots<F: Filesystem> {
    dir: F,
    slot_bytes: usize,
    /// Absent after any fault: the next write then opens a fresh descriptor.
    file: Option<F::File>,
    /// Whether the file's name is known to be durable.
    named: bool,
    /// The slot for the next record: never the newest durable one.
    target: usize,
    /// The sequence of the next record.
    sequence: u64,
    /// Whether the slot that is not `target` may hold something that was unreadable once and might be readable again.
    distrust_other: bool,
    writes: Arc<AtomicU64>,
}

impl<F: Filesystem> Slots<F> {
    /// Reads the newest record. A file that cannot be created or written yet is no error here: the next write tries
    /// again.
    ///
    /// # Errors
    /// If a state file exists and cannot be opened.
    pub fn open(dir: F, slot_bytes: usize) -> io::Result<(Self, Restored)> {
        let fresh = Self {
            dir,
            slot_bytes,
            file: None,
            named: false,
            target: 1,
            sequence: 2,
            distrust_other: false,
            writes: Arc::new(AtomicU64::new(0)),
        };
        fresh.restore()
    }

    /// The directory the slots are in.
    pub fn dir(&self) -> &F {
        &self.dir
    }

    /// The largest record a slot takes, in bytes.
    pub fn most(&self) -> usize {
        self.slot_bytes - HEADER_BYTES
    }

    /// A count of slot writes, successful or not: a measure of flash wear.
    pub fn writes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.writes)
    }

    /// Makes `record` the newest one; on return it is durable.
    ///
    /// # Errors
    /// The cause. The record may or may not be found after a crash, the previous one still exists, and the next write
    /// opens a fresh descriptor.
    pub fn write(&mut self, record: &[u8]) -> Result<(), WriteFault> {
        self.check_size(record)?;
        self.write_slot(record, 0)?;
        if self.distrust_other {
            self.write_slot(record, 0)?;
            self.distrust_other = false;
        }
        Ok(())
    }

    /// Makes `record` the only one: both slots hold it, followed by zeros, and no byte of an earlier record is left in
    /// the file.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn overwrite(&mut self, record: &[u8]) -> Result<(), WriteFault> {
        self.check_size(record)?;
        let padding = self.most() - record.len();
        self.write_slot(record, padding)?;
        self.write_slot(record, padding)?;
        self.distrust_other = false;
        Ok(())
    }

    fn check_size(&self, record: &[u8]) -> Result<(), WriteFault> {
        if record.is_empty() || record.len() > self.most() { Err(WriteFault::Size) } else { Ok(()) }
    }

    fn write_slot(&mut self, record: &[u8], padding: usize) -> Result<(), WriteFault> {
        let mut bytes = slot::encode(self.sequence, record).ok_or(WriteFault::Size)?;
        bytes.resize(bytes.len() + padding, 0);
        // Put back only after success: a descriptor that has failed is not used again.
        let file = match self.file.take() {
            Some(file) => file,
            None => self.reopen()?,
        };
        self.writes.fetch_add(1, Ordering::Relaxed);
        file.write_at(&bytes, (self.target * self.slot_bytes) as u64)?;
        file.sync()?;
        self.file = Some(file);
        self.target ^= 1;
        self.sequence += 1;
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<F::File> {
        let file = match self.dir.open(STATE_FILE, Access::Write) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => self.create()?,
            file => file?,
        };
        if !self.named {
            self.dir.sync()?;
            self.named = true;
        }
        Ok(file)
    }

    /// Creates the file under another name, with one valid slot that means "no record yet", so that the first real
    /// write has a valid slot beside it too. It writes zeros instead of reserving blocks, because a reserved block
    /// would still need its metadata later.
    fn create(&mut self) -> io::Result<F::File> {
        let file = self.dir.open(NEW_STATE_FILE, Access::Create)?;
        let mut image = slot::encode(1, &[]).unwrap_or_default();
        image.resize(2 * self.slot_bytes, 0);
        file.write_at(&image, 0)?;
        file.sync()?;
        self.dir.rename(NEW_STATE_FILE, STATE_FILE)?;
        self.named = false;
        self.target = 1;
        self.sequence = 2;
        Ok(file)
    }

    fn restore(mut self) -> io::Result<(Self, Restored)> {
        let (mut file, mut writable) = match self.dir.open(STATE_FILE, Access::Write) {
            Ok(file) => (file, true),
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                match self.reopen() {
                    Ok(file) => self.file = Some(file),
                    Err(why) => tracing::warn!(%why, "cannot make the state file yet"),
                }
                return Ok((self, Restored::Empty));
            }
            Err(why) => {
                tracing::warn!(%why, "the state file can only be read");
                (self.dir.open(STATE_FILE, Access::Read)?, false)
            }
        };
        // An agent that was killed may have left a record in the kernel's memory only. If it counted as the newest
        // durable one, the next write would overwrite the slot that really is: so sync it first, or ignore it.
        if let Err(why) = file.sync() {
            tracing::warn!(%why, "the state file does not sync");
            file = self.dir.open(STATE_FILE, Access::Read)?;
            writable = false;
        }
        file.forget();
        let restored = self.judge(&file);
        self.named = writable && self.dir.sync().is_ok();
        if self.named {
            self.file = Some(file);
        }
        Ok((self, restored))
    }

    fn judge(&mut self, file: &F::File) -> Restored {
        let images = [self.read(file, 0), self.read(file, 1)];
        let slots = images.each_ref().map(|image| image.as_deref().map_or(Slot::Torn, slot::decode));
        let mut newest = None;
        for (index, slot) in slots.iter().enumerate() {
            if let Slot::Whole { format, sequence, record } = slot
                && newest.is_none_or(|(_, _, highest, _)| *sequence > highest)
            {
                newest = Some((index, *format, *sequence, *record));
            }
        }
        let Some((index, format, sequence, record)) = newest else {
            self.target = 0;
            self.sequence = 1;
            if slots == [Slot::Blank, Slot::Blank] {
                return Restored::Empty;
            }
            self.distrust_other = true;
            return Restored::Unreadable;
        };
        self.target = 1 - index;
        self.sequence = sequence + 1;
        if format != FORMAT {
            tracing::warn!(format, "the newest record was written by another firmware");
            return Restored::Unreadable;
        }
        if slots.contains(&Slot::Torn) {
            tracing::warn!(slot = 1 - index, "one state slot is torn; the other is used");
        }
        if record.is_empty() { Restored::Empty } else { Restored::Record(record.to_vec()) }
    }

    /// All bytes of a slot, or `None` if they cannot be read or are incomplete.
    fn read(&self, file: &F::File, index: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.slot_bytes];
        match file.read_at(&mut bytes, (index * self.slot_bytes) as u64) {
            Ok(filled) if filled == bytes.len() => Some(bytes),
            Ok(filled) => {
                tracing::warn!(slot = index, bytes = filled, "a state slot is cut short");
                None
            }
            Err(why) => {
                tracing::warn!(slot = index, %why, "a state slot cannot be read");
                None
            }
        }
    }
}
