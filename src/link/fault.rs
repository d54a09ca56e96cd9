//! Why the link is down, by stage and in words: rumqttc hides the reason three enums deep.

use std::{fmt, io};

use rumqttc::{ConnectReturnCode, ConnectionError, StateError, mqttbytes};
use thiserror::Error;

use crate::tls::{TlsFault, handshake_fault};

/// How far a connection had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Finding the broker's address.
    Dns,
    /// Connecting to it.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// From CONNECT to CONNACK.
    Connack,
    /// From SUBSCRIBE to SUBACK.
    Suback,
    /// Afterwards.
    Session,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Dns => "DNS",
            Stage::Tcp => "TCP",
            Stage::Tls => "TLS",
            Stage::Connack => "CONNACK",
            Stage::Suback => "SUBACK",
            Stage::Session => "session",
        })
    }
}

/// Why there is no connection, or none any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{stage}: {reason}")]
pub struct LinkFault {
    /// How far the connection had come.
    pub stage: Stage,
    /// What went wrong, for an operator.
    pub reason: String,
}

impl LinkFault {
    pub(super) fn new(stage: Stage, reason: impl Into<String>) -> Self {
        Self { stage, reason: reason.into() }
    }

    /// What rumqttc reports of a connection that had `reached` this stage.
    pub(super) fn from_rumqttc(error: &ConnectionError, reached: Stage) -> Self {
        match error {
            ConnectionError::ConnectionRefused(code) => Self::new(Stage::Connack, refusal(*code)),
            ConnectionError::NotConnAck(packet) => {
                Self::new(Stage::Connack, format!("the broker answered CONNECT with something else: {packet:?}"))
            }
            ConnectionError::Tls(rumqttc::TlsError::TLS(error)) => Self::new(Stage::Tls, TlsFault::from(error).to_string()),
            ConnectionError::Tls(rumqttc::TlsError::Io(error)) => Self::from_io(error, Stage::Tls),
            ConnectionError::Tls(error) => Self::new(Stage::Tls, error.to_string()),
            // All other I/O errors come wrapped.
            ConnectionError::Io(error) => Self::from_io(error, Stage::Tcp),
            ConnectionError::FlushTimeout => Self::new(reached, "the broker no longer reads what we send"),
            ConnectionError::MqttState(StateError::AwaitPingResp) => Self::new(reached, "the broker did not answer a ping"),
            ConnectionError::MqttState(StateError::ConnectionAborted) => Self::new(reached, CLOSED),
            ConnectionError::MqttState(StateError::CollisionTimeout) => Self::new(reached, "the broker did not acknowledge a publication"),
            ConnectionError::MqttState(StateError::Deserialization(mqttbytes::Error::PayloadSizeLimitExceeded(size))) => {
                Self::new(reached, format!("the broker sent a packet of {size} bytes, more than {}", super::MAX_PACKET))
            }
            other => match io_error(other) {
                Some(error) => Self::from_io(error, reached),
                None => Self::new(reached, other.to_string()),
            },
        }
    }

    /// An I/O error that may have a TLS error inside: with TLS 1.3 a server turns down our certificate only after the
    /// handshake, as far as we see it.
    fn from_io(error: &io::Error, reached: Stage) -> Self {
        match handshake_fault(error) {
            Some(TlsFault::Closed) if reached != Stage::Tls => Self::new(reached, CLOSED),
            Some(fault) => Self::new(Stage::Tls, fault.to_string()),
            None => Self::new(reached, error.to_string()),
        }
    }
}

const CLOSED: &str = "the broker closed the connection";

fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "refused with code 0",
        ConnectReturnCode::RefusedProtocolVersion => "code 1: the broker speaks no MQTT 3.1.1",
        ConnectReturnCode::BadClientId => "code 2: the broker does not accept this device id as client id",
        ConnectReturnCode::ServiceUnavailable => "code 3: the broker is unavailable",
        ConnectReturnCode::BadUserNamePassword => "code 4: the broker wants a user name and password",
        ConnectReturnCode::NotAuthorized => "code 5: the broker does not authorize this device",
    }
}

fn io_error(error: &ConnectionError) -> Option<&io::Error> {
    match error {
        ConnectionError::Io(error)
        | ConnectionError::Tls(rumqttc::TlsError::Io(error))
        | ConnectionError::MqttState(StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error))) => Some(error),
        _ => None,
    }
}

/// Whether the packet was too large for us: the connection is gone with it, since rumqttc cannot skip it (R884).
pub(super) fn is_oversize(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::MqttState(StateError::Deserialization(mqttbytes::Error::PayloadSizeLimitExceeded(_))))
}

/// Whether it was the broker that ended the connection.
pub(super) fn is_closed(error: &ConnectionError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error, ConnectionError::MqttState(StateError::ConnectionAborted))
        || io_error(error).is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}
