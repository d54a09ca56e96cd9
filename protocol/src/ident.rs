//! Names and numbers whose types admit only valid values: device ids, plans, positions, digests. Everything else in
//! this crate is made of them; `docs/protocol.md#encoding` has their ranges.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The largest integer in a document: 2^53 − 1 (`docs/protocol.md#encoding`).
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// A string or number that its type does not admit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{value:?} is not a {what}")]
pub struct BadIdent {
    what: &'static str,
    value: String,
}

/// A camera's id: 1 to 64 characters out of `A–Z a–z 0–9 . _ -`, not dots alone. It is a topic level, a path segment,
/// the MQTT client id and the certificate's CN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = BadIdent;

    fn from_str(value: &str) -> Result<Self, BadIdent> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let dots_only = value.bytes().all(|b| b == b'.');
        if (1..=64).contains(&value.len()) && value.bytes().all(allowed) && !dots_only {
            Ok(Self(value.to_owned()))
        } else {
            Err(BadIdent { what: "device id (1 to 64 letters, digits, '.', '_' or '-')", value: value.to_owned() })
        }
    }
}

impl TryFrom<String> for DeviceId {
    type Error = BadIdent;

    fn try_from(value: String) -> Result<Self, BadIdent> {
        value.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A plan's name: `free`, `plus`, `premium` or a future one; 1 to 64 characters, no control characters. The camera
/// shows it and enforces the policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Plan(String);

impl Plan {
    /// The Free plan.
    pub fn free() -> Self {
        Self("free".into())
    }

    /// The plan's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is `free`. Only the `mode` label depends on it.
    pub fn is_free(&self) -> bool {
        self.0 == "free"
    }
}

impl FromStr for Plan {
    type Err = BadIdent;

    fn from_str(value: &str) -> Result<Self, BadIdent> {
        if (1..=64).contains(&value.chars().count()) && !value.chars().any(char::is_control) {
            Ok(Self(value.to_owned()))
        } else {
            Err(BadIdent { what: "plan name (1 to 64 characters)", value: value.to_owned() })
        }
    }
}

impl TryFrom<String> for Plan {
    type Error = BadIdent;

    fn try_from(value: String) -> Result<Self, BadIdent> {
        value.parse()
    }
}

impl From<Plan> for String {
    fn from(plan: Plan) -> Self {
        plan.0
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(u64);

        impl $name {
            /// The number, 1 to [`MAX_INTEGER`].
            pub fn get(self) -> u64 {
                self.0
            }

            /// The next number; `None` at the maximum.
            pub fn next(self) -> Option<Self> {
                Self::try_from(self.0 + 1).ok()
            }
        }

        impl TryFrom<u64> for $name {
            type Error = BadIdent;

            fn try_from(value: u64) -> Result<Self, BadIdent> {
                if (1..=MAX_INTEGER).contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(BadIdent { what: $what, value: value.to_string() })
                }
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> u64 {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// The binding epoch. It rises whenever the camera is bound to an account.
    Epoch,
    "epoch (1 to 2^53-1)"
);
counter!(
    /// The sequence number. It rises with every document of an epoch.
    Seq,
    "seq (1 to 2^53-1)"
);

/// `(epoch, seq)`: the order of entitlements (`docs/protocol.md#order`). `(0, 0)` is below every document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The binding epoch, 0 if there is none.
    pub epoch: u64,
    /// The sequence, 0 if there is none.
    pub seq: u64,
}

impl Position {
    /// Below every document.
    pub const NONE: Self = Self { epoch: 0, seq: 0 };

    /// The position of a document.
    pub fn new(epoch: Epoch, seq: Seq) -> Self {
        Self { epoch: epoch.get(), seq: seq.get() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.epoch, self.seq)
    }
}

/// SHA-256 of a document's decoded payload, written as `sha256:` and lowercase hex (`docs/protocol.md#digest`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a payload.
    pub fn of(payload: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, payload);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The digest as lowercase hex, without its prefix.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = BadIdent;

    fn try_from(value: String) -> Result<Self, BadIdent> {
        let bytes = value.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(hex) = bytes else {
            return Err(BadIdent { what: "digest", value });
        };
        let mut digest = [0; 32];
        for (i, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("checked to be hex");
        }
        Ok(Self(digest))
    }
}
