//! Writes records to flash, and continues once they are durable. PUBACK means: this document or a higher one survives
//! a power cut, or it was refused (docs/protocol.md#acknowledgement).

use care_protocol::{Cause, MAX_INTEGER, Reject, Report, RootKeys};

use super::{Arrival, Effect, Engine, PERSIST_EVERY, Record, force::InForce, past};
use crate::trusted_time::Now;

impl Engine {
    /// Writes a record that a PUBACK waits for.
    pub(super) fn promise(&mut self, report: Option<&Report>, now: Now) -> u64 {
        self.persist(report, now);
        self.promised = self.tickets;
        self.tickets
    }

    pub(super) fn persist(&mut self, report: Option<&Report>, now: Now) -> u64 {
        self.persist_by = now.boot + PERSIST_EVERY;
        if self.lost {
            return self.tickets;
        }
        self.tickets += 1;
        let record = self.record(report, now);
        self.owes = record.report.is_some();
        self.history.clone_from(&record.history);
        self.effects.push(Effect::Persist { ticket: self.tickets, record: record.to_bytes() });
        self.tickets
    }

    pub(super) fn record(&self, report: Option<&Report>, now: Now) -> Record {
        let newest = self.newest();
        let unwritten = self.phase.unwritten().map(|unwritten| &unwritten.report);
        Record {
            format: Record::FORMAT,
            ratchet: self.ratchet,
            ratchet_digest: self.ratchet_digest,
            entitlement: newest.map(|newest| newest.document.token.clone()),
            keyset: self.keyset.as_ref().map(|keyset| keyset.token.clone()),
            verified_by: newest.and_then(|newest| newest.verified_by.clone()),
            // Both continue from values that may be at their maximum; a larger value could not be read again.
            lease_used_s: newest.map_or(0, |newest| newest.lease_used(now).as_secs()).min(MAX_INTEGER),
            lease_late_s: newest.map_or(0, |newest| newest.lease_late().as_secs()).min(MAX_INTEGER),
            next_performed: newest.is_some_and(|newest| newest.next_performed),
            trusted_s: now.trusted.as_secs().min(MAX_INTEGER),
            reset_id: self.reset_id,
            factory_reset: self.factory_reset,
            roots: self.record_roots(newest),
            // A restart can read it, so it counts as written.
            history: past::and_newest(self.history.clone(), newest, now),
            report: report.or(unwritten).or(self.reports.undelivered()).map(|report| Report { persisted: true, ..report.clone() }),
        }
    }

    /// The root keys without which the record could not be verified again. If two have the same name, the retired one
    /// is the one that is not configured.
    fn record_roots(&self, newest: Option<&InForce>) -> RootKeys {
        let mut roots = self.settings.roots.clone();
        if newest.is_some_and(|newest| newest.verified_by.is_some()) {
            roots.extend(self.retired.clone());
        }
        roots
    }

    pub(super) fn written(&mut self, ticket: u64, now: Now) {
        self.written = self.written.max(ticket);
        let staged = self.phase.take_staged_if(|staged| staged.ticket <= ticket);
        let downgrade = self.phase.take_unwritten_if(|unwritten| unwritten.ticket <= ticket);
        let given = staged.map(|staged| {
            let position = staged.document.document.entitlement.position();
            if staged.cause == Cause::Document {
                self.vouched_for(staged.confirmed_at, now);
            }
            self.lease_over = staged.document.lease_ended(now);
            self.force = Some(staged.document);
            (staged.cause, (staged.cause == Cause::Document).then_some(position))
        });
        match given {
            // A document that grants more opens the gate, then is acknowledged. A restriction is acknowledged, then
            // reopens what remains.
            Some((cause, judged)) => {
                let mut report = self.applied_report(cause, judged, now);
                if let Some(downgrade) = downgrade {
                    report.cut = downgrade.report.cut;
                    report.detail = downgrade.report.detail;
                    report.erased = downgrade.report.erased;
                }
                self.announced = Some(report.mode);
                if self.admission(now).is_less_than(&self.gate) {
                    // It expired while being written: the cut has its own report, after this one.
                    self.acknowledge_written(ticket);
                    self.announce(report);
                    self.settle(Cause::Lease, now);
                    return;
                }
                self.settle(cause, now);
                if cause == Cause::Document {
                    self.effects.push(Effect::RetryRefused);
                }
                self.acknowledge_written(ticket);
                self.announce(report);
            }
            None => {
                self.acknowledge_written(ticket);
                if let Some(downgrade) = downgrade {
                    let now_in_force = self.applied_report(downgrade.report.cause, downgrade.report.judged, now);
                    let Report { cut, erased, detail, .. } = downgrade.report;
                    let report = Report { cut, erased, detail, ..now_in_force };
                    self.announced = Some(report.mode);
                    self.settle(Cause::Document, now);
                    self.announce(report);
                }
            }
        }
    }

    pub(super) fn write_failed(&mut self, ticket: u64, now: Now) {
        if let Some(staged) = self.phase.staged_mut().filter(|staged| staged.ticket <= ticket && !staged.failed) {
            staged.failed = true;
            let position = staged.document.document.entitlement.position();
            self.reject_quietly(&Reject::NotPersisted, Some(position), now);
        }
        if let Some(unwritten) = self.phase.unwritten_mut().filter(|unwritten| unwritten.ticket <= ticket && !unwritten.failed) {
            unwritten.failed = true;
            let report = Report { persisted: false, ..unwritten.report.clone() };
            self.announce(report);
            self.settle(Cause::Document, now);
        }
    }

    /// PUBACK means: this document or a higher one is on flash, or it was refused. In order of arrival.
    pub(super) fn acknowledge_once_written(&mut self, arrival: Arrival) {
        match arrival.delivery {
            Some(delivery) if self.written < self.promised => self.unacknowledged.push((self.promised, delivery)),
            _ => self.acknowledge(arrival),
        }
    }

    pub(super) fn acknowledge(&mut self, arrival: Arrival) {
        self.effects.extend(arrival.delivery.map(Effect::Acknowledge));
    }

    pub(super) fn acknowledge_written(&mut self, ticket: u64) {
        let written = self.unacknowledged.partition_point(|(waits_for, _)| *waits_for <= ticket);
        self.effects.extend(self.unacknowledged.drain(..written).map(|(_, delivery)| Effect::Acknowledge(delivery)));
    }

    pub(super) fn newest(&self) -> Option<&InForce> {
        self.phase.staged().map(|staged| &staged.document).or(self.force.as_ref())
    }
}
