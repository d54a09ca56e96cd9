//! The engine: what the camera's upload may do, decided from documents and time alone. `handle(event, now)` in, effects
//! out, in order. It knows no socket, file, clock or pipeline: [`crate::agent`] carries its effects out, tests and
//! simulation drive it a million times in memory.
//!
//! One document's way: [`Engine::judge`] → `duplicate`, `stale`, `conflict`, `rejected`, or [`Engine::accept`]. A
//! document that takes something away closes the gate first and is written afterwards; one that gives is written first
//! and opens the gate afterwards (section 4).
#![forbid(unsafe_code)]

mod admission;
mod event;
mod force;
mod record;
mod reports;
mod standing;
mod view;

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use care_protocol::{
    Answer, Cause, Cut, DeviceId, Digest, Entitlement, Erased, Get, Keyset, Mode, Outcome, Policy, Position, Reject, Report, RootKeys,
    Topic, VerifiedEntitlement, VerifiedKeyset,
};

pub use admission::{Admission, ClipFacts, Generation, Judge};
pub use event::{Connection, CutFigures, Delivery, Effect, Event, Fetched, Message, Resource};
pub use record::{BadRecord, Record};
pub use view::View;

use force::InForce;
use reports::Reports;
use standing::{Standing, Via};

use crate::clock::Now;

/// How long a document under an unknown key waits for its keyset.
const HOLD: Duration = Duration::from_secs(30);
/// How often a keyset is fetched for an unknown key, at most.
const KEYSET_PAUSE: Duration = Duration::from_secs(60);
/// When clips refused with 402 or 403 are tried again if nothing confirms the plan.
const REFUSED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// When they are tried again after a confirmation, doubling from the first to the last.
const REFUSED_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How often trusted time and the lease's use are written without another reason.
const PERSIST_EVERY: Duration = Duration::from_secs(3600);

/// What the engine must know of its device.
pub struct Settings {
    /// The device.
    pub device: DeviceId,
    /// The issuer it believes.
    pub issuer: String,
    /// The root keys it believes.
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

/// What the store gave back at start.
#[derive(Debug)]
pub enum Restored {
    /// The slots were never written.
    Empty,
    /// A record.
    Record(Box<Record>),
    /// There was a state, and it cannot be read.
    Unreadable,
}

/// The engine.
pub struct Engine {
    settings: Settings,
    keyset: Option<VerifiedKeyset>,
    /// What the gate obeys.
    force: Option<InForce>,
    /// Accepted, and waiting for the disk before it may open anything.
    staged: Option<Staged>,
    /// In force, and not on the disk yet.
    unwritten: Option<Unwritten>,
    ratchet: Position,
    ratchet_digest: Option<Digest>,
    reset_id: u64,
    /// The state was unreadable, and only HTTPS may set it anew.
    lost: bool,
    lease_over: bool,
    standing: Standing,
    refused: Option<Refused>,
    unknown_key: Option<UnknownKey>,
    keyset_fetched: Option<Duration>,
    fetching_keyset: bool,
    /// What the gate was told last.
    gate: Admission,
    cutting: Option<Cutting>,
    inbox: VecDeque<Event>,
    tickets: u64,
    /// The last record that a PUBACK waits for, and the last one on flash.
    promised: u64,
    written: u64,
    unacknowledged: Vec<(u64, Delivery)>,
    persisted_at: Duration,
    reports: Reports,
    announced: Option<Mode>,
    last_switch: Option<Report>,
    effects: Vec<Effect>,
}

/// A document that gives, on its way to the disk.
struct Staged {
    ticket: u64,
    document: InForce,
    failed: bool,
}

/// A document that takes, in force in memory, on its way to the disk.
struct Unwritten {
    ticket: u64,
    report: Report,
    /// What might leave before: until the record is on flash nothing more than this may leave again.
    before: Policy,
    failed: bool,
}

/// 402 or 403 on a grant for something that `[free]` does not cover.
struct Refused {
    /// What exceeds `[free]` waits.
    waiting: bool,
    retry_at: Duration,
    /// A confirmation after this refusal starts retries; the next one comes after this pause.
    confirmed: bool,
    pause: Duration,
}

/// The newest document whose key is not known.
struct UnknownKey {
    token: Vec<u8>,
    kid: String,
    via: Via,
    arrival: Arrival,
    until: Duration,
}

/// What has to be known of a message until it is done with.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    received: Duration,
    delivery: Option<Delivery>,
}

