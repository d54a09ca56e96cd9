//! The spool's directory: writes clips into it, erases them, finds them at start. A restart can continue after any
//! operation, however much of it reached the flash. The spool decides which clips are kept; this module only handles
//! files.
//!
//! After any fault the descriptors are dropped, so that nothing is tried again on one whose sync has failed.

use std::{collections::BTreeSet, io, sync::Arc};

use bytes::Bytes;
use care_engine::durable::filesystem::{Access, Filesystem, StateFile};
use thiserror::Error;
use uuid::Uuid;

use super::{
    growing::Growing,
    header::{self, Facts, HEADER_BYTES, Unreadable},
    journal,
    write_budget::WriteCount,
};

pub(super) const JOURNAL: &str = "journal";
pub(super) const NEW_JOURNAL: &str = "journal.part";
pub(super) const CLIP: &str = ".clip";
pub(super) const PART: &str = ".part";
/// A journal longer than this is started afresh. It is no longer needed once the files that it names are unlinked.
const JOURNAL_LONG: u64 = 16 * 1024;
/// The space that writing a clip leaves free on the file system. The state needs it, because file systems that do not
/// overwrite in place (UBIFS, F2FS) need new blocks for each write. So does the journal, which must always be able to
/// record an erasure.
pub(super) const RESERVE: u64 = 1024 * 1024;
/// The longest journal that is read: far longer than an agent writes.
const JOURNAL_MOST: usize = 1 << 20;

/// How the directory is opened, on a fresh descriptor each time.
pub(in crate::upload) type Opener<F> = Arc<dyn Fn() -> io::Result<F> + Send + Sync>;

/// What a start found.
#[derive(Debug, Default)]
pub(in crate::upload) struct Scan {
    /// Complete clips, of any owner and age.
    pub(in crate::upload) clips: Vec<Facts>,
    /// Files that were erased because they cannot be judged: torn, or another firmware's.
    pub(in crate::upload) unreadable: u32,
    /// What earlier runs have written to flash.
    pub(in crate::upload) written: WriteCount,
}

/// The result of writing a clip to flash.
#[derive(Debug)]
pub(in crate::upload) enum Put {
    /// It survives a power cut from now on.
    Durable,
    /// The clip was no longer wanted; no file is left under its name.
    Unwanted,
    /// It may or may not survive a power cut; writing may be tried again.
    Failed(io::Error),
}

pub(in crate::upload) struct Files<F: Filesystem> {
    open: Opener<F>,
    dir: Option<F>,
    journal: Option<Journal<F::File>>,
    /// Recorded as erased; their files may still be there.
    gone: BTreeSet<Uuid>,
    /// Whether everything in the directory is known.
    scanned: bool,
    /// What was written to flash, with what is being written now.
    pub(super) written: WriteCount,
    /// Files of clips that are being filmed.
    pub(super) growing: Growing<F::File>,
}

struct Journal<T> {
    file: T,
    end: u64,
}

impl<F: Filesystem> Files<F> {
    pub(in crate::upload) fn new(open: Opener<F>) -> Self {
        let (gone, growing) = (BTreeSet::new(), Growing::default());
        Self { open, dir: None, journal: None, gone, scanned: false, written: WriteCount::default(), growing }
    }

    /// Scans what the last run left. Half-written and erased clips are removed, the rest is returned. If the scan
    /// fails, no clip here will ever be judged: all are erased before anything else is written.
    pub(in crate::upload) fn scan(&mut self) -> io::Result<Scan> {
        let scan = self.try_scan(true);
        self.or_give_up(scan)
    }

    /// Bytes written to flash, including the next write: every header and every journal line carries this count from
    /// here on.
    pub(in crate::upload) fn count(&mut self, written: WriteCount) {
        self.written = written;
    }

    pub(super) fn purge_unscanned(&mut self) -> io::Result<()> {
        if !self.scanned {
            let scan = self.try_scan(false);
            self.or_give_up(scan)?;
        }
        Ok(())
    }

    /// Puts a clip on flash: `name.part`, sync, rename, sync of the directory. One sync for the clip, whatever its
    /// size. `wanted` is called between any two pieces.
    pub(in crate::upload) fn put(&mut self, id: Uuid, facts: &Facts, fragments: &[Bytes], wanted: impl Fn() -> bool) -> Put {
        let part = name(id, PART);
        if let Err(why) = self.purge_unscanned() {
            return Put::Failed(why);
        }
        match self.write(&part, facts, fragments, wanted) {
            Ok(true) => {}
            Ok(false) => return Put::Unwanted,
            Err(why) => {
                // A failure here does no harm: a `.part` file is never read as a clip.
                let _ = self.dir().and_then(|dir| dir.remove(&part));
                self.give_up();
                return Put::Failed(why);
            }
        }
        let named = self.dir().and_then(|dir| dir.rename(&part, &name(id, CLIP)).and_then(|()| dir.sync()));
        match self.or_give_up(named) {
            Ok(()) => Put::Durable,
            Err(why) => Put::Failed(why),
        }
    }

