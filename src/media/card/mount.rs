//! Which file system a directory is on, and whether its card is still there.

use std::{fs, io::ErrorKind, os::fd::OwnedFd, path::Path};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

/// Which file system, and which mounting of it (0 where the kernel does not say, before Linux 5.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub device: u64,
    mount: u64,
}

impl Mounted {
    pub fn of(dir: &OwnedFd) -> rustix::io::Result<Self> {
        Ok(Self { device: rustix::fs::fstat(dir)?.st_dev, mount: mount_id(dir) })
    }
}

/// Opens a directory for nothing but finding what is in it.
pub(crate) fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether something is mounted there: its file system is another than that of the directory above.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let mounted = |path: &Path| Mounted::of(&open(path).ok()?).ok();
    let above = path.parent().and_then(mounted);
    mounted(path).is_some_and(|here| above.is_some_and(|above| here != above))
}

fn mount_id(dir: &OwnedFd) -> u64 {
    let flags = StatxFlags::MNT_ID;
    let told = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, flags);
    told.ok().filter(|told| told.stx_mask & flags.bits() != 0).map_or(0, |told| told.stx_mnt_id)
}

/// Whether a block device has gone although its file system is still mounted: writes would be lost.
pub(crate) fn is_gone(device: u64) -> bool {
    let devices = Path::new("/sys/dev/block");
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    // File systems without a device have the major number 0.
    major != 0
        && devices.exists()
        && fs::symlink_metadata(devices.join(format!("{major}:{minor}"))).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

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
}
