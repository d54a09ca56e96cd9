//! The task that alone polls rumqttc: connect, subscribe, hand on what arrives, find out that a connection is dead, clear
//! up after it, wait, and begin anew. Each guard stands against a trap known of rumqttc 0.25.1 (R123 = its issue 123).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use care_protocol::Topics;
use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing, Packet, Publish, QoS, Request, SubAck,
    Subscribe, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Connection, Event, Inner, Intent, LinkFault, LinkState, MAX_PACKET, Settings, Shared, Stage,
    acks::AckWindow,
    backoff::Backoff,
    fault::{is_closed, is_oversize},
    outbox::{Letter, Outbox},
    progress::Progress,
};

/// Requests on their way to rumqttc: PUBACKs mostly. More wait in the `AckWindow`.
const REQUESTS: usize = 64;

pub(super) struct Session {
    settings: Settings,
    topics: Topics,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    backoff: Backoff,
    random: fastrand::Rng,
    progress: Arc<Progress>,
    client: AsyncClient,
    eventloop: EventLoop,
    /// The number of the last connection.
    connection: Connection,
    /// How many connections in a row ended with a packet that was too large.
    oversized: u32,
    /// How many connections in a row the broker closed soon after CONNACK.
    closed_soon: u32,
    /// No SUBSCRIBE before.
    defer_until: Option<Instant>,
    /// The next connection drops the session, and with it the packet that we cannot take.
    clean_next: bool,
    /// The last connection ended cleanly in order to begin anew, so the status topic still says `online`.
    farewell_owed: bool,
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    Stopped,
    Renewed,
    /// The owner is gone.
    Orphaned,
    Closed(LinkFault),
    Oversized(LinkFault),
    Failed(LinkFault),
}

impl End {
    fn from_rumqttc(error: &ConnectionError) -> Self {
        let fault = LinkFault::from_rumqttc(error, Stage::Session);
        match error {
            error if is_oversize(error) => Self::Oversized(fault),
            error if is_closed(error) => Self::Closed(fault),
            _ => Self::Failed(fault),
        }
    }
}

/// One connection while it is served.
struct Serving {
    connection: Connection,
    /// SUBSCRIBE's packet identifier, once it is sent.
    subscribe: Option<u16>,
    /// Until when SUBACK must be there.
    suback_until: Option<Instant>,
}

impl Session {
    pub(super) fn new(settings: Settings, topics: Topics, shared: Arc<Shared>, events: mpsc::Sender<Event>) -> Self {
        let mut random = fastrand::Rng::new();
        let backoff = Backoff::new(settings.backoff_first, settings.backoff_most, random.fork());
        let (client, eventloop) = client(&settings, &topics);
        Self {
            settings,
            topics,
            shared,
            events,
            backoff,
            random,
            progress: Arc::default(),
            client,
            eventloop,
            connection: Connection(0),
            oversized: 0,
            closed_soon: 0,
            defer_until: None,
            clean_next: false,
            farewell_owed: false,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let farewell_owed = std::mem::take(&mut self.farewell_owed);
            if self.take_intent() == Intent::Stop && !farewell_owed {
                return;
            }
            match self.connect().await {
                None => self.farewell_owed = farewell_owed,
                Some(Err(fault)) => self.fail(None, fault, None).await,
                Some(Ok(session_present)) => {
                    let since = Instant::now();
                    let end = self.serve(session_present).await;
                    if self.finish(end, since).await {
                        return;
                    }
                }
            }
            if self.events.is_closed() {
                return;
            }
        }
    }

    /// What `Link` wants; `Renew` is then done with, since the next connection is a new one anyway.
    fn take_intent(&self) -> Intent {
        let mut inner = self.shared.lock();
        let intent = inner.intent;
        if intent == Intent::Renew {
            inner.intent = Intent::Run;
        }
        intent
    }

    /// One attempt, with whether the broker kept the session. `None` if `Link` wants something else meanwhile.
    async fn connect(&mut self) -> Option<Result<bool, LinkFault>> {
        let shared = self.shared.clone();
        // Dropping an attempt is safe: rumqttc has no connection until CONNACK, and polls anew.
        tokio::select! {
            biased;
            () = shared.changed.notified() => None,
            attempt = self.attempt() => Some(attempt),
        }
    }

