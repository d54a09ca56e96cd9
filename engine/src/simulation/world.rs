//! A camera, its broker, its cloud, its flash and its clock. Engine, slots and trusted time are the product's own;
//! the network, the disk under the slots, the machine's clocks and the uploads are simulated. The oracle checks
//! every step.

use std::{collections::VecDeque, fmt, rc::Rc, time::Duration};

use bytes::Bytes;
use care_protocol::{Answer, Digest, Erased, Get, Keyset, Policy, Position, Report, Reset, Topic};

use super::{
    super::*,
    issuer::{CERTIFICATES_END, CLOSED, Doc, Issuer, T0, takes},
    oracle::{Oracle, Verdict, Voice},
    step::{Draw, Fate, How, Https, Keys, Step, Wall},
    uploader::Uploader,
};
use crate::{
    durable::{self, disk::Disk, slots::Slots},
    trusted_time::{HeardDate, Readings, TrustedTime},
};

/// Enough for a record with two keysets and a report.
const SLOT: usize = 8 * 1024;
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const MINUTE: Duration = Duration::from_secs(60);
/// A cut takes at most so long: then the vendor's uploader is disconnected.
const LONGEST_CUT: Duration = Duration::from_secs(5);
/// The result of every cut.
const FIGURES: CutFigures =
    CutFigures { generation: Generation(0), transfers: 1, bytes_after: Some(0), erased: Erased { clips: 0, bytes: 0 } };
/// Bytes that no agent has written.
const GARBAGE: &[u8] = b"worn out";

pub(super) struct World {
    engine: Engine,
    around: Around,
}

/// Everything that the engine acts on.
struct Around {
    issuer: Rc<Issuer>,
    /// The engine's state after its last decision.
    seen: Seen,
    oracle: Oracle,
    /// The true time, which no component may read.
    truth: Duration,
    /// Error of the cloud's clock in seconds.
    cloud_off: i64,
    readings: Readings,
    time: TrustedTime,
    now: Now,
    /// The gate's last admission.
    open: Admission,
    uploader: Uploader,
    /// Number of steps that a cut takes from now on.
    cut_takes: u8,
    cut: Option<Cut>,
    /// The oracle's part of the event that the engine is being given.
    hear: Option<Hear>,
    /// The oracle's part of the events given to the engine during the cut, in order.
    deferred: VecDeque<Hear>,
    /// The oracle's verdict on the document that the engine is processing.
    verdict: Option<Verdict>,
    /// A check to run once the effects of the last event are carried out.
    unchecked: Option<(Verdict, Before)>,
    flash: Flash,
    connection: u64,
    connected: bool,
    deliveries: u64,
    /// Messages of this connection in order of arrival, and whether the engine is done with each.
    window: Vec<(u64, bool)>,
    fetches: Vec<Resource>,
    published: Vec<u64>,
    nonce: Option<String>,
    history: Vec<Rc<Doc>>,
    seq: u64,
    epoch: u64,
    version: u64,
    reset_id: u64,
    resets: Vec<Reset>,
    /// Persist effects since the counter was last reset.
    persists: u32,
    /// Number of events given to the engine.
    events: u64,
    /// Whether to print the history, for debugging.
    verbose: bool,
}

/// The oracle's update when the engine processes an event.
type Hear = Box<dyn FnOnce(&mut Around)>;

type Before = Option<(Position, Admission)>;

/// The engine's state that is checked after each of its decisions.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    in_force: Option<Digest>,
    position: Position,
    /// Number of events that wait in the engine.
    waiting: usize,
    /// Number of waiting documents whose key has become known.
    known: usize,
}

impl Seen {
    fn of(engine: &Engine) -> Self {
        Self {
            in_force: engine.force.as_ref().map(|force| force.document.digest),
            position: engine.force.as_ref().map_or(Position::NONE, |force| force.document.entitlement.position()),
            waiting: engine.inbox.len(),
            known: engine.known.len(),
        }
    }
}

/// A cut in progress.
struct Cut {
    /// It completes as soon as it is requested.
    over_at_once: bool,
    steps: u8,
    until: Duration,
    /// Messages read from the broker meanwhile.
    read: usize,
}

