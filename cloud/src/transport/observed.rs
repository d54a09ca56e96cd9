//! What this process counts for `/metrics` as it happens. The database knows the rest, and forgets old rows.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use care_metrics::Histogram;
use care_protocol::Outcome;

/// Bounds of the time from a click to the camera's report, seconds: milliseconds to a camera on a good line, longer if
/// its flash or its line is slow, minutes if it has to come back first.
const CLICK: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// Counts since the start.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Whether the broker has granted the subscriptions.
    pub broker_connected: bool,
    /// How often it has.
    pub broker_connections: u64,
    /// Documents handed to the broker's connection, repeats included.
    pub publishes: u64,
    /// New reports, by [`Outcome`].
    pub reports: [u64; Outcome::ALL.len()],
    /// From the click on the portal to the report that the document is in force, seconds.
    pub click_to_report: Histogram,
    /// Answers to requests for a grant, by their HTTP status.
    pub grants: BTreeMap<u16, u64>,
    /// Clips that were erased from the store.
    pub erased_clips: u64,
}

/// Shared by everything that counts.
#[derive(Debug)]
pub struct Observed(Mutex<Counts>);

impl Observed {
    /// The counts now.
    pub fn read(&self) -> Counts {
        self.lock().clone()
    }

    /// Counts something.
    pub fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.lock());
    }

    /// Counts a new report that answers a click, `took_us` microseconds after it.
    pub fn click_answered(&self, took_us: i64) {
        let took = Duration::from_micros(took_us.max(0).unsigned_abs());
        self.count(|counts| counts.click_to_report.observe(took.as_secs_f64()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Observed {
    fn default() -> Self {
        // Known from the start, so that the first refusal is an increase.
        let grants = [200, 201, 400, 402, 403, 409, 413, 422, 500].map(|status| (status, 0)).into();
        Self(Mutex::new(Counts {
            broker_connected: false,
            broker_connections: 0,
            publishes: 0,
            reports: Default::default(),
            click_to_report: Histogram::new(CLICK),
            grants,
            erased_clips: 0,
        }))
    }
}
