//! The newest whole GOPs of a stream, bounded by time and by bytes. The session writes and never waits. Readers follow with a
//! position of their own; a slow reader loses whole GOPs instead of slowing the camera.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::frame::Frame;

/// The pre-roll, or the frames on their way to the SD card.
#[derive(Debug)]
pub(super) struct Ring {
    span: Duration,
    max_bytes: usize,
    held: Mutex<Held>,
    pushed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<Frame>,
    /// Positions of the keyframes held; the first is the first frame's.
    keys: VecDeque<u64>,
    /// The position of the first frame held, counted from the first frame ever.
    first: u64,
    bytes: usize,
    erasures: u64,
}

/// What a reader gets.
#[derive(Debug)]
pub(super) enum Next {
    /// The next frame, and how many before it were lost. After a loss it is a keyframe.
    Frame { frame: Frame, lost: u64 },
    /// Nothing new in the time given.
    Quiet,
}

impl Ring {
    /// Holds at least `span`, beginning with a keyframe, unless that takes more than `max_bytes`.
    pub fn new(span: Duration, max_bytes: usize) -> Self {
        Self { span, max_bytes, held: Mutex::default(), pushed: Condvar::new() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame and drops GOPs that are no longer needed. False: the frame belongs to no GOP held and was dropped.
    pub fn push(&self, frame: Frame) -> bool {
        let mut held = self.held();
        let at = held.end();
        if frame.key {
            held.keys.push_back(at);
        } else if held.keys.is_empty() {
            held.first += 1;
            return false;
        }
        let now = frame.pts;
        held.bytes += frame.data.len();
        held.frames.push_back(frame);
        while held.can_spare_the_oldest(now, self.span) || held.bytes > self.max_bytes {
            held.drop_oldest();
        }
        let kept = !held.frames.is_empty();
        drop(held);
        self.pushed.notify_all();
        kept
    }

    /// Erases everything held. Readers go on at the next keyframe.
    pub fn erase(&self) {
        let mut held = self.held();
        held.first = held.end();
        held.frames.clear();
        held.keys.clear();
        held.bytes = 0;
        held.erasures += 1;
    }

    /// How often it was erased. Frames read before this number changed belong to another account.
    pub fn erasures(&self) -> u64 {
        self.held().erasures
    }

    /// Where a clip should begin: the newest keyframe at least `pre_roll` old, else the oldest; never one older than
    /// `budget` or before `not_before`.
    pub fn start(&self, pre_roll: Duration, budget: Duration, not_before: u64) -> Option<u64> {
        let held = self.held();
        let now = Instant::now();
        let allowed: Vec<(u64, Duration)> = held
            .keys
            .iter()
            .filter_map(|&at| held.at(at).map(|frame| (at, now.saturating_duration_since(frame.taken))))
            .filter(|&(at, age)| at >= not_before && age <= budget)
            .collect();
        let old_enough = allowed.iter().rfind(|(_, age)| *age >= pre_roll);
        old_enough.or(allowed.first()).map(|&(at, _)| at)
    }

    /// The position after the newest frame.
    pub fn end(&self) -> u64 {
        self.held().end()
    }

    /// The frame at a position, if it is still held.
    pub fn at(&self, position: u64) -> Option<Frame> {
        self.held().at(position).cloned()
    }

    /// The newest keyframe's position, if one is held.
    pub fn newest_key(&self) -> Option<u64> {
        self.held().keys.back().copied()
    }

    /// The frame at `position`, which then moves to the next one. Waits at most `patience` for it.
    pub fn next(&self, position: &mut u64, patience: Duration) -> Next {
        let held = self.held();
        let (held, _) = self
            .pushed
            .wait_timeout_while(held, patience, |held| held.frames.is_empty() || held.end() <= *position)
            .unwrap_or_else(PoisonError::into_inner);
        let reachable = (*position).max(held.first);
        let Some(frame) = held.at(reachable) else { return Next::Quiet };
        let lost = reachable - *position;
        *position = reachable + 1;
        Next::Frame { frame: frame.clone(), lost }
    }
}

impl Held {
    fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    fn at(&self, position: u64) -> Option<&Frame> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.frames.get(index)
    }

    fn can_spare_the_oldest(&self, now: Duration, span: Duration) -> bool {
        let second = self.keys.get(1).and_then(|&at| self.at(at));
        second.is_some_and(|frame| now.saturating_sub(frame.pts) >= span)
    }

    fn drop_oldest(&mut self) {
        self.keys.pop_front();
        let until = self.keys.front().copied().unwrap_or_else(|| self.end());
        while self.first < until {
            let Some(frame) = self.frames.pop_front() else { return };
            self.bytes -= frame.data.len();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::media::frame::{Codec, Format};

    fn frame(ms: u64, key: bool) -> Frame {
        let format = Arc::new(Format { codec: Codec::H264, width: 2, height: 2, configuration: Bytes::new() });
        Frame { pts: Duration::from_millis(ms), key, taken: Instant::now(), data: Bytes::from(vec![0; 100]), format }
    }

    /// Ten frames a second, a keyframe every second.
    fn filled(span_s: u64, max_bytes: usize, frames: u64) -> Ring {
        let ring = Ring::new(Duration::from_secs(span_s), max_bytes);
        for n in 0..frames {
            ring.push(frame(n * 100, n % 10 == 0));
        }
        ring
    }

    fn read(ring: &Ring, position: &mut u64) -> Option<(Frame, u64)> {
        match ring.next(position, Duration::ZERO) {
            Next::Frame { frame, lost } => Some((frame, lost)),
            Next::Quiet => None,
        }
    }

    #[test]
    fn holds_whole_gops_that_cover_its_span_and_no_more() {
        let ring = filled(3, 1 << 20, 100);
        let (first, lost) = read(&ring, &mut 0).unwrap();
        assert!(first.key);
        assert_eq!(lost, 60, "6.0 s is the newest keyframe that leaves 3 s until 9.9 s");
    }

    #[test]
    fn bytes_bound_it_before_time_does() {
        let ring = filled(1000, 2500, 100);
        assert!(ring.held().bytes <= 2500);
        assert!(read(&ring, &mut 0).unwrap().0.key);
    }

    #[test]
    fn one_gop_larger_than_the_bound_is_not_held() {
        let ring = Ring::new(Duration::from_secs(5), 250);
        assert!(ring.push(frame(0, true)));
        assert!(ring.push(frame(1, false)));
        assert!(!ring.push(frame(2, false)));
        assert!(!ring.push(frame(3, false)), "the rest of that GOP has no beginning");
        assert!(ring.push(frame(4, true)));
        assert_eq!(read(&ring, &mut 0).unwrap().1, 4);
    }

    #[test]
    fn what_is_erased_cannot_be_read_and_the_ring_begins_again_with_a_keyframe() {
        let ring = filled(5, 1 << 20, 25);
        ring.erase();
        assert_eq!(ring.start(Duration::from_secs(5), Duration::from_secs(60), 0), None);
        let mut position = 0;
        assert!(read(&ring, &mut position).is_none());
        assert!(!ring.push(frame(2500, false)));
        ring.push(frame(3000, true));
        let (frame, lost) = read(&ring, &mut position).unwrap();
        assert!(frame.key);
        assert_eq!(lost, 26);
    }

    #[test]
    fn a_slow_reader_loses_whole_gops() {
        let ring = filled(1, 1 << 20, 10);
        let mut position = 0;
        assert_eq!(read(&ring, &mut position).unwrap().1, 0);
        for n in 10..50 {
            ring.push(frame(n * 100, n % 10 == 0));
        }
        let (frame, lost) = read(&ring, &mut position).unwrap();
        assert!(frame.key && lost > 0);
    }

    #[test]
    fn a_clip_starts_within_its_budget_and_after_the_clip_before() {
        let ring = Ring::new(Duration::from_secs(10), 1 << 20);
        let now = Instant::now();
        for n in 0..10_u64 {
            let ago = Duration::from_secs(9 - n);
            ring.push(Frame { taken: now.checked_sub(ago).unwrap(), ..frame(n * 1000, true) });
        }
        let (long, budget) = (Duration::from_secs(60), Duration::from_millis(4500));
        assert_eq!(ring.start(Duration::from_millis(2500), long, 0), Some(6), "the newest at least 2.5 s old");
        assert_eq!(ring.start(long, budget, 0), Some(5));
        assert_eq!(ring.start(long, budget, 7), Some(7));
        assert_eq!(ring.start(long, Duration::ZERO, 0), None);
    }
}
