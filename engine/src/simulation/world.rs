//! A camera, its broker, its cloud, its flash and its clock. Engine, store and trusted time are the product's own; the network,
//! the disk under the store, the machine's clocks and the uploads are simulated. Every step is followed by the checks.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use bytes::Bytes;
use care_protocol::{Answer, Digest, Erased, Keyset, Position, Reset, Topic};

use super::{
    super::*,
    oracle::{Oracle, Verdict, Voice},
    paper::{CERTIFICATES_END, CLOSED, Doc, Office, T0, takes},
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
/// A cut is waited for so long at most: then a vendor's uploader has been cut off.
const LONGEST_CUT: Duration = Duration::from_secs(5);
/// What no agent has written.
const GARBAGE: &[u8] = b"worn out";

pub(super) struct World {
    office: Rc<Office>,
    engine: Engine,
    oracle: Oracle,
    /// The true time, which nobody here may ask.
    truth: Duration,
    /// By how many seconds the cloud's clock is off.
    cloud_off: i64,
    readings: Readings,
    time: TrustedTime,
    now: Now,
    /// The clock was told something, and the engine not yet what it says now.
    time_told: bool,
    /// What the gate was told last.
    open: Admission,
    uploader: Uploader,
    /// How many steps a cut takes from here on.
    cut_takes: u8,
    cut: Option<Cut>,
    /// What the oracle is to hear of what the engine was told during the cut, in order.
    deferred: VecDeque<Hear>,
    /// What the oracle has made of the document that the engine is taking in.
    verdict: Option<Verdict>,
    flash: Flash,
    connection: u64,
    connected: bool,
    deliveries: u64,
    /// On this connection, in order of arrival, and whether the engine is done with it.
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
    /// Persist effects since it was last set to zero.
    persists: u32,
    /// What the engine was told.
    pub(super) events: u64,
    /// Whether the history is told, for whoever has to find out what went wrong.
    aloud: bool,
}

/// What the oracle hears when the engine takes in what it was told.
type Hear = Box<dyn FnOnce(&mut World)>;

type Before = Option<(Position, Admission)>;

/// A cut that is not over yet.
struct Cut {
    steps: u8,
    until: Duration,
    /// What was read from the broker meanwhile.
    read: usize,
}

/// The store, on a disk that loses what is not synced.
struct Flash {
    disk: Disk,
    slots: Slots<Disk>,
    slow: bool,
    /// The record that waits, and whether its failure was told.
    waiting: Option<(u64, Vec<u8>, bool)>,
    /// What was handed to the store since the last success: any of it may be there after a crash.
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

/// The document in force. Two may stand at one position, if a reset has come between them.
fn in_force(engine: &Engine) -> Option<Digest> {
    engine.force.as_ref().map(|force| force.document.digest)
}

/// What HTTPS has found.
fn body(bytes: String) -> Body {
    Body { bytes: bytes.into(), valid_until: CERTIFICATES_END }
}

impl World {
    pub(super) fn new(office: Rc<Office>, aloud: bool) -> Self {
        let readings = Readings { boot: Duration::from_secs(10), system: Duration::ZERO };
        let mut time = TrustedTime::new(Duration::from_secs(T0), None, readings.boot);
        let now = time.now(readings);
        let mut world = Self {
            engine: Engine::new(office.settings(), Restored::Empty, now),
            office,
            oracle: Oracle::new(now),
            truth: Duration::from_secs(T0 + 5),
            cloud_off: 0,
            readings,
            time,
            now,
            time_told: false,
            open: Admission::CLOSED,
            uploader: Uploader::default(),
            cut_takes: 0,
            cut: None,
            deferred: VecDeque::new(),
            verdict: None,
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
            aloud,
        };
        let effects = world.engine.boot(now);
        world.carry_out(effects);
        world.go_on();
        world
    }

    pub(super) fn step(&mut self, step: Step) {
        if self.aloud {
            eprintln!("{step:?}");
        }
        match &mut self.cut {
            Some(Cut { steps: 0, .. }) => self.end_cut(),
            Some(cut) => cut.steps -= 1,
            None => {}
        }
        match step {
            Step::Cuts { after } => self.cut_takes = after,
            Step::Connect { subscribe, granted } => self.connect(subscribe, granted),
            Step::Lose => self.lose(),
            Step::Deliver(draw, how) => self.deliver(draw, how),
            Step::Keys(keys) => self.deliver_keyset(keys),
            Step::Https { question, answer } => self.answer(question, answer),
            Step::Date => self.date(),
            Step::Wait { seconds } => self.wait(seconds),
            Step::Flash { slow, fails } => {
                self.flash.slow = slow;
                self.flash.disk.set_failing(fails.then_some(std::io::ErrorKind::Other));
                self.sync();
            }
            Step::SyncFails => self.flash.disk.fail_at(1, std::io::ErrorKind::Other),
            Step::FlashWrites => self.sync(),
            Step::Refused => {
                self.event(Event::Tick);
                self.tell(Event::Refused, |world| world.oracle.refused(world.in_force(), world.now));
            }
            Step::Published => {
                for ticket in std::mem::take(&mut self.published) {
                    self.broker_says(Event::Published { ticket }, |_| ());
                }
            }
            Step::SystemClock(wall) => {
                self.readings.system = self.wall(wall);
                self.event(Event::Tick);
            }
            Step::CloudClock { off } => self.cloud_off = off,
            Step::Motion { snapshot, seconds, height } => self.uploader.record(snapshot, seconds, height, &self.open, self.now),
            Step::Upload(upload) => {
                self.event(Event::Tick);
                let Self { engine, uploader, oracle, open, now, .. } = self;
                let in_force = in_force(engine);
                uploader.act(upload, open, *now, |clip, first| oracle.check_byte(clip, first, in_force, *now));
            }
            Step::PowerCut { off, fate, wall } => self.power_cut(off, fate, wall),
        }
        self.check();
    }

    fn event(&mut self, event: Event) {
        self.tell(event, |_| ());
    }

    /// What comes from the broker is not read while there is no room for it.
    fn broker_says(&mut self, event: Event, hear: impl FnOnce(&mut Self) + 'static) {
        if !self.engine.has_room() {
            self.end_cut();
        }
        if let Some(cut) = &mut self.cut {
            cut.read += 1;
            assert!(cut.read <= inbox::ROOM, "more is read from the broker during a cut than may pile up");
        }
        self.tell(event, hear);
    }

    /// Tells the engine, and the oracle as soon as the engine takes it in.
    fn tell(&mut self, event: Event, hear: impl FnOnce(&mut Self) + 'static) {
        self.now = self.time.now(self.readings);
        self.oracle.time(self.now);
        if self.aloud && event != Event::Tick {
            eprintln!("  {:?} {event:?}", self.now);
        }
        self.events += 1;
        let (waiting, before) = (self.engine.inbox.len(), self.before());
        let effects = self.engine.handle(event, self.now);
        let waits = self.engine.inbox.len() > waiting;
        if self.cut.is_some() {
            assert_eq!(effects, [], "asked for before a cut has ended");
        }
        if waits {
            // A cut is under way, or time has brought one first.
            self.deferred.push_back(Box::new(hear));
            self.carry_out(effects);
        } else if self.cut.is_none() {
            self.take_in(Box::new(hear), before, effects);
        }
        self.go_on();
    }

    fn take_in(&mut self, hear: Hear, before: Before, effects: Vec<Effect>) {
        self.persists = 0;
        hear(self);
        let verdict = self.verdict.take();
        // It may have brought time forward.
        self.oracle.time(self.now);
        self.carry_out(effects);
        if self.cut.is_none() {
            self.check_unmoved(verdict, before);
        }
    }

    /// Has the engine do what had to wait for a cut, then the flash what it was asked for.
    fn go_on(&mut self) {
        while self.cut.is_none() && (std::mem::take(&mut self.time_told) || !self.engine.known.is_empty() || self.engine.inbox.len() > 0) {
            self.now = self.time.now(self.readings);
            self.oracle.time(self.now);
            let effects = self.engine.handle(Event::Tick, self.now);
            self.carry_out(effects);
            let (waiting, known, before) = (self.engine.inbox.len(), self.engine.known.len(), self.before());
            let Some(effects) = self.engine.resume(self.now) else { continue };
            if self.engine.known.len() < known {
                self.take_in(Box::new(|world| world.oracle.judge_known(world.now)), before, effects);
            } else if self.engine.inbox.len() < waiting {
                let hear = self.deferred.pop_front().expect("the engine takes in what it was told");
                self.take_in(hear, before, effects);
            } else {
                self.carry_out(effects);
            }
        }
        if !self.flash.slow {
            self.sync();
        }
    }

    fn end_cut(&mut self) {
        self.finish_cut();
        self.go_on();
    }

    fn finish_cut(&mut self) {
        if self.cut.take().is_none() {
            return;
        }
        let figures = CutFigures { generation: Generation(0), transfers: 1, bytes_after: 0, doomed: Erased::default() };
        self.now = self.time.now(self.readings);
        self.oracle.time(self.now);
        self.events += 1;
        let effects = self.engine.handle(Event::CutDone(figures), self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            assert!(self.cut.is_none(), "carried out before a cut has ended: {effect:?}");
            if self.aloud {
                match &effect {
                    Effect::Persist { ticket, .. } => eprintln!("    Persist {ticket}"),
                    other => eprintln!("    {other:?}"),
                }
            }
            match effect {
                Effect::Cut { keep } => {
                    if let Some((policy, position)) = keep {
                        self.oracle.check_erasure(policy, position, self.now);
                        // For another owner nothing is recorded before the old one's pictures are forgotten.
                        let stays = [0, position.epoch].contains(&self.open.position.epoch);
                        self.open = Admission { record: if stays { policy } else { CLOSED }, keep: policy, leave: CLOSED, position };
                    }
                    self.open.leave = CLOSED;
                    self.uploader.cut(keep, self.now);
                    self.cut = Some(Cut { steps: self.cut_takes, until: self.readings.boot + LONGEST_CUT, read: 0 });
                }
                Effect::Open(admission) => {
                    assert!(!takes(&admission.leave, &self.open.leave), "what takes away is a cut first: {admission:?} {:?}", self.open);
                    assert!(!takes(&admission.keep, &self.open.keep), "what erases is a cut first");
                    self.open = admission;
                    self.oracle.check_gate(&self.open.leave, self.in_force(), self.now);
                }
                Effect::Persist { ticket, record } => {
                    self.persists += 1;
                    self.oracle.persisting(ticket, self.now);
                    self.flash.waiting = Some((ticket, record, false));
                }
                Effect::Acknowledge(Delivery(delivery)) => {
                    self.oracle.check_puback(delivery);
                    if let Some((_, done)) = self.window.iter_mut().find(|(arrived, _)| *arrived == delivery) {
                        assert!(!std::mem::replace(done, true), "acknowledged twice");
                    }
                }
                Effect::Publish { ticket, report } => {
                    self.oracle.check_report(&report);
                    self.published.push(ticket);
                }
                Effect::Get(get) => {
                    self.oracle.get_sent(self.now);
                    self.nonce = Some(get.nonce);
                }
                Effect::Fetch(resource) => {
                    if resource == Resource::Entitlement {
                        self.oracle.asked();
                    }
                    self.fetches.push(resource);
                }
                Effect::SetTime(time) => {
                    self.time_told = true;
                    self.time.set(time, self.readings);
                    self.now = self.time.now(self.readings);
                }
                Effect::RaiseTime(time) => {
                    self.time_told = true;
                    self.time.raise(time, self.readings);
                    self.now = self.time.now(self.readings);
                }
                Effect::RetryRefused | Effect::Forget | Effect::Alarm(_) => {}
            }
        }
        // Last, as a cut is in its batch: one that takes no step is over at once.
        if self.cut.is_some() && self.cut_takes == 0 {
            self.finish_cut();
        }
    }

    fn position(&self) -> Position {
        self.engine.force.as_ref().map_or(Position::NONE, |force| force.document.entitlement.position())
    }

    fn in_force(&self) -> Option<Digest> {
        in_force(&self.engine)
    }

    fn check(&mut self) {
        self.oracle.check_clock(self.time.now(self.readings));
        if self.cut.is_some() {
            assert_eq!(self.open.leave, CLOSED, "something may leave before a cut has ended");
            return;
        }
        let in_force = self.in_force();
        assert_eq!(self.engine.ratchet, self.oracle.ratchet(), "the verdicts differ");
        let version = self.engine.keyset.as_ref().map_or(0, |verified| verified.keyset.version);
        assert_eq!(version, self.oracle.keyset_version(), "the keysets differ");
        self.oracle.check_gate(&self.open.leave, in_force, self.now);
        self.oracle.check_hung(&self.open.leave, self.now);
        self.oracle.check_asked(self.connected, self.now);
        assert_eq!(self.engine.gate, self.open, "the gate is not as the engine thinks");
        assert!(self.engine.cutting.is_none() && self.engine.inbox.len() == 0 && self.engine.known.is_empty());
        assert!(self.deferred.is_empty() && self.engine.after_cut.is_empty());
        if self.flash.waiting.is_none() {
            self.oracle.check_newest(in_force);
            self.oracle.check_given(&self.open.leave, self.now);
        }
        for clip in &self.uploader.clips {
            self.oracle.check_kept(clip, self.open.position.epoch, in_force);
        }
        // Nothing piles up (invariant 7).
        let open = self.window.iter().filter(|(_, done)| !done).count();
        let waits = self.engine.unacknowledged.len() + self.engine.unknown_key.as_ref().map_or(0, |held| held.copies.len());
        assert!(waits <= open + COPIES, "{waits} wait for a PUBACK, of {open}");
        assert!(!self.flash.disk.misused(), "a descriptor was used after its sync had failed");
    }

    /// The store's turn.
    fn sync(&mut self) {
        let Some((ticket, record, told)) = self.flash.waiting.take() else { return };
        if self.flash.attempted.last().is_none_or(|(last, _)| *last != ticket) {
            self.flash.attempted.push((ticket, record.clone()));
        }
        if self.flash.slots.write(&record).is_err() {
            self.flash.waiting = Some((ticket, record, true));
            if !told {
                self.tell(Event::WriteFailed { ticket }, |world| world.oracle.write_failed());
            }
            return;
        }
        self.flash.attempted.clear();
        self.oracle.on_flash(ticket, &record);
        self.flash.durable = Some(record.clone());
        self.tell(Event::Written { ticket }, move |world| world.oracle.written(ticket, &record));
    }

    fn connect(&mut self, subscribe: bool, granted: bool) {
        if self.connected {
            return;
        }
        self.connection += 1;
        self.connected = true;
        self.window.clear();
        let connection = Connection(self.connection);
        self.broker_says(Event::Connected(connection), |_| ());
        if subscribe {
            self.broker_says(Event::SubscribeSent(connection), |world| world.oracle.subscribe_sent());
            if granted {
                self.broker_says(Event::Subscribed(connection), |_| ());
            }
        }
    }

    fn lose(&mut self) {
        if self.connected {
            self.connected = false;
            self.published.clear();
            self.broker_says(Event::Lost(Some(Connection(self.connection))), |world| {
                world.nonce = None;
                world.oracle.lost_connection(world.now);
            });
            // A lost state asks at its own pace.
            let asks = self.cut.is_some() || self.engine.lost || !self.fetches.is_empty();
            assert!(asks, "a loss asks over HTTPS at once");
        }
    }

    fn draw(&mut self, draw: Draw) -> Rc<Doc> {
        let drawn = match draw {
            Draw::Again { back } if !self.history.is_empty() => {
                let back = usize::from(back).min(self.history.len() - 1);
                self.history[self.history.len() - 1 - back].clone()
            }
            Draw::Next { owner, skips, variant } => {
                if owner {
                    self.epoch += 1;
                    self.seq = 0;
                }
                self.seq += 1 + u64::from(skips);
                self.office.issue(self.epoch, self.seq, variant, None)
            }
            Draw::Again { .. } => self.office.issue(self.epoch, self.seq.max(1), 0, None),
            Draw::Rival { variant } => self.office.issue(self.epoch, self.seq.max(1), variant, None),
            Draw::Bad { defect, variant } => self.office.issue(self.epoch, self.seq + 1, variant, Some(defect)),
        };
        self.history.push(drawn.clone());
        drawn
    }

    fn deliver(&mut self, draw: Draw, how: How) {
        if !self.connected {
            return;
        }
        self.event(Event::Tick);
        let doc = self.draw(draw);
        match how {
            How::Answer { newest } => {
                let nonce = self.nonce.clone().filter(|_| newest);
                let answer = Answer { nonce: nonce.clone().unwrap_or_else(|| "another-nonce-0000000000".into()), token: doc.token.clone() };
                let delivery = self.deliveries + 1;
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
        let (doc, delivery) = (doc.clone(), self.deliveries + 1);
        self.bring(Topic::Entitlement, doc.token.clone().into_bytes(), retain, dup, move |world| {
            let voice = Voice::Copy { confirms: retain && !dup };
            world.verdict = Some(world.oracle.hear(&doc, voice, Some(delivery), world.now));
        });
    }

    fn bring(&mut self, topic: Topic, payload: Vec<u8>, retain: bool, dup: bool, hear: impl FnOnce(&mut Self) + 'static) {
        self.deliveries += 1;
        self.window.push((self.deliveries, false));
        let message = Message {
            connection: Connection(self.connection),
            topic,
            payload: Bytes::from(payload),
            retain,
            dup,
            received: self.now.boot,
            delivery: Some(Delivery(self.deliveries)),
            valid_until: CERTIFICATES_END,
        };
        self.broker_says(Event::Message(message), hear);
    }

    /// How things stand before the engine takes something in; `None` while the flash has something to do, which is no fault of
    /// what is taken in.
    fn before(&self) -> Before {
        self.flash.waiting.is_none().then(|| (self.position(), self.open))
    }

    /// What is refused changes nothing, and neither it nor a duplicate writes anything (invariants 5 and 6).
    fn check_unmoved(&self, verdict: Option<Verdict>, before: Before) {
        let Some(verdict) = verdict else { return };
        if self.oracle.time_has_moved() || verdict == Verdict::Applied {
            return;
        }
        assert_eq!(self.persists, 0, "{verdict:?} wrote");
        let Some((position, open)) = before else { return };
        assert_eq!(self.position(), position);
        if verdict != Verdict::Duplicate {
            assert_eq!(self.open, open, "{verdict:?} changed what may leave");
        }
    }

    fn deliver_keyset(&mut self, keys: Keys) {
        if !self.connected {
            return;
        }
        self.event(Event::Tick);
        let keyset = self.keyset(keys);
        let payload = self.office.sign_keyset(&keyset).into_bytes();
        self.bring(Topic::Keyset, payload, true, false, move |world| world.oracle.keyset(&keyset, world.now));
    }

    fn keyset(&mut self, keys: Keys) -> Keyset {
        match keys {
            Keys::Higher => self.version += 1,
            Keys::Milliseconds => {
                let keyset = self.office.keyset(self.version + 1, self.resets.clone());
                return Keyset { iat: T0 * 1000, ..keyset };
            }
            Keys::Reset { again, part, time } if self.seq > 2 => {
                self.version += 1;
                if !again || self.reset_id == 0 {
                    self.reset_id += 1;
                }
                let seq = self.seq * u64::from(part) / 256;
                self.resets = vec![Reset {
                    id: self.reset_id,
                    aud: "CAM1".into(),
                    epoch: self.epoch,
                    seq,
                    time: time.then_some(self.truth.as_secs()),
                }];
                // The cloud issues again from there.
                self.seq = seq;
            }
            Keys::Lower => return self.office.keyset(self.version.saturating_sub(1).max(1), vec![]),
            Keys::Same | Keys::Reset { .. } => {}
        }
        self.office.keyset(self.version, self.resets.clone())
    }

    /// HTTPS answers one of the questions; whatever it is, it has a date.
    fn answer(&mut self, question: u8, answer: Https) {
        if self.fetches.is_empty() {
            return;
        }
        self.event(Event::Tick);
        let resource = self.fetches.swap_remove(usize::from(question) % self.fetches.len());
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
                let found = Fetched::Found(body(self.office.sign_keyset(&keyset)));
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
        let date = Duration::from_secs(self.truth.as_secs().saturating_add_signed(self.cloud_off));
        let before = self.time.now(self.readings);
        self.oracle.time(before);
        let heard = HeardDate { date, sent: self.readings.boot, valid_until: CERTIFICATES_END };
        self.time.observe_date(heard, self.readings);
        self.now = self.time.now(self.readings);
        self.oracle.date(date, self.readings, before, self.now);
        if self.aloud {
            eprintln!("  Date {date:?}: {before:?} -> {:?}", self.now);
        }
        // What it brings is seen by itself, before the answer it came with.
        self.event(Event::Tick);
    }

    fn wait(&mut self, seconds: u32) {
        let end = self.readings.boot + Duration::from_secs(seconds.into());
        for turn in 0.. {
            assert!(turn < 3000, "the engine wakes all the time");
            let wake = match &self.cut {
                // The engine does nothing, whatever is due.
                Some(cut) => cut.until,
                None => self.engine.wake_at(self.now),
            };
            let step = wake.max(self.readings.boot + Duration::from_millis(1)).min(end) - self.readings.boot;
            self.readings.boot += step;
            self.readings.system += step;
            self.truth += step;
            self.event(Event::Tick);
            if self.cut.as_ref().is_some_and(|cut| self.readings.boot >= cut.until) {
                self.end_cut();
            }
            self.check();
            if self.readings.boot >= end {
                return;
            }
        }
    }

    fn wall(&self, wall: Wall) -> Duration {
        match wall {
            Wall::Right => self.truth,
            Wall::Epoch => Duration::ZERO,
            Wall::YearBack => self.truth - YEAR,
            Wall::YearAhead => self.truth + YEAR,
            Wall::MinutesBack => self.truth - 20 * MINUTE,
            Wall::MinutesAhead => self.truth + 9 * MINUTE,
            Wall::HoursAhead => self.truth + 480 * MINUTE,
        }
    }

    fn power_cut(&mut self, off: u32, fate: Fate, wall: Wall) {
        let restored = self.lose_power(fate);
        self.truth += Duration::from_secs(off.into());
        self.readings = Readings { boot: Duration::from_secs(10), system: self.wall(wall) };
        let trusted = match &restored {
            Restored::Record(record) => Some(Duration::from_secs(record.trusted_s)),
            Restored::Empty | Restored::Unreadable => None,
        };
        self.time = TrustedTime::new(Duration::from_secs(T0), trusted, self.readings.boot);
        let floor = self.time.clone().now(Readings { system: Duration::ZERO, ..self.readings });
        self.now = self.time.now(self.readings);
        let unreadable = matches!(restored, Restored::Unreadable);
        let durable = self.flash.durable.as_deref().filter(|_| !unreadable);
        self.oracle.boot(durable, &self.history, unreadable, floor);
        if let (Fate::FactoryReset, Some(_)) = (fate, durable) {
            self.oracle.check_reset();
        }
        self.oracle.time(self.now);
        self.engine = Engine::new(self.office.settings(), restored, self.now);
        self.open = Admission::CLOSED;
        // Clips wait in memory only.
        self.uploader = Uploader::default();
        self.connected = false;
        self.nonce = None;
        self.fetches.clear();
        self.published.clear();
        self.window.clear();
        self.cut = None;
        self.deferred.clear();
        let effects = self.engine.boot(self.now);
        self.carry_out(effects);
        self.go_on();
    }

    /// What the store finds when power is back.
    fn lose_power(&mut self, fate: Fate) -> Restored {
        self.flash.disk.set_failing(None);
        let (during, which) = match fate {
            Fate::Crash { during_operation, which } => (during_operation, which),
            Fate::Unreadable | Fate::FactoryReset => (0, 0),
        };
        if let Some((ticket, record, _)) = self.flash.waiting.take() {
            // It was under way, up to one operation or another.
            self.flash.disk.fail_at(during.into(), std::io::ErrorKind::Other);
            self.flash.attempted.push((ticket, record.clone()));
            if self.flash.slots.write(&record).is_ok() {
                self.oracle.on_flash(ticket, &record);
                self.flash.durable = Some(record);
                self.flash.attempted.clear();
            }
        }
        let remains = self.flash.disk.now();
        let remains = remains.crash(usize::from(which) % remains.crashes());
        let durable = self.flash.durable.take();
        let attempted = std::mem::take(&mut self.flash.attempted);
        let (flash, restored) = Flash::on(Disk::from(remains));
        self.flash = flash;
        let record = match restored {
            durable::Restored::Empty => {
                assert_eq!(durable, None, "the flash has forgotten what it was given");
                None
            }
            durable::Restored::Unreadable => panic!("a power cut made the state unreadable"),
            durable::Restored::Record(record) => {
                if durable.as_deref() != Some(&record) {
                    let found = attempted.iter().find(|(_, attempted)| *attempted == record);
                    let (ticket, _) = found.expect("the flash brings back neither the last record nor the one that was being written");
                    self.oracle.on_flash(*ticket, &record);
                }
                Some(record)
            }
        };
        let record = match (fate, record) {
            (Fate::Unreadable, Some(_)) => {
                self.flash.slots.overwrite(GARBAGE).unwrap();
                Some(GARBAGE.to_vec())
            }
            (Fate::FactoryReset, Some(record)) if record != GARBAGE => {
                let record = Record::read(&record).unwrap().factory_reset().to_bytes();
                self.flash.slots.overwrite(&record).unwrap();
                Some(record)
            }
            (_, record) => record,
        };
        self.flash.durable.clone_from(&record);
        match record {
            None => Restored::Empty,
            Some(record) if record == GARBAGE => Restored::Unreadable,
            Some(record) => Restored::Record(Box::new(Record::read(&record).expect("a record of ours"))),
        }
    }

    /// Once all is well the newest document rules, everything is acknowledged, and exactly what it allows may leave (invariant 4).
    pub(super) fn end_well(&mut self) {
        if self.aloud {
            eprintln!("all is well again");
        }
        self.cut_takes = 0;
        self.end_cut();
        self.flash.slow = false;
        self.flash.disk.set_failing(None);
        self.sync();
        self.lose();
        self.window.clear();
        self.readings.system = self.truth;
        self.cloud_off = 0;
        // Whatever was said of the time before, two answers a minute apart set it right.
        self.date();
        self.wait(61);
        self.date();
        let now = self.time.now(self.readings);
        assert!(now.confirmed && now.trusted.abs_diff(self.truth) < 10 * MINUTE, "{now:?} at {:?}", self.truth);
        self.version += 1;
        let keyset = self.office.keyset(self.version, self.resets.clone());
        self.epoch += 1;
        let doc = self.office.issue(self.epoch, 1, 0, None);
        self.history.push(doc.clone());
        let https = self.engine.lost;
        let found = Fetched::Found(self.office.sign_keyset(&keyset).into());
        self.tell(Event::Fetched(Resource::Keyset, found), move |world| world.oracle.keyset(&keyset, world.now));
        if https {
            let (doc, found) = (doc.clone(), Fetched::Found(doc.token.clone().into()));
            let hear = move |world: &mut Self| _ = world.oracle.hear(&doc, Voice::Https, None, world.now);
            self.tell(Event::Fetched(Resource::Entitlement, found), hear);
        }
        self.connect(true, true);
        self.bring_copy(&doc, true, false);
        self.check();
        assert_eq!((self.position(), self.engine.mode(self.now), self.open.leave), (doc.position, Mode::Paid, doc.policy));
        assert!(self.window.iter().all(|(_, done)| *done), "{:?}", self.window);
        assert!(self.engine.staged.is_none() && self.engine.unwritten.is_none());
    }
}
