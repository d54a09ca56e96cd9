//! Computes from docs/protocol.md alone, without the engine, the verdicts of a history and the limits for media that
//! may leave.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_protocol::{Cause, ClipKind, Digest, Keyset, Outcome, Policy, Position, Report};
use serde::Deserialize;
use serde_json::Value;

use super::{
    issuer::{CERTIFICATES_END, CLOSED, Doc, FREE, T0, both, takes},
    uploader::Clip,
};
use crate::trusted_time::{Now, Readings};

const SECOND: Duration = Duration::from_secs(1);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Applied,
    Duplicate,
    /// Stale, a conflict or rejected.
    Refused,
    /// Its key is not known yet.
    Waiting,
}

/// The channel by which a document arrived, and whether that channel confirms (docs/protocol.md#confirmation).
/// SUBSCRIBE is tracked separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    Copy { confirms: bool },
    Answer { confirms: bool },
    Https,
}

/// An accepted document.
struct Accepted {
    doc: Rc<Doc>,
    durable: bool,
    /// Whether the record on flash shows that its `next` has taken effect.
    next_durable: bool,
    /// Not written so far because of an error, or because the flash has not answered for ten seconds.
    failed: bool,
    /// When it was handed to the flash.
    handed: Option<Duration>,
    /// How much of `max_age_s` was used at this BOOTTIME.
    used: Duration,
    marked: Duration,
    /// The part of that which is its age at receipt.
    late: Duration,
    next_done: bool,
    /// What it allowed when a higher document arrived.
    superseded: Option<Policy>,
}

/// The state that a record was made from.
#[derive(Clone, Copy, Default)]
struct Snapshot {
    trusted: Duration,
    position: Position,
    digest: Option<Digest>,
    used: Duration,
    next_done: bool,
}

struct Refusal {
    at: Duration,
    confirmed: Option<Duration>,
}

struct Waiting {
    doc: Rc<Doc>,
    copies: Vec<Copy>,
    until: Duration,
}

/// The channel of a document that waits for its key.
struct Copy {
    voice: Voice,
    connection: u64,
    /// A message that waits for its PUBACK.
    delivery: Option<u64>,
    /// No connection was lost and no SUBSCRIBE sent since.
    fresh: bool,
}

pub(super) struct Oracle {
    keyset: u64,
    reset_id: u64,
    lost: bool,
    /// The camera was reset and has not been bound since.
    reset: bool,
    ratchet: Position,
    digest: Option<Digest>,
    /// The newest document on flash, followed by accepted documents that are not on flash yet.
    chain: Vec<Accepted>,
    snapshots: BTreeMap<u64, Snapshot>,
    on_flash: Snapshot,
    verdicts: BTreeMap<u64, (Verdict, Position, u64)>,
    waiting: Option<Waiting>,
    /// Documents whose key has become known and that are still to be judged.
    known: VecDeque<(Rc<Doc>, Copy)>,
    connection: u64,
    subscribe_sent: bool,
    /// When the first `get` was sent since the last message on this connection.
    unheard: Option<Duration>,
    deaf: bool,
    /// After a failed request: the deadline for the next HTTPS request, and the number of failures in a row.
    ask_by: Option<Duration>,
    failed: usize,
    /// When a record was last handed to the flash.
    persisted: Duration,
    /// The intersection of all policies since everything was on flash.
    least: Policy,
    confirmed: bool,
    /// Certainly confirmed; an answer that had to wait for its key may have been superseded by another `get`.
    surely_confirmed: bool,
    /// Confirmed by the newest document, which is not on flash yet: it counts once that is applied.
    confirmation_waits: bool,
    vouched_until: Duration,
    /// The first and the last 404 since the last confirming message.
    silence: Option<(Duration, Duration)>,
    refusal: Option<Refusal>,
    /// A refusal that another document may end, once it is on flash.
    refused_before: Option<Refusal>,
    /// When a grant was last refused while a document was being written: the refusal may concern that document.
    refused_in_writing: Option<Duration>,
    /// Until when a refusal may hold media that the most generous reading of the rules allows.
    doubt_until: Duration,
    moved: bool,
    /// The record on flash.
    flash: Option<Flash>,
    /// Trusted time from verified sources alone, and when it was computed.
    verified: Duration,
    verified_at: Duration,
    /// The last `Date` that agreed.
    dated: Option<Duration>,
    /// A `Date` that waits for a second one, and when it arrived.
    doubted: Option<(Duration, Duration)>,
    clock_confirmed: bool,
    last: Now,
}

