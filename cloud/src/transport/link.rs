//! care-cloud's MQTT connection: publishes the outbox, answers every `get`, receives reports and status. One task owns
//! the client library's event loop. After a lost connection it starts a new client, because the outbox in the database
//! holds the unsent messages, not the library's queue.
//!
//! Both directions go in groups. Documents are read from the outbox in batches, and many are under way at once; what
//! became of them is written for many in one transaction. Messages of cameras are written for many in one transaction
//! too, and acknowledged to the broker after its commit: a crash at any moment leaves them at the broker.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use care_protocol::{Answer, DeviceId, Get, Position, Report, Topics};
use rumqttc::{
    AsyncClient, ConnectReturnCode, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet, Publish, QoS, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use thiserror::Error;
use tokio::sync::{OnceCell, Semaphore, mpsc, oneshot};

use crate::{
    clock::now_us,
    domain::{
        issuer::token_for,
        reports::{self, Kept},
    },
    fail_point,
    storage::{
        db::{DbError, Scope, Transaction, in_savepoint},
        outbox::{self, Due, Mark, Marked},
        pki::CLOUD_NAME,
        publisher::Publisher,
    },
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
    #[error("what became of documents could not be written")]
    NotMarked,
    #[error("the connection's other half ended")]
    Ended,
}

/// The largest payload taken from a camera, bytes.
const MAX_PAYLOAD: usize = 256 * 1024;
/// Publishes that the broker has not acknowledged, at most. The library counts to as many.
const IN_FLIGHT: u16 = 1000;
/// Documents read from the outbox at once, messages and marks written in one transaction, at most.
const GROUP: usize = 256;
/// Messages of cameras that may wait to be processed. Beyond them the link stops reading, and the rest waits at the
/// broker.
const INBOX: usize = 1024;
/// Requests to the library. There is always room for an acknowledgement, because no more messages can wait for one than
/// there are packet identifiers: the inbox is emptied even while the link waits for it and sends nothing. Brokers do not
/// all keep to a smaller window.
const QUEUE: usize = u16::MAX as usize + IN_FLIGHT as usize + 64;
/// How long after a failed transaction the messages are tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A message of a camera, and the connection to acknowledge it on.
struct Incoming {
    publish: Publish,
    /// When it arrived, microseconds.
    at: i64,
    client: AsyncClient,
}

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
#[derive(Clone)]
struct Sent {
    document: i64,
    seq: u64,
    device: DeviceId,
}

/// What both halves of a session share.
struct Session {
    outstanding: Mutex<Outstanding>,
    /// One permit for each publish that may be under way.
    room: Semaphore,
    marks: mpsc::UnboundedSender<Mark>,
    /// Marks were lost: their documents are due, and others may not take them.
    unmarked: AtomicBool,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, Outstanding> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, sent: Sent, what: Marked) {
        // As many as are under way: its receiver lives longer than the session.
        let Sent { document, seq, device } = sent;
        drop(self.marks.send(Mark { document, device, seq, at: now_us(), what }));
    }
}

async fn session(
    cloud: &Arc<Cloud>,
    address: &BrokerAddress,
    inbox: &mpsc::Sender<Incoming>,
    publications: &mut mpsc::UnboundedReceiver<Publication>,
) -> LinkError {
    let mut options = MqttOptions::new(&address.client_id, &address.host, address.port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(false).set_max_packet_size(MAX_PAYLOAD, MAX_PAYLOAD);
    options.set_inflight(IN_FLIGHT).set_manual_acks(true);
    if let Some(tls) = &address.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    let (client, mut eventloop) = AsyncClient::new(options, QUEUE);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    eventloop.set_network_options(network);

    let (marks, marks_rx) = mpsc::unbounded_channel();
    let session = Arc::new(Session {
        outstanding: Mutex::default(),
        room: Semaphore::new(IN_FLIGHT.into()),
        marks,
        unmarked: AtomicBool::new(false),
    });
    // Weak: it ends once both halves have, after the last mark.
    let writer = tokio::spawn(write_marks(cloud.clone(), Arc::downgrade(&session), marks_rx));
    let (ready_tx, ready_rx) = oneshot::channel();
    // Lives until the last mark is written: then others may take what is left.
    let publisher = OnceCell::new();
    // Both halves live as long as the session: the event loop's `poll` is never cancelled half-way and used again.
    let e = tokio::select! {
        e = poll(cloud, &client, eventloop, inbox, &session, ready_tx) => e,
        e = publish(cloud, &client, publications, &session, &publisher, ready_rx) => e,
    };
    drop(session);
    // What the broker has is on record before the next session asks what is due.
    if let Err(e) = writer.await {
        tracing::error!("marking documents: {e}");
    }
    e
}

async fn poll(
    cloud: &Arc<Cloud>,
    client: &AsyncClient,
    mut eventloop: EventLoop,
    inbox: &mpsc::Sender<Incoming>,
    session: &Session,
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
                let at = now_us();
                if inbox.capacity() == 0 {
                    cloud.heard.falls_behind(at);
                }
                if inbox.send(Incoming { publish, at, client: client.clone() }).await.is_err() {
                    return LinkError::Ended;
                }
            }
            Event::Outgoing(Outgoing::Publish(id)) => {
                let mut outstanding = session.lock();
                if let Some(what) = outstanding.given.pop_front() {
                    what.iter().for_each(|sent| fail_point::reach("on_the_wire", sent.seq));
                    outstanding.numbered.insert(id, what);
                }
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                let Some(what) = session.lock().numbered.remove(&ack.pkid) else { continue };
                session.room.add_permits(1);
                if let Some(sent) = what {
                    fail_point::reach("acknowledged", sent.seq);
                    session.mark(sent, Marked::Acked);
                }
            }
            _ => {}
        }
    }
}

