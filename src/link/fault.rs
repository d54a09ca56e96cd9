//! Why the link is down: the stage, a sentence that names the peer, and advice.

use std::{fmt, io};

use rumqttc::{ConnectReturnCode, StateError};
use thiserror::Error;

use super::wire::WireError;
use crate::{
    http,
    tls::{TlsFault, handshake_fault},
};

/// The stage that a connection had reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Looking up the broker's address.
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

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct LinkFault {
    /// The stage that the connection had reached.
    pub stage: Stage,
    /// What went wrong, with the peer's name: one sentence for an operator.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// Advice that refers to the broker's log.
pub(super) const ASK_THE_BROKER: &str = "Read the broker's log for this device, and check what stands between it and the camera.";
/// Advice after a SUBSCRIBE or PUBLISH that the broker rejects.
pub(super) const GIVE_RIGHTS: &str = "Let the broker's ACL or policy give this device its topics: subscribe to entitlement, entitlement/answer and keyset, publish to get, report and status.";
/// Advice after a PUBLISH that the broker seems to reject: a clone that takes over at that moment looks the same.
pub(super) const GIVE_RIGHTS_OR_FIND_A_CLONE: &str = "Let the broker's ACL or policy give this device the right to publish to its topics get, report and status; if it has it, another client may use this device's id.";

impl LinkFault {
    pub(super) fn new(stage: Stage, reason: impl Into<String>) -> Self {
        Self { stage, reason: reason.into(), advice: ASK_THE_BROKER }
    }

    pub(super) fn advising(self, advice: &'static str) -> Self {
        Self { advice, ..self }
    }

    /// No connection to the broker.
    pub(super) fn from_http(fault: &http::Fault) -> Self {
        let stage = match fault.stage() {
            Some(http::Stage::Dns) => Stage::Dns,
            Some(http::Stage::Tls) => Stage::Tls,
            _ => Stage::Tcp,
        };
        Self::new(stage, fault.to_string()).advising(fault.advice())
    }

    /// The connection to `peer` ended after it had reached stage `reached`.
    pub(crate) fn from_wire(error: &WireError, reached: Stage, peer: &str) -> Self {
        let session = |stage, what: fmt::Arguments<'_>| Self::new(stage, format!("connection to {peer}: {what}"));
        match error {
            WireError::Refused(code) => {
                let (words, advice) = refusal(*code);
                Self::new(Stage::Connack, format!("CONNECT to {peer} was refused with {words}")).advising(advice)
            }
            WireError::NotConnAck(packet) => {
                session(Stage::Connack, format_args!("the broker answered CONNECT with something else: {packet:?}"))
            }
            WireError::TooLarge { bytes, topic } => {
                let on = topic.as_ref().map_or_else(String::new, |topic| format!(" on {topic}"));
                session(reached, format_args!("the broker sent a packet of {bytes} bytes{on}, more than {}", super::MAX_PACKET))
            }
            WireError::Packet(error) => session(reached, format_args!("the broker sent data that is not MQTT 3.1.1: {error}")),
            WireError::State(StateError::AwaitPingResp) => session(reached, format_args!("the broker did not answer a ping")),
            WireError::State(StateError::CollisionTimeout) => {
                session(reached, format_args!("the broker did not acknowledge a publication"))
            }
            // With TLS 1.3 a server rejects our certificate only after the handshake is complete on our side.
            WireError::Io(error) => match handshake_fault(error) {
                Some(TlsFault::Closed) => session(reached, format_args!("{CLOSED}")),
                Some(fault) => {
                    let reason = format!("connecting to {peer}: TLS: {fault}");
                    Self::new(Stage::Tls, reason).advising(http::tls_advice(&fault))
                }
                None => session(reached, format_args!("{error}")),
            },
            WireError::Closed | WireError::WriteTimeout | WireError::State(_) => session(reached, format_args!("{error}")),
        }
    }
}

const CLOSED: &str = "the broker closed the connection";

fn refusal(code: ConnectReturnCode) -> (&'static str, &'static str) {
    match code {
        ConnectReturnCode::Success => ("code 0", ASK_THE_BROKER),
        ConnectReturnCode::RefusedProtocolVersion => ("code 1: the broker speaks no MQTT 3.1.1", "Let the broker accept MQTT 3.1.1."),
        ConnectReturnCode::BadClientId => (
            "code 2: the broker does not accept this device id as client id",
            "Let the broker accept the device id, which is the certificate's CN, as client id.",
        ),
        ConnectReturnCode::ServiceUnavailable => ("code 3: the broker is unavailable", ASK_THE_BROKER),
        ConnectReturnCode::BadUserNamePassword => (
            "code 4: the broker wants a user name and password",
            "Let the broker take the client certificate for the user name (Mosquitto: use_identity_as_username).",
        ),
        ConnectReturnCode::NotAuthorized => (
            "code 5: the broker does not authorize this device",
            "Register this device's certificate with the broker, or let its policy allow CONNECT with the device id.",
        ),
    }
}

/// Whether the packet was too large for us: it cannot be skipped, so the connection is lost too.
pub(super) fn is_oversize(error: &WireError) -> bool {
    matches!(error, WireError::TooLarge { .. })
}

/// Whether it was the broker that ended the connection.
pub(super) fn is_closed(error: &WireError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        WireError::Closed => true,
        WireError::Io(error) => matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof),
        _ => false,
    }
}
