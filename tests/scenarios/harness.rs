//! The harness itself: what the scenarios build on must be able to tell right from wrong.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use care_tests::{
    cloud::{Cloud, Sink},
    media::{FPS, probe, recorded},
    pki::Pki,
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

#[tokio::test]
async fn the_broker_keeps_what_is_retained_and_lets_a_device_read_only_its_own() {
    let mut world = World::new().await;
    let document = world.premium();
    let document = world.issue(document).await;
    world.broker.restart().await;
    world.issuer.connected(6).await;

    for (cn, allowed) in [(DEVICE, true), ("SOMEONE-ELSE", false)] {
        let mut options = MqttOptions::new(cn, "127.0.0.1", world.broker.addr.port());
        let tls = world.pki.client_tls(&world.pki.ca.client(cn));
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        let (client, mut events) = AsyncClient::new(options, 16);
        client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
        client.publish(world.issuer.topics().get(), QoS::AtLeastOnce, false, "x").await.unwrap();
        let mut read = Vec::new();
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::Publish(publish))) => read.push(publish),
                Ok(Event::Incoming(Packet::PubAck(_))) => break,
                Ok(_) => {}
                // Mosquitto 2.0.11 closes the connection of who publishes what the ACL denies.
                Err(e) if !allowed => break drop(e),
                Err(e) => panic!("{cn}: {e}"),
            }
        }
        assert_eq!(read.iter().any(|p| p.payload == document.token.as_bytes()), allowed, "{cn} reads {read:?}");
    }
    until("the device's get", PATIENCE, || (world.issuer.heard().unreadable.len() == 1).then_some(())).await;
}

#[tokio::test]
async fn the_sink_tells_a_whole_upload_from_a_cut_one() {
    let pki = Pki::new();
    let cloud = Cloud::start(&pki).await;
    let body = vec![7_u8; 200_000];

    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(dial(&pki, &cloud).await)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::put("/clips/whole/0").header("host", "x").body(Full::new(Bytes::from(body.clone()))).unwrap();
    let answer = client.send_request(request).await.unwrap();
    assert!(answer.status().is_success() && answer.headers().contains_key("date"));
    answer.into_body().collect().await.unwrap();
    assert_eq!(cloud.stored(1).await.body, body);
    connection.abort();

    cloud.lock().sink = Sink::StallAfter(16_000);
    let stream = dial(&pki, &cloud).await;
    let socket = SockRef::from(stream.get_ref().0).try_clone().unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::put("/clips/cut/0").header("host", "x").body(Full::new(Bytes::from(body))).unwrap();
    let answer = tokio::spawn(async move { client.send_request(request).await.map(drop) });
    let put = cloud.in_flight(16_000).await;
    assert_eq!(put.clip, "cut");
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    connection.abort();
    answer.abort();
    drop((connection.await, answer.await, socket));
    cloud.lock().sink = Sink::Swallow;
    let cut = cloud.wait("the cut", |seen| seen.puts.iter().find(|put| put.clip == "cut" && put.complete.is_some()).cloned()).await;
    assert_eq!(cut.complete, Some(false));
    assert!(cut.body.len() < 150_000, "{} bytes went into a stalled sink", cut.body.len());
    assert_eq!(cloud.count(Method::PUT, "/0"), 2);
}

async fn dial(pki: &Pki, cloud: &Cloud) -> TlsStream<TcpStream> {
    let tls = TlsConnector::from(Arc::new(pki.client_tls(&pki.ca.client(DEVICE))));
    let tcp = TcpStream::connect(cloud.addr).await.unwrap();
    tls.connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.unwrap()
}

#[tokio::test]
async fn a_cut_wire_ends_what_stands_and_a_mended_one_carries_again() {
    let world = World::new().await;
    let mut first = TcpStream::connect(world.wire.addr).await.unwrap();
    until("the proxy to accept", PATIENCE, || (world.wire.accepted() == 1).then_some(())).await;
    world.wire.cut().await;
    let mut byte = [0];
    let end = tokio::io::AsyncReadExt::read(&mut first, &mut byte).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[test]
fn the_recorded_picture_is_what_it_says() {
    let found = probe(recorded());
    assert_eq!((found.codec.as_str(), found.height, found.complaints.as_str()), ("h264", 180, ""));
    assert_eq!(found.pts.len(), 10 * FPS as usize);
    assert!(found.longest_step() < 1.5);
}
