//! MQTT: the session with the broker, its topics, and when to come back (section 3.4).
//!
//! The link brings every PUBLISH to its owner, in order, with the right to acknowledge it, and carries the owner's
//! publications out. It judges no document, keeps nothing on disk and never gives up. One task alone polls rumqttc; the
//! owner, on the same thread, speaks to it through [`Link`], whose calls never wait, and hears of it through the channel
//! that [`start`] returns. rumqttc stays behind this module, so that it can be replaced.
//!
//! What the owner can rely on:
//! - An [`Ack`] works only on the connection that brought it; PUBACKs leave in order of arrival, so one that is held back
//!   holds back those behind it.
//! - What was read before a connection was lost is delivered before its [`Event::Lost`], without an `Ack`; the broker
//!   sends it again.
//! - The event channel holds few events. While it is full nothing is read from the network, so a burst waits at the
//!   broker, not in memory. A call of `Link` never waits for the owner to read, so the two cannot block each other.
//! - Publications are sent in order, eight at a time, and wait while there is no connection: at most 64, then the oldest
//!   gives way. What was with the broker when the session was lost ([`Event::Connected`] without `session_present`, or a
//!   rebuilt client) is forgotten: the owner sends its report again after each [`Event::Subscribed`].
//! - `online` and `offline` on the status topic are the link's own.

mod acks;
mod fault;
mod outbox;
mod probe;
mod session;
#[cfg(test)]
mod tests;
mod upon;
mod wire;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use care_protocol::{DeviceId, Topic, Topics};
use rumqttc::{Disconnect, PubAck, Publish, QoS, Request};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

pub use acks::Ack;
pub use fault::{LinkFault, Stage};
pub use probe::{Found, probe};

pub use care_engine::Connection;

use crate::{conditions::Conditions, config, tls};
use acks::AckWindow;
use outbox::{Letter, Outbox};

/// The largest packet the link takes or sends, bytes; a larger one costs the connection (section 3.4).
pub const MAX_PACKET: usize = 256 * 1024;

/// How many events wait for the owner before the link stops reading from the network.
const EVENTS: usize = 32;

/// What a link needs to know. The timings are those of section 3.4 and `verification.md`; tests shorten them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the broker is, and the topics' prefix.
    pub broker: config::Broker,
    /// TLS towards the broker ([`tls::device_client`]); `None` exactly when the endpoint is plaintext.
    pub tls: Option<tls::Client>,
    /// The device id, which is the client id.
    pub device: DeviceId,
    /// Where faults are named.
    pub conditions: Conditions,
    /// Keep-alive, whole seconds, at least one: 30 s.
    pub keep_alive: Duration,
    /// How long DNS may take, and after it TCP, TLS and CONNACK together: 20 s. A single write may take as long.
    pub connect_timeout: Duration,
    /// How long the broker may take for SUBACK: 20 s.
    pub suback_timeout: Duration,
    /// The longest that nothing at all may happen, not even a ping of our own: two keep-alives and 20 s.
    pub watchdog: Duration,
    /// The bound of the first delay between attempts: 1 s. It doubles.
    pub backoff_first: Duration,
    /// The bound of any delay: 120 s.
    pub backoff_most: Duration,
    /// A connection that lasted this long was a good one: 30 s. Closed sooner, three times in a row, means a clone.
    pub stable_after: Duration,
    /// How long to stay away from a clone, at most; at least half of it: 120 s.
    pub clone_backoff: Duration,
    /// How long not to subscribe after two packets that were too large: ten minutes. Looked at once a keep-alive.
    pub defer_subscribe: Duration,
    /// After this many failures in a row what is in flight is forgotten and the wire made anew: 8.
    pub rebuild_after: u32,
}

impl Settings {
    /// The settings of the contract.
    pub fn new(broker: config::Broker, tls: Option<tls::Client>, device: DeviceId, conditions: Conditions) -> Self {
        let keep_alive = Duration::from_secs(30);
        Self {
            broker,
            tls,
            device,
            conditions,
            keep_alive,
            connect_timeout: Duration::from_secs(20),
            suback_timeout: Duration::from_secs(20),
            watchdog: 2 * keep_alive + Duration::from_secs(20),
            backoff_first: Duration::from_secs(1),
            backoff_most: Duration::from_secs(120),
            stable_after: Duration::from_secs(30),
            clone_backoff: Duration::from_secs(120),
            defer_subscribe: Duration::from_secs(600),
            rebuild_after: 8,
        }
    }
}

