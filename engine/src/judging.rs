//! Judges documents, from bytes to a verdict: `applied`, `duplicate`, `stale`, `conflict` or `rejected`
//! (docs/protocol.md#judgement). This module does not touch the gate; [`super::switch`] does that for an accepted
//! document.

use std::time::Duration;

use care_protocol::{
    Answer, Cause, Digest, Entitlement, Outcome, Position, Reject, Report, Reset, Topic, VerifiedEntitlement, VerifiedKeyset,
};

use super::{
    Arrival, COPIES, Connection, Effect, Engine, Fetched, HOLD, Known, Message, REFUSED_RETRY, Staged, UnknownKey, force::InForce,
    rejections::Way, standing::Via, verifying,
};
use crate::trusted_time::Now;

impl Engine {
    pub(super) fn read(&mut self, message: Message, now: Now) {
        let way = match message.topic {
            Topic::Keyset => Way::KeysetTopic,
            Topic::Entitlement => Way::Topic,
            Topic::Answer => Way::Answer,
        };
        let arrival = Arrival { received: message.received, delivery: message.delivery, way: Some(way), valid_until: message.valid_until };
        match message.topic {
            Topic::Keyset if message.payload.is_empty() => self.acknowledge(arrival),
            Topic::Keyset => self.read_keyset(&message.payload, arrival, now),
            Topic::Entitlement if message.payload.is_empty() => {
                self.acknowledge(arrival);
                self.send_get(now);
            }
            Topic::Entitlement => {
                self.message_arrived(message.connection);
                self.standing.copy_arrived(message.connection);
                let via = Via::Copy { connection: message.connection, retain: message.retain, dup: message.dup };
                self.judge(&message.payload, via, arrival, now);
            }
            Topic::Answer => {
                self.message_arrived(message.connection);
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

    fn message_arrived(&mut self, connection: Connection) {
        if self.standing.message_arrived(connection) {
            // An HTTPS answer meanwhile vouches until a time, not for a connection.
            self.overtake();
        }
    }

    pub(super) fn fetched_entitlement(&mut self, fetched: Fetched, now: Now) {
        self.standing.polled(&fetched, now);
        match fetched {
            Fetched::Found(body) => {
                self.standing.document_arrived();
                let token = body.bytes.trim_ascii();
                self.judge(token, Via::Https, Arrival::fetched(Way::Https, &body, now), now);
            }
            Fetched::Missing => {
                self.standing.missing(now);
                self.settle(Cause::Link, now);
            }
            Fetched::Declined | Fetched::Failed => {}
        }
    }

    pub(super) fn judge(&mut self, token: &[u8], via: Via, arrival: Arrival, now: Now) {
        if self.lost && !via.is_https() {
            return self.reject(&Reject::StateLost, Entitlement::claimed_position(token), arrival, now);
        }
        let keyset = self.keyset.as_ref().map(|verified| &verified.keyset);
        let document = match verifying::entitlement(token, keyset, &self.settings.issuer, &self.settings.device) {
            Ok(document) => document,
            Err(Reject::UnknownKey(kid)) => return self.hold(token, kid, via, arrival, now),
            Err(reject) => return self.reject(&reject, Entitlement::claimed_position(token), arrival, now),
        };
        let position = document.entitlement.position();
        let issued = Duration::from_secs(document.entitlement.iat);
        if let Err(reject) = self.check_range(document.entitlement.iat, arrival) {
            return self.reject(&reject, Some(position), arrival, now);
        }
        if self.factory_reset.is_some() && position.epoch == self.ratchet.epoch {
            // The camera may have a new owner since the reset: the retained copy and a renewal in transit may be the
            // old owner's.
            return self.reject(&Reject::FactoryReset { epoch: position.epoch }, Some(position), arrival, now);
        }
        if self.is_known(position, document.digest) {
            // It raised trusted time on first receipt. Trusted time may have been set back since.
            return self.duplicate(position, &via, arrival, now);
        }
        let now = self.learn_time(issued, now);
        if self.lost || position > self.ratchet {
            if let Err(reject) = self.check_account(&document.entitlement) {
                return self.reject(&reject, Some(position), arrival, now);
            }
            self.accept(document, &via, arrival, now);
        } else if position == self.ratchet && self.ratchet_digest.is_some() {
            self.conflict = Some(position);
            self.effects.push(Effect::Alarm(position));
            self.refuse(Outcome::Conflict, Outcome::Conflict.as_str(), Some(position), arrival, now);
        } else {
            self.refuse(Outcome::Stale, Outcome::Stale.as_str(), Some(position), arrival, now);
        }
    }

    /// Whether this is the document at the ratchet's position, or the one in force after a reset has lowered the
    /// ratchet.
    pub(super) fn is_known(&self, position: Position, digest: Digest) -> bool {
        let at_ratchet = position == self.ratchet && self.ratchet_digest == Some(digest);
        at_ratchet
            || self.newest().is_some_and(|newest| newest.document.digest == digest && newest.document.entitlement.position() == position)
    }

    pub(super) fn check_account(&self, entitlement: &Entitlement) -> Result<(), Reject> {
        match self.newest().map(|newest| &newest.document.entitlement) {
            Some(newest) if newest.epoch == entitlement.epoch && newest.account != entitlement.account => Err(Reject::AccountChanged),
            _ => Ok(()),
        }
    }

    pub(super) fn duplicate(&mut self, position: Position, via: &Via, arrival: Arrival, now: Now) {
        self.acknowledge_once_written(arrival);
        arrival.way.into_iter().for_each(|way| self.rejections.over(way));
        let confirms = self.standing.confirms(via);
        let given = |staged: &&mut Staged| staged.cause == Cause::Document && staged.document.document.entitlement.position() == position;
        if let Some(staged) = self.phase.staged_mut().filter(given) {
            // Not applied yet, and it may never be: the cloud vouches here for this document, not for the one in
            // force.
            staged.confirmed_at = staged.confirmed_at.or(confirms.then_some(now.boot));
            return self.refuse_quietly(Outcome::Duplicate, Outcome::Duplicate.as_str(), Some(position), now);
        }
        if confirms {
            self.confirmed(now.boot, now);
        }
        self.refuse_quietly(Outcome::Duplicate, Outcome::Duplicate.as_str(), Some(position), now);
        if confirms {
            self.settle(Cause::Confirmed, now);
        }
    }

    /// A document has come into force: no grant has been refused under it yet.
    pub(super) fn vouched_for(&mut self, confirmed_at: Option<Duration>, now: Now) {
        self.refused = None;
        if let Some(at) = confirmed_at {
            self.confirmed(at, now);
        }
    }

    /// The cloud named its newest document at this BOOTTIME, and that document is in force.
    pub(super) fn confirmed(&mut self, at: Duration, now: Now) {
        self.standing.confirmed(at);
        if let Some(refused) = self.refused.as_mut().filter(|refused| refused.waiting && !refused.confirmed) {
            refused.confirmed = true;
            refused.retry_at = refused.retry_at.min(now.boot + refused.pause);
            refused.pause = (refused.pause * 2).min(REFUSED_RETRY.1);
        }
    }

    pub(super) fn accept(&mut self, document: VerifiedEntitlement, via: &Via, arrival: Arrival, now: Now) {
        let position = document.entitlement.position();
        self.standing.changed(via, now);
        self.ratchet = position;
        self.ratchet_digest = Some(document.digest);
        self.factory_reset = None;
        self.lost = false;
        self.conflict = None;
        self.rejections.superseded();
        let confirms = self.standing.confirms(via);
        self.take_up(InForce::received(document, now), confirms.then_some(now.boot), arrival, now);
        if !confirms && !self.standing.is_confirmed() {
            self.send_get(now);
        }
    }

    /// A restriction is in force at once, which may begin a cut. A document that grants more waits for the flash.
    pub(super) fn take_up(&mut self, document: InForce, confirmed_at: Option<Duration>, arrival: Arrival, now: Now) {
        let position = Some(document.document.entitlement.position());
        if self.admission_of(Some(&document), now).is_less_than(&self.gate) {
            self.vouched_for(confirmed_at, now);
            self.lease_over = document.lease_ended(now);
            self.force = Some(document);
            self.phase.take_staged_if(|_| true);
            return self.switch(Cause::Document, position, self.gate.leave, arrival, now);
        }
        self.stage(document, Cause::Document, confirmed_at, now);
        let report = self.report_of(self.newest(), Cause::Document, position, now);
        self.promise(Some(&report), now);
        self.acknowledge_once_written(arrival);
    }

    /// It is in force once it is on flash.
    pub(super) fn stage(&mut self, document: InForce, cause: Cause, confirmed_at: Option<Duration>, now: Now) {
        self.phase.stage(Staged { ticket: self.tickets + 1, since: now.boot, cause, document, confirmed_at, failed: false });
    }

    pub(super) fn hold(&mut self, token: &[u8], kid: String, via: Via, arrival: Arrival, now: Now) {
        let again = self.unknown_key.as_mut().filter(|held| held.token == token && held.copies.len() < COPIES);
        match again {
            Some(held) => held.copies.push((via, arrival)),
            None => {
                self.refuse_unknown_key(now);
                self.unknown_key = Some(UnknownKey { token: token.to_vec(), kid, copies: vec![(via, arrival)], until: now.boot + HOLD });
            }
        }
        self.ask(now);
    }

    /// Drops the held document: for a newer one, or because its keyset did not arrive in time.
    pub(super) fn refuse_unknown_key(&mut self, now: Now) {
        let Some(held) = self.unknown_key.take() else { return };
        let reject = Reject::UnknownKey(held.kid);
        for (_, arrival) in held.copies {
            self.acknowledge_once_written(arrival);
            self.note_rejection(&reject, arrival, now);
        }
        self.reject_quietly(&reject, Entitlement::claimed_position(&held.token), now);
    }

    pub(super) fn give_up_unknown_key(&mut self, now: Now) {
        if self.unknown_key.as_ref().is_some_and(|held| now.boot >= held.until) {
            self.refuse_unknown_key(now);
            self.send_get(now);
        }
    }

    pub(super) fn read_keyset(&mut self, token: &[u8], arrival: Arrival, now: Now) {
        let verified = match verifying::keyset(token.trim_ascii(), &self.settings.roots, &self.settings.issuer) {
            Ok(verified) => verified,
            Err(reject) => return self.reject(&reject, None, arrival, now),
        };
        if let Err(reject) = self.check_times(&verified.keyset, arrival) {
            return self.reject(&reject, None, arrival, now);
        }
        let current = self.keyset.as_ref().map_or(0, |current| current.keyset.version);
        let least = current.max(self.settings.min_keyset_version).max(self.retired_version);
        let got = verified.keyset.version;
        if got < least {
            return self.reject(&Reject::OldKeyset { got, least }, None, arrival, now);
        }
        arrival.way.into_iter().for_each(|way| self.rejections.over(way));
        if got == current {
            self.acknowledge_once_written(arrival);
        } else {
            let now = self.learn_time(Duration::from_secs(verified.keyset.iat), now);
            self.replace_keyset(verified, arrival, now);
        }
        let keyset = self.keyset.as_ref().map(|verified| &verified.keyset);
        let known = |held: &mut UnknownKey| keyset.is_some_and(|keyset| !matches!(keyset.key(&held.kid), Err(Reject::UnknownKey(_))));
        if let Some(held) = self.unknown_key.take_if(known) {
            for (via, arrival) in held.copies {
                self.known.push_back(Known { token: held.token.clone(), via, arrival });
            }
        }
    }

    pub(super) fn replace_keyset(&mut self, verified: VerifiedKeyset, arrival: Arrival, now: Now) {
        let older = self.keyset.replace(verified);
        let Some(keyset) = self.keyset.as_ref().map(|verified| &verified.keyset) else { return };
        // The document in force stays in force by the key that verified it. The key of that name may have changed.
        for document in self.force.iter_mut().chain(self.phase.staged_mut().map(|staged| &mut staged.document)) {
            let token = document.document.token.as_bytes();
            let verifies = verifying::entitlement(token, Some(keyset), &self.settings.issuer, &self.settings.device).is_ok();
            if document.verified_by.is_none() && !verifies {
                document.verified_by = older.as_ref().map(|older| older.token.clone());
            }
        }
        let new = |reset: &&Reset| reset.id > self.reset_id;
        let resets: Vec<Reset> = keyset.resets_for(&self.settings.device).into_iter().filter(new).cloned().collect();
        let now = resets.iter().fold(now, |now, reset| self.apply_reset(reset, now));
        if self.lost {
            // Writing a record now would make an unreadable state look valid.
            self.acknowledge(arrival);
        } else {
            self.promise(None, now);
            self.acknowledge_once_written(arrival);
        }
    }

    fn apply_reset(&mut self, reset: &Reset, now: Now) -> Now {
        self.reset_id = reset.id;
        if self.lost {
            // It counts as applied: the lost state may have applied it already, and the time it sets may be long past.
            return now;
        }
        if reset.position() < self.ratchet {
            self.ratchet = reset.position();
            self.ratchet_digest = None;
        }
        reset.time.map_or(now, |time| self.set_time(Duration::from_secs(time), now))
    }

    pub(super) fn reject(&mut self, reject: &Reject, judged: Option<Position>, arrival: Arrival, now: Now) {
        self.acknowledge_once_written(arrival);
        self.note_rejection(reject, arrival, now);
        self.reject_quietly(reject, judged, now);
    }

    fn note_rejection(&mut self, reject: &Reject, arrival: Arrival, now: Now) {
        arrival.way.into_iter().for_each(|way| self.rejections.note(way, reject, now.boot));
    }

    /// Reports a rejection with expected and received values, without an acknowledgement.
    pub(super) fn reject_quietly(&mut self, reject: &Reject, judged: Option<Position>, now: Now) {
        let report = self.applied_report(Cause::Document, judged, now);
        let report = Report { outcome: Outcome::Rejected, reason: reject.code().to_owned(), detail: Some(reject.detail()), ..report };
        self.reports.other(report, now.boot, &mut self.effects);
    }

    pub(super) fn refuse(&mut self, outcome: Outcome, reason: &str, judged: Option<Position>, arrival: Arrival, now: Now) {
        self.acknowledge_once_written(arrival);
        self.refuse_quietly(outcome, reason, judged, now);
    }

    /// Reports a document that was not applied, without an acknowledgement.
    pub(super) fn refuse_quietly(&mut self, outcome: Outcome, reason: &str, judged: Option<Position>, now: Now) {
        let report = Report { outcome, reason: reason.to_owned(), ..self.applied_report(Cause::Document, judged, now) };
        self.reports.other(report, now.boot, &mut self.effects);
    }
}
