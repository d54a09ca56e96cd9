//! Scenario 63: servers that must not be trusted, in one table, as broker, API and clip store. None receives a byte
//! of MQTT or HTTP, and the log names the stage and the reason. The control, a good server, connects.
//!
//! A server that asks for no client certificate is bad as broker and API only: the store never asks
//! (docs/protocol.md#grants). Expired certificates ended long ago, because trusted time is a lower bound
//! (docs/protocol.md#trusted-time): on a camera whose clock is not confirmed it may be as early as the program's
//! build.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use care_tests::{
    agent::Agent,
    broker::reserve_port,
    cloud::{Cloud, GrantAnswer, grant},
    impostor::Impostor,
    pki::{Authority, Identity, Pki, authority_params, plain_tls, server_params, validity},
    process::{Lines, Process},
    proxy::{Fault, Proxy},
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    NameConstraints, SerialNumber,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// How a server of the table is run.
enum Server {
    /// With rustls.
    Rustls(ServerConfig),
    /// With OpenSSL and these arguments, for what rustls does not do.
    OpenSsl(Identity, &'static [&'static str]),
    /// Answers the ClientHello with these bytes and closes.
    Raw(&'static [u8]),
    /// Sends half of a good server's answer, then closes.
    Truncated(ServerConfig),
}

/// One row of the table: the fault, and a word that the reason must contain.
struct BadServer {
    name: &'static str,
    server: Server,
    words: &'static [&'static str],
}

/// Serial numbers that the authority has revoked.
const REVOKED: [u64; 2] = [4711, 4712];