/// The store, on a disk that loses unsynced writes.
struct Flash {
    disk: Disk,
    slots: Slots<Disk>,
    slow: bool,
    /// The pending record, and whether its failure was reported.
    waiting: Option<(u64, Vec<u8>, bool)>,
    /// Records handed to the store since the last success: any of them may be there after a crash.
    attempted: Vec<(u64, Vec<u8>)>,
    durable: Option<Vec<u8>>,
}

impl Flash {
    fn on(disk: Disk) -> (Self, durable::Restored) {
        let disk = disk.without_history();
        let (slots, restored) = Slots::open(disk.clone(), SLOT).expect("a disk that works");
        (Self { disk, slots, slow: false, waiting: None, attempted: vec![], durable: None }, restored)
    }
}

/// The result of an HTTPS request.
fn body(bytes: String) -> Body {
    Body { bytes: bytes.into(), valid_until: CERTIFICATES_END }
}

impl World {
    pub(super) fn new(issuer: Rc<Issuer>, verbose: bool) -> Self {
        let readings = Readings { boot: Duration::from_secs(10), system: Duration::ZERO };
        let mut time = TrustedTime::new(Duration::from_secs(T0), None, readings.boot);
        let now = time.now(readings);
        let engine = Engine::new(issuer.settings(), Restored::Empty, now);
        let around = Around {
            issuer,
            seen: Seen::default(),
            oracle: Oracle::new(now),
            truth: Duration::from_secs(T0 + 5),
            cloud_off: 0,
            readings,
            time,
            now,
            open: Admission::CLOSED,
            uploader: Uploader::default(),
            cut_takes: 0,
            cut: None,
            hear: None,
            deferred: VecDeque::new(),
            verdict: None,
            unchecked: None,
            flash: Flash::on(Disk::default()).0,
            connection: 0,
            connected: false,
            deliveries: 0,
            window: vec![],
            fetches: vec![],
            published: vec![],
            nonce: None,
            history: vec![],
            seq: 0,
            epoch: 1,
            version: 1,
            reset_id: 0,
            resets: vec![],
            persists: 0,
            events: 0,
            verbose,
        };
        let mut world = Self { engine, around };
        world.start();
        world
    }

    /// Number of events given to the engine.
    pub(super) fn events(&self) -> u64 {
        self.around.events
    }

    fn start(&mut self) {
        self.engine.start(&mut self.around);
        self.flash_writes();
    }