/// Writes what became of documents, many in one transaction: those that came while the last one was written.
async fn write_marks(cloud: Arc<Cloud>, session: Weak<Session>, mut marks: mpsc::UnboundedReceiver<Mark>) {
    let mut group = Vec::with_capacity(GROUP);
    while marks.recv_many(&mut group, GROUP).await > 0 {
        let writing = group.clone();
        let scope = Scope::cameras(group.iter().map(|mark| mark.device.as_str()));
        let written = cloud.db.transact_async_in(scope, move |tx| -> Result<_, DbError> {
            outbox::mark(tx, &writing)?;
            writing.iter().for_each(|mark| fail_point::reach("marks_in_transaction", mark.seq));
            Ok(())
        });
        if let Err(e) = written.await {
            // They stay due and are published again.
            tracing::error!("marking documents: {e}");
            if let Some(session) = session.upgrade() {
                session.unmarked.store(true, Ordering::SeqCst);
            }
        }
        for mark in group.drain(..) {
            if mark.what == Marked::Published {
                fail_point::reach("marked_published", mark.seq);
                continue;
            }
            fail_point::reach("marked_acknowledged", mark.seq);
            // Not earlier: while the row is still due, it must not be published again.
            if let Some(session) = session.upgrade() {
                session.lock().in_flight.remove(&mark.document);
            }
            cloud.events.send(CloudEvent::AtBroker { device: mark.device.to_string() });
        }
    }
}

async fn publish(
    cloud: &Arc<Cloud>,
    client: &AsyncClient,
    publications: &mut mpsc::UnboundedReceiver<Publication>,
    session: &Session,
    publisher: &OnceCell<Publisher>,
    ready: oneshot::Receiver<bool>,
) -> LinkError {
    match publish_all(cloud, client, publications, session, publisher, ready).await {
        Ok(()) => LinkError::Ended,
        Err(e) => e,
    }
}

async fn publish_all(
    cloud: &Arc<Cloud>,
    client: &AsyncClient,
    publications: &mut mpsc::UnboundedReceiver<Publication>,
    session: &Session,
    publisher: &OnceCell<Publisher>,
    ready: oneshot::Receiver<bool>,
) -> Result<(), LinkError> {
    let session_present = ready.await.map_err(|_| LinkError::Ended)?;
    let publisher = publisher.get_or_try_init(|| Publisher::open(&cloud.db)).await?;
    if !session_present {
        publisher.found_no_session(&cloud.link.client_id).await?;
    }
    let mut published_keyset = 0;

    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        let mut after = 0;
        loop {
            if publisher.is_shared() && session.unmarked.load(Ordering::SeqCst) {
                return Err(LinkError::NotMarked);
            }
            let batch = publisher.take(after, GROUP).await?;
            // The keyset is sent before any document that its key signed; the key was in use before the document was due.
            let keys = cloud.issuer.keys.current();
            if keys.keyset.version != published_keyset {
                give(client, session, None, format!("{}/keyset", cloud.endpoints.prefix), true, keys.token.clone().into()).await?;
                published_keyset = keys.keyset.version;
            }
            // What a publisher has left out of a batch because of an earlier one is in the next.
            let last = (batch.len() == GROUP || publisher.is_shared()).then(|| batch.last().map(|last| last.document)).flatten();
            for document in batch {
                publish_one(cloud, client, session, document).await?;
            }
            // Answers do not wait for a change of the whole fleet.
            while let Ok(Publication { topic, payload }) = publications.try_recv() {
                give(client, session, None, topic, false, payload).await?;
            }
            let Some(last) = last else { break };
            after = last;
        }
        tokio::select! {
            () = cloud.outbox.notified() => {}
            _ = tick.tick() => {}
            publication = publications.recv() => {
                let Publication { topic, payload } = publication.ok_or(LinkError::Ended)?;
                give(client, session, None, topic, false, payload).await?;
            }
        }
    }
}

