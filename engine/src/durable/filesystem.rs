//! The few file operations that a durable record and the agent's clip spool need, as a trait. The agent implements it
//! on a real directory; [`super::disk`] implements it in memory and loses, tears and reorders data that was not
//! synced.

use std::io;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading an existing file.
    Read,
    /// For reading and writing an existing file.
    Write,
    /// For writing a new file; truncates an existing one.
    Create,
}

/// One directory, with the operations that the store needs.
pub trait Filesystem: Send + 'static {
    /// A file of this directory.
    type File: StateFile;

    /// Opens a file on a fresh descriptor.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;

    /// Renames a file, replacing any file of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Unlinks a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names in the directory, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes the names in the directory durable.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that are free on its file system for users other than root.
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

    /// Makes the written data durable. After an error the data on disk is unknown, and a second sync on the same
    /// descriptor would succeed without writing anything: the caller drops the file instead.
    fn sync(&self) -> io::Result<()>;

    /// Drops the file's clean pages from the kernel's cache, so that the next read comes from the disk. This is only a
    /// hint and may have no effect.
    fn forget(&self);
}