    /// Writes at once, unless the flash is slow.
    fn flash_writes(&mut self) {
        if !self.around.flash.slow {
            self.sync();
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        if self.around.verbose {
            eprintln!("{step:?}");
        }
        match &mut self.around.cut {
            Some(Cut { steps: 0, .. }) => self.end_cut(),
            Some(cut) => cut.steps -= 1,
            None => {}
        }
        match step {
            Step::Cuts { after } => self.around.cut_takes = after,
            Step::Connect { subscribe, granted } => self.connect(subscribe, granted),
            Step::Lose => self.lose(),
            Step::Deliver(draw, how) => self.deliver(draw, how),
            Step::Keys(keys) => self.deliver_keyset(keys),
            Step::Https { question, answer } => self.answer(question, answer),
            Step::Date => self.date(),
            Step::Wait { seconds } => self.wait(seconds),
            Step::Flash { slow, fails } => {
                self.around.flash.slow = slow;
                self.around.flash.disk.set_failing(fails.then_some(std::io::ErrorKind::Other));
                self.sync();
            }
            Step::SyncFails => self.around.flash.disk.fail_at(1, std::io::ErrorKind::Other),
            Step::FlashWrites => self.sync(),
            Step::Refused => {
                self.event(Event::Tick);
                self.tell(Event::Refused, |world| world.oracle.refused(world.in_force(), world.now));
            }
            Step::Published => {
                for ticket in std::mem::take(&mut self.around.published) {
                    self.broker_says(Event::Published { ticket }, |_| ());
                }
            }
            Step::SystemClock(wall) => {
                self.around.readings.system = self.wall(wall);
                self.event(Event::Tick);
            }
            Step::CloudClock { off } => self.around.cloud_off = off,
            Step::Motion { snapshot, seconds, height } => {
                self.around.uploader.record(snapshot, seconds, height, &self.around.open, self.around.now)
            }
            Step::Upload(upload) => {
                self.event(Event::Tick);
                let in_force = self.around.in_force();
                let Around { uploader, oracle, open, now, .. } = &mut self.around;
                uploader.act(upload, open, *now, |clip, first| oracle.check_byte(clip, first, in_force, *now));
            }
            Step::PowerCut { off, fate, wall } => self.power_cut(off, fate, wall),
        }
        self.check();
    }

    fn event(&mut self, event: Event) {
        self.tell(event, |_| ());
    }

    /// Messages from the broker are not read while there is no room for them.
    fn broker_says(&mut self, event: Event, hear: impl FnOnce(&mut Around) + 'static) {
        if self.engine.intake() == Intake::Full {
            self.end_cut();
        }
        if let Some(cut) = &mut self.around.cut {
            cut.read += 1;
            assert!(cut.read <= inbox::ROOM, "more is read from the broker during a cut than may be queued");
        }
        self.tell(event, hear);
    }

    /// Gives an event to the engine, and to the oracle as soon as the engine processes it.
    fn tell(&mut self, event: Event, hear: impl FnOnce(&mut Around) + 'static) {
        if self.around.verbose && event != Event::Tick {
            eprintln!("  {:?} {event:?}", self.around.time.clone().now(self.around.readings));
        }
        self.around.hear = Some(Box::new(hear));
        self.drive(event);
        self.flash_writes();
    }

    fn drive(&mut self, event: Event) {
        self.around.events += 1;
        self.engine.handle(event, &mut self.around);
        self.around.check_taken_in();
    }

    fn end_cut(&mut self) {
        if self.around.cut.take().is_some() {
            self.drive(Event::CutDone(FIGURES));
        }
        self.flash_writes();
    }

    fn check(&mut self) {
        self.around.oracle.check_clock(self.around.time.now(self.around.readings));
        if self.around.cut.is_some() {
            assert_eq!(self.around.open.leave, CLOSED, "something may leave before a cut has ended");
            return;
        }
        let in_force = self.around.in_force();
        assert_eq!(self.engine.ratchet, self.around.oracle.ratchet(), "the verdicts differ");
        let version = self.engine.keyset.as_ref().map_or(0, |verified| verified.keyset.version);
        assert_eq!(version, self.around.oracle.keyset_version(), "the keysets differ");
        self.around.oracle.check_gate(&self.around.open.leave, in_force, self.around.now);
        self.around.oracle.check_hung(&self.around.open.leave, self.around.now);
        self.around.oracle.check_asked(self.around.connected, self.around.now);
        assert_eq!(self.engine.gate, self.around.open, "the gate differs from the engine's view of it");
        assert!(!self.engine.phase.is_cutting() && self.engine.inbox.len() == 0 && self.engine.known.is_empty());
        assert!(self.around.deferred.is_empty() && self.engine.after_cut.is_empty());
        if self.around.flash.waiting.is_none() {
            self.around.oracle.check_newest(in_force);
            self.around.oracle.check_given(&self.around.open.leave, self.around.now);
        }
        for clip in &self.around.uploader.clips {
            self.around.oracle.check_kept(clip, self.around.open.position.epoch, in_force);
        }
        // Nothing accumulates (invariant 7).
        let open = self.around.window.iter().filter(|(_, done)| !done).count();
        let waits = self.engine.unacknowledged.len() + self.engine.unknown_key.as_ref().map_or(0, |held| held.copies.len());
        assert!(waits <= open + COPIES, "{waits} wait for a PUBACK, of {open}");
        assert!(!self.around.flash.disk.misused(), "a descriptor was used after its sync had failed");
    }

    /// Runs the store.
    fn sync(&mut self) {
        let Some((ticket, record, told)) = self.around.flash.waiting.take() else { return };
        if self.around.flash.attempted.last().is_none_or(|(last, _)| *last != ticket) {
            self.around.flash.attempted.push((ticket, record.clone()));
        }
        if self.around.flash.slots.write(&record).is_err() {
            self.around.flash.waiting = Some((ticket, record, true));
            if !told {
                self.tell(Event::WriteFailed { ticket }, |world| world.oracle.write_failed());
            }
            return;
        }
        self.around.flash.attempted.clear();
        self.around.oracle.on_flash(ticket, &record);
        self.around.flash.durable = Some(record.clone());
        self.tell(Event::Written { ticket }, move |world| world.oracle.written(ticket, &record));
    }

    fn connect(&mut self, subscribe: bool, granted: bool) {
        if self.around.connected {
            return;
        }
        self.around.connection += 1;
        self.around.connected = true;
        self.around.window.clear();
        let connection = Connection(self.around.connection);
        self.broker_says(Event::Connected(connection), |_| ());
        if subscribe {
            self.broker_says(Event::SubscribeSent(connection), |world| world.oracle.subscribe_sent());
            if granted {
                self.broker_says(Event::Subscribed(connection), |_| ());
            }
        }
    }

    fn lose(&mut self) {
        if self.around.connected {
            self.around.connected = false;
            self.around.published.clear();
            self.broker_says(Event::Lost(Some(Connection(self.around.connection))), |world| {
                world.nonce = None;
                world.oracle.lost_connection(world.now);
            });
            // A lost state polls at its own pace.
            let asks = self.around.cut.is_some() || self.engine.lost || !self.around.fetches.is_empty();
            assert!(asks, "a loss asks over HTTPS at once");
        }
    }

    fn draw(&mut self, draw: Draw) -> Rc<Doc> {
        let drawn = match draw {
            Draw::Again { back } if !self.around.history.is_empty() => {
                let back = usize::from(back).min(self.around.history.len() - 1);
                self.around.history[self.around.history.len() - 1 - back].clone()
            }
            Draw::Next { owner, skips, variant } => {
                if owner {
                    self.around.epoch += 1;
                    self.around.seq = 0;
                }
                self.around.seq += 1 + u64::from(skips);
                self.around.issuer.issue(self.around.epoch, self.around.seq, variant, None)
            }
            Draw::Again { .. } => self.around.issuer.issue(self.around.epoch, self.around.seq.max(1), 0, None),
            Draw::Rival { variant } => self.around.issuer.issue(self.around.epoch, self.around.seq.max(1), variant, None),
            Draw::Bad { defect, variant } => self.around.issuer.issue(self.around.epoch, self.around.seq + 1, variant, Some(defect)),
        };
        self.around.history.push(drawn.clone());
        drawn
    }

    fn deliver(&mut self, draw: Draw, how: How) {
        if !self.around.connected {
            return;
        }
        self.event(Event::Tick);
        let doc = self.draw(draw);
        match how {
            How::Answer { newest } => {
                let nonce = self.around.nonce.clone().filter(|_| newest);
                let answer = Answer { nonce: nonce.clone().unwrap_or_else(|| "another-nonce-0000000000".into()), token: doc.token.clone() };
                let delivery = self.around.deliveries + 1;
                self.bring(Topic::Answer, serde_json::to_vec(&answer).unwrap(), false, false, move |world| {
                    // A `get` may have been sent meanwhile.
                    let voice = Voice::Answer { confirms: nonce.is_some() && nonce == world.nonce };
                    world.verdict = Some(world.oracle.hear(&doc, voice, Some(delivery), world.now));
                });
            }
            How::Copy { retain, dup } => self.bring_copy(&doc, retain, dup),
        }
    }

    fn bring_copy(&mut self, doc: &Rc<Doc>, retain: bool, dup: bool) {
        let (doc, delivery) = (doc.clone(), self.around.deliveries + 1);
        self.bring(Topic::Entitlement, doc.token.clone().into_bytes(), retain, dup, move |world| {
            let voice = Voice::Copy { confirms: retain && !dup };
            world.verdict = Some(world.oracle.hear(&doc, voice, Some(delivery), world.now));
        });
    }

    fn bring(&mut self, topic: Topic, payload: Vec<u8>, retain: bool, dup: bool, hear: impl FnOnce(&mut Around) + 'static) {
        self.around.deliveries += 1;
        self.around.window.push((self.around.deliveries, false));
        let message = Message {
            connection: Connection(self.around.connection),
            topic,
            payload: Bytes::from(payload),
            retain,
            dup,
            received: self.around.now.boot,
            delivery: Some(Delivery(self.around.deliveries)),
            valid_until: CERTIFICATES_END,
        };
        self.broker_says(Event::Message(message), hear);
    }

    fn deliver_keyset(&mut self, keys: Keys) {
        if !self.around.connected {
            return;
        }
        self.event(Event::Tick);
        let keyset = self.keyset(keys);
        let payload = self.around.issuer.sign_keyset(&keyset).into_bytes();
        self.bring(Topic::Keyset, payload, true, false, move |world| world.oracle.keyset(&keyset, world.now));
    }

    fn keyset(&mut self, keys: Keys) -> Keyset {
        match keys {
            Keys::Higher => self.around.version += 1,
            Keys::Milliseconds => {
                let keyset = self.around.issuer.keyset(self.around.version + 1, self.around.resets.clone());
                return Keyset { iat: T0 * 1000, ..keyset };
            }
            Keys::Reset { again, part, time } if self.around.seq > 2 => {
                self.around.version += 1;
                if !again || self.around.reset_id == 0 {
                    self.around.reset_id += 1;
                }
                let seq = self.around.seq * u64::from(part) / 256;
                self.around.resets = vec![Reset {
                    id: self.around.reset_id,
                    aud: "CAM1".into(),
                    epoch: self.around.epoch,
                    seq,
                    time: time.then_some(self.around.truth.as_secs()),
                }];
                // The cloud issues from that position again.
                self.around.seq = seq;
            }
            Keys::Lower => return self.around.issuer.keyset(self.around.version.saturating_sub(1).max(1), vec![]),
            Keys::Same | Keys::Reset { .. } => {}
        }
        self.around.issuer.keyset(self.around.version, self.around.resets.clone())
    }

    /// HTTPS answers one of the requests; every answer has a date.
    fn answer(&mut self, question: u8, answer: Https) {
        if self.around.fetches.is_empty() {
            return;
        }
        self.event(Event::Tick);
        let resource = self.around.fetches.swap_remove(usize::from(question) % self.around.fetches.len());
        if answer != Https::Failed {
            self.learn_date();
        }
        let (fetched, hear): (Fetched, Hear) = match (resource, answer) {
            (Resource::Entitlement, Https::Failed) => (Fetched::Failed, Box::new(|world| world.oracle.answered(false, world.now))),
            (Resource::Keyset, Https::Failed) => (Fetched::Failed, Box::new(|_| ())),
            (Resource::Entitlement, Https::Missing) => (Fetched::Missing, Box::new(|world| world.oracle.missing(world.now))),
            (Resource::Entitlement, Https::Found(draw, _)) => {
                let doc = self.draw(draw);
                let found = Fetched::Found(body(doc.token.clone()));
                (found, Box::new(move |world| _ = world.oracle.hear(&doc, Voice::Https, None, world.now)))
            }
            (Resource::Keyset, Https::Missing) => (Fetched::Missing, Box::new(|_| ())),
            (Resource::Keyset, Https::Found(_, keys)) => {
                let keyset = self.keyset(keys);
                let found = Fetched::Found(body(self.around.issuer.sign_keyset(&keyset)));
                (found, Box::new(move |world| world.oracle.keyset(&keyset, world.now)))
            }
        };
        self.tell(Event::Fetched(resource, fetched), hear);
    }

    fn date(&mut self) {
        self.event(Event::Tick);
        self.learn_date();
        self.event(Event::Tick);
    }

    fn learn_date(&mut self) {
        let date = Duration::from_secs(self.around.truth.as_secs().saturating_add_signed(self.around.cloud_off));
        let before = self.around.time.now(self.around.readings);
        self.around.oracle.time(before);
        let heard = HeardDate { date, sent: self.around.readings.boot, valid_until: CERTIFICATES_END };
        self.around.time.observe_date(heard, self.around.readings);
        self.around.now = self.around.time.now(self.around.readings);
        self.around.oracle.date(date, self.around.readings, before, self.around.now);
        if self.around.verbose {
            eprintln!("  Date {date:?}: {before:?} -> {:?}", self.around.now);
        }
        // Checks the effects of the new time separately, before the answer itself.
        self.event(Event::Tick);
    }

    fn wait(&mut self, seconds: u32) {
        let end = self.around.readings.boot + Duration::from_secs(seconds.into());
        for turn in 0.. {
            assert!(turn < 3000, "the engine wakes without end");
            let cut_ends = self.around.cut.as_ref().map(|cut| cut.until);
            let wake = self.engine.wake_at(self.around.now).or(cut_ends).expect("it wakes, unless a cut is under way");
            let step = wake.max(self.around.readings.boot + Duration::from_millis(1)).min(end) - self.around.readings.boot;
            self.around.readings.boot += step;
            self.around.readings.system += step;
            self.around.truth += step;
            self.event(Event::Tick);
            if self.around.cut.as_ref().is_some_and(|cut| self.around.readings.boot >= cut.until) {
                self.end_cut();
            }
            self.check();
            if self.around.readings.boot >= end {
                return;
            }
        }
    }

    fn wall(&self, wall: Wall) -> Duration {
        match wall {
            Wall::Right => self.around.truth,
            Wall::Epoch => Duration::ZERO,
            Wall::YearBack => self.around.truth - YEAR,
            Wall::YearAhead => self.around.truth + YEAR,
            Wall::MinutesBack => self.around.truth - 20 * MINUTE,
            Wall::MinutesAhead => self.around.truth + 9 * MINUTE,
            Wall::HoursAhead => self.around.truth + 480 * MINUTE,
        }
    }

    fn power_cut(&mut self, off: u32, fate: Fate, wall: Wall) {
        let restored = self.lose_power(fate);
        self.around.truth += Duration::from_secs(off.into());
        self.around.readings = Readings { boot: Duration::from_secs(10), system: self.wall(wall) };
        let trusted = match &restored {
            Restored::Record(record) => Some(Duration::from_secs(record.trusted_s)),
            Restored::Empty | Restored::Unreadable => None,
        };
        self.around.time = TrustedTime::new(Duration::from_secs(T0), trusted, self.around.readings.boot);
        let floor = self.around.time.clone().now(Readings { system: Duration::ZERO, ..self.around.readings });
        self.around.now = self.around.time.now(self.around.readings);
        let unreadable = matches!(restored, Restored::Unreadable);
        let durable = self.around.flash.durable.as_deref().filter(|_| !unreadable);
        self.around.oracle.boot(durable, &self.around.history, unreadable, floor);
        if let (Fate::FactoryReset, Some(_)) = (fate, durable) {
            self.around.oracle.check_reset();
        }
        self.around.oracle.time(self.around.now);
        self.engine = Engine::new(self.around.issuer.settings(), restored, self.around.now);
        self.around.open = Admission::CLOSED;
        // Clips wait in memory only.
        self.around.uploader = Uploader::default();
        self.around.connected = false;
        self.around.nonce = None;
        self.around.fetches.clear();
        self.around.published.clear();
        self.around.window.clear();
        self.around.cut = None;
        self.around.hear = None;
        self.around.deferred.clear();
        self.around.seen = Seen::default();
        self.start();
    }

    /// The store's contents when power returns.
    fn lose_power(&mut self, fate: Fate) -> Restored {
        self.around.flash.disk.set_failing(None);
        let (during, which) = match fate {
            Fate::Crash { during_operation, which } => (during_operation, which),
            Fate::Unreadable | Fate::FactoryReset => (0, 0),
        };
        if let Some((ticket, record, _)) = self.around.flash.waiting.take() {
            // The write was in progress, up to one operation or another.
            self.around.flash.disk.fail_at(during.into(), std::io::ErrorKind::Other);
            self.around.flash.attempted.push((ticket, record.clone()));
            if self.around.flash.slots.write(&record).is_ok() {
                self.around.oracle.on_flash(ticket, &record);
                self.around.flash.durable = Some(record);
                self.around.flash.attempted.clear();
            }
        }
        let remains = self.around.flash.disk.now();
        let remains = remains.crash(usize::from(which) % remains.crashes());
        let durable = self.around.flash.durable.take();
        let attempted = std::mem::take(&mut self.around.flash.attempted);
        let (flash, restored) = Flash::on(Disk::from(remains));
        self.around.flash = flash;
        let record = match restored {
            durable::Restored::Empty => {
                assert_eq!(durable, None, "the flash has lost an acknowledged record");
                None
            }
            durable::Restored::Unreadable => panic!("a power cut made the state unreadable"),
            durable::Restored::Record(record) => {
                if durable.as_deref() != Some(&record) {
                    let found = attempted.iter().find(|(_, attempted)| *attempted == record);
                    let (ticket, _) = found.expect("the flash brings back neither the last record nor the one that was being written");
                    self.around.oracle.on_flash(*ticket, &record);
                }
                Some(record)
            }
        };
        let record = match (fate, record) {
            (Fate::Unreadable, Some(_)) => {
                self.around.flash.slots.overwrite(GARBAGE).unwrap();
                Some(GARBAGE.to_vec())
            }
            (Fate::FactoryReset, Some(record)) if record != GARBAGE => {
                let record = Record::read(&record).unwrap().factory_reset().to_bytes();
                self.around.flash.slots.overwrite(&record).unwrap();
                Some(record)
            }
            (_, record) => record,
        };
        self.around.flash.durable.clone_from(&record);
        match record {
            None => Restored::Empty,
            Some(record) if record == GARBAGE => Restored::Unreadable,
            Some(record) => Restored::Record(Box::new(Record::read(&record).expect("a record of ours"))),
        }
    }

    /// Once all faults are over, the newest document is in force, everything is acknowledged, and exactly what it
    /// allows may leave (invariant 4).
    pub(super) fn end_well(&mut self) {
        if self.around.verbose {
            eprintln!("all is well again");
        }
        self.around.cut_takes = 0;
        self.end_cut();
        self.around.flash.slow = false;
        self.around.flash.disk.set_failing(None);
        self.sync();
        self.lose();
        self.around.window.clear();
        self.around.readings.system = self.around.truth;
        self.around.cloud_off = 0;
        // Whatever happened to the time before, two answers a minute apart correct it.
        self.date();
        self.wait(61);
        self.date();
        let now = self.around.time.now(self.around.readings);
        assert!(now.confirmed && now.trusted.abs_diff(self.around.truth) < 10 * MINUTE, "{now:?} at {:?}", self.around.truth);
        self.around.version += 1;
        let keyset = self.around.issuer.keyset(self.around.version, self.around.resets.clone());
        self.around.epoch += 1;
        let doc = self.around.issuer.issue(self.around.epoch, 1, 0, None);
        self.around.history.push(doc.clone());
        let https = self.engine.lost;
        let found = Fetched::Found(self.around.issuer.sign_keyset(&keyset).into());
        self.tell(Event::Fetched(Resource::Keyset, found), move |world| world.oracle.keyset(&keyset, world.now));
        if https {
            let (doc, found) = (doc.clone(), Fetched::Found(doc.token.clone().into()));
            let hear = move |world: &mut Around| _ = world.oracle.hear(&doc, Voice::Https, None, world.now);
            self.tell(Event::Fetched(Resource::Entitlement, found), hear);
        }
        self.connect(true, true);
        self.bring_copy(&doc, true, false);
        self.check();
        assert_eq!(
            (self.around.position(), self.engine.mode(self.around.now), self.around.open.leave),
            (doc.position, Mode::Paid, doc.policy)
        );
        assert!(self.around.window.iter().all(|(_, done)| *done), "{:?}", self.around.window);
        assert!(self.engine.phase.staged().is_none() && self.engine.phase.unwritten().is_none());
    }
}

impl Around {
    /// The document in force. After a reset, two documents may have the same position.
    fn in_force(&self) -> Option<Digest> {
        self.seen.in_force
    }

