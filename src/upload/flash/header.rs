//! The header of a clip's file: checksummed and of fixed size, with the clip's bytes behind it. It holds all that a
//! restart needs to judge the clip, so a scan can rebuild the spool from its files. Behind them the file of a clip that grew
//! may have the header of a progressive file, with which the clip begins ([`Tail`]). No I/O.
//!
//! ```text
//!  0  magic      8 bytes  "KCASPOOL"
//!  8  format     u32 LE   1; another number is another firmware's, and is never interpreted
//! 12  length     u32 LE   bytes of the facts
//! 16  checksum   u32 LE   CRC-32 (IEEE) of bytes 0 to 16 and of the facts
//! 20  facts      JSON, then zeros
//! 492 written    16 bytes  what the spool has written to flash, this clip included ([`WriteCount`]), as an id
//! 508 checksum   u32 LE   CRC-32 of the 16 bytes before it; earlier firmware writes zeros here, and reads nothing
//! ```

use std::time::Duration;

use care_engine::durable::checksum::crc32;
use care_protocol::{ClipKind, is_sha256_hex};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::write_budget::WriteCount;
use crate::upload::spool::Part;

/// Bytes of the header, whatever its content.
pub(in crate::upload) const HEADER_BYTES: u64 = 512;

const MAGIC: &[u8; 8] = b"KCASPOOL";
const FORMAT: u32 = 1;
const FACTS_AT: usize = 20;
const WRITTEN_AT: usize = 492;

/// The facts about a clip on flash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::upload) struct Facts {
    pub(in crate::upload) clip: String,
    pub(in crate::upload) kind: ClipKind,
    /// The epoch it was recorded in: a clip of another one never leaves.
    pub(in crate::upload) epoch: u64,
    pub(in crate::upload) height: u32,
    /// Trusted time of its first frame as it was known when this was written, milliseconds since 1970.
    pub(in crate::upload) started_ms: u64,
    pub(in crate::upload) duration_ms: u64,
    pub(in crate::upload) bytes: u64,
    /// Of the clip's bytes, lowercase hex.
    pub(in crate::upload) sha256: String,
    /// Where the clip's bytes are in the file. Firmware that does not know it takes the file for another firmware's.
    #[serde(default, skip_serializing_if = "Tail::is_nothing")]
    pub(in crate::upload) tail: Tail,
    /// The clip is a part of another: `clip` then names its file alone, and `bytes` and `sha256` are the part's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::upload) part: Option<PartFacts>,
}

/// The facts about a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::upload) struct PartFacts {
    /// The clip that it is part of.
    pub(in crate::upload) of: String,
    pub(in crate::upload) index: u32,
    pub(in crate::upload) last: bool,
    /// Where in the clip it begins.
    pub(in crate::upload) from_ms: u64,
    /// Its own length.
    pub(in crate::upload) long_ms: u64,
}

/// What a clip begins with that stands at the end of its file. The default: nothing, the clip's bytes stand in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::upload) struct Tail {
    /// Bytes at the end of the file.
    pub(in crate::upload) header: u64,
    /// Bytes at the beginning of the file, behind its own header, in place of which they stand: they are not the clip's.
    pub(in crate::upload) replaces: u64,
}

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(in crate::upload) enum Unreadable {
    #[error("it is torn, or no clip")]
    Torn,
    #[error("another firmware wrote it, in format {0}")]
    Format(u32),
    #[error("its facts make no sense")]
    Facts,
}

impl Facts {
    /// `None` if the id is not in the form that this agent writes: in another form it could not be erased.
    pub(in crate::upload) fn id(&self) -> Option<Uuid> {
        id(&self.clip)
    }

    /// Its place in the clip that it is part of, if it is one; `None` if that clip's id is not in the agent's form.
    pub(in crate::upload) fn part(&self) -> Option<Option<Part>> {
        let Some(part) = &self.part else { return Some(None) };
        let (from, long) = (Duration::from_millis(part.from_ms), Duration::from_millis(part.long_ms));
        Some(Some(Part { clip: id(&part.of)?, index: part.index, last: part.last, from, long }))
    }

    fn make_sense(&self) -> bool {
        let plain = self.part.is_none() || self.tail.is_nothing();
        let tail = plain && self.tail.header <= self.bytes && self.bytes.checked_add(self.tail.replaces).is_some();
        self.id().is_some() && self.part().is_some() && is_sha256_hex(&self.sha256) && tail
    }
}

