//! Up to when the cameras were heard. A report is overdue only if it would have been read by now: while the inbox is full, the
//! broker holds messages that nobody has read, and sending documents again would only add to what is waiting.

use std::sync::{Mutex, PoisonError};

/// Up to when the cameras were heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// Since when messages wait at the broker, microseconds.
    behind_since: Mutex<Option<i64>>,
}

impl Heard {
    /// The inbox has no room: from `at` (microseconds) on messages wait at the broker.
    pub fn falls_behind(&self, at: i64) {
        self.lock().get_or_insert(at);
    }

    /// The inbox has room again.
    pub fn catches_up(&self) {
        *self.lock() = None;
    }

    /// What arrived before this was read; `now` if nothing waits. Both in microseconds.
    pub fn until(&self, now: i64) -> i64 {
        self.lock().unwrap_or(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<i64>> {
        self.behind_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_at_the_broker_is_not_heard_until_the_inbox_has_room() {
        let heard = Heard::default();
        assert_eq!(heard.until(10), 10);
        heard.falls_behind(20);
        heard.falls_behind(30);
        assert_eq!(heard.until(40), 20, "since the first that found no room");
        heard.catches_up();
        assert_eq!(heard.until(50), 50);
    }
}
