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
            return Err(Reject::TooLarge { got: bytes.len(), limit: Self::MAX_BYTES });
        }
        // Larger than any document and no answer either: it is its size that is wrong with it (section 3.4).
        let too_large = |reject| match bytes.len() > crate::MAX_TOKEN_BYTES {
            true => Reject::TooLarge { got: bytes.len(), limit: crate::MAX_TOKEN_BYTES },
            false => reject,
        };
        let object = json::object(bytes).map_err(too_large)?;
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
    /// Lowercase hex SHA-256 of its bytes ([`is_sha256_hex`]).
    pub sha256: String,
    /// Epoch in force.
    pub epoch: u64,
    /// Sequence in force.
    pub seq: u64,
}

/// Whether a text has the form of [`GrantRequest::sha256`]: 64 lowercase hex digits.
pub fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The permission: where to put the clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Always `PUT`.
    pub method: String,
    /// A presigned URL.
    pub url: String,
    /// Headers to send verbatim.
    pub headers: BTreeMap<String, String>,
    /// When the URL ends.
    pub expires_at: Timestamp,
}

impl Grant {
    /// Reads a grant strictly; one without `headers` has none.
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
            // The parser's own words repeat what stands there, and this goes into a log.
            expires_at: expires_at.parse().map_err(|_| Reject::BadForm("expires_at is not a time of RFC 3339".into()))?,
        })
    }
}

/// The other answer: the clip is there already.
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

/// One line from a motion detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MotionEvent {
    /// Always `motion`.
    pub event: String,
    /// How sure the detector is, 0 to 1.
    #[serde(default)]
    pub score: f64,
}
