//! What arrives: subscribing, order of acknowledgement, the end of a connection, bursts.

use rumqttc::{Packet, Publish, QoS, SubscribeReasonCode};

use super::{
    broker::{Broker, DEVICE, ENTITLEMENT, OVERSIZE, STATUS, document, encode},
    owner::{Owner, settings},
};
use crate::link::{Connection, EVENTS, Event, LinkState, Stage};

#[tokio::test]
async fn a_connection_begins_with_subscribe_and_online() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.accept().await;
    let Packet::Connect(connect) = peer.next().await else { panic!("the first packet is CONNECT") };
    assert_eq!((connect.client_id.as_str(), connect.keep_alive, connect.clean_session), (DEVICE, 30, false));
    let will = connect.last_will.unwrap();
    assert_eq!((will.topic.as_str(), &will.message[..], will.retain), (STATUS, &b"offline"[..], true));
    peer.connack(false).await;
    peer.grant().await;
    let Some(Packet::Publish(online)) = peer.any_next().await else { panic!("expected PUBLISH") };
    assert_eq!((online.topic.as_str(), &online.payload[..], online.retain), (STATUS, &b"online"[..], true));

    let connection = Connection(1);
    assert_eq!(owner.next().await, Event::Connected { connection, session_present: false, valid_until: care_engine::trusted_time::LATEST });
    assert_eq!(owner.next().await, Event::SubscribeSent { connection });
    assert_eq!(owner.next().await, Event::Subscribed { connection });
    assert_eq!(owner.link.status().state, LinkState::Subscribed);
}

/// R250: a resumed session sends neither SUBACK nor the retained copy by itself.
#[tokio::test]
async fn a_resumed_session_is_subscribed_again_exactly_once() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    // The first connection ends while its SUBSCRIBE may still be under way.
    drop(broker.connection(false).await);
    let mut peer = broker.session(true).await;
    peer.document(1, "one").await;
    let ack = owner.until(|event| if let Event::Publish { ack, .. } = event { ack } else { None }).await;
    owner.link.ack(ack);
    assert_eq!(peer.puback_in().await, 1);
}

#[tokio::test]
async fn acknowledgements_leave_in_order_of_arrival() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    let mut acks = Vec::new();
    for (packet, text) in [(7, "a"), (3, "b"), (9, "c")] {
        peer.document(packet, text).await;
        let document = owner.document().await;
        assert_eq!(document.text, text);
        acks.push(document.ack.unwrap());
    }
    assert_eq!(owner.link.status().unacknowledged, 3);
    owner.link.ack(acks[2]);
    owner.link.ack(acks[1]);
    // Were the two on their way, they would arrive before this.
    owner.report(1);
    let report = peer.publish_in().await;
    peer.puback(report.pkid).await;
    assert_eq!(owner.published().await, 1);
    owner.link.ack(acks[0]);
    assert_eq!([peer.puback_in().await, peer.puback_in().await, peer.puback_in().await], [7, 3, 9]);
}

/// What was read before a connection is lost must not be lost with it, nor acknowledged on the next.
#[tokio::test]
async fn late_events_are_delivered_before_lost_and_cannot_be_acknowledged() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    peer.document(1, "early").await;
    let early = owner.document().await;
    // In one segment: a cancel, and what ends the connection while rumqttc still holds the cancel back.
    let mut last = encode(document(2, "cancel"));
    last.extend_from_slice(&OVERSIZE);
    peer.bytes(&last).await;
    let cancel = owner.document().await;
    assert_eq!((cancel.text.as_str(), cancel.connection, cancel.ack), ("cancel", Connection(1), None));
    assert_eq!(owner.lost().await.0, Some(Connection(1)));

    let mut peer = broker.session(true).await;
    peer.document(1, "other").await;
    let other = owner.document().await;
    assert_eq!((other.text.as_str(), other.connection), ("other", Connection(2)));
    // The right to acknowledge packet 1 of the first connection is not that of packet 1 of the second.
    owner.link.ack(early.ack.unwrap());
    owner.report(1);
    assert_eq!(peer.publish_in().await.payload, "report 1");
    owner.link.ack(other.ack.unwrap());
    assert_eq!(peer.puback_in().await, 1);
}

#[tokio::test]
async fn a_burst_waits_at_the_broker_not_in_memory() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    const DOCUMENTS: u16 = 1000;
    let mut burst = Vec::new();
    (1..=DOCUMENTS).for_each(|packet| burst.extend_from_slice(&encode(document(packet, &format!("{packet:0>8000}")))));
    // 8 MB: far more than the sockets hold, so the broker is still writing when the owner begins to read.
    let send = async {
        peer.bytes(&burst).await;
        for packet in 1..=DOCUMENTS {
            assert_eq!(peer.puback_in().await, packet);
        }
    };
    let receive = async {
        for packet in 1..=DOCUMENTS {
            let document = owner.document().await;
            assert_eq!(document.text.parse::<u16>().unwrap(), packet);
            assert!(owner.events.len() <= EVENTS);
            owner.link.ack(document.ack.unwrap());
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn a_document_of_200_kib_is_delivered_whole() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    let large = "x".repeat(200 * 1024);
    let (_, document) = tokio::join!(peer.document(1, &large), owner.document());
    assert_eq!(document.text, large);
    owner.link.ack(document.ack.unwrap());
    assert_eq!(peer.puback_in().await, 1);
}

/// Scenario 57: NATS and others may grant QoS 0 only, and keep no session.
#[tokio::test]
async fn a_broker_that_grants_qos_0_only_works_without_acknowledgements() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.connection(false).await;
    let packet = peer.subscribe_in().await;
    peer.suback(packet, [SubscribeReasonCode::Success(QoS::AtMostOnce); 3]).await;
    owner.subscribed().await;
    peer.send(Packet::Publish(Publish::new(ENTITLEMENT, QoS::AtMostOnce, "zero"))).await;
    let document = owner.document().await;
    assert_eq!((document.text.as_str(), document.ack), ("zero", None));
}

#[tokio::test]
async fn only_entitlement_must_be_granted() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    let mut peer = broker.connection(false).await;
    let packet = peer.subscribe_in().await;
    peer.suback(packet, [SubscribeReasonCode::Failure, granted, granted]).await;
    let (connection, fault) = owner.lost().await;
    assert_eq!((connection, fault.stage), (Some(Connection(1)), Stage::Suback));
    assert!(fault.reason.contains("refuses the subscription to care/v1/8006E5A1F0C2/entitlement"), "{fault}");
    // It tries again, and the other two may be refused.
    let mut peer = broker.connection(false).await;
    let packet = peer.subscribe_in().await;
    peer.suback(packet, [granted, SubscribeReasonCode::Failure, SubscribeReasonCode::Failure]).await;
    assert_eq!(owner.subscribed().await, Connection(2));
}

#[tokio::test]
async fn a_topic_that_we_did_not_subscribe_to_is_acknowledged_and_not_delivered() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    let mut foreign = Publish::new("care/v1/OTHER/entitlement", QoS::AtLeastOnce, "foreign");
    foreign.pkid = 4;
    peer.send(Packet::Publish(foreign)).await;
    assert_eq!(peer.puback_in().await, 4);
    peer.document(5, "ours").await;
    assert_eq!(owner.document().await.text, "ours");
}
