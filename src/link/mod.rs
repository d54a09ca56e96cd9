//! MQTT: the session with the broker, its topics, and when to reconnect (`docs/protocol.md#mqtt`).
//!
//! The link delivers every PUBLISH to its owner, in order, with an [`Ack`] to acknowledge it, and sends the owner's
//! publications. It judges no document, stores nothing on disk and never stops trying to connect. Only one task polls
//! rumqttc; the owner, on the same thread, calls it through [`Link`], whose calls never wait, and receives events from
//! the channel that [`start`] returns. Only this module and `local_mqtt`, over the same [`wire`], use rumqttc, so it can be
//! replaced.
//!
//! Guarantees for the owner:
//! - An [`Ack`] works only on the connection that delivered its PUBLISH. PUBACKs leave in order of arrival, so one
//!   that is held back holds back those behind it.
//! - Messages read before a connection was lost are delivered before its [`Event::Lost`], without an `Ack`; the broker
//!   sends them again.
//! - The event channel holds few events. While it is full the link reads nothing from the network, so a burst waits at
//!   the broker, not in memory. A call of `Link` never waits for the owner to read, so the two cannot block each
//!   other.
//! - Publications are sent in order, eight at a time, and wait while there is no connection: at most 64, then the
//!   oldest is dropped. Publications not acknowledged when the session was lost ([`Event::Connected`] without
//!   `session_present`, or a rebuilt client) are dropped too: the owner sends its report again after each
//!   [`Event::Subscribed`].
//! - The link itself publishes `online` and `offline` on the status topic.

mod acks;
mod ending;
mod event;
mod fault;
mod outbox;
mod probe;
mod session;
mod settings;
mod shared;
mod subscription;
#[cfg(test)]
mod tests;
mod unanswered;
pub(crate) mod wire;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use care_protocol::Topics;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

pub use acks::Ack;
pub use event::{Event, LinkState, LinkStatus};
pub use fault::{LinkFault, Stage};
pub use probe::{Found, probe};
pub use settings::Settings;

pub use care_engine::Connection;

use crate::{config, tls};
use acks::AckWindow;
use outbox::{Outbox, Publication};
use shared::{Inner, Intent, Shared};

/// The largest packet the link takes or sends, bytes; a larger one costs the connection (`docs/protocol.md#mqtt`).
pub const MAX_PACKET: usize = 256 * 1024;

/// How many events wait for the owner before the link stops reading from the network.
const EVENTS: usize = 32;

/// Starts the link: one task on the current tokio runtime, which needs its time and I/O drivers.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(settings: Settings) -> (Link, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(EVENTS);
    let topics = Topics::new(&settings.broker.topic_prefix, &settings.device);
    let shared = Arc::new(Shared {
        inner: Mutex::new(Inner {
            client: None,
            window: AckWindow::new(Connection(0)),
            outbox: Outbox::default(),
            intent: Intent::Run,
            disconnecting: false,
            endpoint: settings.broker.endpoint.clone(),
            tls: settings.tls.clone(),
            status: LinkStatus::default(),
        }),
        changed: Notify::new(),
    });
    let offline = topics.status();
    let task = tokio::spawn(session::Session::new(settings, topics, shared.clone(), events).run());
    (Link { shared, task: Some(task), offline }, receiver)
}

/// The owner's end of the link. Dropping it ends the link without DISCONNECT, so the broker publishes the last will.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
    /// The status topic.
    offline: String,
}

impl Link {
    /// Acknowledges a PUBLISH, as soon as all earlier ones on its connection are acknowledged. If that connection is
    /// lost, or this was done before, it has no effect.
    pub fn ack(&self, ack: Ack) {
        let mut inner = self.shared.lock();
        inner.window.done(ack);
        inner.pump();
    }

    /// Publishes with QoS 1; [`Event::Published`] returns the ticket once the broker has acknowledged it. Never waits.
    ///
    /// A publication that MQTT cannot carry (a topic with a wildcard, a packet over [`MAX_PACKET`]) is logged, counted
    /// as dropped and not sent: rumqttc would lose the connection over it, again and again.
    pub fn publish(&self, topic: String, payload: Vec<u8>, retain: bool, ticket: u64) {
        let mut inner = self.shared.lock();
        if !rumqttc::valid_topic(&topic) || topic.len() + payload.len() + PUBLISH_OVERHEAD > MAX_PACKET {
            inner.status.dropped += 1;
            tracing::error!(topic, bytes = payload.len(), ticket, "publication refused: a wildcard in its topic, or too large");
            return;
        }
        inner.post(Publication { ticket: Some(ticket), topic, payload, retain });
    }

    /// Uses this broker and these TLS settings from the next connection on, and connects again at once, without losing
    /// a document: the session stays with the broker. `None` exactly when the endpoint is plaintext.
    pub fn reload(&self, endpoint: config::Endpoint, tls: Option<tls::Client>) {
        let mut inner = self.shared.lock();
        // Both change together: messages for a plaintext broker on this device must not go in plaintext to another.
        inner.endpoint = endpoint;
        inner.tls = tls;
        if inner.intent == Intent::Run {
            inner.intent = Intent::Renew;
        }
        inner.pump();
        drop(inner);
        self.shared.changed.notify_one();
    }

    /// The link's status.
    pub fn status(&self) -> LinkStatus {
        self.shared.lock().report()
    }

    /// Publishes the queue, then `offline`, and disconnects. At `deadline` it drops the connection, and the broker
    /// publishes the last will, which is `offline` too. Returns whether it ended in time. Events without room in the
    /// channel are dropped, so the receiver need not be served meanwhile.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        {
            let mut inner = self.shared.lock();
            inner.intent = Intent::Stop;
            let topic = self.offline.clone();
            inner.post(Publication { ticket: None, topic, payload: b"offline".to_vec(), retain: true });
        }
        self.shared.changed.notify_one();
        match self.task.as_mut() {
            Some(task) => tokio::time::timeout(deadline, task).await.is_ok(),
            None => true,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A PUBLISH's fixed header, length of topic and packet identifier, at most.
const PUBLISH_OVERHEAD: usize = 5 + 2 + 2;
