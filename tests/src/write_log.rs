//! A log of every write to a disk, as QEMU's `blklogwrites` writes it (the on-disk format of Linux's dm-log-writes,
//! version 1), and the disk as a power cut would have left it at any point of the log.
//!
//! The disk has a volatile cache: each write since the last flush may be there or not, independently.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;

/// A complete write log.
pub struct WriteLog {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// One entry: what was written where, and what it makes durable.
struct Entry {
    /// Byte offset on the disk.
    to: usize,
    /// Where in the log its data is.
    data: Range<usize>,
    /// A flush: all earlier writes are durable.
    flush: bool,
    /// FUA: this write itself is durable.
    fua: bool,
}

impl WriteLog {
    /// Number of entries in a log so far. QEMU updates it with each flush, before the guest sees the flush complete.
    pub fn entries_in(path: &Path) -> usize {
        let mut superblock = [0; 28];
        match File::open(path).and_then(|mut file| file.read_exact(&mut superblock)) {
            Ok(()) => superblock_of(&superblock).0,
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(why) => panic!("{}: {why}", path.display()),
        }
    }

    /// Reads the log of a disk that is no longer in use.
    pub fn read(path: &Path) -> Self {
        Self::parse(std::fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display())))
    }

    /// Parses a log.
    pub fn parse(bytes: Vec<u8>) -> Self {
        let (count, sector) = superblock_of(&bytes);
        let mut at = sector;
        let mut entries = Vec::with_capacity(count);
        for number in 0..count {
            let [to, length, flags, marks] = [0, 1, 2, 3].map(|field| word(&bytes, at + 8 * field));
            assert!(flags & !(FLUSH | FUA) == 0 && marks == 0, "entry {number} is neither a write nor a flush: {flags:#x}, {marks}");
            let data = at + sector..at + sector + bytes_of(length, sector);
            assert!(data.end <= bytes.len(), "entry {number} ends beyond the end of the log");
            at = data.end;
            entries.push(Entry { to: bytes_of(to, sector), data, flush: flags & FLUSH != 0, fua: flags & FUA != 0 });
        }
        Self { bytes, entries }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of entries up to each flush.
    pub fn flushes(&self) -> Vec<usize> {
        (1..=self.len()).filter(|mark| self.entries[mark - 1].flush).collect()
    }

    /// The state of `disk` (its content before the log began) after a power cut at entry `mark`: everything up to
    /// the last flush, and of later writes those for which `survives` returns true.
    ///
    /// `flushes_lost` ignores the last so many flushes. Such a disk lies about flushes; tests use it to check that
    /// the damage is detected.
    pub fn power_cut(&self, mut disk: Vec<u8>, mark: usize, flushes_lost: usize, mut survives: impl FnMut() -> bool) -> Vec<u8> {
        let durable = self.flushes().into_iter().rev().filter(|flush| *flush <= mark).nth(flushes_lost).unwrap_or(0);
        let until = if flushes_lost == 0 { mark } else { durable };
        for (place, entry) in self.entries[..until].iter().enumerate() {
            if place < durable || entry.fua || survives() {
                let data = &self.bytes[entry.data.clone()];
                disk[entry.to..entry.to + data.len()].copy_from_slice(data);
            }
        }
        disk
    }
}

/// Number of entries and sector size.
fn superblock_of(bytes: &[u8]) -> (usize, usize) {
    assert_eq!([word(bytes, 0), word(bytes, 8)], [MAGIC, VERSION], "not a write log");
    let sector = u32::from_le_bytes(bytes[24..28].try_into().expect("four bytes"));
    (word(bytes, 16).try_into().expect("a number of entries"), sector.try_into().expect("a size"))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn bytes_of(sectors: u64, sector: usize) -> usize {
    usize::try_from(sectors).expect("a disk that fits into memory") * sector
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;

    /// A log of these entries: flags, first sector, data.
    fn log(entries: &[(u64, u64, &[u8])]) -> WriteLog {
        let mut bytes = vec![0; SECTOR];
        for (flags, sector, data) in entries {
            let fields = [*sector, (data.len() / SECTOR) as u64, *flags, 0];
            let mut entry: Vec<_> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            entry.resize(SECTOR, 0);
            bytes.extend(entry);
            bytes.extend_from_slice(data);
        }
        let head = [MAGIC, VERSION, entries.len() as u64].into_iter().flat_map(|field| field.to_le_bytes()).chain(512_u32.to_le_bytes());
        bytes.splice(..28, head);
        WriteLog::parse(bytes)
    }

    fn sectors(disk: &[u8]) -> Vec<u8> {
        disk.chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_what_survives() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|fill| vec![fill; SECTOR]);
        let log = log(&[(0, 0, &a), (0, 1, &b), (FLUSH, 0, &[]), (0, 0, &c), (FUA, 2, &d), (FLUSH, 0, &[])]);
        assert_eq!(log.flushes(), [3, 6]);
        let cut = |mark, lost, survives| sectors(&log.power_cut(vec![0; 3 * SECTOR], mark, lost, || survives));
        assert_eq!(cut(0, 0, true), [0, 0, 0]);
        assert_eq!((cut(2, 0, true), cut(2, 0, false)), (vec![1, 2, 0], vec![0, 0, 0]));
        assert_eq!(cut(3, 0, false), [1, 2, 0]);
        assert_eq!((cut(5, 0, true), cut(5, 0, false)), (vec![3, 2, 4], vec![1, 2, 4]));
        assert_eq!(cut(6, 0, false), [3, 2, 4]);
        // A disk that lost the writes of its last flush, or of its last two.
        assert_eq!((cut(6, 1, true), cut(6, 2, true)), (vec![1, 2, 0], vec![0, 0, 0]));
    }

    #[test]
    #[should_panic(expected = "ends beyond the end of the log")]
    fn a_log_that_is_cut_short_is_no_log() {
        let mut bytes = log(&[(0, 0, &[1; SECTOR])]).bytes;
        bytes.truncate(2 * SECTOR);
        WriteLog::parse(bytes);
    }
}
