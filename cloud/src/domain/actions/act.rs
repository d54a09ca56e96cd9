//! What people can do to a plan: subscribe, cancel, downgrade, and what an app store does. Each is one transaction that
//! changes the subscriptions and lets the issuer write whatever documents follow. No clock in here: `now` is given.

use care_protocol::{Channel, DeviceId, Order, Reason, Refund, RefundKind};
use rusqlite::{Transaction, params};

use super::{Action, ActionError, Done, PaidPlan, Quote, Which};
use crate::{
    domain::{
        accounts,
        billing::{end_used, is_declined},
        catalogue::{Cycle, Tier},
        issuer::{Camera, Issuer, Phase, Subscription, billing_cycle, devices, find_camera, subscriptions},
        money::{
            Period, Zone,
            ledger::{self, NewOrder},
        },
        preview::{Offer, Preview},
    },
    storage::db::DbError,
};

/// So long an amount that was shown is booked as shown, even if a day begins meanwhile.
const QUOTE_HOLDS_S: u64 = 900;

impl Issuer {
    /// Does it, within the caller's transaction.
    pub fn act(&self, tx: &Transaction<'_>, action: &Action, now: u64) -> Result<Done, ActionError> {
        match action {
            Action::Subscribe { camera, plan, cycle, channel, zone } => {
                let zone = zone.clone().unwrap_or_else(Zone::utc);
                let terms = Wanted { cycle: *cycle, channel: channel.unwrap_or(Channel::Portal), zone };
                self.subscribe(tx, camera, *plan, &terms, now)
            }
            Action::Cancel { camera, quote } => self.cancel(tx, &Which::OfCamera(camera.clone()), quote.as_ref(), now),
            Action::CancelOrder { account, order_id, quote } => {
                let which = Which::Order { account: account.clone(), order_id: order_id.clone() };
                self.cancel(tx, &which, quote.as_ref(), now)
            }
            Action::Downgrade { camera, quote } => self.downgrade(tx, camera, quote.as_ref(), now),
            Action::StoreCancel { camera, ends_in_s } => self.store_cancel(tx, &Which::OfCamera(camera.clone()), *ends_in_s, now),
            Action::StoreCancelOrder { account, order_id, ends_in_s } => {
                let which = Which::Order { account: account.clone(), order_id: order_id.clone() };
                self.store_cancel(tx, &which, *ends_in_s, now)
            }
            Action::Withdraw { camera } => self.withdraw(tx, camera, now),
            Action::StartTrial { camera, plan, ends_in_s } => {
                self.start_trial(tx, camera, plan.unwrap_or(PaidPlan::Premium), *ends_in_s, now)
            }
            Action::PaymentFails { account, grace_s } => self.payment_fails(tx, account, *grace_s, now),
            Action::PaymentRecovers { account } => self.payment_recovers(tx, account, now),
            Action::Bind { camera, account } => self.bind(tx, camera, account, now),
            Action::Unbind { camera } => self.unbind(tx, camera, now),
        }
    }

    /// Makes a camera known and binds it to an account, or does nothing if both is so already.
    pub fn add_camera(&self, tx: &Transaction<'_>, device: &DeviceId, model: &str, account: &str, now: u64) -> Result<Done, ActionError> {
        if let Some(camera) = find_camera(tx, device)? {
            tx.execute("UPDATE cameras SET model = ?2 WHERE device = ?1", params![device.as_str(), model])?;
            if camera.bound && camera.account == account && !camera.reset {
                return self.changed(tx, account, Reason::Bound, None, now);
            }
            return self.bind(tx, device, account, now);
        }
        accounts::ensure(tx, account, now)?;
        tx.execute(
            "INSERT INTO cameras (device, model, account, bound, bound_at, epoch, seq) VALUES (?1, ?2, ?3, 1, ?4, 1, 0)",
            params![device.as_str(), model, account, now],
        )?;
        self.changed(tx, account, Reason::Bound, None, now)
    }

    /// What cancelling or downgrading would give back and take away; refused exactly when the action would be.
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
        let Reckoned { subscription, back: Order { id: order_id, refund }, .. } = self.reckon(tx, which, downgrade, now)?;
        let Preview { plans, losses, back } = self.preview(tx, action, now)?;
        // The first is the order that ends; what else goes back is credit that no bill will take any more.
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

