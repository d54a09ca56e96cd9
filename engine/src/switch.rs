//! The switch: which admission the gate gets, and in which order (docs/protocol.md#the-switch). A restriction closes
//! the gate, is persisted, then reopens what remains. A document that grants more is persisted before it opens.

use std::{ops::ControlFlow, time::Duration};

use care_protocol::{Cause, Cut, Erased, Mode, Policy, Position};

use super::{Admission, Arrival, CutFigures, CutUnderWay, Cutting, Durability, Effect, Engine, Unwritten, force::InForce};
use crate::trusted_time::Now;

/// The report's text for a cut whose `bytes_after` is not known.
const NOT_COUNTED: &str = "cut.bytes_after was not counted: this camera's kernel does not count the bytes that a socket sends";

impl Engine {
    /// The admission that the gate should have now.
    pub(super) fn admission(&self, now: Now) -> Admission {
        let mut admission = self.admission_of(self.force.as_ref(), now);
        match self.phase.unwritten() {
            Some(unwritten) if unwritten.failed => admission.leave = admission.leave.floor(&unwritten.before),
            Some(_) => admission.leave = Policy::CLOSED,
            None => {}
        }
        if let Some(staged) = self.phase.staged().filter(|_| self.gives_soon()) {
            // A higher document is being written to flash. It opens nothing yet. Clips that it would hold back,
            // because its lease has ended or it has no voucher, do not leave under the previous document either.
            admission.leave = admission.leave.floor(&self.admission_of(Some(&staged.document), now).leave);
        }
        admission
    }

    /// The oldest record that a document waits for and that has not failed so far, and since when (BOOTTIME).
    pub(super) fn being_written(&self) -> Option<(u64, Duration)> {
        let staged = self.phase.staged().filter(|staged| !staged.failed).map(|staged| (staged.ticket, staged.since));
        let unwritten = self.phase.unwritten().filter(|unwritten| !unwritten.failed).map(|unwritten| (unwritten.ticket, unwritten.since));
        staged.into_iter().chain(unwritten).min()
    }

    /// Whether a document is being written to flash that comes into force once it is there.
    pub(super) fn gives_soon(&self) -> bool {
        self.phase.staged().is_some_and(|staged| !staged.failed)
    }

