//! What is paid and what goes back. There is one way to compute an amount ([`settlement`], day-exact in the payer's time
//! zone) and one book ([`ledger`]) that takes it; the confirm page, the document's `order` and the ledger all show the same
//! figure because they all got it here. Amounts are integers in the currency's minor unit. No clock in here: times are given.

pub mod ledger;
mod period;
mod zone;

use care_protocol::{Order, Refund, RefundKind};

pub use self::{
    period::Period,
    zone::{UnknownZone, Zone},
};
use crate::issuer::Subscription;

/// What goes back if `subscription` ends at `at` (Unix seconds): what was paid for the whole days that are left.
pub fn settlement(subscription: &Subscription, kind: RefundKind, at: u64) -> Order {
    let amount_minor = subscription.period().prorated(subscription.paid_minor, at);
    Order { id: subscription.order_id.clone(), refund: Refund { kind, amount_minor, currency: subscription.currency.clone() } }
}
