//! The history of documents, for support: those accepted under this owner, which the record keeps across restarts.

use std::time::Duration;

use care_engine::Past;
use care_engine::trusted_time::timestamp;
use care_protocol::{Plan, Reason};
use jiff::Timestamp;
use serde::Serialize;

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
