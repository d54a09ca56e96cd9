//! The history for support: the newest reports since the start, each with its order id, in memory only; and the
//! documents accepted before, which the record keeps across restarts. Both are erased when the camera's owner changes.

use std::{collections::VecDeque, time::Duration};

use care_engine::Past;
use care_engine::trusted_time::timestamp;
use care_protocol::{Plan, Reason, Report};
use jiff::Timestamp;
use serde::Serialize;

/// How many changes are kept.
const MOST: usize = 64;

/// A document that was accepted under this owner, in the form that support reads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastDocument {
    /// When it was accepted, trusted time.
    #[serde(with = "care_protocol::rfc3339")]
    pub at: Timestamp,
    /// Its epoch.
    pub epoch: u64,
    /// Its sequence.
    pub seq: u64,
    /// Its plan.
    pub plan: Plan,
    /// Why it was issued.
    pub reason: Reason,
    /// The order id that support asks for.
    pub order: Option<String>,
}

impl From<&Past> for PastDocument {
    fn from(past: &Past) -> Self {
        let Past { at, position, plan, reason, order } = past.clone();
        Self { at: timestamp(Duration::from_secs(at)), epoch: position.epoch, seq: position.seq, plan, reason, order }
    }
}

/// How long the stages of a switch took, microseconds since its document was received; without one, since it became due. A stage
/// that was not needed, or has not happened yet, is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stages {
    /// Nothing that the plan does not allow can leave any more.
    pub cut: Option<u64>,
    /// The new state is on flash.
    pub written: Option<u64>,
    /// The document's PUBACK was handed to the connection.
    pub acknowledged: Option<u64>,
    /// The broker has acknowledged the report.
    pub reported: Option<u64>,
}

/// One change of mode or document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The report about it.
    pub report: Report,
    /// The order id of the document in force then.
    pub order: Option<String>,
    /// How long its stages took.
    pub stages: Stages,
}

/// The newest changes, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History(VecDeque<Change>);

impl History {
    /// Adds a change, unless its report equals the newest one. Returns whether it was added.
    pub fn record(&mut self, report: &Report, order: Option<&str>) -> bool {
        if self.0.back().is_some_and(|last| last.report == *report) {
            return false;
        }
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(Change { report: report.clone(), order: order.map(str::to_owned), stages: Stages::default() });
        true
    }

    /// Sets how long the stages of the newest change took.
    pub fn time(&mut self, stages: Stages) {
        self.0.back_mut().into_iter().for_each(|change| change.stages = stages);
    }

    /// Erases the history, because the camera has another owner.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// The changes, oldest first.
    pub fn changes(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.0.iter()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use care_protocol::{Cause, Cut, Erased, Mode, Outcome};

    use super::*;

    /// Free since a cancel.
    pub(crate) fn report(seq: u64) -> Report {
        Report {
            device: "8006E5A1F0C2".parse().unwrap(),
            outcome: Outcome::Applied,
            reason: "cancelled".into(),
            detail: None,
            cause: Cause::Document,
            judged: None,
            epoch: 3,
            seq,
            digest: None,
            plan: None,
            mode: Mode::Free,
            persisted: true,
            keyset: 7,
            cut: Cut::default(),
            erased: Erased::default(),
            at: jiff::Timestamp::UNIX_EPOCH,
            agent: "0.1.0".into(),
        }
    }

    #[test]
    fn the_newest_changes_are_kept_once_each_and_forgotten_together() {
        let mut history = History::default();
        for seq in 1..=100 {
            assert!(history.record(&report(seq), Some("KC-1")));
            assert!(!history.record(&report(seq), Some("KC-1")));
        }
        let stages = Stages { cut: Some(40), ..Stages::default() };
        history.time(stages);
        assert_eq!(history.changes().map(|change| change.stages).next_back(), Some(stages));
        let kept: Vec<u64> = history.changes().map(|change| change.report.seq).collect();
        assert_eq!(kept, (37..=100).collect::<Vec<_>>());
        history.forget();
        assert_eq!(history, History::default());
    }
}