    async fn attempt(&mut self) -> Result<bool, LinkFault> {
        {
            let mut inner = self.shared.lock();
            inner.status.state = LinkState::Connecting;
            inner.status.next_attempt_in = None;
            if inner.endpoint != self.settings.broker.endpoint {
                // Another broker: rumqttc's client has its address for good, and what was with the old one stays there.
                self.settings.broker.endpoint = inner.endpoint.clone();
                (self.client, self.eventloop) = client(&self.settings, &self.topics);
                inner.outbox.forget_outstanding();
            }
            let transport = match &inner.tls {
                Some(tls) => Transport::tls_with_config(TlsConfiguration::Rustls(self.progress.watch(tls.connection()))),
                None => Transport::Tcp,
            };
            self.eventloop.mqtt_options.set_transport(transport);
        }
        self.eventloop.mqtt_options.set_clean_session(self.clean_next);
        self.resolve().await?;
        self.progress.restart();
        let limit = self.settings.connect_timeout;
        match timeout(limit, self.eventloop.poll()).await {
            Ok(Ok(rumqttc::Event::Incoming(Packet::ConnAck(connack)))) => Ok(connack.session_present && !self.clean_next),
            Ok(Ok(other)) => Err(LinkFault::new(Stage::Connack, format!("rumqttc yielded {other:?} before CONNACK"))),
            Ok(Err(ConnectionError::NetworkTimeout)) | Err(_) => Err(self.silence(limit)),
            Ok(Err(error)) => Err(LinkFault::from_rumqttc(&error, self.stage())),
        }
    }

