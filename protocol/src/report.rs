//! The report: the retained message by which the agent says what it applied (section 3.5).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DeviceId, Digest, Plan, Position};

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It, or a change without a document, is in force.
    Applied,
    /// The same document again.
    Duplicate,
    /// An older one.
    Stale,
    /// The same position, another content: an alarm.
    Conflict,
    /// Refused, see `reason`.
    Rejected,
}

/// What made the agent report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A document was judged.
    Document,
    /// A `next` took effect.
    Next,
    /// The lease ended.
    Lease,
    /// The agent started.
    Boot,
    /// The MQTT connection was lost.
    Link,
    /// The cloud confirmed what is on record.
    Confirmed,
    /// A grant was refused with 402 or 403.
    Refused,
    /// The state was unreadable.
    StateLost,
    /// The camera was reset to factory settings: nothing is in force, and only a higher epoch binds it again.
    FactoryReset,
    /// Trusted time was corrected by more than ten minutes.
    Time,
}

/// What the agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing in force, or reason `unbound`.
    Unbound,
    /// The plan is free, or the lease has ended.
    Free,
    /// Any other plan.
    Paid,
    /// Paid on record, not confirmed or refused.
    Held,
}

macro_rules! wire_name {
    ($type:ident { $($variant:ident = $name:literal),+ }) => {
        impl $type {
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

/// What the cut did. All zero if nothing was in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cut {
    /// Transfers aborted.
    pub transfers: u32,
    /// From the PUBLISH in the program's hands to the last socket dead, microseconds.
    pub micros: u64,
    /// Payload handed to the network device between the closing of the gate and the abort.
    pub bytes_after: u64,
}

/// What the new policy did not allow to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Erased {
    /// Clips.
    pub clips: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// One report, retained on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The device.
    pub device: DeviceId,
    /// What became of what was judged.
    pub outcome: Outcome,
    /// The document's reason when applied, otherwise a reject code; `stale`, `duplicate` and `conflict` say themselves.
    pub reason: String,
    /// What was expected and what came, in one sentence for people: at most [`Report::DETAIL_MOST`] characters, no secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What made the agent report.
    pub cause: Cause,
    /// What arrived; `None` if unreadable, or if nothing arrived.
    pub judged: Option<Position>,
    /// Epoch in force, 0 if none.
    pub epoch: u64,
    /// Sequence in force, 0 if none.
    pub seq: u64,
    /// Digest in force.
    pub digest: Option<Digest>,
    /// Plan in force.
    pub plan: Option<Plan>,
    /// Mode after judgement.
    pub mode: Mode,
    /// Whether what is in force is on flash.
    pub persisted: bool,
    /// Version of the keyset in force, 0 if none.
    pub keyset: u64,
    /// What was cut.
    pub cut: Cut,
    /// What was erased.
    pub erased: Erased,
    /// Trusted time of the judgement.
    pub at: Timestamp,
    /// The agent's version.
    pub agent: String,
}

impl Report {
    /// How long [`Report::detail`] may be, characters.
    pub const DETAIL_MOST: usize = 200;

    /// `sentence` as [`Report::detail`] may carry it: on one line, cut short where it is too long.
    pub fn detail_of(sentence: &str) -> String {
        let line = sentence.chars().map(|c| if c.is_control() { ' ' } else { c });
        match sentence.char_indices().nth(Self::DETAIL_MOST) {
            Some(_) => line.take(Self::DETAIL_MOST - 1).chain(['…']).collect(),
            None => line.collect(),
        }
    }
}
