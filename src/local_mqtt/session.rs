//! The connection to the broker in the home: connects, announces the device, publishes states as they change, and announces
//! again when Home Assistant has started. At most a second's newest state waits; a broker that is slow, silent or hostile
//! costs this thread a bounded buffer and a connection attempt now and then.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use care_protocol::DeviceId;
use rumqttc::{Disconnect, Event, LastWill, Outgoing, Packet, Publish, QoS, Request, Subscribe, SubscribeFilter, SubscribeReasonCode};
use tokio::{
    select,
    sync::{Notify, mpsc, watch},
    time::{self, sleep, timeout, timeout_at},
};

use super::{
    discovery::{self, Topics},
    state,
};
use crate::{
    backoff::{Backoff, Delays, Jitter},
    clock::Clock,
    conditions::{Conditions, Kind},
    config::{Config, LocalMqtt},
    http::{self, Direct, Origin},
    link::{
        LinkFault, Stage,
        wire::{Options, Wire, WireError},
    },
    status::SharedStatus,
    tls,
    upload::is_local,
};

/// The largest packet, either way, bytes. What is published is smaller (see the tests).
pub(super) const MAX_PACKET: usize = 32 * 1024;
/// Messages on their way to the connection.
const QUEUE: usize = 4;
/// Home Assistant's birth message, unless it was given another.
const BIRTH_TOPIC: &str = "homeassistant/status";
const BIRTH: &[u8] = b"online";

const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long looking up may take, then connecting up to CONNACK, and each write.
const WITHIN: Duration = Duration::from_secs(10);
/// The longest time without any event, not even our own ping.
const WATCHDOG: Duration = Duration::from_secs(80);
/// The pause after each publication of states.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_millis(800);
/// A connection that lasts this long was a good one: the next attempt comes soon.
const STABLE: Duration = Duration::from_secs(30);
const DELAYS: Delays = Delays::new(Duration::from_secs(1), Duration::from_secs(60), Jitter::Equal);
/// How many packets a second the broker may send.
const PACKETS: u32 = 20;

/// Why there is no connection, in one sentence.
type Fault = String;

/// One camera at one broker.
pub(super) struct Session {
    config: LocalMqtt,
    device: DeviceId,
    model: String,
    films: bool,
    topics: Topics,
    status: Arc<SharedStatus>,
    conditions: Conditions,
    clock: Clock,
}

/// What was said last on this connection.
#[derive(Default)]
struct Said {
    state: String,
    motion_events: u64,
}

impl Session {
    /// `None` without `[local_mqtt]`.
    pub(super) fn new(config: &Config, status: Arc<SharedStatus>, conditions: Conditions, clock: Clock) -> Option<Self> {
        let local = config.local_mqtt.clone()?;
        let device = config.device.id.clone();
        let topics = Topics::new(&local, &device);
        Some(Self {
            config: local,
            model: config.device.model.clone(),
            films: config.media.is_some(),
            topics,
            device,
            status,
            conditions,
            clock,
        })
    }