fn bad_servers(pki: &Pki, dir: &Path) -> Vec<BadServer> {
    let rustls = |name, identity: Identity, words| BadServer { name, server: Server::Rustls(unverified(&identity, &identity)), words };
    let good = || server_params(&["127.0.0.1"]);
    let changed = |change: fn(&mut CertificateParams)| {
        let mut params = good();
        change(&mut params);
        pki.ca.sign(params)
    };
    let below = |change: fn(&mut CertificateParams)| {
        let mut params = authority_params("Care test intermediate");
        change(&mut params);
        pki.ca.below(params)
    };
    let first = |mut identity: Identity| {
        let end = "-----END CERTIFICATE-----\n";
        identity.chain.truncate(identity.chain.find(end).unwrap() + end.len());
        identity
    };
    let openssl = |name, identity, arguments, words| BadServer { name, server: Server::OpenSsl(identity, arguments), words };
    let issued = |name: &str, key: &[&str], digest: &str| openssl_identity(&pki.ca, dir, name, key, digest);
    let rsa = issued("rsa", &["rsa:2048"], "-sha256");
    let legacy: &[&str] = &["-cipher", "ALL:@SECLEVEL=0"];
    vec![
        rustls("expired", changed(|params| validity(params, -3000, -1000)), &["expired"]),
        rustls("intermediate expired", below(|params| validity(params, -3000, -1000)).server(), &["expired"]),
        rustls("wrong name", pki.ca.sign(server_params(&["care.example"])), &["other names"]),
        rustls(
            "common name only",
            changed(|params| {
                params.subject_alt_names.clear();
                params.distinguished_name.push(DnType::CommonName, "127.0.0.1");
            }),
            &["other names", "name"],
        ),
        rustls("unknown root", Authority::root("Somebody").server(), &["unknown authority"]),
        rustls("root of the same name", Authority::root("Care test CA").server(), &["not signed by the authority"]),
        rustls("self-signed", self_signed(good()), &["authority", "unknown", "issuer"]),
        rustls("incomplete chain", first(below(|_| ()).server()), &["unknown authority"]),
        rustls(
            "for clients only",
            changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            &["purpose", "usage"],
        ),
        rustls("intermediate that is no authority", below(|params| params.is_ca = IsCa::ExplicitNoCa).server(), &["ca", "authority"]),
        rustls(
            "path too long",
            below(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))).intermediate("Care test lower").server(),
            &["path", "authority"],
        ),
        rustls(
            "outside its authority's names",
            below(|params| {
                let ten = GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0]));
                params.name_constraints = Some(NameConstraints { permitted_subtrees: vec![ten], excluded_subtrees: vec![] });
            })
            .server(),
            &["constraint"],
        ),
        rustls(
            "unknown critical extension",
            changed(|params| {
                let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                extension.set_criticality(true);
                params.custom_extensions.push(extension);
            }),
            &["critical"],
        ),
        rustls("revoked", changed(|params| params.serial_number = Some(SerialNumber::from(REVOKED[0]))), &["revoked"]),
        rustls("intermediate revoked", below(|params| params.serial_number = Some(SerialNumber::from(REVOKED[1]))).server(), &["revoked"]),
        rustls(
            "huge certificate",
            changed(|params| {
                let octets = [&[4, 0x83, 2, 0, 0][..], &vec![0; 0x2_0000]].concat();
                params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], octets));
            }),
            &["too large"],
        ),
        BadServer {
            name: "another's certificate",
            server: Server::Rustls(unverified(&pki.ca.server(), &Authority::root("Thief").server())),
            words: &["not signed"],
        },
        rustls("signed with SHA-1", issued("sha1", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "-sha1"), &["algorithm", "signature"]),
        openssl("RSA of 1024 bits", issued("weak", &["rsa:1024"], "-sha256"), legacy, &["signature", "signed", "algorithm"]),
        openssl(
            "a curve of its own",
            issued("curve", &["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"], "-sha256"),
            legacy,
            &["handshakefailure", "signature", "algorithm"],
        ),
        openssl("no forward secrecy", rsa.clone(), &["-tls1_2", "-cipher", "AES128-SHA256"], &["handshakefailure"]),
        openssl("TLS 1.0", rsa.clone(), &["-tls1", "-cipher", "ALL:@SECLEVEL=0"], &["tls 1.2"]),
        openssl("TLS 1.1", rsa, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], &["tls 1.2"]),
        BadServer { name: "not TLS", server: Server::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), words: &["does not speak tls"] },
        BadServer { name: "an MQTT broker without TLS", server: Server::Raw(b"\x20\x02\x00\x00"), words: &["does not speak tls"] },
        BadServer { name: "closed at once", server: Server::Raw(b""), words: &["closed"] },
        BadServer { name: "truncated", server: Server::Truncated(plain_tls(&pki.ca.server())), words: &["closed"] },
    ]
}

/// Faults of stores only: they do not ask for a client certificate.
fn servers_without_client_auth(pki: &Pki) -> [BadServer; 2] {
    let words = &["no client certificate"];
    let over_tls_1_2 = Server::OpenSsl(pki.ca.server(), &["-tls1_2"]);
    [
        BadServer { name: "no client certificate asked", server: Server::Rustls(plain_tls(&pki.ca.server())), words },
        BadServer { name: "no client certificate asked in TLS 1.2", server: over_tls_1_2, words },
    ]
}

fn self_signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity { chain: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// Certificates that rcgen cannot make: this key type, signed with this digest.
fn openssl_identity(ca: &Authority, dir: &Path, name: &str, key: &[&str], digest: &str) -> Identity {
    let at = |end: &str| dir.join(format!("{name}{end}"));
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let write = |end: &str, text: &str| std::fs::write(at(end), text).unwrap();
    write("-ca.pem", &ca.pem());
    write("-ca.key", &ca.key_pem());
    write(".ext", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n");
    let named = |end: &str| format!("{name}{end}");
    let (request, private, chain) = (named(".csr"), named(".key"), named(".pem"));
    run(&[&["req", "-new", "-nodes", "-subj", "/CN=127.0.0.1", "-out", &request, "-keyout", &private, "-newkey"], key].concat());
    run(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-out",
        &chain,
        "-days",
        "365",
        digest,
        "-CA",
        &named("-ca.pem"),
        "-CAkey",
        &named("-ca.key"),
        "-CAcreateserial",
        "-extfile",
        &named(".ext"),
    ]);
    let read = |end: &str| std::fs::read_to_string(at(end)).unwrap();
    Identity { chain: read(".pem"), key: read(".key") }
}

/// Serves any certificate with any key, without checking either.
fn unverified(identity: &Identity, key: &Identity) -> ServerConfig {
    #[derive(Debug)]
    struct Shown(Arc<CertifiedKey>);
    impl ResolvesServerCert for Shown {
        fn resolve(&self, _: ClientHello) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }
    }
    let key = ring::sign::any_supported_type(&key.private_key()).unwrap();
    let shown = Shown(Arc::new(CertifiedKey::new(identity.certificates(), key)));
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_cert_resolver(Arc::new(shown))
}