    /// Records durably that these are erased: by one line in the journal or, if that cannot be written, by unlinking
    /// them at once. From here on no scan finds them, even if their files are still there.
    pub(in crate::upload) fn record_erased(&mut self, ids: impl IntoIterator<Item = Uuid>) -> io::Result<()> {
        self.gone.extend(ids);
        self.gone.iter().for_each(|id| self.growing.forget(*id));
        self.purge_unscanned()?;
        let said = self.write_erased();
        match self.or_give_up(said) {
            Ok(()) => Ok(()),
            Err(why) => {
                tracing::warn!(%why, "the spool's journal cannot be written; unlinking at once");
                self.unlink()
            }
        }
    }

    /// Unlinks what is recorded as erased, and makes that durable.
    pub(in crate::upload) fn unlink(&mut self) -> io::Result<()> {
        let unlinked = self.try_unlink();
        self.or_give_up(unlinked)
    }

    pub(super) fn dir(&mut self) -> io::Result<&F> {
        if self.dir.is_none() {
            self.dir = Some((self.open)()?);
        }
        self.dir.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn or_give_up<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.give_up();
        }
        result
    }

    pub(super) fn give_up(&mut self) {
        self.dir = None;
        self.journal = None;
    }

    fn write(&mut self, part: &str, facts: &Facts, fragments: &[Bytes], wanted: impl Fn() -> bool) -> io::Result<bool> {
        let header = header::with_written(header::encode(facts).ok_or(io::ErrorKind::InvalidInput)?, self.written);
        let dir = self.dir()?;
        keep_reserve(dir, HEADER_BYTES + facts.bytes)?;
        let file = dir.open(part, Access::Create)?;
        file.write_at(&header, 0)?;
        let mut end = HEADER_BYTES;
        for fragment in fragments {
            if !wanted() {
                dir.remove(part)?;
                return Ok(false);
            }
            file.write_at(fragment, end)?;
            end += fragment.len() as u64;
        }
        file.sync()?;
        if !wanted() {
            dir.remove(part)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn write_erased(&mut self) -> io::Result<()> {
        if self.gone.is_empty() {
            return Ok(());
        }
        let line = journal::line(&self.gone, self.written);
        match self.journal.take() {
            Some(mut journal) if journal.end < JOURNAL_LONG => {
                journal.file.write_at(&line, journal.end)?;
                journal.file.sync()?;
                journal.end += line.len() as u64;
                self.journal = Some(journal);
            }
            _ => self.journal = Some(self.begin_journal(&line)?),
        }
        Ok(())
    }

    /// Replaces the journal with one that has only this line. The files that the old one named are unlinked durably.
    fn begin_journal(&mut self, line: &[u8]) -> io::Result<Journal<F::File>> {
        let dir = self.dir()?;
        let text = [journal::title(), line.to_vec()].concat();
        let file = dir.open(NEW_JOURNAL, Access::Create)?;
        file.write_at(&text, 0)?;
        file.sync()?;
        dir.rename(NEW_JOURNAL, JOURNAL)?;
        dir.sync()?;
        Ok(Journal { file, end: text.len() as u64 })
    }

    fn try_unlink(&mut self) -> io::Result<()> {
        if self.gone.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.gone.iter().flat_map(|id| [name(*id, CLIP), name(*id, PART)]).collect();
        let dir = self.dir()?;
        for name in names {
            remove(dir, &name)?;
        }
        dir.sync()?;
        self.gone.clear();
        Ok(())
    }

    /// Erases files that no restart may find: `.part` files, clips that the journal records as erased, and clips that
    /// cannot be judged; with `keep` false every clip.
    fn try_scan(&mut self, keep: bool) -> io::Result<Scan> {
        let dir = self.dir()?;
        let names = dir.list()?;
        let mut scan = Scan::default();
        let gone = if names.iter().any(|name| name == JOURNAL) { read_journal(dir)? } else { Some(journal::Gone::default()) };
        let (gone, in_journal) = (gone.as_ref().map(|gone| &gone.ids), gone.as_ref().map(|gone| gone.written));
        scan.written = in_journal.unwrap_or_default();
        if gone.is_none() {
            tracing::error!("the spool's journal cannot be read, so it is unknown which clips were erased: erasing every clip on flash");
        }
        for name in &names {
            if !name.ends_with(CLIP) && !name.ends_with(PART) {
                continue;
            }
            // The write count is valid even if the clip is erased, or was never completed.
            let header = read_header(dir, name);
            if let Some(written) = header.as_ref().ok().and_then(|header| header::written(header)) {
                scan.written = scan.written.newer(written);
            }
            let Some(id) = name.strip_suffix(CLIP) else {
                remove(dir, name)?;
                continue;
            };
            let said_gone = Uuid::try_parse(id).is_ok_and(|id| gone.is_some_and(|gone| gone.contains(&id)));
            if said_gone {
                remove(dir, name)?;
                continue;
            }
            match header.map_err(Misfit::Io).and_then(|header| read_facts(dir, name, &header)) {
                Ok(facts) if keep && gone.is_some() && facts.clip == id => scan.clips.push(facts),
                found => {
                    let why = found.map_or_else(
                        |why| why.to_string(),
                        |_| "its name is not that of its clip, or the journal cannot be read".to_owned(),
                    );
                    tracing::warn!(clip = id, why, "a clip on flash cannot be judged; erasing it");
                    remove(dir, name)?;
                    scan.unreadable += 1;
                }
            }
        }
        // A run that was killed may have left names in the kernel's memory only. After this sync everything reported
        // is durable.
        dir.sync()?;
        match gone {
            // Otherwise the next start would apply it again.
            None => drop(self.begin_journal(&journal::line(&BTreeSet::new(), scan.written))?),
            Some(gone) if !gone.is_empty() => {
                if let Err(why) = self.begin_journal(&journal::line(&BTreeSet::new(), scan.written)) {
                    // All files that it names are unlinked, and the next line starts a new journal.
                    tracing::warn!(%why, "the spool's journal cannot be shortened");
                }
            }
            Some(_) => {}
        }
        scan.clips.sort_by_key(|facts| facts.started_ms);
        self.scanned = true;
        Ok(scan)
    }
}

/// A clip's bytes, read from its file.
pub(in crate::upload) struct ClipFile {
    file: Box<dyn StateFile>,
}

impl ClipFile {
    pub(in crate::upload) fn open<F: Filesystem>(dir: &F, id: Uuid) -> io::Result<Self> {
        // A clip that grew has the second name until its file is complete, which may be between the first two attempts.
        let names = [CLIP, PART, CLIP].map(|suffix| name(id, suffix));
        let mut missing = io::ErrorKind::NotFound.into();
        for name in names {
            match dir.open(&name, Access::Read) {
                Ok(file) => return Ok(Self { file: Box::new(file) }),
                Err(why) if why.kind() == io::ErrorKind::NotFound => missing = why,
                Err(why) => return Err(why),
            }
        }
        Err(missing)
    }

    pub(super) fn raw(&self) -> &dyn StateFile {
        &*self.file
    }

    /// Up to `most` bytes of the file from `offset` behind its header on ([`super::Tail::locate`]).
    pub(in crate::upload) fn read(&self, offset: u64, most: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; most];
        let filled = self.file.read_at(&mut buffer, HEADER_BYTES + offset)?;
        buffer.truncate(filled);
        Ok(buffer.into())
    }
}