impl Oracle {
    pub(super) fn new(now: Now) -> Self {
        Self {
            keyset: 0,
            reset_id: 0,
            lost: false,
            reset: false,
            ratchet: Position::NONE,
            digest: None,
            chain: vec![],
            snapshots: BTreeMap::new(),
            on_flash: Snapshot::default(),
            verdicts: BTreeMap::new(),
            waiting: None,
            known: VecDeque::new(),
            connection: 0,
            subscribe_sent: false,
            unheard: None,
            deaf: false,
            ask_by: None,
            failed: 0,
            persisted: now.boot,
            least: FREE,
            confirmed: false,
            surely_confirmed: false,
            confirmation_waits: false,
            vouched_until: now.boot,
            silence: None,
            refusal: None,
            refused_before: None,
            refused_in_writing: None,
            doubt_until: Duration::ZERO,
            moved: false,
            flash: None,
            verified: now.trusted,
            verified_at: now.boot,
            dated: None,
            doubted: None,
            clock_confirmed: false,
            last: now,
        }
    }

    pub(super) fn ratchet(&self) -> Position {
        self.ratchet
    }

    /// Whether the last document moved time forward, so that time itself may have had effects.
    pub(super) fn time_has_moved(&self) -> bool {
        self.moved
    }

    fn trusted(&self, now: Now) -> Duration {
        now.trusted.max(self.verified)
    }

    // --- events ---

    pub(super) fn time(&mut self, now: Now) {
        let since = now.boot - self.verified_at;
        self.verified_at = now.boot;
        self.verified += since;
        self.dated = self.dated.map(|dated| dated + since);
        self.doubted = self.doubted.map(|(date, at)| (date + since, at));
        self.check_confirmed(now);
        self.clock_confirmed = now.confirmed;
        let trusted = self.trusted(now);
        for accepted in &mut self.chain {
            accepted.next_done |= accepted.doc.next.is_some_and(|(at, _)| trusted.as_secs() >= at);
            accepted.failed |= !accepted.durable && accepted.handed.is_some_and(|handed| now.boot >= handed + 10 * SECOND);
        }
        if let Some(since) = self.unheard.filter(|since| !self.deaf && now.boot >= *since + 10 * SECOND) {
            // A deaf connection counts as lost.
            self.deaf = true;
            self.overtake();
            if self.confirmed {
                self.vouched_until = self.vouched_until.max(since + 20 * SECOND);
            }
            self.confirmed = false;
            self.surely_confirmed = false;
            self.confirmation_waits = false;
        }
        if let Some((_, last)) = self.silence.filter(|(first, _)| now.boot >= *first + 15 * SECOND) {
            self.vouched_until = self.vouched_until.max(last + (15 + 90) * SECOND);
        }
        if self.waiting.as_ref().is_some_and(|waiting| now.boot >= waiting.until) {
            self.give_up_waiting();
        }
        let over = |refusal: &Refusal| {
            now.boot >= refusal.at + 900 * SECOND || refusal.confirmed.is_some_and(|confirmed| now.boot >= confirmed + 5 * SECOND)
        };
        if self.refusal.take_if(|refusal| over(refusal)).is_some() {
            // Retries begin at 5 s and double to 60 s.
            self.doubt_until = self.doubt_until.max(now.boot + 60 * SECOND);
        }
    }

    pub(super) fn subscribe_sent(&mut self) {
        self.subscribe_sent = true;
        self.confirmation_waits = false;
        self.overtake();
    }

    /// Events that wait happened before the cut that begins now.
    fn overtake(&mut self) {
        let waiting = self.waiting.iter_mut().flat_map(|waiting| &mut waiting.copies);
        waiting.chain(self.known.iter_mut().map(|(_, copy)| copy)).for_each(|copy| copy.fresh = false);
    }

    pub(super) fn get_sent(&mut self, now: Now) {
        self.unheard.get_or_insert(now.boot);
    }

    /// The engine requests the entitlement over HTTPS.
    pub(super) fn asked(&mut self) {
        self.ask_by = None;
    }

