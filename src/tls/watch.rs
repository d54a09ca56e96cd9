//! Notices that certificate files have been exchanged on disk (scenario 79). Looking at them now and then costs nothing and
//! works on every file system, over symlinks and when a whole directory is exchanged; whoever is in a hurry sends SIGHUP.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What tells one version of a file from another without reading it; `None` for a file that cannot be looked at.
type Version = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// Some files, as they were when they were read.
#[derive(Debug)]
pub struct Watch {
    files: Vec<PathBuf>,
    /// What was read.
    taken: Vec<Version>,
    /// What was there at the last look.
    seen: Vec<Version>,
}

impl Watch {
    /// Watches these files from now on. Call it before they are read: what changes in between is then noticed.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let files: Vec<_> = files.into_iter().map(Path::to_owned).collect();
        let taken = versions(&files);
        Self { files, seen: taken.clone(), taken }
    }

    /// Looks at them; whether they are others than those taken. Says so once for each version, and only when they have held
    /// still since the look before: a certificate and its key are seldom exchanged in one instant.
    pub fn has_changed(&mut self) -> bool {
        let found = versions(&self.files);
        let still = found == self.seen;
        let changed = still && found != self.taken;
        if changed {
            self.taken.clone_from(&found);
        }
        self.seen = found;
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
    fn what_is_exchanged_is_noticed_once_it_holds_still() {
        let dir = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert", "key"].map(|name| dir.path().join(name));
        fs::write(&cert, "1").unwrap();
        fs::write(&key, "1").unwrap();
        let mut watch = Watch::new([&*cert, &*key]);
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
