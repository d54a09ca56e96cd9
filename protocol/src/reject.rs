//! Why a document was refused. One variant, one code: the codes travel in reports and are a closed list.

use thiserror::Error;

/// The reason a document was rejected; [`Reject::code`] is what the report carries.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reject {
    /// Larger than its limit (8 KiB for an entitlement, 64 KiB for a keyset).
    #[error("the document is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Not a compact JWS, not strict JSON, or a field missing or of the wrong type.
    #[error("malformed: {0}")]
    BadForm(String),
    /// The protected header is not exactly `alg`, `kid` and `typ` with allowed values.
    #[error("bad header: {0}")]
    BadHeader(String),
    /// The signature does not verify under the key that the header names.
    #[error("the signature does not verify")]
    BadSignature,
    /// No keyset known to the device holds this `kid`.
    #[error("unknown key {0:?}")]
    UnknownKey(String),
    /// The keyset lists this `kid` as revoked.
    #[error("revoked key {0:?}")]
    RevokedKey(String),
    /// The document was issued before its key's `not_before`.
    #[error("issued before its key was valid")]
    KeyNotYetValid,
    /// `aud` is another device.
    #[error("for another device")]
    WrongAudience,
    /// `iss` is not the configured issuer.
    #[error("from another issuer")]
    WrongIssuer,
    /// `crit` names something this device does not know.
    #[error("requires {0:?}, which this agent does not know")]
    Unsupported(String),
    /// A value outside its range.
    #[error("out of range: {0}")]
    OutOfRange(String),
    /// `account` changed while `epoch` did not (section 3.3).
    #[error("the account changed without a new epoch")]
    AccountChanged,
    /// A keyset below the highest one seen, or below `trust.min_keyset_version`.
    #[error("keyset version {got} is below {least}")]
    OldKeyset {
        /// The version that arrived.
        got: u64,
        /// The lowest acceptable version.
        least: u64,
    },
    /// The device's state is unreadable: only HTTPS may set it anew (section 3.3).
    #[error("the device has lost its state and waits for HTTPS")]
    StateLost,
    /// An upgrade could not be written to flash and is not in force.
    #[error("could not be written to flash")]
    NotPersisted,
}

impl Reject {
    /// The reason code, as reports carry it (section 3.5).
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::BadForm(_) => "bad_form",
            Self::BadHeader(_) => "bad_header",
            Self::BadSignature => "bad_signature",
            Self::UnknownKey(_) => "unknown_key",
            Self::RevokedKey(_) => "revoked_key",
            Self::KeyNotYetValid => "key_not_yet_valid",
            Self::WrongAudience => "wrong_audience",
            Self::WrongIssuer => "wrong_issuer",
            Self::Unsupported(_) => "unsupported",
            Self::OutOfRange(_) => "out_of_range",
            Self::AccountChanged => "account_changed",
            Self::OldKeyset { .. } => "old_keyset",
            Self::StateLost => "state_lost",
            Self::NotPersisted => "not_persisted",
        }
    }
}
