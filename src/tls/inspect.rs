//! Reads facts from certificate files without connecting: the device a certificate names, when it expires, and every fault of
//! a set of files. Called by the configuration, `check-config`, the status and the conditions.

use std::{path::Path, time::Duration};

use care_protocol::DeviceId;
use x509_cert::{
    Certificate, TbsCertificate,
    der::{
        Any, Decode,
        asn1::{PrintableStringRef, Utf8StringRef},
        oid::db::rfc4519::COMMON_NAME,
    },
};

use super::{
    TlsError, TlsFiles, authorities, device_client,
    files::{CERT, CERT_EXPECTED, certificates, crls, private_key, roots},
};
use crate::clock::Clock;

/// Every fault of these files.
pub fn check_files(files: &TlsFiles) -> Vec<TlsError> {
    let ca = roots(&files.ca).err();
    let chain = certificates(CERT, &files.client_cert, CERT_EXPECTED);
    let key = private_key(&files.client_key);
    let mut faults: Vec<_> = ca.into_iter().collect();
    match (chain, key) {
        (Ok(_), Ok(_)) if faults.is_empty() => faults.extend(device_client(files, &Clock::start(None)).err()),
        (chain, key) => faults.extend(chain.err().into_iter().chain(key.err())),
    }
    faults
}

/// Checks one CA file by itself.
///
/// # Errors
/// It is missing, unreadable or unusable.
pub fn check_ca(path: &Path) -> Result<(), TlsError> {
    roots(path).map(drop)
}

/// Checks one device certificate by itself.
///
/// # Errors
/// It is missing, unreadable or not PEM.
pub fn check_certificate(path: &Path) -> Result<(), TlsError> {
    certificates(CERT, path, CERT_EXPECTED).map(drop)
}

/// Checks one file of revocation lists by itself.
///
/// # Errors
/// It is missing, unreadable, or holds something else.
pub fn check_crl(path: &Path) -> Result<(), TlsError> {
    crls(path).map(drop)
}

/// Checks one private key by itself.
///
/// # Errors
/// It is missing, unreadable, loose or not PEM.
pub fn check_key(path: &Path) -> Result<(), TlsError> {
    private_key(path).map(drop)
}

/// The common name of the certificate in this PEM file. It must be the device id (`docs/protocol.md#mqtt`).
///
/// # Errors
/// The file is unreadable, or its first certificate has no common name.
pub fn common_name(cert: &Path) -> Result<String, TlsError> {
    with_certificate(cert, |x509| {
        let attributes = x509.subject.0.iter().flat_map(|relative| relative.0.iter());
        let name = attributes.filter(|attribute| attribute.oid == COMMON_NAME).find_map(|attribute| text(&attribute.value));
        name.ok_or_else(|| "its subject has no common name (CN)".to_owned())
    })
}

/// The text of a name's attribute, in the two string types that RFC 5280 (4.1.2.4) allows in new certificates.
fn text(value: &Any) -> Option<String> {
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned()).or_else(|_| printable()).ok()
}

/// Checks that the device certificate names `device`.
///
/// # Errors
/// [`TlsError::OtherDevice`], or what [`common_name`] finds.
pub fn check_device(files: &TlsFiles, device: &DeviceId) -> Result<(), TlsError> {
    let found = common_name(&files.client_cert)?;
    if found == device.as_str() {
        return Ok(());
    }
    Err(TlsError::OtherDevice { cert: files.client_cert.clone(), found, expected: device.clone() })
}

/// When the certificate in this PEM file expires, since 1970 (zero if before).
///
/// # Errors
/// The file is unreadable or holds no certificate.
pub fn expires(cert: &Path) -> Result<Duration, TlsError> {
    with_certificate(cert, |x509| Ok(x509.validity.not_after.to_unix_duration()))
}

/// When the last authority in this PEM file expires, since 1970; `None` if none of them could be parsed. Older authorities
/// beside it may expire earlier without harm.
///
/// # Errors
/// The file is unreadable or holds no certificate.
pub fn authorities_end(ca: &Path) -> Result<Option<Duration>, TlsError> {
    let bundle = authorities::bundle(ca)?;
    let parsed = bundle.certificates.iter().filter_map(|certificate| Certificate::from_der(certificate).ok());
    Ok(parsed.map(|x509| x509.tbs_certificate.validity.not_after.to_unix_duration()).max())
}

/// One certificate of a file, and when it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// Its number among the usable certificates of the file, from 1.
    pub number: usize,
    /// The certificate's subject.
    pub subject: String,
    /// Start, since 1970.
    pub not_before: Duration,
    /// End, since 1970.
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

/// A certificate that does not parse here is left out; the handshake verifies it.
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

fn with_certificate<T>(cert: &Path, read: impl FnOnce(&TbsCertificate) -> Result<T, String>) -> Result<T, TlsError> {
    let unusable = |reason| TlsError::Unusable { what: CERT, path: cert.to_owned(), reason, expected: CERT_EXPECTED };
    let chain = certificates(CERT, cert, CERT_EXPECTED)?;
    let first = chain.first().ok_or_else(|| unusable("it holds no certificate".into()))?;
    let x509 = Certificate::from_der(first).map_err(|error| unusable(format!("it does not parse: {error}")))?;
    read(&x509.tbs_certificate).map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::{DAY, DEVICE_DAYS, Pki, T};

    #[test]
    fn every_fault_is_found_at_once() {
        let pki = Pki::new();
        assert_eq!(check_files(&pki.files()).len(), 0);
        pki.write("device.key", &pki.leaf("8006E5A1F0C2").1, 0o600);
        assert!(matches!(check_files(&pki.files())[..], [TlsError::Mismatch { .. }]));
        pki.write("ca.pem", "", 0o644);
        pki.write("device.pem", "nothing", 0o644);
        pki.write("device.key", "nothing", 0o644);
        assert_eq!(check_files(&pki.files()).len(), 3);
    }

    #[test]
    fn the_certificate_names_the_device_and_its_end() {
        let pki = Pki::new();
        let files = pki.files();
        assert_eq!(common_name(&files.client_cert).unwrap(), "8006E5A1F0C2");
        assert!(check_device(&files, &"8006E5A1F0C2".parse().unwrap()).is_ok());
        let message = check_device(&files, &"OTHER".parse().unwrap()).unwrap_err().to_string();
        assert!(message.contains("8006E5A1F0C2") && message.contains("OTHER"), "{message}");
        assert_eq!(expires(&files.client_cert).unwrap(), Duration::from_secs((T + DEVICE_DAYS * DAY) as u64));
    }
}
