//! What ending a subscription gives back: computed for the page that asks for confirmation, and booked as it was shown.

use care_protocol::{Channel, DeviceId, Order, Refund, RefundKind};

use super::{Action, ActionError, Quote, Which, act::bound_camera};
use crate::{
    domain::{
        catalogue::Tier,
        issuer::{Issuer, Phase, Subscription, find_camera, subscriptions},
        money::ledger,
        preview::{Offer, Preview},
    },
    storage::db::{DbError, Transaction},
};

/// How long a shown amount stays valid, even if a new day begins meanwhile, seconds.
const QUOTE_HOLDS_S: u64 = 900;

/// A subscription that may end, its account, and its refund.
pub(super) struct Ending {
    pub(super) account: String,
    pub(super) subscription: Subscription,
    pub(super) back: Order,
}

impl Issuer {
    /// What cancelling or downgrading would refund and erase. Fails exactly when the action would.
    pub fn offer(&self, tx: &Transaction<'_>, device: &DeviceId, downgrade: bool, now: u64) -> Result<Offer, ActionError> {
        let action = match downgrade {
            true => Action::Downgrade { camera: device.clone(), quote: None },
            false => Action::Cancel { camera: device.clone(), quote: None },
        };
        self.offer_of(tx, &Which::OfCamera(device.clone()), downgrade, &action, now)
    }

    /// The same for cancelling an account's subscription by its order.
    pub fn offer_for_order(&self, tx: &Transaction<'_>, account: &str, order_id: &str, now: u64) -> Result<Offer, ActionError> {
        let (account, order_id) = (account.to_owned(), order_id.to_owned());
        let action = Action::CancelOrder { account: account.clone(), order_id: order_id.clone(), quote: None };
        self.offer_of(tx, &Which::Order { account, order_id }, false, &action, now)
    }

    fn offer_of(&self, tx: &Transaction<'_>, which: &Which, downgrade: bool, action: &Action, now: u64) -> Result<Offer, ActionError> {
        let Ending { subscription, back: Order { id: order_id, refund }, .. } = self.find_ending(tx, which, downgrade, now)?;
        let Preview { plans, losses, back } = self.preview(tx, action, now)?;
        // The first is the order that ends; the others pay out credit that no further bill would use.
        let credit_paid_out_minor = back.iter().skip(1).filter(|other| other.refund.kind == RefundKind::Refund);
        let credit_paid_out_minor = credit_paid_out_minor.map(|other| other.refund.amount_minor).sum();
        Ok(Offer {
            credit_paid_out_minor,
            kind: refund.kind,
            amount_minor: refund.amount_minor,
            currency: refund.currency,
            at: now,
            plan: subscription.tier.as_str(),
            order_id,
            plans,
            losses,
        })
    }

    /// The subscription that would end, and its refund.
    fn find_ending(&self, tx: &Transaction<'_>, which: &Which, downgrade: bool, now: u64) -> Result<Ending, ActionError> {
        let (account, subscription) = self.find(tx, which, now)?;
        if !subscription.changes_here() {
            return Err(ActionError::BoughtInApp(subscription.channel));
        }
        if downgrade && subscription.trial {
            return Err(ActionError::TrialIsNotDowngraded);
        }
        if let Which::OfCamera(device) = which
            && downgrade
            && (subscription.tier != Tier::Premium || !subscription.runs_at(now))
        {
            return Err(ActionError::NotPremium(device.clone()));
        }
        let kind = if downgrade { kind_of_exchange(&subscription) } else { kind_of_return(tx, &account, &subscription)? };
        let back = subscription.settlement(kind, now);
        Ok(Ending { account, subscription, back })
    }

    /// The subscription, and its account.
    pub(super) fn find(&self, tx: &Transaction<'_>, which: &Which, now: u64) -> Result<(String, Subscription), ActionError> {
        match which {
            Which::OfCamera(device) => {
                let camera = bound_camera(tx, device)?;
                let subscription = self.subscription_of(tx, &camera, now)?;
                Ok((camera.account, subscription))
            }
            Which::Order { account, order_id } => {
                let none = || ActionError::NoOrder { account: account.clone(), order_id: order_id.clone() };
                let found = subscriptions(tx, account)?.into_iter().find(|running| running.order_id == *order_id);
                Ok((account.clone(), found.ok_or_else(none)?))
            }
        }
    }

