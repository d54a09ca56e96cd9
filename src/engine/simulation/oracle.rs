//! What sections 3 and 4 say of a history, reckoned without the engine: verdicts, and upper bounds for what may leave.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_protocol::{Cause, Digest, Keyset, Outcome, Policy, Position, Report};
use serde_json::Value;

use super::paper::{CLOSED, Doc, FREE, both, takes};
use crate::clock::Now;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Applied,
    Duplicate,
    /// Stale, a conflict or rejected.
    Refused,
    /// Its key is not known yet.
    Waiting,
}

/// How a document came, and whether that way confirms (section 3.4), SUBSCRIBE aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    Copy { confirms: bool },
    Answer { confirms: bool },
    Https,
    Keyset,
}

/// A document that was accepted.
struct Accepted {
    doc: Rc<Doc>,
    durable: bool,
    /// How much of `max_age_s` was used at this BOOTTIME.
    used: Duration,
    marked: Duration,
    next_done: bool,
    /// What it allowed when a higher one came.
    superseded: Option<Policy>,
}

/// What a record was made from.
#[derive(Clone, Copy, Default)]
struct Snapshot {
    position: Position,
    used: Duration,
    next_done: bool,
}

struct Refusal {
    at: Duration,
    confirmed: Option<Duration>,
}

struct Waiting {
    doc: Rc<Doc>,
    copies: Vec<(Voice, u64, Option<u64>)>,
    until: Duration,
}

pub(super) struct Oracle {
    keyset: u64,
    reset_id: u64,
    lost: bool,
    ratchet: Position,
    digest: Option<Digest>,
    /// The newest document on flash, then those that are accepted and not on flash yet.
    chain: Vec<Accepted>,
    snapshots: BTreeMap<u64, Snapshot>,
    on_flash: Snapshot,
    verdicts: BTreeMap<u64, (Verdict, Position, u64)>,
    waiting: Option<Waiting>,
    connection: u64,
    subscribe_sent: bool,
    confirmed: bool,
    vouched_until: Duration,
    /// The first and the last 404 since anybody spoke.
    silence: Option<(Duration, Duration)>,
    refusal: Option<Refusal>,
    issued: Duration,
    moved: bool,
}

impl Oracle {
    pub(super) fn new(now: Now) -> Self {
        Self {
            keyset: 0,
            reset_id: 0,
            lost: false,
            ratchet: Position::NONE,
            digest: None,
            chain: vec![],
            snapshots: BTreeMap::new(),
            on_flash: Snapshot::default(),
            verdicts: BTreeMap::new(),
            waiting: None,
            connection: 0,
            subscribe_sent: false,
            confirmed: false,
            vouched_until: now.boot,
            silence: None,
            refusal: None,
            issued: Duration::ZERO,
            moved: false,
        }
    }

    pub(super) fn ratchet(&self) -> Position {
        self.ratchet
    }

    /// Whether the last document brought time forward, so that time itself may have changed something.
    pub(super) fn time_has_moved(&self) -> bool {
        self.moved
    }

    fn trusted(&self, now: Now) -> Duration {
        now.trusted.max(self.issued)
    }

    // --- what happens ---

