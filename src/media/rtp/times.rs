//! When each picture is shown. Called by `delivery` for every access unit, also for those that are not used.
//!
//! The rule:
//! 1. RTP time decides: the steps between pictures are exactly its steps.
//! 2. A step that cannot be right is replaced by the step of arrival: no step at all, a step back that is no B picture's, a leap
//!    further ahead of arrival than pictures are reordered or sent in one burst.
//! 3. Once a second the RTP clock is compared with arrival, by the picture that came with the least delay: so a stalled network,
//!    which delivers late and then all at once, does not count against it. A clock that is too fast by more than an eighth twice in
//!    a row, or too slow three times, is wrong: pictures are then shown as they arrive, until it has been right twice in a row.
//! 4. Until its first comparison a clock is believed step by step: if it is not slower than 0.6 of arrival.
//! 5. Presentation that has drifted from arrival by more than half a second is brought back by an eighth of each step at most.
//! 6. It is never more than ten seconds from arrival, and only B pictures go back.

use std::{collections::VecDeque, num::NonZeroU32, time::Instant};

const MS: i64 = 1_000_000;
const SECOND: i64 = 1000 * MS;
/// How far a picture may leap ahead of arrival: the least, and in intervals of arrival. Encoders reorder by three or four pictures.
const LEAP: i64 = 250 * MS;
const LEAP_INTERVALS: i64 = 4;
/// A B picture is shown at most this long before a picture that was decoded earlier.
const REORDERED: i64 = SECOND;
/// How long the clock is watched before it is judged, and how many pictures at least.
const WINDOW: i64 = SECOND;
const WINDOW_PICTURES: i64 = 5;
/// How many windows are remembered: stalls that follow each other are over by then.
const MEMORY: usize = 4;
/// A clock is off if it differs from arrival by more than one part in so many.
const OFF: i64 = 8;
/// Presentation may drift this far from arrival before it is corrected.
const DRIFT: i64 = SECOND / 2;
/// How fast it is corrected: the excess is gone after this long, unless that takes more than one part in [`OFF`] of each step.
const CORRECTION: i64 = 4 * SECOND;
/// The furthest from arrival.
const FURTHEST: i64 = 10 * SECOND;
/// Between pictures that nothing tells apart.
const SHORTEST: i64 = MS / 10;

#[derive(Debug)]
pub(super) struct Times {
    clock_rate: i64,
    running: Option<Running>,
}

/// All times are nanoseconds since the first picture came.
#[derive(Debug)]
struct Running {
    first: Instant,
    /// The latest picture that is no B picture: its RTP time, when it came.
    rtp: u32,
    came: i64,
    /// RTP time counted from an anchor, in ticks, and where the anchor is shown: sums of ticks are exact.
    ticks: i64,
    anchor: i64,
    /// The latest picture of any kind.
    last_came: i64,
    last_shown: i64,
    clock: Clock,
    judge: Judge,
    /// Presentation minus arrival, as it was when the clock was first judged: a stream that begins with a burst stays ahead.
    lead: Option<i64>,
    /// How much later than that pictures came in the window before.
    late: Option<i64>,
    /// Of each step, in millionths, to come back to arrival.
    correction: i64,
}

/// What is known of the RTP clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    New,
    Right,
    Wrong,
}

impl Times {
    pub fn new(clock_rate: NonZeroU32) -> Self {
        Self { clock_rate: clock_rate.get().into(), running: None }
    }

    /// When the next picture in decoding order is shown, nanoseconds from the first. `reorders`: it may be shown before pictures
    /// that were decoded earlier.
    pub fn next(&mut self, rtp: u32, received: Instant, reorders: bool) -> i64 {
        let rate = self.clock_rate;
        match &mut self.running {
            Some(running) => running.next(rate, rtp, received, reorders),
            None => {
                self.running = Some(Running::begin(rtp, received));
                0
            }
        }
    }
}

impl Running {
    fn begin(rtp: u32, first: Instant) -> Self {
        Self {
            first,
            rtp,
            came: 0,
            ticks: 0,
            anchor: 0,
            last_came: 0,
            last_shown: 0,
            clock: Clock::New,
            judge: Judge::default(),
            lead: None,
            late: None,
            correction: 0,
        }
    }

    fn next(&mut self, rate: i64, rtp: u32, received: Instant, reorders: bool) -> i64 {
        let came = nanoseconds(self.first, received).max(self.last_came);
        let waited = came - self.came;
        let ticks = i64::from(rtp.wrapping_sub(self.rtp) as i32);
        let step = ticks * SECOND / rate;
        if reorders && (-REORDERED..0).contains(&step) && self.clock != Clock::Wrong {
            self.last_came = came;
            return self.anchor + (self.ticks + ticks) * SECOND / rate;
        }
        let by_arrival = self.last_shown + (came - self.last_came).max(SHORTEST);
        if step == 0 {
            // The next RTP time tells where both belong.
            return self.show(came, by_arrival);
        }
        let believed = self.believes(step, waited);
        self.judge.step(if self.is_leap(step, waited) { None } else { Some(step) }, waited);
        let mut shown = if believed {
            self.ticks += ticks;
            // Whole seconds move into the anchor, which loses nothing and keeps the sum small.
            self.anchor += self.ticks.div_euclid(rate) * SECOND;
            self.ticks = self.ticks.rem_euclid(rate);
            self.anchor + self.ticks * SECOND / rate
        } else {
            by_arrival
        };
        let length = shown - self.last_shown;
        let corrected = shown + length.clamp(0, SECOND) / 1_000_000 * self.correction;
        let lead = self.lead.unwrap_or(0);
        let bounded = corrected.clamp(came + lead - FURTHEST, came + lead + FURTHEST);
        // A picture that shared the RTP time of the one before may have come late: no reason to leave the clock's line.
        let forward = bounded.max(self.last_shown + SHORTEST);
        let leaves_line = !believed || bounded != shown || forward - bounded > LEAP;
        shown = forward;
        if leaves_line {
            (self.anchor, self.ticks) = (shown, 0);
        }
        (self.rtp, self.came) = (rtp, came);
        self.judge_clock(came, shown);
        self.show(came, shown)
    }

