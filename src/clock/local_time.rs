//! The camera's local time, for syslog's lines and the schedule of motion: the C library knows the zone, from `TZ` or
//! `/etc/localtime`, and without either it is UTC. Nothing else of the agent uses local time.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rustix::time::{ClockId, clock_gettime};

/// A time of day, as a calendar here shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalTime {
    /// 0 to 11.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 for Monday to 6.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

impl LocalTime {
    /// By the system clock.
    pub(crate) fn now() -> Self {
        Self::at(clock_gettime(ClockId::Realtime).tv_sec)
    }

    /// By the system clock, unless that shows a time before this program was built.
    pub(crate) fn known() -> Option<Self> {
        (super::system_time() >= super::build_time()).then(Self::now)
    }

    /// The local time of a number of seconds since 1970; the first of January where the C library cannot tell.
    fn at(seconds: i64) -> Self {
        let mut broken_down = MaybeUninit::<libc::tm>::zeroed();
        // Where time_t has 32 bits, a later time than it can hold has no local time; libc calls that size deprecated on musl.
        #[allow(clippy::useless_conversion, deprecated)]
        let seconds = libc::time_t::try_from(seconds).unwrap_or(0);
        // SAFETY: both pointers are valid for the call, which keeps neither; a zeroed tm is a valid one.
        let told = unsafe {
            let told = libc::localtime_r(&seconds, broken_down.as_mut_ptr());
            (!told.is_null()).then(|| broken_down.assume_init())
        };
        let Some(tm) = told else { return Self { month: 0, day: 1, weekday: 3, hour: 0, minute: 0, second: 0 } };
        let small = |number: libc::c_int| u8::try_from(number).unwrap_or(0);
        Self {
            month: small(tm.tm_mon),
            day: small(tm.tm_mday),
            // Its week begins on Sunday.
            weekday: small((tm.tm_wday + 6) % 7),
            hour: small(tm.tm_hour),
            minute: small(tm.tm_min),
            second: small(tm.tm_sec),
        }
    }
}

/// What gives the zone; `None`: nothing, so local time is UTC.
pub(crate) fn zone() -> Option<&'static str> {
    let from_environment = std::env::var_os("TZ").is_some_and(|zone| !zone.is_empty());
    if from_environment { Some("TZ") } else { std::path::Path::new("/etc/localtime").exists().then_some("/etc/localtime") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the zone of this machine, two times a day apart differ by a day and show the same clock, but for a change to
    /// summer time: these two are far from one.
    #[test]
    fn a_day_later_the_clock_shows_the_same() {
        let (one, other) = (LocalTime::at(1_767_225_600 + 10 * 86_400), LocalTime::at(1_767_225_600 + 11 * 86_400));
        assert_eq!((one.hour, one.minute, one.second), (other.hour, other.minute, other.second));
        assert_eq!((one.month, other.month), (0, 0));
        assert_eq!(other.day, one.day + 1);
        // The first of January 2026 was a Thursday.
        assert_eq!(one.weekday, (one.day + 2) % 7);
        assert_eq!(one.second, 0);
    }
}
