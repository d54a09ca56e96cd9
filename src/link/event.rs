//! What the link tells its owner, and how it looks from outside.

use std::time::{Duration, Instant};

use bytes::Bytes;
use care_protocol::Topic;

use super::{Ack, Connection, LinkFault};

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
    /// SUBSCRIBE was sent: what comes from here on may confirm (`docs/protocol.md#confirmation`).
    SubscribeSent {
        /// On this connection.
        connection: Connection,
    },
    /// The broker granted the subscription to `entitlement`: send `get`, and the report again.
    Subscribed {
        /// On this connection.
        connection: Connection,
    },
    /// A PUBLISH on one of our topics, of any size up to [`super::MAX_PACKET`].
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
        /// As given to [`super::Link::publish`].
        ticket: u64,
    },
    /// The connection was lost, or an attempt failed (`connection` is `None`). The next attempt follows by itself.
    Lost {
        /// The connection that was lost.
        connection: Option<Connection>,
        /// Where and why.
        fault: LinkFault,
    },
    /// Three connections in a row were closed soon after CONNACK, and not in answer to a packet of the agent's: another
    /// client uses this device's id (scenario 55).
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
    /// Connected, without a granted subscription: counts as down (`docs/protocol.md#mqtt`).
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
