//! Reads CA files. A certificate that cannot be used is reported and skipped, and the others still count: a system bundle has
//! more than a hundred, and a camera must not lose its cloud over one that it does not need.

use std::{fmt, path::Path};

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::{
    TlsError,
    files::{CA, CA_EXPECTED, OTHERS_MAY_WRITE, read},
    pem,
};

/// The contents of a CA file.
pub(super) struct Bundle {
    /// The certificates that can be used.
    pub certificates: Vec<CertificateDer<'static>>,
    pub roots: RootCertStore,
    pub skipped: Vec<Skipped>,
}

/// A part of a CA file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Which of the file's certificates, from 1.
    pub number: usize,
    /// Its line, from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {} (line {}): {}", self.number, self.line, self.reason)
    }
}

/// The parts of a CA file that cannot be used, for `check-config` and conditions.
///
/// # Errors
/// It is missing, unreadable, or holds nothing that can be used.
pub fn skipped(ca: &Path) -> Result<Vec<Skipped>, TlsError> {
    bundle(ca).map(|bundle| bundle.skipped)
}

/// Reads a CA file.
///
/// # Errors
/// It is missing, unreadable, may be changed by others, or holds nothing that can be used.
pub(super) fn bundle(path: &Path) -> Result<Bundle, TlsError> {
    let unusable = |reason| TlsError::Unusable { what: CA, path: path.to_owned(), reason, expected: CA_EXPECTED };
    let bytes = read(CA, path, OTHERS_MAY_WRITE)?;
    let mut bundle = Bundle { certificates: Vec::new(), roots: RootCertStore::empty(), skipped: Vec::new() };
    for (index, section) in pem::sections(&bytes).map_err(unusable)?.into_iter().enumerate() {
        let root = section.content.and_then(|der| match section.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" => Ok(CertificateDer::from(der)),
            "TRUSTED CERTIFICATE" => Err("it is in OpenSSL's own form: convert it with openssl x509".to_owned()),
            label => Err(format!("it is a {label}, not a CERTIFICATE")),
        });
        let added = root.and_then(|root| match bundle.roots.add(root.clone()) {
            Ok(()) => Ok(root),
            Err(error) => Err(format!("it cannot be used as an authority ({error})")),
        });
        match added {
            Ok(root) => bundle.certificates.push(root),
            Err(reason) => bundle.skipped.push(Skipped { number: index + 1, line: section.line, reason }),
        }
    }
    match (bundle.certificates.is_empty(), bundle.skipped.first()) {
        (false, _) => Ok(bundle),
        (true, None) => Err(unusable("it holds no certificate".into())),
        (true, Some(first)) => Err(unusable(format!("it holds no certificate that can be read: {first}"))),
    }
}