    /// HTTPS has answered, with a document or without, or has failed.
    pub(super) fn answered(&mut self, answered: bool, now: Now) {
        if answered {
            self.failed = 0;
            self.ask_by = None;
        } else if let Some(pause) = [5, 10, 20].get(self.failed) {
            self.failed += 1;
            self.ask_by = Some(now.boot + *pause * SECOND);
        }
    }

    pub(super) fn lost_connection(&mut self, now: Now) {
        if self.confirmed {
            self.vouched_until = self.vouched_until.max(now.boot + 10 * SECOND);
        }
        self.confirmed = false;
        self.surely_confirmed = false;
        self.confirmation_waits = false;
        self.subscribe_sent = false;
        self.unheard = None;
        self.deaf = false;
        self.overtake();
        self.connection += 1;
    }

    /// The record of a reset camera says so.
    pub(super) fn check_reset(&self) {
        assert!(self.reset && self.chain.is_empty(), "a reset camera does not know that it was reset");
    }

    pub(super) fn missing(&mut self, now: Now) {
        self.answered(true, now);
        let first = self.silence.map_or(now.boot, |(first, _)| first);
        self.silence = Some((first, now.boot));
    }

    pub(super) fn refused(&mut self, in_force: Option<Digest>, now: Now) {
        let paid = |accepted: &Accepted| if accepted.next_done { accepted.doc.next_paid } else { accepted.doc.paid };
        let on_record = self.chain.iter().find(|accepted| Some(accepted.doc.digest) == in_force);
        // A refusal that may still last is not started anew; if it has ended, this one lasts for its own time.
        let in_doubt = now.boot < self.doubt_until;
        if in_doubt {
            self.doubt_until = self.doubt_until.max(now.boot + 1000 * SECOND);
        }
        let written = self.chain.iter().all(|accepted| accepted.durable);
        if !written {
            self.refused_in_writing = Some(now.boot);
        }
        let begins = self.refusal.is_none() && !in_doubt;
        if begins && on_record.is_some_and(|accepted| paid(accepted) && !self.lease_ended(accepted, now)) {
            // While a document is being written, the earlier refusal continues.
            let older = self.refused_before.take().filter(|older| !written && now.boot < older.at + 900 * SECOND);
            self.refusal = Some(older.unwrap_or(Refusal { at: now.boot, confirmed: None }));
        }
    }

    pub(super) fn hear(&mut self, doc: &Rc<Doc>, voice: Voice, delivery: Option<u64>, now: Now) -> Verdict {
        self.time(now);
        self.silence = None;
        self.moved = false;
        if voice == Voice::Https {
            self.answered(true, now);
        } else {
            self.unheard = None;
            if std::mem::take(&mut self.deaf) {
                self.overtake();
            }
        }
        if !(self.lost && voice != Voice::Https) && doc.needs_version > self.keyset {
            let copy = Copy { voice, connection: self.connection, delivery, fresh: true };
            match self.waiting.as_mut().filter(|waiting| waiting.doc.token == doc.token) {
                Some(waiting) => waiting.copies.push(copy),
                None => {
                    self.give_up_waiting();
                    self.waiting = Some(Waiting { doc: doc.clone(), copies: vec![copy], until: now.boot + 30 * SECOND });
                }
            }
            self.note(delivery, Verdict::Waiting, doc.position);
            return Verdict::Waiting;
        }
        let verdict = self.judge(doc, voice, self.connection, true, delivery, now);
        if self.subscribe_sent && !self.deaf && self.confirms(voice, self.connection, verdict) {
            let applied = self.chain.iter().all(|accepted| accepted.durable);
            self.surely_confirmed |= applied;
            self.confirmation_waits = !applied;
        }
        verdict
    }

    fn judge(&mut self, doc: &Rc<Doc>, voice: Voice, connection: u64, fresh: bool, delivery: Option<u64>, now: Now) -> Verdict {
        let verdict = self.verdict(doc, voice, now);
        self.note(delivery, verdict, doc.position);
        if verdict == Verdict::Applied {
            self.accept(doc, now);
        }
        if fresh && self.confirms(voice, connection, verdict) {
            self.confirm(now);
        }
        verdict
    }

