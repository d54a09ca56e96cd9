//! Decides which clips a Kasa camera may upload, from signed documents and time alone.
//!
//! The engine is a value: events go in, effects come out. It has no socket, file, clock or thread, and no dependency
//! that has one. The agent drives it on a camera; the simulation in this crate drives it through millions of
//! histories.
//!
//! A document is judged `applied`, `duplicate`, `stale`, `conflict` or `rejected` (docs/protocol.md#judgement). A
//! restriction closes the gate, is persisted, then reopens what remains. A document that grants more is persisted
//! before it opens (docs/protocol.md#the-switch).
//!
//! # Driving contract
//!
//! - Call [`Engine::start`] once, then [`Engine::handle`] for each [`Event`], in the order in which they happened.
//! - Both carry out every effect that follows, in order, through your [`Ports`]. They return when no event waits, or
//!   when a cut is under way.
//! - A cut is under way from the moment [`Ports::cut`] returns [`CutProgress::UnderWay`] until you pass
//!   [`Event::CutDone`]. Meanwhile the engine requests no effects and keeps your events for later.
//! - Read from the broker only while [`Engine::intake`] returns [`Intake::Ready`].
//! - Pass [`Event::Tick`] when [`Engine::wake_at`] is reached, and whenever trusted time may have changed. Early and
//!   repeated ticks are harmless.
//!
//! The loop, with a camera that has never been bound:
//!
//! ```
//! use std::{collections::VecDeque, ops::ControlFlow, time::Duration};
//!
//! use care_engine::{
//!     Admission, CutFigures, CutProgress, Delivery, Engine, Event, Fetched, Generation, Ports, Resource, Restored, Settings,
//!     trusted_time::Now,
//! };
//! use care_protocol::{Erased, Get, Mode, Policy, Position, Report, RootKeys};
//!
//! /// The engine's outside world. A real one has a gate, a flash, a broker and an API.
//! struct Camera {
//!     now: Now,
//!     /// Events that wait for the engine.
//!     events: VecDeque<Event>,
//! }
//!
//! impl Ports for Camera {
//!     fn now(&mut self) -> Now {
//!         self.now
//!     }
//!     fn cut(&mut self, _keep: Option<(Policy, Position)>) -> CutProgress {
//!         let erased = Erased { clips: 0, bytes: 0 };
//!         CutProgress::Done(CutFigures { generation: Generation(1), transfers: 0, bytes_after: Some(0), erased })
//!     }
//!     fn persist(&mut self, ticket: u64, _record: Vec<u8>) {
//!         self.events.push_back(Event::Written { ticket });
//!     }
//!     fn publish(&mut self, ticket: u64, _report: Report) {
//!         self.events.push_back(Event::Published { ticket });
//!     }
//!     fn fetch(&mut self, resource: Resource) {
//!         self.events.push_back(Event::Fetched(resource, Fetched::Missing));
//!     }
//!     fn raise_time(&mut self, issued: Duration) {
//!         self.now.trusted = self.now.trusted.max(issued);
//!     }
//!     fn set_time(&mut self, time: Duration) {
//!         self.now.trusted = time;
//!     }
//!     fn open(&mut self, _admission: Admission) {}
//!     fn retry_refused(&mut self) {}
//!     fn forget(&mut self) {}
//!     fn acknowledge(&mut self, _delivery: Delivery) {}
//!     fn get(&mut self, _get: Get) {}
//!     fn alarm(&mut self, _position: Position) {}
//! }
//!
//! let settings = Settings {
//!     device: "8006E5A1F0C2".parse()?,
//!     issuer: "care".into(),
//!     roots: RootKeys::new(),
//!     min_keyset_version: 1,
//!     free: Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false },
//!     agent: "0.1.0".into(),
//!     nonce: Box::new(|| "AAAAAAAAAAAAAAAAAAAAAA".into()),
//! };
//! let now = Now { boot: Duration::from_secs(10), trusted: Duration::from_secs(1_767_225_600), ..Now::default() };
//! let mut camera = Camera { now, events: VecDeque::new() };
//! let mut engine = Engine::new(settings, Restored::Empty, now);
//!
//! engine.start(&mut camera);
//! for _ in 0..100 {
//!     if let Some(event) = camera.events.pop_front() {
//!         engine.handle(event, &mut camera);
//!     } else if let Some(wake) = engine.wake_at(camera.now) {
//!         // A real driver sleeps here, until `wake` or the next event.
//!         let slept = wake.saturating_sub(camera.now.boot);
//!         camera.now.boot += slept;
//!         camera.now.trusted += slept;
//!         engine.handle(Event::Tick, &mut camera);
//!     }
//! }
//! assert_eq!(engine.mode(camera.now), Mode::Unbound);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod admission;
mod driver;
pub mod durable;
mod event;
mod force;
mod inbox;
mod judging;
mod past;
mod phase;
mod record;
mod rejections;
mod reports;
mod standing;
mod switch;
mod time;
mod timers;
pub mod token_bucket;
pub mod trusted_time;
mod verifying;
mod view;
mod writing;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, ops::ControlFlow, time::Duration};

