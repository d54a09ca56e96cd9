//! One rustls configuration per peer, on trusted time; for link, the cloud API and uploads.
//!
//! Only ring, TLS 1.2 and 1.3, no system roots, no session resumption: every connection checks the server's certificate
//! anew. Files are judged here too, so that a missing key is named before anything connects.

mod authorities;
mod client;
mod dates;
mod ends;
mod pem;
mod watch;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use care_protocol::DeviceId;
use jiff::Timestamp;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage, PeerIncompatible, RootCertStore,
    SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime},
};
use thiserror::Error as ThisError;
use x509_cert::{
    Certificate, TbsCertificate,
    crl::CertificateList,
    der::{
        Any, Decode,
        asn1::{PrintableStringRef, Utf8StringRef},
        oid::db::rfc4519::COMMON_NAME,
    },
};

pub use authorities::{Skipped, skipped};
pub use client::{Client, ValidUntil};
pub use dates::{Validity, authority_validity, device_validity};
pub use ends::authorities_end;
pub use watch::Watch;

use crate::{
    clock::{AGREE_WITHIN, Clock, LATEST, system_time},
    ownership,
};

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
    /// Others may read the private key, or change whom this device trusts.
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
    /// Others may change whom this device trusts.
    #[error("the {what} is not safe: {wrong}; {right}")]
    Unsafe {
        /// What the file is for.
        what: &'static str,
        /// What lets others change it.
        wrong: String,
        /// The remedy.
        right: String,
    },
    /// The file is not PEM, or what stands in it cannot be used.
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
    #[error("cannot set up TLS with {}: {source}; replace the certificate and key", path.display())]
    Refused {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: Error,
    },
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "install the file or correct its path in the configuration",
        io::ErrorKind::PermissionDenied => "make its owner the user that runs the agent",
        _ => "install it again",
    }
}

const CA: &str = "CA file";
const CERT: &str = "device certificate";
const KEY: &str = "device key";
const CRL: &str = "revocation list";
const CA_EXPECTED: &str = "the PEM certificates of the authorities to trust";
const CERT_EXPECTED: &str = "the device's PEM certificate, followed by its intermediates";
const KEY_EXPECTED: &str = "one PEM private key (ECDSA P-256 or P-384, Ed25519 or RSA)";
const CRL_EXPECTED: &str = "the PEM revocation lists (X509 CRL) of the authorities";

/// The files of one TLS client.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsFiles {
    /// The authorities the server's certificate must chain to, PEM.
    pub ca: PathBuf,
    /// The device's certificate chain, PEM.
    pub client_cert: PathBuf,
    /// The device's private key, PEM, not readable by group or others.
    pub client_key: PathBuf,
    /// The authorities' revocation lists, PEM.
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let Self { ca, client_cert, client_key, crl } = self;
        [ca, client_cert, client_key].into_iter().chain(crl).map(PathBuf::as_path)
    }
}

/// The authorities for store hosts.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreCa {
    /// The public roots.
    Webpki,
    /// A PEM file.
    File(PathBuf),
}

/// TLS towards the broker and the cloud API: servers must chain to `files.ca` and ask for the device's certificate, which we
/// show.
///
/// # Errors
/// The first file that is missing, unreadable, loose or unusable.
pub fn device_client(files: &TlsFiles, clock: &Clock) -> Result<Client, TlsError> {
    let authorities = Authorities { roots: roots(&files.ca)?, crl: files.crl.as_deref(), path: &files.ca };
    let chain = certificates(CERT, &files.client_cert, CERT_EXPECTED)?;
    let key = private_key(&files.client_key)?;
    let (builder, verifier) = builder(authorities, clock)?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|source| match source {
        Error::InconsistentKeys(_) => TlsError::Mismatch { cert: files.client_cert.clone(), key: files.client_key.clone() },
        source => TlsError::Refused { path: files.client_cert.clone(), source },
    })?;
    Ok(Client::mutual(config, verifier))
}

/// TLS towards store hosts other than the cloud's own: no client certificate is ever shown.
///
/// # Errors
/// A CA file or revocation list that is missing, unreadable or unusable.
pub fn store_client(ca: &StoreCa, crl: Option<&Path>, clock: &Clock) -> Result<Client, TlsError> {
    let (roots, path) = match ca {
        StoreCa::Webpki => (webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(), Path::new("webpki")),
        StoreCa::File(path) => (roots(path)?, path.as_path()),
    };
    let (builder, _) = builder(Authorities { roots, crl, path }, clock)?;
    Ok(Client::anonymous(builder.with_no_client_auth()))
}

