//! The task that alone polls the wire: connect, subscribe, hand on what arrives, find out that a connection is dead, clear
//! up after it, wait, and begin anew. Each guard stands against a trap known of rumqttc 0.25.1 (R123 = its issue 123).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use care_protocol::Topics;
use rumqttc::{LastWill, Outgoing, Packet, Publish, QoS, Request, SubAck, Subscribe, SubscribeFilter, SubscribeReasonCode};
use tokio::{
    sync::mpsc,
    time::{self, sleep, timeout, timeout_at},
};

use super::{
    Connection, Event, Inner, Intent, LinkFault, LinkState, MAX_PACKET, Settings, Shared, Stage,
    acks::AckWindow,
    fault::{GIVE_RIGHTS, GIVE_RIGHTS_OR_FIND_A_CLONE, is_closed, is_oversize},
    outbox::{Letter, Outbox},
    upon::{Answered, Unanswered, Upon},
    wire::{Options, Wire, WireError},
};
use crate::{
    backoff::{Backoff, Delays, Jitter},
    conditions::Kind,
    http::{self, Direct, Origin},
};

/// Requests on their way to the wire: PUBACKs mostly. More wait in the `AckWindow`.
const REQUESTS: usize = 64;
/// So many connections in a row that end in the same way are no accident.
const CLOSED_UPON: u32 = 2;
const CLONE: u32 = 3;

pub(super) struct Session {
    settings: Settings,
    topics: Topics,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    backoff: Backoff,
    client: mpsc::Sender<Request>,
    wire: Wire,
    /// Who is at the other end, or was last, for people.
    peer: String,
    /// Addresses that let us in and then granted nothing, the oldest first: they come last, for another may be well.
    avoided: Vec<SocketAddr>,
    /// The earliest end of the broker's certificates.
    valid_until: Duration,
    /// The number of the last connection.
    connection: Connection,
    /// How many connections in a row ended with a packet that was too large.
    oversized: u32,
    /// How many connections in a row the broker closed soon after CONNACK, for no reason that we know.
    closed_soon: u32,
    /// What the broker closed the last connection upon, and how many in a row.
    closed_upon: Option<(Upon, u32)>,
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
    /// No subscription.
    Refused(LinkFault),
    Oversized(LinkFault),
    Failed(LinkFault),
}

