//! What the timeline holds: a switch with its stages, a condition, a start or end of the agent, a step of the clock. The same
//! form is on flash, in the status document and in the support archive.

use care_protocol::Report;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How long the stages of a switch took, microseconds since its document was received; without one, since it became due. A stage
/// that was not needed, or has not happened yet, is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The report about it.
    pub report: Report,
    /// The order id of the document in force then.
    pub order: Option<String>,
    /// How long its stages took.
    pub stages: Stages,
}

/// A condition from its beginning to its end. One that comes back within ten minutes goes on in the same episode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// The condition's name.
    pub name: String,
    /// Its sentence when it last began, shortened to [`Report::DETAIL_MOST`] characters.
    pub sentence: String,
    /// Seconds from its first beginning to its last end; `None` while it lasts, and if it lasted when the agent ended.
    pub lasted_s: Option<u64>,
    /// How often it began.
    pub times: u32,
}

/// A start of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its version.
    pub agent: String,
    /// The kernel's id of this boot; empty if it cannot be read.
    pub boot: String,
    /// How the agent before it ended, if the timeline tells.
    pub previous: Option<End>,
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was asked to stop, and did.
    Stopped,
    /// It was killed or crashed; the camera ran on.
    Killed,
    /// The camera lost its power, or was reset.
    PowerLost,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A change of mode or document.
    Switch(Box<Change>),
    /// A condition.
    Condition(Episode),
    /// The agent started.
    Started(Start),
    /// The agent was asked to stop, and did.
    Stopped {},
    /// Trusted time was set by more than ten minutes: from what to what, and by whom.
    ClockStep(String),
}

impl What {
    /// Whether it belongs to the camera's owner, and goes with them.
    pub(super) fn is_owned(&self) -> bool {
        matches!(self, Self::Switch(_) | Self::Condition(_))
    }
}

/// A time in RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment(#[serde(with = "care_protocol::rfc3339")] pub Timestamp);

/// One entry of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number. It rises, over restarts too.
    pub number: u64,
    /// The epoch in force then, 0 if none.
    pub epoch: u64,
    /// When, by trusted time; `None` as long as nothing has confirmed that since the camera booted.
    pub at: Option<Moment>,
    /// When, in seconds since the camera booted.
    pub boot_s: u64,
    /// What happened; of a condition, the beginning.
    pub what: What,
}

impl Entry {
    /// Whether the owner of this epoch may see it.
    pub(super) fn is_of(&self, epoch: u64) -> bool {
        !self.what.is_owned() || [0, epoch].contains(&self.epoch)
    }

    /// The switch, if it is one.
    pub fn change(&self) -> Option<&Change> {
        if let What::Switch(change) = &self.what { Some(change) } else { None }
    }
}
