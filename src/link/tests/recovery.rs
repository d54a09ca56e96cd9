//! Coming back: dead peers, packets that are too large, clones, failures in a row.

use std::time::{Duration, Instant};

use rumqttc::Packet;

use super::{
    broker::{Broker, OVERSIZE},
    owner::{Owner, settings},
};
use crate::{
    conditions::Conditions,
    link::{Connection, Event, LinkState, Settings, Stage},
};

/// Scenario 54.
#[tokio::test]
async fn silence_after_connect_times_out_and_is_tried_again() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(Settings { connect_timeout: Duration::from_millis(200), ..settings(broker.port()) });
    let mut silent = broker.accept().await;
    let (connection, fault) = owner.lost().await;
    assert_eq!((connection, fault.stage), (None, Stage::Connack));
    assert!(fault.reason.ends_with("no answer from the broker within 0.2 s"), "{fault}");
    assert!(matches!(silent.next().await, Packet::Connect(_)));
    silent.gone().await;
    let _peer = broker.session(false).await;
    assert_eq!(owner.subscribed().await, Connection(1));
}

/// Scenario 54.
#[tokio::test]
async fn silence_after_subscribe_times_out_even_while_documents_come() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(Settings { suback_timeout: Duration::from_millis(300), ..settings(broker.port()) });
    let mut peer = broker.connection(false).await;
    peer.subscribe_in().await;
    peer.document(1, "x").await;
    let (connection, fault) = owner.lost().await;
    assert_eq!((connection, fault.stage), (Some(Connection(1)), Stage::Suback));
    assert!(fault.reason.ends_with("no SUBACK within 0.3 s"), "{fault}");
    peer.gone().await;
    let _peer = broker.session(false).await;
    owner.subscribed().await;
}

/// Scenario 53: found within two keep-alives.
#[tokio::test]
async fn a_half_open_connection_is_found_by_its_unanswered_ping() {
    let broker = Broker::new().await;
    let keep_alive = Duration::from_secs(1);
    let mut owner = Owner::new(Settings { keep_alive, ..settings(broker.port()) });
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    let (_, fault) = owner.lost().await;
    assert_eq!(fault.stage, Stage::Session);
    assert!(fault.reason.ends_with("the broker did not answer a ping"), "{fault}");
    assert_eq!(peer.next().await, Packet::PingReq);
    peer.gone().await;
}

#[tokio::test]
async fn a_broker_that_stops_reading_is_left() {
    let broker = Broker::new().await;
    let mut owner =
        Owner::new(Settings { connect_timeout: Duration::from_secs(1), watchdog: Duration::from_secs(2), ..settings(broker.port()) });
    let peer = broker.session(false).await;
    owner.subscribed().await;
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(4096).unwrap();
    for ticket in 0..60 {
        owner.link.publish("a/b".into(), vec![0; 250_000], false, ticket);
    }
    let (connection, fault) = owner.lost().await;
    assert_eq!((connection, fault.stage), (Some(Connection(1)), Stage::Session));
    let reasons = ["the broker no longer reads what we send", "nothing moved for 2 s"];
    assert!(reasons.iter().any(|reason| fault.reason.ends_with(reason)), "{fault}");
}

#[tokio::test]
async fn the_watchdog_ends_a_connection_on_which_nothing_moves() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(Settings { watchdog: Duration::from_millis(300), ..settings(broker.port()) });
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    let (_, fault) = owner.lost().await;
    assert!(fault.stage == Stage::Session && fault.reason.ends_with("nothing moved for 0.3 s"), "{fault}");
    peer.gone().await;
    broker.session(true).await;
}