    /// Connects again and again until `stop`.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(DELAYS);
        let stopped = || {
            let mut stop = stop.clone();
            // Its sender lives as long as the agent; without it there is nobody to speak for.
            async move { drop(stop.wait_for(|stop| *stop).await) }
        };
        // The first document is made before the agent knows its plan.
        select! {
            () = stopped() => return,
            () = self.status.changed_since(0) => {}
        }
        loop {
            let began = Instant::now();
            let connected = select! {
                biased;
                () = stopped() => return,
                // Dropping an attempt is safe: it leaves half a connection, which is dropped with it.
                connected = self.connect("") => connected,
            };
            let fault = match connected {
                Ok((queue, wire, peer)) => match self.serve(queue, wire, &peer, &stopped).await {
                    Some(fault) => fault,
                    None => return,
                },
                Err(fault) => fault,
            };
            if began.elapsed() >= STABLE {
                backoff.reset();
            }
            self.conditions.raise(Kind::LocalBroker, format!("Home Assistant is told nothing: {fault}"));
            select! {
                () = stopped() => return,
                () = sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// One attempt, up to CONNACK. `suffix` makes another client id.
    async fn connect(&self, suffix: &str) -> Result<(mpsc::Sender<Request>, Wire, String), Fault> {
        let LocalMqtt { endpoint, ca, login, .. } = &self.config;
        // Read anew each time, so that replaced files count from the next attempt on.
        let tls = ca.as_ref().map(|ca| tls::store_client(ca, None, &self.clock)).transpose().map_err(|error| error.to_string())?;
        let password = login.as_ref().map(|(_, file)| tls::password(file)).transpose().map_err(|error| error.to_string())?;
        let origin = Origin { endpoint: endpoint.clone(), tls };
        let mut addresses = http::resolve(endpoint, time::Instant::now() + WITHIN).await.map_err(|fault| fault.to_string())?;
        if !endpoint.tls {
            addresses.retain(|address| is_local(address.ip()));
            if addresses.is_empty() {
                return Err(format!("{} has no address in the home, and mqtt:// is plaintext: write mqtts://", endpoint.host));
            }
        }
        let deadline = time::Instant::now() + WITHIN;
        let connection = http::connect(&Direct, &origin, &addresses, deadline).await.map_err(|fault| fault.to_string())?;
        let peer = connection.peer_name().to_owned();
        let options = Options {
            // Never the link's own id: at one and the same broker the two would end each other's connections.
            client_id: format!("kasa-care-home-{}{suffix}", self.device),
            keep_alive: KEEP_ALIVE,
            last_will: suffix.is_empty().then(|| LastWill::new(&self.topics.availability, "offline", QoS::AtMostOnce, true)),
            login: login.as_ref().map(|(name, _)| name.clone()).zip(password),
            max_packet: MAX_PACKET,
            inflight: 1,
            write_timeout: WITHIN,
        };
        let (queue, mut wire) = Wire::new(options, QUEUE);
        match timeout_at(deadline, wire.connect(connection.into_stream().0, true)).await {
            Ok(Ok(_)) => {
                let birth = SubscribeFilter::new(BIRTH_TOPIC.to_owned(), QoS::AtMostOnce);
                wire.pending.push_back(Request::Subscribe(Subscribe::new_many([birth])));
                Ok((queue, wire, peer))
            }
            Ok(Err(error)) => Err(reason(&error, Stage::Connack, &peer)),
            Err(_) => Err(format!("CONNECT to {peer}: no answer from the broker within {} s", WITHIN.as_secs())),
        }
    }

    /// Serves a connection until it ends. Returns why, or `None` once the farewell is said, or its time is over.
    async fn serve<S: Future<Output = ()>>(
        &self,
        queue: mpsc::Sender<Request>,
        mut wire: Wire,
        peer: &str,
        stopped: &impl Fn() -> S,
    ) -> Option<Fault> {
        let born = Notify::new();
        let mut reading = pin!(self.listen(&mut wire, peer, &born));
        let mut speaking = pin!(self.speak(&queue, &born));
        select! {
            biased;
            () = stopped() => {}
            ended = &mut reading => return ended,
            () = &mut speaking => {}
        }
        let farewell = async {
            // In this order: a broker publishes no last will after DISCONNECT.
            for request in [retained(&self.topics.availability, "offline"), Request::Disconnect(Disconnect)] {
                // The other end is `wire`, which lives as long.
                let _ = queue.send(request).await;
            }
            std::future::pending::<()>().await;
        };
        select! {
            _ = reading => {}
            () = farewell => {}
            () = sleep(FAREWELL) => {}
        }
        None
    }

    /// Reads, and lets the queue go out. Returns why the connection ended; `None` after our DISCONNECT.
    async fn listen(&self, wire: &mut Wire, peer: &str, born: &Notify) -> Option<Fault> {
        let (mut second, mut packets) = (Instant::now(), 0);
        loop {
            // Dropping a `poll` halfway may lose a packet. Here the connection is dropped with it.
            let event = match timeout(WATCHDOG, wire.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => return Some(reason(&error, Stage::Session, peer)),
                Err(_) => return Some(format!("connection to {peer}: nothing moved for {} s", WATCHDOG.as_secs())),
            };
            let packet = match event {
                Event::Incoming(packet) => packet,
                Event::Outgoing(Outgoing::Disconnect) => return None,
                Event::Outgoing(_) => continue,
            };
            if second.elapsed() >= Duration::from_secs(1) {
                (second, packets) = (Instant::now(), 0);
            }
            packets += 1;
            if packets > PACKETS {
                return Some(format!("connection to {peer}: the broker sends more than {PACKETS} packets a second"));
            }
            match packet {
                // Without it states arrive all the same, and the retained announcement is still there after a restart.
                Packet::SubAck(suback) if suback.return_codes.contains(&SubscribeReasonCode::Failure) => {
                    let sentence = format!("{peer} refuses the subscription to {BIRTH_TOPIC}");
                    let advice = "Let this user read that topic, so that the camera is announced again when Home Assistant starts.";
                    self.conditions.raise_advising(Kind::LocalBroker, sentence, advice);
                }
                Packet::SubAck(_) => self.conditions.clear(Kind::LocalBroker),
                Packet::Publish(Publish { topic, payload, .. }) if topic == BIRTH_TOPIC && payload == BIRTH => born.notify_one(),
                Packet::Publish(Publish { topic, .. }) if topic != BIRTH_TOPIC => {
                    return Some(format!("connection to {peer}: the broker sends what nobody has subscribed to"));
                }
                _ => {}
            }
        }
    }

    /// Announces the device, then publishes what changes. Returns when the connection takes nothing more.
    async fn speak(&self, queue: &mpsc::Sender<Request>, born: &Notify) {
        let mut said = Said::default();
        let mut announcing = true;
        loop {
            // Read before the document: what changes meanwhile comes next.
            let (version, owners) = (self.status.version(), self.status.owners());
            for message in self.news(&mut said, announcing) {
                if queue.send(message).await.is_err() {
                    return;
                }
            }
            // What belongs to another owner is replaced at once.
            select! {
                () = self.status.owner_changed_since(owners) => {}
                () = sleep(PAUSE) => {}
            }
            announcing = select! {
                () = born.notified() => true,
                () = self.status.changed_since(version) => false,
            };
        }
    }

    /// What is to be said now; with `announcing` everything.
    fn news(&self, said: &mut Said, announcing: bool) -> Vec<Request> {
        let (topics, status) = (&self.topics, self.status.read());
        let mut messages = Vec::new();
        let events = state::motion_events(&status);
        let moved = events > said.motion_events && !announcing;
        said.motion_events = events;
        if announcing {
            let device = discovery::device(&self.config, topics, &self.device, &self.model, self.films);
            messages.push(retained(&topics.device, device.to_string()));
        }
        let state = state::document(&status).to_string();
        if announcing || state != said.state {
            messages.push(retained(&topics.state, state.as_str()));
            said.state = state;
        }
        if announcing {
            messages.push(retained(&topics.availability, "online"));
        }
        if self.films && (announcing || moved) {
            let motion = if moved { "ON" } else { "OFF" };
            messages.push(Request::Publish(Publish::new(&topics.motion, QoS::AtMostOnce, motion)));
            if let Some(page) = self.config.page_url.as_ref().filter(|_| discovery::has_picture(&self.config)) {
                messages.push(retained(&topics.picture, format!("{page}/frame.jpg")));
            }
        }
        messages
    }

    /// CONNECT and SUBSCRIBE, then DISCONNECT.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let (queue, mut wire, peer) = self.connect("-check").await?;
        let born = Notify::new();
        let answered = async {
            loop {
                match wire.poll().await {
                    Ok(Event::Incoming(Packet::SubAck(_))) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(reason(&error, Stage::Suback, &peer)),
                }
            }
        };
        timeout(WITHIN, answered).await.map_err(|_| format!("connection to {peer}: no SUBACK within {} s", WITHIN.as_secs()))??;
        // Its result does not matter: the broker would notice the end of the connection anyway.
        let _ = queue.try_send(Request::Disconnect(Disconnect));
        let _ = timeout(FAREWELL, self.listen(&mut wire, &peer, &born)).await;
        Ok(format!("{peer} takes this device's user, and Home Assistant is to look below {}", self.config.discovery_prefix))
    }
}

fn retained(topic: &str, payload: impl Into<Vec<u8>>) -> Request {
    let mut publish = Publish::new(topic, QoS::AtMostOnce, payload);
    publish.retain = true;
    Request::Publish(publish)
}

fn reason(error: &WireError, stage: Stage, peer: &str) -> Fault {
    match error {
        WireError::TooLarge { bytes, .. } => format!("connection to {peer}: the broker sent a packet of {bytes} bytes"),
        error => LinkFault::from_wire(error, stage, peer).reason,
    }
}
