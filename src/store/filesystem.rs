//! Directories on the real file system, behind the trait that the store and the flash spool work on. [`Directory`] is
//! a plain one; [`StateDir`] is one that holds the agent's lock.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use care_engine::durable::filesystem::{Access, Filesystem, StateFile};
use rustix::fs::{Advice, AtFlags, CWD, Dir, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::StoreError;
use crate::space;

/// A directory on the real file system.
#[derive(Debug)]
pub struct Directory {
    dir: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory on a fresh descriptor, creating its last component if that is missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let made = rustix::fs::mkdir(path, Mode::RWXU);
        if made.is_ok() {
            sync_parent(path)?;
        }
        let dir = open_dir(path).map_err(|why| match made {
            // A full or read-only file system.
            Err(unmade) if why.kind() == io::ErrorKind::NotFound => unmade,
            _ => why,
        })?;
        if made.is_ok() {
            chown_to_owner_of(open_dir(parent_of(path))?, &dir)?;
        }
        Ok(Self { dir, path: path.to_owned() })
    }
}

impl Filesystem for Directory {
    type File = FlashFile;

    fn open(&self, name: &str, access: Access) -> io::Result<FlashFile> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
            Access::Create => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let file: File = rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode)?.into();
        if access == Access::Create {
            chown_to_owner_of(&self.dir, &file)?;
        }
        Ok(FlashFile(file))
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
            // The agent gives no file a name that is not UTF-8.
            if let Ok(name) = entry?.file_name().to_str() {
                names.extend((name != "." && name != "..").then(|| name.to_owned()));
            }
        }
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(sync_names(&self.dir)?)
    }

    fn free(&self) -> io::Result<u64> {
        Ok(space::of(&self.dir)?.free)
    }
}

/// The state directory of a running agent, locked as long as this value lives.
#[derive(Debug)]
pub struct StateDir(Directory);

impl StateDir {
    /// Opens the directory and takes its lock, creating its last component if that is missing.
    ///
    /// The lock is `flock` on the descriptor of the directory itself: it needs no file, so it also holds on a
    /// read-only file system, and the kernel releases it when the process ends in any way.
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

    /// The directory's path, for messages.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Filesystem for StateDir {
    type File = FlashFile;

    fn open(&self, name: &str, access: Access) -> io::Result<FlashFile> {
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

/// A file on the real file system.
#[derive(Debug)]
pub struct FlashFile(File);

impl StateFile for FlashFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn forget(&self) {
        // Only a hint: if the file system ignores it, nothing else can be done.
        let _ = rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed);
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn sync_parent(path: &Path) -> Result<(), Errno> {
    sync_names(open_dir(parent_of(path))?)
}

/// Makes the names in a directory durable. Some file systems of cameras cannot sync a directory; all of them can sync
/// themselves.
fn sync_names(dir: impl AsFd) -> Result<(), Errno> {
    match rustix::fs::fsync(&dir) {
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => rustix::fs::syncfs(&dir),
        synced => synced,
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Files that a command creates as root must be usable by the agent, which runs as the directory's owner.
fn chown_to_owner_of(dir: impl AsFd, made: impl AsFd) -> Result<(), Errno> {
    let (owner, ours) = (rustix::fs::fstat(dir)?, rustix::fs::fstat(&made)?);
    if (owner.st_uid, owner.st_gid) == (ours.st_uid, ours.st_gid) || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    rustix::fs::fchown(made, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_made_is_not_called_missing() {
        // Nothing can be made there, whoever asks.
        let why = Directory::open(Path::new("/sys/made-by-a-test")).unwrap_err();
        assert_ne!(why.kind(), io::ErrorKind::NotFound, "{why}");
        let why = Directory::open(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::NotFound, "{why}");
    }

    #[test]
    fn a_directory_that_cannot_be_synced_is_synced_with_its_file_system() {
        // /proc is one.
        let dir = open_dir(Path::new("/proc")).unwrap();
        assert_eq!(rustix::fs::fsync(&dir), Err(Errno::INVAL));
        assert_eq!(sync_names(&dir), Ok(()));
    }
}