/// A running server of the table.
enum Running {
    Impostor { impostor: Impostor, _proxy: Option<Proxy> },
    OpenSsl { log: Lines, _server: Process },
    Raw(tokio::task::JoinHandle<()>, Arc<Mutex<Vec<u8>>>),
}

impl Running {
    async fn start(server: Server, dir: &Path, name: &str) -> (Self, SocketAddr) {
        match server {
            Server::Rustls(tls) => {
                let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), tls).await;
                let addr = impostor.addr;
                (Self::Impostor { impostor, _proxy: None }, addr)
            }
            Server::Truncated(tls) => {
                let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), tls).await;
                let proxy = Proxy::to(impostor.addr).await;
                proxy.control.inject(Fault::Truncation);
                let addr = proxy.addr;
                (Self::Impostor { impostor, _proxy: Some(proxy) }, addr)
            }
            Server::OpenSsl(identity, arguments) => {
                let (_port, addr) = reserve_port();
                let (chain, key) = identity.write(dir, &format!("s-{}", name.replace(' ', "-")));
                let log = Lines::default();
                let mut command = tokio::process::Command::new("openssl");
                command.args(["s_server", "-accept", &addr.to_string(), "-cert"]).arg(&chain).arg("-key").arg(&key).args(arguments);
                let server = Process::spawn("openssl s_server", command, log.clone());
                until("openssl to listen", PATIENCE, || log.find(0, |line| line.contains("ACCEPT"))).await;
                (Self::OpenSsl { log, _server: server }, addr)
            }
            Server::Raw(answer) => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let addr = listener.local_addr().unwrap();
                let told = Arc::new(Mutex::new(Vec::new()));
                let record = told.clone();
                let task = tokio::spawn(async move {
                    while let Ok((mut socket, _)) = listener.accept().await {
                        let mut hello = [0; 5];
                        if socket.read_exact(&mut hello).await.is_err() {
                            continue;
                        }
                        let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
                        let _ = socket.read_exact(&mut rest).await;
                        let _ = socket.write_all(answer).await;
                        let _ = socket.shutdown().await;
                        let mut after = Vec::new();
                        let _ = socket.read_to_end(&mut after).await;
                        // Anything that is not a TLS record; alerts have type 21.
                        if after.first().is_some_and(|byte| *byte != 21) {
                            record.lock().unwrap().extend(after);
                        }
                    }
                });
                (Self::Raw(task, told), addr)
            }
        }
    }

    /// The plaintext that it received, if any.
    fn told(&self) -> Option<String> {
        match self {
            Self::Impostor { impostor, .. } => {
                let seen = impostor.seen();
                (!seen.told.is_empty() || seen.handshakes > 0).then(|| format!("{seen:?}"))
            }
            Self::OpenSsl { log, .. } => log.find(0, |line| line.contains("MQTT") || line.contains("GET /") || line.contains("PUT /")),
            Self::Raw(_, told) => Some(told.lock().unwrap().clone()).filter(|told| !told.is_empty()).map(|told| format!("{told:?}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Raw(task, _) = self {
            task.abort();
        }
    }
}

fn has(line: &str, words: &[&str]) -> bool {
    let line = line.to_lowercase();
    words.iter().any(|word| line.contains(word))
}

/// Writes the authority's revocation list.
fn revocations(pki: &Pki, dir: &Path) -> std::path::PathBuf {
    let path = dir.join("revoked.crl");
    std::fs::write(&path, pki.ca.crl(&REVOKED)).unwrap();
    path
}

#[tokio::test]
async fn s63_no_bad_server_receives_a_byte_as_broker_or_as_api() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let mut table = bad_servers(&pki, dir.path());
    table.extend(servers_without_client_auth(&pki));
    assert!(table.len() >= 24, "{} bad servers", table.len());
    let crl = revocations(&pki, dir.path());
    for BadServer { name, server, words } in table {
        let (running, addr) = Running::start(server, dir.path(), name).await;
        let mut agent = Agent::new(&pki, DEVICE, addr, &format!("https://{addr}"));
        agent.config.crl = Some(crl.clone());
        agent.start();
        let broker = |line: &str| line.contains("broker_unreachable") && line.contains("TLS: ") && has(line, words);
        let api = |line: &str| line.contains("api_unreachable") && line.contains("TLS: ") && has(line, words);
        agent.logged(0, &format!("the broker with {name}"), broker).await;
        agent.logged(0, &format!("the API with {name}"), api).await;
        assert_eq!(running.told(), None, "{name}");
        agent.assert_running();
    }
}

