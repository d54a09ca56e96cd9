//! Random histories against an oracle: documents of every kind, connections, answers, slow and failing writes, power cuts, time.
//! The oracle is written from sections 3 and 4 alone and shares no code with the engine: it says what the verdict must be, how
//! much may leave at most, what a PUBACK presupposes. It leaves out whatever may differ without harm, such as the pause after a
//! refused grant. A failure names its seed; `SIMULATION_SEED` runs that history alone, `SIMULATION_HISTORIES` more of them.

mod oracle;
mod paper;

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use bytes::Bytes;
use care_protocol::{Answer, Erased, Keyset, Position, Reset, Topic};
use fastrand::Rng;

use self::{
    oracle::{Oracle, Verdict, Voice},
    paper::{CLOSED, Doc, FREE, Office, T0, takes},
};
use super::*;

const STEPS: usize = 30;

#[test]
fn no_history_breaks_an_invariant() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let office = Rc::new(Office::open());
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_HISTORIES").unwrap_or(1500),
    };
    for seed in seeds {
        let seeded = Seeded(seed);
        World::new(office.clone(), seed).live();
        drop(seeded);
    }
}

/// Names the seed of a history that panics.
struct Seeded(u64);

impl Drop for Seeded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SIMULATION_SEED={}", self.0);
        }
    }
}

/// A camera, its broker and its cloud.
struct World {
    random: Rng,
    office: Rc<Office>,
    engine: Engine,
    oracle: Oracle,
    now: Now,
    /// What the gate was told last.
    open: Admission,
    disk: Disk,
    connection: u64,
    connected: bool,
    deliveries: u64,
    /// On this connection, in order of arrival, and whether the engine is done with it.
    window: Vec<(u64, bool)>,
    fetches: Vec<Resource>,
    nonce: Option<String>,
    history: Vec<Rc<Doc>>,
    seq: u64,
    epoch: u64,
    version: u64,
    reset_id: u64,
    resets: Vec<Reset>,
    /// Persist effects since it was last set to zero.
    persists: u32,
    /// Whether the history is told, for whoever has to find out what went wrong.
    aloud: bool,
}

#[derive(Default)]
struct Disk {
    slow: bool,
    fails: bool,
    /// The record that waits, whether its failure was told, and what the oracle knew of it.
    pending: Option<(u64, Vec<u8>, bool)>,
    record: Option<Vec<u8>>,
}

impl World {
    fn new(office: Rc<Office>, seed: u64) -> Self {
        let now = Now { boot: Duration::from_secs(10), trusted: Duration::from_secs(T0), confirmed: false };
        let engine = Engine::new(office.settings(), Restored::Empty, now);
        let mut world = Self {
            random: Rng::with_seed(seed),
            office,
            engine,
            oracle: Oracle::new(now),
            now,
            open: Admission::CLOSED,
            disk: Disk::default(),
            connection: 0,
            connected: false,
            deliveries: 0,
            window: vec![],
            fetches: vec![],
            nonce: None,
            history: vec![],
            seq: 0,
            epoch: 1,
            version: 1,
            reset_id: 0,
            resets: vec![],
            persists: 0,
            aloud: std::env::var_os("SIMULATION_SEED").is_some(),
        };
        let effects = world.engine.boot(now);
        world.carry_out(effects);
        world
    }

    fn live(mut self) {
        for _ in 0..STEPS {
            self.step();
            self.check();
        }
        self.end_well();
    }

    fn step(&mut self) {
        match self.random.u32(0..100) {
            0..10 => self.connect(),
            10..14 => self.lose(),
            14..44 => self.deliver(),
            44..50 => self.deliver_keyset(),
            50..62 => self.answer(),
            62..80 => self.pass_some_time(),
            80..85 => {
                self.disk.slow = self.random.bool();
                self.disk.fails = self.random.u32(0..3) == 0;
                self.sync();
            }
            85..90 => self.sync(),
            90..93 => {
                self.event(Event::Tick);
                self.oracle.refused(self.engine.view(self.now).position, self.now);
                self.event(Event::Refused);
            }
            93..96 => {
                self.now.confirmed = true;
                self.event(Event::Tick);
            }
            _ => self.power_cut(),
        }
    }