    /// Looks the broker up, on tokio's threads for what blocks. rumqttc does so again, and cannot tell DNS from TCP.
    async fn resolve(&mut self) -> Result<(), LinkFault> {
        let endpoint = &self.settings.broker.endpoint;
        if endpoint.host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let fault = |reason| Err(LinkFault::new(Stage::Dns, format!("cannot find the broker {}: {reason}", endpoint.host)));
        match timeout(self.settings.connect_timeout, tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))).await {
            Ok(Ok(mut found)) => match found.next() {
                Some(_) => Ok(()),
                None => fault("it has no address".to_owned()),
            },
            Ok(Err(error)) => fault(error.to_string()),
            Err(_) => fault("no answer in time".to_owned()),
        }
    }

    fn stage(&self) -> Stage {
        self.progress.stage(self.settings.broker.endpoint.tls)
    }

    fn silence(&self, limit: Duration) -> LinkFault {
        LinkFault::new(self.stage(), format!("no answer from the broker within {} s", limit.as_secs_f64()))
    }

    /// Serves a connection until it ends.
    async fn serve(&mut self, session_present: bool) -> End {
        let mut serving = self.begin(session_present);
        if !self.emit(Event::Connected { connection: serving.connection, session_present }).await {
            return End::Orphaned;
        }
        loop {
            let limit = match serving.suback_until {
                Some(until) => until.saturating_duration_since(Instant::now()).min(self.settings.watchdog),
                None => self.settings.watchdog,
            };
            // Whoever drops a `poll` halfway may lose a packet (R601). Here the connection goes with it.
            match timeout(limit, self.eventloop.poll()).await {
                Ok(Ok(event)) => {
                    if let Some(end) = self.handle(event, &mut serving).await {
                        return end;
                    }
                }
                Ok(Err(error)) => return End::from_rumqttc(&error),
                Err(_) if serving.suback_until.is_some_and(|until| until <= Instant::now()) => {
                    let reason = format!("no SUBACK within {} s", self.settings.suback_timeout.as_secs_f64());
                    return End::Failed(LinkFault::new(Stage::Suback, reason));
                }
                Err(_) => {
                    let reason = format!("nothing moved for {} s", self.settings.watchdog.as_secs_f64());
                    return End::Failed(LinkFault::new(Stage::Session, reason));
                }
            }
            if self.defer_until.is_some_and(|until| until <= Instant::now()) {
                // A new connection, with a session that lasts, subscribes.
                self.defer_until = None;
                self.shared.lock().intent = Intent::Renew;
            }
            self.shared.lock().pump();
        }
    }

    /// A new connection: its number, its SUBSCRIBE before all else, `online`.
    fn begin(&mut self, session_present: bool) -> Serving {
        self.clean_next = false;
        self.connection.0 += 1;
        let connection = self.connection;
        let deferred = self.defer_until.is_some_and(|until| until > Instant::now());
        if !deferred {
            self.defer_until = None;
            // Even with a resumed session: only SUBSCRIBE makes the broker send the retained document again (R250).
            let filters = [self.topics.entitlement(), self.topics.answer(), self.topics.keyset()];
            let filters = filters.map(|path| SubscribeFilter::new(path, QoS::AtLeastOnce));
            // Before what a resumed session repeats: a cancel must not wait for it.
            self.eventloop.pending.push_front(Request::Subscribe(Subscribe::new_many(filters)));
        }
        let mut inner = self.shared.lock();
        if !session_present {
            inner.outbox.forget_outstanding();
        }
        inner.window = AckWindow::new(connection);
        inner.client = Some(self.client.clone());
        inner.disconnecting = false;
        inner.status.state = LinkState::Connected;
        inner.status.connection = Some(connection);
        if inner.intent != Intent::Stop {
            let topic = self.topics.status();
            inner.outbox.open_with(Letter { ticket: None, topic, payload: b"online".to_vec(), retain: true });
        }
        inner.pump();
        let suback_until = (!deferred).then(|| Instant::now() + self.settings.suback_timeout);
        Serving { connection, subscribe: None, suback_until }
    }

    async fn handle(&mut self, event: rumqttc::Event, serving: &mut Serving) -> Option<End> {
        use rumqttc::Event::{Incoming, Outgoing as Out};
        let connection = serving.connection;
        match event {
            Incoming(Packet::Publish(publish)) => self.deliver(publish, connection, true).await,
            Incoming(Packet::PubAck(puback)) => self.published(puback.pkid).await,
            Incoming(Packet::SubAck(suback)) if serving.subscribe == Some(suback.pkid) => {
                serving.suback_until = None;
                match granted(&suback) {
                    Ok(()) => {
                        self.shared.lock().status.state = LinkState::Subscribed;
                        (!self.emit(Event::Subscribed { connection }).await).then_some(End::Orphaned)
                    }
                    Err(fault) => Some(End::Failed(fault)),
                }
            }
            Out(Outgoing::Publish(packet)) => {
                self.shared.lock().outbox.sent(packet);
                None
            }
            Out(Outgoing::Subscribe(packet)) => {
                serving.subscribe = Some(packet);
                (!self.emit(Event::SubscribeSent { connection }).await).then_some(End::Orphaned)
            }
            Out(Outgoing::Disconnect) => {
                let inner = self.shared.lock();
                // Stop may come after the DISCONNECT of a Renew.
                let said_all = inner.outbox.queued() + inner.outbox.outstanding() == 0;
                Some(if inner.intent == Intent::Stop && said_all { End::Stopped } else { End::Renewed })
            }
            _ => None,
        }
    }

    /// Hands a PUBLISH on; with the right to acknowledge it only while its connection stands.
    async fn deliver(&mut self, publish: Publish, connection: Connection, live: bool) -> Option<End> {
        let at = Instant::now();
        let mut ack = None;
        if live && publish.qos == QoS::AtLeastOnce {
            ack = self.shared.lock().window.arrived(publish.pkid);
            if ack.is_none() {
                let reason = "the broker sends more than it may without acknowledgement";
                return Some(End::Failed(LinkFault::new(Stage::Session, reason)));
            }
        }
        let Some(topic) = self.topics.classify(&publish.topic) else {
            tracing::warn!(topic = publish.topic, "the broker sent a topic that we did not subscribe to");
            let mut inner = self.shared.lock();
            ack.into_iter().for_each(|ack| inner.window.done(ack));
            return None;
        };
        let Publish { payload, retain, dup, .. } = publish;
        (!self.emit(Event::Publish { connection, topic, payload, retain, dup, at, ack }).await).then_some(End::Orphaned)
    }

    async fn published(&mut self, packet: u16) -> Option<End> {
        let ticket = self.shared.lock().outbox.acknowledged(packet)?;
        (!self.emit(Event::Published { ticket }).await).then_some(End::Orphaned)
    }

    /// After a connection; whether the task ends with it.
    async fn finish(&mut self, end: End, since: Instant) -> bool {
        self.clear_up().await;
        let stable = since.elapsed() >= self.settings.stable_after;
        if stable {
            self.backoff.reset();
            self.closed_soon = 0;
        }
        if stable || !matches!(end, End::Oversized(_)) {
            self.oversized = 0;
        }
        if !matches!(end, End::Closed(_)) {
            self.closed_soon = 0;
        }
        let connection = Some(self.connection);
        match end {
            End::Stopped | End::Orphaned => return true,
            End::Renewed => {
                self.farewell_owed = true;
                let fault = LinkFault::new(Stage::Session, "connecting anew, as asked");
                self.shared.lock().lost(&fault, self.backoff.failures());
                self.emit(Event::Lost { connection, fault }).await;
            }
            End::Failed(fault) => self.fail(connection, fault, None).await,
            End::Oversized(fault) => {
                self.oversized += 1;
                let defer = self.oversized >= 2;
                if defer {
                    self.oversized = 0;
                    self.clean_next = true;
                    self.defer_until = Some(Instant::now() + self.settings.defer_subscribe);
                    self.emit(Event::SubscribeDeferred { for_: self.settings.defer_subscribe }).await;
                }
                self.fail(connection, fault, None).await;
            }
            End::Closed(fault) => {
                if !stable {
                    self.closed_soon += 1;
                }
                if self.closed_soon == 3 {
                    self.emit(Event::CloneSuspected).await;
                }
                let away = self.settings.clone_backoff.mul_f64(0.5 + 0.5 * self.random.f64());
                let delay = (self.closed_soon >= 3).then_some(away);
                self.fail(connection, fault, delay).await;
            }
        }
        false
    }

    /// What rumqttc leaves of a connection would turn up in the next one: see the order of the steps.
    async fn clear_up(&mut self) {
        // From here on nothing is given to rumqttc.
        self.shared.lock().client = None;
        // Our own timeouts end a connection without rumqttc's knowledge; after its own errors this finds nothing to do.
        self.eventloop.clean();
        // A publication that waits for its identifier would block all others for ever (R1056, R1014). It is sent again
        // under a new one, before those that were still in the channel.
        if let Some(mut waiting) = self.eventloop.state.collision.take() {
            waiting.pkid = 0;
            let pending = &mut self.eventloop.pending;
            let unsent = |request: &Request| !matches!(request, Request::Publish(publish) if publish.pkid != 0);
            let place = pending.iter().position(unsent).unwrap_or(pending.len());
            pending.insert(place, Request::Publish(waiting));
        }
        // SUBSCRIBE, DISCONNECT and PUBREL belong to the old connection (R664).
        self.eventloop.pending.retain(|request| matches!(request, Request::Publish(_)));
        // What has an identifier was sent before, which its next copy must say (MQTT-3.3.1-1); rumqttc does not.
        for request in &mut self.eventloop.pending {
            if let Request::Publish(publish) = request {
                publish.dup = publish.pkid != 0;
            }
        }
        // What was read before the end: rumqttc would yield it after the next CONNACK, where its acknowledgement would hit
        // another message. A cancel may be among it.
        let connection = self.connection;
        while let Some(event) = self.eventloop.state.events.pop_front() {
            match event {
                rumqttc::Event::Incoming(Packet::Publish(publish)) => drop(self.deliver(publish, connection, false).await),
                rumqttc::Event::Incoming(Packet::PubAck(puback)) => drop(self.published(puback.pkid).await),
                rumqttc::Event::Outgoing(Outgoing::Publish(packet)) => self.shared.lock().outbox.sent(packet),
                _ => {}
            }
        }
    }

    /// Tells of a failure and waits before the next attempt; `delay` if it must be longer than usual.
    async fn fail(&mut self, connection: Option<Connection>, fault: LinkFault, delay: Option<Duration>) {
        let delay = self.backoff.next().max(delay.unwrap_or_default());
        let failures = self.backoff.failures();
        // The owner tells of the fault itself, at its own level.
        tracing::debug!(stage = %fault.stage, reason = fault.reason, failures, ?delay, "no connection to the broker");
        {
            let mut inner = self.shared.lock();
            inner.lost(&fault, failures);
            inner.status.next_attempt_in = Some(delay);
        }
        self.emit(Event::Lost { connection, fault }).await;
        if self.settings.rebuild_after != 0 && failures % self.settings.rebuild_after == 0 {
            (self.client, self.eventloop) = client(&self.settings, &self.topics);
            let mut inner = self.shared.lock();
            inner.outbox.forget_outstanding();
            inner.status.rebuilds += 1;
        }
        let wanted = || self.shared.lock().intent != Intent::Run;
        tokio::select! {
            biased;
            () = self.events.closed() => {}
            () = async { while !wanted() { self.shared.changed.notified().await } } => {}
            () = sleep(delay) => {}
        }
    }

    /// Gives the owner an event, waiting for room; `false` if there is no owner any more. While stopping, an event for
    /// which there is no room is dropped: the owner waits for us then, not for it.
    async fn emit(&mut self, event: Event) -> bool {
        let stopping = || self.shared.lock().intent == Intent::Stop;
        tokio::select! {
            biased;
            room = self.events.reserve() => match room {
                Ok(room) => room.send(event),
                Err(_) => return false,
            },
            () = async { while !stopping() { self.shared.changed.notified().await } } => {}
        }
        true
    }
}

