//! Why a call failed: the stage, a sentence for people, and advice.

use std::{fmt, io};

use thiserror::Error;

use super::race::Unreachable;

/// The stage of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking the host up.
    Dns,
    /// Connecting.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// Request and answer.
    Http,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
        })
    }
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum Fault {
    /// The name has no address.
    #[error("looking up {host}: {source}")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// No address could be reached.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The exchange failed.
    #[error("the exchange with {host} failed: {reason}")]
    Http {
        /// The server's name.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// The time limit passed.
    #[error("{host} did not answer in time ({stage})")]
    Timeout {
        /// The stage it was in.
        stage: Stage,
        /// The server's name.
        host: String,
    },
    /// The answer is larger than the caller's limit.
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge {
        /// The server's name.
        host: String,
        /// The caller's limit.
        limit: usize,
    },
    /// The gate was closed meanwhile: no more may be sent under this generation.
    #[error(transparent)]
    Stale(#[from] Stale),
}

impl Fault {
    /// The stage, if the fault lies in the network.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::Dns { .. } => Some(Stage::Dns),
            Self::Unreachable(unreachable) => Some(unreachable.stage()),
            Self::Http { .. } | Self::TooLarge { .. } => Some(Stage::Http),
            Self::Timeout { stage, .. } => Some(*stage),
            Self::Stale(_) => None,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Dns { .. } | Self::Timeout { stage: Stage::Dns, .. } => "Check the name, and the camera's name server.",
            Self::Unreachable(unreachable) => unreachable.advice(),
            Self::Timeout { .. } | Self::Http { .. } => "Check the server, and what stands between it and the camera.",
            Self::TooLarge { .. } => "Check what the server sends: the answer is larger than any answer that this agent expects.",
            Self::Stale(_) => "Nothing: the plan has changed meanwhile.",
        }
    }
}

/// The gate's generation has advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the gate was closed while this was under way")]
pub struct Stale;