/// A cut whose figures are not in yet.
struct Cutting {
    cause: Cause,
    judged: Option<Position>,
    arrival: Arrival,
    /// Whether the record must be on flash before the gate opens again.
    durable: bool,
    keep: Option<(Policy, Position)>,
    before: Policy,
}

impl Engine {
    /// An engine at boot. Its first effects are those of [`Engine::boot`].
    pub fn new(settings: Settings, restored: Restored, now: Now) -> Self {
        let mut engine = Self {
            settings,
            keyset: None,
            force: None,
            staged: None,
            unwritten: None,
            ratchet: Position::NONE,
            ratchet_digest: None,
            reset_id: 0,
            lost: false,
            lease_over: false,
            standing: Standing::at_boot(now),
            refused: None,
            unknown_key: None,
            keyset_fetched: None,
            fetching_keyset: false,
            gate: Admission::CLOSED,
            cutting: None,
            inbox: VecDeque::new(),
            tickets: 0,
            promised: 0,
            written: 0,
            unacknowledged: Vec::new(),
            persisted_at: now.boot,
            reports: Reports::default(),
            announced: None,
            last_switch: None,
            effects: Vec::new(),
        };
        match restored {
            Restored::Empty => {}
            Restored::Unreadable => engine.lost = true,
            Restored::Record(record) => engine.restore(*record, now),
        }
        engine
    }

    /// Missing: closed until a document comes. Unreadable: closed until HTTPS answers. Good: obeyed, and held until confirmed.
    fn restore(&mut self, record: Record, now: Now) {
        let Ok(verified) = record.verify(&self.settings.roots, &self.settings.issuer, &self.settings.device) else {
            self.lost = true;
            return;
        };
        self.keyset = verified.keyset.filter(|highest| highest.keyset.version >= self.settings.min_keyset_version);
        self.ratchet = record.ratchet;
        self.ratchet_digest = record.ratchet_digest;
        self.reset_id = record.reset_id;
        self.reports = Reports::restored(record.report);
        let used = Duration::from_secs(record.lease_used_s);
        self.force = verified.entitlement.map(|document| InForce::restored(document, record.verified_by, used, record.next_performed, now));
        self.lease_over = self.force.as_ref().is_some_and(|force| force.lease_ended(now));
    }

    /// What has to be done at boot.
    pub fn boot(&mut self, now: Now) -> Vec<Effect> {
        let cause = if self.lost { Cause::StateLost } else { Cause::Boot };
        self.settle(cause, now);
        self.handle(Event::Tick, now)
    }

