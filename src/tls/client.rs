//! TLS towards one peer. A broker or API must ask for this device's certificate (`docs/protocol.md#mqtt`,
//! `docs/protocol.md#https`): one that does not would serve any client, and the handshake with it fails.
//!
//! In TLS 1.2 and 1.3 alike, rustls resolves the client certificate for a CertificateRequest before it verifies the server's
//! signature. A server that sent no CertificateRequest is therefore refused at that point, within the handshake. Its
//! certificate is verified first, so that of two faults the certificate's is reported. A resumed session would skip both
//! checks, so sessions are never resumed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use portable_atomic::AtomicU64;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use super::{TlsFault, verifier::LowerBoundVerifier};

/// When the first of a server's certificates expires, once a handshake has verified them. Clones share the value.
#[derive(Debug, Clone, Default)]
pub struct ValidUntil(Arc<AtomicU64>);

impl ValidUntil {
    /// Since 1970; `None` until a certificate is verified.
    pub fn get(&self) -> Option<Duration> {
        let seconds = self.0.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    fn set(&self, end: Duration) {
        self.0.store(end.as_secs(), Ordering::Relaxed);
    }
}

/// TLS towards one peer, shared by all connections to it.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    /// The server's verifier, where the server must ask for the device's certificate.
    mutual: Option<Arc<LowerBoundVerifier>>,
}

impl Client {
    /// A client that shows no certificate, asked or not.
    pub fn anonymous(config: ClientConfig) -> Self {
        Self { config: unresumed(config), mutual: None }
    }

    /// A client that shows the certificate of `config`, and refuses servers that do not ask for it. `verifier` is the verifier
    /// of `config`.
    pub(super) fn mutual(config: ClientConfig, verifier: Arc<LowerBoundVerifier>) -> Self {
        Self { config: unresumed(config), mutual: Some(verifier) }
    }

    /// The same client, offering this application protocol (ALPN, RFC 7301). Some brokers share port 443 by it.
    pub fn offering(self, alpn: Option<&str>) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = alpn.map(|protocol| protocol.as_bytes().to_vec()).into_iter().collect();
        Self { config: Arc::new(config), ..self }
    }

    /// The configuration of one connection. Do not reuse it: it records whether the server asked for a certificate.
    pub fn connection(&self) -> ClientConfig {
        self.connection_noting(&ValidUntil::default())
    }

    /// The same. `valid_until` is set when the handshake has verified a server that must ask for the device's certificate.
    pub fn connection_noting(&self, valid_until: &ValidUntil) -> ClientConfig {
        let mut config = (*self.config).clone();
        if let Some(verifier) = &self.mutual {
            let identity = config.client_auth_cert_resolver.clone();
            let verifier = Arc::new(MutualVerifier {
                verifier: verifier.clone(),
                identity,
                asked: AtomicBool::new(false),
                valid_until: valid_until.clone(),
            });
            config.client_auth_cert_resolver = verifier.clone();
            config.dangerous().set_certificate_verifier(verifier);
        }
        config
    }
}

/// A resumed session would not verify the server's certificate again, which may have expired or been revoked since.
fn unresumed(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Verifies one server with `verifier`, and that it asked for `identity`.
#[derive(Debug)]
struct MutualVerifier {
    verifier: Arc<LowerBoundVerifier>,
    identity: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
    valid_until: ValidUntil,
}

impl MutualVerifier {
    fn require_certificate_request(&self, signature: HandshakeSignatureValid) -> Result<HandshakeSignatureValid, Error> {
        match self.asked.load(Ordering::Relaxed) {
            true => Ok(signature),
            false => Err(OtherError(Arc::new(TlsFault::NoClientAuth)).into()),
        }
    }
}

impl ResolvesClientCert for MutualVerifier {
    fn resolve(&self, root_hint_subjects: &[&[u8]], sigschemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.resolve(root_hint_subjects, sigschemes)
    }

    fn has_certs(&self) -> bool {
        self.identity.has_certs()
    }
}

impl ServerCertVerifier for MutualVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.valid_until.set(self.verifier.valid_until(end_entity, intermediates, server_name));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.require_certificate_request(self.verifier.verify_tls12_signature(message, cert, dss)?)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.require_certificate_request(self.verifier.verify_tls13_signature(message, cert, dss)?)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
