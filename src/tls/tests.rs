//! Tests of TLS clients in whole handshakes in memory, and the fixtures for them. The tests of link and http use the fixtures
//! too.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::{
    ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tempfile::TempDir;

use super::*;
use crate::test_pki::Authority;

pub(crate) const DAY: i64 = 86_400;
/// Trusted time as the agent last saved it.
pub(crate) const T: i64 = 1_767_225_600;

/// How long a device certificate is valid. Brokers check it against the system clock.
pub(super) const DEVICE_DAYS: i64 = 5000;

/// An authority and the files of a device.
pub(crate) struct Pki {
    pub(super) dir: TempDir,
    pub(super) authority: Authority,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let name = dir.path().display().to_string();
        Self::named(&name, dir)
    }

    pub(super) fn named(name: &str, dir: TempDir) -> Self {
        let authority = Authority::root(name, T - 1000 * DAY..T + 5000 * DAY);
        let pki = Self { dir, authority };
        pki.write("ca.pem", &pki.authority.pem(), 0o644);
        let (cert, key) = pki.leaf("8006E5A1F0C2");
        pki.write("device.pem", &cert, 0o644);
        pki.write("device.key", &key, 0o600);
        pki
    }

    pub(super) fn leaf(&self, name: &str) -> (String, String) {
        let leaf = self.authority.leaf(name, T - DAY..T + DEVICE_DAYS * DAY);
        (leaf.pem(), leaf.key_pem())
    }

    pub(super) fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub(crate) fn files(&self) -> TlsFiles {
        let at = |name| self.dir.path().join(name);
        TlsFiles { ca: at("ca.pem"), client_cert: at("device.pem"), client_key: at("device.key"), crl: None }
    }

    /// A server for `localhost` with a certificate that is valid in this span.
    pub(crate) fn server(&self, from: i64, until: i64) -> ServerConfig {
        self.server_speaking(rustls::DEFAULT_VERSIONS, from, until)
    }

    /// The same, with these TLS versions only.
    pub(crate) fn server_speaking(&self, versions: &[&'static SupportedProtocolVersion], from: i64, until: i64) -> ServerConfig {
        self.server_below(&self.authority, vec![], from, until, versions)
    }

    /// The same, for clients of another authority.
    pub(crate) fn server_for_clients_of(&self, other: &Pki, from: i64, until: i64) -> ServerConfig {
        self.server_with(&self.authority, vec![], from, until, rustls::DEFAULT_VERSIONS, &other.authority)
    }

    /// A server that does not ask for a client certificate.
    pub(crate) fn server_without_client_auth(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let leaf = self.authority.leaf("localhost", T - DAY..T + DAY);
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        builder.with_no_client_auth().with_single_cert(vec![leaf.der()], leaf.key_der()).unwrap()
    }

    /// Files for a broker on `localhost` whose certificate is valid for years around now.
    pub(crate) fn broker_files(&self) -> TlsFiles {
        let leaf = self.authority.leaf("localhost", T - 1000 * DAY..T + DEVICE_DAYS * DAY);
        let client_cert = self.write("broker.pem", &leaf.pem(), 0o644);
        TlsFiles { ca: self.files().ca, client_cert, client_key: self.write("broker.key", &leaf.key_pem(), 0o600), crl: None }
    }

    pub(super) fn server_below(
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
        // The server asks for a client certificate and verifies it at T.
        let clock = Arc::new(Clock::at(Duration::from_secs(T as u64), true));
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        ServerConfig::builder_with_details(provider(), clock)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, leaf.key_der())
            .unwrap()
    }

    pub(super) fn connect(&self, server: ServerConfig, name: &'static str, confirmed: bool) -> Result<(), TlsFault> {
        let clock = Clock::at(Duration::from_secs(T as u64), confirmed);
        assert_eq!(clock.now().confirmed, confirmed);
        let client = device_client(&self.files(), &clock).unwrap();
        handshake(client, server, name)
    }
}

/// Performs a whole handshake in memory.
pub(super) fn handshake(client: Client, server: ServerConfig, name: &'static str) -> Result<(), TlsFault> {
    handshake_noting(client, server, name, &ValidUntil::default())
}

