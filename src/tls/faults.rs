//! Why a TLS handshake failed, in words for an operator. The link and the HTTP client report these faults.

use std::io;

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, pki_types::UnixTime};
use thiserror::Error as ThisError;

use crate::clock::system_time;

/// Why a TLS handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum TlsFault {
    /// The server's certificate, or one above it, has expired by trusted time.
    #[error("the server's certificate expired on {not_after}: trusted time is {trusted}, the system clock says {system}")]
    Expired {
        /// When it expired.
        not_after: Timestamp,
        /// T.
        trusted: Timestamp,
        /// What the system clock says.
        system: Timestamp,
    },
    /// The certificate is not valid yet although trusted time is confirmed, or the chain is valid at no time.
    #[error("the server's certificate is not valid before {not_before}: trusted time is {trusted}, the system clock says {system}")]
    NotYetValid {
        /// When it becomes valid.
        not_before: Timestamp,
        /// T.
        trusted: Timestamp,
        /// What the system clock says.
        system: Timestamp,
    },
    /// The certificate is for other names.
    #[error("the server's certificate is for other names: {presented}, not {expected}")]
    OtherNames {
        /// The host that we connected to.
        expected: String,
        /// The names in the certificate.
        presented: String,
    },
    /// The certificate's authority has revoked it.
    #[error("the server's certificate, or one above it, is revoked")]
    Revoked,
    /// No configured authority has signed the chain.
    #[error("the server's certificate is of an unknown authority, or the server did not send its intermediates")]
    UnknownAuthority,
    /// A configured authority has the issuer's name but did not sign the certificate: the authority was renewed, or the
    /// certificate is forged.
    #[error("the server's certificate is not signed by the authority it names: the CA file may hold an older one of the same name")]
    OtherAuthority,
    /// Something else is wrong with the certificate.
    #[error("the server's certificate is not acceptable: {0}")]
    BadCertificate(String),
    /// The server speaks nothing newer than TLS 1.1.
    #[error("the server speaks no TLS 1.2 or 1.3")]
    OldTls,
    /// A handshake message is larger than any certificate chain.
    #[error("the server's certificates are too large to be read")]
    TooLarge,
    /// The peer does not speak TLS.
    #[error("what answers there does not speak TLS")]
    NotTls,
    /// The server does not ask for a client certificate, so it would serve any client.
    #[error("the server asks for no client certificate, so it cannot know whom it serves: require one there (mutual TLS)")]
    NoClientAuth,
    /// The server refused our certificate.
    #[error("the server refused this device's certificate ({0})")]
    DeviceRefused(String),
    /// The server closed the connection during the handshake.
    #[error("the server closed the connection during the handshake")]
    Closed,
    /// Anything else, in rustls's words.
    #[error("{0}")]
    Other(String),
}

impl From<&Error> for TlsFault {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(fault) => Self::from(fault),
            Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
            | Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::OldTls,
            Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge) => Self::TooLarge,
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(alert) if about_our_certificate(*alert) => Self::DeviceRefused(format!("{alert:?}")),
            Error::NoCertificatesPresented => Self::BadCertificate("it sent none".into()),
            Error::Other(own) => own.0.downcast_ref().cloned().unwrap_or_else(|| Self::Other(own.to_string())),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<&CertificateError> for TlsFault {
    fn from(fault: &CertificateError) -> Self {
        match fault {
            CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                not_after: timestamp(*not_after),
                trusted: timestamp(*time),
                system: care_engine::trusted_time::timestamp(system_time()),
            },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotYetValid {
                not_before: timestamp(*not_before),
                trusted: timestamp(*time),
                system: care_engine::trusted_time::timestamp(system_time()),
            },
            CertificateError::NotValidForNameContext { expected, presented } => {
                let presented = if presented.is_empty() { "none".to_owned() } else { presented.join(", ") };
                Self::OtherNames { expected: expected.to_str().into_owned(), presented }
            }
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::BadSignature => Self::OtherAuthority,
            CertificateError::Revoked => Self::Revoked,
            other => Self::BadCertificate(said(other)),
        }
    }
}

/// What is wrong with a certificate. rustls passes its parser's errors on as they are; the common one gets words here:
/// `openssl x509 -req` without extensions makes certificates of X.509 version 1.
pub(super) fn said(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Other(parser) if parser.0.downcast_ref() == Some(&webpki::Error::UnsupportedCertVersion) => {
            "it is of X.509 version 1; an extension such as subjectAltName makes it version 3".to_owned()
        }
        other => other.to_string(),
    }
}

/// The TLS fault inside an I/O error of a handshake, if it is one: rustls wraps its errors in `io::Error`.
pub fn handshake_fault(error: &io::Error) -> Option<TlsFault> {
    let mut inner: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = inner {
        if let Some(rustls) = error.downcast_ref::<Error>() {
            return Some(rustls.into());
        }
        inner = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    (error.kind() == io::ErrorKind::UnexpectedEof).then_some(TlsFault::Closed)
}

/// Whether a server refuses a client certificate with this alert (RFC 8446, 6.2). In TLS 1.3 it arrives after the handshake.
fn about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            // Its signature does not verify: the server's file of authorities holds another one of the same name.
            | AlertDescription::DecryptError
    )
}

fn timestamp(time: UnixTime) -> Timestamp {
    // No certificate can name a time outside jiff's range (up to the year 9999).
    i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_inside_io_errors() {
        let buried = io::Error::other(io::Error::other(Error::AlertReceived(AlertDescription::UnknownCA)));
        assert_eq!(handshake_fault(&buried), Some(TlsFault::DeviceRefused("UnknownCA".into())));
        let old = io::Error::other(Error::AlertReceived(AlertDescription::ProtocolVersion));
        assert_eq!(handshake_fault(&old).unwrap().to_string(), "the server speaks no TLS 1.2 or 1.3");
        assert_eq!(handshake_fault(&io::ErrorKind::UnexpectedEof.into()), Some(TlsFault::Closed));
        assert_eq!(handshake_fault(&io::ErrorKind::ConnectionReset.into()), None);
        let forged = io::Error::other(Error::AlertReceived(AlertDescription::DecryptError));
        assert_eq!(handshake_fault(&forged), Some(TlsFault::DeviceRefused("DecryptError".into())));
    }
}