    pub(super) fn time(&mut self, now: Now) {
        let trusted = self.trusted(now);
        for accepted in &mut self.chain {
            accepted.next_done |= accepted.doc.next.is_some_and(|(at, _)| trusted.as_secs() >= at);
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
        self.refusal = self.refusal.take().filter(|refusal| !over(refusal));
    }

    pub(super) fn subscribe_sent(&mut self) {
        self.subscribe_sent = true;
    }

    pub(super) fn lost_connection(&mut self, now: Now) {
        if self.confirmed {
            self.vouched_until = self.vouched_until.max(now.boot + 10 * SECOND);
        }
        self.confirmed = false;
        self.subscribe_sent = false;
        self.connection += 1;
    }

    pub(super) fn missing(&mut self, now: Now) {
        let first = self.silence.map_or(now.boot, |(first, _)| first);
        self.silence = Some((first, now.boot));
    }

    pub(super) fn refused(&mut self, in_force: Position, now: Now) {
        let paid = |accepted: &Accepted| if accepted.next_done { accepted.doc.next_paid } else { accepted.doc.paid };
        let on_record = self.chain.iter().find(|accepted| accepted.doc.position == in_force);
        if self.refusal.is_none() && on_record.is_some_and(|accepted| paid(accepted) && !self.lease_ended(accepted, now)) {
            self.refusal = Some(Refusal { at: now.boot, confirmed: None });
        }
    }

    pub(super) fn hear(&mut self, doc: &Rc<Doc>, voice: Voice, delivery: Option<u64>, now: Now) -> Verdict {
        self.time(now);
        self.silence = None;
        self.moved = false;
        if !(self.lost && voice != Voice::Https) && doc.needs_version > self.keyset {
            let copy = (voice, self.connection, delivery);
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
        self.judge(doc, voice, self.connection, delivery, now)
    }

    fn judge(&mut self, doc: &Rc<Doc>, voice: Voice, connection: u64, delivery: Option<u64>, now: Now) -> Verdict {
        let verdict = self.verdict(doc, voice, now);
        self.note(delivery, verdict, doc.position);
        if verdict == Verdict::Applied {
            self.accept(doc, now);
        }
        let this_connection = self.subscribe_sent && connection == self.connection;
        let confirms = match voice {
            Voice::Copy { confirms } | Voice::Answer { confirms } => confirms && this_connection,
            Voice::Https => true,
            Voice::Keyset => false,
        };
        if confirms && matches!(verdict, Verdict::Applied | Verdict::Duplicate) {
            self.confirm(now);
        }
        verdict
    }

    fn verdict(&mut self, doc: &Rc<Doc>, voice: Voice, now: Now) -> Verdict {
        if (self.lost && voice != Voice::Https) || !doc.good {
            return Verdict::Refused;
        }
        let issued = Duration::from_secs(doc.iat);
        self.moved |= issued > now.trusted;
        self.issued = self.issued.max(issued);
        let newest = self.chain.last().map(|accepted| &accepted.doc);
        let same = |position, digest| position == doc.position && digest == Some(doc.digest);
        if same(self.ratchet, self.digest) || newest.is_some_and(|newest| same(newest.position, Some(newest.digest))) {
            return Verdict::Duplicate;
        }
        let other_owner = newest.is_some_and(|newest| newest.position.epoch == doc.position.epoch && newest.account != doc.account);
        if (self.lost || doc.position > self.ratchet) && !other_owner { Verdict::Applied } else { Verdict::Refused }
    }

    fn accept(&mut self, doc: &Rc<Doc>, now: Now) {
        if let Some(newest) = self.chain.last_mut() {
            newest.superseded = Some(policy(newest));
        }
        let trusted = self.trusted(now);
        self.chain.push(Accepted {
            doc: doc.clone(),
            durable: false,
            used: trusted.saturating_sub(Duration::from_secs(doc.iat)),
            marked: now.boot,
            next_done: doc.next.is_some_and(|(at, _)| trusted.as_secs() >= at),
            superseded: None,
        });
        self.ratchet = doc.position;
        self.digest = Some(doc.digest);
        self.lost = false;
        self.refusal = None;
    }

    fn confirm(&mut self, now: Now) {
        if self.subscribe_sent {
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
            self.verdicts.insert(delivery, (verdict, position, self.reset_id));
        }
    }

    fn give_up_waiting(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        for (_, _, delivery) in waiting.copies {
            self.note(delivery, Verdict::Refused, waiting.doc.position);
        }
    }

    pub(super) fn keyset(&mut self, keyset: &Keyset, now: Now) {
        self.time(now);
        if keyset.version > self.keyset {
            self.keyset = keyset.version;
            let known = self.reset_id;
            for reset in keyset.resets.iter().filter(|reset| reset.id > known) {
                self.reset_id = reset.id;
                let to = Position { epoch: reset.epoch, seq: reset.seq };
                if !self.lost && to < self.ratchet {
                    self.ratchet = to;
                    self.digest = None;
                }
            }
        }
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.doc.needs_version <= self.keyset) {
            for (voice, connection, delivery) in waiting.copies {
                self.judge(&waiting.doc, voice, connection, delivery, now);
            }
        }
    }

    // --- flash ---

    pub(super) fn persisting(&mut self, ticket: u64, now: Now) {
        let snapshot = self.chain.last().map_or(Snapshot::default(), |newest| Snapshot {
            position: newest.doc.position,
            used: newest.used + now.boot.saturating_sub(newest.marked),
            next_done: newest.next_done,
        });
        self.snapshots.insert(ticket, snapshot);
    }

    pub(super) fn written(&mut self, ticket: u64, before: Option<&[u8]>, after: &[u8]) {
        let after = Flash::read(after);
        if let Some(before) = before.map(Flash::read) {
            assert!(after.ratchet >= before.ratchet || after.reset_id > before.reset_id, "the ratchet went back: {before:?} {after:?}");
        }
        self.on_flash = self.snapshots[&ticket];
        let newest = self.chain.iter().rposition(|accepted| accepted.doc.position == self.on_flash.position);
        if let Some(newest) = newest {
            self.chain.drain(..newest);
            self.chain[0].durable = true;
            assert_eq!(after.token.as_deref(), Some(self.chain[0].doc.token.as_str()), "another document is written");
        }
    }

    pub(super) fn boot(&mut self, record: Option<&[u8]>, docs: &BTreeMap<&str, &Rc<Doc>>, unreadable: bool, now: Now) {
        let on_flash = self.on_flash;
        *self = Self { lost: unreadable, on_flash, ..Self::new(now) };
        let Some(flash) = record.map(Flash::read) else { return };
        self.keyset = flash.keyset;
        self.reset_id = flash.reset_id;
        self.ratchet = flash.ratchet;
        self.digest = flash.digest.map(|digest| Digest::try_from(digest).unwrap());
        if let Some(token) = flash.token {
            assert!(on_flash.used.as_secs() <= flash.lease_used_s, "the lease grew: {} {:?}", flash.lease_used_s, on_flash.used);
            self.chain.push(Accepted {
                doc: docs[token.as_str()].clone(),
                durable: true,
                used: Duration::from_secs(flash.lease_used_s),
                marked: now.boot,
                next_done: on_flash.next_done,
                superseded: None,
            });
        }
        self.time(now);
    }

    // --- what is checked ---

    /// Whether `leave` is no more than what the rules let out, each at its most generous (invariant 3).
    pub(super) fn check_gate(&self, leave: &Policy, in_force: Position, now: Now) {
        let Some(ruling) = self.chain.iter().rfind(|accepted| accepted.doc.position == in_force) else {
            assert_eq!(in_force, Position::NONE, "in force was never accepted");
            assert!(!takes(&CLOSED, leave), "nothing known, nothing leaves: {leave:?}");
            return;
        };
        let mut most = policy(ruling);
        for accepted in &self.chain {
            // What is not on flash yet opens nothing, and what it forbids is closed.
            most = both(most, accepted.superseded.unwrap_or_else(|| policy(accepted)));
        }
        let held = self.is_held(ruling, now);
        if held || self.lease_ended(ruling, now) {
            most = both(most, FREE);
        }
        assert!(!takes(&most, leave), "{leave:?} is more than {most:?}; held: {held}, in force {in_force}");
    }

    fn is_held(&self, ruling: &Accepted, now: Now) -> bool {
        let vouched = self.confirmed || now.boot < self.vouched_until;
        let pending = ruling.doc.next.is_some() && !ruling.next_done;
        !vouched || self.refusal.is_some() || (pending && !now.confirmed)
    }

    fn lease_ended(&self, accepted: &Accepted, now: Now) -> bool {
        let used = accepted.used + now.boot.saturating_sub(accepted.marked);
        used.as_secs() >= accepted.doc.max_age_s || self.trusted(now).as_secs() >= accepted.doc.not_after
    }

    /// A cut erases only by a document's own policy, never for a lease or for want of confirmation.
    pub(super) fn check_erasure(&self, keep: Policy, position: Position, now: Now) {
        let by = self.chain.iter().rfind(|accepted| accepted.doc.position == position).expect("erases by a document");
        assert_eq!(keep, policy(by), "at {now:?}");
    }

    /// PUBACK means: this document or a higher one survives a crash, or it was refused (invariant 1).
    pub(super) fn check_puback(&self, delivery: u64, flash: Option<&[u8]>) {
        let Some((verdict, position, reset_id)) = self.verdicts.get(&delivery) else { return };
        match verdict {
            Verdict::Refused => {}
            Verdict::Waiting => panic!("acknowledged before it was judged"),
            Verdict::Applied | Verdict::Duplicate => {
                let flash = flash.map(Flash::read).expect("something is on flash");
                // A reset may have taken the ratchet back below it since.
                let reset = flash.reset_id > *reset_id || *position > self.ratchet;
                assert!(reset || self.covers(&flash, *position), "{position} would be lost: {flash:?}");
            }
        }
    }

    pub(super) fn check_report(&self, report: &Report, flash: Option<&[u8]>) {
        let position = Position { epoch: report.epoch, seq: report.seq };
        if report.outcome == Outcome::Applied && report.persisted && report.cause == Cause::Document && position != Position::NONE {
            let flash = flash.map(Flash::read).expect("something is on flash");
            assert!(flash.reset_id > 0 || self.covers(&flash, position), "reported too early: {report:?} {flash:?}");
        }
    }

    /// After a reset the document in force may stand above the ratchet.
    fn covers(&self, flash: &Flash, position: Position) -> bool {
        flash.ratchet >= position || (flash.token.is_some() && self.on_flash.position >= position)
    }
}

/// What a document allows by itself.
fn policy(accepted: &Accepted) -> Policy {
    accepted.doc.next.filter(|_| accepted.next_done).map_or(accepted.doc.policy, |(_, policy)| policy)
}

/// A record as it stands on flash.
#[derive(Debug)]
struct Flash {
    ratchet: Position,
    digest: Option<String>,
    token: Option<String>,
    keyset: u64,
    reset_id: u64,
    lease_used_s: u64,
}

impl Flash {
    fn read(record: &[u8]) -> Self {
        let record: Value = serde_json::from_slice(record).unwrap();
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        let version = |token: String| {
            let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
            serde_json::from_slice::<Value>(&payload).unwrap()["version"].as_u64().unwrap()
        };
        Self {
            ratchet: serde_json::from_value(record["ratchet"].clone()).unwrap(),
            digest: text("ratchet_digest"),
            token: text("entitlement"),
            keyset: text("keyset").map_or(0, version),
            reset_id: record["reset_id"].as_u64().unwrap(),
            lease_used_s: record["lease_used_s"].as_u64().unwrap(),
        }
    }
}
