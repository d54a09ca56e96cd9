//! Carries out actions: subscribe, cancel, downgrade, bind, and what an app store does. Each is one transaction that
//! changes the subscriptions and lets the issuer write the documents that follow. The caller gives the time.

use care_protocol::{Channel, DeviceId, Order, Reason};

use super::{
    Action, ActionError, Done, PaidPlan, Quote, Which,
    ending::{Ending, end, kind_of_exchange, kind_of_return},
};
use crate::{
    domain::{
        accounts,
        billing::{end_used, is_declined},
        catalogue::{Cycle, Tier},
        issuer::{Camera, Issuer, Phase, Subscription, billing_cycle, devices, find_camera, seated, subscriptions},
        money::{
            Period, Zone,
            ledger::{self, NewOrder},
        },
    },
    storage::db::{DbError, Transaction, params},
};

impl Issuer {
    /// Carries an action out, within the caller's transaction.
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

    /// Registers a camera and binds it to an account, unless both was done before.
    pub fn add_camera(&self, tx: &Transaction<'_>, device: &DeviceId, model: &str, account: &str, now: u64) -> Result<Done, ActionError> {
        if let Some(camera) = find_camera(tx, device)? {
            tx.execute("UPDATE cameras SET model = ?2 WHERE device = ?1", params![device.as_str(), model])?;
            if camera.bound && camera.account == account && !camera.reset {
                return self.moved(tx, account, device, Reason::Bound, now);
            }
            return self.bind(tx, device, account, now);
        }
        accounts::ensure(tx, account, now)?;
        tx.execute(
            "INSERT INTO cameras (device, model, account, bound, bound_at, epoch, seq) VALUES (?1, ?2, ?3, 1, ?4, 1, 0)",
            params![device.as_str(), model, account, now],
        )?;
        self.moved(tx, account, device, Reason::Bound, now)
    }

