//! Whether something moves, by the sizes of coded pictures. What stays as it was costs an encoder next to nothing, so pictures between
//! two keyframes grow with what moves. Pure. Called by `bitstream`.
//!
//! 1. Sizes are compared by their logarithms, a value every tenth of a second: twice the size is twice the size at any bit rate.
//! 2. The median of five values, against what is usual. What is usual follows within a minute, and at once where sizes shrink.
//! 3. It must exceed the usual by a half, and by several times what it varies by: rain and sensor noise vary.
//! 4. A picture of more than half the size of a keyframe is another light, or another place: it and the next second do not count.

use std::time::Duration;

/// What an empty picture may take, bytes: below, sizes tell nothing.
const EMPTY: f32 = 32.0;
/// A value is the mean of the pictures within this time.
const VALUE: Duration = Duration::from_millis(90);
/// Values whose median counts.
const VALUES: usize = 5;
/// By how much sizes must grow at the middle sensitivity: powers of two, and times their deviation.
const GROWS: f32 = 0.6;
const DEVIATIONS: f32 = 2.5;
/// The least deviation, and the most that one value adds to it.
const LEAST: f32 = 0.08;
const MOST: f32 = 1.0;
/// No value counts for more than this, powers of two.
const STEP: f32 = 2.0;
/// How long motion must last, seconds.
const LASTS: f32 = 0.19;
/// Seconds in which the usual follows larger sizes, motion, and smaller sizes.
const LARGER: f32 = 40.0;
const MOVING: f32 = 30.0;
const SMALLER: f32 = 8.0;
/// Seconds in which the deviation follows.
const VARIES: f32 = 60.0;
/// It learns for so long before it judges, with this time constant, seconds.
const LEARNS: f32 = 10.0;
const LEARNING: f32 = 2.0;
/// How long nothing counts after the whole picture has changed.
const CHANGED: Duration = Duration::from_millis(1500);
/// After a pause so long it learns anew: the stream was away.
const AWAY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(in crate::media) struct Judge {
    /// What sensitivity makes of `GROWS` and `DEVIATIONS`.
    factor: f32,
    /// When the last picture is shown, and the last value was taken.
    last: Option<Duration>,
    valued: Duration,
    /// The logarithms since then, and how many.
    sum: (f32, u32),
    usual: f32,
    deviation: f32,
    recent: [f32; VALUES],
    /// How long it has learnt, and has seen motion.
    learnt: f32,
    lasts: f32,
    keyframe: Option<f32>,
    /// Until when nothing counts.
    changed: Duration,
}

impl Judge {
    /// `sensitivity` is 1 to 100.
    pub fn new(sensitivity: u8) -> Self {
        Self { factor: (150.0 - f32::from(sensitivity)) / 100.0, ..Self::default() }
    }

    /// Looks at the size in bytes of the next picture, which is shown at `at`. True: something moves.
    pub fn see(&mut self, key: bool, bytes: usize, at: Duration) -> bool {
        let size = log2(bytes as f32 + EMPTY);
        if self.last.replace(at).is_some_and(|last| at.saturating_sub(last) >= AWAY) {
            *self = Self { factor: self.factor, last: self.last, ..Self::default() };
        }
        if key {
            // That of a scene with much detail: some cameras send a small one first.
            self.keyframe = Some(self.keyframe.map_or(size, |before| size.max(before - 0.2)));
            return false;
        }
        if self.keyframe.is_some_and(|keyframe| size > keyframe - 1.0) {
            self.changed = at + CHANGED;
        }
        self.sum = (self.sum.0 + size, self.sum.1 + 1);
        let step = at.saturating_sub(self.valued);
        if step < VALUE {
            return false;
        }
        self.valued = at;
        let (sum, count) = std::mem::take(&mut self.sum);
        self.value(sum / count as f32, step.as_secs_f32().min(1.0)) && at >= self.changed
    }

    /// Takes a value, so many seconds after the one before. True: motion lasts.
    fn value(&mut self, value: f32, step: f32) -> bool {
        if self.learnt == 0.0 {
            (self.usual, self.deviation) = (value, MOST / 2.0);
        }
        let grown = value - self.usual;
        self.recent.rotate_left(1);
        self.recent[VALUES - 1] = grown;
        let mut sorted = self.recent;
        sorted.sort_unstable_by(f32::total_cmp);
        let median = sorted[VALUES / 2];
        let moves = median > self.factor * GROWS.max(DEVIATIONS * self.deviation);
        let learns = self.learnt < LEARNS;
        let (follows, varies) = match (learns, moves) {
            (true, _) => (LEARNING, LEARNING),
            (_, true) => (MOVING, VARIES),
            _ if grown < 0.0 => (SMALLER, VARIES),
            _ => (LARGER, VARIES),
        };
        self.learnt += step;
        self.usual += (step / follows).min(1.0) * grown.clamp(-STEP, STEP);
        self.deviation += (step / varies).min(1.0) * (1.25 * median.abs().min(MOST) - self.deviation);
        self.deviation = self.deviation.max(LEAST);
        self.lasts = if moves && !learns { self.lasts + step } else { 0.0 };
        self.lasts >= LASTS
    }
}