    fn confirms(&self, voice: Voice, connection: u64, verdict: Verdict) -> bool {
        let this_connection = self.subscribe_sent && connection == self.connection;
        let heard = match voice {
            Voice::Copy { confirms } | Voice::Answer { confirms } => confirms && this_connection,
            Voice::Https => true,
        };
        heard && matches!(verdict, Verdict::Applied | Verdict::Duplicate)
    }

    fn verdict(&mut self, doc: &Rc<Doc>, voice: Voice, now: Now) -> Verdict {
        if (self.lost && voice != Voice::Https) || !doc.good {
            return Verdict::Refused;
        }
        if self.reset && doc.position.epoch == self.ratchet.epoch {
            // Regardless of its seq: the camera may have been sold.
            return Verdict::Refused;
        }
        let newest = self.chain.last().map(|accepted| &accepted.doc);
        let same = |position, digest| position == doc.position && digest == Some(doc.digest);
        if same(self.ratchet, self.digest) || newest.is_some_and(|newest| same(newest.position, Some(newest.digest))) {
            return Verdict::Duplicate;
        }
        let issued = Duration::from_secs(doc.iat);
        self.moved |= issued > now.trusted;
        self.verified = self.verified.max(issued);
        let other_owner = newest.is_some_and(|newest| newest.position.epoch == doc.position.epoch && newest.account != doc.account);
        if (self.lost || doc.position > self.ratchet) && !other_owner { Verdict::Applied } else { Verdict::Refused }
    }

    fn accept(&mut self, doc: &Rc<Doc>, now: Now) {
        if let Some(newest) = self.chain.last_mut() {
            newest.superseded = Some(policy(newest));
            self.least = both(self.least, both(newest.doc.policy, policy(newest)));
        }
        let trusted = self.trusted(now);
        let late = trusted.saturating_sub(Duration::from_secs(doc.iat));
        self.reset = false;
        let next_done = doc.next.is_some_and(|(at, _)| trusted.as_secs() >= at);
        self.chain.push(Accepted {
            doc: doc.clone(),
            durable: false,
            next_durable: next_done,
            failed: false,
            handed: None,
            used: late,
            marked: now.boot,
            late,
            next_done,
            superseded: None,
        });
        self.ratchet = doc.position;
        self.digest = Some(doc.digest);
        self.lost = false;
        if let Some(refusal) = self.refusal.take() {
            self.refused_before = Some(refusal);
        }
        self.confirmation_waits = false;
    }

    fn confirm(&mut self, now: Now) {
        if self.subscribe_sent && !self.deaf {
            self.confirmed = true;
        } else {
            self.vouched_until = self.vouched_until.max(now.boot + 90 * SECOND);
        }
        if let Some(refusal) = &mut self.refusal {
            refusal.confirmed.get_or_insert(now.boot);
        }
    }

    fn note(&mut self, delivery: Option<u64>, verdict: Verdict, position: Position) {
        if let Some(delivery) = delivery {
            // A reset has lowered the ratchet below it: later documents may be lower, and a PUBACK promises no more
            // than that.
            let is_above = verdict == Verdict::Duplicate && position > self.ratchet;
            let verdict = if is_above { Verdict::Refused } else { verdict };
            self.verdicts.insert(delivery, (verdict, position, self.reset_id));
        }
    }

    fn give_up_waiting(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        for copy in waiting.copies {
            self.note(copy.delivery, Verdict::Refused, waiting.doc.position);
        }
    }