    /// The subscription that would end, and what would go back.
    fn reckon(&self, tx: &Transaction<'_>, which: &Which, downgrade: bool, now: u64) -> Result<Reckoned, ActionError> {
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
        Ok(Reckoned { account, subscription, back })
    }

    /// The subscription that is meant, and whose it is.
    fn find(&self, tx: &Transaction<'_>, which: &Which, now: u64) -> Result<(String, Subscription), ActionError> {
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

    /// What is to be booked: what was shown if that still holds, else what it is now.
    fn confirmed(
        &self,
        tx: &Transaction<'_>,
        which: &Which,
        downgrade: bool,
        quote: Option<&Quote>,
        now: u64,
    ) -> Result<Reckoned, ActionError> {
        let at = quote.map(|quote| quote.at).filter(|at| (now.saturating_sub(QUOTE_HOLDS_S)..=now).contains(at)).unwrap_or(now);
        let reckoned = self.reckon(tx, which, downgrade, at)?;
        let Order { id, refund: Refund { kind, amount_minor, .. } } = &reckoned.back;
        if quote.is_some_and(|quote| (&quote.order_id, &quote.kind, &quote.amount_minor) != (id, kind, amount_minor)) {
            return Err(ActionError::NotAsShown);
        }
        Ok(reckoned)
    }

    fn subscribe(&self, tx: &Transaction<'_>, device: &DeviceId, plan: PaidPlan, terms: &Wanted, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let covering = self.covering_subscription(tx, &camera, now)?;
        let tier = plan.tier();
        // A trial is no reason not to buy what it tries.
        let running = covering.filter(|covering| !covering.trial).or(own_plus(tx, &camera)?).map_or(Tier::Free, |running| running.tier);
        if running >= tier {
            let hint = if running > tier { ": downgrade instead" } else { "" };
            return Err(ActionError::HasPlan { device: device.clone(), plan: running.as_str(), hint });
        }
        let cycle = self.cycle_for(tx, &camera.account, terms.cycle)?;
        // What the new plan replaces: this camera's own, its trial, what waits to be paid in its place, and with Premium
        // every Plus of a camera that gets a seat.
        let seated: Vec<_> = devices(tx, Some(&camera.account))?.into_iter().take(self.catalogue.seats()).collect();
        let mut back = Vec::new();
        for old in subscriptions(tx, &camera.account)? {
            let of_camera = old.device.as_ref().is_some_and(|d| d == device || (tier == Tier::Premium && seated.contains(d)));
            let of_account = old.device.is_none() && (old.trial || tier == Tier::Premium);
            let replaced = of_camera || of_account;
            if replaced && old.changes_here() {
                let credit = old.settlement(kind_of_exchange(&old), now);
                end(tx, &credit, now)?;
                back.extend(Some(credit).filter(|credit| credit.refund.amount_minor > 0));
            } else if replaced {
                return Err(ActionError::BoughtInApp(old.channel));
            }
        }
        self.start(tx, &camera, tier, &Terms { cycle, channel: terms.channel, zone: terms.zone.clone() }, now)?;
        let reason = if running == Tier::Free { Reason::Subscribed } else { Reason::Upgraded };
        let done = self.changed(tx, &camera.account, reason, None, now)?;
        back.extend(done.back);
        Ok(Done { back, issued: done.issued })
    }

    /// The cycle a new subscription of this account has: the one it has already, or the one that is asked for.
    fn cycle_for(&self, tx: &Transaction<'_>, account: &str, wanted: Option<Cycle>) -> Result<Cycle, ActionError> {
        let Some(have) = billing_cycle(tx, account)? else { return Ok(wanted.unwrap_or(Cycle::Monthly)) };
        if wanted.is_some_and(|wanted| wanted != have) {
            return Err(ActionError::OneCycle { have: have.as_str() });
        }
        Ok(have)
    }

    fn start_trial(
        &self,
        tx: &Transaction<'_>,
        device: &DeviceId,
        plan: PaidPlan,
        ends_in_s: Option<u64>,
        now: u64,
    ) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let running = self.standing(tx, &camera, now)?.tier;
        if running != Tier::Free {
            return Err(ActionError::HasPlan { device: device.clone(), plan: running.as_str(), hint: ": a trial is for who has none" });
        }
        let first = "UPDATE accounts SET trial_at = ?2 WHERE id = ?1 AND trial_at IS NULL";
        if tx.execute(first, params![camera.account, now])? == 0 {
            return Err(ActionError::TrialUsed(camera.account));
        }
        let end = now.saturating_add(ends_in_s.unwrap_or(self.catalogue.trial_s()));
        let period = Period { start: now, end, zone: Zone::utc() };
        self.open(tx, &camera, plan.tier(), &Terms { cycle: Cycle::Monthly, channel: Channel::Portal, zone: Zone::utc() }, &period, true)?;
        self.changed(tx, &camera.account, Reason::TrialStarted, None, now)
    }