    fn show(&mut self, came: i64, shown: i64) -> i64 {
        (self.last_came, self.last_shown) = (came, shown.max(self.last_shown));
        shown
    }

    fn believes(&self, step: i64, waited: i64) -> bool {
        !self.is_leap(step, waited)
            && match self.clock {
                Clock::New => step * 10 >= waited * 6,
                Clock::Right => true,
                Clock::Wrong => false,
            }
    }

    /// Whether the clock goes back, or ahead of arrival by more than what was late before and what reordering explains.
    fn is_leap(&self, step: i64, waited: i64) -> bool {
        let late = (self.came + self.lead.unwrap_or(0) - self.last_shown).max(0);
        let allowance = LEAP.max(LEAP_INTERVALS * self.judge.interval);
        step <= 0 || step > waited + late + allowance
    }

    fn judge_clock(&mut self, came: i64, shown: i64) {
        let Some(verdict) = self.judge.verdict(came - shown) else { return };
        self.clock = match (self.clock, verdict.streak) {
            (Clock::New, (Course::Even, _)) | (Clock::Wrong, (Course::Even, 2..)) => Clock::Right,
            (_, (Course::Slow, 3..) | (Course::Fast | Course::Leaping, 2..)) => Clock::Wrong,
            (clock, _) => clock,
        };
        if self.clock != Clock::New {
            let lead = *self.lead.get_or_insert((-verdict.least_late).clamp(-FURTHEST, FURTHEST));
            // Two windows must agree: the first pictures after a stall are late, and no more.
            let late = [verdict.least_late + lead, self.late.replace(verdict.least_late + lead).unwrap_or(0)];
            let drift = if late[0].signum() == late[1].signum() { late[0].signum() * late[0].abs().min(late[1].abs()) } else { 0 };
            let excess = drift - drift.clamp(-DRIFT, DRIFT);
            self.correction = (excess / (CORRECTION / 1_000_000)).clamp(-1_000_000 / OFF, 1_000_000 / OFF);
        }
    }
}

fn nanoseconds(from: Instant, to: Instant) -> i64 {
    i64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(i64::MAX / 4)
}

/// Compares the RTP clock with arrival, window by window.
#[derive(Debug, Default)]
struct Judge {
    /// Arrival and RTP time of this window and of all before, leaps left out.
    arrival: i64,
    rtp: i64,
    window: Window,
    /// The least delay in each of the windows before, the newest last.
    before: VecDeque<i64>,
    streak: Option<(Course, u32)>,
    /// Between two pictures as they arrive, on average; 0 until it is known.
    interval: i64,
}

#[derive(Debug, Default)]
struct Window {
    length: i64,
    pictures: i64,
    leaps: i64,
    /// How much less RTP time than arrival has passed, at the least.
    least_delay: Option<i64>,
    /// How much later than presentation pictures came, at the least.
    least_late: Option<i64>,
}

/// How the RTP clock ran in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Even,
    Slow,
    Fast,
    Leaping,
}

struct Verdict {
    /// How the clock ran, and in how many windows in a row.
    streak: (Course, u32),
    least_late: i64,
}

impl Judge {
    /// `None`: the clock leapt.
    fn step(&mut self, rtp: Option<i64>, arrival: i64) {
        self.arrival += arrival;
        self.rtp += rtp.unwrap_or(arrival);
        self.window.length += arrival;
        self.window.pictures += 1;
        self.window.leaps += i64::from(rtp.is_none());
        let delay = self.arrival - self.rtp;
        self.window.least_delay = Some(self.window.least_delay.map_or(delay, |least| least.min(delay)));
    }

    /// At the end of a window.
    fn verdict(&mut self, late: i64) -> Option<Verdict> {
        let window = &mut self.window;
        let least_late = *window.least_late.insert(window.least_late.map_or(late, |least| least.min(late)));
        if window.length < WINDOW || window.pictures < WINDOW_PICTURES {
            return None;
        }
        let window = std::mem::take(window);
        self.interval = window.length / window.pictures;
        let delay = window.least_delay?;
        let (before, least) = (self.before.back().copied(), self.before.iter().min().copied());
        if self.before.len() == MEMORY {
            self.before.pop_front();
        }
        self.before.push_back(delay);
        // A network that recovers from a stall is no fast clock: its delay falls to what it was, not below.
        let course = match (delay - before?, delay - least?) {
            _ if window.leaps * 4 > window.pictures => Course::Leaping,
            (slower, _) if slower > window.length / OFF => Course::Slow,
            (_, slower) if slower < -window.length / OFF => Course::Fast,
            _ => Course::Even,
        };
        let streak = match self.streak {
            Some((before, n)) if before == course => (course, n.saturating_add(1)),
            _ => (course, 1),
        };
        self.streak = Some(streak);
        Some(Verdict { streak, least_late })
    }
}
