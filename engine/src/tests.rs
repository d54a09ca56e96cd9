//! The engine in memory: a bench with a clock that only moves when told, a gate that counts, and a disk that can fail.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use care_protocol::{
    Answer, Channel, Entitlement, Erased, Get, Key, Keyset, Lease, MAX_INTEGER, Next, Order, Outcome, Plan, Policy, Position, Reason,
    Refund, RefundKind, Report, Reset, Signer, Topic,
};

use super::{event::Effect, *};
use crate::trusted_time::{Corrector, Dispute};

mod confirmation;
mod corrections;
mod flash;
mod keys;
mod lease;
mod next;
mod refusals;
mod reports;
mod reset;
mod switch;

const T0: u64 = 1_767_225_600;
pub(super) const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
const PLUS: Policy = Policy { clips: true, history_h: 336, clip_max_s: 60, cooldown_s: 30, max_height: 1080, snapshots: true };
const PREMIUM: Policy = Policy { clips: true, history_h: 720, clip_max_s: 120, cooldown_s: 0, max_height: 2160, snapshots: true };

/// A camera under test: the engine and its surroundings.
struct Bench {
    engine: Engine,
    keys: Keys,
    camera: Camera,
}

/// Everything that the engine acts on, and a record of its actions.
struct Camera {
    now: Now,
    /// The expiry of all server certificates.
    valid_until: Duration,
    /// The gate's last admission, and all cuts.
    open: Admission,
    cuts: Vec<Option<(Policy, Position)>>,
    transfers: u32,
    /// Whether its kernel does not count what a socket sends.
    uncounted: bool,
    disk: Disk,
    acked: Vec<u64>,
    reports: Vec<(u64, Report)>,
    gets: Vec<Get>,
    fetches: Vec<Resource>,
    log: Vec<&'static str>,
    delivery: u64,
}

#[derive(Default)]
struct Disk {
    fails: bool,
    slow: bool,
    pending: Vec<(u64, Vec<u8>)>,
    record: Option<Vec<u8>>,
    writes: u32,
}

struct Keys {
    root: Signer,
    signer: Signer,
}

impl Keys {
    fn new() -> Self {
        let signer = |kid| Signer::from_pkcs8(kid, &Signer::generate()).unwrap();
        Self { root: signer("root"), signer: signer("k1") }
    }

    fn keyset(&self, version: u64) -> Keyset {
        let key = Key { public: self.signer.public_key(), not_before: T0 - 1000 };
        Keyset { iss: "care".into(), version, iat: T0, keys: [("k1".to_owned(), key)].into(), revoked: vec![], resets: vec![] }
    }

    fn settings(&self) -> Settings {
        settings(&self.root)
    }
}

/// The settings of an engine under test; keysets are signed by `root`.
pub(super) fn settings(root: &Signer) -> Settings {
    let count = Cell::new(0u64);
    Settings {
        device: "CAM1".parse().unwrap(),
        issuer: "care".into(),
        roots: [("root".to_owned(), root.public_key())].into(),
        min_keyset_version: 1,
        free: FREE,
        agent: "test".into(),
        nonce: Box::new(move || {
            count.set(count.get() + 1);
            format!("nonce-{:022}", count.get())
        }),
    }
}

fn entitlement(seq: u64, plan: &str, policy: Policy) -> Entitlement {
    Entitlement {
        iss: "care".into(),
        aud: "CAM1".parse().unwrap(),
        account: "acct".into(),
        epoch: 3.try_into().unwrap(),
        seq: seq.try_into().unwrap(),
        plan: plan.parse().unwrap(),
        reason: if plan == "free" { Reason::Cancelled } else { Reason::Subscribed },
        channel: Channel::Portal,
        iat: T0,
        lease: Lease { max_age_s: 172_800, not_after: T0 + 172_800 },
        policy,
        next: None,
        order: None,
        crit: vec![],
    }
}

fn premium(seq: u64) -> Entitlement {
    entitlement(seq, "premium", PREMIUM)
}

fn free(seq: u64) -> Entitlement {
    entitlement(seq, "free", FREE)
}

impl Bench {
    fn new() -> Self {
        Self::with(Keys::new(), Restored::Empty)
    }

    fn with(keys: Keys, restored: Restored) -> Self {
        let now = Now { boot: Duration::from_secs(100), trusted: Duration::from_secs(T0), confirmed: true, ..Now::default() };
        let engine = Engine::new(keys.settings(), restored, now);
        let camera = Camera {
            now,
            valid_until: LATEST,
            open: Admission::CLOSED,
            cuts: vec![],
            transfers: 0,
            uncounted: false,
            disk: Disk::default(),
            acked: vec![],
            reports: vec![],
            gets: vec![],
            fetches: vec![],
            log: vec![],
            delivery: 0,
        };
        let mut bench = Self { engine, keys, camera };
        bench.engine.start(&mut bench.camera);
        bench.flash_writes();
        bench
    }

    /// A camera with this document on record, connected and confirmed by the retained copy.
    fn confirmed(document: &Entitlement) -> Self {
        let mut bench = Self::new();
        bench.connect(1);
        bench.event(Event::Subscribed(Connection(1)));
        let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
        bench.deliver(1, Topic::Keyset, keyset.into_bytes(), true);
        bench.retained(1, document);
        bench.forget_log();
        bench
    }