    fn cancel(&self, tx: &Transaction<'_>, which: &Which, quote: Option<&Quote>, now: u64) -> Result<Done, ActionError> {
        let Reckoned { account, back, .. } = self.confirmed(tx, which, false, quote, now)?;
        end(tx, &back, now)?;
        self.changed(tx, &account, Reason::Cancelled, Some(back), now)
    }

    fn downgrade(&self, tx: &Transaction<'_>, device: &DeviceId, quote: Option<&Quote>, now: u64) -> Result<Done, ActionError> {
        let Reckoned { subscription, back: order, .. } = self.confirmed(tx, &Which::OfCamera(device.clone()), true, quote, now)?;
        let camera = bound_camera(tx, device)?;
        let Subscription { cycle, zone, .. } = subscription;
        end(tx, &order, now)?;
        // The next bill is this one: Plus is paid from the credit that Premium left. A camera that kept a Plus of its own has it.
        if own_plus(tx, &camera)?.is_none() {
            self.start(tx, &camera, Tier::Plus, &Terms { cycle, zone, channel: Channel::Portal }, now)?;
        }
        self.changed(tx, &camera.account, Reason::Downgraded, Some(order), now)
    }

    fn store_cancel(&self, tx: &Transaction<'_>, which: &Which, ends_in_s: Option<u64>, now: u64) -> Result<Done, ActionError> {
        let (account, subscription) = self.find(tx, which, now)?;
        if subscription.channel == Channel::Portal {
            return Err(ActionError::BoughtOnPortal);
        }
        let period_end = ends_in_s.map_or(subscription.period_end, |seconds| now.saturating_add(seconds));
        tx.execute(
            "UPDATE subscriptions SET state = 'ending', period_end = ?2, due_at = ?2 WHERE order_id = ?1",
            params![subscription.order_id, period_end],
        )?;
        self.changed(tx, &account, Reason::Cancelled, None, now)
    }

    fn withdraw(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let subscription = self.subscription_of(tx, &camera, now)?;
        if subscription.phase != Phase::Ending || subscription.channel == Channel::Portal {
            return Err(ActionError::NothingToWithdraw(device.clone()));
        }
        // The period ends when it was to end, however the page had shortened it.
        tx.execute(
            "UPDATE subscriptions SET state = 'active', period_end = o.period_end, due_at = o.period_end
             FROM (SELECT period_end FROM orders WHERE order_id = ?1) o WHERE order_id = ?1",
            [subscription.order_id],
        )?;
        self.changed(tx, &camera.account, Reason::Renewed, None, now)
    }