    fn position(&self) -> Position {
        self.seen.position
    }

    /// The engine has processed an event: updates the oracle before the effects are carried out.
    fn take_in(&mut self, hear: Hear, before: Before) {
        self.persists = 0;
        hear(self);
        // The event may have moved time forward.
        self.oracle.time(self.now);
        self.unchecked = self.verdict.take().map(|verdict| (verdict, before));
    }

    /// Checks the last event once its effects are carried out, unless a cut delays them.
    fn check_taken_in(&mut self) {
        let Some((verdict, before)) = self.unchecked.take() else { return };
        if self.cut.is_none() {
            self.check_unmoved(verdict, before);
        }
    }

    /// The state before the engine processes an event; `None` while a write is pending, because the write may change
    /// the state too.
    fn before(&self) -> Before {
        self.flash.waiting.is_none().then_some((self.seen.position, self.open))
    }

    /// A refused document changes nothing, and neither it nor a duplicate is written (invariants 5 and 6).
    fn check_unmoved(&self, verdict: Verdict, before: Before) {
        if self.oracle.time_has_moved() || verdict == Verdict::Applied {
            return;
        }
        assert_eq!(self.persists, 0, "{verdict:?} wrote");
        let Some((position, open)) = before else { return };
        assert_eq!(self.seen.position, position);
        if verdict != Verdict::Duplicate {
            assert_eq!(self.open, open, "{verdict:?} changed what may leave");
        }
    }

