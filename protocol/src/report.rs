//! The report: the retained message with which the agent reports what it applied (`docs/protocol.md#report`). The
//! engine makes reports and decides which are sent; the cloud reads them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DeviceId, Digest, Plan, Position};

/// What became of a document, or of a change without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A document, or a change without one, is in force.
    Applied,
    /// The same document arrived again.
    Duplicate,
    /// An older document arrived.
    Stale,
    /// Another document with the same position arrived: an alarm.
    Conflict,
    /// The document was rejected; `reason` is the code.
    Rejected,
}

/// Why the agent reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It judged a document.
    Document,
    /// A `next` took effect.
    Next,
    /// The lease ended.
    Lease,
    /// The agent started, or its Free policy changed.
    Boot,
    /// The MQTT connection was lost, or the broker delivers nothing on it.
    Link,
    /// The cloud confirmed what is on record.
    Confirmed,
    /// A grant was refused with 402 or 403.
    Refused,
    /// The state was unreadable.
    StateLost,
    /// The camera was reset to factory settings (`docs/protocol.md#factory-reset`).
    FactoryReset,
    /// Trusted time was corrected by more than ten minutes.
    Time,
}

/// A label for what the agent does (`docs/protocol.md#modes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is in force, or the reason is `unbound`.
    Unbound,
    /// The plan is free, or the lease has ended.
    Free,
    /// Any other plan.
    Paid,
    /// Any other plan, not confirmed or refused: what exceeds Free waits.
    Held,
}

macro_rules! wire_name {
    ($type:ident { $($variant:ident = $name:literal),+ }) => {
        impl $type {
            /// Every value, in the order of `docs/protocol.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

wire_name!(Outcome { Applied = "applied", Duplicate = "duplicate", Stale = "stale", Conflict = "conflict", Rejected = "rejected" });
wire_name!(Mode { Unbound = "unbound", Free = "free", Paid = "paid", Held = "held" });
wire_name!(Cause {
    Document = "document", Next = "next", Lease = "lease", Boot = "boot", Link = "link",
    Confirmed = "confirmed", Refused = "refused", StateLost = "state_lost",
    FactoryReset = "factory_reset", Time = "time"
});

/// What a cut did. All zero if nothing was in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cut {
    /// Transfers aborted.
    pub transfers: u32,
    /// From the arrival of the PUBLISH to the end of the last socket, microseconds.
    pub micros: u64,
    /// Payload that the network device was given between the closing of the gate and the abort, bytes.
    pub bytes_after: u64,
}

/// What was erased because the new policy forbids it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Erased {
    /// How many clips.
    pub clips: u32,
    /// Their size in bytes.
    pub bytes: u64,
}

/// One report, retained on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The device.
    pub device: DeviceId,
    /// What became of what was judged.
    pub outcome: Outcome,
    /// With `applied` the reason in force, with `rejected` a reason code, otherwise the outcome's name again.
    pub reason: String,
    /// One sentence for people: what was expected and what arrived. At most [`Report::DETAIL_MOST`] characters, no
    /// secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why the agent reports.
    pub cause: Cause,
    /// The position that arrived; `None` if it could not be read or nothing arrived.
    pub judged: Option<Position>,
    /// The epoch in force, 0 if none.
    pub epoch: u64,
    /// The sequence in force, 0 if none.
    pub seq: u64,
    /// The digest of the document in force.
    pub digest: Option<Digest>,
    /// The plan in force.
    pub plan: Option<Plan>,
    /// The mode after the judgement.
    pub mode: Mode,
    /// Whether what is in force is on flash.
    pub persisted: bool,
    /// The version of the keyset, 0 if none.
    pub keyset: u64,
    /// What was cut.
    pub cut: Cut,
    /// What was erased.
    pub erased: Erased,
    /// Trusted time of the judgement.
    #[serde(with = "crate::rfc3339")]
    pub at: Timestamp,
    /// The agent's version.
    pub agent: String,
}

impl Report {
    /// The longest [`Report::detail`], characters.
    pub const DETAIL_MOST: usize = 200;

    /// `sentence` as it fits [`Report::detail`]: on one line, shortened if it is too long.
    pub fn detail_of(sentence: &str) -> String {
        let line = sentence.chars().map(|c| if c.is_control() { ' ' } else { c });
        match sentence.char_indices().nth(Self::DETAIL_MOST) {
            Some(_) => line.take(Self::DETAIL_MOST - 1).chain(['…']).collect(),
            None => line.collect(),
        }
    }
}
