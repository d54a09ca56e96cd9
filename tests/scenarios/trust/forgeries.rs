//! Scenarios 58 to 66: forged and malformed documents, untrusted files and servers.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_protocol::{Mode, Outcome};
use care_tests::{
    agent::Agent,
    broker::reserve_port,
    cloud::{Cloud, Document as Body},
    impostor::Impostor,
    issuer::{Document, digest_of},
    pki::{Authority, Pki, plain_tls, server_params, signer, validity},
    process::{Lines, Process},
    status::Status,
    wait::{PATIENCE, holds, until},
    world::{DEVICE, World},
};
use hyper::Method;
use serde_json::json;

#[tokio::test]
async fn s58_forged_documents_are_rejected_and_the_reports_rate_limited() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let (free, plus) = (world.free(), world.plus());
    let payload = serde_json::to_vec(&free.0).unwrap();
    let genuine = world.sign(&plus).token;
    let (genuine_signature, header) = (genuine.rsplit_once('.').unwrap().1, genuine.split_once('.').unwrap().0);
    let body = URL_SAFE_NO_PAD.encode(&payload);
    let unsigned = |alg: &str| {
        let header = json!({ "alg": alg, "kid": care_tests::pki::KID, "typ": "care-entitlement+jws" });
        format!("{}.{body}.", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    let header_of = |alg: &str| json!({ "alg": alg, "kid": care_tests::pki::KID, "typ": "care-entitlement+jws" });
    let forged = [
        ("bad_signature", free.signed(&signer(care_tests::pki::KID)).token),
        ("bad_header", unsigned("none")),
        ("bad_header", world.pki.key.sign_with_header(&header_of("HS256"), &payload)),
        ("bad_signature", format!("{header}.{body}.{genuine_signature}")),
        ("bad_header", world.pki.key.sign("care-keyset+jws", &payload)),
    ];
    for (reason, token) in &forged {
        let mark = world.issuer.mark();
        world.issuer.publish_entitlement(token).await;
        let report = world.issuer.report_since(mark, reason, |report| report.outcome == Outcome::Rejected).await;
        assert_eq!(report.reason, *reason);
        assert!(premium.in_force(&report) && report.mode == Mode::Paid && report.persisted);
    }
    let sent = world.broker.sent_to(DEVICE);
    for _ in 0..40 {
        world.issuer.publish_entitlement(&forged[0].1).await;
    }
    until("the flood sent", PATIENCE, || (world.broker.sent_to(DEVICE) >= sent + 40).then_some(())).await;
    world.everything_acknowledged().await;
    // A genuine document right after the flood is judged and reported at once.
    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    world.issuer.judged(&cancel, Outcome::Applied).await;
    let rejected = world.issuer.reports(0).iter().filter(|report| report.outcome == Outcome::Rejected).count();
    assert!((5..=6).contains(&rejected), "{rejected} reports of rejections: a burst of 5, then one a minute");
}

#[tokio::test]
async fn s59_a_document_with_an_unknown_key_waits_for_the_fetched_keyset_then_is_judged() {
    let mut world = World::new().await;
    // If the keyset came before the first document, none has been fetched yet; the limit is one fetch a minute.
    world.agent.start();
    world.agent.status("the keyset", |status| status.keyset() == 7).await;
    assert_eq!(world.cloud.count(hyper::Method::GET, "/keyset"), 0);
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    let next_key = signer("2027-01");
    // Only over HTTPS: the retained keyset stays the old one.
    let keyset = world.pki.keyset(8).with(&next_key).sign(&world.pki.root);
    world.cloud.lock().keyset = Body::Token(keyset);
    let cancel = world.free();
    let cancel = cancel.signed(&next_key);
    world.hand_out(&cancel).await;
    let report = world.issuer.judged(&cancel, Outcome::Applied).await;
    assert_eq!((report.keyset, report.mode), (8, Mode::Free));
    world.everything_acknowledged().await;
    assert!(world.issuer.reports(0).iter().all(|report| report.outcome != Outcome::Rejected));
}

#[tokio::test]
async fn s59_a_document_whose_key_stays_unknown_is_rejected_within_30_s_and_triggers_get() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let unknown = world.free();
    let unknown = unknown.signed(&signer("nobody"));
    let (gets, keysets) = (world.issuer.gets(), world.cloud.count(Method::GET, "/v1/keyset"));
    world.issuer.publish_entitlement(&unknown.token).await;
    world
        .cloud
        .wait("the keyset asked for", |seen| seen.calls.iter().filter(|call| call.path == "/v1/keyset").nth(keysets).map(drop))
        .await;
    holds("the document is held, without a PUBACK, for its keyset", Duration::from_secs(15), || {
        let judged = world.issuer.reports(0).into_iter().find(|report| report.outcome == Outcome::Rejected);
        let acknowledged = world.broker.acknowledged_by(DEVICE) >= world.broker.sent_to(DEVICE);
        judged.map(|report| format!("{report:?}")).or(acknowledged.then(|| "its PUBACK".to_owned()))
    })
    .await;
    let report =
        world.issuer.report_within(0, Duration::from_secs(35), "the unknown key", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!(report.reason, "unknown_key");
    assert!(premium.in_force(&report));
    assert_eq!(world.cloud.count(Method::GET, "/v1/keyset"), keysets + 1, "at most once a minute");
    world.issuer.get_since(gets).await;
    world.everything_acknowledged().await;
}

#[tokio::test]
async fn s60_both_keys_of_a_rotation_are_accepted_and_a_revoked_one_is_not() {
    let mut world = World::new().await;
    world.start_premium().await;
    let next_key = signer("2027-01");
    let both = world.pki.keyset(8).with(&next_key);
    world.hand_out_keyset(&both.sign(&world.pki.root)).await;
    let drafts = [world.free(), world.premium()];
    for (key, draft, mode) in [(&next_key, &drafts[0], Mode::Free), (&world.pki.key, &drafts[1], Mode::Paid)] {
        let document = draft.signed(key);
        world.hand_out(&document).await;
        world.issuer.judged(&document, Outcome::Applied).await;
        world.issuer.in_force(&document, mode).await;
    }
    // The same document signed with another key is still the same document.
    let mark = world.issuer.mark();
    let resigned = drafts[1].signed(&next_key);
    world.hand_out(&resigned).await;
    let current = world.issuer.report_since(mark, "the duplicate", |report| resigned.judged(report, Outcome::Duplicate)).await;

    let revoking = world.pki.keyset(9).with(&next_key).revoking(care_tests::pki::KID).sign(&world.pki.root);
    world.hand_out_keyset(&revoking).await;
    let late = world.free();
    let late = world.sign(&late);
    world.issuer.publish_entitlement(&late.token).await;
    let report = world.issuer.judged(&late, Outcome::Rejected).await;
    assert_eq!((report.reason.as_str(), report.keyset), ("revoked_key", 9));
    assert_eq!(
        (report.seq, report.digest, report.mode),
        (current.seq, current.digest, Mode::Paid),
        "the document in force stays until its lease ends"
    );
}

#[tokio::test]
async fn s61_malformed_documents_are_rejected_and_acknowledged_without_using_memory() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let (memory, _) = world.agent.memory();
    let signed = |payload: &[u8]| world.pki.key.sign("care-entitlement+jws", payload).into_bytes();
    let good = String::from_utf8(serde_json::to_vec(&premium_payload(&world)).unwrap()).unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bad_form", b"{\"not\":\"a JWS\"".to_vec()),
        ("bad_form", signed(b"{\"iss\":")),
        ("bad_form", signed(good.replacen("{", "{\"iss\":\"care\",", 1).as_bytes())),
        ("bad_form", signed(good.replacen("{", &format!("{{\"x\":{}1{},", "[".repeat(9), "]".repeat(9)), 1).as_bytes())),
        ("bad_form", signed(good.replacen("\"seq\":99", "\"seq\":1e30", 1).as_bytes())),
    ];
    for (reason, payload) in cases {
        let mark = world.issuer.mark();
        world.issuer.publish(&world.issuer.topics().entitlement(), true, payload).await;
        let report = world.issuer.report_since(mark, reason, |report| report.outcome == Outcome::Rejected).await;
        assert_eq!(report.reason, reason);
        assert!(premium.in_force(&report) && report.mode == Mode::Paid);
    }
    // Beyond the burst of 5 reports, the PUBACK is the only answer.
    let more: Vec<Vec<u8>> = vec![
        signed(good.replacen("\"seq\":99", "\"seq\":99999999999999999999999999", 1).as_bytes()),
        signed(b"{\"iss\":\"\xff\xfe\"}"),
        vec![0xff; 4096],
        vec![b'a'; 8 * 1024 + 1],
        vec![b'x'; 200 * 1024],
    ];
    let (sent, connects) = (world.broker.sent_to(DEVICE), world.broker.connects_of(DEVICE));
    for payload in &more {
        world.issuer.publish(&world.issuer.topics().entitlement(), false, payload.clone()).await;
    }
    until("the documents sent", PATIENCE, || (world.broker.sent_to(DEVICE) >= sent + more.len()).then_some(())).await;
    world.everything_acknowledged().await;
    assert_eq!(world.broker.connects_of(DEVICE), connects, "the connection was lost");
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    let (_, highest) = world.agent.memory();
    assert!(highest < memory + 8 * 1024 * 1024, "memory rose from {memory} to {highest}");
}

