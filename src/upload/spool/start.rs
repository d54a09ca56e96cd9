//! When a clip began. In the boot that recorded it this is a moment of BOOTTIME, which no correction of the clock
//! moves; a later boot knows only the trusted time in the clip's header.

use std::time::Duration;

use care_engine::trusted_time::Now;

/// The time of a clip's first frame. Those of an earlier boot sort first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Start {
    /// Before this agent started, which found it on flash.
    Earlier {
        /// Trusted time as known at that moment, milliseconds since 1970. It may have been wrong.
        stamped_ms: u64,
        /// BOOTTIME at which the clip was found: it had ended by then.
        found: Duration,
        /// How long the clip is.
        lasted: Duration,
    },
    /// BOOTTIME.
    ThisBoot(Duration),
}

impl Start {
    /// On trusted time, milliseconds since 1970: counted back from now in the boot that recorded it, whatever trusted
    /// time was then. A clip found on flash had ended when it was found. If its timestamp contradicts that, trusted
    /// time was too high at that moment and has been corrected since: the clip gets a new timestamp once the cloud has
    /// sent the time.
    pub(super) fn trusted_ms(self, now: Now) -> u64 {
        match self {
            Self::Earlier { stamped_ms, found, lasted } if now.confirmed => {
                let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
                stamped_ms.min(trusted_ms(found, now).saturating_sub(lasted_ms))
            }
            Self::Earlier { stamped_ms, .. } => stamped_ms,
            Self::ThisBoot(boot) => trusted_ms(boot, now),
        }
    }

    /// The same for a clip that is known to have lasted this long.
    pub(super) fn lasting(self, lasted: Duration) -> Self {
        match self {
            Self::Earlier { stamped_ms, found, .. } => Self::Earlier { stamped_ms, found, lasted },
            Self::ThisBoot(_) => self,
        }
    }

    pub(super) fn end_ms(self, duration: Duration, now: Now) -> u64 {
        self.trusted_ms(now).saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_earlier(self) -> bool {
        matches!(self, Self::Earlier { .. })
    }
}

/// Converts BOOTTIME to trusted time, milliseconds since 1970.
pub(super) fn trusted_ms(boot: Duration, now: Now) -> u64 {
    let ago = now.boot.saturating_sub(boot);
    u64::try_from(now.trusted.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
}
