//! TLS on trusted time: one rustls configuration per peer, for the link, the cloud API and uploads.
//!
//! Only ring, TLS 1.2 and 1.3; no system roots and no session resumption, so every connection verifies the server's
//! certificate again. Certificate files are read and checked here too, so that a fault in them is reported before anything
//! connects.

mod authorities;
mod client;
mod error;
mod faults;
mod files;
mod inspect;
mod pem;
#[cfg(test)]
pub(crate) mod tests;
mod verifier;
mod watch;

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder, Error, RootCertStore,
    client::{VerifierBuilderError, WantsClientCert, WebPkiServerVerifier},
    crypto::CryptoProvider,
};

pub use authorities::{Skipped, skipped};
pub use client::{Client, ValidUntil};
pub use error::TlsError;
pub use faults::{TlsFault, handshake_fault};
pub use files::{StoreCa, TlsFiles, password};
pub use inspect::{
    Validity, authorities_end, authority_validity, check_ca, check_certificate, check_crl, check_device, check_files, check_key,
    common_name, device_validity, expires,
};
pub use watch::FileWatch;

use crate::clock::Clock;
use files::{CERT, CERT_EXPECTED, certificates, crls, private_key, roots, unusable_crl};
use verifier::LowerBoundVerifier;

/// TLS towards the broker and the cloud API: the server must chain to `files.ca` and must ask for the device's certificate.
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

/// TLS towards store hosts other than the cloud's own. It never shows a client certificate.
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities to trust, and what they have revoked.
struct Authorities<'f> {
    roots: RootCertStore,
    crl: Option<&'f Path>,
    /// The file that the roots come from.
    path: &'f Path,
}

/// Builds a configuration with these authorities. An authority without a revocation list is still trusted, and an expired list
/// still counts: a camera that cannot fetch a new list must not lose its cloud.
fn builder(
    Authorities { roots, crl, path }: Authorities<'_>,
    clock: &Clock,
) -> Result<(ConfigBuilder<ClientConfig, WantsClientCert>, Arc<LowerBoundVerifier>), TlsError> {
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