    pub(super) fn keyset(&mut self, keyset: &Keyset, now: Now) {
        self.time(now);
        let mut now = now;
        if Duration::from_secs(keyset.iat) > CERTIFICATES_END {
            return;
        }
        if keyset.version > self.keyset {
            self.keyset = keyset.version;
            self.verified = self.verified.max(Duration::from_secs(keyset.iat));
            let known = self.reset_id;
            for reset in keyset.resets.iter().filter(|reset| reset.id > known) {
                self.reset_id = reset.id;
                let to = Position { epoch: reset.epoch, seq: reset.seq };
                if let Some(time) = reset.time.filter(|_| !self.lost) {
                    self.lower(self.trusted(now), Duration::from_secs(time.max(T0)));
                    self.doubted = None;
                    now.trusted = self.verified;
                }
                if !self.lost && to < self.ratchet {
                    self.ratchet = to;
                    self.digest = None;
                }
            }
        }
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.doc.needs_version <= self.keyset) {
            self.known.extend(waiting.copies.into_iter().map(|copy| (waiting.doc.clone(), copy)));
        }
    }

    /// The next document whose key has become known.
    pub(super) fn judge_known(&mut self, now: Now) {
        self.time(now);
        if let Some((doc, Copy { voice, connection, delivery, fresh })) = self.known.pop_front() {
            self.judge(&doc, voice, connection, fresh, delivery, now);
        }
    }

    // --- flash ---

    pub(super) fn persisting(&mut self, ticket: u64, now: Now) {
        self.persisted = now.boot;
        if let Some(newest) = self.chain.last_mut() {
            newest.handed.get_or_insert(now.boot);
        }
        let trusted = now.trusted;
        let snapshot = self.chain.last().map_or(Snapshot { trusted, ..Snapshot::default() }, |newest| Snapshot {
            trusted,
            position: newest.doc.position,
            digest: Some(newest.doc.digest),
            used: newest.used + now.boot.saturating_sub(newest.marked),
            next_done: newest.next_done,
        });
        self.snapshots.insert(ticket, snapshot);
    }

    /// Writing has failed for everything that is not on flash yet.
    pub(super) fn write_failed(&mut self) {
        self.chain.iter_mut().filter(|accepted| !accepted.durable).for_each(|accepted| accepted.failed = true);
    }

    /// The flash has a record, whether or not the engine knows.
    pub(super) fn on_flash(&mut self, ticket: u64, record: &[u8]) {
        let after = Flash::read(record);
        if let Some(before) = &self.flash {
            assert!(after.ratchet >= before.ratchet || after.reset_id > before.reset_id, "the ratchet went back: {before:?} {after:?}");
        }
        self.on_flash = self.snapshots[&ticket];
        let (written, was) = (after.trusted_s, self.on_flash.trusted.as_secs());
        assert!(written <= was && was <= written + 600, "at {was} the persisted time is {written}");
        self.flash = Some(after);
    }

    /// The engine learns of it.
    pub(super) fn written(&mut self, ticket: u64, record: &[u8]) {
        let (snapshot, after) = (self.snapshots[&ticket], Flash::read(record));
        let newest = self.chain.iter().rposition(|accepted| Some(accepted.doc.digest) == snapshot.digest);
        if let Some(newest) = newest {
            // A higher document was accepted before the engine learned of this; the document in force stays until
            // that one is written.
            let is_passed_over = newest + 1 < self.chain.len();
            if newest > 0 && !is_passed_over {
                // The refusal may concern the previous document or this one.
                if let Some(refusal) = self.refusal.take() {
                    self.doubt_until = refusal.at + 1000 * SECOND;
                }
                if let Some(at) = self.refused_in_writing.take() {
                    self.doubt_until = self.doubt_until.max(at + 1000 * SECOND);
                }
                self.chain.drain(..newest);
            }
            let written = self.chain.iter_mut().find(|accepted| Some(accepted.doc.digest) == snapshot.digest).expect("it was just found");
            written.durable = true;
            written.next_durable |= snapshot.next_done;
            assert_eq!(after.entitlement.as_deref(), Some(written.doc.token.as_str()), "another document is written");
        }
        let applied = self.chain.iter().all(|accepted| accepted.durable);
        if applied {
            self.least = FREE;
        }
        self.surely_confirmed |= applied && std::mem::take(&mut self.confirmation_waits);
    }

    pub(super) fn boot(&mut self, record: Option<&[u8]>, docs: &[Rc<Doc>], unreadable: bool, now: Now) {
        let on_flash = self.on_flash;
        *self = Self { lost: unreadable, on_flash, ..Self::new(now) };
        let flash = record.map(Flash::read);
        let built = T0.max(flash.as_ref().map_or(0, |flash| flash.trusted_s));
        assert_eq!(now.trusted, Duration::from_secs(built), "time begins at the later of build time and record");
        let Some(flash) = flash else { return };
        self.flash = Some(flash.clone());
        self.keyset = flash.keyset.as_deref().map_or(0, version);
        self.reset_id = flash.reset_id;
        self.reset = flash.factory_reset.is_some();
        self.ratchet = flash.ratchet;
        self.digest = flash.ratchet_digest.map(|digest| Digest::try_from(digest).unwrap());
        if let Some(token) = flash.entitlement {
            assert!(on_flash.used.as_secs() <= flash.lease_used_s, "the lease grew: {} {:?}", flash.lease_used_s, on_flash.used);
            self.chain.push(Accepted {
                doc: docs.iter().find(|doc| doc.token == token).expect("a document that was never issued is on flash").clone(),
                durable: true,
                next_durable: on_flash.next_done,
                failed: false,
                handed: Some(now.boot),
                used: Duration::from_secs(flash.lease_used_s),
                marked: now.boot,
                late: Duration::from_secs(flash.lease_late_s),
                next_done: on_flash.next_done,
                superseded: None,
            });
        }
        self.time(now);
    }

    // --- checks ---

    /// The most that may leave under the most generous reading of each rule (invariant 3).
    fn most(&self, in_force: Option<Digest>, now: Now) -> Policy {
        let Some(ruling) = self.ruling(in_force) else {
            assert_eq!(in_force, None, "the document in force was never accepted");
            return CLOSED;
        };
        let mut most = open_policy(ruling);
        for accepted in &self.chain {
            // A document that is not on flash yet opens nothing, and closes what it forbids.
            most = both(most, accepted.superseded.unwrap_or_else(|| open_policy(accepted)));
            let newest = accepted.superseded.is_none();
            let rules = accepted.doc.digest == ruling.doc.digest || newest && !accepted.durable && !accepted.failed;
            if rules && (self.is_held(accepted, now) || self.lease_ended(accepted, now)) {
                most = both(most, FREE);
            }
        }
        most
    }

    fn ruling(&self, in_force: Option<Digest>) -> Option<&Accepted> {
        self.chain.iter().rfind(|accepted| Some(accepted.doc.digest) == in_force)
    }

    /// Whether `leave` stays within that.
    pub(super) fn check_gate(&self, leave: &Policy, in_force: Option<Digest>, now: Now) {
        let most = self.most(in_force, now);
        assert!(!takes(&most, leave), "{leave:?} is more than {most:?}, in force {in_force:?}");
    }

    /// Checks that all paid media may leave once there is no reason to wait: the owner loses nothing (invariant 4).
    pub(super) fn check_given(&self, leave: &Policy, now: Now) {
        let [only] = &self.chain[..] else { return };
        let good =
            only.durable && self.surely_confirmed && self.refusal.is_none() && now.boot >= self.doubt_until && !self.lease_ended(only, now);
        let good = good && only.next_done == only.next_durable;
        if good && (only.doc.next.is_none() || only.next_done || self.clock_confirmed) {
            assert_eq!(*leave, policy(only), "what {} grants is not open", only.doc.position);
        }
    }

    /// Whether media that Free and both plans allow may leave after the flash has not answered for ten seconds.
    pub(super) fn check_hung(&self, leave: &Policy, now: Now) {
        let waits = self.chain.iter().any(|accepted| !accepted.durable || accepted.next_done != accepted.next_durable);
        if !waits || !self.chain.first().is_some_and(|oldest| oldest.durable) || now.boot < self.persisted + 10 * SECOND {
            return;
        }
        let plans = self.chain.iter().flat_map(|accepted| [accepted.doc.policy].into_iter().chain(accepted.doc.next.map(|next| next.1)));
        let least = plans.fold(self.least, both);
        assert!(!takes(leave, &least), "{leave:?} is less than {least:?}, and the flash does not answer");
    }

    /// Checks that a failed request is repeated soon, unless the connection receives messages.
    pub(super) fn check_asked(&self, connected: bool, now: Now) {
        if self.lost || (connected && !self.deaf) {
            return;
        }
        assert!(self.ask_by.is_none_or(|by| now.boot <= by), "HTTPS was to be asked by {:?}, at {now:?}", self.ask_by);
    }

    /// A byte of `clip` leaves, possibly its first (invariant 3).
    pub(super) fn check_byte(&self, clip: &Clip, first: bool, in_force: Option<Digest>, now: Now) {
        let most = self.most(in_force, now);
        assert!(fits(clip, &most), "a byte of {clip:?} leaves, and no more than {most:?} may");
        let epoch = self.ruling(in_force).map(|ruling| ruling.doc.position.epoch);
        assert_eq!(Some(clip.epoch), epoch, "a byte of another owner's clip leaves");
        let age = now.boot - clip.started;
        assert!(!first || age.as_secs() <= u64::from(most.history_h) * 3600, "a clip that is too old leaves: {clip:?} {most:?}");
    }

    /// A clip is kept; the document in force must allow that.
    pub(super) fn check_kept(&self, clip: &Clip, epoch: u64, in_force: Option<Digest>) {
        assert_eq!(clip.epoch, epoch, "a clip of another owner is kept");
        if let Some(ruling) = self.ruling(in_force) {
            assert!(fits(clip, &policy(ruling)), "{clip:?} is kept under {:?}", policy(ruling));
        }
    }

    /// If no write is pending, the newest accepted document is in force (invariant 4).
    pub(super) fn check_newest(&self, in_force: Option<Digest>) {
        let newest = self.chain.last().map(|newest| newest.doc.digest);
        assert_eq!(in_force, newest, "the newest document is not in force");
    }

    pub(super) fn keyset_version(&self) -> u64 {
        self.keyset
    }

    // --- clock ---

    /// An HTTPS answer from this moment carries `date`; trusted time was `before` and is `after`.
    pub(super) fn date(&mut self, date: Duration, readings: Readings, before: Now, after: Now) {
        let (was, is) = (before.trusted, after.trusted);
        let near = |a: Duration, b: Duration| a.abs_diff(b) <= TEN_MINUTES;
        // The answer is made within a second of the date.
        let (lowered, raised) = (date < was && !near(date + SECOND, was), date > was);
        let far_ahead = date > was + DAY && date > readings.system + DAY;
        if lowered || far_ahead {
            let second = self.doubted.filter(|(first, _)| near(*first, date));
            match second {
                Some((_, at)) if after.boot >= at + 60 * SECOND => self.doubted = None,
                Some(_) => {
                    assert_eq!(was, is, "a second answer counts a minute after the first");
                    return;
                }
                None => {
                    assert_eq!(was, is, "one answer moves the time far");
                    self.doubted = Some((date, after.boot));
                    return;
                }
            }
        }
        self.doubted = None;
        let to = if raised {
            date.min(if far_ahead { CERTIFICATES_END - DAY } else { CERTIFICATES_END }).max(was)
        } else {
            date.max(Duration::from_secs(T0))
        };
        // A system clock within ten minutes may raise it; a date has a resolution of one second.
        let most = to.max(readings.system.min(to + TEN_MINUTES)) + SECOND;
        assert!((to..=most).contains(&is), "{date:?} set {was:?} to {is:?}, and not to {to:?}");
        if is < was {
            self.lower(was, is);
        }
        self.verified = if raised { self.verified.max(to) } else { self.verified.min(is).max(to) };
        if near(is, date) {
            self.dated = Some(date);
        }
        self.clock_confirmed = after.confirmed;
        self.check_confirmed(after);
        self.last = after;
    }

    /// A correction or reset of trusted time: it may decrease, and of a lease only the time since receipt stays
    /// used.
    fn lower(&mut self, from: Duration, to: Duration) {
        self.verified = to;
        self.last.trusted = Duration::ZERO;
        let back = from.saturating_sub(to);
        if back > TEN_MINUTES {
            for accepted in &mut self.chain {
                let less = back.min(accepted.late);
                accepted.late -= less;
                accepted.used -= less;
            }
        }
    }

    fn check_confirmed(&self, now: Now) {
        let apart = self.dated.map(|dated| dated.abs_diff(now.trusted));
        let sure = apart.is_some_and(|apart| apart + 2 * SECOND < TEN_MINUTES);
        let possible = apart.is_some_and(|apart| apart <= TEN_MINUTES + 2 * SECOND);
        assert!(now.confirmed || !sure, "a Date agrees and does not confirm {now:?}");
        assert!(!now.confirmed || possible, "nothing has confirmed {now:?}");
    }

    /// Trusted time never decreases without a correction, is never behind verified time, and the system clock never
    /// moves it ten minutes beyond that.
    pub(super) fn check_clock(&mut self, now: Now) {
        let ran = now.boot.saturating_sub(self.last.boot);
        assert!(now.trusted >= self.last.trusted + ran || self.last.trusted.is_zero(), "time went back: {:?} {now:?}", self.last);
        assert!(now.trusted >= self.verified, "{now:?} is behind {:?}", self.verified);
        assert!(now.trusted <= self.verified + TEN_MINUTES, "{now:?} is beyond {:?}", self.verified);
        assert!(now.trusted >= Duration::from_secs(T0), "{now:?} is before the build time");
        self.check_confirmed(now);
        self.clock_confirmed = now.confirmed;
        self.last = now;
    }

    fn is_held(&self, ruling: &Accepted, now: Now) -> bool {
        let vouched = self.confirmed || now.boot < self.vouched_until;
        let pending = ruling.doc.next.is_some() && !ruling.next_done;
        !vouched || self.refusal.is_some() || (pending && !self.clock_confirmed)
    }

    fn lease_ended(&self, accepted: &Accepted, now: Now) -> bool {
        let used = accepted.used + now.boot.saturating_sub(accepted.marked);
        used.as_secs() >= accepted.doc.max_age_s || self.trusted(now).as_secs() >= accepted.doc.not_after
    }

    /// A cut erases only by a document's own policy, never because of a lease or a missing confirmation.
    pub(super) fn check_erasure(&self, keep: Policy, position: Position, now: Now) {
        // After a reset, two documents may have the same position.
        let by = |accepted: &Accepted| accepted.doc.position == position && policy(accepted) == keep;
        assert!(self.chain.iter().any(by), "{keep:?} erases, which no document at {position} says, at {now:?}");
    }

    /// A PUBACK means that this document or a higher one survives a crash, or that it was refused (invariant 1).
    pub(super) fn check_puback(&self, delivery: u64) {
        let Some((verdict, position, reset_id)) = self.verdicts.get(&delivery) else { return };
        match verdict {
            Verdict::Refused => {}
            Verdict::Waiting => panic!("acknowledged before it was judged"),
            Verdict::Applied | Verdict::Duplicate => {
                let flash = self.flash.as_ref().expect("something is on flash");
                // A reset may have lowered the ratchet below it since.
                let reset = flash.reset_id > *reset_id || *position > self.ratchet;
                assert!(reset || self.covers(flash, *position), "{position} would be lost: {flash:?}");
            }
        }
    }

    pub(super) fn check_report(&self, report: &Report) {
        let position = Position { epoch: report.epoch, seq: report.seq };
        if report.outcome == Outcome::Applied && report.persisted && report.cause == Cause::Document && position != Position::NONE {
            let flash = self.flash.as_ref().expect("something is on flash");
            assert!(flash.reset_id > 0 || self.covers(flash, position), "reported too early: {report:?} {flash:?}");
        }
    }

    /// After a reset, the document in force may be above the ratchet.
    fn covers(&self, flash: &Flash, position: Position) -> bool {
        flash.ratchet >= position || (flash.entitlement.is_some() && self.on_flash.position >= position)
    }
}

