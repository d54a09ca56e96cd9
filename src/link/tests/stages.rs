//! Every failure names its stage and the reason, and no MQTT byte leaves before TLS stands (scenario 63).

use std::{sync::Arc, time::Duration};

use bytes::Buf;
use rumqttc::{ConnAck, ConnectReturnCode, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::{
    broker::{Broker, encode},
    owner::{Owner, settings},
};
use crate::{
    clock::Clock,
    link::{LinkFault, LinkState, Settings, Stage},
    tls::{
        device_client,
        tests::{DAY, Pki, T},
    },
};

fn over_tls(pki: &Pki, port: u16) -> Settings {
    let clock = Clock::at(Duration::from_secs(T as u64), true);
    let mut settings = settings(port);
    settings.broker.endpoint.tls = true;
    settings.broker.endpoint.host = "localhost".into();
    settings.tls = Some(device_client(&pki.files(), &clock).unwrap());
    settings
}

/// The fault of the first attempt against this TLS server.
async fn handshake_fault(pki: &Pki, server: rustls::ServerConfig, host: &str) -> LinkFault {
    let broker = Broker::new().await;
    let mut settings = over_tls(pki, broker.port());
    settings.broker.endpoint.host = host.into();
    let mut owner = Owner::new(settings);
    let peer = broker.accept().await;
    // Some servers say what they dislike only after the handshake, so it is served to its end.
    if let Ok(mut tls) = TlsAcceptor::from(Arc::new(server)).accept(peer.stream).await {
        let mut first = [0];
        assert!(!matches!(tls.read(&mut first).await, Ok(1)), "no MQTT byte may be sent");
    }
    owner.lost().await.1
}

#[tokio::test]
async fn dns() {
    let mut settings = settings(1883);
    settings.broker.endpoint.host = "broker.invalid".into();
    let mut owner = Owner::new(settings);
    let (connection, fault) = owner.lost().await;
    assert_eq!((connection, fault.stage), (None, Stage::Dns));
    assert!(fault.to_string().starts_with("looking up broker.invalid: "), "{fault}");
    assert_eq!(owner.link.status().last_fault, Some(fault));
}

#[tokio::test]
async fn tcp_refused() {
    let broker = Broker::new().await;
    let port = broker.port();
    drop(broker);
    let settings = settings(port);
    let conditions = settings.conditions.clone();
    let mut owner = Owner::new(settings);
    let (_, fault) = owner.lost().await;
    assert_eq!(fault.stage, Stage::Tcp);
    assert_eq!(fault.reason, format!("connecting to 127.0.0.1:{port}: connection refused"));
    let now = care_engine::trusted_time::Now::default();
    let [unreachable] = &conditions.list(now)[..] else { panic!("{conditions:?}") };
    assert_eq!((unreachable.name.as_str(), &unreachable.sentence), ("broker_unreachable", &fault.reason));
    assert!(unreachable.advice.contains("listens"), "{}", unreachable.advice);
}

#[tokio::test]
async fn connack_refuses() {
    for (code, words) in [
        (ConnectReturnCode::NotAuthorized, "code 5: the broker does not authorize this device"),
        (ConnectReturnCode::ServiceUnavailable, "code 3: the broker is unavailable"),
        (ConnectReturnCode::BadClientId, "code 2: "),
    ] {
        let broker = Broker::new().await;
        let mut owner = Owner::new(settings(broker.port()));
        let mut peer = broker.accept().await;
        assert!(matches!(peer.next().await, Packet::Connect(_)));
        peer.send(Packet::ConnAck(ConnAck { session_present: false, code })).await;
        let (_, fault) = owner.lost().await;
        assert_eq!(fault.stage, Stage::Connack);
        let named = format!("CONNECT to 127.0.0.1:{} was refused with {words}", broker.port());
        assert!(fault.reason.starts_with(&named), "{fault}");
    }
}

#[tokio::test]
async fn connack_is_something_else() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.accept().await;
    peer.send(Packet::PingResp).await;
    assert_eq!(owner.lost().await.1.stage, Stage::Connack);
}

#[tokio::test]
async fn tls_faults_of_the_servers_certificate() {
    let pki = Pki::new();
    let fault = handshake_fault(&pki, pki.server(T - 2 * DAY, T - DAY), "localhost").await;
    let both_clocks = ": trusted time is 2026-01-01T00:00:00Z, the system clock says 20";
    let expired = format!("TLS: the server's certificate expired on 2025-12-31T00:00:00Z{both_clocks}");
    assert!(fault.reason.contains(&expired), "{fault}");
    let fault = handshake_fault(&pki, pki.server(T + DAY, T + 2 * DAY), "localhost").await;
    let too_early = format!("TLS: the server's certificate is not valid before 2026-01-02T00:00:00Z{both_clocks}");
    assert!(fault.reason.contains(&too_early), "{fault}");
    let fault = handshake_fault(&pki, pki.server(T - DAY, T + DAY), "127.0.0.1").await;
    assert!(fault.reason.contains("TLS: the server's certificate is for other names"), "{fault}");
    let fault = handshake_fault(&pki, Pki::new().server(T - DAY, T + DAY), "localhost").await;
    assert!(fault.reason.contains("TLS: the server's certificate is of an unknown authority"), "{fault}");
}

