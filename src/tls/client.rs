//! TLS towards one peer, and the demand that a broker or API asks who this device is (sections 3.4 and 3.6): a server that
//! asks nobody serves whoever comes, and is told nothing.
//!
//! In TLS 1.2 and 1.3 alike rustls has resolved the client certificate for a CertificateRequest before it verifies the
//! server's signature, so that a server that sent none is refused there, within the handshake. It is judged after its
//! certificate: of two faults the certificate's is the one to name. A resumed session would skip both; none is resumed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

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

/// The earliest end of a server's certificates, once its handshake has verified them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct ValidUntil(Arc<AtomicU64>);

impl ValidUntil {
    /// Since 1970; `None` while no certificate was verified.
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
    /// What judges the server, where it must also ask for the device's certificate.
    mutual: Option<Arc<LowerBoundVerifier>>,
}

impl Client {
    /// Shows no certificate, whether asked for one or not.
    pub fn anonymous(config: ClientConfig) -> Self {
        Self { config: unresumed(config), mutual: None }
    }

    /// Shows the certificate of `config`, whose verifier is `verifier`, to servers that ask for it, and refuses all others.
    pub(super) fn mutual(config: ClientConfig, verifier: Arc<LowerBoundVerifier>) -> Self {
        Self { config: unresumed(config), mutual: Some(verifier) }
    }

    /// The same, offering this application protocol (ALPN, RFC 7301): some brokers share port 443 with others by it.
    pub fn offering(self, alpn: Option<&str>) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = alpn.map(|protocol| protocol.as_bytes().to_vec()).into_iter().collect();
        Self { config: Arc::new(config), ..self }
    }

    /// The configuration of one connection, and of no other: it remembers what the server has asked.
    pub fn connection(&self) -> ClientConfig {
        self.connection_noting(&ValidUntil::default())
    }

    /// The same; `valid_until` learns how long the server's certificates last, if it is a server that must know this device.
    pub fn connection_noting(&self, valid_until: &ValidUntil) -> ClientConfig {
        let mut config = (*self.config).clone();
        if let Some(verifier) = &self.mutual {
            let identity = config.client_auth_cert_resolver.clone();
            let asks =
                Arc::new(MustAsk { verifier: verifier.clone(), identity, asked: AtomicBool::new(false), valid_until: valid_until.clone() });
            config.client_auth_cert_resolver = asks.clone();
            config.dangerous().set_certificate_verifier(asks);
        }
        config
    }
}

/// A resumed session would not look at the server's certificate again, which may have expired or lost its authority since.
fn unresumed(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Verifies one server as `verifier` does, and that it has asked for `identity`.
#[derive(Debug)]
struct MustAsk {
    verifier: Arc<LowerBoundVerifier>,
    identity: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
    valid_until: ValidUntil,
}

impl MustAsk {
    fn unless_it_asked_nobody(&self, signature: HandshakeSignatureValid) -> Result<HandshakeSignatureValid, Error> {
        match self.asked.load(Ordering::Relaxed) {
            true => Ok(signature),
            false => Err(OtherError(Arc::new(TlsFault::AsksNobody)).into()),
        }
    }
}

impl ResolvesClientCert for MustAsk {
    fn resolve(&self, root_hint_subjects: &[&[u8]], sigschemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.resolve(root_hint_subjects, sigschemes)
    }

    fn has_certs(&self) -> bool {
        self.identity.has_certs()
    }
}

impl ServerCertVerifier for MustAsk {
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
        self.unless_it_asked_nobody(self.verifier.verify_tls12_signature(message, cert, dss)?)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.unless_it_asked_nobody(self.verifier.verify_tls13_signature(message, cert, dss)?)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