/// What a document allows by itself.
fn policy(accepted: &Accepted) -> Policy {
    accepted.doc.next.filter(|_| accepted.next_done).map_or(accepted.doc.policy, |(_, policy)| policy)
}

/// The part of it that may be open: a `next` that grants opens once it is on flash, one that restricts closes at
/// once.
fn open_policy(accepted: &Accepted) -> Policy {
    let next = policy(accepted);
    if accepted.next_done && !accepted.next_durable { both(accepted.doc.policy, next) } else { next }
}

/// Whether a policy allows a clip, apart from its age and the cooldown before it.
fn fits(clip: &Clip, policy: &Policy) -> bool {
    let kind = match clip.kind {
        ClipKind::Snapshot => policy.snapshots,
        ClipKind::Motion | ClipKind::Manual => policy.clips && clip.long.as_secs() <= u64::from(policy.clip_max_s),
    };
    kind && clip.height <= policy.max_height && policy.history_h > 0
}

/// The fields of a record on flash that the oracle checks.
#[derive(Debug, Clone, Deserialize)]
struct Flash {
    ratchet: Position,
    ratchet_digest: Option<String>,
    entitlement: Option<String>,
    keyset: Option<String>,
    reset_id: u64,
    factory_reset: Option<String>,
    lease_used_s: u64,
    lease_late_s: u64,
    trusted_s: u64,
}

impl Flash {
    fn read(record: &[u8]) -> Self {
        serde_json::from_slice(record).expect("a record is JSON")
    }
}

fn version(keyset: &str) -> u64 {
    let payload = URL_SAFE_NO_PAD.decode(keyset.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()["version"].as_u64().unwrap()
}
