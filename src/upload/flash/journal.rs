//! The journal's text: which clips are erased or uploaded although their files may still be there. Adding a clip
//! writes nothing here: its file describes itself, and a journal line would cost a second sync. No I/O.
//!
//! ```text
//! kasa-care-agent spool 1
//! 8f1c22d0 gone 0b9e…,57aa…
//! ```
//!
//! One line is one batch; its CRC-32 makes it all or nothing. One of its ids may have version 8: it is not a clip's id
//! but holds how much was written to flash ([`WriteCount`]).

use std::collections::BTreeSet;

use care_engine::durable::checksum;
use uuid::Uuid;

use super::write_budget::WriteCount;

const TITLE: &[u8] = b"kasa-care-agent spool 1\n";

/// A new journal's beginning.
pub(super) fn title() -> Vec<u8> {
    TITLE.to_vec()
}

/// The content of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Gone {
    pub(super) ids: BTreeSet<Uuid>,
    /// The newest count.
    pub(super) written: WriteCount,
}

/// The line that records these clips as erased, with the count of bytes written including this line.
pub(super) fn line(gone: &BTreeSet<Uuid>, written: WriteCount) -> Vec<u8> {
    let names: Vec<String> = gone.iter().chain([&written.to_id()]).map(Uuid::to_string).collect();
    checksum::line(format!("gone {}", names.join(",")).as_bytes())
}

/// The clips recorded as erased. `None` if this is not a journal of this firmware, or a damaged one. An incomplete
/// last line was torn by a power cut; nothing has relied on it. An incomplete line anywhere else means that durable
/// data can no longer be read.
pub(super) fn read(text: &[u8]) -> Option<Gone> {
    let lines = text.strip_prefix(TITLE)?;
    let mut gone = Gone::default();
    let mut lines = lines.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        match (checksum::text_of(line), lines.peek()) {
            (Some(text), _) => {
                for id in ids(text)? {
                    match WriteCount::from_id(id) {
                        Some(written) => gone.written = gone.written.newer(written),
                        None => drop(gone.ids.insert(id)),
                    }
                }
            }
            (None, None) => break,
            (None, Some(_)) => return None,
        }
    }
    Some(gone)
}

fn ids(text: &[u8]) -> Option<Vec<Uuid>> {
    str::from_utf8(text).ok()?.strip_prefix("gone ")?.split(',').map(|id| Uuid::try_parse(id).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: WriteCount = WriteCount { ever: 9, today: 4, day: 20_454 };

    fn set(numbers: impl IntoIterator<Item = u128>) -> BTreeSet<Uuid> {
        numbers.into_iter().map(Uuid::from_u128).collect()
    }

    fn gone(numbers: impl IntoIterator<Item = u128>, written: WriteCount) -> Option<Gone> {
        Some(Gone { ids: set(numbers), written })
    }

    #[test]
    fn what_is_written_is_read_back_and_a_torn_last_line_says_nothing() {
        let mut text = title();
        assert_eq!(read(&text), gone([], WriteCount::default()));
        let earlier = WriteCount { ever: 8, ..COUNT };
        text.extend(line(&set([1, 2]), earlier));
        let whole = text.len();
        text.extend(line(&set([3]), COUNT));
        assert_eq!(read(&text), gone([1, 2, 3], COUNT));
        for cut in whole..text.len() {
            assert_eq!(read(&text[..cut]), gone([1, 2], earlier), "{cut} bytes");
        }
        let mut holed = text.clone();
        holed[whole + 3..whole + 20].fill(0);
        assert_eq!(read(&holed), gone([1, 2], earlier));
    }

    /// A journal of firmware that did not count writes.
    #[test]
    fn a_line_without_a_count_is_read() {
        let line = checksum::line(format!("gone {}", Uuid::from_u128(1)).as_bytes());
        assert_eq!(read(&[title(), line].concat()), gone([1], WriteCount::default()));
    }

    #[test]
    fn s70_what_is_not_understood_is_not_taken_for_an_empty_journal() {
        let mut text = title();
        text.extend(line(&set([1]), COUNT));
        let first = text.len();
        text.extend(line(&set([2]), COUNT));
        for at in title().len()..first - 1 {
            let mut rotten = text.clone();
            rotten[at] ^= 1;
            assert_eq!(read(&rotten), None, "byte {at}");
        }
        assert_eq!(read(b"kasa-care-agent spool 2\n"), None);
        assert_eq!(read(b""), None);
        assert_eq!(read(&[title(), checksum::line(b"lent 1")].concat()), None, "whole, and not understood");
    }
}
