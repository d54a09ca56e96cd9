//! The log in two files that never grow beyond their bound: at the bound the newer one takes the older one's place. The file is
//! opened for each line, so that a card or tmpfs can be unmounted, and several processes (the agent and what supervises it)
//! share it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::PathBuf,
};

use rustix::fs::{FlockOperation, OFlags, flock};

/// How often a file that has just been renamed by another process is opened again.
const ATTEMPTS: usize = 4;

/// A log file and the one before it.
#[derive(Debug)]
pub(super) struct BoundedFile {
    path: PathBuf,
    older: PathBuf,
    most_bytes: u64,
}

impl BoundedFile {
    pub(super) fn new(path: PathBuf, most_bytes: u64) -> Self {
        let mut older = OsString::from(&path);
        older.push(".1");
        Self { path, older: older.into(), most_bytes }
    }

    /// Adds a line. One that is longer than the bound is cut off.
    ///
    /// # Errors
    /// It could not be written, or not whole.
    pub(super) fn append(&self, line: &[u8]) -> io::Result<()> {
        let line = &line[..line.len().min(usize::try_from(self.most_bytes).unwrap_or(usize::MAX))];
        for _ in 0..ATTEMPTS {
            let mut file = self.open()?;
            let size = file.metadata()?.len();
            if size == 0 || size + line.len() as u64 <= self.most_bytes {
                return write_whole(&mut file, size, line);
            }
            self.rotate(&file)?;
        }
        Err(io::Error::new(ErrorKind::ResourceBusy, "other processes rename it again and again"))
    }

    /// Not through a link: the directory may belong to the agent's user while root writes here too.
    fn open(&self) -> io::Result<File> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(flags.bits().cast_signed()).mode(0o640);
        match options.open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened.and_then(only_a_file),
        }
        let file = match options.clone().create_new(true).open(&self.path) {
            // Another process was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return options.open(&self.path).and_then(only_a_file),
            made => made?,
        };
        // What root makes in the agent's own directory is the agent's.
        if let Some(dir) = self.path.parent()
            && let (Ok(dir), Ok(own)) = (fs::metadata(dir), file.metadata())
            && dir.uid() != own.uid()
        {
            fchown(&file, Some(dir.uid()), Some(dir.gid()))?;
        }
        Ok(file)
    }

    /// Renames the file, unless another process does or has done it.
    fn rotate(&self, file: &File) -> io::Result<()> {
        flock(file, FlockOperation::NonBlockingLockExclusive)?;
        let (ours, there) = (file.metadata()?, fs::symlink_metadata(&self.path));
        match there {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => fs::rename(&self.path, &self.older),
            _ => Ok(()),
        }
    }
}

fn only_a_file(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(ErrorKind::InvalidInput, "it is no file")) }
}

/// A file system that is full may take half a line: that half is removed again.
fn write_whole(file: &mut File, size: u64, line: &[u8]) -> io::Result<()> {
    let written = file.write_all(line);
    if written.is_err() && file.metadata()?.len() < size + line.len() as u64 {
        file.set_len(size)?;
    }
    written
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, os::unix::fs::symlink, thread};

    use super::*;

    fn text(path: &PathBuf) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn two_files_hold_the_newest_lines_and_never_more_than_their_bound() {
        let dir = tempfile::tempdir().unwrap();
        let log = BoundedFile::new(dir.path().join("log"), 1000);
        for number in 0..500 {
            log.append(format!("line {number}\n").as_bytes()).unwrap();
            let sizes = [&log.path, &log.older].map(|path| fs::metadata(path).map_or(0, |found| found.len()));
            assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        }
        let all = text(&log.older) + &text(&log.path);
        let lines: Vec<&str> = all.lines().collect();
        assert!(lines.len() > 100, "{lines:?}");
        let expected: Vec<String> = (500 - lines.len()..500).map(|number| format!("line {number}")).collect();
        assert_eq!(lines, expected);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        log.append(&[b'x'; 5000]).unwrap();
        assert_eq!(fs::metadata(&log.path).unwrap().len(), 1000);
    }

    #[test]
    fn several_writers_share_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let log = BoundedFile::new(path.clone(), 64_000);
                thread::spawn(move || (0..400).filter(|number| log.append(format!("{writer} {number}\n").as_bytes()).is_err()).count())
            })
            .collect();
        // A rename in progress is the only reason to refuse a line, which then goes to standard error.
        let refused: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        let log = BoundedFile::new(path, 64_000);
        let all = text(&log.older) + &text(&log.path);
        let lines: BTreeSet<&str> = all.lines().collect();
        assert_eq!(lines.len() + refused, 1600);
    }

    #[test]
    fn nothing_is_written_through_a_link_or_to_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("log"));
        fs::write(&victim, "kept").unwrap();
        symlink(&victim, &path).unwrap();
        let log = BoundedFile::new(path.clone(), 1000);
        assert!(log.append(b"a line\n").is_err());
        assert_eq!(text(&victim), "kept");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(log.append(b"a line\n").is_err());
        fs::remove_dir(&path).unwrap();
        log.append(b"a line\n").unwrap();
        assert_eq!(text(&path), "a line\n", "it is used when it is there");
    }

    #[test]
    fn a_directory_that_is_missing_or_removed_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("later");
        let log = BoundedFile::new(below.join("log"), 1000);
        assert_eq!(log.append(b"1\n").unwrap_err().kind(), ErrorKind::NotFound);
        for _ in 0..2 {
            fs::create_dir(&below).unwrap();
            log.append(b"2\n").unwrap();
            fs::remove_dir_all(&below).unwrap();
        }
    }
}
