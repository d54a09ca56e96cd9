//! The few file operations the store and the flash spool need, as a trait, so that the tests can put an in-memory disk in
//! place of the real one and lose, tear and reorder what was not synced. [`Directory`] is the real one; [`StateDir`] is one
//! that holds the lock.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, CWD, Dir, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::StoreError;

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

/// A directory on the real file system.
#[derive(Debug)]
pub struct Directory {
    dir: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory on a fresh descriptor, making its last component if that is missing.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Whatever else stands in the way shows when it is opened.
        let made = rustix::fs::mkdir(path, Mode::RWXU).is_ok();
        if made {
            sync_parent(path)?;
        }
        let dir = open_dir(path)?;
        if made {
            give_to_owner_of(open_dir(parent_of(path))?, &dir)?;
        }
        Ok(Self { dir, path: path.to_owned() })
    }
}

impl Filesystem for Directory {
    type File = File;

    fn open(&self, name: &str, access: Access) -> io::Result<File> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
            Access::Create => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let file: File = rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode)?.into();
        if access == Access::Create {
            give_to_owner_of(&self.dir, &file)?;
        }
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            // A name that is not text is none that this agent has given.
            if let Ok(name) = entry?.file_name().to_str() {
                names.extend((name != "." && name != "..").then(|| name.to_owned()));
            }
        }
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    fn free(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.dir)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// The state directory of a running agent, locked as long as this value lives.
#[derive(Debug)]
pub struct StateDir(Directory);

impl StateDir {
    /// Opens the directory and takes its lock, making its last component if that is missing.
    ///
    /// The lock is `flock` on the descriptor of the directory itself: it needs no file, so it also holds on a read-only
    /// file system, and it goes away with the process however that ends.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another agent has it; [`StoreError::Directory`] if the directory cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fault = |why: io::Error| StoreError::Directory { path: path.to_owned(), why };
        let directory = Directory::open(path).map_err(fault)?;
        match rustix::fs::flock(&directory.dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(directory)),
            Err(Errno::WOULDBLOCK) => Err(StoreError::Locked { path: path.to_owned() }),
            Err(why) => Err(fault(why.into())),
        }
    }

    /// Where the directory is, for messages.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Filesystem for StateDir {
    type File = File;

    fn open(&self, name: &str, access: Access) -> io::Result<File> {
        self.0.open(name, access)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl StateFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match FileExt::read_at(self, &mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self)?)
    }

    fn forget(&self) {
        // Advice, not an order: there is nothing to do if the file system does not take it.
        let _ = rustix::fs::fadvise(self, 0, None, Advice::DontNeed);
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn sync_parent(path: &Path) -> Result<(), Errno> {
    rustix::fs::fsync(open_dir(parent_of(path))?)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// What a command run by root makes here must be usable by the agent, which runs as the directory's owner.
fn give_to_owner_of(dir: impl AsFd, made: impl AsFd) -> Result<(), Errno> {
    let (owner, ours) = (rustix::fs::fstat(dir)?, rustix::fs::fstat(&made)?);
    if (owner.st_uid, owner.st_gid) == (ours.st_uid, ours.st_gid) || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    rustix::fs::fchown(made, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))
}