use care_protocol::{Cause, DeviceId, Digest, Mode, Policy, Position, Report, RootKeys, VerifiedKeyset};

pub use admission::{Admission, ClipFacts, Generation, Judge};
pub use driver::{CutProgress, Ports};
pub use event::{Body, Connection, CutFigures, Delivery, Event, Fetched, Message, Resource};
pub use inbox::Intake;
pub use past::Past;
pub use record::{BadRecord, FactoryReset, Record};
pub use view::View;

use event::Effect;
use force::InForce;
use inbox::Inbox;
use phase::{Phase, Writing};
use rejections::{Rejections, Way};
use reports::Reports;
use standing::{Standing, Via};
use time::Learnt;

use crate::trusted_time::{Correction, LATEST, Now};

/// How long a document under an unknown key waits for its keyset.
const HOLD: Duration = Duration::from_secs(30);
/// How long a camera that has no keyset yet waits for the retained one before it fetches it.
const FIRST_KEYSET: Duration = Duration::from_secs(2);
/// How many copies of a document under an unknown key are held.
const COPIES: usize = 16;
/// How often a keyset is fetched for an unknown key, at most.
const KEYSET_PAUSE: Duration = Duration::from_secs(60);
/// When clips refused with 402 or 403 are tried again if nothing confirms the plan.
const REFUSED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// When they are tried again after a confirmation, doubling from the first to the last.
const REFUSED_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How long writing a record may take before it counts as failed: a sync may never return.
const FLASH_WAIT: Duration = Duration::from_secs(10);
/// How often trusted time and the lease's use are written if nothing else causes a write.
const PERSIST_EVERY: Duration = Duration::from_secs(3600);
/// How long a delivered report may be on flash as undelivered: a power cut in this time costs a report that says the same
/// twice. A document that comes in this time does not wait for the flash to note the delivery, and its record notes it, too.
const NOTE_DELIVERY: Duration = Duration::from_secs(2);

/// The engine's settings: its device, and its trust anchors.
pub struct Settings {
    /// The device.
    pub device: DeviceId,
    /// The issuer it trusts.
    pub issuer: String,
    /// The root keys it trusts.
    pub roots: RootKeys,
    /// Keysets below this version are refused.
    pub min_keyset_version: u64,
    /// The model's Free policy.
    pub free: Policy,
    /// The agent's version, for reports.
    pub agent: String,
    /// A source of fresh nonces: 22 or more base64url characters.
    pub nonce: Box<dyn FnMut() -> String + Send>,
}

/// The state that the store found at start.
#[derive(Debug)]
pub enum Restored {
    /// The slots were never written.
    Empty,
    /// A record.
    Record(Box<Record>),
    /// A state exists and cannot be read.
    Unreadable,
}

