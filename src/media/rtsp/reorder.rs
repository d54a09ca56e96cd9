//! Holds RTP packets that came over UDP ahead of one before them, until that one comes or is certain to be lost: a network may swap
//! packets, and a frame that lacks one costs all frames up to the next entry point. Pure. Called by `playing`, `sound` and `metadata`.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use super::{
    packet::Rtp,
    sequence::{LATEST, Sequence},
};

/// A packet is lost once the one this many numbers behind it has come.
const WINDOW: u16 = 32;
/// It is lost, too, once the first packet that came before its turn has waited this long, and none is left to be read.
const PATIENCE: Duration = Duration::from_millis(200);
/// And once so many bytes wait: datagrams can be long.
const MOST_BYTES: usize = 256 << 10;
/// Two packets that agree in so many bytes, and in length, are copies of each other.
const ALIKE: usize = 64;

/// Puts the packets of one stream in order.
#[derive(Debug)]
pub(super) struct ReorderBuffer {
    sequence: Sequence,
    /// In the order of their numbers. All of them are of the source of `sequence`, and ahead of the packet that is awaited.
    held: VecDeque<Held>,
    /// 0: packets come in order, and none is held.
    window: u16,
    /// The packet that is awaited is lost.
    given_up: bool,
    /// What was given last, the newest at the end.
    given: VecDeque<Given>,
    /// How many packets, since one was given, had the number of one that was given and were no copy of it.
    contradictions: u16,
}

/// What is kept of a packet that was given: enough to tell a copy of it from another packet under its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    sequence: u16,
    payload_type: u8,
    content: u64,
}

impl Given {
    fn of(rtp: &Rtp) -> Self {
        let mut content = DefaultHasher::new();
        (rtp.payload.len(), &rtp.payload[..rtp.payload.len().min(ALIKE)]).hash(&mut content);
        Self { sequence: rtp.sequence, payload_type: rtp.payload_type, content: content.finish() }
    }

    /// Other types have numbers of their own in some cameras.
    fn is_contradicted_by(self, other: Self) -> bool {
        (self.sequence, self.payload_type) == (other.sequence, other.payload_type) && self.content != other.content
    }
}

#[derive(Debug)]
struct Held {
    rtp: Rtp,
    received: Instant,
    /// Another one under its number has come that is no copy.
    contradicted: bool,
}

/// The next packet in the order of numbers.
#[derive(Debug)]
pub(super) struct Ordered {
    pub rtp: Rtp,
    pub received: Instant,
    /// How many packets are missing before it. Two that differ under one number count as one: either may be the stream's.
    pub missing: u16,
}

impl ReorderBuffer {
    /// For packets that come in order, as all do within a connection (TCP).
    pub fn in_order() -> Self {
        let sequence = Sequence::default();
        Self { sequence, held: VecDeque::new(), window: 0, given_up: false, given: VecDeque::new(), contradictions: 0 }
    }

    /// For packets that a network may have swapped.
    pub fn over_udp() -> Self {
        Self { window: WINDOW, ..Self::in_order() }
    }

    /// The source of the stream.
    pub fn source(&self) -> Option<u32> {
        self.sequence.source()
    }

    /// How many packets came after they had been given up, since this was last asked.
    pub fn take_late(&mut self) -> u64 {
        self.sequence.take_late()
    }

    /// Takes a packet that came, and gives the next one, if its turn has come.
    pub fn push(&mut self, rtp: Rtp, received: Instant) -> Option<Ordered> {
        match self.sequence.ahead(rtp.source, rtp.sequence) {
            Some(ahead) if self.window > 0 && (ahead > 0 || !self.held.is_empty()) => self.hold(rtp, received, ahead),
            _ => {
                let next = self.give(Held { rtp, received, contradicted: false });
                if next.is_some() {
                    // Another source has taken over, or other numbers: what is held belongs to those of before.
                    self.held.clear();
                }
                return next;
            }
        }
        self.next()
    }

    /// The next packet whose turn has come. To be asked until there is none, before another packet is taken.
    pub fn next(&mut self) -> Option<Ordered> {
        let (first, last) = (self.ahead(self.held.front()?), self.ahead(self.held.back()?));
        let bytes = || self.held.iter().map(|held| held.rtp.payload.len()).sum::<usize>();
        if first > 0 && last < self.window && !self.given_up && bytes() <= MOST_BYTES {
            return None;
        }
        self.given_up = false;
        self.held.pop_front().and_then(|held| self.give(held))
    }

    /// Gives the packet up that has been awaited for too long, if none is left to be read at `now`.
    pub fn expire(&mut self, now: Instant) {
        self.given_up = self.due_at().is_some_and(|due| due <= now);
    }

