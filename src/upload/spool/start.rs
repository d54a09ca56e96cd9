//! When a clip began. In the boot that recorded it that is a moment of BOOTTIME, which no correction of the clock moves; a
//! later boot knows it only as the trusted time that was written beside it.

use std::time::Duration;

use crate::clock::Now;

/// A clip's first frame. Those of an earlier boot come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Start {
    /// Trusted time as it was known then, milliseconds since 1970: never later than the true time.
    Earlier(u64),
    /// BOOTTIME.
    ThisBoot(Duration),
}

impl Start {
    /// On trusted time, milliseconds since 1970: counted back from now in the boot that recorded it, whatever T was then.
    pub(super) fn trusted_ms(self, now: Now) -> u64 {
        match self {
            Self::Earlier(ms) => ms,
            Self::ThisBoot(boot) => trusted_ms(boot, now),
        }
    }

    pub(super) fn end_ms(self, duration: Duration, now: Now) -> u64 {
        self.trusted_ms(now).saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_earlier(self) -> bool {
        matches!(self, Self::Earlier(_))
    }
}

/// A moment of BOOTTIME on trusted time, milliseconds since 1970.
pub(super) fn trusted_ms(boot: Duration, now: Now) -> u64 {
    let ago = now.boot.saturating_sub(boot);
    u64::try_from(now.trusted.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
}