    /// Takes in one event and says what to do, in order.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        if let Event::CutDone(figures) = event {
            self.cut_done(figures, now);
        } else {
            self.inbox.push_back(event);
        }
        while self.cutting.is_none() {
            if self.pass_time(now) {
                break;
            }
            let Some(event) = self.inbox.pop_front() else { break };
            self.take(event, now);
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due, in BOOTTIME.
    pub fn wake_at(&self, now: Now) -> Duration {
        let mut wake = self.standing.wake_at(now, self.needs_news()).min(self.reports.wake_at()).min(self.persisted_at + PERSIST_EVERY);
        if let Some(force) = &self.force {
            if !self.lease_over {
                wake = wake.min(now.boot + force.lease_left(now));
            }
            if let Some(next) = force.pending_next() {
                wake = wake.min(now.boot + Duration::from_secs(next.effective_at).saturating_sub(now.trusted));
            }
        }
        if let Some(refused) = self.refused.as_ref().filter(|refused| refused.waiting) {
            wake = wake.min(refused.retry_at);
        }
        if let Some(unknown) = &self.unknown_key {
            wake = wake.min(unknown.until);
            if let Some(fetched) = self.keyset_fetched.filter(|_| !self.fetching_keyset) {
                wake = wake.min((fetched + KEYSET_PAUSE).max(now.boot));
            }
        }
        wake
    }

    // ---- what time alone brings -------------------------------------------------------------------------------------

    /// Does what is due; true if a cut is under way, which must be answered first.
    fn pass_time(&mut self, now: Now) -> bool {
        if self.force.as_ref().is_some_and(|force| force.next_is_due(now)) {
            return self.perform_next(now);
        }
        let lease_ended = self.force.as_ref().is_some_and(|force| force.lease_ended(now));
        if lease_ended && !self.lease_over {
            self.lease_over = true;
            self.persist(None, now);
            return self.settle(Cause::Lease, now);
        }
        if self.standing.expire(now) && self.settle(Cause::Link, now) {
            return true;
        }
        if self.standing.end_silence(now) && self.settle(Cause::Link, now) {
            return true;
        }
        if let Some(refused) = self.refused.as_mut().filter(|refused| refused.waiting && now.boot >= refused.retry_at) {
            refused.waiting = false;
            let cause = if refused.confirmed { Cause::Confirmed } else { Cause::Refused };
            self.effects.push(Effect::RetryRefused);
            return self.settle(cause, now);
        }
        // A trusted time that has become known may end what only its doubt held up. What a document that is on its way to the
        // disk confirms, it opens itself.
        let being_written = self.staged.as_ref().is_some_and(|staged| !staged.failed);
        if !being_written && self.settle(Cause::Confirmed, now) {
            return true;
        }
        self.give_up_unknown_key(now);
        self.ask(now);
        self.reports.flush(now.boot, &mut self.effects);
        if now.boot >= self.persisted_at + PERSIST_EVERY {
            self.persist(None, now);
        }
        false
    }

    fn perform_next(&mut self, now: Now) -> bool {
        let Some(force) = &mut self.force else { return false };
        force.next_performed = true;
        let arrival = Arrival { received: now.boot, delivery: None };
        self.switch(Cause::Next, None, arrival, now)
    }

    /// Asks over HTTPS for whatever is missing.
    fn ask(&mut self, now: Now) {
        if let Some(unknown) = &self.unknown_key {
            let pause_over = self.keyset_fetched.is_none_or(|at| now.boot >= at + KEYSET_PAUSE);
            if pause_over && !self.fetching_keyset && now.boot < unknown.until {
                self.fetch_keyset(now);
            }
        }
        if self.standing.poll_is_due(now, self.needs_news()) {
            if self.lost && self.keyset.is_none() {
                self.fetch_keyset(now);
            }
            self.effects.push(Effect::Fetch(Resource::Entitlement));
        }
    }

    fn fetch_keyset(&mut self, now: Now) {
        self.keyset_fetched = Some(now.boot);
        self.fetching_keyset = true;
        self.effects.push(Effect::Fetch(Resource::Keyset));
    }

    /// Whether the plan itself is in doubt, beyond what the connection says.
    fn needs_news(&self) -> bool {
        self.lost || self.refused.as_ref().is_some_and(|refused| refused.waiting && !refused.confirmed)
    }

    // ---- events -------------------------------------------------------------------------------------------------------

    fn take(&mut self, event: Event, now: Now) {
        match event {
            Event::Connected(connection) => {
                self.standing.connected(connection);
                self.reports.connected(&mut self.effects);
            }
            Event::SubscribeSent(connection) => self.standing.subscribe_sent(connection),
            Event::Subscribed(connection) => {
                self.standing.subscribed(connection);
                self.send_get(now);
            }
            Event::Lost(connection) => {
                if let Some(connection) = connection {
                    self.standing.lost(connection, now);
                    self.reports.disconnected();
                }
                self.ask(now);
            }
            Event::Message(message) => self.read(message, now),
            Event::Published { ticket } => self.reports.published(ticket),
            Event::Fetched(Resource::Entitlement, fetched) => self.fetched_entitlement(fetched, now),
            Event::Fetched(Resource::Keyset, fetched) => {
                self.fetching_keyset = false;
                if let Fetched::Found(body) = fetched {
                    self.read_keyset(&body, Arrival { received: now.boot, delivery: None }, now);
                }
            }
            Event::Written { ticket } => self.written(ticket, now),
            Event::WriteFailed { ticket } => self.write_failed(ticket, now),
            Event::Refused(clip) => self.refused(&clip, now),
            Event::Stored => self.refused = self.refused.take().filter(|refused| refused.waiting),
            Event::Reconfigured { free } => {
                self.settings.free = free;
                self.settle(Cause::Boot, now);
            }
            Event::CutDone(_) | Event::Tick => {}
        }
    }

    fn read(&mut self, message: Message, now: Now) {
        let arrival = Arrival { received: message.received, delivery: message.delivery };
        match message.topic {
            Topic::Keyset if message.payload.is_empty() => self.acknowledge(arrival),
            Topic::Keyset => self.read_keyset(&message.payload, arrival, now),
            Topic::Entitlement if message.payload.is_empty() => {
                self.acknowledge(arrival);
                self.send_get(now);
            }
            Topic::Entitlement => {
                self.standing.heard();
                let via = Via::Copy { connection: message.connection, retain: message.retain, dup: message.dup };
                self.judge(&message.payload, via, arrival, now);
            }
            Topic::Answer => {
                self.standing.heard();
                match Answer::read(&message.payload) {
                    Ok(answer) => {
                        let via = Via::Answer { connection: message.connection, nonce: answer.nonce };
                        self.judge(answer.token.as_bytes(), via, arrival, now);
                    }
                    Err(reject) => self.reject(&reject, None, arrival, now),
                }
            }
        }
    }

    fn fetched_entitlement(&mut self, fetched: Fetched, now: Now) {
        self.standing.polled(fetched != Fetched::Failed, now);
        match fetched {
            Fetched::Found(body) => {
                self.standing.heard();
                let token = body.trim_ascii();
                self.judge(token, Via::Https, Arrival { received: now.boot, delivery: None }, now);
            }
            Fetched::Missing => {
                self.standing.missing(now);
                self.settle(Cause::Link, now);
            }
            Fetched::Failed => {}
        }
    }

    // ---- judging ------------------------------------------------------------------------------------------------------

    fn judge(&mut self, token: &[u8], via: Via, arrival: Arrival, now: Now) {
        if self.lost && via != Via::Https {
            return self.reject(&Reject::StateLost, Entitlement::claimed_position(token), arrival, now);
        }
        let keyset = self.keyset.as_ref().map(|verified| &verified.keyset);
        let document = match Entitlement::verify(token, keyset, &self.settings.issuer, &self.settings.device) {
            Ok(document) => document,
            Err(Reject::UnknownKey(kid)) => return self.hold(token, kid, via, arrival, now),
            Err(reject) => return self.reject(&reject, Entitlement::claimed_position(token), arrival, now),
        };
        let issued = Duration::from_secs(document.entitlement.iat);
        self.effects.push(Effect::RaiseTime(issued));
        let now = Now { trusted: now.trusted.max(issued), ..now };

        let position = document.entitlement.position();
        if self.is_known(position, document.digest) {
            self.duplicate(position, &via, arrival, now);
        } else if self.lost || position > self.ratchet {
            if let Err(reject) = self.check_account(&document.entitlement) {
                return self.reject(&reject, Some(position), arrival, now);
            }
            self.accept(document, &via, arrival, now);
        } else if position == self.ratchet && self.ratchet_digest.is_some() {
            self.refuse(Outcome::Conflict, "conflict", Some(position), arrival, now);
        } else {
            self.refuse(Outcome::Stale, "stale", Some(position), arrival, now);
        }
    }

    /// Whether this is the document that stands at the ratchet, or is in force although a reset has lowered the ratchet.
    fn is_known(&self, position: Position, digest: Digest) -> bool {
        let at_ratchet = position == self.ratchet && self.ratchet_digest == Some(digest);
        at_ratchet
            || self.newest().is_some_and(|newest| newest.document.digest == digest && newest.document.entitlement.position() == position)
    }

    fn check_account(&self, entitlement: &Entitlement) -> Result<(), Reject> {
        match self.newest().map(|newest| &newest.document.entitlement) {
            Some(newest) if newest.epoch == entitlement.epoch && newest.account != entitlement.account => Err(Reject::AccountChanged),
            _ => Ok(()),
        }
    }

    fn duplicate(&mut self, position: Position, via: &Via, arrival: Arrival, now: Now) {
        self.acknowledge_once_written(arrival);
        let confirms = self.standing.confirms(via);
        if confirms {
            self.confirmed(now);
        }
        self.refuse_quietly(Outcome::Duplicate, "duplicate", Some(position), now);
        if confirms {
            self.settle(Cause::Confirmed, now);
        }
    }

    fn confirmed(&mut self, now: Now) {
        self.standing.confirmed(now);
        if let Some(refused) = self.refused.as_mut().filter(|refused| refused.waiting && !refused.confirmed) {
            refused.confirmed = true;
            refused.retry_at = refused.retry_at.min(now.boot + refused.pause);
            refused.pause = (refused.pause * 2).min(REFUSED_RETRY.1);
        }
    }

    fn accept(&mut self, document: VerifiedEntitlement, via: &Via, arrival: Arrival, now: Now) {
        let position = document.entitlement.position();
        self.ratchet = position;
        self.ratchet_digest = Some(document.digest);
        self.lost = false;
        self.refused = None;
        if self.standing.confirms(via) {
            self.confirmed(now);
        }
        let document = InForce::received(document, now);
        let wanted = self.admission_of(Some(&document), now);
        if wanted.changes_owner_of(&self.gate) {
            self.effects.push(Effect::Forget);
            self.last_switch = None;
        }
        if wanted.is_less_than(&self.gate) {
            self.lease_over = document.lease_ended(now);
            self.force = Some(document);
            self.staged = None;
            self.switch(Cause::Document, Some(position), arrival, now);
        } else {
            self.staged = Some(Staged { ticket: self.tickets + 1, document, failed: false });
            let report = self.applied_report(Cause::Document, Some(position), now);
            self.promise(Some(&report), now);
            self.acknowledge_once_written(arrival);
        }
        if !self.standing.is_confirmed() {
            self.send_get(now);
        }
    }

    fn hold(&mut self, token: &[u8], kid: String, via: Via, arrival: Arrival, now: Now) {
        let newer = UnknownKey { token: token.to_vec(), kid, via, arrival, until: now.boot + HOLD };
        if let Some(older) = self.unknown_key.replace(newer) {
            self.reject(&Reject::UnknownKey(older.kid), Entitlement::claimed_position(&older.token), older.arrival, now);
        }
        self.ask(now);
    }

    fn give_up_unknown_key(&mut self, now: Now) {
        if let Some(unknown) = self.unknown_key.take_if(|unknown| now.boot >= unknown.until) {
            self.reject(&Reject::UnknownKey(unknown.kid), Entitlement::claimed_position(&unknown.token), unknown.arrival, now);
            self.send_get(now);
        }
    }

    fn read_keyset(&mut self, token: &[u8], arrival: Arrival, now: Now) {
        let verified = match Keyset::verify(token.trim_ascii(), &self.settings.roots, &self.settings.issuer) {
            Ok(verified) => verified,
            Err(reject) => return self.reject(&reject, None, arrival, now),
        };
        let current = self.keyset.as_ref().map_or(0, |current| current.keyset.version);
        let least = current.max(self.settings.min_keyset_version);
        let got = verified.keyset.version;
        if got < least {
            return self.reject(&Reject::OldKeyset { got, least }, None, arrival, now);
        }
        self.effects.push(Effect::RaiseTime(Duration::from_secs(verified.keyset.iat)));
        if got == current {
            self.acknowledge_once_written(arrival);
        } else {
            self.replace_keyset(verified, arrival, now);
        }
        if let Some(unknown) = self.unknown_key.take() {
            let known = self.keyset.as_ref().is_some_and(|keyset| !matches!(keyset.keyset.key(&unknown.kid), Err(Reject::UnknownKey(_))));
            if known {
                self.judge(&unknown.token, unknown.via, unknown.arrival, now);
            } else {
                self.unknown_key = Some(unknown);
            }
        }
    }

    fn replace_keyset(&mut self, verified: VerifiedKeyset, arrival: Arrival, now: Now) {
        let older = self.keyset.replace(verified);
        let Some(keyset) = self.keyset.as_ref().map(|verified| &verified.keyset) else { return };
        // The document in force stays in force on the key that verified it.
        for document in self.force.iter_mut().chain(self.staged.iter_mut().map(|staged| &mut staged.document)) {
            if document.verified_by.is_none() && keyset.key(&document.document.kid).is_err() {
                document.verified_by = older.as_ref().map(|older| older.token.clone());
            }
        }
        if let Some(reset) = keyset.reset_for(&self.settings.device).filter(|reset| reset.id > self.reset_id) {
            self.reset_id = reset.id;
            if !self.lost && reset.position() < self.ratchet {
                self.ratchet = reset.position();
                self.ratchet_digest = None;
            }
        }
        if self.lost {
            // A record now would make an unreadable state look like a good one.
            self.acknowledge(arrival);
        } else {
            self.promise(None, now);
            self.acknowledge_once_written(arrival);
        }
    }

    fn reject(&mut self, reject: &Reject, judged: Option<Position>, arrival: Arrival, now: Now) {
        self.refuse(Outcome::Rejected, reject.code(), judged, arrival, now);
    }

    fn refuse(&mut self, outcome: Outcome, reason: &str, judged: Option<Position>, arrival: Arrival, now: Now) {
        self.acknowledge_once_written(arrival);
        self.refuse_quietly(outcome, reason, judged, now);
    }

    /// Reports what was not applied, without an acknowledgement.
    fn refuse_quietly(&mut self, outcome: Outcome, reason: &str, judged: Option<Position>, now: Now) {
        let report = Report { outcome, reason: reason.to_owned(), ..self.applied_report(Cause::Document, judged, now) };
        self.reports.other(report, now.boot, self.standing.is_connected(), &mut self.effects);
    }

    fn refused(&mut self, clip: &ClipFacts, now: Now) {
        let now_ms = u64::try_from(now.trusted.as_millis()).unwrap_or(u64::MAX);
        let free = Judge::new(self.settings.free, self.gate.position.epoch, now_ms, None).allows(clip);
        if free || self.mode(now) != Mode::Paid {
            return;
        }
        let pause = self.refused.as_ref().map_or(REFUSED_RETRY.0, |refused| refused.pause);
        self.refused = Some(Refused { waiting: true, retry_at: now.boot + REFUSED_PAUSE, confirmed: false, pause });
        self.settle(Cause::Refused, now);
        if !self.send_get(now) {
            self.standing.hurry(now);
        }
    }

    fn send_get(&mut self, now: Now) -> bool {
        if !self.standing.is_subscribed() {
            return false;
        }
        let get = Get { nonce: (self.settings.nonce)(), epoch: self.ratchet.epoch, seq: self.ratchet.seq };
        self.standing.asked(&get, now);
        self.effects.push(Effect::Get(get));
        true
    }

    // ---- the switch ---------------------------------------------------------------------------------------------------

    /// What the gate should be told now.
    fn admission(&self, now: Now) -> Admission {
        let mut admission = self.admission_of(self.force.as_ref(), now);
        match &self.unwritten {
            Some(unwritten) if unwritten.failed => admission.leave = admission.leave.floor(&unwritten.before),
            Some(_) => admission.leave = Policy::CLOSED,
            None => {}
        }
        admission
    }

    /// What `document` lets the gate do, whether it is on flash or not.
    fn admission_of(&self, document: Option<&InForce>, now: Now) -> Admission {
        let Some(document) = document else { return Admission::CLOSED };
        let keep = document.policy();
        let floor = keep.floor(&self.settings.free);
        let lease_over = document.lease_ended(now);
        Admission {
            record: if lease_over { floor } else { keep },
            keep,
            leave: if lease_over || self.is_held(document, now) { floor } else { keep },
            position: document.document.entitlement.position(),
        }
    }

    /// Whether what exceeds `[free]` has to wait: nobody vouches for the record, a grant was refused, or a `next` is pending
    /// while nobody has confirmed what time it is.
    fn is_held(&self, document: &InForce, now: Now) -> bool {
        !self.standing.is_open(now)
            || self.refused.as_ref().is_some_and(|refused| refused.waiting)
            || (document.pending_next().is_some() && !now.confirmed)
    }

    fn mode(&self, now: Now) -> Mode {
        self.mode_of(self.force.as_ref(), now)
    }

    fn mode_of(&self, document: Option<&InForce>, now: Now) -> Mode {
        document.map_or(Mode::Unbound, |document| document.mode(self.is_held(document, now), now))
    }

    /// Puts what is in force to effect, writing it before anything opens; true if a cut is under way.
    fn switch(&mut self, cause: Cause, judged: Option<Position>, arrival: Arrival, now: Now) -> bool {
        let wanted = self.admission_of(self.force.as_ref(), now);
        if wanted.is_less_than(&self.gate) {
            self.cut(wanted, cause, judged, arrival, true);
            return true;
        }
        let report = self.applied_report(cause, judged, now);
        self.promise(Some(&report), now);
        self.acknowledge_once_written(arrival);
        self.announce(report);
        self.settle(cause, now)
    }

    /// Brings the gate in line with what is in force; true if a cut is under way.
    fn settle(&mut self, cause: Cause, now: Now) -> bool {
        let wanted = self.admission(now);
        if wanted.is_less_than(&self.gate) {
            self.cut(wanted, cause, None, Arrival { received: now.boot, delivery: None }, false);
            return true;
        }
        if wanted != self.gate {
            self.gate = wanted;
            self.effects.push(Effect::Open(wanted));
        }
        let being_written = self.unwritten.as_ref().is_some_and(|unwritten| !unwritten.failed);
        if self.announced != Some(self.mode(now)) && !being_written {
            let report = self.applied_report(cause, None, now);
            self.announce(report);
        }
        false
    }

    fn cut(&mut self, wanted: Admission, cause: Cause, judged: Option<Position>, arrival: Arrival, durable: bool) {
        let keep = wanted.erases_of(&self.gate).then_some((wanted.keep, wanted.position));
        self.cutting = Some(Cutting { cause, judged, arrival, durable, keep, before: self.gate.leave });
        self.effects.push(Effect::Cut { keep });
    }

    /// The gate is closed and every transfer dead: write, then open under the new policy.
    fn cut_done(&mut self, figures: CutFigures, now: Now) {
        let Some(cutting) = self.cutting.take() else { return };
        self.gate.leave = Policy::CLOSED;
        if let Some((keep, position)) = cutting.keep {
            self.gate = Admission { record: keep, keep, leave: Policy::CLOSED, position };
        }
        let mut report = self.applied_report(cutting.cause, cutting.judged, now);
        if figures.transfers > 0 {
            let micros = now.boot.saturating_sub(cutting.arrival.received).as_micros();
            report.cut =
                Cut { transfers: figures.transfers, micros: u64::try_from(micros).unwrap_or(u64::MAX), bytes_after: figures.bytes_after };
        }
        report.erased = figures.doomed;
        if cutting.durable {
            let older = self.unwritten.take();
            if let Some(older) = &older {
                report.cut = sum_cut(report.cut, older.report.cut);
                report.erased = sum_erased(report.erased, older.report.erased);
            }
            let before = older.map_or(cutting.before, |older| older.before.floor(&cutting.before));
            let ticket = self.promise(Some(&report), now);
            self.acknowledge_once_written(cutting.arrival);
            self.unwritten = Some(Unwritten { ticket, report, before, failed: false });
        } else {
            self.announced = Some(report.mode);
            self.settle(cutting.cause, now);
            self.announce(report);
        }
    }

    // ---- the disk -----------------------------------------------------------------------------------------------------

    /// Writes a record that a PUBACK waits for.
    fn promise(&mut self, report: Option<&Report>, now: Now) -> u64 {
        self.persist(report, now);
        self.promised = self.tickets;
        self.tickets
    }

    fn persist(&mut self, report: Option<&Report>, now: Now) -> u64 {
        self.persisted_at = now.boot;
        if self.lost {
            return self.tickets;
        }
        self.tickets += 1;
        let record = self.record(report, now);
        self.effects.push(Effect::Persist { ticket: self.tickets, record: record.to_bytes() });
        self.tickets
    }

    fn record(&self, report: Option<&Report>, now: Now) -> Record {
        let newest = self.newest();
        let unwritten = self.unwritten.as_ref().map(|unwritten| &unwritten.report);
        Record {
            format: Record::FORMAT,
            ratchet: self.ratchet,
            ratchet_digest: self.ratchet_digest,
            entitlement: newest.map(|newest| newest.document.token.clone()),
            keyset: self.keyset.as_ref().map(|keyset| keyset.token.clone()),
            verified_by: newest.and_then(|newest| newest.verified_by.clone()),
            lease_used_s: newest.map_or(0, |newest| newest.lease_used(now).as_secs()),
            next_performed: newest.is_some_and(|newest| newest.next_performed),
            trusted_s: now.trusted.as_secs(),
            reset_id: self.reset_id,
            report: report.or(unwritten).or(self.reports.undelivered()).cloned(),
        }
    }

    fn written(&mut self, ticket: u64, now: Now) {
        self.written = self.written.max(ticket);
        let staged = self.staged.take_if(|staged| staged.ticket <= ticket);
        let downgrade = self.unwritten.take_if(|unwritten| unwritten.ticket <= ticket);
        let given = staged.map(|staged| {
            let position = staged.document.document.entitlement.position();
            self.lease_over = staged.document.lease_ended(now);
            self.force = Some(staged.document);
            position
        });
        match given {
            // What gives opens before it is acknowledged, what takes is acknowledged before it opens (section 4).
            Some(position) => {
                let mut report = self.applied_report(Cause::Document, Some(position), now);
                if let Some(downgrade) = downgrade {
                    report.cut = downgrade.report.cut;
                    report.erased = downgrade.report.erased;
                }
                self.announced = Some(report.mode);
                self.settle(Cause::Document, now);
                self.effects.push(Effect::RetryRefused);
                self.acknowledge_written(ticket);
                self.announce(report);
            }
            None => {
                self.acknowledge_written(ticket);
                if let Some(downgrade) = downgrade {
                    let now_in_force = self.applied_report(downgrade.report.cause, downgrade.report.judged, now);
                    let report = Report { cut: downgrade.report.cut, erased: downgrade.report.erased, ..now_in_force };
                    self.announced = Some(report.mode);
                    self.settle(Cause::Document, now);
                    self.announce(report);
                }
            }
        }
    }

    fn write_failed(&mut self, ticket: u64, now: Now) {
        if let Some(staged) = self.staged.as_mut().filter(|staged| staged.ticket <= ticket && !staged.failed) {
            staged.failed = true;
            let position = staged.document.document.entitlement.position();
            self.refuse_quietly(Outcome::Rejected, Reject::NotPersisted.code(), Some(position), now);
        }
        if let Some(unwritten) = self.unwritten.as_mut().filter(|unwritten| unwritten.ticket <= ticket && !unwritten.failed) {
            unwritten.failed = true;
            let report = Report { persisted: false, ..unwritten.report.clone() };
            self.announce(report);
            self.settle(Cause::Document, now);
        }
    }

    /// PUBACK means: this document or a higher one is on flash, or it was refused. In order of arrival.
    fn acknowledge_once_written(&mut self, arrival: Arrival) {
        match arrival.delivery {
            Some(delivery) if self.written < self.promised => self.unacknowledged.push((self.promised, delivery)),
            _ => self.acknowledge(arrival),
        }
    }

    fn acknowledge(&mut self, arrival: Arrival) {
        self.effects.extend(arrival.delivery.map(Effect::Acknowledge));
    }

    fn acknowledge_written(&mut self, ticket: u64) {
        let written = self.unacknowledged.partition_point(|(waits_for, _)| *waits_for <= ticket);
        self.effects.extend(self.unacknowledged.drain(..written).map(|(_, delivery)| Effect::Acknowledge(delivery)));
    }

    // ---- reports ------------------------------------------------------------------------------------------------------

    fn newest(&self) -> Option<&InForce> {
        self.staged.as_ref().map(|staged| &staged.document).or(self.force.as_ref())
    }

    /// An `applied` report of what is in force now, without a cut.
    fn applied_report(&self, cause: Cause, judged: Option<Position>, now: Now) -> Report {
        // A document that is being written is reported as what it will be.
        let staged = self.staged.as_ref().filter(|staged| judged == Some(staged.document.document.entitlement.position()));
        let document = staged.map(|staged| &staged.document).or(self.force.as_ref());
        let entitlement = document.map(|document| &document.document.entitlement);
        let position = entitlement.map_or(Position::NONE, Entitlement::position);
        let reason = document.map(|document| document.reason().as_str()).unwrap_or(if self.lost { "state_lost" } else { "unbound" });
        Report {
            device: self.settings.device.clone(),
            outcome: Outcome::Applied,
            reason: reason.to_owned(),
            cause,
            judged,
            epoch: position.epoch,
            seq: position.seq,
            digest: document.map(|document| document.document.digest),
            plan: document.map(|document| document.plan().clone()),
            mode: self.mode_of(document, now),
            persisted: !self.unwritten.as_ref().is_some_and(|unwritten| unwritten.failed),
            keyset: self.keyset.as_ref().map_or(0, |keyset| keyset.keyset.version),
            cut: Cut::default(),
            erased: Erased::default(),
            at: jiff::Timestamp::from_second(i64::try_from(now.trusted.as_secs()).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX),
            agent: self.settings.agent.clone(),
        }
    }

    fn announce(&mut self, report: Report) {
        self.announced = Some(report.mode);
        self.last_switch = Some(report.clone());
        self.reports.applied(report, self.standing.is_connected(), &mut self.effects);
    }
}

fn sum_cut(a: Cut, b: Cut) -> Cut {
    Cut { transfers: a.transfers + b.transfers, micros: a.micros.max(b.micros), bytes_after: a.bytes_after + b.bytes_after }
}

fn sum_erased(a: Erased, b: Erased) -> Erased {
    Erased { clips: a.clips + b.clips, bytes: a.bytes + b.bytes }
}
