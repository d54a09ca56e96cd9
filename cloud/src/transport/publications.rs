//! MQTT messages that are in no outbox: answers to `get`, and an experiment's messages to a camera. Any module may
//! queue one; the link publishes them.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

/// A message to publish. It is lost if the program ends first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The MQTT topic.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The queue of messages for the link.
#[derive(Debug)]
pub struct Publications {
    queue: mpsc::UnboundedSender<Publication>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Publication>>>,
}

impl Publications {
    /// An empty queue.
    pub fn new() -> Self {
        // Bounded by its sources: one message for each `get` in the link's inbox, and one for each experiment of an
        // engineer.
        let (queue, receiver) = mpsc::unbounded_channel();
        Self { queue, receiver: Mutex::new(Some(receiver)) }
    }

    /// Queues a message; it is published as soon as the broker is connected.
    pub fn push(&self, publication: Publication) {
        // Fails only while shutting down.
        drop(self.queue.send(publication));
    }

    /// The receiving end; `None` if it was taken before.
    pub fn take(&self) -> Option<mpsc::UnboundedReceiver<Publication>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Default for Publications {
    fn default() -> Self {
        Self::new()
    }
}