/// What the link tells its owner.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The broker accepted us.
    Connected {
        /// The new connection.
        connection: Connection,
        /// Whether the broker kept our session. If not, publications that were with it are forgotten.
        session_present: bool,
        /// The earliest end of the broker's certificates, since 1970; [`care_engine::trusted_time::LATEST`] without TLS.
        valid_until: Duration,
    },
    /// SUBSCRIBE was sent: what comes from here on may confirm (section 3.4).
    SubscribeSent {
        /// On this connection.
        connection: Connection,
    },
    /// The broker granted the subscription to `entitlement`: send `get`, and the report again.
    Subscribed {
        /// On this connection.
        connection: Connection,
    },
    /// A PUBLISH on one of our topics, of any size up to [`MAX_PACKET`].
    Publish {
        /// The connection that brought it.
        connection: Connection,
        /// Its topic.
        topic: Topic,
        /// Its payload.
        payload: Bytes,
        /// RETAIN: a stored copy, sent because we subscribed.
        retain: bool,
        /// DUP: sent before.
        dup: bool,
        /// When the library yielded it.
        at: Instant,
        /// The right to acknowledge it; `None` with QoS 0 or if the connection was lost meanwhile.
        ack: Option<Ack>,
    },
    /// The broker acknowledged our publication.
    Published {
        /// As given to [`Link::publish`].
        ticket: u64,
    },
    /// The connection was lost, or an attempt failed (`connection` is `None`). The next attempt follows by itself.
    Lost {
        /// The connection that was lost.
        connection: Option<Connection>,
        /// Where and why.
        fault: LinkFault,
    },
    /// Three connections in a row were closed soon after CONNACK, and not upon something we had sent: another client uses
    /// our id (scenario 55).
    CloneSuspected,
    /// Two packets in a row were too large: there is no subscription for this long, so documents must be polled for.
    SubscribeDeferred {
        /// From now.
        for_: Duration,
    },
}

/// How far the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkState {
    /// Waiting for the next attempt.
    #[default]
    Down,
    /// Under way.
    Connecting,
    /// Connected, without a granted subscription: counts as down (section 3.4).
    Connected,
    /// Up.
    Subscribed,
}

/// The link as people and metrics see it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkStatus {
    /// How far it is.
    pub state: LinkState,
    /// The present connection.
    pub connection: Option<Connection>,
    /// Why there was none last.
    pub last_fault: Option<LinkFault>,
    /// Failures in a row.
    pub failures: u32,
    /// The delay before the next attempt, as it was drawn; only while [`LinkState::Down`].
    pub next_attempt_in: Option<Duration>,
    /// Publications waiting here.
    pub queued: usize,
    /// Publications with the broker.
    pub outstanding: usize,
    /// Publications given up because too many waited or because MQTT cannot carry them.
    pub dropped: u64,
    /// PUBLISHes not acknowledged yet.
    pub unacknowledged: usize,
    /// How often the wire was made anew.
    pub rebuilds: u32,
}

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

/// The owner's end of the link. Dropping it ends the link without a farewell, so that the broker publishes the last will.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
    /// The status topic.
    offline: String,
}

impl Link {
    /// Acknowledges a PUBLISH, as soon as all that came before it on its connection are. If that connection is gone, or
    /// this was done before, nothing happens.
    pub fn ack(&self, ack: Ack) {
        let mut inner = self.shared.lock();
        inner.window.done(ack);
        inner.pump();
    }

