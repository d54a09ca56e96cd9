//! Compares the RTP clock with arrival, and says whether it may be right and how far presentation has drifted. Called by `times`.
//!
//! A network delivers late, and never early. So of many pictures only the one with the least delay tells of the clock, and a stall
//! is no evidence as long as it leaves one such picture to compare:
//! 1. Until its clock has been even for two seconds, a stream is doubted: a step is not believed while RTP has counted less than
//!    three quarters of arrival. The longest wait, which may be a stall or the time between two bursts, is left out of account.
//!    Three seconds in a row that are too slow by an eighth make the clock wrong.
//! 2. Two seconds in a row in which pictures came earlier than any before, by an eighth, make the clock wrong; so do two with leaps.
//! 3. Once in six of those seconds, which are a round, the least delay of the round is compared with that of the round before. A
//!    clock that differs from arrival by more than one part in 32, in two comparisons in a row and in the same direction, is wrong.
//!    It is right again once it has differed by less.
//! 4. The same rounds tell how far presentation is from where it was at the beginning.

use std::collections::VecDeque;

use super::times::SECOND;

/// How long a window is, and how many pictures it has at least.
const WINDOW: i64 = SECOND;
const WINDOW_PICTURES: i64 = 5;
/// Windows in a round.
const ROUND: usize = 6;
/// One part in so many is too much: of one window, of two rounds.
const OFF_AT_ONCE: i64 = 8;
const OFF: i64 = 32;
/// A clock that is doubted may be slower than arrival by one part in so many, and by what pictures are late without a stall.
const DOUBTED: i64 = 4;
const LATE: i64 = SECOND / 10;
/// Presentation may drift this far.
const DRIFT: i64 = SECOND / 2;

/// All times are nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Judge {
    clock: Clock,
    /// Since the first picture: arrival, and RTP time. Where the clock leapt, arrival counts for both.
    arrival: i64,
    rtp: i64,
    /// From one picture to the next.
    longest_wait: i64,
    window: Stretch,
    round: Stretch,
    windows_in_round: usize,
    /// The least delays of the windows of two rounds, the newest last.
    delays: VecDeque<i64>,
    streak: Option<(Course, u32)>,
    round_before: Option<i64>,
    /// What the last two rounds differed by, if that was too much.
    turn: i64,
    interval: i64,
    on_time: Option<i64>,
    /// By how much presentation was late throughout the round before, if nothing was owed.
    drift_before: i64,
    drift: Option<i64>,
}

/// What is known of the RTP clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Clock {
    #[default]
    Doubted,
    Right,
    Wrong,
}

/// How the RTP clock ran in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Even,
    Slow,
    Fast,
    Leaping,
}

/// A picture with an RTP time of its own. Its steps are those from the one before.
pub(super) struct Seen {
    /// `None`: the clock leapt.
    pub rtp: Option<i64>,
    pub arrival: i64,
    /// Arrival minus presentation.
    pub late: i64,
}

/// A window or a round.
#[derive(Debug, Default)]
struct Stretch {
    length: i64,
    pictures: i64,
    leaps: i64,
    /// By how much less RTP time than arrival has passed, at the least.
    delay: Option<i64>,
    late: Option<i64>,
}

impl Stretch {
    fn take(&mut self, seen: &Seen, delay: i64) {
        self.length += seen.arrival;
        self.pictures += 1;
        self.leaps += i64::from(seen.rtp.is_none());
        self.delay = Some(self.delay.map_or(delay, |least| least.min(delay)));
        self.late = Some(self.late.map_or(seen.late, |least| least.min(seen.late)));
    }

    fn leaps_often(&self) -> bool {
        self.leaps * 4 > self.pictures
    }
}

