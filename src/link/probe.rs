//! A round trip, for `check-config --connect`: CONNECT, SUBSCRIBE, `get`, and the entitlement in the answer. Only this
//! shows messages that an ACL drops silently: a SUBACK proves nothing. It acknowledges nothing and sets no last will,
//! so that the broker keeps this device's messages for the agent.

use std::time::Duration;

use bytes::Bytes;
use care_protocol::{Answer, Get, Topic, Topics};
use rumqttc::{Disconnect, Event, Outgoing, Packet, Publish, QoS, Request, Subscribe, SubscribeFilter};
use tokio::time::{Instant, timeout_at};

use super::{
    LinkFault, MAX_PACKET, Stage,
    subscription::{filters, granted},
    wire::{Options, Wire},
};
use crate::http::{self, Direct, Origin};

/// The result of the round trip.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The broker: `host:port`, and the address.
    pub peer: String,
    /// The token of the answer to our `get`.
    pub answer: Option<Bytes>,
    /// The retained entitlement.
    pub copy: Option<Bytes>,
    /// The retained keyset.
    pub keyset: Option<Bytes>,
}

/// Connects and subscribes as the agent does, sends `get`, and waits for its answer and the retained messages.
///
/// `client_id` is the device id, unless an agent is connected under it: a broker ends the older of two connections of
/// the same id. `session` keeps the broker's session; set it only with the device's own id.
///
/// # Errors
/// The stage that failed. Looking up and connecting may take `within`; the round trip may take as long again.
pub async fn probe(
    origin: &Origin,
    topics: &Topics,
    client_id: &str,
    session: bool,
    get: &Get,
    within: Duration,
) -> Result<Found, LinkFault> {
    let deadline = Instant::now() + within;
    let from_http = |fault: http::Fault| LinkFault::from_http(&fault);
    let connection = http::open(&Direct, origin, deadline).await.map_err(from_http)?;
    let peer = connection.peer_name().to_owned();
    let options = Options {
        client_id: client_id.to_owned(),
        keep_alive: Duration::from_secs(30),
        last_will: None,
        login: None,
        max_packet: MAX_PACKET,
        inflight: 10,
        write_timeout: within,
    };
    let (client, mut wire) = Wire::new(options, 10);
    let deadline = Instant::now() + within;
    let (stream, _) = connection.into_stream();
    let silence = |stage| LinkFault::new(stage, format!("connection to {peer}: no answer within {} s", within.as_secs_f64()));
    let connected = timeout_at(deadline, wire.connect(stream, !session)).await.map_err(|_| silence(Stage::Connack))?;
    connected.map_err(|error| LinkFault::from_wire(&error, Stage::Connack, &peer))?;
    wire.pending
        .push_back(Request::Subscribe(Subscribe::new_many(filters(topics).map(|topic| SubscribeFilter::new(topic, QoS::AtLeastOnce)))));

    let mut reached = Stage::Suback;
    let mut found = Found { peer: peer.clone(), ..Found::default() };
    loop {
        let event = match timeout_at(deadline, wire.poll()).await {
            Ok(Ok(event)) => event,
            Ok(Err(error)) => {
                let fault = LinkFault::from_wire(&error, reached, &peer);
                let target = if reached == Stage::Suback { filters(topics).join(", ") } else { topics.get() };
                let verb = if reached == Stage::Suback { "SUBSCRIBE" } else { "PUBLISH" };
                return Err(LinkFault { reason: format!("{}, after {verb} to {target}", fault.reason), ..fault });
            }
            Err(_) if reached == Stage::Suback => return Err(silence(Stage::Suback)),
            Err(_) => break,
        };
        match event {
            Event::Incoming(Packet::SubAck(suback)) => {
                granted(&suback, topics, &peer)?;
                reached = Stage::Session;
                let payload = serde_json::to_vec(get).expect("plain data");
                wire.pending.push_back(Request::Publish(Publish::new(topics.get(), QoS::AtLeastOnce, payload)));
            }
            Event::Incoming(Packet::Publish(Publish { topic, payload, .. })) => match topics.classify(&topic) {
                Some(Topic::Answer) => {
                    // It answers another client's `get`.
                    let answer = Answer::read(&payload).ok().filter(|answer| answer.nonce == get.nonce);
                    if let Some(answer) = answer {
                        found.answer = Some(answer.token.into());
                        break;
                    }
                }
                Some(Topic::Entitlement) => found.copy = Some(payload).filter(|payload| !payload.is_empty()),
                Some(Topic::Keyset) => found.keyset = Some(payload).filter(|payload| !payload.is_empty()),
                None => {}
            },
            _ => {}
        }
    }
    // DISCONNECT, so that the broker does not wait for a keep-alive. Its result does not matter.
    let _ = client.try_send(Request::Disconnect(Disconnect));
    let farewell = async { while !matches!(wire.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)) {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
    Ok(found)
}
