//! How often, why and after which pause `supervise` starts its command again. Plain arithmetic: no process, no clock.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use crate::backoff::{Backoff, Delays, Jitter};

/// The pauses before a restart, as in the systemd unit: from one second to a minute.
const PAUSES: Delays = Delays::new(Duration::from_secs(1), Duration::from_secs(60), Jitter::None);
/// After a run of this length the pauses begin anew.
pub(super) const STABLE: Duration = Duration::from_secs(600);

/// Why the command does not run any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// It could not be started.
    NotStarted(String),
    /// It ended by itself, or somebody else ended it.
    Ended(ExitStatus),
    /// It was killed because it did not report that it is ready within this time.
    NeverReady(Duration),
    /// It was killed because it reported no progress for this long.
    NoProgress(Duration),
    /// It asked for it (`WATCHDOG=trigger`).
    Asked,
}

impl Cause {
    /// The exit code that no restart can help against: 64 (wrong usage) and 78 (wrong configuration).
    pub(super) fn final_code(&self) -> Option<u8> {
        match self {
            Self::Ended(status) => status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| matches!(code, 64 | 78)),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(why) => write!(f, "it could not be started: {why}"),
            Self::Ended(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "it ended with exit code {code}"),
                (None, Some(signal)) => write!(f, "signal {signal} ended it"),
                (None, None) => write!(f, "it ended ({status})"),
            },
            Self::NeverReady(limit) => write!(f, "it was not ready within {} s, and was killed", limit.as_secs()),
            Self::NoProgress(limit) => write!(f, "it made no progress for {} s, and was killed", limit.as_secs()),
            Self::Asked => f.write_str("it asked to be killed (WATCHDOG=trigger)"),
        }
    }
}

/// Counts restarts.
#[derive(Debug)]
pub(super) struct Restarts {
    backoff: Backoff,
    count: u64,
    last: Option<Cause>,
}

impl Restarts {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::new(PAUSES), count: 0, last: None }
    }

    /// The command ended after running for `ran`; returns the pause before the next start.
    pub(super) fn pause(&mut self, cause: Cause, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.backoff.reset();
        }
        self.count += 1;
        self.last = Some(cause);
        self.backoff.next_delay()
    }

    /// Restarts since `supervise` itself was started.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Why the last one was necessary.
    pub(super) fn last(&self) -> Option<&Cause> {
        self.last.as_ref()
    }

    /// Something was corrected by hand: the pauses begin anew.
    pub(super) fn forgive(&mut self) {
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Cause {
        Cause::Ended(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_stable_run() {
        let mut restarts = Restarts::new();
        let brief = Duration::from_secs(3);
        let pauses: Vec<u64> = (0..8).map(|_| restarts.pause(exit(1), brief).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(restarts.pause(exit(1), STABLE - Duration::from_secs(1)).as_secs(), 60);
        assert_eq!(restarts.pause(exit(1), STABLE).as_secs(), 1);
        assert_eq!(restarts.pause(Cause::NoProgress(Duration::from_secs(30)), brief).as_secs(), 2);
        restarts.forgive();
        assert_eq!(restarts.pause(exit(1), brief).as_secs(), 1);
        assert_eq!(restarts.count(), 12);
    }

    #[test]
    fn only_wrong_usage_and_wrong_configuration_are_final() {
        let killed = Cause::Ended(ExitStatus::from_raw(libc::SIGKILL));
        for cause in [exit(0), exit(1), exit(70), exit(77), exit(127), killed.clone(), Cause::NoProgress(STABLE)] {
            assert_eq!(cause.final_code(), None, "{cause}");
        }
        assert_eq!((exit(64).final_code(), exit(78).final_code()), (Some(64), Some(78)));
        assert_eq!(killed.to_string(), "signal 9 ended it");
        assert_eq!(exit(70).to_string(), "it ended with exit code 70");
    }
}
