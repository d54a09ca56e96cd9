//! Power cuts at every point of a recording: each change that the agent makes to the card is written down, and after each of them
//! every state is made that a file system may leave. In each the card is found as at a start, and three things hold:
//!
//! 1. every segment but those that were not yet synced is whole;
//! 2. the one that was open plays, and has at least what had been synced;
//! 3. no more is missing than what was filmed in the last two seconds.
//!
//! The model: bytes that were not synced may be there up to any length, and behind them blocks that were never written; a name that was
//! not synced may be missing, and one that was deleted may be there again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::disk::trace::{self, Op};
use crate::media::{
    recording::tests::{recorder, second},
    tests::on_card,
};

/// A file, as the file system and as the card knows it.
#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
    named: bool,
    deleted: bool,
}

#[derive(Debug, Clone, Default)]
struct Disk {
    files: BTreeMap<PathBuf, File>,
    /// Folders whose names were not synced.
    new_folders: BTreeSet<PathBuf>,
}

/// What became of bytes that were not synced, and of names.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Of the unsynced bytes, per mille.
    kept: usize,
    /// Blocks that were never written follow.
    with_holes: bool,
    /// Unsynced names are there, and deleted ones again.
    names: bool,
}

impl Disk {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Make(path) => drop(self.new_folders.insert(path.clone())),
            Op::Create(path) => drop(self.files.insert(path.clone(), File::default())),
            Op::Append(path, bytes) => self.file(path).bytes.extend_from_slice(bytes),
            Op::Truncate(path, bytes) => self.file(path).bytes.truncate(usize::try_from(*bytes).unwrap()),
            Op::Delete(path) => self.file(path).deleted = true,
            Op::SyncFile(path) => {
                let file = self.file(path);
                file.synced = file.bytes.len();
            }
            Op::SyncNames(dir) => {
                self.new_folders.retain(|path| path.parent() != Some(dir));
                self.files.retain(|path, file| !(file.deleted && path.parent() == Some(dir)));
                self.files.iter_mut().filter(|(path, _)| path.parent() == Some(dir)).for_each(|(_, file)| file.named = true);
            }
        }
    }

    fn file(&mut self, path: &Path) -> &mut File {
        self.files.get_mut(path).unwrap()
    }

    /// Whether a file is found whatever becomes of names.
    fn is_certain(&self, path: &Path, file: &File) -> bool {
        file.named && !file.deleted && !self.new_folders.contains(path.parent().unwrap())
    }

    /// Makes what is left of it.
    fn cut(&self, from: &Path, to: &Path, left: Left) {
        for (path, file) in &self.files {
            if !self.is_certain(path, file) && !left.names {
                continue;
            }
            let kept = file.synced + (file.bytes.len() - file.synced) * left.kept / 1000;
            let mut bytes = file.bytes[..kept].to_vec();
            if left.with_holes {
                bytes.resize(file.bytes.len(), 0);
            }
            let path = to.join(path.strip_prefix(from).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

/// How many seconds of film a file has: each fragment is one here. `None`: it is not of whole boxes.
fn seconds(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut fragments) = (0, 0);
    while at < bytes.len() {
        let size = u32::from_be_bytes(*bytes[at..].first_chunk()?) as usize;
        fragments += usize::from(bytes.get(at + 4..at + 8)? == b"mdat");
        at += size.max(8);
    }
    (at == bytes.len()).then_some(fragments)
}

/// What was done to the card while 14 s were filmed, and after how many whole seconds.
fn history(dir: &Path) -> Vec<(Op, usize)> {
    let mut recorder = recorder(dir, 150_000).waiting(100_000);
    let mut filmed = Vec::new();
    trace::begin();
    for n in 0..14 {
        for (frame, which) in second(n).zip(0..) {
            recorder.records(std::iter::once(frame));
            // The other thread comes a third of a second after the fragment was written.
            if which == 5 {
                recorder.syncs();
            }
            filmed.resize(trace::len(), usize::try_from(n).unwrap());
        }
    }
    trace::so_far().into_iter().zip(filmed).collect()
}

/// Cuts the power after each of these, in every way. Returns how many states that makes.
fn cut_everywhere(history: &[(Op, usize)], dir: &Path) -> Result<usize, String> {
    let (mut disk, mut states) = (Disk::default(), 0);
    for (op, filmed) in history {
        disk.apply(op);
        for kept in [0, 1, 300, 999, 1000] {
            for (with_holes, names) in [(false, false), (false, true), (true, true), (true, false)] {
                states += 1;
                let left = Left { kept, with_holes, names };
                let found = tempfile::tempdir_in("/dev/shm").unwrap();
                disk.cut(dir, found.path(), left);
                judge(&disk, dir, found.path(), *filmed).map_err(|wrong| format!("{wrong} ({left:?})"))?;
            }
        }
    }
    Ok(states)
}

/// Starts on what is left.
fn judge(disk: &Disk, dir: &Path, found: &Path, filmed: usize) -> Result<(), String> {
    let check = |holds: bool, wrong: String| if holds { Ok(()) } else { Err(wrong) };
    recorder(found, 150_000).starts();
    let (mut have, mut torn) = (0, 0);
    for (path, file) in &disk.files {
        let name = path.display();
        let Ok(bytes) = fs::read(found.join(path.strip_prefix(dir).unwrap())) else {
            check(!disk.is_certain(path, file) || file.synced == 0, format!("{name} is gone"))?;
            continue;
        };
        if file.deleted || file.synced == 0 {
            continue;
        }
        check(bytes.starts_with(&file.bytes[..file.synced]), format!("{name} has {} bytes of {}", bytes.len(), file.synced))?;
        check(file.bytes.starts_with(&bytes), format!("{name} has what was never written"))?;
        torn += usize::from(file.synced < file.bytes.len());
        check(torn < 2, format!("{name} is the second that is not whole"))?;
        check(file.synced < file.bytes.len() || bytes == file.bytes, format!("{name} was whole"))?;
        let seconds = seconds(&bytes).filter(|seconds| *seconds > 0).ok_or_else(|| format!("{name} is torn"))?;
        // Segments are of two seconds, and their numbers tell which.
        let number: usize = path.file_stem().unwrap().to_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap();
        have = have.max(number * 2 + seconds);
    }
    // The second that is being filmed counts as well.
    check(have + 2 > filmed, format!("{have} s are left of {filmed} s and what is being filmed"))
}

#[test]
fn a_power_cut_takes_no_more_than_what_was_filmed_in_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let history = history(&dir);
    assert!(history.iter().any(|(op, _)| matches!(op, Op::Delete(_))) && on_card(&dir).len() > 2);
    let states = cut_everywhere(&history, &dir).unwrap();
    println!("{states} states");
    assert!(states > 500, "{states}");

    // It finds what is planted: syncs that are left out.
    let without = |left_out: fn(&Op) -> bool| history.iter().filter(|(op, _)| !left_out(op)).cloned().collect::<Vec<_>>();
    let root = |op: &Op| matches!(op, Op::SyncNames(dir) if dir.file_name().is_some_and(|name| !name.to_str().unwrap().starts_with("20")));
    let days = |op: &Op| matches!(op, Op::SyncNames(dir) if dir.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("20")));
    for planted in [without(|op| matches!(op, Op::SyncFile(_))), without(root), without(days)] {
        cut_everywhere(&planted, &dir).unwrap_err();
    }
}
