//! Events for the engine, and the effects that it requests. Plain values without a clock.

use std::time::Duration;

use bytes::Bytes;
use care_protocol::{Erased, Get, Policy, Position, Report, Topic};

use super::{Admission, Generation};
use crate::trusted_time::LATEST;

/// The number of an MQTT connection, so that messages of an old one are not mistaken for those of the new one. Each
/// CONNACK begins a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// A PUBLISH that waits for its PUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivery(pub u64);

/// A message on one of the topics a device reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The connection that delivered it.
    pub connection: Connection,
    /// The topic.
    pub topic: Topic,
    /// The payload, of any size and content.
    pub payload: Bytes,
    /// The RETAIN flag.
    pub retain: bool,
    /// The DUP flag.
    pub dup: bool,
    /// BOOTTIME when the client library yielded it.
    pub received: Duration,
    /// The PUBLISH to acknowledge; `None` if the connection is already lost.
    pub delivery: Option<Delivery>,
    /// The earliest end of the certificates of the connection, since 1970; [`LATEST`] without TLS.
    pub valid_until: Duration,
}

/// A resource fetched over HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `GET /v1/devices/{id}/entitlement`
    Entitlement,
    /// `GET /v1/keyset`
    Keyset,
}

/// The result of a successful fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The answer's body.
    pub bytes: Bytes,
    /// The earliest end of the certificates of the connection, since 1970; [`LATEST`] without TLS.
    pub valid_until: Duration,
}

impl<B: Into<Bytes>> From<B> for Body {
    /// As received without TLS.
    fn from(bytes: B) -> Self {
        Self { bytes: bytes.into(), valid_until: LATEST }
    }
}

/// How a fetch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// 200, with this body.
    Found(Body),
    /// 404.
    Missing,
    /// Any other answer: 429, 5xx, or an answer over the size limit.
    Declined,
    /// No answer.
    Failed,
}

/// The figures of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutFigures {
    /// The gate's new generation.
    pub generation: Generation,
    /// Transfers aborted.
    pub transfers: u32,
    /// Payload handed to the network device after the gate closed; `None` if it could not be counted.
    pub bytes_after: Option<u64>,
    /// Clips that the new policy does not allow to be kept, erased.
    pub erased: Erased,
}

/// An input of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// CONNACK.
    Connected(Connection),
    /// SUBSCRIBE was sent: documents that arrive from here on may confirm.
    SubscribeSent(Connection),
    /// SUBACK granted the entitlement.
    Subscribed(Connection),
    /// The connection was lost, or an attempt failed (`None`).
    Lost(Option<Connection>),
    /// A message.
    Message(Message),
    /// The broker acknowledged a report.
    Published {
        /// As in [`Ports::publish`](super::Ports::publish).
        ticket: u64,
    },
    /// A fetch ended.
    Fetched(Resource, Fetched),
    /// The record of this ticket, and of all earlier ones, is on flash.
    Written {
        /// As in [`Ports::persist`](super::Ports::persist).
        ticket: u64,
    },
    /// It could not be written; the store keeps trying.
    WriteFailed {
        /// As in [`Ports::persist`](super::Ports::persist).
        ticket: u64,
    },
    /// The cut that was under way is done. The events that arrived meanwhile are handled now.
    CutDone(CutFigures),
    /// A grant was answered 402 or 403.
    Refused,
    /// The configuration was read again.
    Reconfigured {
        /// The new `[free]`.
        free: Policy,
    },
    /// The agent is about to stop: trusted time and the lease's use since the last record are worth one more write.
    Stopping,
    /// Time has passed, or has been corrected.
    Tick,
}

/// An effect that the engine requests, in order: one method of [`Ports`](super::Ports) each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Close the gate, abort every transfer, then judge every clip by `keep`; with `None` nothing is erased. Answered
    /// with [`Event::CutDone`], at once or later; always the last effect of its batch.
    Cut {
        /// The policy for keeping clips, and the position of its document.
        keep: Option<(Policy, Position)>,
    },
    /// Open the gate to this admission without disturbing any transfer.
    Open(Admission),
    /// Retry clips that were refused with 402 or 403.
    RetryRefused,
    /// The camera's owner has changed: erase pre-roll, history and order ids.
    Forget,
    /// Write this record, and answer `Written` or `WriteFailed`.
    Persist {
        /// Rises with every record.
        ticket: u64,
        /// The record's bytes.
        record: Vec<u8>,
    },
    /// PUBACK.
    Acknowledge(Delivery),
    /// Publish a report, retained, and answer `Published`.
    Publish {
        /// Rises with every report.
        ticket: u64,
        /// The report.
        report: Box<Report>,
    },
    /// Publish a `get`.
    Get(Get),
    /// Fetch over HTTPS, and answer `Fetched`.
    Fetch(Resource),
    /// Two different documents carry this position: an engineer must investigate the signer: docs/protocol.md#order.
    Alarm(Position),
    /// A verified document was issued at this time (since 1970): trusted time is not before it.
    RaiseTime(Duration),
    /// A root-signed reset sets trusted time to this (since 1970).
    SetTime(Duration),
}
