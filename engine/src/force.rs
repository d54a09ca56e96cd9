//! The document in force: how much of its lease is used (docs/protocol.md#lease), and its `next` once that has taken
//! effect (docs/protocol.md#next). It does not touch the gate.

use std::time::Duration;

use care_protocol::{Mode, Next, Plan, Policy, Reason, VerifiedEntitlement};

use crate::trusted_time::Now;

/// A document in force, or one that is about to be.
#[derive(Debug, Clone)]
pub(super) struct InForce {
    pub(super) document: VerifiedEntitlement,
    /// The keyset that verified it, once the highest one no longer does.
    pub(super) verified_by: Option<String>,
    pub(super) next_performed: bool,
    lease: LeaseUse,
}

/// How much of `max_age_s` is used: a value at one BOOTTIME, from which it continues.
#[derive(Debug, Clone, Copy)]
struct LeaseUse {
    used: Duration,
    marked: Duration,
    /// The part of `used` that is the document's age at receipt, by trusted time at that moment.
    late: Duration,
}

impl InForce {
    /// A document that has just been received: its age so far counts as used.
    pub(super) fn received(document: VerifiedEntitlement, now: Now) -> Self {
        let iat = Duration::from_secs(document.entitlement.iat);
        let late = now.trusted.saturating_sub(iat);
        let lease = LeaseUse { used: late, marked: now.boot, late };
        let mut received = Self { document, verified_by: None, next_performed: false, lease };
        received.next_performed = received.next_is_due(now);
        received
    }

    /// A document from the record.
    pub(super) fn restored(
        document: VerifiedEntitlement,
        verified_by: Option<String>,
        (used, late): (Duration, Duration),
        next_performed: bool,
        now: Now,
    ) -> Self {
        Self { document, verified_by, next_performed, lease: LeaseUse { used, marked: now.boot, late } }
    }

    /// Trusted time has been set back: the document was not as old at receipt as it seemed.
    pub(super) fn is_younger_by(&mut self, back: Duration) {
        let less = back.min(self.lease.late);
        self.lease.late -= less;
        self.lease.used = self.lease.used.saturating_sub(less);
    }

    /// The document's age at receipt.
    pub(super) fn lease_late(&self) -> Duration {
        self.lease.late
    }

    pub(super) fn lease_used(&self, now: Now) -> Duration {
        self.lease.used.saturating_add(now.boot.saturating_sub(self.lease.marked))
    }

    /// The remaining lease; zero once it has ended.
    pub(super) fn lease_left(&self, now: Now) -> Duration {
        let lease = &self.document.entitlement.lease;
        let by_age = Duration::from_secs(lease.max_age_s).saturating_sub(self.lease_used(now));
        let by_date = Duration::from_secs(lease.not_after).saturating_sub(now.trusted);
        by_age.min(by_date)
    }

    pub(super) fn lease_ended(&self, now: Now) -> bool {
        self.lease_left(now).is_zero()
    }

    /// The `next` that has not taken effect yet.
    pub(super) fn pending_next(&self) -> Option<&Next> {
        self.document.entitlement.next.as_ref().filter(|_| !self.next_performed)
    }

    pub(super) fn next_is_due(&self, now: Now) -> bool {
        self.pending_next().is_some_and(|next| now.trusted >= Duration::from_secs(next.effective_at))
    }

    fn performed_next(&self) -> Option<&Next> {
        self.document.entitlement.next.as_ref().filter(|_| self.next_performed)
    }

    pub(super) fn policy(&self) -> Policy {
        self.performed_next().map_or(self.document.entitlement.policy, |next| next.policy)
    }

    pub(super) fn plan(&self) -> &Plan {
        self.performed_next().map_or(&self.document.entitlement.plan, |next| &next.plan)
    }

    pub(super) fn reason(&self) -> Reason {
        self.performed_next().map_or(self.document.entitlement.reason, |next| next.reason)
    }

    /// The label of this document's mode: docs/protocol.md#modes.
    pub(super) fn mode(&self, held: bool, now: Now) -> Mode {
        if self.reason() == Reason::Unbound {
            Mode::Unbound
        } else if self.plan().is_free() || self.lease_ended(now) {
            Mode::Free
        } else if held {
            Mode::Held
        } else {
            Mode::Paid
        }
    }
}