async fn publish_one(cloud: &Cloud, client: &AsyncClient, session: &Session, document: Due) -> Result<(), LinkError> {
    if !session.lock().in_flight.insert(document.document) {
        return Ok(());
    }
    let seq = document.seq;
    fail_point::reach("before_publish", seq);
    let topic = Topics::new(&cloud.endpoints.prefix, &document.device).entitlement();
    cloud.published(&document.device, Position { epoch: document.epoch, seq });
    let sent = Sent { document: document.document, seq, device: document.device };
    session.mark(sent.clone(), Marked::Published);
    give(client, session, Some(sent), topic, true, document.token.into()).await?;
    fail_point::reach("given_to_library", seq);
    Ok(())
}

/// Gives the library a message, once there is room for another one under way.
async fn give(
    client: &AsyncClient,
    session: &Session,
    what: Option<Sent>,
    topic: String,
    retain: bool,
    payload: Vec<u8>,
) -> Result<(), LinkError> {
    // Given back by its PUBACK. The semaphore is never closed.
    session.room.acquire().await.map_err(|_| LinkError::Ended)?.forget();
    session.lock().given.push_back(what);
    Ok(client.publish(topic, QoS::AtLeastOnce, retain, payload).await?)
}

/// Processes the cameras' messages in order, in groups: those that came while the last group was written.
async fn read_inbox(cloud: Arc<Cloud>, mut inbox: mpsc::Receiver<Incoming>) {
    let mut group = Vec::with_capacity(GROUP);
    while inbox.recv_many(&mut group, GROUP).await > 0 {
        let messages: Arc<Vec<_>> = Arc::new(group.iter().filter_map(|incoming| read(&cloud, incoming)).collect());
        // Nothing is lost by waiting for the database: what is not acknowledged stays at the broker.
        let taken = loop {
            match take(&cloud, &messages).await {
                Ok(taken) => break taken,
                Err(e) => tracing::error!("{} messages of cameras: {e}; again in {AGAIN:?}", messages.len()),
            }
            tokio::time::sleep(AGAIN).await;
        };
        for (message, taken) in messages.iter().zip(taken) {
            follow(&cloud, message, taken);
        }
        for Incoming { publish, client, .. } in group.drain(..) {
            // If that connection has ended, the broker delivers it again.
            drop(client.ack(&publish).await);
        }
        if inbox.len() < INBOX / 2 {
            cloud.heard.catches_up();
        }
    }
}

/// A message of a camera, read.
struct Message {
    device: DeviceId,
    at: i64,
    content: Content,
}

