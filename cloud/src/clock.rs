//! The cloud's clock: the system's, or in tests one that is set by hand. Periods, retention, renewals and bills go by
//! it; measured durations do not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// The current time.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's.
    System,
    /// Stands where it was set, Unix seconds.
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// One that stands at `at` until it is moved.
    pub fn set_to(at: u64) -> Self {
        Self::Set(Arc::new(AtomicU64::new(at)))
    }

    /// Moves a clock that was set, and every copy of it; the system's clock is not affected.
    pub fn advance(&self, seconds: u64) {
        if let Self::Set(at) = self {
            at.fetch_add(seconds, Ordering::SeqCst);
        }
    }

    /// Seconds since 1970.
    pub fn now_s(&self) -> u64 {
        match self {
            Self::System => now_s(),
            Self::Set(at) => at.load(Ordering::SeqCst),
        }
    }

    /// How long it is until `at` (Unix seconds); nothing once it is over.
    pub fn until(&self, at: u64) -> Duration {
        match self {
            Self::System => {
                let at_us = i64::try_from(at).unwrap_or(i64::MAX).saturating_mul(1_000_000);
                Duration::from_micros(u64::try_from(at_us.saturating_sub(now_us())).unwrap_or(0))
            }
            Self::Set(_) => Duration::from_secs(at.saturating_sub(self.now_s())),
        }
    }
}

/// The system clock in microseconds since 1970. The cloud's clock is right: cameras confirm theirs against it.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The system clock in seconds since 1970.
pub fn now_s() -> u64 {
    u64::try_from(now_us() / 1_000_000).unwrap_or(0)
}
