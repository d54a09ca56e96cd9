//! The only task that polls the wire: it connects, subscribes, delivers messages and detects dead connections.
//! [`super::ending`] handles the end of a connection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use care_protocol::Topics;
use rumqttc::{LastWill, Outgoing, Packet, Publish, QoS, Request, Subscribe, SubscribeFilter};
use tokio::{
    sync::mpsc,
    time::{self, timeout, timeout_at},
};

use super::{
    Connection, Event, LinkFault, LinkState, MAX_PACKET, Settings, Stage,
    acks::AckWindow,
    ending::{End, REJECTED_IN_A_ROW},
    outbox::{Outbox, Publication},
    shared::{Intent, Shared},
    subscription::{filters, granted, refused},
    unanswered::{PendingReplies, RejectedPacket},
    wire::{Options, Wire},
};
use crate::{
    backoff::{Backoff, Delays, Jitter},
    conditions::Kind,
    http::{self, Avoided, Direct, DirectGuard, Origin},
};

/// Requests on their way to the wire: PUBACKs mostly. More wait in the `AckWindow`.
const REQUESTS: usize = 64;

pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) topics: Topics,
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) backoff: Backoff,
    pub(super) client: mpsc::Sender<Request>,
    pub(super) wire: Wire,
    /// Of the current connection, whose socket it keeps open.
    pub(super) guard: Option<DirectGuard>,
    /// The current or last peer, for messages.
    pub(super) peer: String,
    /// Addresses that accepted the connection but granted no subscription.
    pub(super) avoided: Avoided,
    /// The earliest end of the broker's certificates.
    pub(super) valid_until: Duration,
    /// The number of the last connection.
    pub(super) connection: Connection,
    /// How many connections in a row ended with a packet that was too large.
    pub(super) oversized: u32,
    /// How many connections in a row the broker closed soon after CONNACK, for an unknown reason.
    pub(super) closed_soon: u32,
    /// The broker has closed a connection before anything was sent on it, and has answered nothing since. So SUBSCRIBE, which may
    /// cross the next close, is not the cause.
    pub(super) closes_unasked: bool,
    /// The packet that made the broker close the last connection, and how many such closes in a row.
    pub(super) closed_after: Option<(RejectedPacket, u32)>,
    /// Send no SUBSCRIBE before this time.
    pub(super) defer_until: Option<Instant>,
    /// The next connection drops the session, and with it the packet that is too large.
    pub(super) clean_next: bool,
    /// The last connection was closed on purpose for a reconnect, so the status topic still holds `online`.
    pub(super) farewell_owed: bool,
}

/// One connection while it is served.
pub(super) struct Serving {
    pub(super) connection: Connection,
    /// SUBSCRIBE's packet identifier, once it is sent.
    pub(super) subscribe: Option<u16>,
    /// The deadline for SUBACK.
    pub(super) suback_until: Option<Instant>,
    /// When the connection counts as stable; `None` once it does.
    pub(super) stable_at: Option<Instant>,
    /// The packets that the broker has not answered.
    pub(super) pending: PendingReplies,
}

impl Session {
    pub(super) fn new(settings: Settings, topics: Topics, shared: Arc<Shared>, events: mpsc::Sender<Event>) -> Self {
        let backoff = Backoff::new(Delays::new(settings.backoff_first, settings.backoff_most, Jitter::Full));
        let (client, wire) = wire(&settings, &topics);
        Self {
            peer: settings.broker.endpoint.authority(),
            avoided: Avoided::default(),
            settings,
            topics,
            shared,
            events,
            backoff,
            valid_until: Duration::ZERO,
            client,
            wire,
            guard: None,
            connection: Connection(0),
            oversized: 0,
            closed_soon: 0,
            closes_unasked: false,
            closed_after: None,
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

    /// Takes the request of `Link`. `Renew` is thereby complete, since the next connection is a new one anyway. Who asks for it
    /// has mended something: no subscription is put off any longer.
    fn take_intent(&mut self) -> Intent {
        let mut inner = self.shared.lock();
        let intent = inner.intent;
        if intent == Intent::Renew {
            inner.intent = Intent::Run;
            self.defer_until = None;
        }
        intent
    }

    /// One attempt. Returns whether the broker kept the session; `None` if `Link` requests something else meanwhile.
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
                // Another broker: publications in flight stay with the old one.
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
        self.avoided.keep(&addresses);
        self.avoided.order(&mut addresses);
        let deadline = time::Instant::now() + limit;
        let connection = http::connect(&Direct, &origin, &addresses, deadline).await.map_err(|fault| LinkFault::from_http(&fault))?;
        self.peer = connection.peer_name().to_owned();
        self.valid_until = connection.valid_until();
        // Removed again once it grants the subscription.
        self.avoided.add(connection.peer());
        // At the end of the connection the guard checks whether the path has dropped its large segments.
        let (stream, guard) = connection.into_stream();
        match timeout_at(deadline, self.wire.connect(stream, self.clean_next)).await {
            Ok(Ok(session_present)) => {
                self.guard = Some(guard);
                Ok(session_present && !self.clean_next)
            }
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
            // Dropping a `poll` halfway may lose a packet. Here the connection is dropped with it.
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
                // Subscribe on a new connection, with a persistent session.
                self.defer_until = None;
                self.shared.lock().intent = Intent::Renew;
            }
            self.shared.lock().pump();
        }
    }

