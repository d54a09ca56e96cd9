//! Events of the running cloud, broadcast inside the program; the portal passes them to browsers as server-sent
//! events. Nothing depends on their delivery: the database holds the state, and an event only means that it has
//! changed.

use serde::Serialize;
use tokio::sync::broadcast;

/// Something happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CloudEvent {
    /// A document was issued.
    Issued {
        /// For this camera.
        device: String,
        /// Its plan.
        plan: String,
        /// Its sequence.
        seq: u64,
    },
    /// A document was handed to the broker.
    Published {
        /// For this camera.
        device: String,
    },
    /// The broker has it.
    AtBroker {
        /// For this camera.
        device: String,
    },
    /// A camera reported.
    Reported {
        /// The camera.
        device: String,
        /// Its mode now.
        mode: String,
    },
    /// A camera connected or disconnected.
    Status {
        /// The camera.
        device: String,
    },
    /// An upload began, moved on, ended.
    Upload {
        /// The camera.
        device: String,
    },
}

impl CloudEvent {
    /// The camera it is about.
    pub fn device(&self) -> &str {
        match self {
            Self::Issued { device, .. }
            | Self::Published { device }
            | Self::AtBroker { device }
            | Self::Reported { device, .. }
            | Self::Status { device }
            | Self::Upload { device } => device,
        }
    }
}

/// Broadcasts events to every subscriber.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<CloudEvent>);

impl Events {
    /// A channel that keeps the last 256 events for slow subscribers.
    pub fn new() -> Self {
        Self(broadcast::channel(256).0)
    }

    /// Sends an event to all subscribers.
    pub fn send(&self, event: CloudEvent) {
        // An error only means that there is no subscriber.
        drop(self.0.send(event));
    }

    /// Receives the events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<CloudEvent> {
        self.0.subscribe()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
