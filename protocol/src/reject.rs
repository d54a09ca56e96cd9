//! Why a document was refused. One variant, one code: the codes travel in reports and are a closed list. The words say what
//! was expected and what came; what came is quoted, escaped and cut short, for its sender may be anybody.

use std::fmt;

use thiserror::Error;

use crate::Report;

/// The reason a document was rejected; [`Reject::code`] is what the report carries.
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
    /// The keyset lists this `kid` as revoked.
    #[error("signed with key {}, which is revoked", Quoted(.0))]
    RevokedKey(String),
    /// The document was issued before its key's `not_before`.
    #[error("issued at {}, before its key becomes valid at {}", Time(*.iat), Time(*.not_before))]
    KeyNotYetValid {
        /// When the document was issued, Unix seconds.
        iat: u64,
        /// From when its key is good, Unix seconds.
        not_before: u64,
    },
    /// `aud` is another device.
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
    /// `crit` names something this device does not know.
    #[error("requires {}, which this agent does not know", Quoted(.0))]
    Unsupported(String),
    /// A value outside its range.
    #[error("out of range: {0}")]
    OutOfRange(String),
    /// `account` changed while `epoch` did not (section 3.3).
    #[error("the account changed without a new epoch")]
    AccountChanged,
    /// A keyset below the highest one seen, or below `trust.min_keyset_version`.
    #[error("keyset version is {got}, this device accepts {least} and above")]
    OldKeyset {
        /// The version that arrived.
        got: u64,
        /// The lowest acceptable version.
        least: u64,
    },
    /// The device's state is unreadable: only HTTPS may set it anew (section 3.3).
    #[error("the device has lost its state and waits for HTTPS")]
    StateLost,
    /// The camera was reset to factory settings: a document of the epoch that it was bound in then does not bind it again.
    #[error("this device was reset: only a binding with an epoch above {epoch} is accepted")]
    FactoryReset {
        /// The epoch it was bound in.
        epoch: u64,
    },
    /// An upgrade could not be written to flash and is not in force.
    #[error("could not be written to flash")]
    NotPersisted,
}

impl Reject {
    /// What was expected and what came, in one sentence that fits a report ([`Report::detail`]).
    pub fn detail(&self) -> String {
        Report::detail_of(&self.to_string())
    }

    /// The reason code, as reports carry it (section 3.5).
    pub fn code(&self) -> &'static str {
        match self {
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
    }
}

/// Somebody else's text: in quotes, without control characters, and no longer than a name is.
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

/// Unix seconds as people read them; a number where the calendar ends.
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
    fn the_words_say_what_was_expected_and_what_came() {
        let (got, expected) = ("prod".to_owned(), "care".to_owned());
        let issuer = Reject::WrongIssuer { got, expected };
        assert_eq!(issuer.detail(), r#"issuer is "prod", this device trusts "care""#);
        assert_eq!(Reject::OldKeyset { got: 6, least: 7 }.detail(), "keyset version is 6, this device accepts 7 and above");
        let early = Reject::KeyNotYetValid { iat: 1_767_225_600, not_before: u64::MAX };
        assert_eq!(early.detail(), "issued at 2026-01-01T00:00:00Z, before its key becomes valid at 18446744073709551615");
    }

    #[test]
    fn a_stranger_s_text_is_escaped_and_cut_short() {
        let long = Reject::UnknownKey("é\n".repeat(500));
        assert!(long.detail().chars().count() <= Report::DETAIL_MOST, "{long}");
        assert!(!long.detail().contains('\n') && long.detail().contains('…'), "{long}");
        let form = Reject::BadForm("é".repeat(500));
        assert_eq!(form.detail().chars().count(), Report::DETAIL_MOST);
    }
}
