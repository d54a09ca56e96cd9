//! What needs root before it is given up: the state directory and the runtime directory are made and handed to the agent's
//! user. Nothing else on the camera changes hands, and nothing that another user could have put there.

use std::{
    ffi::CStr,
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::{ConfinementError, account::Account};
use crate::config::{Config, Listen, Motion};

/// The directory of the agent's sockets, below `/run` or `/var/run`. A socket elsewhere needs a directory of the firmware's.
const RUNTIME_DIR: &str = "kasa-care-agent";

/// Makes the agent's directories, as `account` or, without one, as root.
pub(super) fn prepare(config: &Config, account: Option<&Account>) -> Result<(), ConfinementError> {
    let name = || account.map_or_else(|| "root".to_owned(), |account| account.name.clone());
    let fault = |path: &Path| {
        let (path, name) = (path.to_owned(), name());
        move |why: io::Error| ConfinementError::Directory { path, name, why }
    };
    let state = &config.device.state_dir;
    make(state, 0o700).map_err(fault(state))?;
    if let Some(account) = account {
        hand_over(state, account);
    }
    let sockets = [
        config.uploader.as_ref().map(|uploader| &uploader.socket),
        config.media.as_ref().and_then(|media| if let Motion::Socket(path) = &media.motion { Some(path) } else { None }),
        config.status.as_ref().and_then(|listen| if let Listen::Unix(path) = listen { Some(path) } else { None }),
    ];
    let is_runtime_dir = |folder: &&Path| folder.file_name().is_some_and(|name| name == RUNTIME_DIR);
    for folder in sockets.into_iter().flatten().filter_map(|socket| socket.parent()).filter(is_runtime_dir) {
        make(folder, 0o750).map_err(fault(folder))?;
        if let Some(account) = account {
            hand_over(folder, account);
        }
    }
    Ok(())
}

/// Makes a directory, whose parent must exist. Returns whether it was missing. A read-only file system, or one whose parent
/// comes later, is for the part that needs the directory: it names it in a condition and tries again.
fn make(path: &Path, mode: u32) -> io::Result<bool> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Hands over a directory and what root has left in it when the agent ran as root. What cannot be is left as it is: a file
/// system that a power cut has harmed must not keep the agent from starting, and the part that needs the file names it in a
/// condition.
fn hand_over(dir: &Path, account: &Account) {
    let opened = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match opened.map_err(io::Error::from).and_then(|dir| hand_over_opened(&dir, account)) {
        // As for `make`.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(directory = %dir.display(), user = account.name, %error, "not handed over to the agent's user"),
        Ok(()) => {}
    }
}

/// Works on open files, which nobody can exchange for a link meanwhile.
fn hand_over_opened(dir: &OwnedFd, account: &Account) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        if let Err(error) = hand_over_entry(dir, name, account) {
            tracing::warn!(file = %name.to_string_lossy(), user = account.name, %error, "not handed over to the agent's user");
        }
    }
    give(dir, account)
}

fn hand_over_entry(dir: &OwnedFd, name: &CStr, account: &Account) -> io::Result<()> {
    let file = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Directory {
        return give(&file, account);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    hand_over_opened(&rustix::fs::openat(dir, name, flags, Mode::empty())?, account)
}

/// Gives what belongs to root to the account. A link is left alone, and so is a file with a second name: the agent's user
/// could have linked another's file into its directory.
fn give(file: &OwnedFd, account: &Account) -> io::Result<()> {
    let found = rustix::fs::fstat(file)?;
    let is_ours = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => found.st_nlink == 1,
        _ => false,
    };
    if !is_ours || found.st_uid != 0 {
        return Ok(());
    }
    match rustix::fs::chownat(file, "", Some(account.uid), Some(account.gid), AtFlags::EMPTY_PATH) {
        // vfat has no owners; what cannot be written there shows when it is tried.
        Err(Errno::PERM | Errno::ROFS) => Ok(()),
        given => Ok(given?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Gid, Uid};

    use super::*;

    #[test]
    fn the_state_changes_hands_and_nothing_that_is_linked_into_it() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can hand files over");
        }
        let dir = tempfile::tempdir().unwrap();
        let (state, other) = (dir.path().join("state"), dir.path().join("shadow"));
        fs::create_dir_all(state.join("spool")).unwrap();
        for file in [state.join("state"), state.join("spool/journal"), other.clone(), dir.path().join("target")] {
            fs::write(file, "").unwrap();
        }
        fs::hard_link(&other, state.join("linked")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("target"), state.join("symlink")).unwrap();
        let account = Account { name: "a".into(), uid: Uid::from_raw(990), gid: Gid::from_raw(991), groups: vec![] };
        hand_over(&state, &account);
        let owner = |path: &Path| fs::symlink_metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        for ours in [&state, &state.join("state"), &state.join("spool"), &state.join("spool/journal")] {
            assert_eq!(owner(ours), (990, 991), "{}", ours.display());
        }
        for not_ours in [&other, &state.join("linked"), &state.join("symlink"), &dir.path().join("target")] {
            assert_eq!(owner(not_ours), (0, 0), "{}", not_ours.display());
        }
        hand_over(&dir.path().join("missing"), &account);
    }

    #[test]
    fn a_directory_whose_parent_is_missing_is_left_to_the_part_that_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!make(&dir.path().join("later/run"), 0o750).unwrap());
        assert!(make(&dir.path().join("run"), 0o750).unwrap());
        assert!(!make(&dir.path().join("run"), 0o750).unwrap());
    }
}