impl End {
    fn from_wire(error: &WireError, peer: &str) -> Self {
        let fault = LinkFault::from_wire(error, Stage::Session, peer);
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
    /// When the connection has lasted long enough to be a good one; `None` once it has.
    stable_at: Option<Instant>,
    /// What the broker has not answered.
    answered: Answered,
}

impl Session {
    pub(super) fn new(settings: Settings, topics: Topics, shared: Arc<Shared>, events: mpsc::Sender<Event>) -> Self {
        let backoff = Backoff::new(Delays::new(settings.backoff_first, settings.backoff_most, Jitter::Full));
        let (client, wire) = wire(&settings, &topics);
        Self {
            peer: settings.broker.endpoint.authority(),
            avoided: Vec::new(),
            settings,
            topics,
            shared,
            events,
            backoff,
            valid_until: Duration::ZERO,
            client,
            wire,
            connection: Connection(0),
            oversized: 0,
            closed_soon: 0,
            closed_upon: None,
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
                Some(Err(fault)) => {
                    self.unreachable(&fault);
                    self.fail(None, fault, None).await;
                }
                Some(Ok(session_present)) => {
                    let mut serving = self.begin(session_present);
                    let end = self.serve(session_present, &mut serving).await;
                    if self.finish(end, serving).await {
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
        // Dropping an attempt is safe: the wire has no connection until CONNACK.
        tokio::select! {
            biased;
            () = shared.changed.notified() => None,
            attempt = self.attempt() => Some(attempt),
        }
    }

    async fn attempt(&mut self) -> Result<bool, LinkFault> {
        let tls = {
            let mut inner = self.shared.lock();
            inner.status.state = LinkState::Connecting;
            inner.status.next_attempt_in = None;
            if inner.endpoint != self.settings.broker.endpoint {
                // Another broker: what was with the old one stays there.
                self.settings.broker.endpoint = inner.endpoint.clone();
                (self.client, self.wire) = wire(&self.settings, &self.topics);
                inner.outbox.forget_outstanding();
            }
            inner.tls.clone()
        };
        let origin = Origin { endpoint: self.settings.broker.endpoint.clone(), tls };
        self.peer = origin.endpoint.authority();
        let limit = self.settings.connect_timeout;
        let mut addresses =
            http::resolve(&origin.endpoint, time::Instant::now() + limit).await.map_err(|fault| LinkFault::from_http(&fault))?;
        self.avoided.retain(|avoided| addresses.contains(avoided));
        addresses.sort_by_key(|address| self.avoided.iter().position(|avoided| avoided == address).map_or(0, |place| place + 1));
        let deadline = time::Instant::now() + limit;
        let connection = http::connect(&Direct, &origin, &addresses, deadline).await.map_err(|fault| LinkFault::from_http(&fault))?;
        self.peer = connection.peer_name().to_owned();
        self.valid_until = connection.valid_until();
        // Until it grants the subscription.
        self.avoided.retain(|avoided| *avoided != connection.peer());
        self.avoided.push(connection.peer());
        // The guard lives until CONNACK or a failure: then it looks whether the path swallowed the TLS handshake.
        let (stream, _guard) = connection.into_stream();
        match timeout_at(deadline, self.wire.connect(stream, self.clean_next)).await {
            Ok(Ok(session_present)) => Ok(session_present && !self.clean_next),
            Ok(Err(error)) => Err(LinkFault::from_wire(&error, Stage::Connack, &self.peer)),
            Err(_) => {
                let reason = format!("CONNECT to {}: no answer from the broker within {} s", self.peer, limit.as_secs_f64());
                Err(LinkFault::new(Stage::Connack, reason))
            }
        }
    }

    /// Serves a connection until it ends.
    async fn serve(&mut self, session_present: bool, serving: &mut Serving) -> End {
        let (connection, valid_until) = (serving.connection, self.valid_until);
        if !self.emit(Event::Connected { connection, session_present, valid_until }).await {
            return End::Orphaned;
        }
        loop {
            let limit = match serving.suback_until {
                Some(until) => until.saturating_duration_since(Instant::now()).min(self.settings.watchdog),
                None => self.settings.watchdog,
            };
            // Whoever drops a `poll` halfway may lose a packet. Here the connection goes with it.
            match timeout(limit, self.wire.poll()).await {
                Ok(Ok(event)) => {
                    if let Some(end) = self.handle(event, serving).await {
                        return end;
                    }
                }
                Ok(Err(error)) => return End::from_wire(&error, &self.peer),
                Err(_) if serving.suback_until.is_some_and(|until| until <= Instant::now()) => {
                    let reason = format!("connection to {}: no SUBACK within {} s", self.peer, self.settings.suback_timeout.as_secs_f64());
                    return End::Failed(LinkFault::new(Stage::Suback, reason));
                }
                Err(_) => {
                    let reason = format!("connection to {}: nothing moved for {} s", self.peer, self.settings.watchdog.as_secs_f64());
                    return End::Failed(LinkFault::new(Stage::Session, reason));
                }
            }
            if serving.stable_at.is_some_and(|at| at <= Instant::now()) {
                serving.stable_at = None;
                self.is_good();
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
            let filters = filters(&self.topics).map(|path| SubscribeFilter::new(path, QoS::AtLeastOnce));
            // Before what a resumed session repeats: a cancel must not wait for it.
            self.wire.pending.push_front(Request::Subscribe(Subscribe::new_many(filters)));
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
        let now = Instant::now();
        let suback_until = (!deferred).then(|| now + self.settings.suback_timeout);
        drop(inner);
        if deferred {
            self.avoided.clear();
            self.settings.conditions.clear(Kind::BrokerUnreachable);
        }
        let stable_at = Some(now + self.settings.stable_after);
        Serving { connection, subscribe: None, suback_until, stable_at, answered: Answered::default() }
    }

    /// The connection has lasted: it is no clone's, and nothing that the broker sends is too large.
    fn is_good(&mut self) {
        self.closed_soon = 0;
        if self.closed_upon.take().is_some_and(|(_, in_a_row)| in_a_row >= CLOSED_UPON) {
            self.settings.conditions.clear(Kind::BrokerRights);
        }
        for over in [Kind::BrokerClone, Kind::BrokerMessageTooLarge] {
            self.settings.conditions.clear(over);
        }
    }

    async fn handle(&mut self, event: rumqttc::Event, serving: &mut Serving) -> Option<End> {
        use rumqttc::Event::{Incoming, Outgoing as Out};
        let connection = serving.connection;
        serving.answered.note(&event, Instant::now());
        match event {
            Incoming(Packet::Publish(publish)) => self.deliver(publish, connection, true).await,
            Incoming(Packet::PubAck(puback)) => self.published(puback.pkid).await,
            Incoming(Packet::SubAck(suback)) if serving.subscribe == Some(suback.pkid) => {
                serving.suback_until = None;
                let refused = refused(&suback, &self.topics);
                match refused.is_empty() {
                    // Rights to publish are missing as long as nothing else is known.
                    true if matches!(self.closed_upon, Some((Upon::Publish(_), _))) => {}
                    true => self.settings.conditions.clear(Kind::BrokerRights),
                    false => {
                        let sentence = format!("{} refuses the subscription to {}", self.peer, refused.join(", "));
                        self.settings.conditions.raise(Kind::BrokerRights, sentence);
                    }
                }
                if let Err(fault) = granted(&suback, &self.topics, &self.peer) {
                    return Some(End::Refused(fault));
                }
                self.avoided.clear();
                self.settings.conditions.clear(Kind::BrokerUnreachable);
                self.shared.lock().status.state = LinkState::Subscribed;
                (!self.emit(Event::Subscribed { connection }).await).then_some(End::Orphaned)
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
    async fn finish(&mut self, end: End, mut serving: Serving) -> bool {
        self.clear_up(&mut serving).await;
        let stable = serving.stable_at.is_none_or(|at| at <= Instant::now());
        if stable {
            self.backoff.reset();
            self.closed_soon = 0;
        }
        if stable || !matches!(end, End::Oversized(_)) {
            self.oversized = 0;
        }
        if !matches!(end, End::Closed(_)) {
            self.closed_soon = 0;
            self.closed_upon = None;
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
            End::Failed(fault) => {
                self.unreachable(&fault);
                self.fail(connection, fault, None).await;
            }
            // The subscription was refused: the condition is raised with the topics.
            End::Refused(fault) => {
                self.settings.conditions.clear(Kind::BrokerUnreachable);
                self.fail(connection, fault, None).await;
            }
            End::Oversized(fault) => self.oversized(fault).await,
            End::Closed(fault) => match self.upon(&serving) {
                Some(upon) => self.closed_upon(upon).await,
                None => self.closed(fault, stable).await,
            },
        }
        false
    }

    /// A packet was too large. Only a clean session makes the broker forget it.
    async fn oversized(&mut self, fault: LinkFault) {
        self.oversized += 1;
        self.settings.conditions.raise(Kind::BrokerMessageTooLarge, &fault.reason);
        if self.oversized >= 2 {
            self.oversized = 0;
            self.clean_next = true;
            self.defer_until = Some(Instant::now() + self.settings.defer_subscribe);
            self.emit(Event::SubscribeDeferred { for_: self.settings.defer_subscribe }).await;
        }
        self.fail(Some(self.connection), fault, None).await;
    }

    /// The broker closed the connection instead of answering what we sent.
    async fn closed_upon(&mut self, upon: Upon) {
        let in_a_row = match self.closed_upon.take() {
            Some((last, times)) if last == upon => times + 1,
            _ => 1,
        };
        let (stage, advice) = match upon {
            Upon::Subscribe(_) => (Stage::Suback, GIVE_RIGHTS),
            Upon::Publish(_) => (Stage::Session, GIVE_RIGHTS_OR_FIND_A_CLONE),
        };
        let reason = format!("connection to {}: the broker closed it upon {upon}", self.peer);
        let fault = LinkFault::new(stage, reason).advising(advice);
        if in_a_row >= CLOSED_UPON {
            self.closed_soon = 0;
            let sentence = format!("{} closes the connection upon {upon}", self.peer);
            self.settings.conditions.raise_advising(Kind::BrokerRights, sentence, advice);
            self.settings.conditions.clear(Kind::BrokerUnreachable);
        } else {
            self.unreachable(&fault);
        }
        self.closed_upon = Some((upon, in_a_row));
        self.fail(Some(self.connection), fault, None).await;
    }

    /// The broker closed the connection for no reason that we know.
    async fn closed(&mut self, fault: LinkFault, stable: bool) {
        self.closed_upon = None;
        if !stable {
            self.closed_soon += 1;
        }
        if self.closed_soon == CLONE {
            self.emit(Event::CloneSuspected).await;
        }
        let mut delay = None;
        if self.closed_soon >= CLONE {
            let clone_backoff = self.settings.clone_backoff;
            delay = Some(Delays::new(clone_backoff, clone_backoff, Jitter::Equal).after(0));
            let soon = self.settings.stable_after.as_secs_f64();
            let sentence = format!(
                "another client seems to use this device's id: {} closed {} connections in a row within {soon} s, though it had answered everything",
                self.peer, self.closed_soon
            );
            self.settings.conditions.raise(Kind::BrokerClone, sentence);
            self.settings.conditions.clear(Kind::BrokerUnreachable);
        } else {
            self.unreachable(&fault);
        }
        self.fail(Some(self.connection), fault, delay).await;
    }

    /// What the broker closed this connection upon, if it was upon something.
    fn upon(&self, serving: &Serving) -> Option<Upon> {
        match serving.answered.first(Instant::now())? {
            Unanswered::Subscribe => Some(Upon::Subscribe(filters(&self.topics).join(", "))),
            Unanswered::Publish(packet) => self.shared.lock().outbox.topic(packet).map(|topic| Upon::Publish(topic.to_owned())),
        }
    }

    fn unreachable(&self, fault: &LinkFault) {
        self.settings.conditions.raise_advising(Kind::BrokerUnreachable, &fault.reason, fault.advice);
    }

    /// What is left of a connection would turn up in the next one: see the order of the steps.
    async fn clear_up(&mut self, serving: &mut Serving) {
        // From here on nothing is given to the wire.
        self.shared.lock().client = None;
        // Our own timeouts end a connection without the wire's knowledge; after its own errors this finds nothing to do.
        self.wire.clean();
        // A publication that waits for its identifier would block all others for ever (R1056, R1014). It is sent again
        // under a new one, before those that were still in the channel.
        if let Some(mut waiting) = self.wire.state.collision.take() {
            waiting.pkid = 0;
            let pending = &mut self.wire.pending;
            let unsent = |request: &Request| !matches!(request, Request::Publish(publish) if publish.pkid != 0);
            let place = pending.iter().position(unsent).unwrap_or(pending.len());
            pending.insert(place, Request::Publish(waiting));
        }
        // SUBSCRIBE, DISCONNECT and PUBREL belong to the old connection (R664).
        self.wire.pending.retain(|request| matches!(request, Request::Publish(_)));
        // What has an identifier was sent before, which its next copy must say (MQTT-3.3.1-1); rumqttc does not.
        for request in &mut self.wire.pending {
            if let Request::Publish(publish) = request {
                publish.dup = publish.pkid != 0;
            }
        }
        // What was read before the end would be yielded after the next CONNACK, where its acknowledgement would hit another
        // message. A cancel may be among it.
        let connection = self.connection;
        while let Some(event) = self.wire.state.events.pop_front() {
            serving.answered.note(&event, Instant::now());
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
        let delay = self.backoff.next_delay().max(delay.unwrap_or_default());
        let failures = self.backoff.failures();
        // A condition tells of it; this is for whoever counts attempts.
        tracing::debug!(stage = %fault.stage, reason = fault.reason, failures, ?delay, "no connection to the broker");
        {
            let mut inner = self.shared.lock();
            inner.lost(&fault, failures);
            inner.status.next_attempt_in = Some(delay);
        }
        self.emit(Event::Lost { connection, fault }).await;
        if self.settings.rebuild_after != 0 && failures % self.settings.rebuild_after == 0 {
            (self.client, self.wire) = wire(&self.settings, &self.topics);
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

/// The topics of this device, in the order in which they are subscribed to.
pub(super) fn filters(topics: &Topics) -> [String; 3] {
    [topics.entitlement(), topics.answer(), topics.keyset()]
}

/// Whether SUBACK grants `entitlement`, the first filter; with QoS 0 too (scenario 57).
pub(super) fn granted(suback: &SubAck, topics: &Topics, peer: &str) -> Result<(), LinkFault> {
    match suback.return_codes.first() {
        Some(SubscribeReasonCode::Success(_)) => Ok(()),
        _ => {
            let reason = format!("{peer} refuses the subscription to {}", topics.entitlement());
            Err(LinkFault::new(Stage::Suback, reason).advising(GIVE_RIGHTS))
        }
    }
}

/// The topics that SUBACK refuses.
pub(super) fn refused(suback: &SubAck, topics: &Topics) -> Vec<String> {
    let codes = suback.return_codes.iter();
    let refused = filters(topics).into_iter().zip(codes).filter(|(_, code)| **code == SubscribeReasonCode::Failure);
    refused.map(|(topic, _)| topic).collect()
}

/// The wire as this link uses it.
fn wire(settings: &Settings, topics: &Topics) -> (mpsc::Sender<Request>, Wire) {
    let options = Options {
        client_id: settings.device.to_string(),
        keep_alive: Duration::from_secs(settings.keep_alive.as_secs().max(1)),
        last_will: Some(LastWill::new(topics.status(), "offline", QoS::AtLeastOnce, true)),
        max_packet: MAX_PACKET,
        inflight: INFLIGHT,
        write_timeout: settings.connect_timeout,
    };
    Wire::new(options, REQUESTS)
}

/// Packet identifiers: far more than are ever outstanding, so that they hardly collide.
const INFLIGHT: u16 = 100;
const _: () = assert!(Outbox::OUTSTANDING < INFLIGHT as usize / 10);