pub(super) fn handshake_noting(client: Client, server: ServerConfig, name: &'static str, until: &ValidUntil) -> Result<(), TlsFault> {
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
fn wrong_names_and_unknown_authorities_are_told_apart() {
    let pki = Pki::new();
    let fault = pki.connect(pki.server(T - DAY, T + DAY), "other.example", true).unwrap_err();
    let TlsFault::OtherNames { expected, presented } = &fault else { panic!("{fault}") };
    assert_eq!(expected, "other.example");
    assert!(presented.contains("localhost"));
    let other = Pki::new();
    assert_eq!(pki.connect(other.server(T - DAY, T + DAY), "localhost", true), Err(TlsFault::UnknownAuthority));
    let twin = Pki::named(&pki.dir.path().display().to_string(), TempDir::new().unwrap());
    assert_eq!(pki.connect(twin.server(T - DAY, T + DAY), "localhost", true), Err(TlsFault::OtherAuthority));
    // The server does not send its intermediate.
    let middle = pki.authority.below("middle", T - DAY..T + DAY);
    let server = pki.server_below(&middle, vec![], T - DAY, T + DAY, rustls::DEFAULT_VERSIONS);
    assert_eq!(pki.connect(server, "localhost", true), Err(TlsFault::UnknownAuthority));
}

#[test]
fn a_certificate_of_version_1_is_named_on_both_sides() {
    let pki = Pki::new();
    let leaf = pki.authority.leaf("localhost", T - DAY..T + DAY);
    let mut der = leaf.der().to_vec();
    let version = der.windows(5).position(|bytes| bytes == [0xa0, 3, 2, 1, 2]).unwrap();
    der[version + 4] = 0;
    let words = "it is of X.509 version 1; an extension such as subjectAltName makes it version 3";

    let key = provider().key_provider.load_private_key(leaf.key_der()).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![der.clone().into()], key));
    let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_cert_resolver(Arc::new(shown));
    assert_eq!(pki.connect(server, "localhost", true), Err(TlsFault::BadCertificate(words.to_owned())));

    pki.write("device.pem", &format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(&der)), 0o644);
    let error = device_client(&pki.files(), &Clock::at(Duration::from_secs(T as u64), true)).unwrap_err();
    assert!(error.to_string().contains(&format!("device.pem: {words}; replace")), "{error}");
}

#[test]
fn a_revocation_list_that_rustls_could_not_use_is_named_with_its_line() {
    let pki = Pki::new();
    let certificate = pki.leaf("nobody").0;
    let path = pki.write("revoked.pem", &format!("\n{}", certificate.replace("CERTIFICATE", "X509 CRL")), 0o644);
    let error = check_crl(&path).unwrap_err().to_string();
    assert!(error.contains("line 2: it cannot be used"), "{error}");
}

#[test]
fn a_removed_authority_no_longer_counts_once_the_files_are_read_again() {
    let (old, new) = (Pki::new(), Pki::new());
    let both = format!("{}{}", old.authority.pem(), new.authority.pem());
    let connect = |pki: &Pki| {
        // The client trusts the CA file of `old`; its own certificate is from the server's authority.
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
    // This server requires a client certificate and gets none.
    let fault = handshake(client, pki.server(T - DAY, T + DAY), "localhost").unwrap_err();
    assert!(fault.to_string().contains("server: peer sent no certificates"), "{fault}");
    assert!(store_client(&StoreCa::Webpki, None, &clock).is_ok());
}

#[test]
fn only_store_hosts_may_not_ask_for_a_certificate() {
    let pki = Pki::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert_eq!(pki.connect(pki.server_without_client_auth(&[version]), "localhost", true), Err(TlsFault::NoClientAuth));
        // A fault of its certificate takes precedence.
        let fault = pki.connect(pki.server_without_client_auth(&[version]), "other.example", true).unwrap_err();
        assert!(matches!(fault, TlsFault::OtherNames { .. }), "{fault}");
        let clock = Clock::at(Duration::from_secs(T as u64), true);
        let store = store_client(&StoreCa::File(pki.files().ca), None, &clock).unwrap();
        assert_eq!(handshake(store, pki.server_without_client_auth(&[version]), "localhost"), Ok(()));
    }
}

#[test]
fn a_request_by_one_server_does_not_count_for_the_next() {
    let pki = Pki::new();
    let client = device_client(&pki.files(), &Clock::at(Duration::from_secs(T as u64), true)).unwrap();
    assert_eq!(handshake(client.clone(), pki.server(T - DAY, T + DAY), "localhost"), Ok(()));
    assert_eq!(handshake(client, pki.server_without_client_auth(rustls::DEFAULT_VERSIONS), "localhost"), Err(TlsFault::NoClientAuth));
}

#[test]
fn a_whole_handshake_fits_the_stack_of_a_thread() {
    let work = || {
        let pki = Pki::new();
        let mut chain: Vec<Authority> = Vec::new();
        for n in 0..4 {
            let above = chain.last().unwrap_or(&pki.authority);
            chain.push(above.below(&format!("middle {n}"), T - DAY..T + DAY));
        }
        let above: Vec<_> = chain.iter().rev().map(Authority::der).collect();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let server = pki.server_below(&chain[3], above.clone(), T - DAY, T + DAY, &[version]);
            assert_eq!(pki.connect(server, "localhost", true), Ok(()));
        }
    };
    std::thread::Builder::new().stack_size(crate::threads::ENOUGH).spawn(work).unwrap().join().unwrap();
}