/// The logarithm to the base 2 of a normal positive number, straight between powers of two.
fn log2(number: f32) -> f32 {
    number.to_bits() as f32 / (1 << 23) as f32 - 127.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream, ten pictures a second with a keyframe every two seconds unless a test says otherwise.
    struct Stream {
        judge: Judge,
        random: fastrand::Rng,
        at: Duration,
        step: Duration,
        interval: u32,
        keyframe: usize,
        number: u32,
    }

    impl Stream {
        fn new(sensitivity: u8) -> Self {
            Self {
                judge: Judge::new(sensitivity),
                random: fastrand::Rng::with_seed(7),
                // Thirty days: the agent runs for long.
                at: Duration::from_secs(30 * 86_400),
                step: Duration::from_millis(100),
                interval: 20,
                keyframe: 20_000,
                number: 0,
            }
        }

        /// One that has learnt what is usual.
        fn at_rest() -> Self {
            let mut stream = Self::new(50);
            assert_eq!(stream.moves(60, 1000), 0, "noise is no motion");
            stream
        }

        /// For how many of so many pictures of this size there is motion.
        fn shows(&mut self, pictures: u32, bytes: usize) -> usize {
            let sees = |_: &u32| {
                self.at += self.step;
                self.judge.see(false, bytes, self.at)
            };
            (0..pictures).filter(sees).count()
        }

        /// For how many pictures of so many seconds there is motion. Pictures have this size, more or less by a tenth.
        fn moves(&mut self, seconds: u64, bytes: usize) -> usize {
            let until = self.at + Duration::from_secs(seconds);
            let mut moves = 0;
            while self.at < until {
                let key = self.number.is_multiple_of(self.interval);
                let bytes = if key { self.keyframe } else { self.random.usize(bytes * 9 / 10..=bytes * 11 / 10) };
                moves += usize::from(self.judge.see(key, bytes, self.at));
                (self.number, self.at) = (self.number + 1, self.at + self.step);
            }
            moves
        }
    }

    #[test]
    fn what_doubles_the_pictures_is_motion_until_it_has_gone_on_for_a_minute() {
        let mut stream = Stream::at_rest();
        assert!((15..).contains(&stream.moves(3, 2000)));
        let more = stream.moves(120, 2000);
        assert!((50..=600).contains(&more), "{more}");
        assert_eq!(stream.moves(30, 2000) + stream.moves(60, 1000), 0);
        assert!(stream.moves(3, 2500) > 0);
    }

    #[test]
    fn a_flash_is_no_motion() {
        let mut stream = Stream::at_rest();
        for _ in 0..10 {
            // The picture with it, and the one without it.
            assert_eq!(stream.shows(2, 8000) + stream.moves(3, 1000), 0);
        }
    }

    #[test]
    fn another_light_is_no_motion() {
        let mut stream = Stream::at_rest();
        for _ in 0..6 {
            // The exposure changes in some steps, each as large as a keyframe.
            assert_eq!(stream.shows(6, 15_000) + stream.moves(20, 1000), 0);
        }
    }

    #[test]
    fn a_rate_that_changes_is_no_motion_or_not_for_long() {
        let mut stream = Stream::at_rest();
        assert_eq!(stream.moves(60, 250), 0, "a lower bit rate");
        let higher = stream.moves(300, 1000);
        assert!(higher < 900, "a higher one: {higher} pictures");
        stream.step = Duration::from_millis(40);
        assert_eq!(stream.moves(60, 1000), 0, "more pictures a second");
        stream.interval = 100;
        assert_eq!(stream.moves(60, 1000), 0, "fewer keyframes");
        stream.step = Duration::from_millis(500);
        assert_eq!(stream.moves(60, 1000), 0);
        assert!(stream.moves(5, 2500) > 0, "two pictures a second are enough");
    }

    #[test]
    fn a_stream_that_was_away_is_learnt_anew() {
        let mut stream = Stream::at_rest();
        stream.at += AWAY;
        assert_eq!(stream.moves(60, 3000), 0);
        assert!(stream.moves(3, 6000) > 0);
    }

    #[test]
    fn pictures_that_vary_must_grow_by_more() {
        let mut stream = Stream::new(50);
        for _ in 0..100 {
            stream.moves(1, 1000);
            stream.moves(1, 2500);
        }
        assert_eq!((0..10).map(|_| stream.moves(1, 1000) + stream.moves(1, 2500)).sum::<usize>(), 0);
        assert!(stream.moves(5, 8000) > 0);
    }

    #[test]
    fn sensitivity_decides_how_much_they_must_grow() {
        for (sensitivity, bytes) in [(1, [1500, 2300]), (50, [1300, 1800]), (100, [1100, 1450])] {
            let seen = bytes.map(|bytes| {
                let mut stream = Stream::new(sensitivity);
                stream.moves(60, 1000);
                stream.moves(5, bytes) > 0
            });
            assert_eq!(seen, [false, true], "{sensitivity}");
        }
    }

    #[test]
    fn pictures_of_a_few_bytes_tell_nothing() {
        let mut stream = Stream::at_rest();
        assert_eq!(stream.moves(60, 12) + stream.moves(30, 24), 0);
        assert!(stream.moves(3, 120) > 0);
    }

    #[test]
    fn a_stream_without_keyframes_or_with_nothing_else_is_read() {
        let mut stream = Stream { interval: u32::MAX, number: 1, ..Stream::new(50) };
        assert_eq!(stream.moves(60, 1000), 0);
        assert!(stream.moves(3, 2500) > 0);
        let mut stream = Stream { interval: 1, ..Stream::new(50) };
        assert_eq!(stream.moves(60, 1000), 0);
    }
}
