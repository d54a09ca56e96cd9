//! Why TLS cannot be set up from the files that the configuration names. Faults of a handshake are in `faults`.

use std::{io, path::PathBuf};

use care_protocol::DeviceId;
use rustls::Error;
use thiserror::Error as ThisError;

use super::faults::said;

/// Why a TLS client cannot be configured from its files.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// A file is missing or may not be read.
    #[error("cannot read the {what} {}: {source}; {}", path.display(), advice(source))]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file's mode lets others read the private key, or change what this device trusts.
    #[error("the {what} {} has mode {mode:04o}, so others on this machine may use or change it: chmod {right:o} {}", path.display(), path.display())]
    Loose {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they may be.
        right: u32,
    },
    /// The file's owner could change what this device trusts.
    #[error("the {what} is not safe: {wrong}; {right}")]
    Unsafe {
        /// What the file is for.
        what: &'static str,
        /// How others could change it.
        wrong: String,
        /// The remedy.
        right: String,
    },
    /// The file is not PEM, or its contents cannot be used.
    #[error("the {what} {} cannot be used: {reason}; put {expected} there", path.display())]
    Unusable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// The certificate was made for another key.
    #[error("the device certificate {} does not belong to the key {}: install the two that were made together", cert.display(), key.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The certificate names another device.
    #[error("the device certificate {} has the common name {found:?} but [device] id is {expected}: install this device's certificate or correct the id", cert.display())]
    OtherDevice {
        /// The certificate.
        cert: PathBuf,
        /// Its common name.
        found: String,
        /// The configured id.
        expected: DeviceId,
    },
    /// rustls refuses the configuration.
    #[error("cannot set up TLS with {}: {}; replace the certificate and key", path.display(), refusal(source))]
    Refused {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: Error,
    },
}

fn refusal(source: &Error) -> String {
    match source {
        // The words of rustls take it for a peer's.
        Error::InvalidCertificate(fault) => said(fault),
        other => other.to_string(),
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "install the file or correct its path in the configuration",
        io::ErrorKind::PermissionDenied => "make its owner the user that runs the agent",
        _ => "install it again",
    }
}