    /// Publishes with QoS 1; [`Event::Published`] brings the ticket back once the broker has it. Never waits.
    ///
    /// What MQTT cannot carry (a topic with a wildcard, a packet over [`MAX_PACKET`]) is logged, counted as dropped and
    /// not sent: rumqttc would lose the connection over it, again and again.
    pub fn publish(&self, topic: String, payload: Vec<u8>, retain: bool, ticket: u64) {
        let mut inner = self.shared.lock();
        if !rumqttc::valid_topic(&topic) || topic.len() + payload.len() + PUBLISH_OVERHEAD > MAX_PACKET {
            inner.status.dropped += 1;
            tracing::error!(topic, bytes = payload.len(), ticket, "publication refused: a wildcard in its topic, or too large");
            return;
        }
        inner.post(Letter { ticket: Some(ticket), topic, payload, retain });
    }

    /// Uses this broker and these TLS settings from the next connection on, and connects again at once, without losing a
    /// document: the session stays with the broker. `None` exactly when the endpoint is plaintext.
    pub fn reload(&self, endpoint: config::Endpoint, tls: Option<tls::Client>) {
        let mut inner = self.shared.lock();
        // Together: what was meant for a broker on this device must not go in plaintext to another.
        inner.endpoint = endpoint;
        inner.tls = tls;
        if inner.intent == Intent::Run {
            inner.intent = Intent::Renew;
        }
        inner.pump();
        drop(inner);
        self.shared.changed.notify_one();
    }

    /// How the link is doing.
    pub fn status(&self) -> LinkStatus {
        self.shared.lock().report()
    }

    /// Publishes what is queued, then `offline`, and disconnects; after `deadline` it ends as it is, and the broker
    /// publishes the last will, which says the same. Returns whether it ended in time. Events that nobody reads any more
    /// are dropped, so the receiver need not be served meanwhile.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        {
            let mut inner = self.shared.lock();
            inner.intent = Intent::Stop;
            let topic = self.offline.clone();
            inner.post(Letter { ticket: None, topic, payload: b"offline".to_vec(), retain: true });
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

/// What `Link` and the task share.
#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the task where it does not poll: in backoff, while connecting, while the owner's channel is full.
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves a whole value behind, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    Run,
    /// Disconnect, and connect again at once.
    Renew,
    Stop,
}

#[derive(Debug)]
struct Inner {
    /// The way to the wire, while there is a connection.
    client: Option<mpsc::Sender<Request>>,
    window: AckWindow,
    outbox: Outbox,
    intent: Intent,
    /// DISCONNECT was given to the wire: nothing may follow it.
    disconnecting: bool,
    endpoint: config::Endpoint,
    tls: Option<tls::Client>,
    status: LinkStatus,
}

impl Inner {
    fn post(&mut self, letter: Letter) {
        if let Some(dropped) = self.outbox.push(letter) {
            self.status.dropped += 1;
            tracing::warn!(topic = dropped.topic, ticket = dropped.ticket, "publication dropped: too many wait for the broker");
        }
        self.pump();
    }

    /// Gives the wire what may go out now, as far as its channel has room: PUBACKs, publications, a farewell. The channel
    /// wakes the task that polls. The task pumps again after every event, so nothing stays behind.
    fn pump(&mut self) {
        let Some(client) = self.client.as_ref().filter(|_| !self.disconnecting) else { return };
        while let Some(packet) = self.window.ready() {
            if client.try_send(Request::PubAck(PubAck::new(packet))).is_err() {
                return;
            }
            self.window.sent();
        }
        if self.intent != Intent::Renew {
            while let Some(letter) = self.outbox.next() {
                let Ok(room) = client.try_reserve() else {
                    self.outbox.push_first(letter);
                    return;
                };
                let Letter { ticket, topic, payload, retain } = letter;
                let mut publish = Publish::new(topic.clone(), QoS::AtLeastOnce, payload);
                publish.retain = retain;
                room.send(Request::Publish(publish));
                self.outbox.handed(ticket, topic);
            }
        }
        let farewell = match self.intent {
            Intent::Run => false,
            Intent::Renew => true,
            Intent::Stop => self.outbox.queued() + self.outbox.outstanding() == 0,
        };
        self.disconnecting = farewell && client.try_send(Request::Disconnect(Disconnect)).is_ok();
    }

    fn report(&self) -> LinkStatus {
        LinkStatus {
            queued: self.outbox.queued(),
            outstanding: self.outbox.outstanding(),
            unacknowledged: self.window.held(),
            ..self.status.clone()
        }
    }
}