fn premium_payload(world: &World) -> care_protocol::Entitlement {
    care_tests::issuer::Draft::new(&world.device, "premium", care_tests::issuer::PREMIUM).at(3, 99).0
}

#[tokio::test]
async fn s61_200_kib_is_acknowledged_and_reported_as_too_large() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    world.issuer.publish(&world.issuer.topics().entitlement(), true, vec![b'x'; 200 * 1024]).await;
    let report = world.issuer.report("too_large", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!((report.reason.as_str(), report.judged), ("too_large", None));
    assert!(premium.in_force(&report));
    world.everything_acknowledged().await;
    assert_eq!(world.broker.connects_of(DEVICE), 1);
}

#[tokio::test]
async fn s61_a_megabyte_costs_two_connections_then_a_clean_session_and_https() {
    let mut world = World::new().await;
    world.start_premium().await;
    let (gets, seen) = (world.cloud.entitlement_gets(), world.broker.log().len());
    world.issuer.publish(&world.issuer.topics().entitlement(), true, vec![b'x'; 1024 * 1024]).await;
    let cancel = world.free();
    let cancel = world.sign(&cancel);
    world.cloud.lock().entitlement = Body::Token(cancel.token.clone());

    let log = world.broker.log().clone();
    let connects = |kind: &str| log.since(seen).iter().filter(|l| l.contains(&format!(" as {DEVICE} (p2, {kind}"))).count();
    until("a clean session", Duration::from_secs(30), || (connects("c1") == 1).then_some(())).await;
    assert!(connects("c0") <= 2, "{} more connections with the old session", connects("c0"));
    world.agent.mode(Mode::Free).await;
    assert!(world.cloud.entitlement_gets() > gets);
    // The camera does not subscribe for now, so the megabyte cannot arrive again; it still sends reports.
    let clean = log.since(seen).iter().position(|l| l.contains(&format!(" as {DEVICE} (p2, c1"))).unwrap() + seen;
    world.issuer.in_force(&cancel, Mode::Free).await;
    holds("one quiet connection", Duration::from_secs(2), || {
        log.find(clean + 1, |l| l.contains(&format!("Received SUBSCRIBE from {DEVICE}")) || l.contains(&format!(" as {DEVICE} (")))
    })
    .await;
}