    /// When the packet that is awaited will be given up. `None`: none is.
    pub fn due_at(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.received).min().map(|first| first + PATIENCE)
    }

    fn ahead(&self, held: &Held) -> u16 {
        self.sequence.ahead(held.rtp.source, held.rtp.sequence).unwrap_or_default()
    }

    fn hold(&mut self, rtp: Rtp, received: Instant, ahead: u16) {
        let after = self.held.iter().rposition(|held| self.ahead(held) <= ahead);
        match after.and_then(|at| self.held.get_mut(at)).filter(|held| held.rtp.sequence == rtp.sequence) {
            Some(held) => held.contradicted |= Given::of(&held.rtp).is_contradicted_by(Given::of(&rtp)),
            None => self.held.insert(after.map_or(0, |at| at + 1), Held { rtp, received, contradicted: false }),
        }
    }

    fn give(&mut self, Held { rtp, received, contradicted }: Held) -> Option<Ordered> {
        let (this, source) = (Given::of(&rtp), self.sequence.source());
        let Some(missing) = self.sequence.take(rtp.source, rtp.sequence) else {
            let contradicts = source == Some(rtp.source) && self.given.iter().any(|given| given.is_contradicted_by(this));
            self.contradictions = self.contradictions.saturating_add(u16::from(contradicts));
            return None;
        };
        if source != Some(rtp.source) {
            self.given.clear();
        }
        if self.given.len() == usize::from(LATEST) {
            self.given.pop_front();
        }
        self.given.push_back(this);
        let missing = missing.saturating_add(std::mem::replace(&mut self.contradictions, u16::from(contradicted)));
        Some(Ordered { rtp, received, missing })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn packet(source: u32, sequence: u16, length: usize) -> Rtp {
        Rtp { payload_type: 96, mark: false, sequence, timestamp: 0, source, payload: Bytes::from(vec![0; length]) }
    }

    /// A buffer, and all that it has given: numbers, and how many are missing before each.
    struct Outcome {
        buffer: ReorderBuffer,
        given: Vec<(u16, u16)>,
        now: Instant,
    }

    impl Outcome {
        fn over_udp() -> Self {
            Self { buffer: ReorderBuffer::over_udp(), given: Vec::new(), now: Instant::now() }
        }

        fn push(&mut self, rtp: Rtp) {
            let first = self.buffer.push(rtp, self.now);
            let next = std::iter::from_fn(|| self.buffer.next());
            self.given.extend(first.into_iter().chain(next).map(|ordered| (ordered.rtp.sequence, ordered.missing)));
        }

        /// Takes these numbers, a millisecond apart.
        fn take(&mut self, numbers: impl IntoIterator<Item = u16>) -> &mut Self {
            for number in numbers {
                self.now += MS;
                self.push(packet(7, number, 1));
            }
            self
        }

        /// Nothing comes for so long.
        fn wait(&mut self, time: Duration) -> &mut Self {
            self.now += time;
            self.buffer.expire(self.now);
            self.given.extend(std::iter::from_fn(|| self.buffer.next()).map(|ordered| (ordered.rtp.sequence, ordered.missing)));
            self
        }

        fn given(&mut self) -> Vec<(u16, u16)> {
            std::mem::take(&mut self.given)
        }

        fn late(&mut self) -> u64 {
            self.buffer.take_late()
        }
    }

    fn whole(numbers: impl IntoIterator<Item = u16>) -> Vec<(u16, u16)> {
        numbers.into_iter().map(|number| (number, 0)).collect()
    }

    #[test]
    fn packets_that_were_swapped_are_given_in_order() {
        for came in [
            &[5, 7, 6, 8][..],
            &[5, 9, 6, 7, 8],
            &[5, 9, 8, 7, 6],
            &[5, 8, 10, 6, 9, 7],
            &[5, 6, 6, 8, 8, 7, 8, 7],
            &[65_534, 1, 0, 65_535, 2],
        ] {
            let mut buffer = Outcome::over_udp();
            buffer.take(came.iter().copied());
            let first = came[0];
            let expected = (0..buffer.given.len() as u16).map(|n| first.wrapping_add(n));
            assert_eq!(buffer.given, whole(expected), "{came:?}");
            assert!(buffer.given.len() >= 4 && buffer.buffer.held.is_empty() && buffer.late() == 0, "{came:?}");
        }
    }

    #[test]
    fn what_comes_in_order_is_given_at_once_and_waits_for_nothing() {
        let mut buffer = Outcome::over_udp();
        for number in 65_500..=65_535 {
            assert_eq!(buffer.take([number]).given(), [(number, 0)]);
            assert_eq!(buffer.buffer.due_at(), None);
        }
    }

    #[test]
    fn a_loss_is_found_after_the_window_or_the_time_and_counted_once() {
        let mut buffer = Outcome::over_udp();
        assert_eq!(buffer.take([5]).take(7..=37).given(), [(5, 0)], "31 of them are held");
        assert_eq!(buffer.take([38]).given(), [&[(7, 1)][..], &whole(8..=38)].concat());
        assert_eq!(buffer.take([41]).wait(199 * MS).given(), []);
        assert_eq!(buffer.take([44]).wait(MS).given(), [(41, 2)], "the second gap has its own time");
        assert_eq!(buffer.wait(199 * MS).given(), [(44, 2)]);
        assert_eq!((buffer.late(), buffer.buffer.due_at()), (0, None));
        assert_eq!(buffer.take([77]).given(), [(77, 32)], "no swap is that wide");
    }

    #[test]
    fn a_packet_that_comes_after_it_was_given_up_is_counted_and_a_copy_is_not() {
        let mut buffer = Outcome::over_udp();
        buffer.take([5, 7, 7]).wait(200 * MS).take([6, 6, 5, 7, 8]);
        assert_eq!(buffer.given(), [(5, 0), (7, 1), (8, 0)]);
        assert_eq!((buffer.late(), buffer.late()), (1, 0));
    }

    #[test]
    fn within_a_connection_nothing_waits() {
        let mut buffer = Outcome { buffer: ReorderBuffer::in_order(), ..Outcome::over_udp() };
        assert_eq!(buffer.take([5, 7, 6, 8]).given(), [(5, 0), (7, 1), (8, 0)]);
        assert_eq!(buffer.late(), 1);
    }

    #[test]
    fn two_packets_that_differ_under_one_number_count_as_a_loss_and_copies_do_not() {
        let other = |payload_type, sequence, length| Rtp { payload_type, ..packet(7, sequence, length) };
        for buffer in [ReorderBuffer::in_order(), ReorderBuffer::over_udp()] {
            let mut buffer = Outcome { buffer, ..Outcome::over_udp() };
            buffer.take([5, 5, 6, 5]).push(other(96, 6, 2));
            assert_eq!(buffer.take([6, 7, 8]).given(), [(5, 0), (6, 0), (7, 1), (8, 0)]);
            buffer.push(other(97, 8, 2));
            assert_eq!(buffer.take([9]).given(), [(9, 0)], "sound has numbers of its own");
            // Numbers step back, and the camera sends on.
            (4..9).for_each(|number| buffer.push(other(96, number, 3)));
            assert_eq!(buffer.take([10, 11]).given(), [(10, 4), (11, 0)], "4 was never given");
        }
        let mut held = Outcome::over_udp();
        held.take([5, 7, 7, 8]).push(other(96, 8, 2));
        assert_eq!(held.take([6, 9, 10]).given(), [(5, 0), (6, 0), (7, 0), (8, 0), (9, 1), (10, 0)]);
    }

    #[test]
    fn packets_of_a_source_that_is_over_are_not_mixed_with_those_of_the_next() {
        let mut buffer = Outcome::over_udp();
        buffer.take([5, 7, 9]);
        for number in 100..104 {
            buffer.push(packet(8, number, 1));
        }
        assert_eq!(buffer.wait(PATIENCE).given(), [(5, 0), (102, 1), (103, 0)]);
        buffer.take([200, 202, 203, 204]).wait(PATIENCE);
        assert_eq!(buffer.given(), [(204, 1)], "nor those of a source that goes on");
    }

    #[test]
    fn few_bytes_are_held() {
        let mut buffer = Outcome::over_udp();
        buffer.take([5]);
        for number in 7..11 {
            buffer.push(packet(7, number, 64 << 10));
        }
        assert_eq!(buffer.given(), [(5, 0)]);
        buffer.push(packet(7, 11, 1));
        assert_eq!(buffer.given()[..2], [(7, 1), (8, 0)]);
    }

    proptest! {
        /// Each packet is delayed by so many places, or lost.
        #[test]
        fn whatever_a_network_does_numbers_rise_and_losses_are_counted(
            first in any::<u16>(),
            delays in prop::collection::vec(prop::option::weighted(0.95, 0_usize..40), 1..300),
        ) {
            let mut came: Vec<_> = delays.iter().enumerate().filter_map(|(n, delay)| delay.map(|delay| (n + delay, n))).collect();
            came.sort_unstable();
            let mut buffer = Outcome::over_udp();
            buffer.take(came.iter().map(|(_, n)| first.wrapping_add(*n as u16))).wait(PATIENCE).wait(PATIENCE);
            for _ in 0..delays.len() {
                buffer.wait(PATIENCE);
            }
            let Some(begin) = buffer.given.first().map(|(number, _)| number.wrapping_sub(first)) else { return Ok(()) };
            let mut next = usize::from(begin);
            for (number, missing) in &buffer.given {
                next += usize::from(*missing);
                prop_assert_eq!(*number, first.wrapping_add(next as u16));
                next += 1;
            }
            // Those before the first one that came are not awaited.
            let awaited = came.iter().filter(|(_, n)| *n >= usize::from(begin)).count();
            prop_assert_eq!(buffer.given.len() + buffer.late() as usize, awaited);
            prop_assert!(buffer.buffer.held.is_empty());
        }

        #[test]
        fn swaps_within_the_window_cost_nothing(first in any::<u16>(), delays in prop::collection::vec(0_usize..16, 1..300)) {
            let mut came: Vec<_> = delays.iter().enumerate().map(|(n, delay)| (n + delay, n)).collect();
            came.sort_unstable();
            let mut buffer = Outcome::over_udp();
            buffer.take([first]);
            buffer.take(came.iter().map(|(_, n)| first.wrapping_add(1 + *n as u16)));
            prop_assert_eq!(buffer.given, whole((0..=delays.len()).map(|n| first.wrapping_add(n as u16))));
        }
    }
}