/// The control: with the same certificate without a fault, and a revocation list that does not name it, the server
/// receives CONNECT.
#[tokio::test]
async fn s63_a_good_server_with_a_revocation_list_in_use_receives_connect_and_get() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let server = pki.ca.below(authority_params("Care test intermediate")).server();
    let (broker, api) = (
        Impostor::listen(([127, 0, 0, 1], 0).into(), pki.mutual_tls(&server)).await,
        Impostor::listen(([127, 0, 0, 1], 0).into(), pki.mutual_tls(&server)).await,
    );
    let mut agent = Agent::new(&pki, DEVICE, broker.addr, &format!("https://{}", api.addr));
    agent.config.crl = Some(revocations(&pki, dir.path()));
    agent.start();
    until("CONNECT", PATIENCE, || broker.seen().told.first().map(|byte| assert_eq!(*byte, 0x10))).await;
    until("GET", PATIENCE, || api.seen().told.starts_with(b"GET /v1/").then_some(())).await;
}

/// A certificate as large as any real one is accepted: a chain of 30 KiB.
#[tokio::test]
async fn s63_a_large_certificate_is_accepted() {
    let pki = Pki::new();
    let mut params = server_params(&["127.0.0.1"]);
    let octets = [&[4, 0x82, 0x78, 0][..], &vec![0; 0x7800]].concat();
    params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], octets));
    let broker = Impostor::listen(([127, 0, 0, 1], 0).into(), pki.mutual_tls(&pki.ca.sign(params))).await;
    let mut agent = Agent::new(&pki, DEVICE, broker.addr, &format!("https://{}", broker.addr));
    agent.start();
    until("CONNECT", PATIENCE, || broker.seen().told.first().map(drop)).await;
}

