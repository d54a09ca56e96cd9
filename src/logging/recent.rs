//! Keeps the newest log lines in memory for the support archive, since support can seldom read a camera's journal.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::redact;

/// How many lines are kept.
const MOST: usize = 200;
/// The longest line that is kept, bytes.
const LONGEST: usize = 400;

static RECENT: Mutex<VecDeque<Line>> = Mutex::new(VecDeque::new());

/// A log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The time, by the system clock.
    #[serde(with = "care_protocol::rfc3339")]
    pub at: Timestamp,
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: String,
    /// The part of the program that logged it.
    pub target: String,
    /// The message and its fields, without secrets.
    pub what: String,
}

/// The newest lines of every enabled level, oldest first.
pub fn recent() -> Vec<Line> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Erases all lines, because the camera has another owner.
pub fn forget() {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// A layer that keeps each event as a line.
pub(super) struct Keeper;

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut text = Text(String::new());
        event.record(&mut text);
        let (level, target) = (metadata.level().to_string(), metadata.target().to_owned());
        let line = Line { at: crate::clock::timestamp(), level, target, what: text.0 };
        let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == MOST {
            recent.pop_front();
        }
        recent.push_back(line);
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let value = redact::text(&format!("{value:?}"));
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value}"),
            name => write!(self.0, "{space}{name}={value}"),
        };
        if self.0.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| self.0.is_char_boundary(*at)).unwrap_or(0);
            self.0.truncate(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_newest_lines_are_kept_with_their_fields_and_no_longer_than_fits() {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Keeper), || {
            for number in 0..300 {
                tracing::info!(number, "an event");
            }
            tracing::warn!(seconds = 7, "a message too large");
            tracing::error!(why = "é".repeat(1000), "a fault");
        });
        let recent = recent();
        assert_eq!(recent.len(), MOST);
        assert!(recent.iter().any(|line| line.level == "INFO" && line.what == "an event number=299"), "{recent:?}");
        assert!(!recent.iter().any(|line| line.what == "an event number=90"), "the oldest give way");
        assert!(recent.iter().any(|line| line.level == "WARN" && line.what == "a message too large seconds=7"), "{recent:?}");
        assert!(recent.iter().any(|line| line.level == "ERROR" && line.what.starts_with("a fault why=")), "{recent:?}");
        assert!(recent.iter().all(|line| line.what.len() <= LONGEST));
    }
}