    fn forget_log(&mut self) {
        self.acked.clear();
        self.reports.clear();
        self.gets.clear();
        self.fetches.clear();
        self.cuts.clear();
        self.log.clear();
        self.disk.writes = 0;
    }

    fn event(&mut self, event: Event) {
        self.engine.handle(event, &mut self.camera);
        self.flash_writes();
    }

    /// Writes at once, unless the flash is slow.
    fn flash_writes(&mut self) {
        if !self.disk.slow {
            self.sync();
        }
    }

    /// Completes the pending write: only the newest record is written.
    fn sync(&mut self) {
        let Some((ticket, record)) = self.disk.pending.pop() else { return };
        self.disk.pending.clear();
        if self.disk.fails {
            self.event(Event::WriteFailed { ticket });
        } else {
            self.disk.record = Some(record);
            self.disk.writes += 1;
            self.event(Event::Written { ticket });
        }
    }

    fn connect(&mut self, connection: u64) {
        self.event(Event::Connected(Connection(connection)));
        self.event(Event::SubscribeSent(Connection(connection)));
    }

    fn deliver(&mut self, connection: u64, topic: Topic, payload: impl Into<Vec<u8>>, retain: bool) -> u64 {
        self.delivery += 1;
        let message = Message {
            connection: Connection(connection),
            topic,
            payload: Bytes::from(payload.into()),
            retain,
            dup: false,
            received: self.now.boot,
            delivery: Some(Delivery(self.delivery)),
            valid_until: self.valid_until,
        };
        self.event(Event::Message(message));
        self.delivery
    }

    fn retained(&mut self, connection: u64, document: &Entitlement) -> u64 {
        let token = document.sign(&self.keys.signer);
        self.deliver(connection, Topic::Entitlement, token, true)
    }

    fn live(&mut self, document: &Entitlement) -> u64 {
        let token = document.sign(&self.keys.signer);
        self.deliver(1, Topic::Entitlement, token, false)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.boot + time;
        loop {
            let wake = self.engine.wake_at(self.now).expect("no cut is under way").max(self.now.boot + Duration::from_millis(1));
            let step = wake.min(end).saturating_sub(self.now.boot);
            self.now.boot += step;
            self.now.trusted += step;
            self.event(Event::Tick);
            if self.now.boot >= end {
                return;
            }
        }
    }

    fn mode(&self) -> Mode {
        self.engine.view(self.now).mode
    }

    fn last(&self) -> &Report {
        &self.reports.last().expect("a report").1
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.reports.iter().map(|(_, report)| report.outcome).collect()
    }

    /// Cuts and restores the power: only what is on the disk survives.
    fn reboot(self) -> Self {
        let restored = match &self.disk.record {
            None => Restored::Empty,
            Some(record) => Record::read(record).map_or(Restored::Unreadable, |record| Restored::Record(Box::new(record))),
        };
        let Self { keys, camera, .. } = self;
        let mut bench = Self::with(keys, restored);
        bench.disk.record = camera.disk.record;
        bench
    }
}

impl Deref for Bench {
    type Target = Camera;

    fn deref(&self) -> &Camera {
        &self.camera
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Camera {
        &mut self.camera
    }
}

impl Camera {
    /// Corrects trusted time.
    fn correct(&mut self, to: Duration) {
        let from = self.now.trusted;
        let moved = i64::try_from(to.as_millis()).unwrap() - i64::try_from(from.as_millis()).unwrap();
        let total_ms = self.now.corrected.map_or(0, |before| before.total_ms) + moved;
        self.now.trusted = to;
        self.now.corrected = Some(Correction { from, to, at: self.now.boot, by: Corrector::Date, total_ms });
    }
}

impl Ports for Camera {
    fn now(&mut self) -> Now {
        self.now
    }

    fn cut(&mut self, keep: Option<(Policy, Position)>) -> CutProgress {
        self.log.push("cut");
        self.cuts.push(keep);
        self.open.leave = Policy::CLOSED;
        let transfers = std::mem::take(&mut self.transfers);
        self.now.boot += Duration::from_micros(7);
        CutProgress::Done(CutFigures {
            generation: Generation(self.cuts.len() as u64),
            transfers,
            bytes_after: (!self.uncounted).then_some(u64::from(transfers) * 1448),
            erased: Erased { clips: u32::from(keep.is_some()), bytes: 5 },
        })
    }

    fn open(&mut self, admission: Admission) {
        self.log.push("open");
        self.open = admission;
    }

    fn retry_refused(&mut self) {
        self.log.push("retry");
    }

    fn forget(&mut self) {
        self.log.push("forget");
    }

    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        self.log.push("persist");
        self.disk.pending.push((ticket, record));
    }

    fn acknowledge(&mut self, Delivery(delivery): Delivery) {
        self.log.push("ack");
        self.acked.push(delivery);
    }

    fn publish(&mut self, ticket: u64, report: Report) {
        self.log.push("report");
        self.reports.push((ticket, report));
    }

    fn get(&mut self, get: Get) {
        self.gets.push(get);
    }

    fn fetch(&mut self, resource: Resource) {
        self.fetches.push(resource);
    }

    fn alarm(&mut self, _position: Position) {
        self.log.push("alarm");
    }

    fn raise_time(&mut self, issued: Duration) {
        self.now.trusted = self.now.trusted.max(issued);
    }

    fn set_time(&mut self, time: Duration) {
        self.correct(time);
    }
}
