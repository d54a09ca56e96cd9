//! The histories of `vectors/histories.json`, played to the engine itself. vectors/README.md describes their steps;
//! `vectors/run.py` plays the same histories to a second implementation.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use care_engine::{
    Admission, Body, Connection, CutFigures, CutProgress, Delivery, Engine, Event, Fetched, Generation, Message, Ports, Record, Resource,
    Restored, Settings,
    trusted_time::{HeardDate, LATEST, Now, Readings, TrustedTime},
};
use care_protocol::{Cause, DeviceId, Erased, Get, Mode, Outcome, Plan, Policy, Position, PublicKey, Report, Topic};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    issuer: String,
    device: DeviceId,
    roots: BTreeMap<String, PublicKey>,
    min_keyset_version: u64,
    built: u64,
    policies: BTreeMap<String, Policy>,
    histories: Vec<History>,
}

#[derive(Deserialize)]
struct History {
    name: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(rename = "do")]
    does: String,
    via: Option<String>,
    token: Option<String>,
    valid_until: Option<u64>,
    seconds: Option<u64>,
    date: Option<u64>,
    then: Then,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Then {
    outcome: Option<String>,
    reason: Option<String>,
    in_force: [u64; 2],
    plan: Option<Plan>,
    mode: Mode,
    leaves: String,
    ratchet: [u64; 2],
    keyset: u64,
    time: u64,
}

/// The machine around the engine: its clock, its flash, and the reports of one step.
struct Machine {
    boot: Duration,
    time: TrustedTime,
    events: VecDeque<Event>,
    record: Option<Vec<u8>>,
    reports: Vec<Report>,
    cuts: u64,
}

impl Machine {
    /// The system clock stands in 1970.
    fn readings(&self) -> Readings {
        Readings { boot: self.boot, system: Duration::ZERO }
    }
}

impl Ports for Machine {
    fn now(&mut self) -> Now {
        self.time.now(self.readings())
    }

    fn cut(&mut self, _: Option<(Policy, Position)>) -> CutProgress {
        self.cuts += 1;
        let generation = Generation(self.cuts);
        CutProgress::Done(CutFigures { generation, transfers: 0, bytes_after: Some(0), erased: Erased::default() })
    }

    fn open(&mut self, _: Admission) {}

    fn retry_refused(&mut self) {}

    fn forget(&mut self) {}

    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        self.record = Some(record);
        self.events.push_back(Event::Written { ticket });
    }

    fn acknowledge(&mut self, _: Delivery) {}

    fn publish(&mut self, ticket: u64, report: Report) {
        self.reports.push(report);
        self.events.push_back(Event::Published { ticket });
    }

    fn get(&mut self, _: Get) {}

    fn fetch(&mut self, _: Resource) {}

    fn alarm(&mut self, _: Position) {}

    fn raise_time(&mut self, issued: Duration) {
        let readings = self.readings();
        self.time.raise(issued, readings);
    }

    fn set_time(&mut self, time: Duration) {
        let readings = self.readings();
        self.time.set(time, readings);
    }
}

/// One camera, connected and subscribed.
struct Camera<'a> {
    file: &'a File,
    engine: Engine,
    machine: Machine,
    delivery: u64,
}

impl<'a> Camera<'a> {
    fn new(file: &'a File) -> Self {
        let boot = Duration::from_secs(1000);
        let time = TrustedTime::new(Duration::from_secs(file.built), None, boot);
        let machine = Machine { boot, time, events: VecDeque::new(), record: None, reports: Vec::new(), cuts: 0 };
        Self::started(file, machine, Restored::Empty)
    }

    fn started(file: &'a File, mut machine: Machine, restored: Restored) -> Self {
        let mut nonces = 0_u64;
        let settings = Settings {
            device: file.device.clone(),
            issuer: file.issuer.clone(),
            roots: file.roots.clone(),
            min_keyset_version: file.min_keyset_version,
            free: file.policies["free"],
            agent: "vectors".into(),
            nonce: Box::new(move || {
                nonces += 1;
                format!("nonce-{nonces:022}")
            }),
        };
        let now = machine.now();
        let mut camera = Self { file, engine: Engine::new(settings, restored, now), machine, delivery: 0 };
        camera.engine.start(&mut camera.machine);
        for event in [Event::Connected(Connection(1)), Event::SubscribeSent(Connection(1)), Event::Subscribed(Connection(1))] {
            camera.handle(event);
        }
        camera
    }

    fn handle(&mut self, event: Event) {
        self.machine.events.push_back(event);
        while let Some(event) = self.machine.events.pop_front() {
            self.engine.handle(event, &mut self.machine);
        }
    }