/// Every fault of these files at once, for `check-config`.
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

/// The common name of the certificate in this PEM file, which must be the device id (section 3.4).
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

/// The text of a name's attribute, in the string types RFC 5280 (4.1.2.4) has for new certificates.
fn text(value: &Any) -> Option<String> {
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned()).or_else(|_| printable()).ok()
}

/// Checks that the device certificate is `device`'s.
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

fn with_certificate<T>(cert: &Path, read: impl FnOnce(&TbsCertificate) -> Result<T, String>) -> Result<T, TlsError> {
    let unusable = |reason| TlsError::Unusable { what: CERT, path: cert.to_owned(), reason, expected: CERT_EXPECTED };
    let chain = certificates(CERT, cert, CERT_EXPECTED)?;
    let first = chain.first().ok_or_else(|| unusable("it holds no certificate".into()))?;
    let x509 = Certificate::from_der(first).map_err(|error| unusable(format!("it does not parse: {error}")))?;
    read(&x509.tbs_certificate).map_err(unusable)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whom to trust, and which of their certificates no longer.
struct Authorities<'f> {
    roots: RootCertStore,
    crl: Option<&'f Path>,
    /// Where the roots are from.
    path: &'f Path,
}

/// A revocation list says what is revoked and nothing else: an authority without one is trusted as before, and an old list
/// still counts. A camera that cannot fetch a new one must not lose its cloud for it.
fn builder(
    Authorities { roots, crl, path }: Authorities<'_>,
    clock: &Clock,
) -> Result<(rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Arc<LowerBoundVerifier>), TlsError> {
    let refused = |source| TlsError::Refused { path: path.to_owned(), source };
    let crls = crl.map(crls).transpose()?.unwrap_or_default();
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(crls)
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| match (error, crl) {
            (VerifierBuilderError::InvalidCrl(error), Some(path)) => unusable_crl(path, format!("{error:?}")),
            (error, _) => refused(Error::General(error.to_string())),
        })?;
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone())).with_safe_default_protocol_versions();
    let verifier = Arc::new(LowerBoundVerifier { webpki, clock: clock.clone() });
    Ok((builder.map_err(refused)?.dangerous().with_custom_certificate_verifier(verifier.clone()), verifier))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    authorities::bundle(path).map(|bundle| bundle.roots)
}

/// A chain with a gap is no chain: everything in its file must be readable. A key may stand beside it.
fn certificates(what: &'static str, path: &Path, expected: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path, OTHERS_MAY_WRITE)?;
    let unusable = |reason| TlsError::Unusable { what, path: path.to_owned(), reason, expected };
    let mut found = Vec::new();
    for section in pem::sections(&bytes).map_err(unusable)? {
        let der = section.content.map_err(|reason| unusable(format!("line {}: {reason}", section.line)))?;
        match section.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" => found.push(CertificateDer::from(der)),
            label if is_key(label) || label.ends_with("PARAMETERS") => {}
            label => return Err(unusable(format!("line {}: it holds a {label}", section.line))),
        }
    }
    if found.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    Ok(found)
}

fn is_key(label: &str) -> bool {
    label.ends_with("PRIVATE KEY")
}

fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(CRL, path, OTHERS_MAY_WRITE)?;
    let mut found = Vec::new();
    for section in pem::sections(&bytes).map_err(|reason| unusable_crl(path, reason))? {
        let at = |reason: String| unusable_crl(path, format!("line {}: {reason}", section.line));
        let der = section.content.as_ref().map_err(|reason| at(reason.clone()))?;
        if section.label != "X509 CRL" {
            return Err(at(format!("it holds a {}", section.label)));
        }
        CertificateList::from_der(der).map_err(|error| at(format!("it does not parse: {error}")))?;
        found.push(CertificateRevocationListDer::from(der.clone()));
    }
    if found.is_empty() {
        return Err(unusable_crl(path, "it holds no revocation list".into()));
    }
    Ok(found)
}