impl Tail {
    pub(in crate::upload) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Where the file of a clip of `bytes`, behind the file's own header, has the clip's byte at `offset`; and how many of
    /// the clip's follow from there, with that one.
    pub(in crate::upload) fn locate(self, bytes: u64, offset: u64) -> (u64, u64) {
        let filmed = bytes.saturating_sub(self.header);
        match offset.checked_sub(self.header) {
            Some(behind) => (self.replaces + behind, filmed.saturating_sub(behind)),
            None => (self.replaces + filmed + offset, self.header - offset),
        }
    }
}

impl PartFacts {
    pub(in crate::upload) fn of(part: &Part) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { of: part.clip.to_string(), index: part.index, last: part.last, from_ms: ms(part.from), long_ms: ms(part.long) }
    }
}

fn id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.to_string() == text)
}

/// The header that holds `facts`; `None` if they do not fit. Those of this agent always fit.
pub(super) fn encode(facts: &Facts) -> Option<Vec<u8>> {
    frame(&serde_json::to_vec(facts).ok()?)
}

/// The same header with this write count in it.
pub(super) fn with_written(mut header: Vec<u8>, written: WriteCount) -> Vec<u8> {
    let id = written.to_id().into_bytes();
    if let Some(place) = header.get_mut(WRITTEN_AT..HEADER_BYTES as usize) {
        place[..16].copy_from_slice(&id);
        place[16..].copy_from_slice(&crc32(&[&id]).to_le_bytes());
    }
    header
}

/// The write count in a header, if its checksum is right.
pub(super) fn written(header: &[u8]) -> Option<WriteCount> {
    let (id, stored) = header.get(WRITTEN_AT..HEADER_BYTES as usize)?.split_at(16);
    let id: [u8; 16] = id.try_into().ok()?;
    let whole = crc32(&[&id]).to_le_bytes() == stored;
    WriteCount::from_id(Uuid::from_bytes(id)).filter(|_| whole)
}

/// The header around facts in this JSON.
pub(super) fn frame(json: &[u8]) -> Option<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER_BYTES as usize);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&u32::try_from(json.len()).ok()?.to_le_bytes());
    let checksum = crc32(&[&header, json]);
    header.extend_from_slice(&checksum.to_le_bytes());
    header.extend_from_slice(json);
    let fits = header.len() <= WRITTEN_AT;
    header.resize(HEADER_BYTES as usize, 0);
    fits.then_some(header)
}

