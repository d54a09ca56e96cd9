//! The camera's own watchdog for `supervise --watchdog`: a watchdog device (`/dev/watchdog1`), or a file that a vendor's daemon
//! looks at. It is opened at the first sign of progress and kept by nothing else, so that a camera whose agent hangs, or cannot
//! be started, restarts; a regular stop disarms it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
};

/// Any byte but `V` keeps a watchdog device (Documentation/watchdog/watchdog-api.rst in the kernel's sources).
const ALIVE: &[u8] = b"1";
/// The magic byte: the device is closed on purpose.
const CLOSING: &[u8] = b"V";

/// A watchdog that starts with the first progress.
#[derive(Debug)]
pub(super) struct Watchdog {
    path: PathBuf,
    open: Option<File>,
    /// It has failed, and that has been said.
    failing: bool,
}

impl Watchdog {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, failing: false }
    }

    /// The command has made progress.
    pub(super) fn keep(&mut self) {
        let kept = self.opened().and_then(|file| put(file, ALIVE));
        match kept {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(watchdog = %self.path.display(), "the watchdog takes signs of life again");
            }
            Ok(()) => {}
            Err(error) => {
                self.open = None;
                if !std::mem::replace(&mut self.failing, true) {
                    let advice = match error.raw_os_error() {
                        Some(libc::EBUSY) => "another program holds it: leave it to that one, without --watchdog",
                        _ => "it is tried again at every sign of life",
                    };
                    tracing::error!(watchdog = %self.path.display(), %error, advice, "the watchdog cannot be kept");
                }
            }
        }
    }

    /// A regular stop: nobody needs to restart the camera.
    pub(super) fn disarm(&mut self) {
        let Some(file) = self.open.take() else { return };
        if let Err(error) = put(&file, CLOSING) {
            tracing::error!(watchdog = %self.path.display(), %error, "the watchdog cannot be stopped; the camera may restart");
        }
    }

    fn opened(&mut self) -> io::Result<&File> {
        // A file that a daemon has removed is made again.
        let gone = self.open.as_ref().is_some_and(|file| is_file(file) && !self.path.exists());
        let open = self.open.take().filter(|_| !gone).map_or_else(|| open(&self.path), Ok)?;
        Ok(self.open.insert(open))
    }
}

/// A vendor's file is made where it is missing, but never in place of a missing device.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(!path.starts_with("/dev")).truncate(false).open(path)
}

fn is_file(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| !metadata.file_type().is_char_device() && metadata.is_file())
}

/// Devices cannot be written at an offset, and files must not grow.
fn put(mut file: &File, byte: &[u8]) -> io::Result<()> {
    if is_file(file) { file.write_all_at(byte, 0) } else { file.write_all(byte) }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::OpenOptionsExt, process::Command};

    use super::*;

    #[test]
    fn a_vendors_file_is_made_touched_and_never_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alive");
        let mut watchdog = Watchdog::new(&path);
        assert!(!path.exists(), "nothing happens before the first sign of life");
        for _ in 0..3 {
            watchdog.keep();
        }
        assert_eq!(std::fs::read(&path).unwrap(), ALIVE);
        std::fs::remove_file(&path).unwrap();
        watchdog.keep();
        assert_eq!(std::fs::read(&path).unwrap(), ALIVE);
        watchdog.disarm();
        assert_eq!(std::fs::read(&path).unwrap(), CLOSING);
    }

    /// A pipe shows every write, as a device would take it.
    #[test]
    fn a_device_gets_one_byte_a_sign_and_the_magic_byte_only_when_disarmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut device = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut written = |watchdog: &mut dyn FnMut()| {
            watchdog();
            let mut bytes = [0; 64];
            let length = device.read(&mut bytes).unwrap_or(0);
            bytes[..length].to_vec()
        };
        let mut watchdog = Watchdog::new(&path);
        assert_eq!(written(&mut || watchdog.keep()), b"1");
        assert_eq!(written(&mut || (0..3).for_each(|_| watchdog.keep())), b"111");
        assert_eq!(written(&mut || watchdog.disarm()), b"V");
        let mut killed = Watchdog::new(&path);
        assert_eq!(written(&mut || killed.keep()), b"1");
        assert_eq!(written(&mut || drop(std::mem::replace(&mut killed, Watchdog::new(&path)))), b"", "no magic byte");
    }

    #[test]
    fn a_missing_device_is_not_replaced_by_a_file() {
        let path = Path::new("/dev/kasa-care-agent-has-no-such-watchdog");
        let mut watchdog = Watchdog::new(path);
        watchdog.keep();
        assert!(!path.exists() && watchdog.failing);
        watchdog.disarm();
        assert!(!path.exists());
    }
}
