//! The newest frames of a stream, bounded by time and by bytes. The session writes and never waits. Readers follow with a
//! position of their own; a slow reader loses frames instead of slowing the camera, and goes on at a keyframe. A reader that
//! keeps up loses none, however large a GOP is: the bounds drop the oldest frames. docs/design/clips.md has the rules.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, futures::Notified};

use super::{
    frame::{Format, Frame},
    sound::SoundFormat,
};

/// The shortest time.
const INSTANT: Duration = Duration::from_nanos(1);

/// The pre-roll, or the frames on their way to the SD card.
#[derive(Debug)]
pub(super) struct Ring {
    span: Duration,
    max_bytes: usize,
    held: Mutex<Held>,
    pushed: Condvar,
    /// The same for readers that are tasks.
    pushed_task: Notify,
}

#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<Frame>,
    /// Positions of the keyframes held. Frames before the first of them have lost their keyframe to the bound of bytes: a
    /// reader in the middle of them still gets them, no other does.
    keys: VecDeque<u64>,
    /// The position of the first frame held, counted from the first frame ever.
    first: u64,
    bytes: usize,
    erasures: u64,
    /// The GOP that is being filmed; `None` until a keyframe comes, at first and after an erasure.
    gop: Option<Gop>,
    overflow: Option<Gop>,
    /// Between the two newest keyframes.
    interval: Option<Duration>,
}

/// A GOP so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gop {
    began: Duration,
    pub bytes: usize,
    pub lasts: Duration,
}

/// What a reader gets.
#[derive(Debug)]
pub(super) enum Next {
    /// The next frame, and how many before it were lost. After a loss it is a keyframe.
    Frame { frame: Frame, lost: u64 },
    /// Nothing new in the time given, or, after a loss, no keyframe.
    Quiet,
}

/// The keyframes held, and where a moment is among them.
#[derive(Debug)]
pub(super) struct Overview {
    /// The oldest first.
    pub keys: Vec<Key>,
    /// The moment on the stream's timeline.
    pub moment: Duration,
    /// When the oldest and the newest frame are shown.
    pub oldest: Duration,
    pub newest: Duration,
    /// Whether frames before the oldest have been dropped.
    pub has_dropped: bool,
    /// Between the two newest frames.
    pub step: Duration,
}

/// A keyframe held.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub position: u64,
    pub pts: Duration,
    pub format: Arc<Format>,
}