    /// Sets up a new connection: its number, its SUBSCRIBE before anything else, `online`.
    fn begin(&mut self, session_present: bool) -> Serving {
        self.clean_next = false;
        self.connection.0 += 1;
        let connection = self.connection;
        let deferred = self.defer_until.is_some_and(|until| until > Instant::now());
        if !deferred {
            self.defer_until = None;
            // Even with a resumed session: only SUBSCRIBE makes the broker send the retained document again (R250).
            let filters = filters(&self.topics).map(|path| SubscribeFilter::new(path, QoS::AtLeastOnce));
            // Ahead of the packets that a resumed session repeats: a cancel must not wait for them.
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
            inner.outbox.push_front(Publication { ticket: None, topic, payload: b"online".to_vec(), retain: true });
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
        Serving { connection, subscribe: None, suback_until, stable_at, pending: PendingReplies::default() }
    }

    /// The connection is stable: no clone has taken it over, and no packet from the broker is too large.
    fn is_good(&mut self) {
        self.closed_soon = 0;
        if self.closed_after.take().is_some_and(|(_, in_a_row)| in_a_row >= REJECTED_IN_A_ROW) {
            self.settings.conditions.clear(Kind::BrokerRights);
        }
        self.settings.conditions.clear(Kind::BrokerClone);
        // Without a subscription the broker sends nothing, so this connection does not show whether the message is gone.
        if self.defer_until.is_none() {
            self.settings.conditions.clear(Kind::BrokerMessageTooLarge);
        }
    }

    async fn handle(&mut self, event: rumqttc::Event, serving: &mut Serving) -> Option<End> {
        use rumqttc::Event::{Incoming, Outgoing as Out};
        let connection = serving.connection;
        serving.pending.note(&event, Instant::now());
        match event {
            Incoming(Packet::Publish(publish)) => self.deliver(publish, connection, true).await,
            Incoming(Packet::PubAck(puback)) => self.published(puback.pkid).await,
            Incoming(Packet::SubAck(suback)) if serving.subscribe == Some(suback.pkid) => {
                serving.suback_until = None;
                self.closes_unasked = false;
                let refused = refused(&suback, &self.topics);
                match refused.is_empty() {
                    // Publish rights count as missing until the broker acknowledges a publication.
                    true if matches!(self.closed_after, Some((RejectedPacket::Publish(_), _))) => {}
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
                // Stop may be requested after the DISCONNECT of a Renew.
                let said_all = inner.outbox.queued() + inner.outbox.outstanding() == 0;
                Some(if inner.intent == Intent::Stop && said_all { End::Stopped } else { End::Renewed })
            }
            _ => None,
        }
    }

    /// Delivers a PUBLISH; with an `Ack` only while its connection is up.
    pub(super) async fn deliver(&mut self, publish: Publish, connection: Connection, live: bool) -> Option<End> {
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

    pub(super) async fn published(&mut self, packet: u16) -> Option<End> {
        let ticket = self.shared.lock().outbox.acknowledged(packet)?;
        (!self.emit(Event::Published { ticket }).await).then_some(End::Orphaned)
    }

    /// Sends the owner an event, waiting for room; `false` if the owner has dropped its end. While stopping, an event
    /// without room is dropped, because the owner then waits for the link to end.
    pub(super) async fn emit(&mut self, event: Event) -> bool {
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

/// The wire with this link's settings.
pub(super) fn wire(settings: &Settings, topics: &Topics) -> (mpsc::Sender<Request>, Wire) {
    let options = Options {
        client_id: settings.device.to_string(),
        keep_alive: Duration::from_secs(settings.keep_alive.as_secs().max(1)),
        last_will: Some(LastWill::new(topics.status(), "offline", QoS::AtLeastOnce, true)),
        login: None,
        max_packet: MAX_PACKET,
        inflight: INFLIGHT,
        write_timeout: settings.connect_timeout,
    };
    Wire::new(options, REQUESTS)
}

/// Packet identifiers: far more than are ever outstanding, so that collisions are rare.
const INFLIGHT: u16 = 100;
const _: () = assert!(Outbox::OUTSTANDING < INFLIGHT as usize / 10);
