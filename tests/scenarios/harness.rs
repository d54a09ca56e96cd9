//! Tests of the test harness: it must be able to tell right from wrong.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use care_tests::{
    cloud::{Cloud, Sink},
    media::{FPS, probe, recorded},
    pki::Pki,
    proxy::{Fault, Proxy},
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

#[tokio::test]
async fn the_broker_keeps_retained_messages_and_lets_a_device_read_only_its_own_topics() {
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
                // Mosquitto 2.0.11 closes the connection of a client that publishes what the ACL denies.
                Err(e) if !allowed => break drop(e),
                Err(e) => panic!("{cn}: {e}"),
            }
        }
        assert_eq!(read.iter().any(|p| p.payload == document.token.as_bytes()), allowed, "{cn} reads {read:?}");
    }
    until("the device's get", PATIENCE, || (world.issuer.heard().unreadable.len() == 1).then_some(())).await;
}

#[tokio::test]
async fn the_sink_distinguishes_complete_and_cut_uploads() {
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
async fn taking_the_proxy_down_closes_connections_and_bringing_it_up_restores_them() {
    let world = World::new().await;
    let mut first = TcpStream::connect(world.proxy.addr).await.unwrap();
    until("the proxy to accept", PATIENCE, || (world.proxy.accepted() == 1).then_some(())).await;
    world.proxy.cut().await;
    let mut byte = [0];
    let end = tokio::io::AsyncReadExt::read(&mut first, &mut byte).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[test]
fn the_recorded_video_has_its_documented_properties() {
    let found = probe(recorded());
    assert_eq!((found.codec.as_str(), found.height, found.complaints.as_str()), ("h264", 180, ""));
    assert_eq!(found.pts.len(), 10 * FPS as usize);
    assert!(found.longest_step() < 1.5);
}

/// Checks with an echo server that every fault has its effect: a fault without effect would prove nothing.
#[tokio::test]
async fn each_network_fault_has_its_documented_effect() {
    let mut faults = tokio::task::JoinSet::new();
    for fault in Fault::ALL {
        faults.spawn(async move { strikes(fault).await });
    }
    faults.join_all().await;
}

async fn strikes(fault: Fault) {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(echo.local_addr().unwrap()).await;
    tokio::spawn(async move {
        let mut peers = tokio::task::JoinSet::new();
        while let Ok((mut peer, _)) = echo.accept().await {
            peers.spawn(async move {
                let (mut read, mut write) = peer.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    assert_eq!(exchange_within(PATIENCE, &mut stream).await.unwrap().unwrap(), vec![7; 1000], "{fault:?}: without a fault");
    proxy.control.inject(fault);
    let started = std::time::Instant::now();
    let short = Duration::from_millis(1500);
    let silent = matches!(fault, Fault::HalfOpen | Fault::Blackhole | Fault::Stall);
    let came = exchange_within(if silent { short } else { PATIENCE }, &mut stream).await;
    let took = started.elapsed();
    match fault {
        Fault::Latency | Fault::Bandwidth => {
            assert!(came.unwrap().unwrap() == vec![7; 1000] && took > Duration::from_millis(500), "{took:?}")
        }
        Fault::Slicing => assert_eq!(came.unwrap().unwrap(), vec![7; 1000]),
        Fault::Corruption => {
            let bytes = came.unwrap().unwrap();
            assert!(bytes.len() == 1000 && bytes != vec![7; 1000]);
        }
        Fault::Truncation => assert!((1..1000).contains(&came.unwrap().unwrap().len())),
        Fault::Close => assert!(came.unwrap().unwrap_or_default().is_empty()),
        Fault::SlowClose => assert!(came.unwrap().unwrap().is_empty() && took > Duration::from_secs(1), "{took:?}"),
        Fault::Reset => assert_eq!(came.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        Fault::Refused => {
            assert!(came.unwrap().is_err());
            let again = TcpStream::connect(proxy.addr).await.unwrap_err();
            assert_eq!(again.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        Fault::HalfOpen => assert!(came.is_err(), "data arrived"),
        Fault::Blackhole => {
            assert!(came.is_err(), "data arrived");
            assert!(tokio::time::timeout(short, TcpStream::connect(proxy.addr)).await.is_err(), "the SYN was answered");
        }
        Fault::Stall => {
            assert!(came.is_err(), "data arrived");
            proxy.control.lift();
            let mut late = vec![0; 1000];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut late).await.unwrap();
            assert_eq!(late, vec![7; 1000]);
        }
    }
    assert!(proxy.control.hits() > 0, "{fault:?} is not counted");
    proxy.control.lift();
    let mut anew = TcpStream::connect(proxy.addr).await;
    for _ in 0..50 {
        if anew.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        anew = TcpStream::connect(proxy.addr).await;
    }
    assert_eq!(exchange_within(PATIENCE, &mut anew.unwrap()).await.unwrap().unwrap(), vec![7; 1000], "{fault:?}: lifted");
}

/// Runs [`exchange`] with a thousand bytes and this timeout.
async fn exchange_within(time: Duration, stream: &mut TcpStream) -> Result<std::io::Result<Vec<u8>>, tokio::time::error::Elapsed> {
    tokio::time::timeout(time, exchange(stream, 1000)).await
}

/// Sends so many bytes and returns what comes back, up to the same number or the end.
async fn exchange(stream: &mut TcpStream, bytes: usize) -> std::io::Result<Vec<u8>> {
    tokio::io::AsyncWriteExt::write_all(stream, &vec![7; bytes]).await?;
    let mut came = Vec::new();
    while came.len() < bytes {
        if tokio::io::AsyncReadExt::read_buf(stream, &mut came).await? == 0 {
            break;
        }
    }
    Ok(came)
}
