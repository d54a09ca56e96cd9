//! Trusted time: a lower bound of the true time that no clock step can move back (section 3.3), on CLOCK_BOOTTIME.
//!
//! [`TrustedTime`] is the rule as a value, without any clock; [`Clock`] reads CLOCK_BOOTTIME and the system clock for it
//! and is shared by whoever asks what time it is: the engine's shell, TLS, uploads. Nobody else reads the system clock.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// How far two clocks may be apart and still agree (section 3.3).
pub const AGREE_WITHIN: Duration = Duration::from_secs(600);

/// A reading of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME: counts through suspend, never steps.
    pub boot: Duration,
    /// Trusted time T since 1970.
    pub trusted: Duration,
    /// Whether the `Date` of an HTTPS answer has confirmed T since boot.
    pub confirmed: bool,
}

/// When this program was built, since 1970: no true time is before it.
pub fn build_time() -> Duration {
    // The build script writes a plain number; a build time that cannot be read is no floor.
    Duration::from_secs(env!("CARE_BUILD_TIME").parse().unwrap_or(0))
}

/// What the two clocks of the machine say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readings {
    /// CLOCK_BOOTTIME.
    pub boot: Duration,
    /// The system clock since 1970; zero if it stands before that. It may say anything.
    pub system: Duration,
}

/// The rule of trusted time: readings in, T out.
///
/// T never falls behind itself plus BOOTTIME. What raises it: a verified `iat`, the `Date` of an HTTPS answer, and, by
/// at most [`AGREE_WITHIN`] beyond what those say, the system clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedTime {
    /// T as verified sources alone give it, at `at`.
    verified: Duration,
    /// T, at `at`; at most `AGREE_WITHIN` above `verified`.
    trusted: Duration,
    /// BOOTTIME of the two.
    at: Duration,
    confirmed: bool,
}

impl TrustedTime {
    /// T at `boot`, from the build time and what was `persisted` (both since 1970).
    pub fn new(build: Duration, persisted: Option<Duration>, boot: Duration) -> Self {
        let floor = persisted.map_or(build, |t| t.max(build));
        Self { verified: floor, trusted: floor, at: boot, confirmed: false }
    }

    /// The time at these readings. The system clock raises T only where it is within 10 minutes of what is verified, so
    /// that a clock that creeps forward cannot carry T away step by step.
    pub fn now(&mut self, readings: Readings) -> Now {
        self.run_to(readings.boot);
        if readings.system <= self.verified.saturating_add(AGREE_WITHIN) || planted!(SystemClockTrusted) {
            self.trusted = if planted!(TimeGoesBack) { readings.system } else { self.trusted.max(readings.system) };
        }
        Now { boot: self.at, trusted: self.trusted, confirmed: self.confirmed }
    }

    /// A verified document was issued at `iat`: T is not before it.
    pub fn raise(&mut self, iat: Duration, readings: Readings) {
        self.run_to(readings.boot);
        self.verify(iat);
    }

    /// An HTTPS answer, asked for at `sent_boot` on BOOTTIME, carries this `Date`.
    ///
    /// The answer was made between `sent_boot` and now, so the true time is from `date` to `date` plus that span; T is
    /// confirmed if it is within 10 minutes of both. T is raised to a system clock that agrees with `date`, and to `date`
    /// itself if the system clock is behind; a system clock that is ahead raises nothing, and a `date` behind T changes
    /// nothing but may confirm.
    pub fn observe_date(&mut self, date: Duration, sent_boot: Duration, readings: Readings) {
        self.run_to(readings.boot);
        let latest = date.saturating_add(self.at.saturating_sub(sent_boot));
        let agrees = |time: Duration| time <= date.saturating_add(AGREE_WITHIN) && latest <= time.saturating_add(AGREE_WITHIN);
        if agrees(readings.system) {
            self.verify(readings.system);
        } else if readings.system < date {
            self.verify(date);
        }
        self.confirmed |= agrees(self.trusted);
    }

    fn verify(&mut self, time: Duration) {
        self.verified = self.verified.max(time);
        self.trusted = self.trusted.max(self.verified);
    }

    /// Lets BOOTTIME run to `boot`. Two threads may read the clock in one order and arrive here in the other: an older
    /// reading changes nothing.
    fn run_to(&mut self, boot: Duration) {
        let since = boot.saturating_sub(self.at);
        self.verified = self.verified.saturating_add(since);
        self.trusted = self.trusted.saturating_add(since);
        self.at = self.at.max(boot);
    }
}

/// The shared clock of the agent; clones are the same clock.
#[derive(Clone)]
pub struct Clock {
    time: Arc<Mutex<TrustedTime>>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Machine,
    Dial(Dial),
}

