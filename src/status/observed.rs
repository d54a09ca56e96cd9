//! What `/metrics` counts as it happens, because the status document shows only the last of it. The control thread
//! counts; a scrape copies.

use std::time::{Duration, SystemTime};

use care_metrics::Histogram;
use care_protocol::{Cause, Mode, Outcome, Report};

/// Bounds of the time from a document's receipt to the end of the last socket, as its report has it, seconds. `docs/benchmarks.md` has what is
/// usual: half a millisecond here, a few on an ARM926; a vendor's uploader may take five seconds.
const CUT: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Bounds of the time from a document's receipt until the broker has its report, seconds: flash lies between the two.
const REPORT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Counts since the start.
#[derive(Debug, Clone)]
pub struct Observed {
    /// By cause, then by the mode after it.
    pub(super) switches: [[u64; Mode::ALL.len()]; Cause::ALL.len()],
    /// Reports handed to the connection, by outcome.
    pub(super) reports: [u64; Outcome::ALL.len()],
    /// Transfers aborted, with the payload that left after the gate had closed.
    pub(super) cut_transfers: u64,
    pub(super) bytes_after: u64,
    pub(super) cut: Histogram,
    pub(super) report: Histogram,
    /// Trusted time minus the system clock, seconds, when the status was last updated.
    pub(super) clock_offset: Option<f64>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            switches: Default::default(),
            reports: Default::default(),
            cut_transfers: 0,
            bytes_after: 0,
            cut: Histogram::new(CUT),
            report: Histogram::new(REPORT),
            clock_offset: None,
        }
    }
}

impl Observed {
    /// Counts a change of mode or document.
    pub fn switch(&mut self, report: &Report) {
        self.switches[report.cause as usize][report.mode as usize] += 1;
        if report.cut.transfers > 0 {
            self.cut_transfers += u64::from(report.cut.transfers);
            self.bytes_after += report.cut.bytes_after;
            self.cut.observe(Duration::from_micros(report.cut.micros).as_secs_f64());
        }
    }

    /// Counts a report that was handed to the connection.
    pub fn report(&mut self, outcome: Outcome) {
        self.reports[outcome as usize] += 1;
    }

    /// Counts how long the report of a switch took, since its document was received, until the broker had it.
    pub fn reported(&mut self, took: Duration) {
        self.report.observe(took.as_secs_f64());
    }

    /// Notes trusted time (since 1970).
    pub fn clock(&mut self, trusted: Duration) {
        let system = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.clock_offset = Some(trusted.as_secs_f64() - system.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_a_place_in_the_list_of_names() {
        assert!(Cause::ALL.iter().enumerate().all(|(at, cause)| *cause as usize == at));
        assert!(Mode::ALL.iter().enumerate().all(|(at, mode)| *mode as usize == at));
        assert!(Outcome::ALL.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
    }
}
