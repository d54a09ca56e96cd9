//! care-cloud's MQTT connection: publishes the outbox, answers every `get`, receives reports and status. One task owns
//! the client library's event loop. After a lost connection it starts a new client, because the outbox in the database
//! holds the unsent messages, not the library's queue.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use care_protocol::{Answer, DeviceId, Get, Position, Report, Topics};
use rumqttc::{
    AsyncClient, ConnectReturnCode, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet, Publish, QoS, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::now_us,
    domain::{issuer::token_for, reports},
    fail_point,
    storage::{db::DbError, outbox, pki::CLOUD_NAME},
    transport::{broker::BrokerAddress, cloud::Cloud, events::CloudEvent, publications::Publication},
};

/// Why a connection ended.
#[derive(Debug, Error)]
enum LinkError {
    #[error("connecting to the broker: {0}")]
    Connection(#[from] rumqttc::ConnectionError),
    #[error("the broker refused the connection: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the broker refused a subscription: its ACL must let {CLOUD_NAME} read every device's topics")]
    NotSubscribed,
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("publishing: {0}")]
    Publish(#[from] rumqttc::ClientError),
    #[error("the connection's other half ended")]
    Ended,
}

/// The largest payload taken from a camera, bytes.
const MAX_PAYLOAD: usize = 256 * 1024;
const QUEUE: usize = 64;
/// Messages of cameras that may wait to be processed. Beyond them the link stops reading, and the rest waits at the
/// broker.
const INBOX: usize = 1024;

/// Runs for ever: connects, serves the connection until it is lost, and connects again.
pub async fn run(cloud: Arc<Cloud>) {
    let address = cloud.link.clone();
    let Some(mut publications) = cloud.publications.take() else { return tracing::error!("the link runs already") };
    let (inbox_tx, inbox_rx) = mpsc::channel(INBOX);
    tokio::spawn(read_inbox(cloud.clone(), inbox_rx));
    let mut pause = Duration::ZERO;
    loop {
        let began = std::time::Instant::now();
        let e = session(&cloud, &address, &inbox_tx, &mut publications).await;
        cloud.observed.count(|counts| counts.broker_connected = false);
        if began.elapsed() > Duration::from_secs(5) {
            pause = Duration::ZERO;
        }
        pause = (pause * 2).clamp(Duration::from_millis(50), Duration::from_secs(2));
        tracing::warn!("{e}; again in {pause:?}");
        tokio::time::sleep(pause).await;
    }
}

/// Publishes that are not acknowledged, by packet id once they have one. The library numbers them in the order of
/// submission.
#[derive(Default)]
struct Outstanding {
    given: VecDeque<Option<Sent>>,
    numbered: HashMap<u16, Option<Sent>>,
    /// Documents that were published in this session and are not yet marked in the database.
    in_flight: HashSet<i64>,
}

/// A document being sent to the broker.
#[derive(Clone, Copy)]
struct Sent {
    document: i64,
    seq: u64,
}

async fn session(
    cloud: &Arc<Cloud>,
    address: &BrokerAddress,
    inbox: &mpsc::Sender<Publish>,
    publications: &mut mpsc::UnboundedReceiver<Publication>,
) -> LinkError {
    let mut options = MqttOptions::new(&address.client_id, &address.host, address.port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(false).set_max_packet_size(MAX_PAYLOAD, MAX_PAYLOAD);
    if let Some(tls) = &address.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    let (client, mut eventloop) = AsyncClient::new(options, QUEUE);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    eventloop.set_network_options(network);

    let outstanding = Arc::new(Mutex::new(Outstanding::default()));
    let (ready_tx, ready_rx) = oneshot::channel();
    // Both halves live as long as the session: the event loop's `poll` is never cancelled half-way and used again.
    tokio::select! {
        e = poll(cloud, &client, eventloop, inbox, &outstanding, ready_tx) => e,
        e = publish(cloud, &client, publications, &outstanding, ready_rx) => e,
    }
}

async fn poll(
    cloud: &Arc<Cloud>,
    client: &AsyncClient,
    mut eventloop: EventLoop,
    inbox: &mpsc::Sender<Publish>,
    outstanding: &Arc<Mutex<Outstanding>>,
    ready: oneshot::Sender<bool>,
) -> LinkError {
    let mut ready = Some(ready);
    let mut session_present = false;
    loop {
        let event = match eventloop.poll().await {
            Ok(event) => event,
            Err(e) => return e.into(),
        };
        match event {
            Event::Incoming(Packet::ConnAck(connack)) => {
                if connack.code != ConnectReturnCode::Success {
                    return LinkError::Refused(connack.code);
                }
                session_present = connack.session_present;
                let prefix = &cloud.endpoints.prefix;
                let filters = ["report", "status", "get"].map(|leaf| SubscribeFilter::new(format!("{prefix}/+/{leaf}"), QoS::AtLeastOnce));
                if let Err(e) = client.try_subscribe_many(filters) {
                    return e.into();
                }
            }
            Event::Incoming(Packet::SubAck(suback)) => {
                if suback.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return LinkError::NotSubscribed;
                }
                tracing::info!(session_present, "connected to the broker");
                // The publisher may have ended already; then the session ends too.
                ready.take().map(|ready| ready.send(session_present));
                cloud.observed.count(|counts| {
                    counts.broker_connected = true;
                    counts.broker_connections += 1;
                });
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let taken = inbox.send(publish).await;
                if taken.is_err() {
                    return LinkError::Ended;
                }
            }
            Event::Outgoing(Outgoing::Publish(id)) => {
                let mut outstanding = outstanding.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(what) = outstanding.given.pop_front() {
                    outstanding.numbered.insert(id, what);
                    what.iter().for_each(|sent| fail_point::reach("on_the_wire", sent.seq));
                }
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                let what = outstanding.lock().unwrap_or_else(PoisonError::into_inner).numbered.remove(&ack.pkid).flatten();
                if let Some(sent) = what {
                    let at = now_us();
                    fail_point::reach("acknowledged", sent.seq);
                    // Not awaited, so that reading continues meanwhile.
                    tokio::spawn(mark_acked(cloud.clone(), outstanding.clone(), sent, at));
                }
            }
            _ => {}
        }
    }
}

async fn mark_acked(cloud: Arc<Cloud>, outstanding: Arc<Mutex<Outstanding>>, Sent { document, seq }: Sent, at: i64) {
    let marked = cloud.db.read_async(move |connection| {
        outbox::mark_acked(connection, document, at)?;
        let sql = "SELECT device FROM outbox WHERE document = ?1";
        Ok(connection.query_row(sql, [document], |row| row.get::<_, String>(0))?)
    });
    match marked.await {
        Ok(device) => cloud.events.send(CloudEvent::AtBroker { device }),
        Err(e) => tracing::error!("marking a document as published: {e}"),
    }
    fail_point::reach("marked_acknowledged", seq);
    // Not earlier: while the row is still due, it must not be published again.
    outstanding.lock().unwrap_or_else(PoisonError::into_inner).in_flight.remove(&document);
}

async fn publish(
    cloud: &Arc<Cloud>,
    client: &AsyncClient,
    publications: &mut mpsc::UnboundedReceiver<Publication>,
    outstanding: &Arc<Mutex<Outstanding>>,
    ready: oneshot::Receiver<bool>,
) -> LinkError {
    match publish_all(cloud, client, publications, outstanding, ready).await {
        Ok(()) => LinkError::Ended,
        Err(e) => e,
    }
}

async fn publish_all(
    cloud: &Arc<Cloud>,
    client: &AsyncClient,
    publications: &mut mpsc::UnboundedReceiver<Publication>,
    outstanding: &Arc<Mutex<Outstanding>>,
    ready: oneshot::Receiver<bool>,
) -> Result<(), LinkError> {
    let session_present = ready.await.map_err(|_| LinkError::Ended)?;
    let give = |what| outstanding.lock().unwrap_or_else(PoisonError::into_inner).given.push_back(what);
    if !session_present {
        // A broker that lost our session may have lost its retained documents too.
        cloud.db.read_async(outbox::all_due_again).await?;
    }
    let mut published_keyset = 0;

    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        // The keyset is sent before any document that its key signed.
        let keys = cloud.issuer.keys.current();
        if keys.keyset.version != published_keyset {
            give(None);
            let topic = format!("{}/keyset", cloud.endpoints.prefix);
            client.publish(topic, QoS::AtLeastOnce, true, keys.token.clone()).await?;
            published_keyset = keys.keyset.version;
        }
        for document in cloud.db.read_async(|connection| outbox::due(connection, QUEUE)).await? {
            if !outstanding.lock().unwrap_or_else(PoisonError::into_inner).in_flight.insert(document.document) {
                continue;
            }
            fail_point::reach("before_publish", document.seq);
            give(Some(Sent { document: document.document, seq: document.seq }));
            let at = now_us();
            let topic = Topics::new(&cloud.endpoints.prefix, &document.device).entitlement();
            cloud.published(&document.device, Position { epoch: document.epoch, seq: document.seq });
            client.publish(topic, QoS::AtLeastOnce, true, document.token).await?;
            fail_point::reach("given_to_library", document.seq);
            cloud.db.read_async(move |connection| outbox::mark_published(connection, document.document, at)).await?;
            fail_point::reach("marked_published", document.seq);
        }
        tokio::select! {
            () = cloud.outbox.notified() => {}
            _ = tick.tick() => {}
            publication = publications.recv() => {
                let Publication { topic, payload } = publication.ok_or(LinkError::Ended)?;
                give(None);
                client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
            }
        }
    }
}

