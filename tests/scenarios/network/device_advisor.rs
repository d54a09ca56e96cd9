//! The test cases of AWS IoT Device Advisor that apply to this device and that no other file has, against a scripted
//! broker. Also scenarios 53 to 55 and 57, which need the same broker. `docs/assurance.md` has the whole list, with
//! what does not apply and why.

use std::time::{Duration, Instant};

use care_protocol::{Get, Mode, Outcome, Report};
use care_tests::{
    agent::Agent,
    build::Build,
    cloud::{Cloud, Document as Body},
    in_each_build,
    issuer::{Document, Draft, PREMIUM},
    pki::Pki,
    scripted_broker::{Peer, ScriptedBroker},
    status::Status,
    wait::{PATIENCE, until},
    world::DEVICE,
};
use rumqttc::{Packet, PubAck, QoS};

const ENTITLEMENT: &str = "care/v1/8006E5A1F0C2/entitlement";

/// A camera that is not running, its cloud, and a scripted broker. The keyset comes over HTTPS.
async fn stage() -> (Pki, ScriptedBroker, Cloud, Agent) {
    let pki = Pki::new();
    let broker = ScriptedBroker::new(&pki).await;
    let cloud = Cloud::start(&pki).await;
    cloud.lock().keyset = Body::Token(pki.keyset(7).sign(&pki.root));
    let agent = Agent::new(&pki, DEVICE, broker.addr, &cloud.url());
    (pki, broker, cloud, agent)
}

fn premium(pki: &Pki, seq: u64) -> Document {
    Draft::new(&DEVICE.parse().unwrap(), "premium", PREMIUM).at(3, seq).signed(&pki.key)
}

/// Waits for the next report with this outcome for this document.
async fn judged(peer: &mut Peer, document: &Document, outcome: Outcome) -> Report {
    loop {
        let publish = peer.publish_to("/report").await;
        peer.send(Packet::PubAck(PubAck::new(publish.pkid))).await;
        let report: Report = serde_json::from_slice(&publish.payload).unwrap();
        if document.judged(&report, outcome) {
            return report;
        }
    }
}