    fn subscribe(&self, tx: &Transaction<'_>, device: &DeviceId, plan: PaidPlan, terms: &Wanted, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let covering = self.covering_subscription(tx, &camera, now)?;
        let tier = plan.tier();
        // A plan on trial can be bought.
        let running = covering.filter(|covering| !covering.trial).or(own_plus(tx, &camera)?).map_or(Tier::Free, |running| running.tier);
        if running >= tier {
            let hint = if running > tier { ": downgrade instead" } else { "" };
            return Err(ActionError::HasPlan { device: device.clone(), plan: running.as_str(), hint });
        }
        let cycle = self.cycle_for(tx, &camera.account, terms.cycle)?;
        // The new plan replaces this camera's subscription, its trial, an unpaid one, and with Premium every Plus of a
        // camera that gets a seat.
        let seats = seated(tx, &camera.account, self.catalogue.seats())?;
        let mut back = Vec::new();
        for old in subscriptions(tx, &camera.account)? {
            let of_camera = old.device.as_ref().is_some_and(|d| d == device || (tier == Tier::Premium && seats.contains(d)));
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

    /// The cycle of a new subscription: the account's present one, or else the requested one.
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
        let running = self.current_plan(tx, &camera, now)?.tier;
        if running != Tier::Free {
            return Err(ActionError::HasPlan {
                device: device.clone(),
                plan: running.as_str(),
                hint: ": a trial is only for an account without one",
            });
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
        let Ending { account, back, .. } = self.confirmed(tx, which, false, quote, now)?;
        end(tx, &back, now)?;
        self.changed(tx, &account, Reason::Cancelled, Some(back), now)
    }

    fn downgrade(&self, tx: &Transaction<'_>, device: &DeviceId, quote: Option<&Quote>, now: u64) -> Result<Done, ActionError> {
        let Ending { subscription, back: order, .. } = self.confirmed(tx, &Which::OfCamera(device.clone()), true, quote, now)?;
        let camera = bound_camera(tx, device)?;
        let Subscription { cycle, zone, .. } = subscription;
        end(tx, &order, now)?;
        // Plus is paid from the credit that Premium leaves. A camera that kept its own Plus continues with that.
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
        // Restores the original end of the period, which the engineers' page may have shortened.
        tx.execute(
            "UPDATE subscriptions SET state = 'active', period_end = o.period_end, due_at = o.period_end
             FROM (SELECT period_end FROM orders WHERE order_id = ?1) o WHERE order_id = ?1",
            [subscription.order_id],
        )?;
        self.changed(tx, &camera.account, Reason::Renewed, None, now)
    }

    fn bind(&self, tx: &Transaction<'_>, device: &DeviceId, account: &str, now: u64) -> Result<Done, ActionError> {
        let camera = find_camera(tx, device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
        // Added again by the same account after a reset: it keeps its seat and its subscription.
        let stays = camera.bound && camera.account == account;
        let (from, back) = if stays { (None, vec![]) } else { self.leave(tx, &camera, now)? };
        accounts::ensure(tx, account, now)?;
        tx.execute(
            "UPDATE cameras SET account = ?2, bound = 1, bound_at = CASE WHEN ?4 = 1 THEN bound_at ELSE ?3 END, epoch = epoch + 1, reset_at = NULL
             WHERE device = ?1",
            params![device.as_str(), account, now, stays],
        )?;
        let mut done = self.moved(tx, account, device, Reason::Bound, now)?;
        if let Some(from) = from {
            let left = self.moved(tx, &from, device, Reason::Upgraded, now)?;
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
        let mut done = self.moved(tx, &camera.account, device, Reason::Upgraded, now)?;
        done.issued.splice(0..0, issued);
        done.back.splice(0..0, back);
        Ok(done)
    }

    /// Ends the camera's own subscriptions as a cancel does. Returns the account it was bound to, if any, and the
    /// refunds.
    fn leave(&self, tx: &Transaction<'_>, camera: &Camera, now: u64) -> Result<(Option<String>, Vec<Order>), ActionError> {
        let mut back = Vec::new();
        for own in subscriptions(tx, &camera.account)?.into_iter().filter(|own| own.device.as_ref() == Some(&camera.device)) {
            if own.changes_here() {
                let order = own.settlement(kind_of_return(tx, &camera.account, &own)?, now);
                end(tx, &order, now)?;
                back.push(order);
            } else {
                // A refund is up to the app store.
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

    /// Issues the documents that follow for every camera of an account, and books the credits.
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

    /// The same after one camera has joined or left an account: only that camera can have another plan now, and those
    /// that the last seat is given to or taken from. So the ten-thousandth camera costs as much as the first.
    fn moved(&self, tx: &Transaction<'_>, account: &str, device: &DeviceId, reason: Reason, now: u64) -> Result<Done, ActionError> {
        let mut back = self.credit_what_premium_covers(tx, account, now)?;
        back.extend(self.pay_out_what_nothing_takes(tx, account, now)?);
        let mut concerned = seated(tx, account, self.catalogue.seats() + 1)?;
        let is_here = find_camera(tx, device)?.is_some_and(|camera| camera.bound && camera.account == account);
        if is_here && !concerned.contains(device) {
            concerned.push(device.clone());
        }
        Ok(Done { issued: self.issue_changes(tx, &concerned, reason, None, now)?, back })
    }

    /// The subscription that covers the camera, or else the unpaid one that would.
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

/// The requested terms of a subscription. The account may already have a cycle.
struct Wanted {
    cycle: Option<Cycle>,
    channel: Channel,
    zone: Zone,
}

/// The terms of a subscription.
struct Terms {
    cycle: Cycle,
    channel: Channel,
    zone: Zone,
}

/// The camera's own Plus, even if another subscription covers it.
fn own_plus(tx: &Transaction<'_>, camera: &Camera) -> Result<Option<Subscription>, DbError> {
    let own = |s: &Subscription| s.device.as_ref() == Some(&camera.device) && s.phase == Phase::Active;
    Ok(subscriptions(tx, &camera.account)?.into_iter().find(own))
}

pub(super) fn bound_camera(tx: &Transaction<'_>, device: &DeviceId) -> Result<Camera, ActionError> {
    let camera = find_camera(tx, device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
    if camera.bound { Ok(camera) } else { Err(ActionError::NotBound(device.clone())) }
}
