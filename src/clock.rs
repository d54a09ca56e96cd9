//! Trusted time: the time confirmed by the cloud, carried on by CLOCK_BOOTTIME.
//!
//! [`TrustedTime`] is the rule as a value, without any clock. [`Clock`] reads CLOCK_BOOTTIME and the system clock for
//! it; the control thread, TLS and uploads share it. Beside them only `local_time` reads the
//! system clock.

pub(crate) mod local_time;
mod monitor;
mod system;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use care_engine::trusted_time::{HeardDate, LATEST, Now, Readings, TrustedTime};
use jiff::Timestamp;
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

pub use monitor::ConditionMonitor;

/// When this program was built, since 1970. The true time is never before that.
pub fn build_time() -> Duration {
    // The build script writes a plain number.
    Duration::from_secs(env!("CARE_BUILD_TIME").parse().unwrap_or(0))
}

/// The system clock, since 1970; zero if it is before that. Only for people to compare, since it may be wrong.
pub fn system_time() -> Duration {
    system::since_1970()
}

/// The system clock as a timestamp, for log lines and file names.
pub fn timestamp() -> Timestamp {
    // A clock beyond the year 9999 is as good as none.
    i64::try_from(system_time().as_micros()).ok().and_then(|at| Timestamp::from_microsecond(at).ok()).unwrap_or(Timestamp::MAX)
}

/// The agent's clock. Clones share it.
#[derive(Clone)]
pub struct Clock {
    time: Arc<Mutex<TrustedTime>>,
    source: Source,
    /// The API's last answer had no `Date` that can be read.
    undated: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Source {
    Machine,
    Dial(Dial),
}

impl Clock {
    /// Starts from the build time and the trusted time that was `persisted` (since 1970).
    pub fn start(persisted: Option<Duration>) -> Self {
        Self::from_source(persisted, Source::Machine)
    }

    /// A clock for tests and simulations that reads a [`Dial`] instead of the machine's clocks. Its build time is 1970.
    pub fn dialled(persisted: Duration, readings: Readings) -> (Self, Dial) {
        let dial = Dial(Arc::new(Mutex::new(readings)));
        let time = TrustedTime::new(Duration::ZERO, Some(persisted), readings.boot);
        (Self { time: Arc::new(Mutex::new(time)), source: Source::Dial(dial.clone()), undated: Arc::default() }, dial)
    }

    /// A clock for tests that is stopped at `trusted`, with the system clock at 1970.
    pub fn at(trusted: Duration, confirmed: bool) -> Self {
        let (clock, _) = Self::dialled(trusted, Readings { boot: Duration::ZERO, system: Duration::ZERO });
        if confirmed {
            clock.observe_date(HeardDate { date: trusted, sent: Duration::ZERO, valid_until: LATEST });
        }
        clock
    }

    fn from_source(persisted: Option<Duration>, source: Source) -> Self {
        let time = TrustedTime::new(build_time(), persisted, source.read().boot);
        Self { time: Arc::new(Mutex::new(time)), source, undated: Arc::default() }
    }

    /// The time now.
    pub fn now(&self) -> Now {
        self.lock().now(self.source.read())
    }

    /// Raises trusted time to the `iat` (since 1970) of a verified document.
    pub fn raise(&self, iat: Duration) {
        self.lock().raise(iat, self.source.read());
    }

    /// Sets trusted time to `time` (since 1970), as a reset signed by a root key orders.
    pub fn set(&self, time: Duration) {
        self.lock().set(time, self.source.read());
    }

    /// Observes the `Date` of an HTTPS answer.
    pub fn observe_date(&self, heard: HeardDate) {
        self.undated.store(false, Ordering::Relaxed);
        self.lock().observe_date(heard, self.source.read());
    }

    /// Notes that an HTTPS answer of the API had no `Date`, or one that is no HTTP date. It moves no time; it only tells
    /// people why nothing confirms it.
    pub fn observe_no_date(&self) {
        self.undated.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, TrustedTime> {
        // Every update leaves the value consistent, so the lock's poison flag can be ignored.
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

/// The clocks that a [`Clock::dialled`] reads, set by a test.
#[derive(Debug, Clone)]
pub struct Dial(Arc<Mutex<Readings>>);

impl Dial {
    /// Advances both clocks by `by`.
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
                // BOOTTIME counts from zero.
                let boot = Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32);
                Readings { boot, system: system_time() }
            }
            Source::Dial(dial) => *dial.0.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Where rustix and the C library disagree on what a time is, as through libc on 32-bit MIPS, it reads garbage.
    #[test]
    fn the_boot_clock_goes_as_fast_as_the_standard_librarys() {
        let outer = Instant::now();
        let first = Source::Machine.read().boot;
        let inner = Instant::now();
        while inner.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        let at_least = inner.elapsed();
        let between = Source::Machine.read().boot.saturating_sub(first);
        let at_most = outer.elapsed();
        assert!((at_least..=at_most).contains(&between), "{at_least:?}, {between:?}, {at_most:?}");
    }

    #[test]
    fn the_machine_gives_a_time_after_the_build_and_clones_share_it() {
        let clock = Clock::start(None);
        let first = clock.now();
        assert!(first.trusted >= build_time() && build_time() > Duration::from_secs(1_700_000_000));
        assert!(!first.confirmed && first.boot > Duration::ZERO);
        let ahead = first.trusted + Duration::from_secs(86_400);
        clock.clone().raise(ahead);
        assert!(clock.now().trusted >= ahead);
        assert!(clock.now().boot >= first.boot);
    }
}
