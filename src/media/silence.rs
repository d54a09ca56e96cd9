//! How long a stream may be silent before it counts as dead. That follows the stream's own rate: a time-lapse camera sends a frame
//! a minute, another fifteen a second. A value without clock or thread, for the supervisor.

use std::time::{Duration, Instant};

/// How long the first frame of a session may take: some cameras need 20 s, a time-lapse one a minute. Until a rate is known the
/// next ones may take as long. A session in which none came within that gives the next one twice as long, up to `LONGEST`; then
/// it begins anew, for a camera that must be asked again.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(75);
/// A stream that is silent for this long may be dead, if it was faster.
const SHORTEST: Duration = Duration::from_secs(5);
/// One that is silent for this long is, whatever its rate.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// The limit is so many intervals between frames.
const INTERVALS: u32 = 4;
/// Intervals are remembered for one to two of these.
const WINDOW: Duration = Duration::from_secs(300);
/// So many frames in a session show a rate.
const RATE_KNOWN: u64 = 3;
/// A session of this length was not cut off by a limit too short.
const LONG_SESSION: Duration = Duration::from_secs(600);

/// The rate of one stream, over all its sessions.
#[derive(Debug)]
pub(super) struct Silence {
    /// The two longest intervals of this window and of the one before. The longest alone may be a hiccup.
    longest: [[Duration; 2]; 2],
    window_began: Instant,
    session_began: Instant,
    last_frame: Instant,
    /// In this session.
    frames: u64,
    /// No limit is shorter. It grows while sessions end in silence, for a stream that comes in bursts.
    patience: Duration,
    /// How long the first frames may take.
    first: Duration,
    /// How long the slowest of them took in this session.
    slowest: Duration,
}

impl Silence {
    pub fn new(now: Instant) -> Self {
        let (longest, slowest) = Default::default();
        Self { longest, window_began: now, session_began: now, last_frame: now, frames: 0, patience: SHORTEST, first: FIRST_FRAME, slowest }
    }

    /// A session begins.
    pub fn begin(&mut self, now: Instant) {
        (self.session_began, self.last_frame, self.frames, self.slowest) = (now, now, 0, Duration::ZERO);
    }

    /// A session has ended, in silence or otherwise.
    pub fn end(&mut self, now: Instant, in_silence: bool) {
        if now - self.session_began >= LONG_SESSION {
            self.patience = SHORTEST;
            self.first = (2 * self.slowest).clamp(FIRST_FRAME, LONGEST);
        } else if in_silence && self.frames >= RATE_KNOWN {
            self.patience = (2 * self.limit()).clamp(SHORTEST, FIRST_FRAME);
        } else if in_silence {
            self.first = if self.first < LONGEST { LONGEST.min(2 * self.first) } else { FIRST_FRAME };
        }
    }

    /// How long the next session waits for its first frame, if this one had none.
    pub fn next_wait(&self) -> Option<Duration> {
        (self.frames == 0).then_some(self.first)
    }

    /// `frames` have come since the last call.
    pub fn frames(&mut self, now: Instant, frames: u64) {
        if now - self.window_began >= WINDOW {
            self.longest = [Default::default(), self.longest[0]];
            self.window_began = now;
        }
        let interval = now - self.last_frame;
        if self.frames < RATE_KNOWN {
            self.slowest = self.slowest.max(interval);
        }
        if self.frames > 0 {
            let [first, second] = &mut self.longest[0];
            if interval > *first {
                (*first, *second) = (interval, *first);
            } else {
                *second = interval.max(*second);
            }
        }
        self.last_frame = now;
        self.frames += frames;
    }

    /// How long it has been silent, if that is too long.
    pub fn too_long(&self, now: Instant) -> Option<Duration> {
        Some(now - self.last_frame).filter(|silence| *silence > self.limit())
    }

