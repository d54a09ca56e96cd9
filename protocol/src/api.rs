//! The unsigned documents: `get` and its answer (`docs/protocol.md#get-and-answer`), grant requests and grants
//! (`docs/protocol.md#grants`), and motion events. Both sides read and write them here. What a grant may name is not
//! judged here but by the agent's uploads.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Reject, json};

/// Asks for the newest entitlement. A camera sends one after every SUBACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// 22 or more base64url characters, fresh every time.
    pub nonce: String,
    /// The epoch of the ratchet, 0 with no state.
    pub epoch: u64,
    /// The sequence of the ratchet, 0 with no state.
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
    /// The largest answer, bytes: a token, a nonce and the JSON around them.
    pub const MAX_BYTES: usize = crate::MAX_TOKEN_BYTES + 1024;

    /// Reads an answer strictly.
    ///
    /// # Errors
    /// [`Reject::TooLarge`], or [`Reject::BadForm`]: not strict JSON, or a field missing or of the wrong type.
    pub fn read(bytes: &[u8]) -> Result<Self, Reject> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(Reject::TooLarge { got: bytes.len(), limit: Self::MAX_BYTES });
        }
        // It is no answer, and larger than any document: report its size, as for a document
        // (`docs/protocol.md#acknowledgement`).
        let too_large = |reject| match bytes.len() > crate::MAX_TOKEN_BYTES {
            true => Reject::TooLarge { got: bytes.len(), limit: crate::MAX_TOKEN_BYTES },
            false => reject,
        };
        let object = json::object(bytes).map_err(too_large)?;
        Ok(Self { nonce: object.string("nonce")?.to_owned(), token: object.string("token")?.to_owned() })
    }
}

/// Why a clip was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipKind {
    /// It surrounds a motion event.
    Motion,
    /// It is a single picture.
    Snapshot,
    /// A person asked for it.
    Manual,
}

impl ClipKind {
    /// Every value, in the order of `docs/protocol.md`.
    pub const ALL: &'static [Self] = &[Self::Motion, Self::Snapshot, Self::Manual];
}

/// Asks for permission to upload one clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRequest {
    /// The clip's UUID, made by the device; the same on every retry.
    pub clip: String,
    /// Why it was made.
    pub kind: ClipKind,
    /// Trusted time of its first frame.
    #[serde(with = "crate::rfc3339")]
    pub started_at: Timestamp,
    /// Its length in milliseconds.
    pub duration_ms: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes, lowercase hex ([`is_sha256_hex`]).
    pub sha256: String,
    /// Its place in a clip that leaves while it is being filmed; then `duration_ms`, `bytes` and `sha256` are the part's.
    /// Absent: a whole clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The epoch in force.
    pub epoch: u64,
    /// The sequence in force.
    pub seq: u64,
}

/// The place of a part in its clip (`docs/protocol.md#parts`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 0 on, in their order: the parts, one after the other, are the clip.
    pub index: u32,
    /// Whether the clip ends with it.
    pub last: bool,
}

/// Whether `text` has the form of [`GrantRequest::sha256`]: 64 lowercase hex digits.
pub fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Permission to upload one clip, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Always `PUT`.
    pub method: String,
    /// Where to put the clip, usually a presigned URL.
    pub url: String,
    /// Headers to send verbatim.
    pub headers: BTreeMap<String, String>,
    /// When the grant ends.
    #[serde(with = "crate::rfc3339")]
    pub expires_at: Timestamp,
}

impl Grant {
    /// Reads a grant strictly. `headers` may be absent.
    ///
    /// # Errors
    /// [`Reject::BadForm`]: not strict JSON, or a field missing or of the wrong type.
    pub fn read(bytes: &[u8]) -> Result<Self, Reject> {
        let object = json::object(bytes)?;
        let mut headers = BTreeMap::new();
        if object.optional("headers").is_some() {
            let given = object.object("headers")?;
            for name in given.names() {
                headers.insert(name.to_owned(), given.string(name)?.to_owned());
            }
        }
        let expires_at = object.string("expires_at")?;
        Ok(Self {
            method: object.string("method")?.to_owned(),
            url: object.string("url")?.to_owned(),
            headers,
            // The parser's own message would repeat the text, and this message goes into a log.
            expires_at: expires_at.parse().map_err(|_| Reject::BadForm("expires_at is not an RFC 3339 time".into()))?,
        })
    }
}

/// The other answer to a grant request: the store has the clip already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Always true.
    pub stored: bool,
}

impl Stored {
    /// Reads the answer strictly.
    ///
    /// # Errors
    /// [`Reject::BadForm`]: anything but an object that says `"stored": true`.
    pub fn read(bytes: &[u8]) -> Result<Self, Reject> {
        match json::object(bytes)?.boolean("stored")? {
            true => Ok(Self { stored: true }),
            false => Err(Reject::BadForm("stored is not true".into())),
        }
    }
}

/// One line from a motion detector, over the socket of `media.motion`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MotionEvent {
    /// Always `motion`.
    pub event: String,
    /// The detector's confidence, 0 to 1.
    #[serde(default)]
    pub score: f64,
    /// Absent: motion at this moment, and nothing is known of the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<MotionState>,
}

/// What a detector that tells beginnings from ends says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MotionState {
    /// Motion has begun, and lasts until `stop`.
    Start,
    /// Motion has ended.
    Stop,
}
