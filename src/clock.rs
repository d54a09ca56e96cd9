//! Trusted time: a lower bound of the true time that no clock step can move back (section 3.3), on CLOCK_BOOTTIME.

use std::time::Duration;

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
