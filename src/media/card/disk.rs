//! Every change that the agent makes to a card, so that a test can write them down and play what a power cut leaves of them.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

/// A directory below an open one. A link is refused: it could lead off the card.
pub(crate) fn folder(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, if name.is_empty() { "." } else { name }, flags, Mode::empty())?)
}

pub(crate) fn make_folder(dir: &OwnedFd, name: &str) -> io::Result<()> {
    #[cfg(test)]
    trace::note(trace::Op::Make(trace::below(dir, name)));
    Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?)
}

/// Fails if the file exists.
pub(crate) fn create(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
    let made = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))?;
    #[cfg(test)]
    trace::note(trace::Op::Create(trace::below(dir, name)));
    Ok(made.into())
}

/// Opens a file to append to it.
pub(crate) fn reopen(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
}

pub(crate) fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    trace::note(trace::Op::Append(trace::path(&*file), bytes.to_vec()));
    file.write_all(bytes)
}

pub(crate) fn truncate(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(test)]
    trace::note(trace::Op::Truncate(trace::path(file), bytes));
    file.set_len(bytes)
}

/// A file that is not there is deleted already.
pub(crate) fn delete(dir: &OwnedFd, name: &str) -> io::Result<()> {
    #[cfg(test)]
    trace::note(trace::Op::Delete(trace::below(dir, name)));
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(error) if error != Errno::NOENT => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes a folder if it is empty.
pub(crate) fn remove_folder(dir: &OwnedFd, name: &str) -> bool {
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok()
}

/// Waits until the file is on the card, its size with it.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    file.sync_data()?;
    #[cfg(test)]
    trace::note(trace::Op::SyncFile(trace::path(file)));
    Ok(())
}

/// Waits until the names in a directory are on the card.
pub(crate) fn sync_names(dir: impl AsFd) -> io::Result<()> {
    let open = rustix::fs::openat(&dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::fs::fsync(&open) {
        // Some file systems have no such thing, and write names at once.
        Err(error) if error != Errno::INVAL => return Err(error.into()),
        _ => {}
    }
    #[cfg(test)]
    trace::note(trace::Op::SyncNames(trace::path(dir)));
    Ok(())
}

/// What was done to the card by this thread, for the tests of power cuts.
#[cfg(test)]
pub(crate) mod trace {
    use std::{
        cell::RefCell,
        os::fd::{AsFd, AsRawFd},
        path::PathBuf,
    };

    #[derive(Debug, Clone)]
    pub enum Op {
        Make(PathBuf),
        Create(PathBuf),
        Append(PathBuf, Vec<u8>),
        Truncate(PathBuf, u64),
        Delete(PathBuf),
        SyncFile(PathBuf),
        SyncNames(PathBuf),
    }

    thread_local! {
        static OPS: RefCell<Option<Vec<Op>>> = const { RefCell::new(None) };
    }

    pub fn begin() {
        OPS.set(Some(Vec::new()));
    }

    /// What has been noted so far.
    pub fn so_far() -> Vec<Op> {
        OPS.with_borrow(|ops| ops.clone().unwrap_or_default())
    }

    pub fn len() -> usize {
        OPS.with_borrow(|ops| ops.as_ref().map_or(0, Vec::len))
    }

    pub fn note(op: Op) {
        OPS.with_borrow_mut(|ops| {
            if let Some(ops) = ops {
                ops.push(op);
            }
        });
    }

    pub fn path(open: impl AsFd) -> PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", open.as_fd().as_raw_fd())).unwrap_or_default()
    }

    pub fn below(dir: impl AsFd, name: &str) -> PathBuf {
        path(dir).join(name)
    }
}
