//! Puts the packets of one source in order by their numbers, and tells how many are missing. A camera may change its source (SSRC)
//! or its numbers in mid-stream: that costs a gap, and not the session. Pure. Called by `reorder`.

/// A packet so far back is late or a copy (RFC 3550, A.1). One further back belongs to other numbers.
pub(super) const LATEST: u16 = 100;
/// So many packets in a row show that a source has changed. Fewer may be of a session that is over.
const PROBATION: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Sequence {
    current: Option<Place>,
    /// Where another source, or other numbers, may go on, and how many packets have shown it.
    other: Option<(Place, u32)>,
    /// Which packets before the next one have come; the lowest bit is that of the nearest.
    came: u128,
    /// Packets that came after they had been counted as missing.
    late: u64,
}

/// A source, and the number that its next packet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    source: u32,
    next: u16,
}

impl Sequence {
    /// The source of the stream.
    pub fn source(&self) -> Option<u32> {
        self.current.map(|place| place.source)
    }

    /// How many packets came after they had been counted as missing, since this was last asked.
    pub fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    /// How many packets of the stream belong before this one and have not come. `None`: it is of another source, or not ahead.
    pub fn ahead(&self, source: u32, number: u16) -> Option<u16> {
        let current = self.current.filter(|current| current.source == source)?;
        Some(number.wrapping_sub(current.next)).filter(|ahead| *ahead < 1 << 15)
    }

    /// How many packets are missing before this one; `None` if it is not to be used.
    pub fn take(&mut self, source: u32, number: u16) -> Option<u16> {
        let (this, after) = (Place { source, next: number }, Place { source, next: number.wrapping_add(1) });
        let Some(current) = self.current else {
            (self.current, self.came) = (Some(after), u128::MAX);
            return Some(0);
        };
        if let Some(missing) = self.ahead(source, number) {
            (self.current, self.other) = (Some(after), None);
            self.came = self.came.checked_shl(u32::from(missing) + 1).unwrap_or_default() | 1;
            return Some(missing);
        }
        let back = current.next.wrapping_sub(number);
        if source == current.source && back <= LATEST {
            let its = 1 << (back - 1);
            self.late += u64::from(self.came & its == 0);
            self.came |= its;
            return None;
        }
        let seen = self.other.filter(|(place, _)| *place == this).map_or(1, |(_, seen)| seen + 1);
        if seen == PROBATION {
            (self.current, self.other, self.came) = (Some(after), None, u128::MAX);
            // How many are missing is not known.
            return Some(1);
        }
        self.other = Some((after, seen));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(packets: &[(u32, u16)]) -> Vec<Option<u16>> {
        let mut sequence = Sequence::default();
        packets.iter().map(|(source, number)| sequence.take(*source, *number)).collect()
    }

    #[test]
    fn losses_are_counted_and_late_packets_left_out() {
        let numbers = |numbers: &[u16]| taken(&numbers.iter().map(|number| (7, *number)).collect::<Vec<_>>());
        assert_eq!(numbers(&[65_534, 65_535, 0, 1]), [Some(0); 4], "the numbers wrap");
        assert_eq!(numbers(&[5, 8, 6, 8, 9]), [Some(0), Some(2), None, None, Some(0)]);
        assert_eq!(numbers(&[5, 5 + (1 << 15)]), [Some(0), Some((1 << 15) - 1)]);
        assert_eq!(numbers(&[9000, 5, 6, 7, 8]), [Some(0), None, None, Some(1), Some(0)], "other numbers, proven by three");
        assert_eq!(numbers(&[9000, 5, 6, 9001, 7, 8]), [Some(0), None, None, Some(0), None, None]);
    }

    #[test]
    fn another_source_takes_over_once_the_first_is_silent() {
        assert_eq!(taken(&[(1, 5), (2, 9), (2, 10), (2, 11), (2, 12)]), [Some(0), None, None, Some(1), Some(0)]);
        assert_eq!(taken(&[(1, 5), (2, 9), (1, 6), (2, 10), (1, 7), (2, 11)]), [Some(0), None, Some(0), None, Some(0), None]);
        assert_eq!(taken(&[(1, 5), (2, 9), (2, 11), (2, 12), (2, 13)]), [Some(0), None, None, None, Some(1)]);
    }
}