impl Ring {
    /// Holds at least `span`, of the stream and of the time that passes, beginning with a keyframe, unless that takes more than
    /// `max_bytes`. The newest frame is held even if it alone is larger.
    pub fn new(span: Duration, max_bytes: usize) -> Self {
        Self { span, max_bytes, held: Mutex::default(), pushed: Condvar::new(), pushed_task: Notify::new() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame and drops those that are no longer needed. Before the first keyframe, also after an erasure, it takes none.
    pub fn push(&self, frame: Frame) {
        let mut held = self.held();
        let at = held.end();
        if frame.key {
            held.begin_gop(at, frame.pts);
        }
        let (now, taken) = (frame.pts, frame.taken);
        // What was heard before the first frame is in nobody's clip, and after an erasure it belongs to another account.
        let frame = if held.frames.is_empty() { frame.without_units() } else { frame };
        let Some(gop) = &mut held.gop else {
            held.first += 1;
            return;
        };
        gop.bytes += frame.bytes();
        gop.lasts = gop.lasts.max(now.saturating_sub(gop.began));
        held.bytes += frame.bytes();
        held.frames.push_back(frame);
        while let Some(until) = held.spare(now, taken, self.span) {
            while held.first < until {
                held.drop_first();
            }
        }
        while held.bytes > self.max_bytes && held.frames.len() > 1 {
            held.drop_first();
        }
        if held.keys.is_empty() {
            held.overflow = held.gop;
        }
        drop(held);
        self.pushed.notify_all();
        self.pushed_task.notify_waiters();
    }

    /// Resolves once a frame is pushed after this call. Make it first, then look with [`Self::next`] without patience.
    pub fn until_pushed(&self) -> Notified<'_> {
        self.pushed_task.notified()
    }

    /// Erases everything held. Readers go on at the next keyframe.
    pub fn erase(&self) {
        let mut held = self.held();
        *held = Held { first: held.end(), erasures: held.erasures + 1, ..Held::default() };
    }

    /// How often it was erased. Frames read before this number changed belong to another account.
    pub fn erasures(&self) -> u64 {
        self.held().erasures
    }

    /// The last GOP that was too large: the bound dropped its keyframe before the next one came. `None` once a GOP has fitted.
    pub fn overflow(&self) -> Option<Gop> {
        self.held().overflow
    }

    /// The bound, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// The time between the two newest keyframes, whether or not they are still held.
    pub fn keyframe_interval(&self) -> Option<Duration> {
        self.held().interval
    }

    /// The keyframes held, and where `at` is among them. `None`: no frame is held.
    pub fn overview(&self, at: Instant) -> Option<Overview> {
        let held = self.held();
        let key = |&position: &u64| held.at(position).map(|frame| Key { position, pts: frame.pts, format: frame.format.clone() });
        let (newest, before) = (held.frames.back()?, held.frames.iter().nth_back(1));
        Some(Overview {
            keys: held.keys.iter().filter_map(key).collect(),
            moment: held.moment(at)?,
            oldest: held.frames.front()?.pts,
            newest: newest.pts,
            has_dropped: held.first > 0,
            step: before.map_or(Duration::ZERO, |before| newest.pts.saturating_sub(before.pts)),
        })
    }

    /// When the last frame shown before `pts` was taken, if it is held.
    pub fn taken_before(&self, pts: Duration) -> Option<Instant> {
        self.held().frames.iter().rev().find(|frame| frame.pts < pts).map(|frame| frame.taken)
    }

    /// Where an instant is on the stream's timeline, if a frame taken before it is held.
    pub fn moment(&self, at: Instant) -> Option<Duration> {
        let held = self.held();
        held.frames.front().filter(|oldest| oldest.taken <= at).and_then(|_| held.moment(at))
    }

    /// How many frames a reader at this position has lost if it waits for a keyframe to go on with.
    pub fn lost_at(&self, position: u64) -> u64 {
        let held = self.held();
        if position < held.first && held.keys.is_empty() { held.end() - position } else { 0 }
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

    /// How what was heard beside the newest frames is coded. `None`: nothing was heard for so long.
    pub fn sound(&self, span: Duration) -> Option<Arc<SoundFormat>> {
        let held = self.held();
        let newest = held.frames.back()?.pts;
        let newer = held.frames.iter().rev().take_while(|frame| newest.saturating_sub(frame.pts) < span);
        newer.filter_map(|frame| frame.sound.as_ref()).find(|sound| !sound.units.is_empty()).map(|sound| sound.format.clone())
    }

    /// The frame at `position`, which then moves to the next one. Waits at most `patience` for it. If frames were lost, the
    /// position stays until there is a keyframe to go on with.
    pub fn next(&self, position: &mut u64, patience: Duration) -> Next {
        let held = self.held();
        let (held, _) = self
            .pushed
            .wait_timeout_while(held, patience, |held| held.reachable(*position).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let Some((reachable, frame)) = held.reachable(*position) else { return Next::Quiet };
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

    /// What a reader at this position gets: the frame there, or, if that was lost, the oldest keyframe.
    fn reachable(&self, position: u64) -> Option<(u64, &Frame)> {
        let reachable = if position >= self.first { position } else { *self.keys.front()? };
        self.at(reachable).map(|frame| (reachable, frame))
    }

    fn begin_gop(&mut self, at: u64, began: Duration) {
        self.interval = self.gop.map(|gop| began.saturating_sub(gop.began));
        if !self.keys.is_empty() {
            // The GOP before has fitted.
            self.overflow = None;
        }
        self.keys.push_back(at);
        self.gop = Some(Gop { began, bytes: 0, lasts: Duration::ZERO });
    }

    /// Until which position the time bound can spare frames: whole GOPs, as long as a keyframe of at least `span` remains. They
    /// must have been held for as long, too: after a stall of the network seconds of video come at once, and no reader can have
    /// had them.
    fn spare(&self, now: Duration, taken: Instant, span: Duration) -> Option<u64> {
        let second = self.keys.iter().copied().find(|&at| at > self.first)?;
        let is_old = |frame: &Frame| now.saturating_sub(frame.pts) >= span && taken.saturating_duration_since(frame.taken) >= span;
        self.at(second).is_some_and(is_old).then_some(second)
    }

    fn drop_first(&mut self) {
        let Some(frame) = self.frames.pop_front() else { return };
        self.bytes -= frame.bytes();
        if self.keys.front() == Some(&self.first) {
            self.keys.pop_front();
        }
        self.first += 1;
    }

    /// Where an instant is on the stream's timeline, counted from the last frame taken before it.
    fn moment(&self, at: Instant) -> Option<Duration> {
        let after = self.frames.partition_point(|frame| frame.taken <= at);
        let Some(before) = after.checked_sub(1).and_then(|index| self.frames.get(index)) else {
            // Before all that is held.
            return self.frames.front().map(|frame| frame.pts.saturating_sub(INSTANT));
        };
        let moment = before.pts + at.saturating_duration_since(before.taken);
        // The next one may have been shown earlier than it was taken.
        let latest = self.frames.get(after).map(|next| next.pts.saturating_sub(INSTANT).max(before.pts));
        Some(latest.map_or(moment, |latest| moment.min(latest)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::media::{
        frame::Codec,
        sound::{Sound, SoundFormat, Soundtrack},
    };

    fn frame(ms: u64, key: bool) -> Frame {
        sized(ms, key, 100)
    }

    fn sized(ms: u64, key: bool, bytes: usize) -> Frame {
        let format = Arc::new(Format { codec: Codec::H264, width: 2, height: 2, configuration: Bytes::new() });
        Frame { pts: Duration::from_millis(ms), key, taken: at(ms), data: Bytes::from(vec![0; bytes]), format, sound: None }
    }

    /// When a camera without delay sends the frame of this time.
    fn at(ms: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_millis(ms)
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

    /// A network that stalled, or a machine that was busy: what comes at once is within the bound of bytes alone.
    #[test]
    fn a_reader_loses_nothing_of_video_that_comes_all_at_once() {
        let ring = filled(4, 1 << 20, 20);
        let mut position = ring.end();
        for n in 20..120 {
            ring.push(Frame { taken: at(12_000), ..frame(n * 100, n % 10 == 0) });
        }
        let lost: Vec<u64> = std::iter::from_fn(|| read(&ring, &mut position)).map(|(_, lost)| lost).collect();
        assert_eq!(lost, [0; 100]);
        (120..170).for_each(|n| ring.push(frame(n * 100, n % 10 == 0)));
        assert_eq!(ring.end() - ring.held().first, 50, "4 s later they have been held long enough: 12.0 s to 16.9 s remain");
    }

    #[test]
    fn bytes_bound_it_before_time_does() {
        let ring = filled(1000, 2500, 100);
        assert_eq!(ring.held().bytes, 2500);
        let (first, lost) = read(&ring, &mut 0).unwrap();
        assert!(first.key);
        assert_eq!(lost, 80, "of 25 frames the newest two keyframe intervals");
    }

    #[test]
    fn sound_counts_in_the_bound_and_what_was_heard_before_an_erasure_is_gone() {
        let format = Arc::new(SoundFormat::plain(16_000, 1).unwrap());
        let heard = |ms: u64, key| {
            let units = vec![Sound { pts: Duration::from_millis(ms), data: vec![7; 400].into() }];
            Frame { sound: Some(Soundtrack { format: format.clone(), units }), ..frame(ms, key) }
        };
        let ring = Ring::new(Duration::from_secs(1000), 2500);
        (0..100).for_each(|n| ring.push(heard(n * 100, n % 10 == 0)));
        let end = ring.end();
        assert_eq!(ring.held().bytes, 2500);
        assert_eq!(end - ring.held().first, 5, "100 bytes of picture and 400 of sound each");
        ring.erase();
        assert_eq!(ring.held().bytes, 0);
        let mut position = ring.end();
        ring.push(heard(10_000, false));
        ring.push(heard(10_100, true));
        ring.push(heard(10_200, false));
        let sound = |frame: Frame| frame.sound.unwrap().units.len();
        let read: Vec<usize> = std::iter::from_fn(|| read(&ring, &mut position)).map(|(frame, _)| sound(frame)).collect();
        assert_eq!(read, [0, 1], "the first frame begins without what was heard before it");
        assert_eq!(ring.held().bytes, 600);
    }

    /// 30 s at 12 Mbit/s, 10 s at 6 Mbit/s and 4 s at 25 Mbit/s, each through the default of 6 MB.
    #[test]
    fn a_reader_that_keeps_up_loses_nothing_of_a_gop_larger_than_the_bound() {
        for (gop, per_second, bytes) in [(450, 15, 100_000), (250, 25, 30_000), (120, 30, 104_000)] {
            let ring = Ring::new(Duration::from_secs(5), 6_000_000);
            let (mut position, mut got) = (0, 0);
            for n in 0..2 * gop + 20 {
                ring.push(sized(n * 1000 / per_second, n % gop == 0, bytes));
                while let Some((frame, lost)) = read(&ring, &mut position) {
                    assert_eq!((frame.pts, lost), (Duration::from_millis(n * 1000 / per_second), 0));
                    got += 1;
                }
                assert!(ring.held().bytes <= 6_000_000);
            }
            assert_eq!(got, 2 * gop + 20);
            let told = ring.overflow().unwrap();
            assert_eq!(told.bytes as u64, gop * bytes as u64, "the size of the last whole interval");
            assert_eq!(ring.keyframe_interval(), Some(Duration::from_millis(gop * 1000 / per_second)));
        }
    }

    #[test]
    fn a_lost_keyframe_is_told_until_a_gop_has_fitted() {
        let ring = Ring::new(Duration::from_secs(5), 250);
        ring.push(frame(0, true));
        ring.push(frame(40, false));
        assert_eq!((ring.overflow(), ring.newest_key()), (None, Some(0)));
        ring.push(frame(80, false));
        assert_eq!(ring.newest_key(), None);
        assert_eq!(ring.overflow().map(|gop| (gop.bytes, gop.lasts)), Some((300, Duration::from_millis(80))));
        ring.push(frame(120, true));
        assert!(ring.overflow().is_some(), "this one has not ended");
        assert!(ring.newest_key().is_some());
        ring.push(frame(160, true));
        assert_eq!(ring.overflow(), None);
    }

    #[test]
    fn one_frame_larger_than_the_bound_is_held_until_the_next_one() {
        let ring = Ring::new(Duration::from_secs(5), 250);
        let mut position = 0;
        for n in 0..3 {
            ring.push(sized(n * 40, true, 1000));
            assert_eq!(ring.held().bytes, 1000);
            assert_eq!(read(&ring, &mut position).unwrap().1, 0);
        }
        ring.push(frame(120, false));
        assert_eq!(ring.held().bytes, 100);
        assert!(read(&ring, &mut position).is_some_and(|(frame, lost)| !frame.key && lost == 0));
    }

    #[test]
    fn what_is_erased_cannot_be_read_and_the_ring_begins_again_with_a_keyframe() {
        let ring = filled(5, 1 << 20, 25);
        ring.erase();
        assert!(ring.overview(Instant::now()).is_none());
        let mut position = 0;
        assert!(read(&ring, &mut position).is_none());
        ring.push(frame(2500, false));
        assert!(read(&ring, &mut position).is_none());
        ring.push(frame(3000, true));
        let (frame, lost) = read(&ring, &mut position).unwrap();
        assert!(frame.key);
        assert_eq!(lost, 26);
    }

    #[test]
    fn a_slow_reader_goes_on_at_a_keyframe_and_is_told_what_it_lost() {
        let ring = filled(1, 1 << 20, 10);
        let mut position = 0;
        assert_eq!(read(&ring, &mut position).unwrap().1, 0);
        for n in 10..50 {
            ring.push(frame(n * 100, n % 10 == 0));
        }
        let (first, lost) = read(&ring, &mut position).unwrap();
        assert!(first.key && lost > 0);

        let ring = Ring::new(Duration::from_secs(5), 250);
        (0..9).for_each(|n| ring.push(frame(n * 40, n == 0)));
        let mut position = 0;
        assert!(read(&ring, &mut position).is_none(), "what is held cannot be decoded");
        ring.push(frame(360, true));
        assert_eq!(read(&ring, &mut position).map(|(frame, lost)| (frame.key, lost)), Some((true, 9)));
    }

    #[test]
    fn a_moment_is_counted_from_the_frame_taken_before_it() {
        let ring = Ring::new(Duration::from_secs(60), 1 << 20);
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        // A burst: 2 s of film that came at once; then a frame each 7 s.
        for (ms, taken) in [(0, 0), (1000, 0), (2000, 0), (9000, 7000)] {
            ring.push(Frame { taken: after(taken), ..frame(ms, true) });
        }
        let moment = |ms| ring.overview(after(ms)).unwrap().moment;
        assert_eq!(moment(0), Duration::from_secs(2));
        assert_eq!(moment(3000), Duration::from_secs(5));
        assert_eq!(moment(7500), Duration::from_millis(9500));
        let overview = ring.overview(began.checked_sub(Duration::from_secs(3)).unwrap()).unwrap();
        assert_eq!((overview.moment, overview.step), (Duration::ZERO, Duration::from_secs(7)));
        assert_eq!(ring.taken_before(Duration::from_secs(9)), Some(began));
    }

    /// A reader: how many frames it lets pass before it reads all that there are.
    #[derive(Debug)]
    struct Reader {
        lag: usize,
        position: u64,
        got: u64,
        lost: u64,
        last: Option<u64>,
    }

    proptest! {
        /// Whatever the GOPs, sizes, bounds and lags: memory is bounded; the newest GOP has its keyframe if it fits; each reader is
        /// told of every frame once, in order, and goes on at a keyframe; one whose unread frames fit into both bounds loses none.
        #[test]
        fn readers_lose_only_what_the_bounds_cannot_hold(
            frames in prop::collection::vec((1_usize..400, prop::bool::weighted(0.1), 1_u64..200), 1..300),
            max_bytes in 1_usize..4000,
            span_ms in 0_u64..4000,
            lags in prop::collection::vec(0_usize..80, 1..6),
        ) {
            let ring = Ring::new(Duration::from_millis(span_ms), max_bytes);
            let mut readers: Vec<Reader> =
                lags.into_iter().map(|lag| Reader { lag, position: 0, got: 0, lost: 0, last: None }).collect();
            let (mut ms, mut pushed): (u64, Vec<(usize, bool, u64)>) = (0, Vec::new());
            for (n, (bytes, key, step)) in frames.into_iter().enumerate() {
                ms += step;
                // A session begins with a keyframe.
                let key = key || n == 0;
                ring.push(sized(ms, key, bytes));
                pushed.push((bytes, key, ms));
                prop_assert!(ring.held().bytes <= max_bytes.max(bytes));
                let begun = pushed.iter().rposition(|(_, key, _)| *key).unwrap();
                let gop: usize = pushed[begun..].iter().map(|(bytes, ..)| bytes).sum();
                prop_assert_eq!(ring.newest_key(), (gop <= max_bytes || begun == n).then_some(begun as u64));
                for reader in readers.iter_mut().filter(|reader| n % (reader.lag + 1) == reader.lag) {
                    let unread = &pushed[usize::try_from(reader.position).unwrap()..];
                    let fits = unread.iter().map(|(bytes, ..)| bytes).sum::<usize>() <= max_bytes
                        && unread.first().is_none_or(|(.., oldest)| ms - oldest < span_ms)
                        || unread.len() == 1;
                    while let Some((frame, lost)) = read(&ring, &mut reader.position) {
                        prop_assert!(!fits || lost == 0);
                        prop_assert!(lost == 0 || frame.key);
                        let at = reader.position - 1;
                        prop_assert_eq!(frame.pts, Duration::from_millis(pushed[usize::try_from(at).unwrap()].2));
                        prop_assert_eq!(at, reader.last.map_or(0, |last| last + 1) + lost);
                        reader.last = Some(at);
                        reader.got += 1;
                        reader.lost += lost;
                    }
                    prop_assert_eq!(reader.got + reader.lost, reader.position);
                    prop_assert!(!fits || reader.position == n as u64 + 1);
                }
            }
        }
    }
}