fn unusable_crl(path: &Path, reason: String) -> TlsError {
    TlsError::Unusable { what: CRL, path: path.to_owned(), reason, expected: CRL_EXPECTED }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(KEY, path, OTHERS_MAY_ANYTHING)?;
    let unusable = |reason| TlsError::Unusable { what: KEY, path: path.to_owned(), reason, expected: KEY_EXPECTED };
    let mut keys = Vec::new();
    for section in pem::sections(&bytes).map_err(unusable)? {
        let at = |reason: String| unusable(format!("line {}: {reason}", section.line));
        let der = section.content.map_err(at)?;
        match section.label.as_str() {
            "PRIVATE KEY" => keys.push(PrivateKeyDer::Pkcs8(der.into())),
            "RSA PRIVATE KEY" => keys.push(PrivateKeyDer::Pkcs1(der.into())),
            "EC PRIVATE KEY" => keys.push(PrivateKeyDer::Sec1(der.into())),
            // Tools put the curve before the key, and the chain behind it.
            label if label.ends_with("PARAMETERS") || label == "CERTIFICATE" => {}
            label => return Err(at(format!("it holds a {label}, which cannot be used"))),
        }
    }
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err(unusable("it holds more than one private key".into())),
        (None, _) => Err(unusable("it holds no private key (an encrypted one does not count)".into())),
    }
}

/// What group and others may not do with a key, and with what says whom to trust.
const OTHERS_MAY_ANYTHING: u32 = 0o077;
const OTHERS_MAY_WRITE: u32 = 0o022;

/// Reads a file of at most 1 MiB whose mode has none of the `forbidden` bits. The open file is judged, not the path, so that
/// it cannot be exchanged in between.
fn read(what: &'static str, path: &Path, forbidden: u32) -> Result<Vec<u8>, TlsError> {
    const MOST: u64 = 1 << 20;
    let unreadable = |source| TlsError::Unreadable { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    // The device's own certificate says nothing about whom to trust.
    if let Some((wrong, right)) = ownership::fault(path, &metadata).filter(|_| forbidden == OTHERS_MAY_WRITE && what != CERT) {
        return Err(TlsError::Unsafe { what, wrong, right });
    }
    if mode & forbidden != 0 {
        return Err(TlsError::Loose { what, path: path.to_owned(), mode, right: mode & !forbidden & 0o666 });
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MOST {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

/// Verifies servers on a time that is only a lower bound of the true one (section 3.3).
///
/// Expiry is judged against T. Until T is confirmed, a certificate that is not valid yet at T may be valid at the true
/// time: the chain is accepted if it is valid as a whole at *some* time from T on. Trying again at the latest `notBefore`
/// finds that time if there is one. It can let nothing pass that has expired at T, since whatever is valid at a later time
/// has a `notAfter` later still. A confirmed T is known to 10 minutes, so `notBefore` is then allowed those.
#[derive(Debug)]
struct LowerBoundVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    clock: Clock,
}

impl LowerBoundVerifier {
    /// The earliest end of the certificates by which this server, which was verified just now, is known: the last second at
    /// which it could be. Each turn goes back to an earlier `notAfter`, of which a chain has a handful.
    fn valid_until(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], server_name: &ServerName<'_>) -> Duration {
        let mut end = LATEST;
        loop {
            let at = UnixTime::since_unix_epoch(end);
            match self.webpki.verify_server_cert(end_entity, intermediates, server_name, &[], at) {
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }))
                    if not_after.as_secs() < end.as_secs() =>
                {
                    end = Duration::from_secs(not_after.as_secs());
                }
                _ => return end,
            }
        }
    }
}