#[tokio::test]
async fn s62_a_document_for_another_device_or_issuer_is_rejected() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let mut other_device = world.free();
    other_device.0.aud = "8006E5A1F0C3".parse().unwrap();
    let mut other_issuer = world.free();
    other_issuer.0.iss = "beware".into();
    for (draft, reason) in [(other_device, "wrong_audience"), (other_issuer, "wrong_issuer")] {
        let document = world.sign(&draft);
        world.issuer.publish_entitlement(&document.token).await;
        let report = world.issuer.report(reason, |report| report.outcome == Outcome::Rejected && report.reason == reason).await;
        assert!(premium.in_force(&report) && report.mode == Mode::Paid);
    }
    world.everything_acknowledged().await;
}

/// A fault of a broker, the stage at which it shows, and the reason that the log must contain.
struct BadServer {
    name: &'static str,
    tls: rustls::ServerConfig,
    words: &'static [&'static str],
}

fn bad_servers(pki: &Pki) -> Vec<BadServer> {
    let mut expired = server_params(&["127.0.0.1"]);
    validity(&mut expired, -30, -1);
    let wrong_name = server_params(&["care.example"]);
    let other = Authority::root("Care test CA");
    let intermediate = pki.ca.intermediate("Care test intermediate");
    let mut alone = intermediate.server();
    alone.chain.truncate(alone.chain.find("-----END CERTIFICATE-----").unwrap() + "-----END CERTIFICATE-----\n".len());
    vec![
        BadServer { name: "expired", tls: plain_tls(&pki.ca.sign(expired)), words: &["expired"] },
        BadServer { name: "wrong name", tls: plain_tls(&pki.ca.sign(wrong_name)), words: &["name"] },
        BadServer { name: "wrong CA", tls: plain_tls(&other.server()), words: &["issuer", "authority", "signature", "ca"] },
        BadServer { name: "no chain", tls: plain_tls(&alone), words: &["issuer", "authority", "ca"] },
    ]
}