    fn carries_out(&self, what: &dyn fmt::Debug) {
        assert!(self.cut.is_none(), "carried out before a cut has ended: {what:?}");
        if self.verbose {
            eprintln!("    {what:?}");
        }
    }
}

impl Ports for Around {
    fn now(&mut self) -> Now {
        self.now = self.time.now(self.readings);
        self.oracle.time(self.now);
        self.now
    }

    fn decided(&mut self, engine: &Engine) {
        // A cut that takes no step completes at once.
        let cut_over = self.cut.take_if(|cut| cut.over_at_once).is_some();
        if !cut_over {
            self.check_taken_in();
        }
        let before = self.before();
        let was = std::mem::replace(&mut self.seen, Seen::of(engine));
        let seen = self.seen;
        if let Some(hear) = self.hear.take() {
            if seen.waiting > was.waiting {
                // A cut is in progress, or time has just started one.
                self.deferred.push_back(hear);
            } else if self.cut.is_none() {
                self.take_in(hear, before);
            }
        } else if seen.known < was.known {
            self.take_in(Box::new(|around| around.oracle.judge_known(around.now)), before);
        } else if seen.waiting < was.waiting {
            let hear = self.deferred.pop_front().expect("the engine processes an event that it was given");
            self.take_in(hear, before);
        }
    }

