//! The timeline's file. New entries are appended; when the file is full it is replaced by the newest ones. Whatever is lost in
//! a power cut, the file is the old one, the new one, or the old one with part of the last line, which is not read.
//!
//! ```text
//! kasa-care-agent timeline 1
//! 1f0e3dad [{"number":1,…},{"number":2,…}]     CRC-32 (IEEE) of what stands between the brackets, and what one write appended
//! ```
//!
//! A later entry of a number replaces the earlier one.

use std::{collections::BTreeMap, io};

use care_engine::durable::checksum;
use care_engine::durable::filesystem::{Access, Filesystem, StateFile};

use super::Entry;

pub(super) const NAME: &str = "timeline";
/// A new file, until it is whole.
pub(super) const PART: &str = "timeline.part";
/// A file that could not be read whole, for support.
pub(super) const DAMAGED: &str = "timeline.damaged";
/// The longest file, bytes.
pub(super) const MOST_BYTES: usize = 128 * 1024;
/// The longest file after it was replaced, bytes: so some hundred entries can be appended before the next time.
pub(super) const REPLACED_BYTES: usize = 96 * 1024;
const TITLE: &[u8] = b"kasa-care-agent timeline 1\n";

/// What a start found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Every entry that can be read, oldest first.
    pub entries: Vec<Entry>,
    /// Why the file was set aside, if it was.
    pub damage: Option<String>,
}

pub(super) struct File<F: Filesystem> {
    open: Box<dyn Fn() -> io::Result<F> + Send>,
    /// Where the next entries are appended; `None` if the file must be replaced.
    end: Option<usize>,
}

impl<F: Filesystem> File<F> {
    pub fn new(open: impl Fn() -> io::Result<F> + Send + 'static) -> Self {
        Self { open: Box::new(open), end: None }
    }

    /// Reads what earlier runs have written, and sets a damaged file aside.
    pub fn read(&mut self) -> Found {
        let (dir, bytes) = match (self.open)().and_then(|dir| read(&dir).map(|bytes| (dir, bytes))) {
            Ok(found) => found,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Found::default(),
            Err(why) => return Found { entries: Vec::new(), damage: Some(format!("it cannot be read: {why}")) },
        };
        let (entries, whole, damage) = parse(&bytes);
        self.end = (whole == bytes.len()).then_some(whole);
        let Some(damage) = damage else { return Found { entries, damage: None } };
        self.end = None;
        let kept = match dir.rename(NAME, DAMAGED).and_then(|()| dir.sync()) {
            Ok(()) => format!("{damage}; it was set aside as {DAMAGED}"),
            Err(why) => format!("{damage}; it cannot be set aside: {why}"),
        };
        Found { entries, damage: Some(kept) }
    }

    /// Appends these entries. False: they have no room, or the file's end is not known, so it must be replaced.
    ///
    /// # Errors
    /// The system's. What of them is on flash is then unknown.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<bool> {
        let line = checksum::line(&serde_json::to_vec(entries)?);
        let Some(end) = self.end.take().filter(|end| end + line.len() <= MOST_BYTES) else { return Ok(false) };
        let file = (self.open)()?.open(NAME, Access::Write)?;
        file.write_at(&line, end as u64)?;
        file.sync()?;
        self.end = Some(end + line.len());
        Ok(true)
    }

    /// Replaces the file by these entries, oldest first; the oldest give way if they have no room. Returns the number of the
    /// oldest that has.
    ///
    /// # Errors
    /// The system's. The file is then the old one or the new one.
    pub fn replace(&mut self, entries: &[Entry]) -> io::Result<u64> {
        self.end = None;
        let (mut lines, mut bytes) = (Vec::new(), TITLE.len());
        let mut oldest = entries.last().map_or(0, |last| last.number + 1);
        for entry in entries.iter().rev() {
            let line = checksum::line(&serde_json::to_vec(std::slice::from_ref(entry))?);
            bytes += line.len();
            if bytes > REPLACED_BYTES {
                break;
            }
            oldest = entry.number;
            lines.push(line);
        }
        lines.push(TITLE.to_vec());
        lines.reverse();
        let text = lines.concat();
        let dir = (self.open)()?;
        let written = dir.open(PART, Access::Create).and_then(|file| {
            file.write_at(&text, 0)?;
            file.sync()
        });
        if let Err(why) = written.and_then(|()| dir.rename(PART, NAME)) {
            // A failure here does no harm: nothing reads it, and the next time begins with it.
            let _ = dir.remove(PART);
            return Err(why);
        }
        dir.sync()?;
        self.end = Some(text.len());
        Ok(oldest)
    }

    /// Leaves these entries alone on flash: replaces the file, or removes it if that fails, and removes one that was set aside.
    ///
    /// # Errors
    /// The system's. It is then not certain that the others are gone.
    pub fn erase_but(&mut self, entries: &[Entry]) -> io::Result<()> {
        let replaced = self.replace(entries);
        let dir = (self.open)()?;
        if replaced.is_err() {
            remove(&dir, NAME)?;
        }
        remove(&dir, DAMAGED)?;
        dir.sync()
    }
}

/// Removes all of it: for a factory reset.
///
/// # Errors
/// The system's.
pub(super) fn erase<F: Filesystem>(dir: &F) -> io::Result<()> {
    for name in [NAME, PART, DAMAGED] {
        remove(dir, name)?;
    }
    dir.sync()
}

fn remove<F: Filesystem>(dir: &F, name: &str) -> io::Result<()> {
    match dir.remove(name) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// The file's bytes, one more than it may have at most. A new file that was never finished is removed.
fn read<F: Filesystem>(dir: &F) -> io::Result<Vec<u8>> {
    // Where that is not possible nothing can be written either, and it is never read.
    let _ = dir.remove(PART);
    let file = dir.open(NAME, Access::Read)?;
    let mut bytes = vec![0; MOST_BYTES + 1];
    let filled = file.read_at(&mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// The entries, how many bytes of the file are whole, and what is wrong with the rest. A last line that is not whole is what a
/// power cut leaves.
pub(super) fn parse(bytes: &[u8]) -> (Vec<Entry>, usize, Option<String>) {
    let mut entries = BTreeMap::new();
    let (mut whole, mut bad) = (0, 0);
    let mut damage = (bytes.len() > MOST_BYTES).then(|| format!("it is longer than {MOST_BYTES} bytes"));
    match bytes.strip_prefix(TITLE) {
        None => damage = Some("it does not begin as this agent's does".to_owned()),
        Some(_) => whole = TITLE.len(),
    }
    let mut at = 0;
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        at += line.len();
        match checksum::text_of(line).and_then(|json| serde_json::from_slice::<Vec<Entry>>(json).ok()) {
            Some(read) => {
                entries.extend(read.into_iter().map(|entry| (entry.number, entry)));
                if bad > 0 && damage.is_none() {
                    damage = Some(format!("{bad} of its lines before line {} cannot be read", number + 1));
                }
                whole = at;
            }
            None if number > 0 => bad += 1,
            None => {}
        }
    }
    (entries.into_values().collect(), whole, damage)
}