    /// The admission under `document`, whether it is on flash or not.
    pub(super) fn admission_of(&self, document: Option<&InForce>, now: Now) -> Admission {
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

    /// Whether clips beyond `[free]` have to wait: the record has no voucher, a grant was refused, or a `next` is
    /// pending while trusted time is unconfirmed.
    pub(super) fn is_held(&self, document: &InForce, now: Now) -> bool {
        !self.standing.is_open(now)
            || self.refused.as_ref().is_some_and(|refused| refused.waiting)
            || (document.pending_next().is_some() && !now.confirmed)
    }

    /// The label of the current mode: docs/protocol.md#modes.
    pub fn mode(&self, now: Now) -> Mode {
        self.mode_of(self.force.as_ref(), now)
    }

    pub(super) fn mode_of(&self, document: Option<&InForce>, now: Now) -> Mode {
        document.map_or(Mode::Unbound, |document| document.mode(self.is_held(document, now), now))
    }

    /// Applies the document in force, writing it before anything opens. This may begin a cut. `before` is the
    /// admission under the document on flash.
    pub(super) fn switch(&mut self, cause: Cause, judged: Option<Position>, before: Policy, arrival: Arrival, now: Now) {
        let wanted = self.admission_of(self.force.as_ref(), now);
        if wanted.is_less_than(&self.gate) {
            return self.cut(wanted, cause, judged, arrival, Durability::BeforeOpening);
        }
        // The gate is not open to anything that this restricts, as after a boot.
        let report = self.applied_report(cause, judged, now);
        let ticket = self.promise(Some(&report), now);
        self.acknowledge_once_written(arrival);
        let before = self.phase.take_unwritten_if(|_| true).map_or(before, |older| older.before.floor(&before));
        self.phase.write(Unwritten { ticket, since: now.boot, report, before, failed: false });
        self.settle(cause, now);
    }

    /// Sets the gate by the document in force. This may begin a cut.
    pub(super) fn settle(&mut self, cause: Cause, now: Now) {
        let wanted = self.admission(now);
        if wanted.is_less_than(&self.gate) {
            return self.cut(wanted, cause, None, Arrival::unasked(None, now), Durability::NotNeeded);
        }
        if wanted != self.gate {
            self.gate = wanted;
            self.effects.push(Effect::Open(wanted));
        }
        let being_written = self.phase.unwritten().is_some_and(|unwritten| !unwritten.failed) || self.gives_soon();
        if self.announced != Some(self.mode(now)) && !being_written {
            let report = self.applied_report(cause, None, now);
            self.announce(report);
        }
    }

    /// Continues, unless a cut is under way: then no decision is made before it is done.
    pub(super) fn unless_cutting(&self) -> ControlFlow<CutUnderWay> {
        if self.phase.is_cutting() { ControlFlow::Break(CutUnderWay) } else { ControlFlow::Continue(()) }
    }

    pub(super) fn cut(&mut self, wanted: Admission, cause: Cause, judged: Option<Position>, arrival: Arrival, record: Durability) {
        let keep = wanted.erases_of(&self.gate).then_some((wanted.keep, wanted.position));
        let forget = wanted.changes_owner_of(&self.gate);
        let before = match self.phase.unwritten() {
            // The gate is closed while that one is being written, and clips are kept by its policy.
            Some(unwritten) if !unwritten.failed => unwritten.before.floor(&self.gate.keep),
            _ => self.gate.leave,
        };
        self.phase.begin_cut(Cutting { cause, judged, arrival, record, keep, forget, before });
        self.effects.push(Effect::Cut { keep });
    }

    /// The gate is closed and every transfer aborted: write, then open under the new policy.
    pub(super) fn cut_done(&mut self, figures: CutFigures, now: Now) {
        let Some(cutting) = self.phase.end_cut() else { return };
        if cutting.forget {
            self.effects.push(Effect::Forget);
            self.last_switch = None;
        }
        self.gate.leave = Policy::CLOSED;
        if let Some((keep, position)) = cutting.keep {
            self.gate = Admission::after_cut(keep, position, &self.gate);
        }
        let mut report = self.applied_report(cutting.cause, cutting.judged, now);
        if figures.transfers > 0 {
            let micros = now.boot.saturating_sub(cutting.arrival.received).as_micros();
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            report.cut = Cut { transfers: figures.transfers, micros, bytes_after: figures.bytes_after.unwrap_or(0) };
            report.detail = figures.bytes_after.is_none().then(|| NOT_COUNTED.to_owned());
        }
        report.erased = figures.erased;
        if cutting.record == Durability::BeforeOpening {
            let older = self.phase.take_unwritten_if(|_| true);
            if let Some(older) = &older {
                report.cut = sum_cut(report.cut, older.report.cut);
                report.erased = sum_erased(report.erased, older.report.erased);
                report.detail = report.detail.or_else(|| older.report.detail.clone());
            }
            let before = older.map_or(cutting.before, |older| older.before.floor(&cutting.before));
            let ticket = self.promise(Some(&report), now);
            self.acknowledge_once_written(cutting.arrival);
            self.phase.write(Unwritten { ticket, since: now.boot, report, before, failed: false });
        } else {
            self.announced = Some(report.mode);
            self.settle(cutting.cause, now);
            self.announce(report);
            if cutting.cause == Cause::Lease {
                self.persist(None, now);
            }
        }
    }
}

fn sum_cut(a: Cut, b: Cut) -> Cut {
    Cut { transfers: a.transfers + b.transfers, micros: a.micros.max(b.micros), bytes_after: a.bytes_after + b.bytes_after }
}

fn sum_erased(a: Erased, b: Erased) -> Erased {
    Erased { clips: a.clips + b.clips, bytes: a.bytes + b.bytes }
}
