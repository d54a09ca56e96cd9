//! AAC access units out of RTP payloads (RFC 3640, modes AAC-hbr and AAC-lbr): several in a packet, or one in several packets. What
//! follows within a packet follows in time: no camera interleaves, and their indices are often wrong. Pure; the fuzz target `rtp`
//! feeds it.

use bytes::{Bytes, BytesMut};

use super::{Packet, access_unit::At};

/// How long the fields of an AU header are, bits (RFC 3640, 3.2.1). Other fields no camera uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::media) struct AuHeaders {
    /// Of the size of an access unit, 1 to 16.
    pub size: u8,
    /// Of the index of the first, at most 8.
    pub index: u8,
    /// Of that of the others, at most 8.
    pub delta: u8,
}

impl AuHeaders {
    /// Mode AAC-hbr, the one that cameras use (RFC 3640, 3.3.6).
    pub const HIGH_RATE: Self = Self { size: 13, index: 3, delta: 3 };
    /// Mode AAC-lbr (RFC 3640, 3.3.5).
    pub const LOW_RATE: Self = Self { size: 6, index: 2, delta: 2 };
}

/// Access units in a row, and the packet that the first of them began in.
#[derive(Debug)]
pub(super) struct Units {
    pub at: At,
    pub units: Vec<Bytes>,
}

/// Access units that cannot be used: how many, as far as that can be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable(pub u64);

#[derive(Debug)]
pub(super) struct AacPayload {
    headers: AuHeaders,
    /// The access unit of which fragments have come, its size, and the packet that it began in.
    fragments: Option<(BytesMut, usize, At)>,
}

impl AacPayload {
    pub fn new(headers: AuHeaders) -> Self {
        Self { headers, fragments: None }
    }

    /// What a packet completes. Beside it may be damage to tell.
    pub fn push(&mut self, packet: &Packet) -> (Option<Units>, Option<Unusable>) {
        let at = At { timestamp: packet.timestamp, received: packet.received };
        let cut = if packet.lost > 0 { self.fragments.take() } else { None };
        let lost = u64::from(packet.lost) + u64::from(cut.is_some());
        let unusable = |more: u64| Some(lost + more).filter(|units| *units > 0).map(Unusable);
        let Some((sizes, data)) = self.sizes(&packet.payload) else { return (None, unusable(1)) };
        if let [size] = sizes[..]
            && size > data.len()
        {
            let (units, damaged) = self.fragment(size, &data, packet.mark, at);
            return (units, unusable(u64::from(damaged)));
        }
        let abandoned = u64::from(self.fragments.take().is_some());
        let (mut units, mut rest) = (Vec::with_capacity(sizes.len()), data);
        let mut missing = 0;
        for size in sizes.into_iter().filter(|size| *size > 0) {
            if size > rest.len() {
                missing += 1;
                rest.clear();
            } else {
                units.push(rest.split_to(size));
            }
        }
        (Some(Units { at, units }).filter(|units| !units.units.is_empty()), unusable(abandoned + missing))
    }

    /// The sizes that the headers name, and what follows them.
    fn sizes(&self, payload: &Bytes) -> Option<(Vec<usize>, Bytes)> {
        let AuHeaders { size, index, delta } = self.headers;
        let (&[high, low], rest) = payload.split_first_chunk::<2>().map(|(length, rest)| (length, payload.slice_ref(rest)))?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let headers = rest.get(..length.div_ceil(8))?;
        let (mut sizes, mut at, mut indices) = (Vec::new(), 0, index);
        while at + usize::from(size + indices) <= length {
            let bit = |at: usize| usize::from(headers[at / 8] >> (7 - at % 8) & 1);
            sizes.push((at..at + usize::from(size)).fold(0, |value, at| value << 1 | bit(at)));
            at += usize::from(size + indices);
            indices = delta;
        }
        (!sizes.is_empty()).then(|| (sizes, rest.slice(headers.len()..)))
    }