/// Scenario 61 and R884: without this guard the same packet is sent on every resumed session, for ever.
#[tokio::test]
async fn two_oversized_packets_in_a_row_cost_the_session_and_the_subscription_for_a_while() {
    let broker = Broker::new().await;
    let deferral = Duration::from_millis(500);
    let mut owner = Owner::new(Settings { keep_alive: Duration::from_secs(1), defer_subscribe: deferral, ..settings(broker.port()) });
    let mut deferred_at = None;
    for number in 1..=2 {
        let mut peer = broker.session(true).await;
        peer.bytes(&OVERSIZE).await;
        let connection = owner
            .until(|event| match event {
                Event::SubscribeDeferred { for_ } => {
                    assert_eq!((for_, number), (deferral, 2));
                    deferred_at = Some(Instant::now());
                    None
                }
                Event::Lost { connection, fault } => {
                    assert!(fault.reason.contains("1048576 bytes"), "{fault}");
                    connection
                }
                _ => None,
            })
            .await;
        assert_eq!(connection, Connection(number));
    }
    let deferred_at = deferred_at.expect("the owner is told to poll");

    let mut peer = broker.accept().await;
    let Packet::Connect(connect) = peer.next().await else { panic!("the first packet is CONNECT") };
    assert!(connect.clean_session, "the broker must forget the packet");
    peer.connack(false).await;
    // No SUBSCRIBE until the time is over; then a session that lasts again.
    owner
        .until(|event| match event {
            Event::SubscribeSent { .. } => panic!("subscribed too early"),
            Event::Connected { connection, .. } => (connection == Connection(3)).then_some(()),
            _ => None,
        })
        .await;
    assert_eq!(owner.link.status().state, LinkState::Connected);
    loop {
        match peer.next().await {
            Packet::PingReq => peer.send(Packet::PingResp).await,
            Packet::Disconnect => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(deferred_at.elapsed() >= deferral);
    let _peer = broker.session(false).await;
    owner.subscribed().await;
}

#[tokio::test]
async fn one_oversized_packet_or_two_apart_defer_nothing() {
    let broker = Broker::new().await;
    // Every connection counts as a good one.
    let mut owner = Owner::new(Settings { stable_after: Duration::ZERO, ..settings(broker.port()) });
    for _ in 0..4 {
        broker.session(true).await.bytes(&OVERSIZE).await;
        owner
            .until(|event| match event {
                Event::SubscribeDeferred { .. } => panic!("deferred"),
                Event::Lost { .. } => Some(()),
                _ => None,
            })
            .await;
    }
}

/// A connection that ends when everything on it was answered.
async fn settled_and_closed(broker: &Broker) {
    let mut peer = broker.session(true).await;
    let Some(Packet::Publish(online)) = peer.any_next().await else { panic!("expected PUBLISH") };
    peer.puback(online.pkid).await;
}

/// Scenario 55.
#[tokio::test]
async fn three_closes_soon_after_connack_are_a_clone_and_end_the_fight() {
    let broker = Broker::new().await;
    let away = Duration::from_millis(600);
    let settings = Settings { clone_backoff: away, ..settings(broker.port()) };
    let conditions = settings.conditions.clone();
    let mut owner = Owner::new(settings);
    for _ in 0..3 {
        settled_and_closed(&broker).await;
    }
    owner.until(|event| matches!(event, Event::CloneSuspected).then_some(())).await;
    assert!(broker.quiet_for(away / 2 - Duration::from_millis(100)).await, "it stays away for half the time at least");
    assert_eq!(named(&conditions), ["broker_clone"]);
    // Once suspected, every further close is answered with the same patience, and told once.
    settled_and_closed(&broker).await;
    let mut suspected = 0;
    owner
        .until(|event| {
            suspected += u32::from(event == Event::CloneSuspected);
            matches!(event, Event::Lost { connection: Some(Connection(4)), .. }).then_some(())
        })
        .await;
    assert_eq!(suspected, 0);
    assert!(broker.quiet_for(away / 2 - Duration::from_millis(100)).await);
}

/// A proxy whose broker is away, or a broker that refuses the device in this way: nothing tells of another client.
#[tokio::test]
async fn closes_right_after_connack_are_no_clone() {
    let broker = Broker::new().await;
    let settings = settings(broker.port());
    let conditions = settings.conditions.clone();
    let mut owner = Owner::new(settings);
    // SUBSCRIBE may cross the close: until one connection is closed before that, a right may be missing.
    let mut unasked = 0;
    while unasked < 5 {
        drop(broker.connection(false).await);
        let fault = owner
            .until(|event| match event {
                Event::CloneSuspected => panic!("no clone"),
                Event::Lost { fault, .. } => Some(fault),
                _ => None,
            })
            .await;
        unasked += u32::from(unasked > 0 || !fault.reason.contains("SUBSCRIBE"));
        if unasked > 0 {
            assert!(fault.reason.ends_with(" right after CONNACK") && fault.advice.contains("broker's log"), "{fault}");
            assert_eq!(named(&conditions), ["broker_unreachable"]);
        }
    }
}

fn named(conditions: &Conditions) -> Vec<String> {
    let now = care_engine::trusted_time::Now::default();
    conditions.list(now).into_iter().map(|condition| condition.name).collect()
}

/// What the broker closes the connection upon is named, with its topics, and is no clone.
#[tokio::test]
async fn a_close_upon_subscribe_or_publish_is_a_missing_right() {
    for (suback, topic) in [(false, "SUBSCRIBE to care/v1/8006E5A1F0C2/entitlement, "), (true, "PUBLISH to care/v1/8006E5A1F0C2/status")] {
        let broker = Broker::new().await;
        let settings = settings(broker.port());
        let conditions = settings.conditions.clone();
        let mut owner = Owner::new(settings);
        for number in 1..=4 {
            let mut peer = broker.connection(false).await;
            let packet = peer.subscribe_in().await;
            if suback {
                peer.suback(packet, [rumqttc::SubscribeReasonCode::Success(rumqttc::QoS::AtLeastOnce); 3]).await;
                assert!(matches!(peer.any_next().await, Some(Packet::Publish(_))));
            }
            drop(peer);
            let (_, fault) = owner
                .until(|event| match event {
                    Event::CloneSuspected => panic!("no clone"),
                    Event::Lost { connection, fault } => Some((connection, fault)),
                    _ => None,
                })
                .await;
            assert!(fault.reason.contains(topic), "{fault}");
            let name = if number == 1 { "broker_unreachable" } else { "broker_rights" };
            assert_eq!(named(&conditions), [name], "connection {number}");
        }
        let mut peer = broker.session(false).await;
        let Some(Packet::Publish(online)) = peer.any_next().await else { panic!("expected PUBLISH") };
        peer.puback(online.pkid).await;
        owner.subscribed().await;
        if !suback {
            assert_eq!(named(&conditions), [""; 0], "the subscription was granted");
        }
    }
}

/// One filter refused costs what it brings, and no more.
#[tokio::test]
async fn a_refused_subscription_names_its_topic_until_it_is_granted() {
    use rumqttc::{QoS, SubscribeReasonCode as Code};
    let broker = Broker::new().await;
    let settings = settings(broker.port());
    let conditions = settings.conditions.clone();
    let mut owner = Owner::new(settings);
    let mut peer = broker.connection(false).await;
    let packet = peer.subscribe_in().await;
    peer.suback(packet, [Code::Success(QoS::AtLeastOnce), Code::Success(QoS::AtLeastOnce), Code::Failure]).await;
    owner.subscribed().await;
    assert_eq!(named(&conditions), ["broker_rights"]);
    drop(peer);
    let mut peer = broker.connection(false).await;
    let packet = peer.subscribe_in().await;
    peer.suback(packet, [Code::Failure; 3]).await;
    let fault = owner
        .until(|event| if let Event::Lost { fault, .. } = event { (fault.stage == Stage::Suback).then_some(fault) } else { None })
        .await;
    assert!(fault.reason.contains("care/v1/8006E5A1F0C2/entitlement"), "{fault}");
    assert_eq!(named(&conditions), ["broker_rights"]);
    let _peer = broker.session(false).await;
    owner.subscribed().await;
    assert_eq!(named(&conditions), [""; 0]);
}

#[tokio::test]
async fn closes_of_stable_connections_are_no_clone() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(Settings { stable_after: Duration::ZERO, ..settings(broker.port()) });
    for _ in 0..5 {
        drop(broker.session(true).await);
        owner
            .until(|event| match event {
                Event::CloneSuspected => panic!("no clone"),
                Event::Lost { .. } => Some(()),
                _ => None,
            })
            .await;
    }
}

#[tokio::test]
async fn the_client_is_made_anew_after_failures_in_a_row_and_works() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(Settings { rebuild_after: 2, ..settings(broker.port()) });
    for _ in 0..4 {
        drop(broker.accept().await);
        assert_eq!(owner.lost().await.1.stage, Stage::Connack);
    }
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    assert_eq!(owner.link.status().rebuilds, 2);
    owner.report(1);
    let report = peer.publish_in().await;
    peer.puback(report.pkid).await;
    assert_eq!(owner.published().await, 1);
}

#[tokio::test]
async fn a_dropped_link_leaves_without_farewell() {
    let broker = Broker::new().await;
    let owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    drop(owner.link);
    assert_eq!(peer.try_next().await, None);
}

#[tokio::test]
async fn the_link_ends_when_its_owner_reads_no_more() {
    let broker = Broker::new().await;
    let owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    drop(owner.events);
    peer.document(1, "x").await;
    peer.gone().await;
    assert!(broker.quiet_for(Duration::from_millis(200)).await);
}