    fn bind(&self, tx: &Transaction<'_>, device: &DeviceId, account: &str, now: u64) -> Result<Done, ActionError> {
        let camera = find_camera(tx, device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
        // Added again by the account that has it, after a reset: it keeps its seat and its subscription.
        let stays = camera.bound && camera.account == account;
        let (from, back) = if stays { (None, vec![]) } else { self.leave(tx, &camera, now)? };
        accounts::ensure(tx, account, now)?;
        tx.execute(
            "UPDATE cameras SET account = ?2, bound = 1, bound_at = CASE WHEN ?4 THEN bound_at ELSE ?3 END, epoch = epoch + 1, reset_at = NULL
             WHERE device = ?1",
            params![device.as_str(), account, now, stays],
        )?;
        let mut done = self.changed(tx, account, Reason::Bound, None, now)?;
        if let Some(from) = from {
            let left = self.changed(tx, &from, Reason::Upgraded, None, now)?;
            done.issued.extend(left.issued);
            done.back.extend(left.back);
        }
        done.back.splice(0..0, back);
        Ok(done)
    }

    fn unbind(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let (_, back) = self.leave(tx, &camera, now)?;
        tx.execute("UPDATE cameras SET bound = 0 WHERE device = ?1", [device.as_str()])?;
        let issued = self.issue_changes(tx, std::slice::from_ref(device), Reason::Unbound, None, now)?;
        let mut done = self.changed(tx, &camera.account, Reason::Upgraded, None, now)?;
        done.issued.splice(0..0, issued);
        done.back.splice(0..0, back);
        Ok(done)
    }

    /// Ends what belonged to this camera alone, as a cancel does; the account it was bound to, if any, and what went back.
    fn leave(&self, tx: &Transaction<'_>, camera: &Camera, now: u64) -> Result<(Option<String>, Vec<Order>), ActionError> {
        let mut back = Vec::new();
        for own in subscriptions(tx, &camera.account)?.into_iter().filter(|own| own.device.as_ref() == Some(&camera.device)) {
            if own.changes_here() {
                let order = own.settlement(kind_of_return(tx, &camera.account, &own)?, now);
                end(tx, &order, now)?;
                back.push(order);
            } else {
                // The store has the money, and gives back what it gives back.
                end_used(tx, &own.order_id, now)?;
            }
        }
        Ok((camera.bound.then(|| camera.account.clone()), back))
    }

    fn start(&self, tx: &Transaction<'_>, camera: &Camera, tier: Tier, terms: &Terms, now: u64) -> Result<(), ActionError> {
        let price_minor = self.catalogue.price_minor(tier, terms.cycle);
        if is_declined(tx, &camera.account, terms.channel, price_minor, &self.catalogue.currency)? {
            return Err(ActionError::Declined);
        }
        self.open(tx, camera, tier, terms, &Period::nth(now, 0, terms.cycle, &terms.zone), false)
    }

    /// Opens a subscription and the order of its first period.
    fn open(
        &self,
        tx: &Transaction<'_>,
        camera: &Camera,
        tier: Tier,
        terms: &Terms,
        period: &Period,
        trial: bool,
    ) -> Result<(), ActionError> {
        let Terms { cycle, channel, zone } = terms;
        let device = (tier == Tier::Plus).then_some(&camera.device);
        let price_minor = if trial { 0 } else { self.catalogue.price_minor(tier, *cycle) };
        let (account, currency) = (camera.account.as_str(), self.catalogue.currency.as_str());
        let order = NewOrder { account, tier, device, channel: *channel, cycle: *cycle, period, price_minor, currency };
        let order_id = ledger::open(tx, &order)?;
        let phase = if trial { Phase::Ending } else { Phase::Active };
        tx.execute(
            "INSERT INTO subscriptions (order_id, account, plan, device, channel, cycle, paid_minor, currency, started_at, period_end,
                                        state, zone, anchor_at, periods, due_at, trial)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?9, 1, ?10, ?13)",
            params![
                order_id,
                account,
                tier.as_str(),
                device.map(DeviceId::as_str),
                channel.as_str(),
                cycle.as_str(),
                price_minor,
                currency,
                period.start,
                period.end,
                phase.as_str(),
                zone.name(),
                trial,
            ],
        )?;
        Ok(())
    }

    /// Issues what follows for every camera of an account.
    pub(crate) fn changed(
        &self,
        tx: &Transaction<'_>,
        account: &str,
        reason: Reason,
        order: Option<Order>,
        now: u64,
    ) -> Result<Done, ActionError> {
        let mut back: Vec<_> = order.iter().cloned().collect();
        back.extend(self.credit_what_premium_covers(tx, account, now)?);
        back.extend(self.pay_out_what_nothing_takes(tx, account, now)?);
        let issued = self.issue_changes(tx, &devices(tx, Some(account))?, reason, order.as_ref(), now)?;
        Ok(Done { issued, back })
    }

    /// Credit waits for the next bill. Where none will come, because nothing that is billed here goes on, it is paid out.
    pub(crate) fn pay_out_what_nothing_takes(&self, tx: &Transaction<'_>, account: &str, now: u64) -> Result<Vec<Order>, DbError> {
        if subscriptions(tx, account)?.iter().any(Subscription::has_bills_here) {
            return Ok(Vec::new());
        }
        ledger::pay_out(tx, account, &self.catalogue.currency, now)
    }

    /// A camera that got a seat in Premium while it had a Plus of its own does not go on paying for both.
    fn credit_what_premium_covers(&self, tx: &Transaction<'_>, account: &str, now: u64) -> Result<Vec<Order>, ActionError> {
        let mut back = Vec::new();
        for own in subscriptions(tx, account)? {
            let Some(device) = own.device.as_ref().filter(|_| own.phase == Phase::Active && own.changes_here()) else { continue };
            let Some(camera) = find_camera(tx, device)?.filter(|camera| camera.bound && camera.account == account) else { continue };
            let covering = self.covering_subscription(tx, &camera, now)?;
            // What will end is no reason to give up what goes on.
            if covering.is_some_and(|covering| covering.order_id != own.order_id && covering.phase == Phase::Active) {
                let credit = own.settlement(kind_of_exchange(&own), now);
                end(tx, &credit, now)?;
                back.push(credit);
            }
        }
        Ok(back)
    }

    /// The subscription that covers the camera, or else the one that waits to be paid and would.
    pub fn subscription_of(&self, tx: &Transaction<'_>, camera: &Camera, now: u64) -> Result<Subscription, ActionError> {
        if let Some(covering) = self.covering_subscription(tx, camera, now)? {
            return Ok(covering);
        }
        let mine = |s: &Subscription| s.phase == Phase::Hold && s.device.as_ref().is_none_or(|device| *device == camera.device);
        let on_hold = subscriptions(tx, &camera.account)?.into_iter().find(mine);
        on_hold.ok_or_else(|| ActionError::NoSubscription(camera.device.clone()))
    }
}