/// Runs the whole table as clip stores with `check-config --connect`, which takes the path of an upload up to HTTP.
#[tokio::test]
async fn s63_no_bad_server_receives_a_byte_as_clip_store() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let mut servers = Vec::new();
    for BadServer { name, server, words } in bad_servers(&pki, dir.path()) {
        let (running, addr) = Running::start(server, dir.path(), name).await;
        servers.push((addr, name, words, Some(running)));
    }
    let good = Impostor::listen(([127, 0, 0, 1], 0).into(), plain_tls(&pki.ca.server())).await;
    servers.push((good.addr, "no fault", &["is good"], None));
    let (_port, nobody) = reserve_port();
    let mut agent = Agent::new(&pki, DEVICE, nobody, &format!("https://{nobody}"));
    agent.config.crl = Some(revocations(&pki, dir.path()));
    agent.config.store = Some((servers.iter().map(|(addr, ..)| addr.to_string()).collect(), agent.config.ca.clone()));
    agent.write_config();
    let output = agent.command(&["check-config", "--connect"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = said.lines().collect();
    for (addr, name, words, running) in &servers {
        let answers = lines.iter().position(|line| line.contains(&format!("store TCP: {addr} ")));
        let verdict = answers.and_then(|at| lines.get(at + 1)).unwrap_or_else(|| panic!("nothing about {name} at {addr} in:\n{said}"));
        assert!(verdict.contains("store TLS") && has(verdict, words), "{name}: {verdict}");
        assert_eq!(running.as_ref().and_then(Running::told), None, "{name}");
    }
    assert_eq!(output.status.code(), Some(70));
}

/// The same with real uploads for three of them, including the one that only a confirmed clock can refuse.
#[tokio::test]
async fn s63_a_clip_waits_while_its_store_is_untrusted() {
    let mut world = World::with_camera().await;
    let mut future = server_params(&["127.0.0.1"]);
    validity(&mut future, 2, 30);
    let listen = |identity: Identity| Impostor::listen(([127, 0, 0, 1], 0).into(), plain_tls(&identity));
    let cases = [
        (listen(world.pki.ca.sign(server_params(&["care.example"]))).await, "other names"),
        (listen(world.pki.ca.sign(future)).await, "not valid before"),
        (listen(Authority::root("Somebody").server()).await, "unknown authority"),
    ];
    let store = Cloud::start_with(Some(plain_tls(&world.pki.ca.server()))).await;
    let hosts = cases.iter().map(|(store, _)| store.addr).chain([store.addr]).map(|addr| addr.to_string()).collect();
    world.agent.config.store = Some((hosts, world.agent.config.ca.clone()));
    {
        let mut cloud = world.cloud.lock();
        let at = |addr: SocketAddr| GrantAnswer::Body(grant(&format!("https://{addr}/clips/x/0")));
        cloud.next_grants.extend(cases.iter().map(|(store, _)| at(store.addr)));
        cloud.grants = at(store.addr);
    }
    // Each failed clip is counted, in addition to the condition.
    world.agent.environment.push(("CARE_LOG".into(), "info,kasa_care_agent::upload=debug".into()));
    world.start_premium().await;
    until("the clock to be confirmed", PATIENCE, || (world.cloud.entitlement_gets() > 0).then_some(())).await;
    world.move_until("a grant request", |cloud| (!cloud.asked.is_empty()).then_some(())).await;
    for (_, words) in &cases {
        world.agent.logged(0, words, |line| line.contains("clip not sent") && line.contains("TLS: ") && line.contains(words)).await;
    }
    let stored = store.stored(1).await;
    assert!(!stored.body.is_empty());
    for (impostor, words) in &cases {
        let seen = impostor.seen();
        assert!(seen.told.is_empty() && seen.handshakes == 0, "{words}: {seen:?}");
    }
}

/// As the API, once its clock is confirmed.
#[tokio::test]
async fn s63_an_api_not_yet_valid_is_refused_once_the_clock_is_confirmed() {
    let mut world = World::new().await;
    let proxy = Proxy::to(world.cloud.addr).await;
    world.agent.config.cloud = format!("https://{}", proxy.addr);
    world.start_premium().await;
    world.cloud.wait("a GET, whose Date confirms the clock", |seen| (!seen.calls.is_empty()).then_some(())).await;
    let mut future = server_params(&["127.0.0.1"]);
    validity(&mut future, 2, 30);
    let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), plain_tls(&world.pki.ca.sign(future))).await;
    proxy.redirect_to(impostor.addr);
    let seen = world.agent.log().len();
    // A lost connection triggers a poll at once.
    world.proxy.cut().await;
    world.agent.logged(seen, "an API of the future", |line| line.contains("api_unreachable") && line.contains("not valid before")).await;
    let seen = impostor.seen();
    assert!(seen.told.is_empty() && seen.handshakes == 0, "{seen:?}");
}
