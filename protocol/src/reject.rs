//! Why a document was rejected. Each variant has one code; reports carry the codes, and the list is closed
//! (`docs/protocol.md#reason-codes`). The message names the expected and the received value. The received value is
//! quoted, escaped and shortened, because any client may have sent it.

use std::fmt;

use thiserror::Error;

use crate::Report;

/// The reason a document was rejected. [`Reject::code`] goes into the report.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reject {
    /// Larger than its limit (8 KiB for an entitlement, 64 KiB for a keyset).
    #[error("{got} bytes long, at most {limit} are read")]
    TooLarge {
        /// Its size, in bytes.
        got: usize,
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
    #[error("the signature does not verify under the key that the header names")]
    BadSignature,
    /// No keyset known to the device holds this `kid`.
    #[error("signed with key {}, which this device does not know", Quoted(.0))]
    UnknownKey(String),
    /// The keyset revokes this `kid`.
    #[error("signed with key {}, which is revoked", Quoted(.0))]
    RevokedKey(String),
    /// The document was issued before its key's `not_before`.
    #[error("issued at {}, before its key becomes valid at {}", Time(*.iat), Time(*.not_before))]
    KeyNotYetValid {
        /// When the document was issued, Unix seconds.
        iat: u64,
        /// When its key becomes valid, Unix seconds.
        not_before: u64,
    },
    /// `aud` names another device.
    #[error("it is for device {}, this is {}", Quoted(.got), Quoted(.expected))]
    WrongAudience {
        /// The device it names.
        got: String,
        /// This device.
        expected: String,
    },
    /// `iss` is not the configured issuer.
    #[error("issuer is {}, this device trusts {}", Quoted(.got), Quoted(.expected))]
    WrongIssuer {
        /// The issuer it names.
        got: String,
        /// The issuer that this device trusts.
        expected: String,
    },
    /// `crit` names a field that this device does not know.
    #[error("requires {}, which this agent does not know", Quoted(.0))]
    Unsupported(String),
    /// A value is outside its range or list.
    #[error("out of range: {0}")]
    OutOfRange(String),
    /// `account` changed and `epoch` did not (`docs/protocol.md#order`).
    #[error("the account changed without a new epoch")]
    AccountChanged,
    /// The keyset is below the highest one seen, or below `trust.min_keyset_version`.
    #[error("keyset version is {got}, this device accepts {least} and above")]
    OldKeyset {
        /// The version that arrived.
        got: u64,
        /// The lowest acceptable version.
        least: u64,
    },
    /// The device's state is unreadable, and only HTTPS may restore it (`docs/protocol.md#state-loss`).
    #[error("the device has lost its state and waits for HTTPS")]
    StateLost,
    /// The camera was reset to factory settings, and the document is of the epoch that it was bound in then
    /// (`docs/protocol.md#factory-reset`).
    #[error("this device was reset: only a binding with an epoch above {epoch} is accepted")]
    FactoryReset {
        /// The epoch it was bound in.
        epoch: u64,
    },
    /// A document that grants more could not be written to flash and is not in force.
    #[error("could not be written to flash")]
    NotPersisted,
}

impl Reject {
    /// What was expected and what arrived, in one sentence that fits a report ([`Report::detail`]).
    pub fn detail(&self) -> String {
        Report::detail_of(&self.to_string())
    }
}

/// Writes the code of each variant down once, for [`Reject::code`] and [`Reject::CODES`].
macro_rules! codes {
    ($($variant:pat => $code:literal),+ $(,)?) => {
        impl Reject {
            /// Every reason code, in the order of `docs/protocol.md#reason-codes`.
            pub const CODES: &'static [&'static str] = &[$($code),+];

            /// The reason code, as in reports (`docs/protocol.md#reason-codes`).
            pub fn code(&self) -> &'static str {
                match self { $($variant => $code),+ }
            }
        }
    };
}

codes! {
    Self::TooLarge { .. } => "too_large",
    Self::BadForm(_) => "bad_form",
    Self::BadHeader(_) => "bad_header",
    Self::BadSignature => "bad_signature",
    Self::UnknownKey(_) => "unknown_key",
    Self::RevokedKey(_) => "revoked_key",
    Self::KeyNotYetValid { .. } => "key_not_yet_valid",
    Self::WrongAudience { .. } => "wrong_audience",
    Self::WrongIssuer { .. } => "wrong_issuer",
    Self::Unsupported(_) => "unsupported",
    Self::OutOfRange(_) => "out_of_range",
    Self::AccountChanged => "account_changed",
    Self::OldKeyset { .. } => "old_keyset",
    Self::StateLost => "state_lost",
    Self::FactoryReset { .. } => "factory_reset",
    Self::NotPersisted => "not_persisted",
}

/// Foreign text: quoted, escaped, and at most as long as a name.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 40;
        match self.0.char_indices().nth(MOST) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// Unix seconds as an RFC 3339 time, or as a number beyond the calendar.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
            Some(time) => time.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_was_expected_and_what_arrived() {
        let (got, expected) = ("prod".to_owned(), "care".to_owned());
        let issuer = Reject::WrongIssuer { got, expected };
        assert_eq!(issuer.detail(), r#"issuer is "prod", this device trusts "care""#);
        assert_eq!(Reject::OldKeyset { got: 6, least: 7 }.detail(), "keyset version is 6, this device accepts 7 and above");
        let early = Reject::KeyNotYetValid { iat: 1_767_225_600, not_before: u64::MAX };
        assert_eq!(early.detail(), "issued at 2026-01-01T00:00:00Z, before its key becomes valid at 18446744073709551615");
    }

    #[test]
    fn foreign_text_is_escaped_and_shortened() {
        let long = Reject::UnknownKey("é\n".repeat(500));
        assert!(long.detail().chars().count() <= Report::DETAIL_MOST, "{long}");
        assert!(!long.detail().contains('\n') && long.detail().contains('…'), "{long}");
        let form = Reject::BadForm("é".repeat(500));
        assert_eq!(form.detail().chars().count(), Report::DETAIL_MOST);
    }
}