/// An agent with its broker at `broker` and a good cloud.
async fn agent_at(pki: &Pki, broker: std::net::SocketAddr) -> (Agent, Cloud) {
    let cloud = Cloud::start(pki).await;
    let agent = Agent::new(pki, DEVICE, broker, &cloud.url());
    (agent, cloud)
}

/// The log line in which the agent names the stage and the reason.
async fn logs_fault(agent: &Agent, from: usize, name: &str, words: &[&str]) {
    agent
        .logged(from, name, |line| {
            let line = line.to_lowercase();
            line.contains("tls") && words.iter().any(|word| line.contains(word))
        })
        .await;
}

#[tokio::test]
async fn s63_an_untrusted_server_receives_nothing() {
    let pki = Pki::new();
    for BadServer { name, tls, words } in bad_servers(&pki) {
        let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), tls).await;
        let (mut agent, _cloud) = agent_at(&pki, impostor.addr).await;
        agent.start();
        logs_fault(&agent, 0, name, words).await;
        until(format!("a second try at the server with {name}"), PATIENCE, || (impostor.seen().connections >= 2).then_some(())).await;
        let seen = impostor.seen();
        assert!(seen.told.is_empty() && seen.handshakes == 0, "{name}: {seen:?}");
        agent.assert_running();
    }
}

/// The control: without a fault, the same server receives CONNECT at once.
#[tokio::test]
async fn s63_a_trusted_server_receives_connect() {
    let pki = Pki::new();
    let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), pki.mutual_tls(&pki.ca.server())).await;
    let (mut agent, _cloud) = agent_at(&pki, impostor.addr).await;
    agent.start();
    until("CONNECT", PATIENCE, || impostor.seen().told.first().map(|byte| assert_eq!(*byte, 0x10))).await;
}

#[tokio::test]
async fn s63_a_certificate_not_yet_valid_is_refused_once_the_clock_is_confirmed() {
    let pki = Pki::new();
    let (port, addr) = reserve_port();
    let (mut agent, cloud) = agent_at(&pki, addr).await;
    agent.start();
    cloud.wait("a GET, whose Date confirms the clock", |seen| (!seen.calls.is_empty()).then_some(())).await;
    agent.logged(0, "the broker being away", |line| line.to_lowercase().contains("refused")).await;
    let mut future = server_params(&["127.0.0.1"]);
    validity(&mut future, 2, 30);
    let impostor = Impostor::listen(addr, plain_tls(&pki.ca.sign(future))).await;
    // The log says once that the broker is unreachable; the status gives the current reason.
    let named = |status: &Status| ["TLS: ", "not valid before"].iter().all(|words| status.sentence("broker_unreachable").contains(words));
    agent.status("a certificate of the future", named).await;
    let seen = impostor.seen();
    assert!(seen.told.is_empty() && seen.handshakes == 0, "{seen:?}");
    drop(port);
}

#[tokio::test]
async fn s63_tls_1_1_is_refused() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = pki.ca.server().write(dir.path(), "server");
    let (port, addr) = reserve_port();
    let log = Lines::default();
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_server", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-accept", &addr.to_string(), "-cert"]);
    command.arg(&chain).arg("-key").arg(&key);
    let _server = Process::spawn("openssl s_server", command, log.clone());
    until("openssl to listen", PATIENCE, || log.find(0, |line| line.contains("ACCEPT"))).await;
    let (mut agent, _cloud) = agent_at(&pki, addr).await;
    agent.start();
    logs_fault(&agent, 0, "TLS 1.1", &["tls 1.2"]).await;
    until("openssl to log the refusal", PATIENCE, || log.find(0, |line| line.contains("protocol") || line.contains("version"))).await;
    assert!(log.find(0, |line| line.contains("MQTT")).is_none(), "{:?}", log.all());
    drop(port);
}