impl Inner {
    fn lost(&mut self, fault: &LinkFault, failures: u32) {
        self.status.state = LinkState::Down;
        self.status.connection = None;
        self.status.last_fault = Some(fault.clone());
        self.status.failures = failures;
    }
}

/// Whether SUBACK grants `entitlement`, the first filter; with QoS 0 too (scenario 57).
pub(super) fn granted(suback: &SubAck) -> Result<(), LinkFault> {
    for (name, code) in ["entitlement/answer", "keyset"].into_iter().zip(suback.return_codes.iter().skip(1)) {
        if *code == SubscribeReasonCode::Failure {
            tracing::warn!(topic = name, "the broker refuses a subscription");
        }
    }
    match suback.return_codes.first() {
        Some(SubscribeReasonCode::Success(_)) => Ok(()),
        _ => Err(LinkFault::new(Stage::Suback, "the broker refuses the subscription to entitlement; check its ACL")),
    }
}

/// rumqttc's client as this link uses it. The transport and the clean-session flag are set at each attempt.
fn client(settings: &Settings, topics: &Topics) -> (AsyncClient, EventLoop) {
    let endpoint = &settings.broker.endpoint;
    let mut options = MqttOptions::new(settings.device.as_str(), &endpoint.host, endpoint.port);
    let keep_alive = Duration::from_secs(settings.keep_alive.as_secs().max(1));
    options
        .set_keep_alive(keep_alive)
        .set_manual_acks(true)
        .set_max_packet_size(MAX_PACKET, MAX_PACKET)
        .set_inflight(INFLIGHT)
        .set_last_will(LastWill::new(topics.status(), "offline", QoS::AtLeastOnce, true));
    let mut network = NetworkOptions::new();
    // With Nagle a command and its answer take 40 ms instead of one.
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(settings.connect_timeout.as_secs().max(1));
    let (client, mut eventloop) = AsyncClient::new(options, REQUESTS);
    eventloop.set_network_options(network);
    (client, eventloop)
}

/// Packet identifiers: far more than are ever outstanding, so that they hardly collide.
const INFLIGHT: u16 = 100;
const _: () = assert!(Outbox::OUTSTANDING < INFLIGHT as usize / 10);
