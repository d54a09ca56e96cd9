//! The certificates and keys of one test: a CA for servers and devices, a root key, signing keys and keysets.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use care_protocol::{Key, Keyset, Reset, Signer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use time::OffsetDateTime;

/// The issuer of all documents.
pub const ISSUER: &str = "care";
/// Id of the root key.
pub const ROOT_KID: &str = "root-2026";
/// Id of the first signing key.
pub const KID: &str = "2026-11";

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The chain, leaf first.
    pub chain: String,
    /// The private key.
    pub key: String,
}

impl Identity {
    /// The chain in rustls's types.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    /// The key in rustls's types.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// Writes `name.pem` and `name.key` (0600) into `dir`.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (chain, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&chain, &self.chain).unwrap();
        let _ = std::fs::remove_file(&key);
        std::fs::write(&key, &self.key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        (chain, key)
    }
}

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    above: Vec<String>,
}

impl Authority {
    /// A self-signed authority.
    pub fn root(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap();
        Self { issuer, above: Vec::new() }
    }

    /// An intermediate authority; leaves that it signs carry it in their chain.
    pub fn intermediate(&self, name: &str) -> Self {
        self.below(authority_params(name))
    }

    /// A certificate from any parameters, signed by this authority and able to sign, whether or not it is marked as
    /// a CA.
    pub fn below(&self, params: CertificateParams) -> Self {
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer).unwrap();
        let mut above = vec![issuer.pem()];
        above.extend(self.above.iter().cloned());
        Self { issuer, above }
    }

    /// The revocation list, PEM.
    pub fn crl(&self, revoked: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - time::Duration::days(1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - time::Duration::days(1),
            next_update: now + time::Duration::days(30),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The private key, PEM, for tools that create certificates rcgen cannot.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server identity for loopback and for the address that emulated guests use.
    pub fn server(&self) -> Identity {
        self.sign(server_params(&["localhost", "127.0.0.1", crate::guest::HOST, crate::resolver::NAME]))
    }

    /// An identity from any parameters.
    pub fn sign(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        assert!(!key.der_bytes().is_empty());
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain: leaf.pem() + &self.above.concat(), key: key.serialize_pem() }
    }

    /// A client identity with this CN, valid for a year.
    pub fn client(&self, cn: &str) -> Identity {
        self.client_for(cn, 365)
    }

    /// A client identity with this CN, valid for so many days from now.
    pub fn client_for(&self, cn: &str, days: i64) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        validity(&mut params, -1, days);
        self.sign(params)
    }

    /// A root store with only this authority.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// Parameters of a server certificate for these names, valid for a year from yesterday.
pub fn server_params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    validity(&mut params, -1, 365);
    params
}

/// Sets the validity in days relative to now.
pub fn validity(params: &mut CertificateParams, from_days: i64, to_days: i64) {
    params.not_before = OffsetDateTime::now_utc() + time::Duration::days(from_days);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(to_days);
}

/// Parameters of an authority with this name, valid for years.
pub fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, -30, 3650);
    params
}

/// All keys and authorities of one test.
pub struct Pki {
    /// Signs the servers and the devices.
    pub ca: Authority,
    /// Signs only the cloud's client certificate.
    pub cloud_ca: Authority,
    /// Signs keysets.
    pub root: Signer,
    /// Signs entitlements, under [`KID`].
    pub key: Signer,
}

impl Pki {
    /// Generates fresh keys.
    pub fn new() -> Self {
        let (ca, cloud_ca) = (Authority::root("Care test CA"), Authority::root("Care test CA for the cloud"));
        Self { ca, cloud_ca, root: signer(ROOT_KID), key: signer(KID) }
    }

    /// A keyset of this version with the first signing key only.
    pub fn keyset(&self, version: u64) -> KeysetDraft {
        KeysetDraft(Keyset {
            iss: ISSUER.into(),
            version,
            iat: crate::unix_now(),
            keys: BTreeMap::new(),
            revoked: Vec::new(),
            resets: Vec::new(),
        })
        .with(&self.key)
    }

    /// TLS for servers that require a client certificate.
    pub fn mutual_tls(&self, server: &Identity) -> ServerConfig {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.ca.roots()), Arc::new(ring::default_provider())).build().unwrap();
        server_builder().with_client_cert_verifier(verifier).with_single_cert(server.certificates(), server.private_key()).unwrap()
    }

    /// TLS for servers that accept a client certificate but do not require one.
    pub fn optional_client_tls(&self, server: &Identity) -> ServerConfig {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.ca.roots()), Arc::new(ring::default_provider()))
            .allow_unauthenticated()
            .build()
            .unwrap();
        server_builder().with_client_cert_verifier(verifier).with_single_cert(server.certificates(), server.private_key()).unwrap()
    }

    /// TLS of a client with this identity.
    pub fn client_tls(&self, identity: &Identity) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.ca.roots())
            .with_client_auth_cert(identity.certificates(), identity.private_key())
            .unwrap()
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

/// TLS for servers that do not ask for a client certificate.
pub fn plain_tls(server: &Identity) -> ServerConfig {
    server_builder().with_no_client_auth().with_single_cert(server.certificates(), server.private_key()).unwrap()
}

fn server_builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap()
}

/// A fresh signing key with this id.
pub fn signer(kid: &str) -> Signer {
    Signer::from_pkcs8(kid, &Signer::generate()).unwrap()
}

/// An unsigned keyset.
#[derive(Debug, Clone)]
pub struct KeysetDraft(pub Keyset);

impl KeysetDraft {
    /// Adds a key, valid for documents from 2020 on.
    pub fn with(mut self, key: &Signer) -> Self {
        self.0.keys.insert(key.kid().to_owned(), Key { public: key.public_key(), not_before: 1_577_836_800 });
        self
    }

    /// Revokes a key.
    pub fn revoking(mut self, kid: &str) -> Self {
        self.0.revoked.push(kid.to_owned());
        self
    }

    /// Adds a reset that lowers a device's ratchet.
    pub fn resetting(mut self, id: u64, device: &str, epoch: u64, seq: u64) -> Self {
        self.0.resets.push(Reset { id, aud: device.to_owned(), epoch, seq, time: None });
        self
    }

    /// Signs it with the root key.
    pub fn sign(&self, root: &Signer) -> String {
        self.0.sign(root)
    }
}