/// The engine.
pub struct Engine {
    settings: Settings,
    keyset: Option<VerifiedKeyset>,
    /// The document that the gate obeys.
    force: Option<InForce>,
    /// The operation that the engine waits for.
    phase: Phase,
    ratchet: Position,
    ratchet_digest: Option<Digest>,
    reset_id: u64,
    /// The camera was reset to factory settings: only a higher epoch binds it again.
    factory_reset: Option<FactoryReset>,
    /// Root keys that are no longer configured, and that verified the document in force.
    retired: RootKeys,
    /// The version of the highest keyset, if its root key is no longer configured.
    retired_version: u64,
    /// The state was unreadable, and only HTTPS may restore it.
    lost: bool,
    lease_over: bool,
    standing: Standing,
    refused: Option<Refused>,
    unknown_key: Option<UnknownKey>,
    keyset_fetched: Option<Duration>,
    fetching_keyset: bool,
    /// The admission that the gate has.
    gate: Admission,
    /// Events that arrived during the cut.
    inbox: Inbox,
    /// Held documents whose key has become known. They arrived before the events in the inbox.
    known: VecDeque<Known>,
    tickets: u64,
    /// The last record that a PUBACK waits for, and the last one on flash.
    promised: u64,
    written: u64,
    unacknowledged: Vec<(u64, Delivery)>,
    /// When the next record is due, unless something else causes one before.
    persist_by: Duration,
    reports: Reports,
    rejections: Rejections,
    announced: Option<Mode>,
    /// Whether the last report stated that the broker does not deliver the entitlement.
    told_deaf: bool,
    /// Another document with the position of the newest one was seen.
    conflict: Option<Position>,
    /// Whether the last record holds a report that was not delivered when it was made.
    owes: bool,
    /// Changes of trusted time since the `now` of the current event.
    learnt: Learnt,
    /// The last correction of trusted time that was reported.
    corrected: Option<Correction>,
    last_switch: Option<Report>,
    /// The documents accepted under this owner, oldest first.
    history: Vec<Past>,
    effects: Vec<Effect>,
    /// Effects that follow the cut under way, once it is done.
    after_cut: Vec<Effect>,
}

/// A document that grants more, or one in force whose `next` does, being written to flash.
struct Staged {
    ticket: u64,
    /// When it was handed to the flash, in BOOTTIME.
    since: Duration,
    cause: Cause,
    document: InForce,
    /// When the copy or answer that confirms it arrived, in BOOTTIME; it counts once the document is applied.
    confirmed_at: Option<Duration>,
    failed: bool,
}

/// A restriction, in force in memory, being written to flash.
struct Unwritten {
    ticket: u64,
    /// When it was handed to the flash, in BOOTTIME.
    since: Duration,
    report: Report,
    /// The admission before it: until the record is on flash no more than this may leave again.
    before: Policy,
    failed: bool,
}

/// 402 or 403 on a grant for something that `[free]` does not cover.
struct Refused {
    /// Clips beyond `[free]` wait.
    waiting: bool,
    retry_at: Duration,
    /// A confirmation after this refusal starts retries; the next one follows after this pause.
    confirmed: bool,
    pause: Duration,
}

/// The newest document whose key is not known.
struct UnknownKey {
    token: Vec<u8>,
    kid: String,
    /// The source of each copy.
    copies: Vec<(Via, Arrival)>,
    until: Duration,
}

/// A held document whose key has become known.
struct Known {
    token: Vec<u8>,
    via: Via,
    arrival: Arrival,
}

/// The facts about a message until it is acknowledged.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    received: Duration,
    delivery: Option<Delivery>,
    /// Its source; `None` if no message arrived.
    way: Option<Way>,
    /// The bound of its `iat`.
    valid_until: Duration,
}

impl Arrival {
    /// A timer, or a fetch: there is no PUBACK to send.
    fn unasked(way: Option<Way>, now: Now) -> Self {
        Self { received: now.boot, delivery: None, way, valid_until: LATEST }
    }

