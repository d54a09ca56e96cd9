//! The small documents beside the signed ones: `get` and its answer (3.4), clips and grants (3.6), motion events (3.7).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Reject, json};

/// Sent after every SUBACK: asks for the newest entitlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// 22 or more base64url characters, fresh every time.
    pub nonce: String,
    /// The epoch in force, 0 with no state.
    pub epoch: u64,
    /// The sequence in force, 0 with no state.
    pub seq: u64,
}

/// The answer to a [`Get`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The nonce of the `get`.
    pub nonce: String,
    /// The entitlement JWS.
    pub token: String,
}

impl Answer {
    /// The largest answer: a token, a nonce and the JSON around them.
    pub const MAX_BYTES: usize = crate::MAX_TOKEN_BYTES + 1024;

    /// Reads an answer strictly.
    pub fn read(bytes: &[u8]) -> Result<Self, Reject> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(Reject::TooLarge { limit: Self::MAX_BYTES });
        }
        let object = json::object(bytes)?;
        Ok(Self { nonce: object.string("nonce")?.to_owned(), token: object.string("token")?.to_owned() })
    }
}

/// What a clip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipKind {
    /// Around a motion event.
    Motion,
    /// One picture.
    Snapshot,
    /// Asked for by a person.
    Manual,
}

/// Asks for the permission to upload one clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRequest {
    /// The clip's UUID, the same on every retry.
    pub clip: String,
    /// What it is.
    pub kind: ClipKind,
    /// When its first frame was taken, trusted time.
    pub started_at: Timestamp,
    /// How long it is, milliseconds.
    pub duration_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// Lowercase hex SHA-256 of its bytes.
    pub sha256: String,
    /// Epoch in force.
    pub epoch: u64,
    /// Sequence in force.
    pub seq: u64,
}

/// The permission: where to put the clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Always `PUT`.
    pub method: String,
    /// A presigned URL.
    pub url: String,
    /// Headers to send verbatim.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// When the URL ends.
    pub expires_at: Timestamp,
}

/// The other answer: the clip is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Always true.
    pub stored: bool,
}

/// One line from a motion detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MotionEvent {
    /// Always `motion`.
    pub event: String,
    /// How sure the detector is, 0 to 1.
    #[serde(default)]
    pub score: f64,
}