    fn event(&mut self, event: Event) {
        self.oracle.time(self.now);
        if self.aloud && event != Event::Tick {
            eprintln!("{:?} {event:?}", self.now);
        }
        let effects = self.engine.handle(event, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if self.aloud {
                eprintln!("    {effect:?}");
            }
            match effect {
                Effect::Cut { keep } => {
                    if let Some((policy, position)) = keep {
                        self.oracle.check_erasure(policy, position, self.now);
                        self.open.keep = policy;
                        self.open.position = position;
                    }
                    self.open.leave = CLOSED;
                    let figures = CutFigures { generation: Generation(0), transfers: 1, bytes_after: 0, doomed: Erased::default() };
                    let effects = self.engine.handle(Event::CutDone(figures), self.now);
                    self.carry_out(effects);
                }
                Effect::Open(admission) => {
                    assert!(!takes(&admission.leave, &self.open.leave), "what takes away is a cut first: {admission:?} {:?}", self.open);
                    assert!(!takes(&admission.keep, &self.open.keep), "what erases is a cut first");
                    self.open = admission;
                    self.oracle.check_gate(&self.open.leave, self.engine.view(self.now).position, self.now);
                }
                Effect::Persist { ticket, record } => {
                    self.persists += 1;
                    self.oracle.persisting(ticket, self.now);
                    self.disk.pending = Some((ticket, record, false));
                }
                Effect::Acknowledge(Delivery(delivery)) => {
                    self.oracle.check_puback(delivery, self.disk.record.as_deref());
                    if let Some((_, done)) = self.window.iter_mut().find(|(arrived, _)| *arrived == delivery) {
                        assert!(!std::mem::replace(done, true), "acknowledged twice");
                    }
                }
                Effect::Publish { report, .. } => self.oracle.check_report(&report, self.disk.record.as_deref()),
                Effect::Get(get) => self.nonce = Some(get.nonce),
                Effect::Fetch(resource) => self.fetches.push(resource),
                Effect::RaiseTime(time) => self.now.trusted = self.now.trusted.max(time),
                Effect::RetryRefused | Effect::Forget | Effect::Alarm(_) => {}
            }
        }
        if !self.disk.slow {
            self.sync();
        }
    }

    fn check(&mut self) {
        let view = self.engine.view(self.now);
        assert_eq!(view.ratchet, self.oracle.ratchet(), "the verdicts differ");
        self.oracle.check_gate(&self.open.leave, view.position, self.now);
        assert_eq!(view.may_leave, self.open.leave);
        assert!(self.engine.cutting.is_none() && self.engine.inbox.is_empty());
    }