pub(super) fn name(id: Uuid, suffix: &str) -> String {
    format!("{id}{suffix}")
}

/// Fails if writing this many bytes would take what is kept for state and journal.
pub(super) fn keep_reserve(dir: &impl Filesystem, bytes: u64) -> io::Result<()> {
    let free = dir.free()?;
    if free >= RESERVE.saturating_add(bytes) {
        return Ok(());
    }
    let why = format!("{free} bytes are free, {bytes} bytes of a clip would leave less than the {RESERVE} kept for the state");
    Err(io::Error::new(io::ErrorKind::StorageFull, why))
}

fn remove(dir: &impl Filesystem, name: &str) -> io::Result<()> {
    match dir.remove(name) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn read_journal(dir: &impl Filesystem) -> io::Result<Option<journal::Gone>> {
    let file = dir.open(JOURNAL, Access::Read)?;
    let mut text = vec![0; JOURNAL_MOST];
    let length = file.read_at(&mut text, 0)?;
    Ok(if length < JOURNAL_MOST { journal::read(&text[..length]) } else { None })
}

fn read_header(dir: &impl Filesystem, name: &str) -> io::Result<Vec<u8>> {
    let mut start = vec![0; HEADER_BYTES as usize];
    let length = dir.open(name, Access::Read)?.read_at(&mut start, 0)?;
    start.truncate(length);
    Ok(start)
}

/// The header's facts, if the file is as long as they require: a clip gets its final name only after all of it is
/// synced.
fn read_facts(dir: &impl Filesystem, name: &str, header: &[u8]) -> Result<Facts, Misfit> {
    let facts = header::decode(header)?;
    let end = HEADER_BYTES.checked_add(facts.bytes + facts.tail.replaces).ok_or(Unreadable::Facts)?;
    let mut last = [0; 2];
    if dir.open(name, Access::Read)?.read_at(&mut last, end - 1)? != 1 {
        return Err(Unreadable::Torn.into());
    }
    Ok(facts)
}

/// Why a file is not a clip.
#[derive(Debug, Error)]
enum Misfit {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}
