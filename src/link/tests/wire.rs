//! What one write of the wire carries.

use std::time::Duration;

use bytes::BytesMut;
use rumqttc::{ConnAck, ConnectReturnCode, Event, Outgoing, Packet, PubAck, Publish, QoS, Request, mqttbytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::broker::PATIENCE;
use crate::link::{
    MAX_PACKET,
    wire::{Options, Wire},
};

/// A connected wire, its channel, and the broker's end.
async fn connected(inflight: u16) -> (tokio::sync::mpsc::Sender<Request>, Wire, DuplexStream) {
    let options = Options {
        client_id: "camera".to_owned(),
        keep_alive: PATIENCE,
        last_will: None,
        login: None,
        max_packet: MAX_PACKET,
        inflight,
        write_timeout: Duration::from_secs(5),
    };
    let (requests, mut wire) = Wire::new(options, 64);
    let (ours, mut broker) = duplex(MAX_PACKET);
    let mut connack = BytesMut::new();
    ConnAck::new(ConnectReturnCode::Success, false).write(&mut connack).unwrap();
    broker.write_all(&connack).await.unwrap();
    wire.connect(Box::new(ours), true).await.unwrap();
    assert!(matches!(written(&mut broker).await[..], [Packet::Connect(_)]));
    (requests, wire, broker)
}

/// All packets that are written by now.
async fn written(broker: &mut DuplexStream) -> Vec<Packet> {
    let mut bytes = BytesMut::with_capacity(MAX_PACKET);
    broker.read_buf(&mut bytes).await.unwrap();
    std::iter::from_fn(|| match Packet::read(&mut bytes, MAX_PACKET) {
        Ok(packet) => Some(packet),
        Err(mqttbytes::Error::InsufficientBytes(_)) => None,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

fn report() -> Request {
    Request::Publish(Publish::new("report", QoS::AtLeastOnce, "{}"))
}

#[tokio::test]
async fn a_report_leaves_with_the_acknowledgement_of_its_document() {
    let (requests, mut wire, mut broker) = connected(8).await;
    requests.try_send(Request::PubAck(PubAck::new(7))).unwrap();
    requests.try_send(report()).unwrap();
    // The first event comes after the first write, before any other.
    assert_eq!(wire.poll().await.unwrap(), Event::Outgoing(Outgoing::PubAck(7)));
    let packets = written(&mut broker).await;
    assert!(matches!(&packets[..], [Packet::PubAck(puback), Packet::Publish(_)] if puback.pkid == 7), "{packets:?}");
    assert_eq!(wire.poll().await.unwrap(), Event::Outgoing(Outgoing::Publish(1)));
}

#[tokio::test]
async fn one_write_carries_no_more_publications_than_may_be_in_flight() {
    let (requests, mut wire, mut broker) = connected(2).await;
    (0..3).for_each(|_| requests.try_send(report()).unwrap());
    for packet in [1, 2] {
        assert_eq!(wire.poll().await.unwrap(), Event::Outgoing(Outgoing::Publish(packet)));
    }
    assert_eq!(written(&mut broker).await.len(), 2);
    let mut puback = BytesMut::new();
    PubAck::new(1).write(&mut puback).unwrap();
    broker.write_all(&puback).await.unwrap();
    assert_eq!(wire.poll().await.unwrap(), Event::Incoming(Packet::PubAck(PubAck::new(1))));
    assert_eq!(wire.poll().await.unwrap(), Event::Outgoing(Outgoing::Publish(1)), "the third");
    assert_eq!(written(&mut broker).await.len(), 1);
}
