//! The engine's state for the status document and metrics.

use std::time::Duration;

use care_protocol::{Digest, Mode, Plan, Policy, Position, Reason, Report};
use serde::Serialize;

use super::{Engine, Past, force::InForce};
use crate::trusted_time::Now;

/// A snapshot of the engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// The mode.
    pub mode: Mode,
    /// The plan on record.
    pub plan: Option<Plan>,
    /// Why it was issued.
    pub reason: Option<Reason>,
    /// Position of the document in force, (0, 0) if none.
    pub position: Position,
    /// Its digest.
    pub digest: Option<Digest>,
    /// The ratchet.
    pub ratchet: Position,
    /// Version of the keyset, 0 if none.
    pub keyset: u64,
    /// The limits on record.
    pub policy: Option<Policy>,
    /// The policy for uploads now.
    pub may_leave: Policy,
    /// The remaining lease.
    pub lease_left: Option<Duration>,
    /// The whole lease, from the document's issue to the lease's end: what is used and what remains.
    pub lease: Option<Duration>,
    /// When `next` takes effect, Unix seconds.
    pub next_at: Option<u64>,
    /// The plan of `next`.
    pub next_plan: Option<Plan>,
    /// The order id support asks for.
    pub order: Option<String>,
    /// Whether what is in force is on flash.
    pub persisted: bool,
    /// Whether the camera was reset and waits for a binding with a higher epoch.
    pub factory_reset: bool,
    /// Whether the broker granted the subscription and does not deliver the entitlement.
    pub broker_deaf: bool,
    /// Whether the state was unreadable and nothing has replaced it yet.
    pub state_lost: bool,
    /// A position under which two different documents were signed.
    pub conflict: Option<Position>,
    /// Why paid media waits; `None` unless the mode is `held`.
    pub held_because: Option<&'static str>,
    /// The rejected documents and the reasons, in a sentence.
    pub rejected: Option<String>,
    /// The reason code of the newest of them.
    pub rejection: Option<&'static str>,
    /// The documents accepted under this owner, oldest first.
    pub history: Vec<Past>,
    /// The last change.
    pub last_switch: Option<Report>,
}

impl Engine {
    /// The last change, and the order id of the document in force.
    pub fn last_switch(&self) -> Option<(&Report, Option<&str>)> {
        let order = self.force.as_ref().and_then(|force| force.document.entitlement.order.as_ref());
        self.last_switch.as_ref().map(|report| (report, order.map(|order| order.id.as_str())))
    }

    /// A snapshot of the state.
    pub fn view(&self, now: Now) -> View {
        let force = self.force.as_ref();
        let entitlement = force.map(|force| &force.document.entitlement);
        View {
            mode: self.mode(now),
            plan: force.map(|force| force.plan().clone()),
            reason: force.map(|force| force.reason()),
            position: entitlement.map_or(Position::NONE, |entitlement| entitlement.position()),
            digest: force.map(|force| force.document.digest),
            ratchet: self.ratchet,
            keyset: self.keyset.as_ref().map_or(0, |keyset| keyset.keyset.version),
            policy: force.map(|force| force.policy()),
            may_leave: self.gate.leave,
            lease_left: force.map(|force| force.lease_left(now)),
            lease: force.map(|force| force.lease_used(now).saturating_add(force.lease_left(now))),
            next_at: force.and_then(|force| force.pending_next()).map(|next| next.effective_at),
            next_plan: force.and_then(|force| force.pending_next()).map(|next| next.plan.clone()),
            order: entitlement.and_then(|entitlement| entitlement.order.as_ref()).map(|order| order.id.clone()),
            persisted: self.phase.unwritten().is_none() && self.phase.staged().is_none(),
            factory_reset: self.factory_reset.is_some(),
            broker_deaf: self.standing.document_missing(),
            state_lost: self.lost,
            conflict: self.conflict,
            held_because: force.and_then(|force| self.held_because(force, now)),
            rejected: self.rejections.sentence(now.boot),
            rejection: self.rejections.code(now.boot),
            history: self.history.clone(),
            last_switch: self.last_switch.clone(),
        }
    }

    fn held_because(&self, force: &InForce, now: Now) -> Option<&'static str> {
        if self.mode(now) != Mode::Held {
            return None;
        }
        Some(if !self.standing.is_open(now) {
            "neither the broker nor the API has confirmed the plan"
        } else if force.pending_next().is_some() && !now.confirmed {
            "a change of plan is pending, and no answer of the API has confirmed the time"
        } else {
            "the API refuses grants for it"
        })
    }
}
