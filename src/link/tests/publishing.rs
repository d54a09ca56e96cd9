//! What leaves: order, the limit on what is outstanding, lost sessions, packet-identifier collisions, the farewell.

use std::time::{Duration, Instant};

use rumqttc::Packet;

use super::{
    broker::{Broker, Peer, STATUS},
    owner::{Owner, settings},
};
use crate::link::{EVENTS, Event, MAX_PACKET, outbox::Outbox};

async fn report_in(peer: &mut Peer) -> (u16, u64) {
    let publish = peer.publish_in().await;
    let text = String::from_utf8(publish.payload.to_vec()).unwrap();
    (publish.pkid, text.strip_prefix("report ").expect("a report").parse().unwrap())
}

/// Grants and acknowledges whatever comes, until this report; the reports in order.
async fn serve_until(peer: &mut Peer, last: u64) -> Vec<u64> {
    let mut reports = Vec::new();
    let mut subscribed = false;
    while reports.last() != Some(&last) {
        match peer.next().await {
            Packet::Publish(publish) => {
                assert!(subscribed, "a cancel must not wait for what a resumed session repeats");
                let text = String::from_utf8(publish.payload.to_vec()).unwrap();
                reports.extend(text.strip_prefix("report ").map(|ticket| ticket.parse::<u64>().unwrap()));
                peer.puback(publish.pkid).await;
            }
            Packet::Subscribe(subscribe) => {
                subscribed = true;
                let granted = rumqttc::SubscribeReasonCode::Success(rumqttc::QoS::AtLeastOnce);
                peer.suback(subscribe.pkid, [granted; 3]).await;
            }
            other => panic!("{other:?}"),
        }
    }
    reports
}

#[tokio::test]
async fn at_most_eight_are_outstanding_and_all_arrive_in_order() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    (0..30).for_each(|ticket| owner.report(ticket));
    let mut unacknowledged = Vec::new();
    for ticket in 0..8 {
        let (packet, got) = report_in(&mut peer).await;
        assert_eq!(got, ticket);
        unacknowledged.push(packet);
    }
    // Were there a ninth on its way, it would come before this acknowledgement.
    peer.document(1, "x").await;
    let ack = owner.document().await.ack.unwrap();
    owner.link.ack(ack);
    assert_eq!(peer.puback_in().await, 1);
    assert_eq!((owner.link.status().outstanding, owner.link.status().queued), (8, 22));
    // Acknowledged in another order; those that follow keep theirs.
    for (ticket, packet) in [(0, unacknowledged[0]), (1, unacknowledged[1])] {
        peer.puback(packet).await;
        assert_eq!(owner.published().await, ticket);
    }
    peer.puback(unacknowledged[7]).await;
    assert_eq!(owner.published().await, 7);
    for packet in &unacknowledged[2..7] {
        peer.puback(*packet).await;
    }
    for ticket in 8..30 {
        let (packet, got) = report_in(&mut peer).await;
        assert_eq!(got, ticket);
        peer.puback(packet).await;
    }
    let mut tickets = Vec::new();
    while tickets.len() < 27 {
        tickets.push(owner.published().await);
    }
    assert_eq!(tickets, (2..7).chain(8..30).collect::<Vec<_>>());
}

/// MQTT 3.1.1, 3.3.1.1: rumqttc sends it again as if for the first time.
#[tokio::test]
async fn what_is_sent_again_says_that_it_is() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    owner.report(1);
    let first = peer.publish_in().await;
    assert!(!first.dup);
    drop(peer);
    let mut peer = broker.connection(true).await;
    peer.grant().await;
    let again = peer.publish_in().await;
    assert_eq!((again.pkid, again.dup, again.payload), (first.pkid, true, first.payload));
}

#[tokio::test]
async fn a_resumed_session_repeats_what_was_outstanding_and_a_lost_one_forgets_it() {
    for session_present in [true, false] {
        let broker = Broker::new().await;
        let mut owner = Owner::new(settings(broker.port()));
        let mut peer = broker.session(false).await;
        owner.subscribed().await;
        (0..10).for_each(|ticket| owner.report(ticket));
        for ticket in 0..8 {
            assert_eq!(report_in(&mut peer).await.1, ticket);
        }
        drop(peer);
        let mut peer = broker.connection(session_present).await;
        let reports = serve_until(&mut peer, 9).await;
        let expected: Vec<u64> = if session_present { (0..10).collect() } else { vec![8, 9] };
        assert_eq!(reports, expected, "session_present: {session_present}");
        let mut tickets = Vec::new();
        while tickets.len() < expected.len() {
            tickets.push(owner.published().await);
        }
        assert_eq!(tickets, expected);
    }
}

/// R1056, R1014: a publication that waits for its identifier survives `clean()` and blocks all others for ever.
#[tokio::test]
async fn a_collision_of_packet_identifiers_does_not_outlive_the_connection() {
    for session_present in [true, false] {
        let broker = Broker::new().await;
        let mut owner = Owner::new(settings(broker.port()));
        let mut peer = broker.session(false).await;
        owner.subscribed().await;
        // The first is never acknowledged; all others are, until its identifier comes round again.
        owner.report(0);
        let (stuck, _) = report_in(&mut peer).await;
        let mut ticket = 0;
        loop {
            ticket += 1;
            owner.report(ticket);
            // The identifiers run from 1 to 100.
            if ticket == 100 {
                break;
            }
            let (packet, got) = report_in(&mut peer).await;
            assert!(packet != stuck && got == ticket);
            peer.puback(packet).await;
            assert_eq!(owner.published().await, ticket);
        }
        // Report 100 waits for identifier `stuck`, and nothing after it moves: then the connection ends.
        drop(peer);
        let mut peer = broker.connection(session_present).await;
        owner.report(101);
        let got = serve_until(&mut peer, 101).await;
        assert_eq!(got, if session_present { vec![0, 100, 101] } else { vec![101] });
        let last = owner.until(|event| if let Event::Published { ticket } = event { (ticket == 101).then_some(ticket) } else { None });
        assert_eq!(last.await, 101);
    }
}

