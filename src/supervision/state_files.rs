//! The files by which an init script knows `supervise`: its process id, which is also a lock, and one line about what it does.
//! Neither is needed for supervising: a status file that cannot be written is said once.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// The process id's file, locked while the supervisor runs and removed with it.
pub(super) struct PidFile {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl PidFile {
    /// # Errors
    /// Another supervisor holds it, or it cannot be written.
    pub(super) fn hold(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path);
        loop {
            let mut file = open().with_context(|| format!("opening the process id's file {shown}"))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                let mut holder = String::new();
                // Only for the message.
                let _ = file.read_to_string(&mut holder);
                bail!("a supervisor runs already: process {} holds {shown}", holder.trim());
            }
            // Its last holder may have removed it in between.
            let same = |found: fs::Metadata| file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (found.dev(), found.ino()));
            if !fs::metadata(path).is_ok_and(same) {
                continue;
            }
            let write = |file: &mut File| {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())
            };
            write(&mut file).with_context(|| format!("writing the process id's file {shown}"))?;
            return Ok(Self { path: path.to_owned(), _lock: file });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // While the lock is still held. A file that stays is locked by nobody, and the next start takes it.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "the process id's file stays");
        }
    }
}

/// One line for people and scripts, replaced whole.
pub(super) struct StatusFile {
    path: Option<PathBuf>,
    failing: bool,
}

impl StatusFile {
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_owned), failing: false }
    }

    pub(super) fn write(&mut self, line: &str) {
        let Some(path) = &self.path else { return };
        let mut part = path.clone().into_os_string();
        part.push(".part");
        match fs::write(&part, format!("{line}\n")).and_then(|()| fs::rename(&part, path)) {
            Ok(()) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(file = %path.display(), %error, "the status file cannot be written");
            }
            Err(_) => {}
        }
    }

    /// Nothing is supervised any more.
    pub(super) fn remove(&mut self) {
        if let Some(path) = &self.path {
            // It may never have been written, which has been said.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_supervisor_holds_the_file_and_the_next_takes_it_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("care.pid");
        // As after a power cut.
        fs::write(&path, "999999999999\n").unwrap();
        let held = PidFile::hold(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let refused = PidFile::hold(&path).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        assert!(!path.exists());
        PidFile::hold(&path).unwrap();
    }

    #[test]
    fn the_status_is_one_line_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("late/status");
        let mut status = StatusFile::new(Some(&path));
        status.write("nowhere to write to");
        assert!(status.failing);
        fs::create_dir(dir.path().join("late")).unwrap();
        status.write("a long line about what it does");
        status.write("short");
        assert!(!status.failing);
        assert_eq!(fs::read_to_string(&path).unwrap(), "short\n");
        status.remove();
        assert_eq!(fs::read_dir(dir.path().join("late")).unwrap().count(), 0);
    }
}