    /// The disk's turn.
    fn sync(&mut self) {
        let Some((ticket, record, told)) = self.disk.pending.take() else { return };
        if self.disk.fails {
            self.disk.pending = Some((ticket, record, true));
            if !told {
                self.event(Event::WriteFailed { ticket });
            }
            return;
        }
        self.oracle.written(ticket, self.disk.record.as_deref(), &record);
        self.disk.record = Some(record);
        self.event(Event::Written { ticket });
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connection += 1;
            self.connected = true;
            self.window.clear();
            self.event(Event::Connected(Connection(self.connection)));
            if self.random.u32(0..5) > 0 {
                self.oracle.subscribe_sent();
                self.event(Event::SubscribeSent(Connection(self.connection)));
                if self.random.u32(0..5) > 0 {
                    self.event(Event::Subscribed(Connection(self.connection)));
                }
            }
        }
    }

    fn lose(&mut self) {
        if self.connected {
            self.connected = false;
            self.nonce = None;
            self.oracle.lost_connection(self.now);
            self.event(Event::Lost(Some(Connection(self.connection))));
            // A lost state asks at its own pace.
            assert!(self.engine.lost || !self.fetches.is_empty(), "a loss asks over HTTPS at once");
        }
    }

    /// A document: mostly the next one, else one that was there, or one that is wrong.
    fn draw(&mut self) -> Rc<Doc> {
        let wanted = self.random.u32(0..20);
        let drawn = match wanted {
            0..9 => {
                if self.random.u32(0..12) == 0 {
                    self.epoch += 1;
                    self.seq = 0;
                }
                self.seq += self.random.u64(1..3);
                self.office.issue(&mut self.random, self.epoch, self.seq, None)
            }
            9..15 if !self.history.is_empty() => {
                let back = self.random.usize(0..self.history.len().min(4));
                self.history[self.history.len() - 1 - back].clone()
            }
            15..18 => self.office.issue(&mut self.random, self.epoch, self.seq.max(1), None),
            _ => {
                let defect = self.random.u32(0..5);
                self.office.issue(&mut self.random, self.epoch, self.seq + 1, Some(defect))
            }
        };
        self.history.push(drawn.clone());
        drawn
    }

    fn deliver(&mut self) {
        if !self.connected {
            return;
        }
        self.event(Event::Tick);
        let doc = self.draw();
        match self.random.u32(0..4) {
            0 => self.bring_answer(&doc),
            _ => {
                let (retain, dup) = (self.random.bool(), self.random.u32(0..4) == 0);
                self.bring(
                    Topic::Entitlement,
                    doc.token.clone().into_bytes(),
                    Some(&doc),
                    Voice::Copy { confirms: retain && !dup },
                    retain,
                    dup,
                );
            }
        }
    }

    fn bring_answer(&mut self, doc: &Rc<Doc>) {
        let newest = self.nonce.clone().filter(|_| self.random.bool());
        let voice = Voice::Answer { confirms: newest.is_some() };
        let answer = Answer { nonce: newest.unwrap_or_else(|| "another-nonce-0000000000".into()), token: doc.token.clone() };
        self.bring(Topic::Answer, serde_json::to_vec(&answer).unwrap(), Some(doc), voice, false, false);
    }

    fn bring(&mut self, topic: Topic, payload: Vec<u8>, doc: Option<&Rc<Doc>>, voice: Voice, retain: bool, dup: bool) {
        self.deliveries += 1;
        self.window.push((self.deliveries, false));
        let before = (self.engine.view(self.now).position, self.open);
        self.persists = 0;
        let verdict = doc.map(|doc| self.oracle.hear(doc, voice, Some(self.deliveries), self.now));
        let message = Message {
            connection: Connection(self.connection),
            topic,
            payload: Bytes::from(payload),
            retain,
            dup,
            received: self.now.boot,
            delivery: Some(Delivery(self.deliveries)),
        };
        self.event(Event::Message(message));
        self.check_kept(verdict, before);
    }

    /// What is refused changes nothing, and neither it nor a duplicate writes anything (invariants 5 and 6).
    fn check_kept(&self, verdict: Option<Verdict>, (position, open): (Position, Admission)) {
        let Some(verdict) = verdict else { return };
        if self.oracle.time_has_moved() || verdict == Verdict::Applied {
            return;
        }
        assert_eq!(self.persists, 0, "{verdict:?} wrote");
        assert_eq!(self.engine.view(self.now).position, position);
        if verdict != Verdict::Duplicate {
            assert_eq!(self.open, open, "{verdict:?} changed what may leave");
        }
    }

    fn deliver_keyset(&mut self) {
        if !self.connected {
            return;
        }
        self.event(Event::Tick);
        let keyset = self.next_keyset();
        self.oracle.keyset(&keyset, self.now);
        let payload = self.office.sign_keyset(&keyset).into_bytes();
        self.bring(Topic::Keyset, payload, None, Voice::Keyset, true, false);
    }

    /// Mostly the same one or a higher one, sometimes a lower; now and then with a reset.
    fn next_keyset(&mut self) -> Keyset {
        match self.random.u32(0..6) {
            0..2 => self.version += 1,
            2 if self.seq > 2 => {
                self.version += 1;
                self.reset_id += u64::from(self.random.u32(0..4) > 0);
                let seq = self.random.u64(0..self.seq);
                self.resets = vec![Reset { id: self.reset_id.max(1), aud: "CAM1".into(), epoch: self.epoch, seq }];
                self.reset_id = self.reset_id.max(1);
                // The cloud issues again from there.
                self.seq = seq;
            }
            3 => return self.office.keyset(self.version.saturating_sub(1).max(1), vec![]),
            _ => {}
        }
        self.office.keyset(self.version, self.resets.clone())
    }

    /// HTTPS answers one of the questions.
    fn answer(&mut self) {
        if self.fetches.is_empty() {
            return;
        }
        self.event(Event::Tick);
        let index = self.random.usize(0..self.fetches.len());
        let resource = self.fetches.swap_remove(index);
        let how = self.random.u32(0..6);
        let fetched = match (resource, how) {
            (_, 0) => Fetched::Failed,
            (Resource::Entitlement, 1 | 2) => {
                self.oracle.missing(self.now);
                Fetched::Missing
            }
            (Resource::Entitlement, _) => {
                let doc = self.draw();
                self.oracle.hear(&doc, Voice::Https, None, self.now);
                Fetched::Found(doc.token.clone().into())
            }
            (Resource::Keyset, _) => {
                let keyset = self.next_keyset();
                self.oracle.keyset(&keyset, self.now);
                Fetched::Found(self.office.sign_keyset(&keyset).into())
            }
        };
        self.event(Event::Fetched(resource, fetched));
    }

    fn pass_some_time(&mut self) {
        let spans = [1, 2, 3, 5, 9, 10, 15, 16, 31, 60, 90, 91, 600, 901, 3600, 20_000];
        let end = self.now.boot + Duration::from_secs(spans[self.random.usize(0..spans.len())]);
        for turn in 0.. {
            assert!(turn < 3000, "the engine wakes all the time");
            let wake = self.engine.wake_at(self.now).max(self.now.boot + Duration::from_millis(1));
            let step = wake.min(end) - self.now.boot;
            self.now.boot += step;
            self.now.trusted += step;
            self.event(Event::Tick);
            self.check();
            if self.now.boot >= end {
                return;
            }
        }
    }

    fn power_cut(&mut self) {
        // What was being written may have made it, or not.
        if let Some((ticket, record, _)) = self.disk.pending.take() {
            if self.random.bool() {
                self.oracle.written(ticket, self.disk.record.as_deref(), &record);
                self.disk.record = Some(record);
            }
        }
        self.disk.slow = false;
        self.disk.fails = false;
        let record = self.disk.record.as_ref().map(|record| Record::read(record).unwrap());
        let fate = self.random.u32(0..10);
        let restored = match record {
            None => Restored::Empty,
            Some(_) if fate == 0 => {
                self.disk.record = None;
                Restored::Unreadable
            }
            Some(record) if fate == 1 => {
                let record = record.factory_reset();
                self.disk.record = Some(record.to_bytes());
                Restored::Record(Box::new(record))
            }
            Some(record) => Restored::Record(Box::new(record)),
        };
        let trusted = match &restored {
            Restored::Record(record) => record.trusted_s,
            Restored::Empty | Restored::Unreadable => T0,
        };
        self.now = Now { boot: Duration::from_secs(10), trusted: Duration::from_secs(trusted), confirmed: false };
        let unreadable = matches!(restored, Restored::Unreadable);
        let docs = self.history.iter().map(|doc| (doc.token.as_str(), doc)).collect::<BTreeMap<_, _>>();
        self.oracle.boot(self.disk.record.as_deref(), &docs, unreadable, self.now);
        self.engine = Engine::new(self.office.settings(), restored, self.now);
        self.open = Admission::CLOSED;
        self.connected = false;
        self.nonce = None;
        self.fetches.clear();
        self.window.clear();
        let effects = self.engine.boot(self.now);
        self.carry_out(effects);
        self.check();
    }

    /// Once all is well the newest document rules, everything is acknowledged, and exactly what it allows may leave (invariant 4).
    fn end_well(mut self) {
        self.disk.slow = false;
        self.disk.fails = false;
        self.sync();
        self.lose();
        self.window.clear();
        self.now.confirmed = true;
        self.event(Event::Tick);
        self.version += 1;
        let keyset = self.office.keyset(self.version, self.resets.clone());
        self.epoch += 1;
        let doc = self.office.plain(self.epoch, 1, self.now.trusted.as_secs());
        self.history.push(doc.clone());
        let https = self.engine.lost;
        self.oracle.keyset(&keyset, self.now);
        self.event(Event::Fetched(Resource::Keyset, Fetched::Found(self.office.sign_keyset(&keyset).into())));
        if https {
            self.oracle.hear(&doc, Voice::Https, None, self.now);
            self.event(Event::Fetched(Resource::Entitlement, Fetched::Found(doc.token.clone().into())));
        }
        self.connected = false;
        self.connection += 1;
        self.connected = true;
        self.event(Event::Connected(Connection(self.connection)));
        self.oracle.subscribe_sent();
        self.event(Event::SubscribeSent(Connection(self.connection)));
        self.event(Event::Subscribed(Connection(self.connection)));
        self.bring(Topic::Entitlement, doc.token.clone().into_bytes(), Some(&doc), Voice::Copy { confirms: true }, true, false);
        self.check();
        let view = self.engine.view(self.now);
        assert_eq!((view.position, view.mode, self.open.leave), (doc.position, Mode::Paid, doc.policy));
        assert!(view.persisted && self.window.iter().all(|(_, done)| *done), "{:?}", self.window);
        assert_ne!(self.open.leave, FREE);
    }
}
