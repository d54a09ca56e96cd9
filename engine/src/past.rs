//! The history of documents, for support: the plan, when it began, and its order id. It is part of the record, which
//! the engine writes with every document anyway, and is erased when the camera changes owner.

use care_protocol::{Plan, Position, Reason};
use serde::{Deserialize, Serialize};

use super::force::InForce;
use crate::trusted_time::Now;

/// How many are kept.
const MOST: usize = 16;
/// The longest order id that is kept, characters. A document may hold a longer one; sixteen of those would fill the
/// record.
const ORDER_MOST: usize = 64;

/// A document that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When, trusted time in Unix seconds.
    pub at: u64,
    /// Its position.
    #[serde(flatten)]
    pub position: Position,
    /// Its plan, or that of its `next` once this had taken effect.
    pub plan: Plan,
    /// Why it was issued.
    pub reason: Reason,
    /// The order id that support asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// `history` with the newest document at its end, oldest first. Renewals of one document are one entry.
pub(super) fn and_newest(history: Vec<Past>, newest: Option<&InForce>, now: Now) -> Vec<Past> {
    let Some(newest) = newest else { return Vec::new() };
    let entitlement = &newest.document.entitlement;
    let order = entitlement.order.as_ref().map(|order| order.id.chars().take(ORDER_MOST).collect());
    let (position, plan, reason) = (entitlement.position(), newest.plan().clone(), newest.reason());
    let newest = Past { at: now.trusted.as_secs(), position, plan, reason, order };
    and(history, newest)
}

fn and(mut history: Vec<Past>, newest: Past) -> Vec<Past> {
    history.retain(|past| past.position.epoch == newest.position.epoch);
    match history.last_mut() {
        Some(last) if (last.position, &last.plan, last.reason) == (newest.position, &newest.plan, newest.reason) => {}
        Some(last) if last.renews(&newest) => *last = newest,
        _ => history.push(newest),
    }
    let surplus = history.len().saturating_sub(MOST);
    history.drain(..surplus);
    history
}

impl Past {
    /// Whether both are renewals of the same plan under the same order.
    fn renews(&self, newer: &Self) -> bool {
        (self.reason, newer.reason) == (Reason::Renewed, Reason::Renewed) && self.plan == newer.plan && self.order == newer.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(epoch: u64, seq: u64, reason: Reason, order: Option<&str>) -> Past {
        let position = Position { epoch, seq };
        Past { at: 1_767_225_600 + seq, position, plan: Plan::free(), reason, order: order.map(str::to_owned) }
    }

    #[test]
    fn the_newest_are_kept_once_each() {
        let history = (1..=100).fold(Vec::new(), |history, seq| {
            let history = and(history, past(3, seq, Reason::Cancelled, Some("KC-1")));
            and(history, past(3, seq, Reason::Cancelled, Some("KC-1")))
        });
        let kept: Vec<_> = history.iter().map(|past| past.position.seq).collect();
        assert_eq!(kept, (85..=100).collect::<Vec<_>>());
    }

    #[test]
    fn renewals_push_no_order_id_out() {
        let history = and(Vec::new(), past(3, 1, Reason::Subscribed, Some("KC-1")));
        let history = (2..=50).fold(history, |history, seq| and(history, past(3, seq, Reason::Renewed, None)));
        let kept: Vec<_> = history.iter().map(|past| (past.position.seq, past.order.as_deref())).collect();
        assert_eq!(kept, [(1, Some("KC-1")), (50, None)]);
    }

    #[test]
    fn another_owner_s_camera_knows_nothing_of_the_last() {
        let history = and(Vec::new(), past(3, 1, Reason::Subscribed, Some("KC-1")));
        let history = and(history, past(4, 1, Reason::Bound, None));
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].position.epoch, 4);
    }
}