    fn cut(&mut self, keep: Option<(Policy, Position)>) -> CutProgress {
        self.carries_out(&("cut", keep));
        if let Some((policy, position)) = keep {
            self.oracle.check_erasure(policy, position, self.now);
            // For another owner, nothing is recorded before the old owner's media is erased.
            let stays = [0, position.epoch].contains(&self.open.position.epoch);
            self.open = Admission { record: if stays { policy } else { CLOSED }, keep: policy, leave: CLOSED, position };
        }
        self.open.leave = CLOSED;
        self.uploader.cut(keep, self.now);
        let over_at_once = self.cut_takes == 0;
        self.cut = Some(Cut { over_at_once, steps: self.cut_takes, until: self.readings.boot + LONGEST_CUT, read: 0 });
        if over_at_once {
            self.events += 1;
            CutProgress::Done(FIGURES)
        } else {
            CutProgress::UnderWay
        }
    }

    fn open(&mut self, admission: Admission) {
        self.carries_out(&("open", admission));
        assert!(!takes(&admission.leave, &self.open.leave), "a restriction must begin with a cut: {admission:?} {:?}", self.open);
        assert!(!takes(&admission.keep, &self.open.keep), "an erasure must begin with a cut");
        self.open = admission;
        self.oracle.check_gate(&self.open.leave, self.in_force(), self.now);
    }