#[tokio::test]
async fn tls_server_that_refuses_our_certificate() {
    let pki = Pki::new();
    // The server trusts another authority for its clients; the device trusts the server.
    let server = pki.server_for_clients_of(&Pki::new(), T - DAY, T + DAY);
    let fault = handshake_fault(&pki, server, "localhost").await;
    assert_eq!(fault.stage, Stage::Tls);
    assert!(fault.reason.contains("TLS: the server refused this device's certificate"), "{fault}");
}

#[tokio::test]
async fn tls_server_that_asks_for_no_certificate() {
    let pki = Pki::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let fault = handshake_fault(&pki, pki.server_without_client_auth(&[version]), "localhost").await;
        assert_eq!(fault.stage, Stage::Tls);
        assert!(fault.reason.contains("TLS: the server asks for no client certificate"), "{fault}");
    }
}

#[tokio::test]
async fn tls_too_old_or_not_spoken() {
    let pki = Pki::new();
    for (answer, words) in [
        // A fatal alert `protocol_version` from a server of TLS 1.1.
        (&b"\x15\x03\x02\x00\x02\x02\x46"[..], "the server speaks no TLS 1.2 or 1.3"),
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "what answers there does not speak TLS"),
        (&b""[..], "the server closed the connection during the handshake"),
    ] {
        let broker = Broker::new().await;
        let mut owner = Owner::new(over_tls(&pki, broker.port()));
        let mut peer = broker.accept().await;
        let mut hello = [0; 5];
        peer.stream.read_exact(&mut hello).await.unwrap();
        peer.bytes(answer).await;
        // A clean end, not a reset over what was not read.
        peer.stream.shutdown().await.unwrap();
        let (_, fault) = owner.lost().await;
        assert!(fault.stage == Stage::Tls && fault.reason.ends_with(words), "{fault}");
    }
}

#[tokio::test]
async fn silence_in_the_handshake_and_after_it_are_told_apart() {
    let pki = Pki::new();
    let broker = Broker::new().await;
    let mut owner = Owner::new(Settings { connect_timeout: Duration::from_millis(500), ..over_tls(&pki, broker.port()) });
    let _silent = broker.accept().await;
    let (_, fault) = owner.lost().await;
    assert!(fault.stage == Stage::Tls && fault.reason.ends_with("TLS: no answer to the handshake in time"), "{fault}");
    let versions: [&[_]; 2] = [&[&rustls::version::TLS12], &[&rustls::version::TLS13]];
    for versions in versions {
        let peer = broker.accept().await;
        let server = pki.server_speaking(versions, T - DAY, T + DAY);
        let _open = TlsAcceptor::from(Arc::new(server)).accept(peer.stream).await.unwrap();
        assert_eq!(owner.lost().await.1.stage, Stage::Connack);
    }
}

#[tokio::test]
async fn none_over_mutual_tls() {
    let pki = Pki::new();
    let broker = Broker::new().await;
    let mut owner = Owner::new(over_tls(&pki, broker.port()));
    let peer = broker.accept().await;
    let server = pki.server(T - DAY, T + DAY);
    let mut tls = TlsAcceptor::from(Arc::new(server)).accept(peer.stream).await.unwrap();
    let mut buffer = bytes::BytesMut::new();
    while !matches!(Packet::read(&mut buffer, usize::MAX), Ok(Packet::Connect(_))) {
        assert!(tls.read_buf(&mut buffer).await.unwrap() > 0);
    }
    tls.write_all(encode(Packet::ConnAck(ConnAck { session_present: false, code: ConnectReturnCode::Success })).chunk()).await.unwrap();
    tls.flush().await.unwrap();
    owner.until(|event| matches!(event, crate::link::Event::Connected { .. }).then_some(())).await;
    assert_eq!(owner.link.status().state, LinkState::Connected);
}

/// With Nagle a command and its answer take 40 ms: the option is looked up on the very socket.
#[tokio::test]
async fn nagle_is_off() {
    let broker = Broker::new().await;
    let _owner = Owner::new(settings(broker.port()));
    let peer = broker.session(false).await;
    let ours = peer.stream.peer_addr().unwrap();
    let process = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).unwrap();
    let sockets = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let number = entry.unwrap().file_name().to_str()?.parse().ok()?;
        rustix::process::pidfd_getfd(&process, number, rustix::process::PidfdGetfdFlags::empty()).ok()
    });
    let mut links =
        sockets.filter(|socket| socket2::SockRef::from(socket).local_addr().is_ok_and(|address| address.as_socket() == Some(ours)));
    assert!(rustix::net::sockopt::tcp_nodelay(links.next().expect("the link's socket is ours")).unwrap());
}
