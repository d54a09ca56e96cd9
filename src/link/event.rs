//! The link's events for its owner, and its status.

use std::time::{Duration, Instant};

use bytes::Bytes;
use care_protocol::Topic;

use super::{Ack, Connection, LinkFault};

/// An event for the link's owner.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The broker accepted us.
    Connected {
        /// The new connection.
        connection: Connection,
        /// Whether the broker kept our session. If not, publications that the broker had not acknowledged are dropped.
        session_present: bool,
        /// The earliest end of the broker's certificates, since 1970; [`care_engine::trusted_time::LATEST`] without
        /// TLS.
        valid_until: Duration,
    },
    /// SUBSCRIBE was sent: documents that arrive from here on may confirm (`docs/protocol.md#confirmation`).
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
        /// The connection that delivered it.
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
    /// The connection was lost, or an attempt failed (`connection` is `None`). The link tries again by itself.
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

/// The state of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkState {
    /// Waiting for the next attempt.
    #[default]
    Down,
    /// An attempt is in progress.
    Connecting,
    /// Connected, without a granted subscription: counts as down (`docs/protocol.md#mqtt`).
    Connected,
    /// Up.
    Subscribed,
}

/// The link's status, for the status document and metrics.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkStatus {
    /// Its state.
    pub state: LinkState,
    /// The present connection.
    pub connection: Option<Connection>,
    /// The last fault.
    pub last_fault: Option<LinkFault>,
    /// Failures in a row.
    pub failures: u32,
    /// The delay before the next attempt, as it was drawn; only while [`LinkState::Down`].
    pub next_attempt_in: Option<Duration>,
    /// Publications in the queue.
    pub queued: usize,
    /// Publications sent and not acknowledged.
    pub outstanding: usize,
    /// Publications dropped because too many waited or because MQTT cannot carry them.
    pub dropped: u64,
    /// PUBLISHes not acknowledged yet.
    pub unacknowledged: usize,
    /// How often the MQTT client was rebuilt.
    pub rebuilds: u32,
}