enum Content {
    Report(Box<Report>),
    Status(&'static str),
    Get(Get),
}

/// What was written because of a message.
enum Taken {
    Report(Kept),
    /// Whether it has changed.
    Status(bool),
    Answer(Option<String>),
}

/// Why a camera's message was dropped.
#[derive(Debug, Error)]
enum Dropped {
    #[error("a message on a topic of no device")]
    NoDevice,
    #[error("a malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a message that does not fit its topic: {0}")]
    Wrong(&'static str),
}

/// A malformed message is logged and dropped.
fn read(cloud: &Cloud, incoming: &Incoming) -> Option<Message> {
    match parse(&cloud.endpoints.prefix, incoming) {
        Ok(message) => {
            if let Some(Message { device, content: Content::Report(report), .. }) = &message
                // A retained copy does not show when the report was made.
                && !incoming.publish.retain
            {
                cloud.transfers.mark_reported(device, Position { epoch: report.epoch, seq: report.seq });
                fail_point::reach("reported", report.seq);
            }
            message
        }
        Err(e) => {
            tracing::warn!(topic = incoming.publish.topic, "{e}");
            None
        }
    }
}

fn parse(prefix: &str, Incoming { publish, at, .. }: &Incoming) -> Result<Option<Message>, Dropped> {
    let path = publish.topic.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.split_once('/'));
    let (device, leaf) = path.ok_or(Dropped::NoDevice)?;
    let device: DeviceId = device.parse().map_err(|_| Dropped::NoDevice)?;
    let content = match leaf {
        "report" => {
            let report: Box<Report> = serde_json::from_slice(&publish.payload)?;
            if report.device != device {
                return Err(Dropped::Wrong("the report names another device"));
            }
            Content::Report(report)
        }
        "status" => match &publish.payload[..] {
            b"online" => Content::Status("online"),
            b"offline" => Content::Status("offline"),
            _ => return Err(Dropped::Wrong("a status is online or offline")),
        },
        "get" => {
            let get: Get = serde_json::from_slice(&publish.payload)?;
            if !(22..=128).contains(&get.nonce.len()) {
                return Err(Dropped::Wrong("a nonce has 22 to 128 characters"));
            }
            Content::Get(get)
        }
        _ => return Ok(None),
    };
    Ok(Some(Message { device, at: *at, content }))
}

/// Writes a group in one transaction. A message whose write fails is dropped alone.
async fn take(cloud: &Cloud, messages: &Arc<Vec<Message>>) -> Result<Vec<Option<Taken>>, DbError> {
    let messages = messages.clone();
    let scope = Scope::cameras(messages.iter().map(|message| message.device.as_str()));
    let work = move |tx: &Transaction<'_>| -> Result<_, DbError> {
        let mut all = Vec::with_capacity(messages.len());
        for message in messages.iter() {
            let mut taken = None;
            in_savepoint(tx, |tx| {
                match take_one(tx, message) {
                    Ok(done) => taken = Some(done),
                    Err(e) => tracing::warn!(device = %message.device, "a message of the camera: {e}"),
                }
                taken.is_some()
            })?;
            all.push(taken);
        }
        for message in messages.iter() {
            if let Content::Report(report) = &message.content {
                fail_point::reach("reports_in_transaction", report.seq);
            }
        }
        Ok(all)
    };
    cloud.db.transact_async_in(scope, work).await
}

fn take_one(tx: &Transaction<'_>, Message { device, at, content }: &Message) -> Result<Taken, DbError> {
    Ok(match content {
        Content::Report(report) => Taken::Report(reports::keep(tx, report, *at)?),
        Content::Status(status) => Taken::Status(reports::set_status(tx, device, status, *at)?),
        Content::Get(get) => Taken::Answer(token_for(tx, device, Some(get.epoch))?),
    })
}

/// What the rest of the program does about a message that was written.
fn follow(cloud: &Cloud, message: &Message, taken: Option<Taken>) {
    let device = &message.device;
    match (taken, &message.content) {
        (Some(Taken::Report(kept)), Content::Report(report)) => {
            fail_point::reach("reports_committed", report.seq);
            follow_report(cloud, report, &kept);
        }
        (Some(Taken::Status(true)), Content::Status(status)) => {
            tracing::info!(%device, status, "status");
            cloud.events.send(CloudEvent::Status { device: device.to_string() });
        }
        (Some(Taken::Answer(Some(token))), Content::Get(get)) => {
            let payload = serde_json::to_vec(&Answer { nonce: get.nonce.clone(), token }).expect("plain data");
            cloud.publications.push(Publication { topic: Topics::new(&cloud.endpoints.prefix, device).answer(), payload });
        }
        _ => {}
    }
}

fn follow_report(cloud: &Cloud, report: &Report, kept: &Kept) {
    let device = &report.device;
    cloud.transfers.revoke(&kept.revoked);
    if kept.reset {
        tracing::info!(%device, "was reset to factory settings: it gets nothing more until it is bound again");
    }
    if kept.new {
        cloud.observed.count(|counts| counts.reports[report.outcome as usize] += 1);
        kept.answered_us.into_iter().for_each(|took| cloud.observed.click_answered(took));
        let in_force = Position { epoch: report.epoch, seq: report.seq };
        tracing::info!(
            %device, outcome = %report.outcome, reason = report.reason, cause = %report.cause, mode = %report.mode,
            position = %in_force, transfers = report.cut.transfers, micros = report.cut.micros,
            bytes_after = report.cut.bytes_after, "reported"
        );
        cloud.events.send(CloudEvent::Reported { device: device.to_string(), mode: report.mode.to_string() });
    }
}
