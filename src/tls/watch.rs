//! Detects that certificate files were replaced on disk. It polls: that is cheap and works on every file system, through
//! symlinks, and when a whole directory is replaced. SIGHUP reloads at once.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Metadata that differs between two versions of a file; `None` for a file without metadata.
type Version = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// A set of files and the versions that were loaded.
#[derive(Debug)]
pub struct FileWatch {
    files: Vec<PathBuf>,
    loaded: Vec<Version>,
    /// The versions at the last poll.
    last: Vec<Version>,
}

impl FileWatch {
    /// Watches these files from now on. Call it before reading them, so that a change in between is detected.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let files: Vec<_> = files.into_iter().map(Path::to_owned).collect();
        let loaded = versions(&files);
        Self { files, last: loaded.clone(), loaded }
    }

    /// Polls the files: whether they differ from those loaded. Returns true once for each version, and only when nothing has
    /// changed since the previous poll, because a certificate and its key are seldom replaced in the same instant.
    pub fn has_changed(&mut self) -> bool {
        let found = versions(&self.files);
        let still = found == self.last;
        let changed = still && found != self.loaded;
        if changed {
            self.loaded.clone_from(&found);
        }
        self.last = found;
        changed
    }
}

fn versions(files: &[PathBuf]) -> Vec<Version> {
    files.iter().map(|file| version(file)).collect()
}

fn version(file: &Path) -> Version {
    let found = fs::metadata(file).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_files_are_reported_once_they_stop_changing() {
        let dir = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert", "key"].map(|name| dir.path().join(name));
        fs::write(&cert, "1").unwrap();
        fs::write(&key, "1").unwrap();
        let mut watch = FileWatch::new([&*cert, &*key]);
        assert!(!watch.has_changed() && !watch.has_changed());

        fs::write(&cert, "22").unwrap();
        assert!(!watch.has_changed(), "the key may follow");
        fs::write(&key, "22").unwrap();
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
        assert!(!watch.has_changed(), "once");

        // As tools that install certificates do: another file under the same name.
        let new = dir.path().join("new");
        fs::write(&new, "22").unwrap();
        fs::rename(&new, &cert).unwrap();
        assert!(!watch.has_changed());
        assert!(watch.has_changed());

        fs::remove_file(&key).unwrap();
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
    }
}
