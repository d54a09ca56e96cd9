//! One simulated camera: the engine, and the little that a camera without hardware needs around it. Its flash and its
//! gate are imaginary and never fail. What a camera asks over HTTPS, it asks its [`Home`], whose clock it has.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use care_engine::{
    Admission, Connection, CutFigures, CutProgress, Delivery, Engine, Event, Fetched, Generation, Message, Ports, Resource, Restored,
    Settings,
    trusted_time::{HeardDate, LATEST, Now, Readings, TrustedTime},
};
use care_protocol::{DeviceId, Erased, Get, Policy, Position, Report, RootKeys, Topic, Topics};
use rumqttc::{AsyncClient, ClientError, Publish, QoS};
use serde::Serialize;
use tokio::sync::mpsc;

use super::Home;
use crate::storage::keys::ISSUER;

/// The longest sleep.
const ROUND: Duration = Duration::from_secs(3600);

/// A simulated camera.
pub(super) struct Camera {
    engine: Engine,
    ports: SimulatedPorts,
}

impl Camera {
    /// A camera that was never bound, with this Free policy. The cloud's answers arrive through `answers`.
    pub(super) fn new(device: DeviceId, free: Policy, home: Arc<Home>, answers: mpsc::Sender<(Resource, Fetched)>) -> Self {
        let (name, root) = &home.root;
        let settings = Settings {
            device: device.clone(),
            issuer: ISSUER.to_owned(),
            roots: RootKeys::from([(name.to_owned(), *root)]),
            min_keyset_version: 1,
            free,
            agent: concat!("simulated-", env!("CARGO_PKG_VERSION")).to_owned(),
            nonce: Box::new(|| uuid::Uuid::new_v4().simple().to_string()),
        };
        let mut ports = SimulatedPorts::new(device, home, answers);
        let mut engine = Engine::new(settings, Restored::Empty, ports.now());
        engine.start(&mut ports);
        Self { engine, ports }
    }

    pub(super) fn device(&self) -> &DeviceId {
        &self.ports.device
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.ports.topics
    }

    /// How long nothing has to be done unless something happens.
    pub(super) fn until_due(&mut self) -> Duration {
        let now = self.ports.now();
        self.engine.wake_at(now).map_or(ROUND, |at| at.saturating_sub(now.boot).min(ROUND))
    }

    /// Passes an event to the engine and carries out its effects.
    ///
    /// # Errors
    /// The connection's queue is full: the session must end.
    pub(super) fn handle(&mut self, event: Event) -> Result<(), ClientError> {
        self.engine.handle(event, &mut self.ports);
        while let Some(event) = self.ports.due.pop_front() {
            self.engine.handle(event, &mut self.ports);
        }
        self.ports.fault.take().map_or(Ok(()), Err)
    }

    pub(super) fn connected(&mut self, connection: Connection, client: AsyncClient) -> Result<(), ClientError> {
        self.ports.client = Some(client);
        self.handle(Event::Connected(connection))
    }

    pub(super) fn subscribed(&mut self, connection: Connection) -> Result<(), ClientError> {
        let topic = self.ports.topics.status();
        self.ports.send(topic, true, b"online".to_vec(), None);
        self.handle(Event::Subscribed(connection))
    }

    /// The connection is lost, with all messages in flight.
    pub(super) fn disconnected(&mut self, connection: Connection) {
        self.ports.client = None;
        self.ports.queued.clear();
        self.ports.in_flight.clear();
        self.ports.deliveries.clear();
        // Without a connection nothing can be queued, so nothing can fail.
        let _ = self.handle(Event::Lost(Some(connection)));
    }

    /// A message of the broker's.
    pub(super) fn take(&mut self, connection: Connection, publish: Publish) -> Result<(), ClientError> {
        let Some(topic) = self.ports.topics.classify(&publish.topic) else { return Ok(()) };
        if topic == Topic::Answer {
            self.ports.home.seen.answers.fetch_add(1, Ordering::Relaxed);
        }
        self.ports.delivered += 1;
        let delivery = Delivery(self.ports.delivered);
        let message = Message {
            connection,
            topic,
            payload: publish.payload.clone(),
            retain: publish.retain,
            dup: publish.dup,
            received: self.ports.now().boot,
            delivery: Some(delivery),
            valid_until: LATEST,
        };
        self.ports.deliveries.insert(delivery, publish);
        self.handle(Event::Message(message))
    }

    /// The next queued PUBLISH was sent under this packet identifier.
    pub(super) fn sent(&mut self, pkid: u16) {
        if let Some(Some(ticket)) = self.ports.queued.pop_front() {
            self.ports.in_flight.insert(pkid, ticket);
        }
    }

