//! The newest warnings and errors, kept in memory for the support archive: a camera's journal is seldom where support is.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::redact;

/// How many are kept.
const MOST: usize = 64;
/// How long one may be, bytes.
const LONGEST: usize = 400;

static RECENT: Mutex<VecDeque<Trouble>> = Mutex::new(VecDeque::new());

/// A warning or an error that was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When, by the system clock, Unix seconds.
    pub at: u64,
    /// `WARN` or `ERROR`.
    pub level: String,
    /// Which part of the program.
    pub target: String,
    /// The message and its fields.
    pub what: String,
}

/// The newest warnings and errors, oldest first.
pub fn recent() -> Vec<Trouble> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Keeps what passes.
pub(super) struct Keeper;

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return;
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (level, target) = (metadata.level().to_string(), metadata.target().to_owned());
        let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == MOST {
            recent.pop_front();
        }
        recent.push_back(Trouble { at, level, target, what: line.0 });
    }
}

struct Line(String);

impl Visit for Line {
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
    fn warnings_are_kept_with_their_fields_and_no_longer_than_fits() {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Keeper), || {
            tracing::info!("not a trouble");
            tracing::warn!(seconds = 7, "a message too large");
            tracing::error!(why = "é".repeat(1000), "a fault");
        });
        let recent = recent();
        assert!(recent.iter().any(|trouble| trouble.level == "WARN" && trouble.what == "a message too large seconds=7"), "{recent:?}");
        assert!(recent.iter().any(|trouble| trouble.level == "ERROR" && trouble.what.starts_with("a fault why=")), "{recent:?}");
        assert!(recent.iter().all(|trouble| trouble.what.len() <= LONGEST && !trouble.what.contains("not a trouble")));
    }
}