    /// Takes a fragment: every one of them names the size of the whole and has its time. True: something is damaged.
    fn fragment(&mut self, size: usize, data: &Bytes, last: bool, at: At) -> (Option<Units>, bool) {
        let fits = |whole: usize, begun: &At| whole == size && begun.timestamp == at.timestamp;
        let mut damaged = self.fragments.take_if(|(_, whole, begun)| !fits(*whole, begun)).is_some();
        let (unit, ..) = self.fragments.get_or_insert_with(|| (BytesMut::new(), size, at));
        unit.extend_from_slice(&data[..data.len().min(size - unit.len())]);
        let complete = unit.len() == size;
        let ended = if complete || last { self.fragments.take() } else { None };
        damaged |= last && !complete;
        let units = ended.filter(|_| complete).map(|(unit, _, at)| Units { at, units: vec![unit.freeze()] });
        (units, damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn packet(payload: &[u8], timestamp: u32, mark: bool) -> Packet {
        Packet { payload: Bytes::copy_from_slice(payload), timestamp, mark, lost: 0, received: Instant::now() }
    }

    fn read(payload: &mut AacPayload, packet: &Packet) -> (Vec<Vec<u8>>, u64) {
        let (units, unusable) = payload.push(packet);
        (units.map_or_else(Vec::new, |units| units.units.iter().map(|unit| unit.to_vec()).collect()), unusable.map_or(0, |lost| lost.0))
    }

    #[test]
    fn one_or_several_units_of_a_packet_are_read_in_both_modes() {
        let mut high = AacPayload::new(AuHeaders::HIGH_RATE);
        for (payload, units) in [
            (&[0, 16, 0, 2 << 3, 1, 2][..], &[&[1, 2][..]][..]),
            // Indices that make no sense, and bytes behind the last unit.
            (&[0, 32, 0, 2 << 3 | 7, 0, 1 << 3 | 5, 1, 2, 3, 9], &[&[1, 2], &[3]]),
            (&[0, 48, 0, 1 << 3, 0, 0, 0, 1 << 3, 1, 2], &[&[1], &[2]]),
        ] {
            let found = read(&mut high, &packet(payload, 0, true));
            assert_eq!(found, (units.iter().map(|unit| unit.to_vec()).collect(), 0), "{payload:?}");
        }
        let mut low = AacPayload::new(AuHeaders::LOW_RATE);
        assert_eq!(read(&mut low, &packet(&[0, 16, 2 << 2, 1 << 2, 1, 2, 3], 0, true)).0, [vec![1, 2], vec![3]]);
    }

    #[test]
    fn a_unit_in_several_packets_is_put_together() {
        let mut payload = AacPayload::new(AuHeaders::HIGH_RATE);
        let piece = |bytes: &[u8], time, mark| packet(&[&[0, 16, 0, 5 << 3][..], bytes].concat(), time, mark);
        assert_eq!(read(&mut payload, &piece(&[1, 2], 7, false)), (vec![], 0));
        assert_eq!(read(&mut payload, &piece(&[3, 4, 5], 7, true)), (vec![vec![1, 2, 3, 4, 5]], 0));
        // Its end is missing: another unit, whole or in pieces, begins.
        assert_eq!(read(&mut payload, &piece(&[1, 2], 8, false)), (vec![], 0));
        assert_eq!(read(&mut payload, &piece(&[1, 2, 3, 4], 9, false)), (vec![], 1));
        assert_eq!(read(&mut payload, &packet(&[0, 16, 0, 8, 6], 10, true)), (vec![vec![6]], 1));
        assert_eq!(read(&mut payload, &piece(&[1, 2], 11, true)), (vec![], 1), "marked as the last, and too short");
    }

    #[test]
    fn lost_packets_are_counted_and_cost_the_unit_that_they_were_of() {
        let mut payload = AacPayload::new(AuHeaders::HIGH_RATE);
        let piece = |lost, mark| Packet { lost, ..packet(&[0, 16, 0, 3 << 3, 1, 2], 7, mark) };
        assert_eq!(read(&mut payload, &piece(0, false)), (vec![], 0));
        assert_eq!(read(&mut payload, &piece(2, true)), (vec![], 4), "two packets, its beginning, and what is left of it");
    }

    #[test]
    fn what_is_malformed_is_counted() {
        let mut payload = AacPayload::new(AuHeaders::HIGH_RATE);
        for malformed in [&[][..], &[0], &[0, 0, 1], &[0, 8, 1, 2], &[0, 16, 0], &[0xFF, 0xFF, 0, 8, 1]] {
            assert_eq!(read(&mut payload, &packet(malformed, 0, true)), (vec![], 1), "{malformed:?}");
        }
        assert_eq!(read(&mut payload, &packet(&[0, 32, 0, 8, 0, 24, 1, 2], 0, true)), (vec![vec![1]], 1), "the second does not fit");
    }
}