impl Clock {
    /// Starts from the build time and the T that was `persisted` (since 1970).
    pub fn start(persisted: Option<Duration>) -> Self {
        Self::from_source(persisted, Source::Machine)
    }

    /// A clock for tests and simulations that reads a [`Dial`] instead of the machine's clocks. Its build time is 1970.
    pub fn dialled(persisted: Duration, readings: Readings) -> (Self, Dial) {
        let dial = Dial(Arc::new(Mutex::new(readings)));
        let time = TrustedTime::new(Duration::ZERO, Some(persisted), readings.boot);
        (Self { time: Arc::new(Mutex::new(time)), source: Source::Dial(dial.clone()) }, dial)
    }

    /// A clock for tests that stands at `trusted`, `confirmed` or not, with the system clock at 1970.
    pub fn at(trusted: Duration, confirmed: bool) -> Self {
        let (clock, _) = Self::dialled(trusted, Readings { boot: Duration::ZERO, system: Duration::ZERO });
        if confirmed {
            clock.observe_date(trusted, Duration::ZERO);
        }
        clock
    }

    fn from_source(persisted: Option<Duration>, source: Source) -> Self {
        let time = TrustedTime::new(build_time(), persisted, source.read().boot);
        Self { time: Arc::new(Mutex::new(time)), source }
    }

    /// The time now.
    pub fn now(&self) -> Now {
        self.lock().now(self.source.read())
    }

    /// A document that was verified was issued at `iat` (since 1970): T is not before it.
    pub fn raise(&self, iat: Duration) {
        self.lock().raise(iat, self.source.read());
    }

    /// An answer over HTTPS carries this `Date` (since 1970); its request was sent at `sent_boot` on BOOTTIME
    /// ([`Now::boot`]).
    pub fn observe_date(&self, date: Duration, sent_boot: Duration) {
        self.lock().observe_date(date, sent_boot, self.source.read());
    }

    fn lock(&self) -> MutexGuard<'_, TrustedTime> {
        // Every update leaves a whole value behind, so a panic elsewhere does not spoil it.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&*self.lock()).finish()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now().trusted))
    }
}

/// What a [`Clock::dialled`] reads, to be turned by hand.
#[derive(Debug, Clone)]
pub struct Dial(Arc<Mutex<Readings>>);

impl Dial {
    /// Lets both clocks run on by `by`.
    pub fn advance(&self, by: Duration) {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readings.boot += by;
        readings.system += by;
    }

    /// Steps the system clock to `system` (since 1970).
    pub fn set_system(&self, system: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).system = system;
    }
}

impl Source {
    fn read(&self) -> Readings {
        match self {
            Source::Machine => {
                let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                // BOOTTIME counts from zero; the wall clock is read through libc, as every program does.
                let boot = Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32);
                let system = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Readings { boot, system }
            }
            Source::Dial(dial) => *dial.0.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);
    const SAVED: Duration = Duration::from_secs(1_767_225_600);

    fn at(boot: u64, system: Duration) -> Readings {
        Readings { boot: Duration::from_secs(boot), system }
    }

    fn saved() -> TrustedTime {
        TrustedTime::new(SAVED - DAY, Some(SAVED), Duration::from_secs(5))
    }

    #[test]
    fn starts_at_the_later_of_build_and_saved_time_and_runs_on_boottime() {
        let mut time = saved();
        assert_eq!(time.now(at(65, Duration::ZERO)).trusted, SAVED + MINUTE);
        let mut time = TrustedTime::new(SAVED, Some(DAY), Duration::ZERO);
        assert_eq!(time.now(at(60, Duration::ZERO)).trusted, SAVED + MINUTE);
        let mut time = TrustedTime::new(SAVED, None, Duration::ZERO);
        assert_eq!(time.now(at(0, DAY)).trusted, SAVED);
    }

    #[test]
    fn a_verified_iat_raises_and_never_lowers() {
        let mut time = saved();
        time.raise(SAVED + DAY, at(5, Duration::ZERO));
        assert_eq!(time.now(at(5, Duration::ZERO)).trusted, SAVED + DAY);
        time.raise(SAVED, at(5, Duration::ZERO));
        assert_eq!(time.now(at(6, Duration::ZERO)).trusted, SAVED + DAY + Duration::from_secs(1));
    }

    #[test]
    fn the_system_clock_raises_within_ten_minutes_only() {
        let mut time = saved();
        assert_eq!(time.now(at(5, SAVED + 10 * MINUTE)).trusted, SAVED + 10 * MINUTE);
        assert!(!time.now(at(5, SAVED)).confirmed);
        let mut time = saved();
        assert_eq!(time.now(at(5, SAVED + 11 * MINUTE)).trusted, SAVED);
    }