#[tokio::test]
async fn what_mqtt_cannot_carry_is_refused_and_costs_nothing() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    owner.link.publish("a/b".into(), vec![0; MAX_PACKET], false, 1);
    owner.link.publish("a/+".into(), vec![], false, 2);
    assert_eq!(owner.link.status().dropped, 2);
    // The largest that fits goes out.
    let largest = vec![0; MAX_PACKET - 3 - 9];
    owner.link.publish("a/b".into(), largest.clone(), false, 3);
    assert_eq!(peer.publish_in().await.payload, largest);
}

#[tokio::test]
async fn the_oldest_gives_way_while_there_is_no_broker() {
    let broker = Broker::new().await;
    let port = broker.port();
    drop(broker);
    let owner = Owner::new(settings(port));
    (0..Outbox::QUEUED as u64 + 5).for_each(|ticket| owner.report(ticket));
    let status = owner.link.status();
    assert_eq!((status.queued, status.dropped), (Outbox::QUEUED, 5));
}

#[tokio::test]
async fn stop_sends_what_is_queued_then_offline_then_disconnect() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    (0..10).for_each(|ticket| owner.report(ticket));
    // The owner serves its channel no more.
    let stop = tokio::spawn(owner.link.stop(Duration::from_secs(10)));
    for ticket in 0..10 {
        let (packet, got) = report_in(&mut peer).await;
        assert_eq!(got, ticket);
        peer.puback(packet).await;
    }
    let offline = peer.publish_in().await;
    assert_eq!((offline.topic.as_str(), &offline.payload[..], offline.retain), (STATUS, &b"offline"[..], true));
    peer.puback(offline.pkid).await;
    assert_eq!(peer.next().await, Packet::Disconnect);
    assert!(peer.try_next().await.is_none());
    assert!(stop.await.unwrap());
    drop(owner.events);
}

#[tokio::test]
async fn stop_ends_although_its_owner_left_the_channel_full() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    for packet in 1..=2 * EVENTS as u16 {
        peer.document(packet, "x").await;
    }
    while owner.events.len() < EVENTS {
        tokio::task::yield_now().await;
    }
    let stop = tokio::spawn(owner.link.stop(Duration::from_secs(10)));
    let offline = peer.publish_in().await;
    peer.puback(offline.pkid).await;
    assert_eq!(peer.next().await, Packet::Disconnect);
    assert!(stop.await.unwrap());
    assert_eq!(owner.events.len(), EVENTS);
}

#[tokio::test]
async fn stop_does_not_wait_for_a_broker_that_is_silent_or_absent() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    assert!(!owner.link.stop(Duration::from_millis(100)).await);
    // Without DISCONNECT, so that the broker publishes the last will.
    assert_eq!(peer.publish_in().await.payload, "offline");
    assert!(peer.try_next().await.is_none());

    let port = broker.port();
    drop(broker);
    let mut owner = Owner::new(crate::link::Settings { backoff_first: Duration::from_secs(3600), ..settings(port) });
    owner.lost().await;
    let begin = Instant::now();
    assert!(owner.link.stop(Duration::from_secs(10)).await);
    assert!(begin.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn reload_connects_anew_at_once_and_keeps_the_session() {
    let broker = Broker::new().await;
    // Only a reload can end this backoff.
    let long = Duration::from_secs(3600);
    let mut owner = Owner::new(crate::link::Settings { backoff_first: long, backoff_most: long, ..settings(broker.port()) });
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    owner.reload(broker.port());
    assert_eq!(peer.next().await, Packet::Disconnect);
    let mut peer = broker.session(true).await;
    owner.subscribed().await;
    peer.document(1, "x").await;
    assert_eq!(owner.document().await.text, "x");
    drop(peer);
    owner.lost().await;
    owner.reload(broker.port());
    broker.session(true).await;
}

#[tokio::test]
async fn a_reload_moves_to_another_broker_and_reports_go_there() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    let other = Broker::new().await;
    owner.reload(other.port());
    assert_eq!(peer.next().await, Packet::Disconnect);
    let mut peer = other.session(false).await;
    owner.subscribed().await;
    owner.report(3);
    assert_eq!(peer.publish_in().await.payload, "report 3");
    peer.document(1, "x").await;
    assert_eq!(owner.document().await.text, "x");
    drop(peer);
    owner.lost().await;
    other.session(true).await;
}

#[tokio::test]
async fn a_stop_right_after_a_reload_still_says_offline() {
    let broker = Broker::new().await;
    let mut owner = Owner::new(settings(broker.port()));
    let mut peer = broker.session(false).await;
    owner.subscribed().await;
    owner.reload(broker.port());
    let stop = tokio::spawn(owner.link.stop(Duration::from_secs(10)));
    assert_eq!(peer.next().await, Packet::Disconnect);
    // An attempt that the stop interrupted shows as a connection without a packet.
    let mut peer = loop {
        let mut peer = broker.accept().await;
        if let Some(packet) = peer.try_next().await {
            assert!(matches!(packet, Packet::Connect(_)));
            break peer;
        }
    };
    peer.connack(true).await;
    peer.grant().await;
    let offline = peer.publish_in().await;
    assert_eq!((offline.topic.as_str(), &offline.payload[..]), (STATUS, &b"offline"[..]));
    peer.puback(offline.pkid).await;
    assert_eq!(peer.next().await, Packet::Disconnect);
    assert!(stop.await.unwrap());
}
