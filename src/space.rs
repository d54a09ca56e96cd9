//! The space of a mounted file system. On MIPS through the C library: the structure that rustix 1.1 gives the kernel there
//! is 8 bytes too short, so the kernel refuses it and qemu-user writes beyond it.

use std::{io, os::fd::AsFd};

/// What `fstatvfs` tells of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// Its size, bytes.
    pub(crate) whole: u64,
    /// What a program without privileges may still write, bytes.
    pub(crate) free: u64,
    /// Whether it is mounted `sync`.
    pub(crate) synchronous: bool,
}

/// The space of the file system that an open file or directory is on; `O_PATH` suffices.
///
/// # Errors
/// The kernel's, which a broken or pulled disk may cause.
#[cfg(not(target_arch = "mips"))]
pub(crate) fn of(file: impl AsFd) -> io::Result<Space> {
    use rustix::fs::StatVfsMountFlags;

    let told = rustix::fs::fstatvfs(file)?;
    Ok(Space {
        whole: told.f_blocks.saturating_mul(told.f_frsize),
        free: told.f_bavail.saturating_mul(told.f_frsize),
        synchronous: told.f_flag.contains(StatVfsMountFlags::SYNCHRONOUS),
    })
}

/// The space of the file system that an open file or directory is on; `O_PATH` suffices.
///
/// # Errors
/// The kernel's, which a broken or pulled disk may cause.
#[cfg(target_arch = "mips")]
#[allow(unsafe_code)]
pub(crate) fn of(file: impl AsFd) -> io::Result<Space> {
    use std::{mem::MaybeUninit, os::fd::AsRawFd};

    let mut told = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the descriptor is open for as long as it is borrowed; the C library writes one statvfs and keeps no pointer.
    if unsafe { libc::fstatvfs(file.as_fd().as_raw_fd(), told.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a statvfs is plain integers, for which all zeroes is a value, and it has been written.
    let told = unsafe { told.assume_init() };
    Ok(Space {
        whole: told.f_blocks.saturating_mul(told.f_frsize.into()),
        free: told.f_bavail.saturating_mul(told.f_frsize.into()),
        synchronous: told.f_flag & libc::ST_SYNCHRONOUS != 0,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, process::Command};

    use super::*;

    #[test]
    fn the_size_is_what_stat_says() {
        let dir = tempfile::tempdir().unwrap();
        let said = Command::new("stat").args(["--file-system", "--format=%b %S"]).arg(dir.path()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let (blocks, size) = said.trim().split_once(' ').unwrap();
        let told = of(File::open(dir.path()).unwrap()).unwrap();
        assert_eq!(told.whole, blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap());
        assert!(0 < told.free && told.free <= told.whole && !told.synchronous, "{told:?}");
    }
}
