//! What is to be published beside the documents, which have their outbox: dropped here by whoever has something to say, taken
//! by the one task that speaks to the broker.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

/// Something to publish that is in no outbox: an answer, or what an engineer wants a camera to see. It is lost with the
/// program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

/// Where posts are dropped and taken from.
#[derive(Debug)]
pub struct Mailbox {
    drop: mpsc::UnboundedSender<Post>,
    taken: Mutex<Option<mpsc::UnboundedReceiver<Post>>>,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Self {
        let (drop, taken) = mpsc::unbounded_channel();
        Self { drop, taken: Mutex::new(Some(taken)) }
    }

    /// Publishes it as soon as there is a broker.
    pub fn post(&self, post: Post) {
        // Fails only while shutting down.
        drop(self.drop.send(post));
    }

    /// The other end, once.
    pub fn take(&self) -> Option<mpsc::UnboundedReceiver<Post>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}
