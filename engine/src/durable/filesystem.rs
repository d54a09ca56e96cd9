//! The few file operations that a durable record and the agent's clip spool need, as a trait. The agent implements it on a
//! real directory; [`super::disk`] implements it in memory and loses, tears and reorders what was not synced.

use std::io;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading an existing file.
    Read,
    /// For reading and writing an existing file.
    Write,
    /// For writing a new file, emptied if it is there.
    Create,
}

/// One directory, and what the store does in it.
pub trait Filesystem: Send + 'static {
    /// A file of this directory.
    type File: StateFile;

    /// Opens a file on a fresh descriptor.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file's name away.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names in the directory, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes the names in the directory durable.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that are free on its file system for who is not root.
    fn free(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// An open file.
pub trait StateFile: Send + Sync + 'static {
    /// Fills `buf` from `offset` on; returns fewer bytes only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable. After an error nothing is known, and a second try on the same descriptor would
    /// succeed without having written anything: the caller drops the file instead.
    fn sync(&self) -> io::Result<()>;

    /// Drops what the kernel holds of the file in memory, as far as it is clean, so that the next read shows what is on
    /// the disk. A hint: where it does nothing, the read is as good as it ever was.
    fn forget(&self);
}