impl PaidPlan {
    /// The plan of this name.
    pub fn read(name: &str) -> Option<Self> {
        match name {
            "plus" => Some(Self::Plus),
            "premium" => Some(Self::Premium),
            _ => None,
        }
    }

    /// The plan in the catalogue.
    pub fn tier(self) -> Tier {
        match self {
            Self::Plus => Tier::Plus,
            Self::Premium => Tier::Premium,
        }
    }
}

/// A subscription that may end, whose it is, and what would go back.
struct Reckoned {
    account: String,
    subscription: Subscription,
    back: Order,
}

/// How a subscription is to be bought; the account may have its cycle already.
struct Wanted {
    cycle: Option<Cycle>,
    channel: Channel,
    zone: Zone,
}

/// How a subscription is bought.
struct Terms {
    cycle: Cycle,
    channel: Channel,
    zone: Zone,
}

/// What goes back of a subscription that another replaces: credit, which pays for it. What an app store was paid is no credit
/// here: it goes back as money.
fn kind_of_exchange(ending: &Subscription) -> RefundKind {
    if ending.channel == Channel::Portal { RefundKind::Credit } else { RefundKind::Refund }
}

/// FAQ 2116: money goes back, unless something stays subscribed, on whose next bill it is credited. Only what is paid here
/// has a bill here: a subscription of an app store takes no credit, and gives none.
fn kind_of_return(tx: &Transaction<'_>, account: &str, ending: &Subscription) -> Result<RefundKind, DbError> {
    if ending.channel != Channel::Portal {
        return Ok(RefundKind::Refund);
    }
    let stays = |other: &Subscription| {
        let billed = matches!(other.phase, Phase::Active | Phase::Grace);
        other.order_id != ending.order_id && other.channel == Channel::Portal && billed
    };
    Ok(if subscriptions(tx, account)?.iter().any(stays) { RefundKind::Credit } else { RefundKind::Refund })
}

/// The Plus that a camera has of its own, whatever else covers it.
fn own_plus(tx: &Transaction<'_>, camera: &Camera) -> Result<Option<Subscription>, DbError> {
    let own = |s: &Subscription| s.device.as_ref() == Some(&camera.device) && s.phase == Phase::Active;
    Ok(subscriptions(tx, &camera.account)?.into_iter().find(own))
}

fn bound_camera(tx: &Transaction<'_>, device: &DeviceId) -> Result<Camera, ActionError> {
    let camera = find_camera(tx, device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
    if camera.bound { Ok(camera) } else { Err(ActionError::NotBound(device.clone())) }
}

/// Ends the subscription of this order and books what goes back.
fn end(tx: &Transaction<'_>, back: &Order, now: u64) -> Result<(), ActionError> {
    tx.execute("UPDATE subscriptions SET state = 'ended' WHERE order_id = ?1", [&back.id])?;
    Ok(ledger::close(tx, back, now)?)
}
