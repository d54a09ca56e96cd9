//! The durable record: the state that must survive a power cut, in two checksummed slots of one small file.
//!
//! The store handles bytes, not entitlements: the engine defines the record, and PUBACK waits for [`Written::Done`].
//! It is not for clips (the spool keeps those) and not a database: one record, replaced as a whole.
//!
//! At start [`Store::open`] takes the lock and reads; [`Store::start`] moves the writing to its own thread.

pub(crate) mod filesystem;
mod peek;
#[cfg(test)]
mod tests;
mod thread;

use std::io;
use std::path::{Path, PathBuf};

pub use care_engine::durable::Restored;
use care_engine::durable::slot::HEADER_BYTES;
use care_engine::durable::slots::{STATE_FILE, Slots, WriteFault};

use self::filesystem::StateDir;
pub use self::thread::{StoreThread, Written};

/// Bytes of a slot. The largest record has two keysets (64 KiB), a token (8 KiB) and a report; a multiple of common
/// erase blocks.
const SLOT_BYTES: usize = 192 * 1024;

/// The largest record, in bytes.
pub const RECORD_MOST: usize = SLOT_BYTES - HEADER_BYTES;

/// Why the state cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory is missing or belongs to another user.
    #[error("cannot open the state directory {}: {why}; create it for the agent's user, or set device.state_dir", path.display())]
    Directory {
        /// The configured directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        why: io::Error,
    },
    /// Another agent uses the same state.
    #[error("another agent uses the state directory {}; stop it first", path.display())]
    Locked {
        /// The configured directory.
        path: PathBuf,
    },
    /// The state file exists and cannot be opened.
    #[error("cannot open the state file {}: {why}; it must belong to the agent's user", path.display())]
    Open {
        /// The state file.
        path: PathBuf,
        /// The system's error.
        #[source]
        why: io::Error,
    },
    /// The record could not be made durable; the previous one is untouched.
    #[error("cannot write the record to {}: {why}; check the state directory's space, mount and flash", path.display())]
    Write {
        /// The state file.
        path: PathBuf,
        /// The system's error.
        #[source]
        why: io::Error,
    },
    /// A record of an impossible size for a slot.
    #[error("a record of {bytes} bytes cannot be written: it must have 1 to {RECORD_MOST}")]
    Size {
        /// The record's size.
        bytes: usize,
    },
}

/// The state of one agent: the lock on its directory, and the newest record in it.
#[derive(Debug)]
pub struct Store {
    slots: Slots<StateDir>,
}

impl Store {
    /// Locks the state directory and reads the newest record. A directory that cannot be written is opened all the
    /// same: then every write is tried and fails.
    ///
    /// # Errors
    /// If the directory or the state file cannot be opened, or another agent has the lock.
    pub fn open(dir: &Path) -> Result<(Self, Restored), StoreError> {
        let (slots, restored) =
            Slots::open(StateDir::open(dir)?, SLOT_BYTES).map_err(|why| StoreError::Open { path: dir.join(STATE_FILE), why })?;
        Ok((Self { slots }, restored))
    }

    /// Reads the newest record beside a running agent, for read-only commands: takes no lock and changes nothing.
    ///
    /// # Errors
    /// If a state file is there and cannot be opened.
    pub fn peek(dir: &Path) -> Result<Restored, StoreError> {
        peek::peek(dir)
    }

    /// Whether an agent is running on this state directory.
    pub fn is_locked(dir: &Path) -> bool {
        peek::is_locked(dir)
    }

    /// Makes `record` durable and leaves no byte of an earlier one in the file: for commands such as `factory-reset`.
    ///
    /// # Errors
    /// If it is not certain that the record is durable, or its size is wrong.
    pub fn write_now(&mut self, record: &[u8]) -> Result<(), StoreError> {
        self.slots.overwrite(record).map_err(|fault| explain(&self.slots, record, fault))
    }

    /// Moves the store to its own thread. `done` is called on that thread, once for each write and for each first
    /// failure of a ticket; it must not block.
    pub fn start(self, done: impl Fn(Written) + Send + 'static) -> StoreThread {
        StoreThread::start(self.slots, explain, done)
    }
}

fn explain(slots: &Slots<StateDir>, record: &[u8], fault: WriteFault) -> StoreError {
    match fault {
        WriteFault::Size => StoreError::Size { bytes: record.len() },
        WriteFault::Io(why) => StoreError::Write { path: slots.dir().path().join(STATE_FILE), why },
    }
}
