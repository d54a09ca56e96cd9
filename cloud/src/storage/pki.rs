//! A small certificate authority for mutual TLS: it signs the server's certificate, care-cloud's own client
//! certificate for the broker, and one client certificate per camera, whose CN is the device id.

use std::sync::Arc;

use care_protocol::DeviceId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

use crate::storage::data_dir::{DataDir, DataError, read_if_there, write_private, write_public};

/// The CN of care-cloud's own client certificate, which the broker's ACL names. A separate authority signs it, so that
/// the broker's listener for the cloud accepts no camera's certificate.
pub const CLOUD_NAME: &str = "care-cloud";

/// Why a certificate could not be made or used.
#[derive(Debug, Error)]
pub enum PkiError {
    /// Reading or writing.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Making or reading a certificate.
    #[error("making a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A file that is not PEM.
    #[error("reading {what}: {source}")]
    Pem {
        /// Which.
        what: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// rustls refused the material.
    #[error("setting up TLS: {0}")]
    Tls(String),
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// The authority itself.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub ca: String,
}

impl Authority {
    /// Opens the authority under the data directory, or makes it.
    pub fn open(data: &DataDir) -> Result<Self, PkiError> {
        Self::named(data, "ca", "Care stand-in CA")
    }

    /// The authority that signs only care-cloud's own client certificate.
    fn of_cloud(data: &DataDir) -> Result<Self, PkiError> {
        Self::named(data, "cloud-ca", "Care stand-in CA for the cloud itself")
    }

    fn named(data: &DataDir, file: &str, common_name: &str) -> Result<Self, PkiError> {
        let (ca_path, key_path) = (data.path(&format!("pki/{file}.pem")), data.path(&format!("pki/{file}.key")));
        if read_if_there(&key_path)?.is_none() {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = name(common_name);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            validity(&mut params, 20 * 365);
            write_public(&ca_path, params.self_signed(&key)?.pem().as_bytes())?;
            // The key last: its presence means that the authority is complete.
            write_private(&key_path, key.serialize_pem().as_bytes())?;
        }
        let ca = text(&ca_path)?;
        let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&text(&key_path)?)?)?;
        Ok(Self { issuer, ca })
    }

    /// A client certificate for a camera.
    pub fn camera(&self, device: &DeviceId) -> Result<Identity, PkiError> {
        sign(&self.issuer, device.as_str(), vec![], ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// The certificates that the authority signed for this cloud.
pub struct Pki {
    /// The authority's certificate, PEM.
    pub ca: String,
    /// The server's certificate for API, store and broker.
    pub server: Identity,
    /// care-cloud's own client certificate for the broker, signed by the authority in `pki/cloud-ca.pem`.
    pub cloud: Identity,
}

impl Pki {
    /// Opens the authority and signs care-cloud's own certificates for `localhost`, both loopback addresses and
    /// `names`. Every start signs new ones, so that they do not expire.
    pub fn open(data: &DataDir, names: &[String]) -> Result<Self, PkiError> {
        let Authority { issuer, ca } = Authority::open(data)?;
        let mut server = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        server.extend(names.iter().filter(|name| !["localhost", "127.0.0.1", "::1"].contains(&name.as_str())).cloned());
        let server = sign(&issuer, "care-cloud server", server, ExtendedKeyUsagePurpose::ServerAuth)?;
        let cloud = sign(&Authority::of_cloud(data)?.issuer, CLOUD_NAME, vec![], ExtendedKeyUsagePurpose::ClientAuth)?;
        for (file, identity) in [("server", &server), ("cloud", &cloud)] {
            write_public(&data.path(&format!("pki/{file}.pem")), identity.certificate.as_bytes())?;
            write_private(&data.path(&format!("pki/{file}.key")), identity.key.as_bytes())?;
        }
        Ok(Self { ca, server, cloud })
    }

    /// The server's side of mutual TLS: every client shows a certificate of this authority.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots("the CA", self.ca.as_bytes())?), provider.clone())
            .build()
            .map_err(|e| PkiError::Tls(e.to_string()))?;
        let (chain, key) = parse("the server's certificate", &self.server)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| PkiError::Tls(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|e| PkiError::Tls(e.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// A client's side of mutual TLS.
pub fn client_config(ca: &[u8], identity: Option<&Identity>) -> Result<Arc<ClientConfig>, PkiError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| PkiError::Tls(e.to_string()))?
        .with_root_certificates(roots("the CA", ca)?);
    let config = match identity {
        Some(identity) => {
            let (chain, key) = parse("the client certificate", identity)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| PkiError::Tls(e.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Client-side TLS without a client certificate. Authorities in the bundle that rustls cannot read are skipped.
pub fn trusting(authorities: &[u8]) -> Result<Arc<ClientConfig>, PkiError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities).filter_map(Result::ok));
    if added == 0 {
        return Err(PkiError::Tls("the file holds no authority's certificate".into()));
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| PkiError::Tls(e.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(what: &str, pem: &[u8]) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|source| PkiError::Pem { what: what.to_owned(), source })?;
        roots.add(certificate).map_err(|e| PkiError::Tls(format!("{what}: {e}")))?;
    }
    Ok(roots)
}

fn parse(what: &str, identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
    let pem = |source| PkiError::Pem { what: what.to_owned(), source };
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>().map_err(pem)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(pem)?;
    Ok((chain, key))
}

fn sign(
    issuer: &Issuer<'static, KeyPair>,
    common_name: &str,
    alternative_names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<Identity, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(alternative_names)?;
    params.distinguished_name = name(common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, 2 * 365);
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Identity { certificate, key: key.serialize_pem() })
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn validity(params: &mut CertificateParams, days: i64) {
    // One day earlier, because a camera's clock may be behind.
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(days);
}

fn text(path: &std::path::Path) -> Result<String, PkiError> {
    let content = read_if_there(path)?.ok_or_else(|| DataError::Damaged { path: path.to_owned(), why: "it is missing".into() })?;
    Ok(String::from_utf8(content).map_err(|e| DataError::Damaged { path: path.to_owned(), why: e.to_string() })?)
}