/// `MQTT_Connect`, `MQTT_Subscribe`, `MQTT_Client_Puback_QoS1`.
#[tokio::test]
async fn the_agent_connects_subscribes_and_acknowledges_persisted_documents() {
    let (pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    let mut peer = broker.accept().await;
    let Packet::Connect(connect) = peer.next().await else { panic!("the first packet is CONNECT") };
    assert_eq!((connect.client_id.as_str(), connect.clean_session, connect.keep_alive), (DEVICE, false, 30));
    peer.connack(false).await;
    let filters = peer.grant(QoS::AtLeastOnce).await;
    assert_eq!(filters, [ENTITLEMENT, &format!("{ENTITLEMENT}/answer"), "care/v1/keyset"]);
    let document = premium(&pki, 41);
    peer.publish(ENTITLEMENT, QoS::AtLeastOnce, 77, document.token.clone()).await;
    let mut report = None;
    let mut acknowledged = false;
    while report.is_none() || !acknowledged {
        match peer.next().await {
            Packet::PubAck(puback) => acknowledged |= puback.pkid == 77,
            Packet::Publish(publish) => {
                peer.send(Packet::PubAck(PubAck::new(publish.pkid))).await;
                let said: Option<Report> = serde_json::from_slice(&publish.payload).ok();
                report = report.or(said.filter(|report| document.judged(report, Outcome::Applied)));
            }
            _ => {}
        }
    }
    // A copy without RETAIN confirms nothing: media beyond Free waits for the answer to `get`.
    assert!(report.is_some_and(|report| report.persisted && report.mode == Mode::Held));
}

/// `MQTT_Publish_Retry_No_Puback` as in MQTT 3.1.1 (4.4): resent after a reconnect with the same identifier and DUP.
/// `MQTT_Persistent_Session_Session_Expiry`: the camera subscribes again when the broker has lost the session.
#[tokio::test]
async fn unacknowledged_messages_are_resent_and_a_lost_session_is_created_anew() {
    let (_pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    let mut peer = broker.subscribed(false).await;
    let get = peer.publish_to("/get").await;
    assert_eq!((get.qos, get.dup), (QoS::AtLeastOnce, false));
    drop(peer);
    let mut peer = broker.subscribed(true).await;
    let again = peer.publish_to("/get").await;
    assert_eq!((again.pkid, again.dup, &again.payload), (get.pkid, true, &get.payload));
    drop(peer);
    let mut peer = broker.connected(false).await;
    assert_eq!(peer.grant(QoS::AtLeastOnce).await.len(), 3);
}

/// `TLS_Receive_Maximum_Size_Fragments`: 200 KiB arrive in records of 16 KiB and are judged; the connection stays.
#[tokio::test]
async fn records_of_16_kib_are_read() {
    let (pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    let mut peer = broker.subscribed(false).await;
    peer.publish(ENTITLEMENT, QoS::AtLeastOnce, 5, vec![b'x'; 200 * 1024]).await;
    let document = premium(&pki, 41);
    peer.publish(ENTITLEMENT, QoS::AtLeastOnce, 6, document.token.clone()).await;
    judged(&mut peer, &document, Outcome::Applied).await;
}

in_each_build!(s53_a_half_open_connection_is_detected_within_two_keep_alives);

/// Also `MQTT_No_Ack_PingResp`: the camera detects a silent broker within two keep-alives and reconnects.
async fn s53_a_half_open_connection_is_detected_within_two_keep_alives(build: Build) {
    const KEEP_ALIVE: Duration = Duration::from_secs(30);
    let (_pki, broker, _cloud, mut agent) = stage().await;
    let _streamer = build.equip(&mut agent);
    agent.start();
    let mut silent = broker.subscribed(false).await;
    let get = silent.publish_to("/get").await;
    silent.send(Packet::PubAck(PubAck::new(get.pkid))).await;
    let (fell_silent, seen) = (Instant::now(), agent.log().len());
    // From here on the broker neither reads nor answers, and keeps the connection open.
    until("the dead connection to be detected", 2 * KEEP_ALIVE + PATIENCE, || {
        agent.log().find(seen, |line| line.contains("did not answer a ping"))
    })
    .await;
    let found = fell_silent.elapsed();
    assert!(found > KEEP_ALIVE / 2, "given up after {found:?}, before anything could be missed");
    broker.subscribed(true).await;
    drop(silent);
}

/// The start of `MQTT_Connect_*_Backoff_Retries` (no CONNACK) and of `MQTT_Subscribe_Retry_No_Suback`.
#[tokio::test]
async fn s54_the_agent_reconnects_if_connect_or_subscribe_is_never_answered() {
    let (_pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    let mut silent = broker.accept().await;
    assert!(matches!(silent.next().await, Packet::Connect(_)));
    let named = async |words: &str| {
        let named = |status: &Status| status.sentence("broker_unreachable").contains(words);
        agent.status_within(words, Duration::from_secs(60), named).await;
    };
    named("CONNECT to ").await;
    let mut silent = broker.connected(false).await;
    assert!(matches!(silent.next().await, Packet::Subscribe(_)));
    named("no SUBACK within 20 s").await;
    broker.subscribed(false).await;
    agent.assert_running();
}

/// Also `MQTT_Reconnect_Backoff_Retries_On_Server_Disconnect`.
#[tokio::test]
async fn s55_after_three_closes_the_agent_suspects_another_client_with_its_id_and_backs_off() {
    let (_pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    for _ in 0..3 {
        // Every packet is answered before the other client takes over.
        let mut peer = broker.subscribed(false).await;
        let get = peer.publish_to("/get").await;
        peer.send(Packet::PubAck(PubAck::new(get.pkid))).await;
    }
    let status = agent.status("the clone", |status| status.condition("broker_clone").is_some()).await;
    assert_eq!(status.condition("broker_rights"), None);
    agent.logged(0, "the clone", |line| line.contains("another client seems to use this device's id")).await;
    assert!(broker.quiet_for(Duration::from_secs(15)).await, "the agent reconnected at once");
    agent.assert_running();
}

/// AWS IoT Core and NATS close the connection when a policy denies a packet. The agent names the packet and does not
/// suspect a client with the same id.
#[tokio::test]
async fn a_broker_that_closes_upon_subscribe_is_reported_with_the_topics() {
    let (_pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    for _ in 0..4 {
        let mut peer = broker.connected(false).await;
        assert!(matches!(peer.next().await, Packet::Subscribe(_)));
    }
    let status = agent.status("the missing right", |status| status.condition("broker_rights").is_some()).await;
    let sentence = status.sentence("broker_rights");
    assert!(sentence.contains("SUBSCRIBE") && sentence.contains(ENTITLEMENT) && sentence.contains(&broker.addr.to_string()), "{sentence}");
    assert_eq!((status.condition("broker_clone"), status.condition("broker_unreachable")), (None, None));
    assert_eq!(agent.log().count("another client"), 0);
    assert!(agent.log().count("broker_rights") <= 2, "{:?}", agent.log().all());
    // The right is granted.
    let _peer = broker.subscribed(false).await;
    agent.status("it to be over", |status| status.condition("broker_rights").is_none()).await;
}

/// The same for PUBLISH: the broker grants the subscription and closes at `get`.
#[tokio::test]
async fn a_broker_that_closes_upon_publish_is_reported_with_the_topic() {
    let (_pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    for _ in 0..4 {
        let mut peer = broker.subscribed(false).await;
        peer.publish_to("/get").await;
    }
    let status = agent.status("the missing right", |status| status.condition("broker_rights").is_some()).await;
    let sentence = status.sentence("broker_rights");
    assert!(sentence.contains("PUBLISH to care/v1/8006E5A1F0C2/get"), "{sentence}");
    assert_eq!(status.condition("broker_clone"), None);
}

/// `x-amzn-mqtt-ca` tells AWS IoT Core that a connection on port 443 is MQTT, not HTTPS.
#[tokio::test]
async fn agent_and_check_offer_the_alpn_protocol_of_a_shared_port() {
    let pki = Pki::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = care_tests::broker::reserve_port();
    let mut agent = Agent::new(&pki, DEVICE, listener.local_addr().unwrap(), &format!("https://{}", nobody.1));
    agent.config.broker_alpn = Some("x-amzn-mqtt-ca".into());
    let offered = async || -> Vec<Vec<u8>> {
        let (socket, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let hello = tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await.unwrap();
        hello.client_hello().alpn().map(|names| names.map(<[u8]>::to_vec).collect()).unwrap_or_default()
    };
    agent.write_config();
    let (_, checked) = tokio::join!(agent.command(&["check-config", "--connect"]), offered());
    agent.start();
    assert_eq!((checked, offered().await), (vec![b"x-amzn-mqtt-ca".to_vec()], vec![b"x-amzn-mqtt-ca".to_vec()]));
}

/// QoS 0 and no retained messages: `get` fetches the document, and a cancel arrives without a `get`.
#[tokio::test]
async fn s57_a_broker_that_grants_qos_0_and_retains_nothing_works_through_get() {
    let (pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    let mut peer = broker.connected(false).await;
    peer.grant(QoS::AtMostOnce).await;
    let get = peer.publish_to("/get").await;
    peer.send(Packet::PubAck(PubAck::new(get.pkid))).await;
    let get: Get = serde_json::from_slice(&get.payload).unwrap();
    let document = premium(&pki, 41);
    let answer = serde_json::json!({ "nonce": get.nonce, "token": document.token }).to_string();
    peer.publish(&format!("{ENTITLEMENT}/answer"), QoS::AtMostOnce, 0, answer).await;
    judged(&mut peer, &document, Outcome::Applied).await;
    let cancel = Draft::new(&DEVICE.parse().unwrap(), "free", care_tests::issuer::FREE).at(3, 42).signed(&pki.key);
    peer.publish(ENTITLEMENT, QoS::AtMostOnce, 0, cancel.token.clone()).await;
    let report = judged(&mut peer, &cancel, Outcome::Applied).await;
    assert_eq!(report.mode, Mode::Free);
}

/// `MQTT_Connect_Jitter_Backoff_Retries` and `MQTT_Connect_Exponential_Backoff_Retries` as specified: five times no
/// CONNACK. The upper bound of the random delay doubles; the 20 s timeout for an answer comes on top.
#[tokio::test]
#[ignore = "minutes: make proof"]
async fn the_delay_grows_over_five_unanswered_connects() {
    let (_pki, broker, _cloud, mut agent) = stage().await;
    agent.start();
    let mut times = Vec::new();
    let mut silent = Vec::new();
    for _ in 0..6 {
        let mut peer = broker.accept().await;
        assert!(matches!(peer.next().await, Packet::Connect(_)));
        times.push(Instant::now());
        silent.push(peer);
    }
    let delays: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() - 20.0).collect();
    println!("delays between CONNECTs beyond 20 s of waiting: {delays:.2?}");
    for (attempt, delay) in delays.iter().enumerate() {
        let bound = f64::from(1 << attempt);
        assert!((-0.5..bound + 5.0).contains(delay), "{delays:?}");
    }
    let apart = delays.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f64::max);
    assert!(apart > 0.05, "the delays are all the same: {delays:?}");
}

/// `TLS_Support_AWS_IoT_Cipher_Suites`: the ClientHello offers the cipher suites that the service recommends.
#[tokio::test]
async fn the_client_hello_offers_the_recommended_cipher_suites() {
    use rustls::CipherSuite;
    let pki = Pki::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = care_tests::broker::reserve_port();
    let mut agent = Agent::new(&pki, DEVICE, listener.local_addr().unwrap(), &format!("https://{}", nobody.1));
    agent.start();
    let (socket, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let hello = tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await.unwrap();
    let offered = hello.client_hello().cipher_suites().to_vec();
    for wanted in [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ] {
        assert!(offered.contains(&wanted), "{wanted:?} is not among {offered:?}");
    }
}