#[tokio::test]
async fn s64_the_agent_refuses_to_start_with_a_missing_unreadable_or_world_readable_key_file() {
    type Damage = fn(&Agent);
    fn chmod(path: &std::path::Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let cases: [(&str, Damage, &str); 8] = [
        ("CA missing", |agent| std::fs::remove_file(&agent.config.ca).unwrap(), "ca.pem"),
        ("certificate missing", |agent| std::fs::remove_file(&agent.config.cert).unwrap(), "device.pem"),
        ("key missing", |agent| std::fs::remove_file(&agent.config.key).unwrap(), "device.key"),
        ("key readable by others", |agent| chmod(&agent.config.key, 0o644), "device.key"),
        ("key readable by its group", |agent| chmod(&agent.config.key, 0o640), "device.key"),
        ("CA writable by others", |agent| chmod(&agent.config.ca, 0o666), "ca.pem"),
        ("certificate writable by its group", |agent| chmod(&agent.config.cert, 0o664), "device.pem"),
        ("CA is nonsense", |agent| std::fs::write(&agent.config.ca, "nonsense").unwrap(), "ca.pem"),
    ];
    let pki = Pki::new();
    for (name, damage, file) in cases {
        let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), plain_tls(&pki.ca.server())).await;
        let (mut agent, _cloud) = agent_at(&pki, impostor.addr).await;
        damage(&agent);
        agent.start();
        let status = agent.ended().await;
        assert_eq!(status.code(), Some(78), "{name}: {:?}", agent.log().all());
        until(format!("{name}: a line that names {file}"), PATIENCE, || agent.log().find(0, |line| line.contains(file))).await;
        assert_eq!(impostor.seen().connections, 0, "{name}");
    }
}

#[tokio::test]
async fn an_unusable_state_directory_is_a_configuration_error() {
    let pki = Pki::new();
    let (mut agent, _cloud) = agent_at(&pki, ([127, 0, 0, 1], 1).into()).await;
    agent.config.state_dir = agent.config.ca.clone();
    agent.start();
    assert_eq!(agent.ended().await.code(), Some(78));
    until("a line that names it", PATIENCE, || agent.log().find(0, |line| line.contains("state directory"))).await;
}

#[tokio::test]
async fn s64_plaintext_to_another_machine_is_refused() {
    let pki = Pki::new();
    let (mut agent, _cloud) = agent_at(&pki, ([127, 0, 0, 1], 1).into()).await;
    agent.config.broker = "mqtt://care.example:1883".into();
    agent.start();
    assert_eq!(agent.ended().await.code(), Some(78));
    until("a line with the reason", PATIENCE, || agent.log().find(0, |line| line.contains("mqtts"))).await;
}

#[tokio::test]
async fn s65_an_edited_state_file_is_rejected() {
    let mut world = World::new().await;
    let cancel = world.free();
    world.start_with(cancel, Mode::Free).await;
    world.agent.stop().await;
    // An attacker with write access turns Free into Premium in both slots, without changing lengths.
    let mut edited = 0;
    for entry in std::fs::read_dir(&world.agent.config.state_dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        for start in (0..bytes.len()).step_by(64) {
            if bytes[start] != 0 {
                bytes[start] ^= 1;
                edited += 1;
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(edited > 0, "there is no state file to edit");

    // The broker still has a document, but only HTTPS may restore the state.
    world.cloud.lock().entitlement = Body::Silence;
    let premium = world.premium();
    let premium = world.sign(&premium);
    let mark = world.issuer.mark();
    world.agent.start();
    world.issuer.publish_entitlement(&premium.token).await;
    let report = world
        .issuer
        .report_since(mark, "the loss", |report| report.reason == "state_lost" || report.cause == care_protocol::Cause::StateLost)
        .await;
    assert_ne!(report.mode, Mode::Paid);
    let report = world.issuer.report_since(mark, "MQTT refused", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!(report.reason, "state_lost");
    world.cloud.lock().entitlement = Body::Token(premium.token.clone());
    world.issuer.heard().answer = Some(premium.token.clone());
    let report = world.issuer.report_within(mark, Duration::from_secs(120), "the state set anew", |report| premium.in_force(report)).await;
    assert!(report.persisted);
}

#[tokio::test]
async fn s66_a_keyset_with_a_lower_version_is_rejected() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let rogue = signer("old-and-leaked");
    let old = world.pki.keyset(6).with(&rogue).sign(&world.pki.root);
    world.hand_out_keyset(&old).await;
    let report = world.issuer.report("the old keyset", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!((report.reason.as_str(), report.keyset), ("old_keyset", 7));
    assert!(premium.in_force(&report));
    let forged = world.free();
    let forged: Document = forged.signed(&rogue);
    assert_eq!(forged.digest, digest_of(&forged.token));
    world.issuer.publish_entitlement(&forged.token).await;
    holds("the old keyset's key is not trusted", Duration::from_secs(2), || {
        world.issuer.reports(0).into_iter().find(|report| forged.in_force(report)).map(|report| format!("{report:?}"))
    })
    .await;
}
