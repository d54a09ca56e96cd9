//! From when until when certificates are valid, for `check-config`.

use std::{path::Path, time::Duration};

use x509_cert::{Certificate, der::Decode};

use super::{CERT, CERT_EXPECTED, TlsError, authorities, certificates};

/// One certificate of a file, and when it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// Which of the certificates that can be used, from 1.
    pub number: usize,
    /// Whose it is, as the certificate says.
    pub subject: String,
    /// Since 1970.
    pub not_before: Duration,
    /// Since 1970.
    pub not_after: Duration,
}

/// When the device's certificate and its intermediates are valid.
///
/// # Errors
/// The file is unreadable, or a certificate in it is.
pub fn device_validity(cert: &Path) -> Result<Vec<Validity>, TlsError> {
    Ok(validity(&certificates(CERT, cert, CERT_EXPECTED)?))
}

/// When the authorities of a CA file are valid.
///
/// # Errors
/// The file is unreadable, or everything in it is.
pub fn authority_validity(ca: &Path) -> Result<Vec<Validity>, TlsError> {
    Ok(validity(&authorities::bundle(ca)?.certificates))
}

/// A certificate whose dates this reader cannot make out is judged in the handshake only.
fn validity(certificates: &[impl AsRef<[u8]>]) -> Vec<Validity> {
    let parsed = certificates.iter().enumerate().filter_map(|(index, der)| Some((index + 1, Certificate::from_der(der.as_ref()).ok()?)));
    parsed
        .map(|(number, x509)| {
            let certificate = x509.tbs_certificate;
            Validity {
                number,
                subject: certificate.subject.to_string(),
                not_before: certificate.validity.not_before.to_unix_duration(),
                not_after: certificate.validity.not_after.to_unix_duration(),
            }
        })
        .collect()
}