    fn retry_refused(&mut self) {
        self.carries_out(&"retry refused uploads");
    }

    fn forget(&mut self) {
        self.carries_out(&"forget the last owner");
    }

    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        self.carries_out(&("persist", ticket));
        self.persists += 1;
        self.oracle.persisting(ticket, self.now);
        self.flash.waiting = Some((ticket, record, false));
    }

    fn acknowledge(&mut self, Delivery(delivery): Delivery) {
        self.carries_out(&("acknowledge", delivery));
        self.oracle.check_puback(delivery);
        if let Some((_, done)) = self.window.iter_mut().find(|(arrived, _)| *arrived == delivery) {
            assert!(!std::mem::replace(done, true), "acknowledged twice");
        }
    }

    fn publish(&mut self, ticket: u64, report: Report) {
        self.carries_out(&("publish", ticket, &report));
        self.oracle.check_report(&report);
        self.published.push(ticket);
    }

    fn get(&mut self, get: Get) {
        self.carries_out(&get);
        self.oracle.get_sent(self.now);
        self.nonce = Some(get.nonce);
    }

    fn fetch(&mut self, resource: Resource) {
        self.carries_out(&("fetch", resource));
        if resource == Resource::Entitlement {
            self.oracle.asked();
        }
        self.fetches.push(resource);
    }

    fn alarm(&mut self, position: Position) {
        self.carries_out(&("alarm", position));
    }

    fn raise_time(&mut self, issued: Duration) {
        self.carries_out(&("raise the time", issued));
        self.time.raise(issued, self.readings);
        self.now = self.time.now(self.readings);
    }

    fn set_time(&mut self, time: Duration) {
        self.carries_out(&("set the time", time));
        self.time.set(time, self.readings);
        self.now = self.time.now(self.readings);
    }
}