    /// A document or keyset received over HTTPS.
    fn fetched(way: Way, body: &Body, now: Now) -> Self {
        Self { valid_until: body.valid_until, ..Self::unasked(Some(way), now) }
    }
}

/// A cut is under way: the engine decides nothing until it is done.
struct CutUnderWay;

/// The document that has to be written once a cut is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// The document that caused the cut, before the gate opens again.
    BeforeOpening,
    /// None: the document in force was on flash before.
    NotNeeded,
}

/// A cut whose figures have not arrived yet. Staged and unwritten documents stay so meanwhile: a cut may begin in each
/// of these states, and the simulation reaches all of them.
struct Cutting {
    cause: Cause,
    judged: Option<Position>,
    arrival: Arrival,
    record: Durability,
    keep: Option<(Policy, Position)>,
    /// Whether the camera's owner changes.
    forget: bool,
    before: Policy,
}

impl Engine {
    /// An engine at boot. [`Engine::start`] carries out its first effects.
    pub fn new(settings: Settings, restored: Restored, now: Now) -> Self {
        let mut engine = Self {
            settings,
            keyset: None,
            force: None,
            phase: Phase::Deciding(Writing::Settled),
            ratchet: Position::NONE,
            ratchet_digest: None,
            reset_id: 0,
            factory_reset: None,
            retired: RootKeys::new(),
            retired_version: 0,
            lost: false,
            lease_over: false,
            standing: Standing::at_boot(now),
            refused: None,
            unknown_key: None,
            keyset_fetched: None,
            fetching_keyset: false,
            gate: Admission::CLOSED,
            inbox: Inbox::default(),
            known: VecDeque::new(),
            tickets: 0,
            promised: 0,
            written: 0,
            unacknowledged: Vec::new(),
            persist_by: now.boot + PERSIST_EVERY,
            reports: Reports::default(),
            rejections: Rejections::default(),
            announced: None,
            told_deaf: false,
            conflict: None,
            owes: false,
            learnt: Learnt::default(),
            corrected: now.corrected,
            last_switch: None,
            history: Vec::new(),
            effects: Vec::new(),
            after_cut: Vec::new(),
        };
        match restored {
            Restored::Empty => {}
            Restored::Unreadable => engine.lost = true,
            Restored::Record(record) => engine.restore(*record, now),
        }
        engine
    }

    /// Missing: closed until a document arrives. Unreadable: closed until HTTPS answers. Good: in force, and held until
    /// confirmed.
    fn restore(&mut self, record: Record, now: Now) {
        let Ok(verified) = record.verify(&self.settings.roots, &self.settings.issuer, &self.settings.device) else {
            self.lost = true;
            return;
        };
        let retired = verified.retired;
        let trusted = |highest: &VerifiedKeyset| !retired && highest.keyset.version >= self.settings.min_keyset_version;
        // A keyset whose root key is no longer configured verifies no new document; those it has verified stay in
        // force.
        let outdated = verified.keyset.as_ref().filter(|highest| !trusted(highest)).map(|highest| highest.token.clone());
        let verified_by = record.verified_by.or(outdated);
        self.retired_version = verified.version;
        self.keyset = verified.keyset.filter(trusted);
        self.retired = record.roots.clone();
        self.retired.retain(|kid, key| self.settings.roots.get(kid) != Some(key));
        self.factory_reset = record.factory_reset;
        self.ratchet = record.ratchet;
        self.ratchet_digest = record.ratchet_digest;
        self.reset_id = record.reset_id;
        // The report of the reset is repeated at every boot until it is delivered.
        let owed = record.report.filter(|_| self.factory_reset != Some(FactoryReset::Untold));
        self.owes = owed.is_some();
        self.history = record.history;
        self.reports = Reports::restored(owed);
        let used = Duration::from_secs(record.lease_used_s);
        let late = Duration::from_secs(record.lease_late_s);
        self.force =
            verified.entitlement.map(|document| InForce::restored(document, verified_by, (used, late), record.next_performed, now));
        self.lease_over = self.force.as_ref().is_some_and(|force| force.lease_ended(now));
    }