/// Processes the cameras' messages in order. A malformed message is logged and dropped.
async fn read_inbox(cloud: Arc<Cloud>, mut inbox: mpsc::Receiver<Publish>) {
    while let Some(publish) = inbox.recv().await {
        let at = now_us();
        let prefix = &cloud.endpoints.prefix;
        let path =
            publish.topic.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.split_once('/'));
        let Some((Ok(device), leaf)) = path.map(|(device, leaf)| (device.parse::<DeviceId>(), leaf)) else {
            tracing::warn!(topic = publish.topic, "a message on a topic of no device");
            continue;
        };
        let taken = match leaf {
            "report" => take_report(&cloud, &device, &publish, at).await,
            "status" => take_status(&cloud, &device, &publish, at).await,
            "get" => answer(&cloud, &device, &publish).await,
            _ => Ok(()),
        };
        if let Err(e) = taken {
            tracing::warn!(%device, leaf, "{e}");
        }
    }
}

/// Why a camera's message was dropped.
#[derive(Debug, Error)]
enum Dropped {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("a malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a message that does not fit its topic: {0}")]
    Wrong(&'static str),
}

async fn take_report(cloud: &Arc<Cloud>, device: &DeviceId, publish: &Publish, at: i64) -> Result<(), Dropped> {
    // A retained copy does not show when the report was made.
    let report: Report = serde_json::from_slice(&publish.payload)?;
    if report.device != *device {
        return Err(Dropped::Wrong("the report names another device"));
    }
    let in_force = Position { epoch: report.epoch, seq: report.seq };
    if !publish.retain {
        cloud.transfers.mark_reported(device, in_force);
    }
    fail_point::reach("reported", report.seq);
    let mode = report.mode.to_string();
    let line = (report.outcome, report.reason.clone(), report.cause, report.cut);
    let kept = cloud.db.transact_async(move |tx| reports::keep(tx, &report, at)).await?;
    cloud.transfers.revoke(&kept.revoked);
    if kept.reset {
        tracing::info!(%device, "was reset to factory settings: it gets nothing more until it is bound again");
    }
    if kept.new {
        let (outcome, reason, cause, cut) = line;
        cloud.observed.count(|counts| counts.reports[outcome as usize] += 1);
        kept.answered_us.into_iter().for_each(|took| cloud.observed.click_answered(took));
        tracing::info!(
            %device, %outcome, reason, %cause, mode, position = %in_force, transfers = cut.transfers, micros = cut.micros,
            bytes_after = cut.bytes_after, "reported"
        );
        cloud.events.send(CloudEvent::Reported { device: device.to_string(), mode });
    }
    Ok(())
}

