//! How long a stream waits before its source is tried again: a value without clock or thread, for the supervisor.

use std::time::Duration;

use super::source::SourceError;
use crate::backoff::{Backoff, Delays, Jitter};

/// Pauses after a source that failed. No jitter: it is this camera's own hardware.
const FAILED: Delays = Delays::new(Duration::from_millis(250), Duration::from_secs(10), Jitter::None);
/// Pauses after a source that is unusable: what ends that takes a person.
pub(super) const UNUSABLE: Delays = Delays::new(Duration::from_secs(5), Duration::from_secs(60), Jitter::None);
/// After a session of this length the next pause is the first one again.
const STABLE: Duration = Duration::from_secs(30);
/// The same after a session that was interrupted, although the camera is there.
const INTERRUPTED: Duration = Duration::from_secs(5);

/// The pauses of one stream.
#[derive(Debug)]
pub(super) struct Retry {
    failed: Backoff,
    unusable: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        Self { failed: Backoff::new(FAILED), unusable: Backoff::new(UNUSABLE) }
    }
}

impl Retry {
    /// The pause after a session that lasted `ran` and ended like this.
    pub fn pause(&mut self, ended: &SourceError, ran: Duration) -> Duration {
        match ended {
            SourceError::Failed(_) | SourceError::Interrupted(_) => {
                self.unusable.reset();
                if ran >= if matches!(ended, SourceError::Interrupted(_)) { INTERRUPTED } else { STABLE } {
                    self.failed.reset();
                }
                self.failed.next_delay()
            }
            SourceError::Unusable(_) => self.unusable.next_delay(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> SourceError {
        SourceError::Failed("gone".into())
    }

    fn unusable() -> SourceError {
        SourceError::Unusable("no decoder".into())
    }

    #[test]
    fn pauses_double_up_to_their_longest() {
        let (mut retry, short) = (Retry::default(), Duration::from_secs(1));
        let pauses: Vec<u128> = (0..8).map(|_| retry.pause(&failed(), short).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        let pauses: Vec<u64> = (0..6).map(|_| retry.pause(&unusable(), short).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert_eq!(retry.pause(&failed(), short), Duration::from_secs(10), "a source that came and went is still failing");
        assert_eq!(retry.pause(&unusable(), short), Duration::from_secs(5), "what was missing has been there meanwhile");
    }

    #[test]
    fn a_session_of_30_s_begins_the_pauses_again() {
        let mut retry = Retry::default();
        for _ in 0..6 {
            retry.pause(&failed(), Duration::from_secs(29));
        }
        assert_eq!(retry.pause(&failed(), Duration::from_secs(30)), Duration::from_millis(250));
    }

    #[test]
    fn a_camera_that_interrupts_is_asked_again_at_once_unless_it_does_so_all_the_time() {
        let (mut retry, interrupted) = (Retry::default(), SourceError::Interrupted("gone".into()));
        for ran in [5, 7, 60] {
            assert_eq!(retry.pause(&interrupted, Duration::from_secs(ran)), Duration::from_millis(250));
        }
        assert_eq!(retry.pause(&interrupted, Duration::from_secs(4)), Duration::from_millis(500));
    }
}
