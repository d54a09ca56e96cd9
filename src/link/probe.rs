//! One attempt, for `check-config --connect`: CONNECT, SUBSCRIBE, DISCONNECT. It publishes nothing, acknowledges nothing and
//! has no last will, so that it changes nothing of what the broker holds for this device.

use std::{sync::Arc, time::Duration};

use care_protocol::Topics;
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS, SubscribeFilter, TlsConfiguration, Transport};
use tokio::time::timeout;

use super::{LinkFault, MAX_PACKET, Stage, session::granted};
use crate::{config::Broker, tls};

/// Connects and subscribes as the agent does. `client_id` is the device id, unless an agent is connected under it: a broker
/// ends the older of two connections of the same id. `session` keeps the broker's session, which is only right under the
/// device's own id.
///
/// # Errors
/// The stage that failed; each may take `within`.
pub async fn probe(
    broker: &Broker,
    tls: Option<tls::Client>,
    topics: &Topics,
    client_id: &str,
    session: bool,
    within: Duration,
) -> Result<(), LinkFault> {
    let mut options = MqttOptions::new(client_id, &broker.endpoint.host, broker.endpoint.port);
    options.set_manual_acks(true).set_clean_session(!session).set_max_packet_size(MAX_PACKET, MAX_PACKET);
    if let Some(tls) = tls {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls.connection()))));
    }
    let (client, mut eventloop) = AsyncClient::new(options, 10);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(within.as_secs().max(1));
    eventloop.set_network_options(network);

    let mut reached = Stage::Connack;
    let attempt = async {
        loop {
            match eventloop.poll().await.map_err(|error| LinkFault::from_rumqttc(&error, reached))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    reached = Stage::Suback;
                    let filters = [topics.entitlement(), topics.answer(), topics.keyset()];
                    let filters = filters.map(|topic| SubscribeFilter::new(topic, QoS::AtLeastOnce));
                    client.try_subscribe_many(filters).map_err(|error| LinkFault::new(reached, error.to_string()))?;
                }
                Event::Incoming(Packet::SubAck(suback)) => {
                    granted(&suback)?;
                    client.try_disconnect().map_err(|error| LinkFault::new(Stage::Session, error.to_string()))?;
                }
                Event::Outgoing(rumqttc::Outgoing::Disconnect) => return Ok(()),
                _ => {}
            }
        }
    };
    let ended = timeout(2 * within, attempt).await;
    ended.unwrap_or_else(|_| Err(LinkFault::new(reached, "the broker did not answer in time")))
}
