//! When each picture is shown. Called by `delivery` for every access unit, also for those that are not used.
//!
//! The rule:
//! 1. RTP time decides: the steps between pictures are exactly its steps, however late the network delivers them.
//! 2. A step that cannot be right is replaced by the step of arrival: no step at all, a step back that is no B picture's, a leap
//!    further ahead of arrival than pictures are reordered or sent in one burst.
//! 3. `judge` compares the RTP clock with arrival. While it is found wrong, arrival decides every step.
//! 4. A clock that is right may still gain or lose seconds a day on ours. Presentation that has been more than half a second from
//!    where it began, for two rounds of the judge, is brought back there: each step then differs by at most a sixteenth.
//! 5. It is never more than twenty seconds from arrival, and only B pictures go back.

use std::{num::NonZeroU32, time::Instant};

use super::judge::{Clock, Judge, Seen};

const MS: i64 = 1_000_000;
pub(super) const SECOND: i64 = 1000 * MS;
/// How far a picture may leap ahead of arrival: the least, that of a clock which is believed from the beginning until an interval is
/// known, and in intervals of arrival. Encoders reorder by three or four pictures, x265 by five.
const LEAP: i64 = 250 * MS;
const LEAP_AT_FIRST: i64 = 2 * LEAP;
const LEAP_INTERVALS: i64 = 6;
/// A B picture is shown at most this long before a picture that was decoded earlier.
const REORDERED: i64 = SECOND;
/// Presentation that is brought back differs from the steps of its clock by one part in so many.
const CORRECTION: i64 = 16;
/// The furthest from arrival. A network that stalls for longer has lost its connection.
const FURTHEST: i64 = 20 * SECOND;
/// Between pictures that nothing tells apart.
const SHORTEST: i64 = MS / 10;

#[derive(Debug)]
pub(super) struct Times {
    clock_rate: i64,
    /// What is known of the clock before the first picture.
    clock: Clock,
    running: Option<Running>,
}

/// All times are nanoseconds since the first picture came.
#[derive(Debug)]
struct Running {
    first: Instant,
    /// The latest picture with an RTP time of its own that is no B picture: that time, and when it came.
    rtp: u32,
    came: i64,
    /// RTP time counted from an anchor, in ticks, and where the anchor is shown: sums of ticks are exact.
    ticks: i64,
    anchor: i64,
    /// The latest picture of any kind.
    last_came: i64,
    last_shown: i64,
    judge: Judge,
    /// By how much presentation is still to be moved, to be again as far from arrival as it was at the beginning.
    owed: i64,
}

impl Times {
    pub fn new(clock_rate: NonZeroU32) -> Self {
        Self { clock_rate: clock_rate.get().into(), clock: Clock::Doubted, running: None }
    }

    /// Believes the clock until it proves wrong. For a source on this machine: its clock is rarely wrong, and a busy processor
    /// delays the first pictures more than a network does.
    #[cfg(feature = "gstreamer")]
    pub fn trusting(clock_rate: NonZeroU32) -> Self {
        Self { clock: Clock::Right, ..Self::new(clock_rate) }
    }

    /// When the first picture came.
    pub fn began(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.first)
    }

    /// When a picture of this RTP time is shown, nanoseconds from the first. `None` unless the clock has been found right.
    pub fn shown_at(&self, rtp: u32) -> Option<i64> {
        let running = self.running.as_ref().filter(|running| running.judge.is_right())?;
        let ticks = running.ticks + i64::from(rtp.wrapping_sub(running.rtp) as i32);
        Some(running.anchor + ticks * SECOND / self.clock_rate)
    }

    /// When the next picture in decoding order is shown, nanoseconds from the first. `reorders`: it may be shown before pictures
    /// that were decoded earlier.
    pub fn next(&mut self, rtp: u32, received: Instant, reorders: bool) -> i64 {
        let rate = self.clock_rate;
        match &mut self.running {
            Some(running) => running.next(rate, rtp, received, reorders),
            None => {
                self.running = Some(Running::begin(rtp, received, self.clock));
                0
            }
        }
    }
}

impl Running {
    fn begin(rtp: u32, first: Instant, clock: Clock) -> Self {
        Self { first, rtp, came: 0, ticks: 0, anchor: 0, last_came: 0, last_shown: 0, judge: Judge::of(clock), owed: 0 }
    }

    fn next(&mut self, rate: i64, rtp: u32, received: Instant, reorders: bool) -> i64 {
        let came = nanoseconds(self.first, received).max(self.last_came);
        let ticks = i64::from(rtp.wrapping_sub(self.rtp) as i32);
        let step = ticks * SECOND / rate;
        if reorders && (-REORDERED..0).contains(&step) && !self.judge.is_wrong() {
            self.last_came = came;
            return within(came, self.anchor + (self.ticks + ticks) * SECOND / rate);
        }
        let arrival = (came - self.last_came).max(SHORTEST);
        if step == 0 {
            // The next RTP time tells where both belong.
            let shown = within(came, self.last_shown + arrival).max(self.last_shown + SHORTEST);
            (self.last_came, self.last_shown) = (came, shown);
            return shown;
        }
        let waited = came - self.came;
        let leaps = self.is_leap(step, waited);
        let line = if !leaps && self.judge.believes(step, waited) {
            self.ticks += ticks;
            self.anchor += self.due(step);
            // Whole seconds move into the anchor, which loses nothing and keeps the sum small.
            self.anchor += self.ticks.div_euclid(rate) * SECOND;
            self.ticks = self.ticks.rem_euclid(rate);
            self.anchor + self.ticks * SECOND / rate
        } else {
            (self.anchor, self.ticks) = (self.last_shown + arrival + self.due(arrival), 0);
            self.anchor
        };
        let bounded = within(came, line);
        // A picture that shared the RTP time of the one before may have come late: no reason to leave the clock's line.
        let shown = bounded.max(self.last_shown + SHORTEST);
        if bounded != line || shown - bounded > LEAP {
            (self.anchor, self.ticks) = (shown, 0);
        }
        self.judge.take(Seen { rtp: if leaps { None } else { Some(step) }, arrival: waited, late: came - shown });
        self.owed = self.judge.owed(self.owed);
        (self.rtp, self.came, self.last_came, self.last_shown) = (rtp, came, came, shown);
        shown
    }

    /// What a step of this length contributes to bringing presentation back.
    fn due(&mut self, step: i64) -> i64 {
        let most = step.clamp(0, SECOND) / CORRECTION;
        let due = self.owed.clamp(-most, most);
        self.owed -= due;
        due
    }

    /// Whether the clock goes back, or ahead of arrival by more than what was late before and what reordering explains.
    fn is_leap(&self, step: i64, waited: i64) -> bool {
        let late = (self.came - self.last_shown - self.judge.on_time()).max(0);
        let allowance = match self.judge.interval() {
            0 if self.judge.is_right() => LEAP_AT_FIRST,
            interval => LEAP.max(LEAP_INTERVALS * interval),
        };
        step <= 0 || step > waited + late + allowance
    }
}

fn within(came: i64, shown: i64) -> i64 {
    shown.clamp(came - FURTHEST, came + FURTHEST)
}

fn nanoseconds(from: Instant, to: Instant) -> i64 {
    i64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(i64::MAX / 4)
}