    /// Stops cleanly and starts again with what is on flash, after `change`.
    fn restarted(mut self, change: impl FnOnce(Record) -> Record) -> Self {
        self.handle(Event::Stopping);
        let record = Record::read(self.machine.record.as_ref().expect("a record")).unwrap();
        let (built, trusted) = (Duration::from_secs(self.file.built), Duration::from_secs(record.trusted_s));
        let time = TrustedTime::new(built, Some(trusted), self.machine.boot);
        let machine = Machine { time, reports: Vec::new(), ..self.machine };
        Self::started(self.file, machine, Restored::Record(Box::new(change(record))))
    }

    fn with_a_lost_state(self) -> Self {
        let time = TrustedTime::new(Duration::from_secs(self.file.built), None, self.machine.boot);
        let machine = Machine { time, record: None, reports: Vec::new(), ..self.machine };
        Self::started(self.file, machine, Restored::Unreadable)
    }

    fn receive(&mut self, topic: Topic, step: &Step) {
        let payload = Bytes::from(step.token.clone().expect("a token"));
        let valid_until = step.valid_until.map_or(LATEST, Duration::from_secs);
        if step.via.as_deref() == Some("https") {
            let body = Body { bytes: payload, valid_until };
            return self.handle(Event::Fetched(Resource::Entitlement, Fetched::Found(body)));
        }
        self.delivery += 1;
        let message = Message {
            connection: Connection(1),
            topic,
            payload,
            retain: step.via.as_deref() != Some("live"),
            dup: false,
            received: self.machine.boot,
            delivery: Some(Delivery(self.delivery)),
            valid_until,
        };
        self.handle(Event::Message(message));
    }

    fn wait(&mut self, seconds: u64) {
        let end = self.machine.boot + Duration::from_secs(seconds);
        while self.machine.boot < end {
            let now = self.machine.now();
            let wake = self.engine.wake_at(now).expect("no cut is under way").max(self.machine.boot + Duration::from_millis(1));
            self.machine.boot = wake.min(end);
            self.handle(Event::Tick);
        }
    }

    fn play(mut self, step: &Step) -> Self {
        self.machine.reports.clear();
        match step.does.as_str() {
            "document" => self.receive(Topic::Entitlement, step),
            "keyset" => self.receive(Topic::Keyset, step),
            "wait" => self.wait(step.seconds.expect("seconds")),
            "date" => {
                let date = Duration::from_secs(step.date.expect("a date"));
                let readings = self.machine.readings();
                self.machine.time.observe_date(HeardDate { date, sent: readings.boot, valid_until: LATEST }, readings);
                self.handle(Event::Tick);
            }
            "restart" => self = self.restarted(|record| record),
            "factory_reset" => self = self.restarted(Record::factory_reset),
            "lose_state" => self = self.with_a_lost_state(),
            other => panic!("there is no step {other:?}"),
        }
        self
    }

    /// The verdict of this step: what the report of the judged document or keyset says.
    fn verdict(&self, step: &Step, keyset_before: u64) -> (Option<String>, Option<String>) {
        let judged = |report: &&Report| report.cause == Cause::Document && (report.outcome != Outcome::Applied || report.judged.is_some());
        if let Some(report) = self.machine.reports.iter().find(judged) {
            let reason = (report.outcome == Outcome::Rejected).then(|| report.reason.clone());
            return (Some(report.outcome.to_string()), reason);
        }
        let keyset = self.engine.view(self.machine.time.clone().now(self.machine.readings())).keyset;
        let outcome = match step.does.as_str() {
            "document" => "waits",
            "keyset" if keyset == keyset_before => "known",
            "keyset" => "taken",
            _ => return (None, None),
        };
        (Some(outcome.to_owned()), None)
    }

    fn then(&mut self, step: &Step, keyset_before: u64) -> Then {
        let now = self.machine.now();
        let (outcome, reason) = self.verdict(step, keyset_before);
        let view = self.engine.view(now);
        let leaves = match view.may_leave {
            Policy { clips: false, snapshots: false, .. } => "nothing".to_owned(),
            leaves => self.file.policies.iter().find(|(_, policy)| **policy == leaves).expect("a policy of the file").0.clone(),
        };
        Then {
            outcome,
            reason,
            in_force: [view.position.epoch, view.position.seq],
            plan: view.plan,
            mode: view.mode,
            leaves,
            ratchet: [view.ratchet.epoch, view.ratchet.seq],
            keyset: view.keyset,
            time: now.trusted.as_secs(),
        }
    }
}

#[test]
fn every_history_goes_as_the_file_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/histories.json");
    let file: File = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(file.histories.len() >= 30, "{} histories", file.histories.len());
    for history in &file.histories {
        let mut camera = Camera::new(&file);
        for (number, step) in history.steps.iter().enumerate() {
            let now = camera.machine.now();
            let keyset_before = camera.engine.view(now).keyset;
            camera = camera.play(step);
            let found = camera.then(step, keyset_before);
            assert_eq!(found, step.then, "{}, step {} ({})", history.name, number + 1, step.does);
        }
    }
}