impl ServerCertVerifier for LowerBoundVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let latest = match self.clock.now().confirmed {
            true => now.as_secs().saturating_add(AGREE_WITHIN.as_secs()),
            false => u64::MAX,
        };
        let mut at = now;
        loop {
            let judged = self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at);
            match judged {
                // Each turn moves `at` to a later notBefore, of which a chain has a handful.
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before.as_secs() > at.as_secs() && not_before.as_secs() <= latest =>
                {
                    at = not_before;
                }
                // What the error tells is trusted time, wherever the search has come to.
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                    return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
                }
                judged => return judged,
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// What was wrong in a TLS handshake, in words for an operator (scenario 63).
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum TlsFault {
    /// The server's certificate, or one above it, has expired at T.
    #[error("the server's certificate expired on {not_after}: trusted time is {trusted}, the system clock says {system}")]
    Expired {
        /// When.
        not_after: Timestamp,
        /// T.
        trusted: Timestamp,
        /// What the system clock says.
        system: Timestamp,
    },
    /// It is not valid yet, and the clock is confirmed (or the chain is valid at no time).
    #[error("the server's certificate is not valid before {not_before}: trusted time is {trusted}, the system clock says {system}")]
    NotYetValid {
        /// From when.
        not_before: Timestamp,
        /// T.
        trusted: Timestamp,
        /// What the system clock says.
        system: Timestamp,
    },
    /// It is for other names.
    #[error("the server's certificate is for other names: {presented}, not {expected}")]
    OtherNames {
        /// Where we meant to connect.
        expected: String,
        /// What the certificate says.
        presented: String,
    },
    /// Its authority has revoked it.
    #[error("the server's certificate, or one above it, is revoked")]
    Revoked,
    /// No configured authority vouches for it.
    #[error("the server's certificate is of an unknown authority, or the server did not send its intermediates")]
    UnknownAuthority,
    /// An authority of that name is configured, but it did not sign this certificate: it was made anew, or is a forgery.
    #[error("the server's certificate is not signed by the authority it names: the CA file may hold an older one of the same name")]
    OtherAuthority,
    /// Something else is wrong with it.
    #[error("the server's certificate is not acceptable: {0}")]
    BadCertificate(String),
    /// Nothing newer than TLS 1.1.
    #[error("the server speaks no TLS 1.2 or 1.3")]
    OldTls,
    /// More than a certificate chain ever has.
    #[error("the server's certificates are too large to be read")]
    TooLarge,
    /// The answer is not TLS.
    #[error("what answers there does not speak TLS")]
    NotTls,
    /// The server is the one it says, and serves whoever comes.
    #[error("the server asks for no client certificate, so it cannot know whom it serves: require one there (mutual TLS)")]
    AsksNobody,
    /// The server does not like our certificate.
    #[error("the server refused this device's certificate ({0})")]
    DeviceRefused(String),
    /// The server went away during the handshake.
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
                system: crate::clock::timestamp(system_time()),
            },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotYetValid {
                not_before: timestamp(*not_before),
                trusted: timestamp(*time),
                system: crate::clock::timestamp(system_time()),
            },
            CertificateError::NotValidForNameContext { expected, presented } => {
                let presented = if presented.is_empty() { "none".to_owned() } else { presented.join(", ") };
                Self::OtherNames { expected: expected.to_str().into_owned(), presented }
            }
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::BadSignature => Self::OtherAuthority,
            CertificateError::Revoked => Self::Revoked,
            other => Self::BadCertificate(other.to_string()),
        }
    }
}

/// What a failed handshake says, if it is TLS that failed: rustls hides its errors inside `io::Error`s.
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

/// Alerts by which a server turns down a client certificate (RFC 8446, 6.2). In TLS 1.3 they arrive after the handshake.
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
    )
}