    /// What to book: the amount that was shown if it is still valid, else the present one.
    pub(super) fn confirmed(
        &self,
        tx: &Transaction<'_>,
        which: &Which,
        downgrade: bool,
        quote: Option<&Quote>,
        now: u64,
    ) -> Result<Ending, ActionError> {
        let at = quote.map(|quote| quote.at).filter(|at| (now.saturating_sub(QUOTE_HOLDS_S)..=now).contains(at)).unwrap_or(now);
        let ending = self.find_ending(tx, which, downgrade, at)?;
        let Order { id, refund: Refund { kind, amount_minor, .. } } = &ending.back;
        if quote.is_some_and(|quote| (&quote.order_id, &quote.kind, &quote.amount_minor) != (id, kind, amount_minor)) {
            return Err(ActionError::NotAsShown);
        }
        Ok(ending)
    }

    /// Pays out the account's credit if no further bill would use it.
    pub(crate) fn pay_out_what_nothing_takes(&self, tx: &Transaction<'_>, account: &str, now: u64) -> Result<Vec<Order>, DbError> {
        if subscriptions(tx, account)?.iter().any(Subscription::has_bills_here) {
            return Ok(Vec::new());
        }
        ledger::pay_out(tx, account, &self.catalogue.currency, now)
    }

    /// Ends and credits the Plus of a camera that Premium now covers, so that it is not paid twice.
    pub(super) fn credit_what_premium_covers(&self, tx: &Transaction<'_>, account: &str, now: u64) -> Result<Vec<Order>, ActionError> {
        let mut back = Vec::new();
        let all = subscriptions(tx, account)?;
        if all.iter().all(|subscription| subscription.tier != Tier::Premium) {
            return Ok(back);
        }
        for own in all {
            let Some(device) = own.device.as_ref().filter(|_| own.phase == Phase::Active && own.changes_here()) else { continue };
            let Some(camera) = find_camera(tx, device)?.filter(|camera| camera.bound && camera.account == account) else { continue };
            let covering = self.covering_subscription(tx, &camera, now)?;
            // Not if Premium is about to end.
            if covering.is_some_and(|covering| covering.order_id != own.order_id && covering.phase == Phase::Active) {
                let credit = own.settlement(kind_of_exchange(&own), now);
                end(tx, &credit, now)?;
                back.push(credit);
            }
        }
        Ok(back)
    }
}

/// A replaced subscription is credited, and the credit pays for the new one. One that was paid to an app store is
/// refunded.
pub(super) fn kind_of_exchange(ending: &Subscription) -> RefundKind {
    if ending.channel == Channel::Portal { RefundKind::Credit } else { RefundKind::Refund }
}

/// FAQ 2116: a cancelled subscription is refunded, or credited on the next bill if another subscription remains.
/// Subscriptions of an app store neither use nor give credit.
pub(super) fn kind_of_return(tx: &Transaction<'_>, account: &str, ending: &Subscription) -> Result<RefundKind, DbError> {
    if ending.channel != Channel::Portal {
        return Ok(RefundKind::Refund);
    }
    let stays = |other: &Subscription| {
        let billed = matches!(other.phase, Phase::Active | Phase::Grace);
        other.order_id != ending.order_id && other.channel == Channel::Portal && billed
    };
    Ok(if subscriptions(tx, account)?.iter().any(stays) { RefundKind::Credit } else { RefundKind::Refund })
}

/// Ends the subscription of this order and books its refund.
pub(super) fn end(tx: &Transaction<'_>, back: &Order, now: u64) -> Result<(), ActionError> {
    tx.execute("UPDATE subscriptions SET state = 'ended' WHERE order_id = ?1", [&back.id])?;
    Ok(ledger::close(tx, back, now)?)
}