    /// The first effects after boot.
    fn boot(&mut self, now: Now) -> Vec<Effect> {
        if self.force.as_ref().is_some_and(|force| force.next_is_due(now)) {
            self.perform_next(now);
        }
        let cause = match self.factory_reset {
            _ if self.lost => Cause::StateLost,
            Some(FactoryReset::Untold) => Cause::FactoryReset,
            Some(FactoryReset::Told) | None => Cause::Boot,
        };
        self.settle(cause, now);
        self.decide(Event::Tick, now)
    }

    /// Takes one event and returns its effects, in order. A cut is always the last of them: until [`Event::CutDone`]
    /// the engine requests nothing, and events wait. [`Engine::resume`] has the rest.
    fn decide(&mut self, event: Event, now: Now) -> Vec<Effect> {
        // The clock has since applied the changes of earlier events.
        self.learnt = Learnt::default();
        match event {
            Event::CutDone(figures) => {
                self.cut_done(figures, now);
                self.effects.append(&mut self.after_cut);
                self.pass(now);
            }
            Event::Tick => self.pass(now),
            event => {
                self.inbox.push(event);
                self.take_next(now);
            }
        }
        self.batch(now)
    }

    /// The next batch of effects; `None` while a cut is under way, and once nothing waits. The effects of a change of
    /// trusted time, and of time passing, come before the next input and separately from it.
    fn resume(&mut self, now: Now) -> Option<Vec<Effect>> {
        if self.phase.is_cutting() {
            return None;
        }
        let time_told = !std::mem::take(&mut self.learnt).is_nothing();
        if !(time_told || self.input_waits()) {
            return None;
        }
        self.pass(now);
        if self.effects.is_empty() && !self.phase.is_cutting() {
            if !self.input_waits() {
                return None;
            }
            self.take_next(now);
        }
        Some(self.batch(now))
    }

    fn input_waits(&self) -> bool {
        !self.known.is_empty() || self.inbox.len() > 0
    }

    /// Whether more may be read from the broker. While a cut is under way only a few inputs can wait.
    pub fn intake(&self) -> Intake {
        if self.inbox.has_room() { Intake::Ready } else { Intake::Full }
    }

    /// Runs the timers, and what follows from them.
    fn pass(&mut self, now: Now) {
        for _ in 0..2 {
            if self.phase.is_cutting() || self.pass_once(now).is_break() {
                return;
            }
        }
    }

    /// Runs the timers that are due, until one begins a cut.
    fn pass_once(&mut self, now: Now) -> ControlFlow<CutUnderWay> {
        let now = self.learnt.apply(now);
        self.notice_correction(now);
        self.run_timers(now)
    }

    fn take_next(&mut self, now: Now) {
        if self.phase.is_cutting() || self.pass_once(now).is_break() {
            return;
        }
        let due = self.learnt.apply(now);
        if let Some(Known { token, via, arrival }) = self.known.pop_front() {
            self.judge(&token, via, arrival, due);
        } else if let Some(event) = self.inbox.pop() {
            self.take(event, due);
        }
        // Timers after a reset of the time run once the clock has applied it: the system clock may be ahead of it.
        if !self.phase.is_cutting() && !self.learnt.is_set() {
            // The last decision here, whether it begins a cut or not.
            let _ = self.pass_once(now);
        }
    }