fn timestamp(time: UnixTime) -> Timestamp {
    // Certificates cannot name a time outside jiff's range (year 9999), so MAX stands only for nonsense.
    i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

    use rustls::{ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion};
    use tempfile::TempDir;

    use super::*;
    use crate::test_pki::Authority;

    pub(crate) const DAY: i64 = 86_400;
    /// What the agent believes: its last saved T.
    pub(crate) const T: i64 = 1_767_225_600;

    /// How long a device's certificate is valid: brokers judge it by the machine's clock.
    const DEVICE_DAYS: i64 = 5000;

    /// An authority and a device's files, for tests here and of the link.
    pub(crate) struct Pki {
        dir: TempDir,
        authority: Authority,
    }

    impl Pki {
        pub(crate) fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let name = dir.path().display().to_string();
            Self::named(&name, dir)
        }

        fn named(name: &str, dir: TempDir) -> Self {
            let authority = Authority::root(name, T - 1000 * DAY..T + 5000 * DAY);
            let pki = Self { dir, authority };
            pki.write("ca.pem", &pki.authority.pem(), 0o644);
            let (cert, key) = pki.leaf("8006E5A1F0C2");
            pki.write("device.pem", &cert, 0o644);
            pki.write("device.key", &key, 0o600);
            pki
        }

        fn leaf(&self, name: &str) -> (String, String) {
            let leaf = self.authority.leaf(name, T - DAY..T + DEVICE_DAYS * DAY);
            (leaf.pem(), leaf.key_pem())
        }

        fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        pub(crate) fn files(&self) -> TlsFiles {
            let at = |name| self.dir.path().join(name);
            TlsFiles { ca: at("ca.pem"), client_cert: at("device.pem"), client_key: at("device.key"), crl: None }
        }

        /// A server for `localhost` whose certificate is valid in this span.
        pub(crate) fn server(&self, from: i64, until: i64) -> ServerConfig {
            self.server_speaking(rustls::DEFAULT_VERSIONS, from, until)
        }

        /// The same, with these versions of TLS only.
        pub(crate) fn server_speaking(&self, versions: &[&'static SupportedProtocolVersion], from: i64, until: i64) -> ServerConfig {
            self.server_below(&self.authority, vec![], from, until, versions)
        }

        /// The same, but with clients of another authority.
        pub(crate) fn server_for_clients_of(&self, other: &Pki, from: i64, until: i64) -> ServerConfig {
            self.server_with(&self.authority, vec![], from, until, rustls::DEFAULT_VERSIONS, &other.authority)
        }

        /// One that asks for no client certificate.
        pub(crate) fn server_asking_nobody(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
            let leaf = self.authority.leaf("localhost", T - DAY..T + DAY);
            let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
            builder.with_no_client_auth().with_single_cert(vec![leaf.der()], leaf.key_der()).unwrap()
        }

        /// Files for a broker on `localhost` whose certificate is valid now, whatever the machine believes that to be.
        pub(crate) fn broker_files(&self) -> TlsFiles {
            let leaf = self.authority.leaf("localhost", T - 1000 * DAY..T + DEVICE_DAYS * DAY);
            let client_cert = self.write("broker.pem", &leaf.pem(), 0o644);
            TlsFiles { ca: self.files().ca, client_cert, client_key: self.write("broker.key", &leaf.key_pem(), 0o600), crl: None }
        }

        fn server_below(
            &self,
            issuer: &Authority,
            above: Vec<CertificateDer<'static>>,
            from: i64,
            until: i64,
            versions: &[&'static SupportedProtocolVersion],
        ) -> ServerConfig {
            self.server_with(issuer, above, from, until, versions, &self.authority)
        }

        fn server_with(
            &self,
            issuer: &Authority,
            above: Vec<CertificateDer<'static>>,
            from: i64,
            until: i64,
            versions: &[&'static SupportedProtocolVersion],
            clients: &Authority,
        ) -> ServerConfig {
            let leaf = issuer.leaf("localhost", from..until);
            let chain = std::iter::once(leaf.der()).chain(above).collect();
            let mut roots = RootCertStore::empty();
            roots.add(clients.der()).unwrap();
            // The server asks for our certificate and does not mind its own clock.
            let clock = Arc::new(Clock::at(Duration::from_secs(T as u64), true));
            let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
            ServerConfig::builder_with_details(provider(), clock)
                .with_protocol_versions(versions)
                .unwrap()
                .with_client_cert_verifier(clients)
                .with_single_cert(chain, leaf.key_der())
                .unwrap()
        }

        fn connect(&self, server: ServerConfig, name: &'static str, confirmed: bool) -> Result<(), TlsFault> {
            let clock = Clock::at(Duration::from_secs(T as u64), confirmed);
            assert_eq!(clock.now().confirmed, confirmed);
            let client = device_client(&self.files(), &clock).unwrap();
            handshake(client, server, name)
        }
    }

    /// A whole handshake in memory, both sides until neither has anything to say.
    fn handshake(client: Client, server: ServerConfig, name: &'static str) -> Result<(), TlsFault> {
        handshake_noting(client, server, name, &ValidUntil::default())
    }

    fn handshake_noting(client: Client, server: ServerConfig, name: &'static str, until: &ValidUntil) -> Result<(), TlsFault> {
        let config = Arc::new(client.connection_noting(until));
        let shows = config.client_auth_cert_resolver.has_certs();
        let mut client = ClientConnection::new(config, ServerName::try_from(name).unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut sent = wire.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets().map_err(|error| TlsFault::Other(format!("server: {error}")))?;
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut sent = wire.as_slice();
            while !sent.is_empty() {
                client.read_tls(&mut sent).unwrap();
                client.process_new_packets().map_err(|error| TlsFault::from(&error))?;
            }
            wire.clear();
        }
        assert_eq!(server.peer_certificates().is_some(), shows, "the device showed its certificate, if it has one for this server");
        Ok(())
    }

    #[test]
    fn connects_over_both_versions_with_the_device_certificate() {
        let pki = Pki::new();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let server = pki.server_below(&pki.authority, vec![], T - DAY, T + DAY, &[version]);
            assert_eq!(pki.connect(server, "localhost", true), Ok(()));
        }
    }

    #[test]
    fn a_certificate_issued_after_build_and_saved_time_connects_until_the_clock_is_confirmed() {
        let pki = Pki::new();
        let issued = T + 400 * DAY;
        assert_eq!(pki.connect(pki.server(issued, issued + DAY), "localhost", false), Ok(()));
        let fault = pki.connect(pki.server(issued, issued + DAY), "localhost", true).unwrap_err();
        assert!(
            matches!(&fault, TlsFault::NotYetValid { not_before, trusted, .. } if (not_before.as_second(), trusted.as_second()) == (issued, T))
        );
    }

    #[test]
    fn a_whole_chain_issued_later_connects_until_the_clock_is_confirmed() {
        let pki = Pki::new();
        let (middle_from, leaf_from) = (T + 500 * DAY, T + 400 * DAY);
        let chain = |leaf_until| {
            let middle = pki.authority.below("middle", middle_from..T + 900 * DAY);
            let above = vec![middle.der()];
            pki.server_below(&middle, above, leaf_from, leaf_until, rustls::DEFAULT_VERSIONS)
        };
        assert_eq!(pki.connect(chain(middle_from + DAY), "localhost", false), Ok(()));
        assert!(matches!(pki.connect(chain(middle_from + DAY), "localhost", true), Err(TlsFault::NotYetValid { .. })));
        // The leaf ends before the intermediate begins: at no time is this chain valid.
        let fault = pki.connect(chain(middle_from - DAY), "localhost", false).unwrap_err();
        let ended = middle_from - DAY;
        assert!(
            matches!(&fault, TlsFault::Expired { not_after, trusted, .. } if (not_after.as_second(), trusted.as_second()) == (ended, T))
        );
    }

    #[test]
    fn a_handshake_notes_the_earliest_end_in_the_chain_that_was_verified() {
        let pki = Pki::new();
        let until = |server| {
            let valid_until = ValidUntil::default();
            assert_eq!(valid_until.get(), None);
            let client = device_client(&pki.files(), &Clock::at(Duration::from_secs(T as u64), false)).unwrap();
            handshake_noting(client, server, "localhost", &valid_until).unwrap();
            valid_until.get().unwrap().as_secs() as i64
        };
        assert_eq!(until(pki.server(T - DAY, T + 40 * DAY)), T + 40 * DAY);
        assert_eq!(until(pki.server(T + DAY, T + 40 * DAY)), T + 40 * DAY, "not valid yet at T");
        let middle = pki.authority.below("middle", T - DAY..T + 20 * DAY);
        let expired = pki.authority.below("older", T - 20 * DAY..T - DAY);
        for leaf_ends in [T + 10 * DAY, T + 30 * DAY] {
            // What the server sends besides plays no part.
            let above = vec![middle.der(), expired.der()];
            let server = pki.server_below(&middle, above, T - DAY, leaf_ends, rustls::DEFAULT_VERSIONS);
            assert_eq!(until(server), leaf_ends.min(T + 20 * DAY));
        }
    }

    #[test]
    fn an_expired_certificate_is_refused_confirmed_or_not() {
        let pki = Pki::new();
        for confirmed in [false, true] {
            let fault = pki.connect(pki.server(T - DAY, T - 1), "localhost", confirmed).unwrap_err();
            assert!(matches!(&fault, TlsFault::Expired { not_after, .. } if not_after.as_second() == T - 1));
            let words =
                "the server's certificate expired on 2025-12-31T23:59:59Z: trusted time is 2026-01-01T00:00:00Z, the system clock says 20";
            assert!(fault.to_string().starts_with(words), "{fault}");
        }
    }

    #[test]
    fn an_expired_intermediate_is_not_excused_by_a_leaf_of_tomorrow() {
        let pki = Pki::new();
        let middle = pki.authority.below("middle", T - 2 * DAY..T - DAY);
        let above = vec![middle.der()];
        let server = pki.server_below(&middle, above, T + DAY, T + 2 * DAY, rustls::DEFAULT_VERSIONS);
        assert!(matches!(pki.connect(server, "localhost", false), Err(TlsFault::Expired { .. })));
    }

    #[test]
    fn a_confirmed_clock_allows_notbefore_its_own_ten_minutes() {
        let pki = Pki::new();
        assert_eq!(pki.connect(pki.server(T + 600, T + DAY), "localhost", true), Ok(()));
        assert!(pki.connect(pki.server(T + 601, T + DAY), "localhost", true).is_err());
    }

    #[test]
    fn a_later_notbefore_excuses_nothing_else() {
        let pki = Pki::new();
        let fault = pki.connect(pki.server(T + DAY, T + 2 * DAY), "other.example", false).unwrap_err();
        assert!(matches!(fault, TlsFault::OtherNames { .. }), "{fault}");
        let stranger = Pki::new();
        assert_eq!(pki.connect(stranger.server(T + DAY, T + 2 * DAY), "localhost", false), Err(TlsFault::UnknownAuthority));
    }

    #[test]
    fn wrong_names_and_unknown_authorities_are_told_apart() {
        let pki = Pki::new();
        let fault = pki.connect(pki.server(T - DAY, T + DAY), "other.example", true).unwrap_err();
        let TlsFault::OtherNames { expected, presented } = &fault else { panic!("{fault}") };
        assert_eq!(expected, "other.example");
        assert!(presented.contains("localhost"));
        let stranger = Pki::new();
        assert_eq!(pki.connect(stranger.server(T - DAY, T + DAY), "localhost", true), Err(TlsFault::UnknownAuthority));
        let twin = Pki::named(&pki.dir.path().display().to_string(), TempDir::new().unwrap());
        assert_eq!(pki.connect(twin.server(T - DAY, T + DAY), "localhost", true), Err(TlsFault::OtherAuthority));
        // Its intermediate is not sent.
        let middle = pki.authority.below("middle", T - DAY..T + DAY);
        let server = pki.server_below(&middle, vec![], T - DAY, T + DAY, rustls::DEFAULT_VERSIONS);
        assert_eq!(pki.connect(server, "localhost", true), Err(TlsFault::UnknownAuthority));
    }

    #[test]
    fn a_removed_authority_no_longer_counts_once_the_files_are_read_again() {
        let (old, new) = (Pki::new(), Pki::new());
        let both = format!("{}{}", old.authority.pem(), new.authority.pem());
        let connect = |pki: &Pki| {
            // Trust comes from the CA file of `old`; the device's certificate stays that of the server's own authority.
            let files = TlsFiles { ca: old.files().ca, ..pki.files() };
            let client = device_client(&files, &Clock::at(Duration::from_secs(T as u64), true)).unwrap();
            handshake(client, pki.server(T - DAY, T + DAY), "localhost")
        };
        old.write("ca.pem", &both, 0o644);
        assert_eq!((connect(&old), connect(&new)), (Ok(()), Ok(())));
        old.write("ca.pem", &new.authority.pem(), 0o644);
        assert_eq!((connect(&old), connect(&new)), (Err(TlsFault::UnknownAuthority), Ok(())));
    }

    #[test]
    fn store_hosts_never_see_the_device_certificate() {
        let pki = Pki::new();
        let clock = Clock::at(Duration::from_secs(T as u64), true);
        let client = store_client(&StoreCa::File(pki.files().ca), None, &clock).unwrap();
        // This server insists on a client certificate, and gets none.
        let fault = handshake(client, pki.server(T - DAY, T + DAY), "localhost").unwrap_err();
        assert!(fault.to_string().contains("server: peer sent no certificates"), "{fault}");
        assert!(store_client(&StoreCa::Webpki, None, &clock).is_ok());
    }

    #[test]
    fn a_server_that_asks_for_no_certificate_is_refused_but_as_a_store() {
        let pki = Pki::new();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert_eq!(pki.connect(pki.server_asking_nobody(&[version]), "localhost", true), Err(TlsFault::AsksNobody));
            // What is wrong with its certificate is named first.
            let fault = pki.connect(pki.server_asking_nobody(&[version]), "other.example", true).unwrap_err();
            assert!(matches!(fault, TlsFault::OtherNames { .. }), "{fault}");
            let clock = Clock::at(Duration::from_secs(T as u64), true);
            let store = store_client(&StoreCa::File(pki.files().ca), None, &clock).unwrap();
            assert_eq!(handshake(store, pki.server_asking_nobody(&[version]), "localhost"), Ok(()));
        }
    }

    #[test]
    fn what_one_server_asked_does_not_count_for_another() {
        let pki = Pki::new();
        let client = device_client(&pki.files(), &Clock::at(Duration::from_secs(T as u64), true)).unwrap();
        assert_eq!(handshake(client.clone(), pki.server(T - DAY, T + DAY), "localhost"), Ok(()));
        assert_eq!(handshake(client, pki.server_asking_nobody(rustls::DEFAULT_VERSIONS), "localhost"), Err(TlsFault::AsksNobody));
    }

    #[test]
    fn missing_unreadable_and_loose_files_are_named_with_the_remedy() {
        let pki = Pki::new();
        let clock = Clock::at(Duration::from_secs(T as u64), true);
        let refused = |files: &TlsFiles| device_client(files, &clock).unwrap_err().to_string();
        let files = pki.files();

        pki.write("device.key", &pki.leaf("x").1, 0o640);
        let message = refused(&files);
        assert!(message.contains("device.key has mode 0640") && message.contains("chmod 600"), "{message}");

        pki.write("device.key", &pki.leaf("x").1, 0o600);
        pki.write("ca.pem", &pki.authority.pem(), 0o664);
        let message = refused(&files);
        assert!(message.contains("ca.pem has mode 0664") && message.contains("chmod 644"), "{message}");
        assert!(message.contains("the CA file"), "{message}");
        pki.write("ca.pem", &pki.authority.pem(), 0o644);

        let missing = |name: &str| pki.dir.path().join(name);
        for files in [
            TlsFiles { ca: missing("no-ca.pem"), ..files.clone() },
            TlsFiles { client_cert: missing("no-cert.pem"), ..files.clone() },
            TlsFiles { client_key: missing("no.key"), ..files.clone() },
            TlsFiles { crl: Some(missing("no-crl.pem")), ..files.clone() },
        ] {
            let message = refused(&files);
            assert!(message.contains("no") && message.contains("install the file or correct its path"), "{message}");
        }
        let directory = TlsFiles { ca: pki.dir.path().to_owned(), ..files.clone() };
        assert!(refused(&directory).contains("directory"));
    }

    #[test]
    fn empty_and_foreign_contents_are_told_apart() {
        let pki = Pki::new();
        let clock = Clock::at(Duration::from_secs(T as u64), true);
        let refused = || device_client(&pki.files(), &clock).unwrap_err();
        let whole = fs::read_to_string(pki.files().ca).unwrap();

        pki.write("ca.pem", "", 0o644);
        assert!(refused().to_string().contains("it holds no certificate"));
        pki.write("ca.pem", &whole.replace("-----END", "----END"), 0o644);
        assert!(matches!(refused(), TlsError::Unusable { what: CA, .. }));
        pki.write("ca.pem", &whole, 0o644);

        pki.write("device.key", &pki.leaf("8006E5A1F0C2").1, 0o600);
        assert!(matches!(refused(), TlsError::Mismatch { .. }));
        pki.write("device.key", &whole, 0o600);
        assert!(refused().to_string().contains("holds no private key"));
    }

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

    #[test]
    fn faults_are_found_inside_io_errors() {
        let buried = io::Error::other(io::Error::other(Error::AlertReceived(AlertDescription::UnknownCA)));
        assert_eq!(handshake_fault(&buried), Some(TlsFault::DeviceRefused("UnknownCA".into())));
        let old = io::Error::other(Error::AlertReceived(AlertDescription::ProtocolVersion));
        assert_eq!(handshake_fault(&old).unwrap().to_string(), "the server speaks no TLS 1.2 or 1.3");
        assert_eq!(handshake_fault(&io::ErrorKind::UnexpectedEof.into()), Some(TlsFault::Closed));
        assert_eq!(handshake_fault(&io::ErrorKind::ConnectionReset.into()), None);
    }
}
