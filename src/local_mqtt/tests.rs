//! What is published, and the connection against a broker that follows a script.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use care_protocol::Mode;
use rumqttc::{ConnAck, ConnectReturnCode, Packet, Publish, QoS, SubAck, SubscribeReasonCode, mqttbytes};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    discovery::{self, Topics},
    running::LocalMqtt,
    session::MAX_PACKET,
    start, state,
};
use crate::{
    clock::Clock,
    conditions::{Condition, Conditions, Severity},
    config::Config,
    status::{SharedStatus, StatusDocument},
    timeline::tests::report,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// With these lines of `[local_mqtt]`.
fn config(lines: &str) -> Config {
    let text = format!("{}\n[local_mqtt]\n{lines}\n", include_str!("../../systemd/config.toml"));
    Config::parse(&text, Path::new("config.toml")).unwrap()
}

fn announcement(config: &Config) -> Value {
    let local = config.local_mqtt.as_ref().unwrap();
    let topics = Topics::new(local, &config.device.id);
    discovery::device(local, &topics, &config.device.id, &config.device.model, config.media.is_some())
}

/// After a cancel, with everything that an owner would rather not share.
fn status(config: &Config) -> StatusDocument {
    let mut status = StatusDocument::new(config);
    status.order = Some("KC-2026-000123".into());
    let mut switch = report(41);
    switch.digest = Some(care_protocol::Digest::of(b"document"));
    switch.detail = Some("account is \"acct-5b1f\"".into());
    switch.plan = Some("free".parse().unwrap());
    status.digest = switch.digest;
    status.last_switch = Some(switch);
    status.mode = Mode::Free;
    status.plan = Some("free".parse().unwrap());
    status
}

fn condition(name: &str, sentence: &str) -> Condition {
    let since = jiff::Timestamp::UNIX_EPOCH;
    Condition { name: name.into(), since, severity: Severity::Warning, sentence: sentence.into(), advice: sentence.into() }
}

#[test]
fn every_entity_finds_its_state_and_attributes_in_the_document() {
    let config = config("url = \"mqtt://192.168.1.2\"\npage_url = \"http://camera.lan:8080/\"");
    let (device, state) = (announcement(&config), state::document(&status(&config)));
    let topics = Topics::new(config.local_mqtt.as_ref().unwrap(), &config.device.id);
    let components = device["components"].as_object().unwrap();
    let field = |template: &Value| {
        let path = template.as_str().unwrap().strip_prefix("{{ value_json.").and_then(|rest| rest.strip_suffix(" }}"));
        state.get(path.unwrap().trim_end_matches(" | tojson")).unwrap_or_else(|| panic!("no {template} in {state}")).clone()
    };
    let mut in_document = 0;
    for (key, entity) in components {
        assert_eq!(entity["unique_id"], format!("kasa_care_8006E5A1F0C2_{key}"));
        if entity["state_topic"] == topics.state {
            in_document += 1;
            let value = field(&entity["value_template"]);
            assert!(!value.is_object() && !value.is_array(), "{key}: {value}");
            if let Some(options) = entity["options"].as_array() {
                assert!(options.contains(&value));
            }
            if entity["platform"] == "binary_sensor" {
                assert!(value == "ON" || value == "OFF", "{key}: {value}");
            }
        }
        if entity.get("json_attributes_topic").is_some() {
            assert!(field(&entity["json_attributes_template"]).is_object(), "{key}");
        }
    }
    assert_eq!(in_document, state.as_object().unwrap().len() - 2, "each field is a state, or one of two objects of attributes");
    assert_eq!(components["motion"]["state_topic"], topics.motion);
    assert_eq!(components.contains_key("picture"), cfg!(feature = "gstreamer"));
    assert_eq!(device["device"]["configuration_url"], "http://camera.lan:8080");
    assert_eq!((&*topics.device, &*topics.state), ("homeassistant/device/kasa_care_8006E5A1F0C2/config", "kasa-care/8006E5A1F0C2/state"));
}

#[test]
fn no_account_order_or_digest_is_published() {
    let config = config("url = \"mqtt://192.168.1.2\"");
    let text = state::document(&status(&config)).to_string() + &announcement(&config).to_string();
    for secret in ["KC-2026-000123", "acct-5b1f", "care.example", "sha256"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    assert!(text.contains("\"last_switch\":\"1970-01-01T00:00:00Z\"") && text.contains("\"reason\":\"cancelled\""), "{text}");
}

#[test]
fn the_largest_messages_fit_into_a_packet() {
    let mut config = config("url = \"mqtt://192.168.1.2\"\npage_url = \"http://camera.lan:8080\"");
    let local = config.local_mqtt.as_mut().unwrap();
    (local.base_topic, local.discovery_prefix) = ("é".repeat(128), "é".repeat(128));
    config.device.model = "\u{1}".repeat(10_000);
    config.device.id = "8".repeat(64).parse().unwrap();
    let mut status = status(&config);
    status.conditions = (0..60).map(|_| condition("state_lost", &"\u{1}".repeat(5000))).collect();
    status.last_switch.as_mut().unwrap().reason = "\u{1}".repeat(5000);
    for text in [state::document(&status).to_string(), announcement(&config).to_string()] {
        assert!(text.len() + 500 < MAX_PACKET, "{} bytes", text.len());
    }
}

#[test]
fn it_says_what_holds_uploads_or_that_nothing_does() {
    let config = config("url = \"mqtt://192.168.1.2\"");
    let mut status = status(&config);
    status.may_leave = config.free;
    let held = |status: &StatusDocument| state::document(status)["held"].as_str().unwrap().to_owned();
    assert_eq!(held(&status), "not held");
    status.mode = Mode::Held;
    assert_eq!(held(&status), "the cloud has not confirmed the plan yet");
    status.spool.clips = 1;
    status.conditions = vec![condition("status_page", "the page"), condition("held", &"ä".repeat(300))];
    let document = state::document(&status);
    assert_eq!(document["held"].as_str().unwrap().chars().count(), 255, "Home Assistant takes no longer state");
    assert_eq!((&document["holds"]["condition"], &document["problem"]), (&"held".into(), &"ON".into()));
    status.conditions = vec![condition("local_broker", "this one")];
    status.mode = Mode::Paid;
    assert_eq!(held(&status), "not held", "the broker in the home holds no uploads");
}

/// A broker that does what the test says.
struct Broker {
    listener: TcpListener,
    status: Arc<SharedStatus>,
    conditions: Conditions,
    local: Option<LocalMqtt>,
}

impl Broker {
    async fn new(lines: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(&format!("url = \"mqtt://{}\"\n{lines}", listener.local_addr().unwrap()));
        let status = Arc::new(SharedStatus::new(self::status(&config)));
        status.update(|_| {});
        let conditions = Conditions::default();
        let local = start(&config, status.clone(), conditions.clone(), Clock::start(None));
        Self { listener, status, conditions, local }
    }

    /// The next connection, up to its CONNECT.
    async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("it connects").unwrap();
        let mut peer = Peer { stream, buffer: BytesMut::new() };
        let Packet::Connect(connect) = peer.next().await else { panic!("the first packet is CONNECT") };
        let will = connect.last_will.clone().expect("a last will");
        assert_eq!((&*will.topic, &*will.message, will.retain), ("kasa-care/8006E5A1F0C2/availability", &b"offline"[..], true));
        assert!(connect.clean_session && connect.client_id != "8006E5A1F0C2", "{connect:?}");
        peer
    }

    /// The next connection, with the subscription granted.
    async fn session(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.send(Packet::ConnAck(ConnAck { session_present: false, code: ConnectReturnCode::Success })).await;
        let Packet::Subscribe(subscribe) = peer.next().await else { panic!("SUBSCRIBE follows") };
        assert_eq!(subscribe.filters.iter().map(|filter| filter.path.as_str()).collect::<Vec<_>>(), ["homeassistant/status"]);
        peer.send(Packet::SubAck(SubAck::new(subscribe.pkid, vec![SubscribeReasonCode::Success(QoS::AtMostOnce)]))).await;
        peer
    }

    async fn condition(&self, part: &str) {
        let now = Clock::start(None).now();
        let started = Instant::now();
        loop {
            let list = self.conditions.list(now);
            if list.iter().any(|condition| condition.name == "local_broker" && condition.sentence.contains(part)) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{part}: {list:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    async fn try_next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, MAX_PACKET) {
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("a bad packet: {error}"),
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("something comes");
            if !read.is_ok_and(|bytes| bytes > 0) {
                return None;
            }
        }
    }

    async fn next(&mut self) -> Packet {
        self.try_next().await.expect("it stays connected")
    }

    /// The next message on a topic that ends like this.
    async fn message(&mut self, topic: &str) -> String {
        loop {
            if let Packet::Publish(publish) = self.next().await
                && publish.topic.ends_with(topic)
            {
                assert_eq!(publish.retain, topic != "/motion");
                return String::from_utf8(publish.payload.to_vec()).unwrap();
            }
        }
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        // A client that has left is found when it is read from.
        let _ = self.stream.write_all(&bytes).await;
    }

    /// Waits for the end of the connection.
    async fn gone(&mut self) {
        while self.try_next().await.is_some() {}
    }
}

#[tokio::test]
async fn it_announces_publishes_changes_and_announces_again_after_a_birth() {
    let broker = Broker::new("").await;
    let mut peer = broker.session().await;
    let device = peer.message("/config").await;
    let state = peer.message("/state").await;
    assert!(state.contains("\"mode\":\"free\""), "{state}");
    assert_eq!(peer.message("/availability").await, "online");
    broker.status.update(|document| document.mode = Mode::Paid);
    assert!(peer.message("/state").await.contains("\"mode\":\"paid\""));
    broker.status.update(|document| document.media.as_mut().unwrap().status.motion_events += 1);
    assert_eq!(peer.message("/motion").await, "ON");
    // Not a birth.
    peer.send(Packet::Publish(Publish::new("homeassistant/status", QoS::AtMostOnce, "offline"))).await;
    peer.send(Packet::Publish(Publish::new("homeassistant/status", QoS::AtMostOnce, "online"))).await;
    assert_eq!(peer.message("/config").await, device);
    assert!(peer.message("/state").await.contains("\"mode\":\"paid\""));
}

#[tokio::test]
async fn changes_within_a_second_are_published_once() {
    let broker = Broker::new("").await;
    let mut peer = broker.session().await;
    assert_eq!(peer.message("/availability").await, "online");
    let began = Instant::now();
    let mut states = 0;
    for clips in 1.. {
        broker.status.update(|document| document.spool.stored_clips = clips);
        if timeout(Duration::from_millis(1), peer.stream.readable()).await.is_ok() {
            peer.message("/state").await;
            states += 1;
            if states == 3 {
                break;
            }
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(2500), "three states, with a second before each: {:?}", began.elapsed());
}

#[tokio::test]
async fn what_belongs_to_the_old_owner_is_replaced_without_waiting_for_the_second() {
    let broker = Broker::new("").await;
    let mut peer = broker.session().await;
    assert!(peer.message("/state").await.contains("\"reason\":\"cancelled\""));
    assert_eq!(peer.message("/availability").await, "online");
    broker.status.mark_stale();
    broker.status.forget();
    broker.status.update(|document| document.mode = Mode::Unbound);
    let state = peer.message("/state").await;
    assert!(!state.contains("cancelled") && state.contains("\"last_switch\":null"), "{state}");
}

#[tokio::test]
async fn a_refusal_is_a_condition_that_ends_with_the_next_good_connection() {
    let broker = Broker::new("").await;
    let mut peer = broker.accept().await;
    peer.send(Packet::ConnAck(ConnAck { session_present: false, code: ConnectReturnCode::NotAuthorized })).await;
    broker.condition("refused with code 5").await;
    peer.gone().await;
    let _peer = broker.session().await;
    let started = Instant::now();
    while !broker.conditions.list(Clock::start(None).now()).is_empty() {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_broker_that_floods_or_sends_garbage_loses_the_connection() {
    let broker = Broker::new("").await;
    let mut peer = broker.session().await;
    for _ in 0..1000 {
        peer.send(Packet::Publish(Publish::new("homeassistant/status", QoS::AtMostOnce, "x"))).await;
    }
    peer.gone().await;
    broker.condition("packets a second").await;
    let mut peer = broker.session().await;
    // A PUBLISH of 1 MiB.
    let _ = peer.stream.write_all(&[0x30, 0x80, 0x80, 0x40]).await;
    peer.gone().await;
    broker.condition("packet of 1048576 bytes").await;
    let mut peer = broker.session().await;
    peer.send(Packet::Publish(Publish::new("homeassistant/device/x/config", QoS::AtMostOnce, "{}"))).await;
    peer.gone().await;
    broker.condition("nobody has subscribed").await;
    let mut peer = broker.session().await;
    let _ = peer.stream.write_all(&[0; 64]).await;
    peer.gone().await;
    broker.condition("not MQTT").await;
}

#[tokio::test]
async fn the_end_is_said_and_never_waited_for_long() {
    let mut broker = Broker::new("").await;
    let mut peer = broker.session().await;
    assert_eq!(peer.message("/availability").await, "online");
    let stopping = tokio::task::spawn_blocking({
        let local = broker.local.take().unwrap();
        move || local.stop()
    });
    assert_eq!(peer.message("/availability").await, "offline");
    assert!(matches!(peer.next().await, Packet::Disconnect));
    assert!(stopping.await.unwrap());

    // CONNECT is never answered.
    let mut silent = Broker::new("").await;
    let _peer = silent.accept().await;
    let local = silent.local.take().unwrap();
    assert!(tokio::task::spawn_blocking(move || local.stop()).await.unwrap());
}