    #[test]
    fn a_clock_that_creeps_forward_does_not_carry_trusted_time_away() {
        let mut time = saved();
        for step in 1..100 {
            time.now(at(5, SAVED + 9 * MINUTE * step));
        }
        assert_eq!(time.now(at(5, Duration::ZERO)).trusted, SAVED + 9 * MINUTE);
    }

    #[test]
    fn a_clock_set_back_changes_nothing() {
        let mut time = saved();
        time.now(at(5, SAVED + MINUTE));
        assert_eq!(time.now(at(10, SAVED - 365 * DAY)).trusted, SAVED + MINUTE + Duration::from_secs(5));
    }

    #[test]
    fn a_clock_a_year_ahead_is_followed_only_once_a_date_agrees() {
        let ahead = SAVED + 365 * DAY;
        let mut time = saved();
        assert_eq!(time.now(at(5, ahead)).trusted, SAVED);
        // A Date that says otherwise confirms what we have, and the system clock stays alone.
        time.observe_date(SAVED + MINUTE, Duration::from_secs(5), at(5, ahead));
        assert_eq!(time.now(at(5, ahead)), Now { boot: Duration::from_secs(5), trusted: SAVED, confirmed: true });
        time.observe_date(ahead - 9 * MINUTE, Duration::from_secs(5), at(5, ahead));
        assert_eq!(time.now(at(5, ahead)).trusted, ahead);
        assert!(time.now(at(5, ahead)).confirmed);
    }

    #[test]
    fn a_date_far_ahead_of_us_does_nothing_while_the_system_clock_is_further_ahead() {
        let mut time = saved();
        time.observe_date(SAVED + DAY, Duration::from_secs(5), at(5, SAVED + 2 * DAY));
        assert_eq!(time.now(at(5, SAVED + 2 * DAY)), Now { boot: Duration::from_secs(5), trusted: SAVED, confirmed: false });
    }

    #[test]
    fn a_date_raises_and_confirms_if_the_system_clock_is_behind() {
        let mut time = saved();
        time.observe_date(SAVED + 30 * DAY, Duration::from_secs(5), at(6, Duration::from_secs(6)));
        assert_eq!(time.now(at(6, Duration::ZERO)), Now { boot: Duration::from_secs(6), trusted: SAVED + 30 * DAY, confirmed: true });
    }

    #[test]
    fn a_date_behind_us_changes_nothing_and_confirms_only_within_ten_minutes() {
        let mut time = saved();
        time.observe_date(SAVED - 11 * MINUTE, Duration::from_secs(5), at(5, SAVED));
        assert_eq!(time.now(at(5, SAVED)), Now { boot: Duration::from_secs(5), trusted: SAVED, confirmed: false });
        time.observe_date(SAVED - 10 * MINUTE, Duration::from_secs(5), at(5, Duration::ZERO));
        assert_eq!(time.now(at(5, Duration::ZERO)), Now { boot: Duration::from_secs(5), trusted: SAVED, confirmed: true });
    }

    #[test]
    fn an_answer_that_took_longer_than_the_tolerance_confirms_nothing() {
        let mut time = saved();
        let late = 5 + 11 * 60;
        time.observe_date(SAVED + 30 * DAY, Duration::from_secs(5), at(late, Duration::ZERO));
        assert_eq!(time.now(at(late, Duration::ZERO)).trusted, SAVED + 30 * DAY);
        assert!(!time.now(at(late, Duration::ZERO)).confirmed);
    }

    #[test]
    fn readings_that_arrive_out_of_order_do_not_turn_time_back() {
        let mut time = saved();
        time.now(at(100, Duration::ZERO));
        assert_eq!(time.now(at(50, Duration::ZERO)).boot, Duration::from_secs(100));
        assert_eq!(time.now(at(105, Duration::ZERO)).trusted, SAVED + Duration::from_secs(100));
    }

    #[test]
    fn nothing_overflows() {
        let mut time = saved();
        time.raise(Duration::MAX, at(6, Duration::MAX));
        time.observe_date(Duration::MAX, Duration::from_secs(7), at(7, Duration::MAX));
        assert_eq!(time.now(at(8, Duration::MAX)).trusted, Duration::MAX);
    }

    #[test]
    fn the_machine_gives_a_time_after_the_build_and_clones_share_it() {
        let clock = Clock::start(None);
        let first = clock.now();
        assert!(first.trusted >= build_time() && build_time() > Duration::from_secs(1_700_000_000));
        assert!(!first.confirmed && first.boot > Duration::ZERO);
        let ahead = first.trusted + DAY;
        clock.clone().raise(ahead);
        assert!(clock.now().trusted >= ahead);
        assert!(clock.now().boot >= first.boot);
    }
}