/// Reads a header.
pub(super) fn decode(header: &[u8]) -> Result<Facts, Unreadable> {
    let number = |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let (Some(format), Some(length), Some(stored)) = (number(8), number(12), number(16)) else { return Err(Unreadable::Torn) };
    let json = usize::try_from(length).ok().and_then(|length| header.get(FACTS_AT..FACTS_AT.checked_add(length)?));
    let Some(json) = json.filter(|json| header.starts_with(MAGIC) && crc32(&[&header[..16], json]) == stored) else {
        return Err(Unreadable::Torn);
    };
    if format != FORMAT {
        return Err(Unreadable::Format(format));
    }
    let facts: Facts = serde_json::from_slice(json).map_err(|_| Unreadable::Facts)?;
    if facts.make_sense() { Ok(facts) } else { Err(Unreadable::Facts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            clip: Uuid::max().to_string(),
            kind: ClipKind::Snapshot,
            epoch: care_protocol::MAX_INTEGER,
            height: u32::MAX,
            started_ms: u64::MAX,
            duration_ms: u64::MAX,
            bytes: u64::MAX,
            sha256: "0".repeat(64),
            tail: Tail::default(),
            part: Some(PartFacts { of: Uuid::max().to_string(), index: u32::MAX, last: false, from_ms: u64::MAX, long_ms: u64::MAX }),
        }
    }

    #[test]
    fn the_longest_facts_fit_and_are_read_back() {
        let header = encode(&facts()).unwrap();
        assert_eq!((header.len() as u64, decode(&header)), (HEADER_BYTES, Ok(facts())));
    }

    #[test]
    fn the_count_is_read_back_and_earlier_firmware_reads_the_clip_all_the_same() {
        let count = WriteCount { ever: 77, today: 5, day: 20_454 };
        let header = with_written(encode(&facts()).unwrap(), count);
        assert_eq!((written(&header), decode(&header)), (Some(count), Ok(facts())));
        assert_eq!(written(&encode(&facts()).unwrap()), None);
        for bit in WRITTEN_AT * 8..512 * 8 {
            let mut flipped = header.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!((written(&flipped), decode(&flipped)), (None, Ok(facts())), "bit {bit}");
        }
        assert_eq!(written(&header[..500]), None);
    }

    fn with_tail(bytes: u64, header: u64, replaces: u64) -> Facts {
        Facts { bytes, tail: Tail { header, replaces }, part: None, ..facts() }
    }

    #[test]
    fn the_longest_facts_with_a_tail_fit_and_those_without_are_the_ones_of_earlier_firmware() {
        let facts = with_tail(u64::MAX / 2, u64::MAX / 2, u64::MAX / 2);
        assert_eq!(decode(&encode(&facts).unwrap()), Ok(facts));
        let plain = serde_json::to_string(&with_tail(10, 0, 0)).unwrap();
        assert!(!plain.contains("tail"), "{plain}");
    }

    #[test]
    fn a_tail_that_no_file_can_have_makes_no_sense() {
        let part = Facts { tail: Tail { header: 1, replaces: 1 }, bytes: 10, ..facts() };
        for facts in [with_tail(10, 11, 0), with_tail(u64::MAX, 0, 1), with_tail(10, u64::MAX, u64::MAX), part] {
            assert_eq!(decode(&encode(&facts).unwrap()), Err(Unreadable::Facts), "{facts:?}");
        }
        assert_eq!(decode(&encode(&with_tail(10, 10, u64::MAX - 10)).unwrap()), Ok(with_tail(10, 10, u64::MAX - 10)));
    }

    /// Every byte of every clip, from every place on.
    #[test]
    fn a_clip_is_read_in_its_order_whatever_stands_at_the_end_of_its_file() {
        for (filmed, header, replaces) in [(9, 0, 0), (9, 4, 3), (9, 2, 5), (9, 4, 0), (9, 4, 9), (9, 0, 3)] {
            let filmed: Vec<u8> = (0..filmed).collect();
            let first: Vec<u8> = (100..100 + header).collect();
            let file = [&filmed[..], &first].concat();
            let clip = [&first, &filmed[replaces..]].concat();
            let (tail, bytes) = (Tail { header: header.into(), replaces: replaces as u64 }, clip.len() as u64);
            for start in 0..=clip.len() {
                let mut read = Vec::new();
                let mut steps = 0;
                while start + read.len() < clip.len() {
                    let (at, most) = tail.locate(bytes, (start + read.len()) as u64);
                    read.extend_from_slice(&file[at as usize..(at + most) as usize]);
                    steps += 1;
                }
                assert!(read == clip[start..] && steps <= 2, "{tail:?} from {start}: {read:?}, not {clip:?}");
            }
            assert_eq!(tail.locate(bytes, bytes).1, 0, "nothing follows the end");
        }
    }

    /// Found by the fuzz target `spool`: a file whose id was in another form outlived every erasure.
    #[test]
    fn facts_that_no_agent_writes_make_no_sense() {
        let id = Uuid::from_u128(0xab);
        let clips = [id.to_string().to_uppercase(), id.simple().to_string(), id.braced().to_string(), id.urn().to_string(), "1".into()];
        let digests = ["", "00", &"g".repeat(64), &"A".repeat(64)].map(str::to_owned);
        let parts = clips.clone().map(|of| Facts { part: facts().part.map(|part| PartFacts { of, ..part }), ..facts() });
        let facts =
            clips.map(|clip| Facts { clip, ..facts() }).into_iter().chain(digests.map(|sha256| Facts { sha256, ..facts() })).chain(parts);
        for facts in facts {
            assert_eq!(decode(&encode(&facts).unwrap()), Err(Unreadable::Facts), "{facts:?}");
        }
    }

    #[test]
    fn every_flipped_bit_that_counts_is_noticed_and_every_cut() {
        let header = encode(&facts()).unwrap();
        let counts = FACTS_AT + serde_json::to_vec(&facts()).unwrap().len();
        for bit in 0..counts * 8 {
            let mut flipped = header.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), Err(Unreadable::Torn), "bit {bit}");
        }
        for length in 0..counts {
            assert_eq!(decode(&header[..length]), Err(Unreadable::Torn), "{length} bytes");
        }
    }

    /// Scenario 70: after a rollback a newer firmware's clip is recognised as such, and never misread.
    #[test]
    fn s70_another_firmwares_format_is_told_from_a_torn_file() {
        let mut header = encode(&facts()).unwrap();
        header[8..12].copy_from_slice(&2u32.to_le_bytes());
        let length = u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize;
        let checksum = crc32(&[&header[..16], &header[FACTS_AT..FACTS_AT + length]]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode(&header), Err(Unreadable::Format(2)));
    }
}