    /// The broker acknowledged this packet.
    pub(super) fn acknowledged(&mut self, pkid: u16) -> Result<(), ClientError> {
        match self.ports.in_flight.remove(&pkid) {
            Some(ticket) => self.handle(Event::Published { ticket }),
            None => Ok(()),
        }
    }

    /// The cloud answered with its time.
    pub(super) fn answered(&mut self, resource: Resource, fetched: Fetched) -> Result<(), ClientError> {
        let readings = self.ports.readings();
        if fetched != Fetched::Failed {
            let heard = HeardDate { date: readings.system, sent: readings.boot, valid_until: LATEST };
            self.ports.time.observe_date(heard, readings);
        }
        self.handle(Event::Fetched(resource, fetched))
    }
}

struct SimulatedPorts {
    device: DeviceId,
    topics: Topics,
    home: Arc<Home>,
    answers: mpsc::Sender<(Resource, Fetched)>,
    client: Option<AsyncClient>,
    started: Instant,
    time: TrustedTime,
    generation: u64,
    /// PUBLISHes in the connection's queue: the ticket of a report, `None` for anything else.
    queued: VecDeque<Option<u64>>,
    /// Reports on the wire, by packet identifier.
    in_flight: HashMap<u16, u64>,
    /// Messages that wait for their PUBACK.
    deliveries: HashMap<Delivery, Publish>,
    delivered: u64,
    /// The results of the simulated flash.
    due: VecDeque<Event>,
    /// Why something could not be queued.
    fault: Option<ClientError>,
}

impl SimulatedPorts {
    fn new(device: DeviceId, home: Arc<Home>, answers: mpsc::Sender<(Resource, Fetched)>) -> Self {
        let build = Duration::from_secs(home.clock.now_s());
        Self {
            topics: Topics::new(&home.prefix, &device),
            device,
            answers,
            client: None,
            started: Instant::now(),
            time: TrustedTime::new(build, None, Duration::ZERO),
            home,
            generation: 0,
            queued: VecDeque::new(),
            in_flight: HashMap::new(),
            deliveries: HashMap::new(),
            delivered: 0,
            due: VecDeque::new(),
            fault: None,
        }
    }

    fn readings(&self) -> Readings {
        Readings { boot: self.started.elapsed(), system: Duration::from_secs(self.home.clock.now_s()) }
    }

    fn send(&mut self, topic: String, retain: bool, payload: Vec<u8>, ticket: Option<u64>) {
        // Without a connection it is lost; the engine repeats reports that must arrive.
        let Some(client) = &self.client else { return };
        match client.try_publish(topic, QoS::AtLeastOnce, retain, payload) {
            Ok(()) => self.queued.push_back(ticket),
            Err(e) => self.fault = Some(e),
        }
    }
}

impl Ports for SimulatedPorts {
    fn now(&mut self) -> Now {
        let readings = self.readings();
        self.time.now(readings)
    }

    fn cut(&mut self, _keep: Option<(Policy, Position)>) -> CutProgress {
        self.generation += 1;
        let generation = Generation(self.generation);
        CutProgress::Done(CutFigures { generation, transfers: 0, bytes_after: Some(0), erased: Erased::default() })
    }

    // It has no clips.
    fn open(&mut self, _admission: Admission) {}
    fn retry_refused(&mut self) {}
    fn forget(&mut self) {}

    fn persist(&mut self, ticket: u64, _record: Vec<u8>) {
        self.due.push_back(Event::Written { ticket });
    }

    fn acknowledge(&mut self, delivery: Delivery) {
        if let (Some(client), Some(publish)) = (&self.client, self.deliveries.remove(&delivery))
            && let Err(e) = client.try_ack(&publish)
        {
            self.fault = Some(e);
        }
    }

    fn publish(&mut self, ticket: u64, report: Report) {
        self.send(self.topics.report(), true, to_bytes(&report), Some(ticket));
    }

    fn get(&mut self, get: Get) {
        self.send(self.topics.get(), false, to_bytes(&get), None);
    }

    fn fetch(&mut self, resource: Resource) {
        let (home, device, answers) = (self.home.clone(), self.device.clone(), self.answers.clone());
        tokio::spawn(async move {
            let fetched = home.cloud.ask(device, resource).await;
            // The camera may have ended.
            let _ = answers.send((resource, fetched)).await;
        });
    }

    fn alarm(&mut self, position: Position) {
        tracing::warn!(device = %self.device, %position, "simulated: two documents carry this position");
    }

    fn raise_time(&mut self, issued: Duration) {
        self.time.raise(issued, self.readings());
    }

    fn set_time(&mut self, time: Duration) {
        self.time.set(time, self.readings());
    }
}

fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}