    /// The effects to carry out now. Those that follow a cut are carried out once it has ended.
    fn batch(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.effects);
        let cut = effects.iter().position(|effect| matches!(effect, Effect::Cut { .. }));
        if let Some(cut) = cut {
            self.after_cut = effects.split_off(cut + 1);
        }
        if effects.iter().any(|effect| matches!(effect, Effect::Get(_))) {
            self.standing.note_get_sent(now);
        }
        effects
    }

    /// When [`Event::Tick`] is due, in BOOTTIME. Never while a cut is under way: only [`Event::CutDone`] ends that.
    pub fn wake_at(&self, now: Now) -> Option<Duration> {
        if self.phase.is_cutting() {
            return None;
        }
        let mut wake = self.standing.wake_at(now, self.needs_news());
        if self.lost {
            wake = self.keyset_pause_ends().map_or(wake, |end| wake.max(end));
        }
        wake = wake.min(self.reports.wake_at()).min(self.persist_by);
        if let Some(force) = &self.force
            && !self.lease_over
        {
            wake = wake.min(now.boot + force.lease_left(now));
        }
        if let Some((_, since)) = self.being_written() {
            wake = wake.min(since + FLASH_WAIT);
        }
        if let Some(staged) = self.phase.staged().filter(|staged| !staged.document.lease_ended(now)) {
            wake = wake.min(now.boot + staged.document.lease_left(now));
        }
        let staged_next = self.phase.staged().and_then(|staged| staged.document.pending_next());
        for next in self.expected_next().into_iter().chain(staged_next) {
            wake = wake.min(now.boot + Duration::from_secs(next.effective_at).saturating_sub(now.trusted));
        }
        if let Some(refused) = self.refused.as_ref().filter(|refused| refused.waiting) {
            wake = wake.min(refused.retry_at);
        }
        if let Some(unknown) = &self.unknown_key {
            wake = wake.min(unknown.until);
            if !self.fetching_keyset {
                wake = wake.min(self.keyset_due(unknown));
            }
        }
        Some(wake)
    }

    /// Whether the connection in use has confirmed the document on record.
    pub fn is_confirmed(&self) -> bool {
        self.standing.is_confirmed()
    }

    /// Documents that wait for flash or for their key arrived before this SUBSCRIBE, or on a lost or deaf connection,
    /// so they no longer confirm.
    fn overtake(&mut self) {
        if let Some(staged) = self.phase.staged_mut() {
            staged.confirmed_at = None;
        }
        if let Some(held) = &mut self.unknown_key {
            held.copies.iter_mut().for_each(|(via, _)| via.overtake());
        }
    }

    fn take(&mut self, event: Event, now: Now) {
        match event {
            Event::Connected(connection) => {
                self.standing.connected(connection, now);
                self.reports.connected(now.boot, &mut self.effects);
            }
            Event::SubscribeSent(connection) => {
                self.standing.subscribe_sent(connection);
                self.overtake();
            }
            Event::Subscribed(connection) => {
                self.standing.subscribed(connection);
                self.send_get(now);
            }
            Event::Lost(connection) => {
                if let Some(connection) = connection {
                    self.standing.lost(connection, now);
                    self.overtake();
                    self.reports.disconnected();
                    // The broker sends messages without a PUBACK again.
                    self.unacknowledged.clear();
                }
                self.ask(now);
            }
            Event::Message(message) => self.read(message, now),
            Event::Published { ticket } => {
                let untold = self.factory_reset == Some(FactoryReset::Untold);
                if self.reports.published(ticket) && (self.owes || untold) {
                    self.factory_reset = self.factory_reset.map(|_| FactoryReset::Told);
                    self.persist_by = self.persist_by.min(now.boot + NOTE_DELIVERY);
                }
            }
            Event::Fetched(Resource::Entitlement, fetched) => self.fetched_entitlement(fetched, now),
            Event::Fetched(Resource::Keyset, fetched) => {
                self.fetching_keyset = false;
                if let Fetched::Found(body) = &fetched {
                    self.read_keyset(&body.bytes, Arrival::fetched(Way::KeysetHttps, body, now), now);
                }
                if self.lost {
                    self.ask_on(&fetched, now);
                }
            }
            Event::Written { ticket } => self.written(ticket, now),
            Event::WriteFailed { ticket } => self.write_failed(ticket, now),
            Event::Refused => self.refused(now),
            Event::Reconfigured { free } => {
                self.settings.free = free;
                self.settle(Cause::Boot, now);
            }
            Event::Stopping => {
                self.persist(None, now);
            }
            Event::CutDone(_) | Event::Tick => {}
        }
    }
}