impl Judge {
    /// Of a clock of which this is known beforehand.
    pub fn of(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    pub fn is_wrong(&self) -> bool {
        self.clock == Clock::Wrong
    }

    pub fn is_right(&self) -> bool {
        self.clock == Clock::Right
    }

    /// Whether a step that is no leap may be right.
    pub fn believes(&self, step: i64, arrival: i64) -> bool {
        match self.clock {
            Clock::Right => true,
            Clock::Wrong => false,
            Clock::Doubted => {
                let longest_wait = self.longest_wait.max(arrival);
                let (arrival, rtp) = (self.arrival + arrival, self.rtp + step);
                arrival - rtp <= arrival / DOUBTED + longest_wait + LATE
            }
        }
    }

    /// Between two pictures as they arrive, on average; 0 until it is known.
    pub fn interval(&self) -> i64 {
        self.interval
    }

    /// Arrival minus presentation of a picture that came with the least delay. A stream that begins with a burst stays ahead.
    pub fn on_time(&self) -> i64 {
        self.on_time.unwrap_or(0)
    }

    /// By how much presentation is to be moved, if `owed` is what it is being moved by now.
    pub fn owed(&mut self, owed: i64) -> i64 {
        let Some(drift) = self.drift.take() else { return owed };
        if owed != 0 {
            self.drift_before = 0;
            return owed;
        }
        let (before, now) = (std::mem::replace(&mut self.drift_before, drift), drift);
        if before.abs().min(now.abs()) > DRIFT && before.signum() == now.signum() {
            self.drift_before = 0;
            now.signum() * before.abs().min(now.abs())
        } else {
            0
        }
    }

    pub fn take(&mut self, seen: Seen) {
        self.arrival += seen.arrival;
        self.rtp += seen.rtp.unwrap_or(seen.arrival);
        self.longest_wait = self.longest_wait.max(seen.arrival);
        let delay = self.arrival - self.rtp;
        self.window.take(&seen, delay);
        self.round.take(&seen, delay);
        if self.window.length >= WINDOW && self.window.pictures >= WINDOW_PICTURES {
            let window = std::mem::take(&mut self.window);
            self.judge_window(&window);
            self.windows_in_round += 1;
            if self.windows_in_round == ROUND {
                self.windows_in_round = 0;
                let round = std::mem::take(&mut self.round);
                self.judge_round(&round);
            }
        }
    }

    fn judge_window(&mut self, window: &Stretch) {
        self.interval = window.length / window.pictures;
        // The first picture of all had none.
        let (before, least) = (self.delays.back().copied().unwrap_or(0), self.delays.iter().min().copied().unwrap_or(0));
        let delay = window.delay.unwrap_or(before);
        if self.delays.len() == 2 * ROUND {
            self.delays.pop_front();
        }
        self.delays.push_back(delay);
        let off = window.length / OFF_AT_ONCE;
        let course = match (delay - before, delay - least) {
            _ if window.leaps_often() => Course::Leaping,
            (slower, _) if slower > off => Course::Slow,
            (_, slower) if slower < -off => Course::Fast,
            _ => Course::Even,
        };
        let streak = match self.streak {
            Some((before, n)) if before == course => n.saturating_add(1),
            _ => 1,
        };
        self.streak = Some((course, streak));
        self.clock = match (self.clock, course, streak) {
            (Clock::Doubted, Course::Even, 2..) => Clock::Right,
            (Clock::Doubted, Course::Slow, 3..) | (_, Course::Fast | Course::Leaping, 2..) => Clock::Wrong,
            (clock, ..) => clock,
        };
    }

    fn judge_round(&mut self, round: &Stretch) {
        let (Some(delay), Some(late)) = (round.delay, round.late) else { return };
        let slower = self.round_before.replace(delay).map(|before| delay - before);
        let off = round.length / OFF;
        self.clock = match slower {
            Some(slower) if slower.abs() > off => {
                let again = self.turn.signum() == slower.signum();
                self.turn = slower;
                if again { Clock::Wrong } else { self.clock }
            }
            Some(_) => {
                self.turn = 0;
                if self.is_wrong() && !round.leaps_often() { Clock::Right } else { self.clock }
            }
            None => self.clock,
        };
        self.drift = Some(late - *self.on_time.get_or_insert(late));
    }
}
