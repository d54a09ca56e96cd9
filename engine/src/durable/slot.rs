//! The layout of one slot: a checksummed header and the record behind it. No I/O; [`super::slots`] decides which slot
//! is written and which one counts.
//!
//! ```text
//!  0  magic      8 bytes  "KCASTATE"
//!  8  format     u32 LE   1; another number is another firmware's, and is never interpreted
//! 12  length     u32 LE   bytes of the record; 0 in the slot that creation writes: no record yet
//! 16  sequence   u64 LE   1 to 2^63-1; the slot with the highest one is the newest
//! 24  reserved   u32 LE   0
//! 28  checksum   u32 LE   CRC-32 (IEEE) of bytes 0 to 28 and of the record
//! 32  record
//! ```
//!
//! The positions of header, length and checksum are the same in all future formats, so that an older firmware can
//! distinguish a newer record from a torn one.

use super::checksum::crc32;

/// Bytes of a slot's header, before the record.
pub const HEADER_BYTES: usize = 32;

/// The format this firmware writes, and the only one it interprets.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"KCASTATE";
const CHECKED_HEADER: usize = HEADER_BYTES - 4;
/// No flash endures this many writes, so the agent never writes a larger number.
const LAST_SEQUENCE: u64 = u64::MAX >> 1;

/// The content of a slot.
#[derive(Debug, PartialEq, Eq)]
pub enum Slot<'a> {
    /// All zero: never written.
    Blank,
    /// Anything whose checksum does not hold: torn, worn out, overwritten by another program.
    Torn,
    /// A valid slot.
    Whole {
        /// The format its writer gave it; only [`FORMAT`] may be interpreted.
        format: u32,
        /// The slot's place in the order of writes.
        sequence: u64,
        /// The record, empty if none was written yet.
        record: &'a [u8],
    },
}

/// Reads a slot from all of its bytes.
pub fn decode(bytes: &[u8]) -> Slot<'_> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Blank;
    }
    whole(bytes).unwrap_or(Slot::Torn)
}

/// The bytes of a slot that holds `record`, or `None` if it is longer than the header's length field can hold.
pub fn encode(sequence: u64, record: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(record.len()).ok()?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + record.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    let checksum = crc32(&[&bytes, record]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(record);
    Some(bytes)
}

fn whole(bytes: &[u8]) -> Option<Slot<'_>> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (format, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (_reserved, rest) = rest.split_first_chunk::<4>()?;
    let (stored, rest) = rest.split_first_chunk::<4>()?;
    if magic != MAGIC {
        return None;
    }
    let record = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if crc32(&[&bytes[..CHECKED_HEADER], record]) != u32::from_le_bytes(*stored) {
        return None;
    }
    let sequence = u64::from_le_bytes(*sequence);
    (1..=LAST_SEQUENCE).contains(&sequence).then_some(Slot::Whole { format: u32::from_le_bytes(*format), sequence, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_whatever_stands_behind_it() {
        let mut bytes = encode(7, b"record").unwrap();
        bytes.extend_from_slice(b"the tail of a longer record");
        assert_eq!(decode(&bytes), Slot::Whole { format: FORMAT, sequence: 7, record: b"record" });
    }

    #[test]
    fn zeros_are_blank_and_nothing_else_is() {
        assert_eq!(decode(&[0; 64]), Slot::Blank);
        for at in 0..64 {
            let mut bytes = [0; 64];
            bytes[at] = 1;
            assert_eq!(decode(&bytes), Slot::Torn, "byte {at}");
        }
    }

    #[test]
    fn a_sequence_that_leaves_no_room_for_the_next_is_not_ours() {
        for sequence in [0, LAST_SEQUENCE + 1, u64::MAX - 1, u64::MAX] {
            assert_eq!(decode(&encode(sequence, b"record").unwrap()), Slot::Torn, "{sequence}");
        }
        let last = Slot::Whole { format: FORMAT, sequence: LAST_SEQUENCE, record: b"record" };
        assert_eq!(decode(&encode(LAST_SEQUENCE, b"record").unwrap()), last);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(7, b"record").unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), Slot::Torn, "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = encode(7, b"record").unwrap();
        for length in 1..bytes.len() {
            assert_eq!(decode(&bytes[..length]), Slot::Torn, "{length} bytes");
        }
    }
}