async fn take_status(cloud: &Arc<Cloud>, device: &DeviceId, publish: &Publish, at: i64) -> Result<(), Dropped> {
    let status = match &publish.payload[..] {
        b"online" => "online",
        b"offline" => "offline",
        _ => return Err(Dropped::Wrong("a status is online or offline")),
    };
    let known = device.clone();
    if cloud.db.transact_async(move |tx| reports::set_status(tx, &known, status, at)).await? {
        tracing::info!(%device, status, "status");
        cloud.events.send(CloudEvent::Status { device: device.to_string() });
    }
    Ok(())
}

async fn answer(cloud: &Arc<Cloud>, device: &DeviceId, publish: &Publish) -> Result<(), Dropped> {
    let get: Get = serde_json::from_slice(&publish.payload)?;
    if !(22..=128).contains(&get.nonce.len()) {
        return Err(Dropped::Wrong("a nonce has 22 to 128 characters"));
    }
    let (asking, ratchet) = (device.clone(), get.epoch);
    let Some(token) = cloud.db.read_async(move |connection| token_for(connection, &asking, Some(ratchet))).await? else {
        return Ok(());
    };
    let payload = serde_json::to_vec(&Answer { nonce: get.nonce, token }).expect("plain data");
    cloud.publications.push(Publication { topic: Topics::new(&cloud.endpoints.prefix, device).answer(), payload });
    Ok(())
}