    fn limit(&self) -> Duration {
        if self.frames < RATE_KNOWN {
            return self.first;
        }
        let mut longest = self.longest.concat();
        longest.sort();
        (longest[2] * INTERVALS).clamp(self.patience, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A stream that has sent frames at this interval for so long; and the time.
    fn flowing(interval: f64, lasted: f64) -> (Silence, Instant) {
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        for _ in 0..(lasted / interval) as u64 {
            now += seconds(interval);
            assert_eq!(silence.too_long(now), None, "a frame every {interval} s");
            silence.frames(now, 1);
        }
        (silence, now)
    }

    fn limit(silence: &Silence) -> f64 {
        silence.limit().as_secs_f64()
    }

    #[test]
    fn the_limit_is_four_intervals_and_neither_under_5_s_nor_over_5_minutes() {
        for (interval, expected) in [(0.04, 5.0), (1.0, 5.0), (1.5, 6.0), (7.0, 28.0), (60.0, 240.0), (74.0, 296.0)] {
            let silence = flowing(interval, 900.0).0;
            assert!((limit(&silence) - expected).abs() < 0.001, "a frame every {interval} s: {} s", limit(&silence));
        }
    }

    #[test]
    fn before_a_rate_is_known_a_frame_may_take_75_s() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        assert_eq!(silence.too_long(start + seconds(75.0)), None);
        assert_eq!(silence.too_long(start + seconds(76.0)), Some(seconds(76.0)));
        silence.frames(start + seconds(60.0), 1);
        assert_eq!(silence.too_long(start + seconds(134.0)), None);
    }

    #[test]
    fn a_first_frame_that_does_not_come_gives_the_next_session_twice_as_long() {
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        for (waits, next) in [(75.0, 150), (150.0, 300), (300.0, 75), (75.0, 150)] {
            silence.begin(now);
            assert_eq!(silence.too_long(now + seconds(waits)), None);
            now += seconds(waits + 1.0);
            assert!(silence.too_long(now).is_some());
            silence.end(now, true);
            assert_eq!(silence.next_wait(), Some(Duration::from_secs(next)));
        }
        // A camera that needs 100 s comes in now, and when it has to be asked again.
        silence.begin(now);
        now += seconds(100.0);
        assert_eq!(silence.too_long(now), None);
        for _ in 0..600 {
            silence.frames(now, 1);
            now += seconds(1.0);
        }
        silence.end(now, false);
        assert_eq!(silence.next_wait(), None);
        silence.begin(now);
        assert_eq!(silence.too_long(now + seconds(200.0)), None);
        assert!(silence.too_long(now + seconds(201.0)).is_some());
    }

    /// A time-lapse camera that is slower than the first wait.
    #[test]
    fn a_frame_every_two_minutes_is_a_stream_at_the_second_try() {
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        silence.begin(now);
        silence.frames(now, 1);
        assert!(silence.too_long(now + seconds(76.0)).is_some());
        now += seconds(76.0);
        silence.end(now, true);
        silence.begin(now);
        for _ in 0..9 {
            silence.frames(now, 1);
            now += seconds(120.0);
            assert_eq!(silence.too_long(now), None);
        }
    }

    #[test]
    fn one_hiccup_does_not_blunt_the_watch() {
        let (mut silence, now) = flowing(0.1, 60.0);
        silence.frames(now + seconds(4.5), 1);
        assert!(limit(&silence) < 5.1);
    }

    #[test]
    fn a_slow_rate_is_forgotten_once_the_stream_is_fast_again() {
        let (mut silence, mut now) = flowing(7.0, 70.0);
        for _ in 0..6100 {
            now += seconds(0.1);
            silence.frames(now, 1);
        }
        assert!((limit(&silence) - 5.0).abs() < 0.001);
    }

    #[test]
    fn a_stream_in_bursts_is_given_more_time_after_each_end_in_silence() {
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        let mut limits = Vec::new();
        for _ in 0..6 {
            silence.begin(now);
            silence.frames(now, 30);
            limits.push(limit(&silence));
            now += seconds(limit(&silence) + 0.1);
            assert!(silence.too_long(now).is_some());
            silence.end(now, true);
        }
        assert_eq!(limits, [5.0, 10.0, 20.0, 40.0, 75.0, 75.0]);
        silence.begin(now);
        silence.end(now + LONG_SESSION, false);
        silence.begin(now + LONG_SESSION);
        silence.frames(now + LONG_SESSION, 30);
        assert!((limit(&silence) - 5.0).abs() < 0.001, "a long session shows that the limit was right");
    }

    #[test]
    fn a_new_session_waits_for_its_first_frame_and_remembers_the_rate() {
        let (mut silence, now) = flowing(10.0, 120.0);
        silence.end(now, false);
        silence.begin(now);
        assert!((limit(&silence) - 75.0).abs() < 0.001);
        silence.frames(now + seconds(20.0), 3);
        assert!((limit(&silence) - 40.0).abs() < 0.001, "the pause between two sessions is no interval");
    }
}
