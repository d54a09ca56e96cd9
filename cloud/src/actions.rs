//! What people can do to a plan: subscribe, cancel, downgrade, and what an app store does. Each is one transaction that
//! changes the subscriptions and lets the issuer write whatever documents follow. No clock in here: `now` is given.

use care_protocol::{Channel, DeviceId, Order, Reason, Refund, RefundKind};
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    catalogue::{Cycle, Tier},
    db::DbError,
    issuer::{Camera, Issued, Issuer, Subscription, devices, find_camera, subscriptions},
    money::{
        Period, Zone,
        ledger::{self, NewOrder},
        settlement,
    },
};

/// So long an amount that was shown is booked as shown, even if a day begins meanwhile.
const QUOTE_HOLDS_S: u64 = 900;

/// Why an action was refused; the message is for the person who asked.
#[derive(Debug, Error)]
pub enum ActionError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// No such camera.
    #[error("there is no camera {0}: add it with `care-cloud camera add`")]
    NoCamera(DeviceId),
    /// The camera is not bound to an account.
    #[error("camera {0} belongs to no account: bind it first")]
    NotBound(DeviceId),
    /// Nothing to act on.
    #[error("camera {0} has no subscription")]
    NoSubscription(DeviceId),
    /// Bought in an app store (FAQ 2116).
    #[error("this subscription was bought in the app ({0}): cancel it there; it stays active until its period ends")]
    BoughtInApp(Channel),
    /// The other way round.
    #[error("this subscription was bought on the portal: cancel it there")]
    BoughtOnPortal,
    /// The plan is there already, or a higher one covers the camera.
    #[error("camera {device} has {plan} already{hint}")]
    HasPlan {
        /// The camera.
        device: DeviceId,
        /// The plan it has.
        plan: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// Something else was done meanwhile: what was confirmed is not what would happen.
    #[error("this is not what was shown any more: look again what is given back, then confirm")]
    NotAsShown,
    /// Nothing lower to go to.
    #[error("only Premium can be downgraded to Plus; camera {0} does not have Premium")]
    NotPremium(DeviceId),
}

impl From<rusqlite::Error> for ActionError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Db(e.into())
    }
}

/// One action, as the portal and the command line ask for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// A new plan for a camera (Plus) or for its account (Premium).
    Subscribe {
        /// The camera.
        camera: DeviceId,
        /// `plus` or `premium`.
        plan: PaidPlan,
        /// How often it is paid.
        #[serde(default)]
        cycle: Option<Cycle>,
        /// Where it is bought.
        #[serde(default)]
        channel: Option<Channel>,
        /// Whose days are counted on its bills.
        #[serde(default)]
        zone: Option<Zone>,
    },
    /// Ends the portal subscription that covers the camera, now.
    Cancel {
        /// The camera.
        camera: DeviceId,
        /// What the person saw and confirmed; without it, whatever it is now.
        #[serde(default)]
        quote: Option<Quote>,
    },
    /// From Premium to Plus for this camera, now; the account's others get Free.
    Downgrade {
        /// The camera.
        camera: DeviceId,
        /// As with `Cancel`.
        #[serde(default)]
        quote: Option<Quote>,
    },
    /// The owner cancelled in the app store: it ends with its period.
    StoreCancel {
        /// The camera.
        camera: DeviceId,
        /// Lets the period end so many seconds from now, so that one can watch it.
        #[serde(default)]
        ends_in_s: Option<u64>,
    },
    /// The owner changed their mind in the app store before the period ended.
    Withdraw {
        /// The camera.
        camera: DeviceId,
    },
    /// The camera goes to an account; its binding epoch rises.
    Bind {
        /// The camera.
        camera: DeviceId,
        /// The account.
        account: String,
    },
    /// The camera leaves its account.
    Unbind {
        /// The camera.
        camera: DeviceId,
    },
}

/// A plan that costs money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaidPlan {
    /// One camera.
    Plus,
    /// The account.
    Premium,
}

/// What was shown to a person before confirming. It is booked exactly so, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Quote {
    /// The subscription's order.
    pub order_id: String,
    /// `refund` or `credit`.
    pub kind: RefundKind,
    /// Minor units.
    pub amount_minor: u64,
    /// When it was shown, Unix seconds.
    pub at: u64,
}

/// What an action did.
#[derive(Debug, Clone)]
pub struct Done {
    /// The documents it caused.
    pub issued: Vec<Issued>,
    /// Money that went back, by the orders it was paid with.
    pub back: Vec<Order>,
}

/// What cancelling or downgrading would give back, to be shown before confirming.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The subscription's order.
    pub order_id: String,
    /// Its plan.
    pub plan: &'static str,
    /// `refund` or `credit`.
    pub kind: RefundKind,
    /// Minor units.
    pub amount_minor: u64,
    /// ISO 4217.
    pub currency: String,
    /// When this was reckoned, Unix seconds.
    pub at: u64,
    /// Every camera that loses its plan by it.
    pub cameras: Vec<DeviceId>,
}

impl Issuer {
    /// Does it, within the caller's transaction.
    pub fn act(&self, tx: &Transaction<'_>, action: &Action, now: u64) -> Result<Done, ActionError> {
        match action {
            Action::Subscribe { camera, plan, cycle, channel, zone } => {
                let zone = zone.clone().unwrap_or_else(Zone::utc);
                let terms = Terms { cycle: cycle.unwrap_or(Cycle::Monthly), channel: channel.unwrap_or(Channel::Portal), zone };
                self.subscribe(tx, camera, *plan, &terms, now)
            }
            Action::Cancel { camera, quote } => self.cancel(tx, camera, quote.as_ref(), now),
            Action::Downgrade { camera, quote } => self.downgrade(tx, camera, quote.as_ref(), now),
            Action::StoreCancel { camera, ends_in_s } => self.store_cancel(tx, camera, *ends_in_s, now),
            Action::Withdraw { camera } => self.withdraw(tx, camera, now),
            Action::Bind { camera, account } => self.bind(tx, camera, account, now),
            Action::Unbind { camera } => self.unbind(tx, camera, now),
        }
    }

    /// Makes a camera known and binds it to an account, or does nothing if both is so already.
    pub fn add_camera(&self, tx: &Transaction<'_>, device: &DeviceId, model: &str, account: &str, now: u64) -> Result<Done, ActionError> {
        if let Some(camera) = find_camera(tx, device)? {
            tx.execute("UPDATE cameras SET model = ?2 WHERE device = ?1", params![device.as_str(), model])?;
            if camera.bound && camera.account == account {
                return self.changed(tx, account, Reason::Bound, None, now);
            }
            return self.bind(tx, device, account, now);
        }
        add_account(tx, account, now)?;
        tx.execute(
            "INSERT INTO cameras (device, model, account, bound, bound_at, epoch, seq) VALUES (?1, ?2, ?3, 1, ?4, 1, 0)",
            params![device.as_str(), model, account, now],
        )?;
        self.changed(tx, account, Reason::Bound, None, now)
    }

    /// What cancelling or downgrading would give back; refused exactly when the action would be.
    pub fn offer(&self, tx: &Transaction<'_>, device: &DeviceId, downgrade: bool, now: u64) -> Result<Offer, ActionError> {
        let camera = bound_camera(tx, device)?;
        let subscription = covering(self, tx, &camera, now)?;
        if subscription.channel != Channel::Portal {
            return Err(ActionError::BoughtInApp(subscription.channel));
        }
        if downgrade && subscription.tier != Tier::Premium {
            return Err(ActionError::NotPremium(device.clone()));
        }
        let kind = if downgrade { RefundKind::Credit } else { kind_of_return(tx, &camera.account, &subscription)? };
        let Order { id: order_id, refund } = settlement(&subscription, kind, now);
        let cameras = match subscription.tier {
            Tier::Premium => devices(tx, Some(&camera.account))?.into_iter().take(self.catalogue.seats()).collect(),
            Tier::Plus | Tier::Free => vec![device.clone()],
        };
        Ok(Offer {
            kind: refund.kind,
            amount_minor: refund.amount_minor,
            currency: refund.currency,
            at: now,
            plan: subscription.tier.as_str(),
            order_id,
            cameras,
        })
    }

    /// What is to be booked: what was shown if that still holds, else what it is now.
    fn confirmed(
        &self,
        tx: &Transaction<'_>,
        device: &DeviceId,
        downgrade: bool,
        quote: Option<&Quote>,
        now: u64,
    ) -> Result<Order, ActionError> {
        let at = quote.map(|quote| quote.at).filter(|at| (now.saturating_sub(QUOTE_HOLDS_S)..=now).contains(at)).unwrap_or(now);
        let offer = self.offer(tx, device, downgrade, at)?;
        if quote.is_some_and(|quote| (&quote.order_id, quote.kind, quote.amount_minor) != (&offer.order_id, offer.kind, offer.amount_minor))
        {
            return Err(ActionError::NotAsShown);
        }
        let refund = Refund { kind: offer.kind, amount_minor: offer.amount_minor, currency: offer.currency };
        Ok(Order { id: offer.order_id, refund })
    }

    fn subscribe(&self, tx: &Transaction<'_>, device: &DeviceId, plan: PaidPlan, terms: &Terms, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let running = self.standing(tx, &camera, now)?.tier;
        let tier = match plan {
            PaidPlan::Plus => Tier::Plus,
            PaidPlan::Premium => Tier::Premium,
        };
        if running >= tier {
            let hint = if running > tier { ": downgrade instead" } else { "" };
            return Err(ActionError::HasPlan { device: device.clone(), plan: running.as_str(), hint });
        }
        // What the new plan replaces: this camera's Plus, and with Premium every Plus of a camera that gets a seat.
        let seated: Vec<_> = devices(tx, Some(&camera.account))?.into_iter().take(self.catalogue.seats()).collect();
        let mut back = Vec::new();
        for old in subscriptions(tx, &camera.account)? {
            let replaced = old.device.as_ref().is_some_and(|d| d == device || (tier == Tier::Premium && seated.contains(d)));
            if replaced && old.channel == Channel::Portal {
                let credit = settlement(&old, RefundKind::Credit, now);
                end(tx, &credit, now)?;
                back.push(credit);
            } else if replaced {
                return Err(ActionError::BoughtInApp(old.channel));
            }
        }
        self.start(tx, &camera, tier, terms, now)?;
        let reason = if running == Tier::Free { Reason::Subscribed } else { Reason::Upgraded };
        let done = self.changed(tx, &camera.account, reason, None, now)?;
        Ok(Done { back, ..done })
    }

    fn cancel(&self, tx: &Transaction<'_>, device: &DeviceId, quote: Option<&Quote>, now: u64) -> Result<Done, ActionError> {
        let order = self.confirmed(tx, device, false, quote, now)?;
        let camera = bound_camera(tx, device)?;
        end(tx, &order, now)?;
        self.changed(tx, &camera.account, Reason::Cancelled, Some(order), now)
    }

    fn downgrade(&self, tx: &Transaction<'_>, device: &DeviceId, quote: Option<&Quote>, now: u64) -> Result<Done, ActionError> {
        let order = self.confirmed(tx, device, true, quote, now)?;
        let camera = bound_camera(tx, device)?;
        let Subscription { cycle, zone, .. } = covering(self, tx, &camera, now)?;
        end(tx, &order, now)?;
        // The next bill is this one: Plus is paid from the credit that Premium left.
        self.start(tx, &camera, Tier::Plus, &Terms { cycle, zone, channel: Channel::Portal }, now)?;
        self.changed(tx, &camera.account, Reason::Downgraded, Some(order), now)
    }

    fn store_cancel(&self, tx: &Transaction<'_>, device: &DeviceId, ends_in_s: Option<u64>, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let subscription = covering(self, tx, &camera, now)?;
        if subscription.channel == Channel::Portal {
            return Err(ActionError::BoughtOnPortal);
        }
        let period_end = ends_in_s.map_or(subscription.period_end, |seconds| now.saturating_add(seconds));
        tx.execute(
            "UPDATE subscriptions SET state = 'ending', period_end = ?2 WHERE order_id = ?1",
            params![subscription.order_id, period_end],
        )?;
        self.changed(tx, &camera.account, Reason::Cancelled, None, now)
    }

    fn withdraw(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let subscription = covering(self, tx, &camera, now)?;
        // The period ends when it was to end, however the page had shortened it.
        tx.execute(
            "UPDATE subscriptions SET state = 'active', period_end = (SELECT period_end FROM orders o WHERE o.order_id = ?1)
             WHERE order_id = ?1",
            [subscription.order_id],
        )?;
        self.changed(tx, &camera.account, Reason::Renewed, None, now)
    }

    fn bind(&self, tx: &Transaction<'_>, device: &DeviceId, account: &str, now: u64) -> Result<Done, ActionError> {
        let camera = find_camera(tx, device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
        let (from, back) = self.leave(tx, &camera, now)?;
        add_account(tx, account, now)?;
        tx.execute(
            "UPDATE cameras SET account = ?2, bound = 1, bound_at = ?3, epoch = epoch + 1 WHERE device = ?1",
            params![device.as_str(), account, now],
        )?;
        let mut done = self.changed(tx, account, Reason::Bound, None, now)?;
        if let Some(from) = from.filter(|from| from != account) {
            done.issued.extend(self.changed(tx, &from, Reason::Upgraded, None, now)?.issued);
        }
        done.back = back;
        Ok(done)
    }

    fn unbind(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        let (_, back) = self.leave(tx, &camera, now)?;
        tx.execute("UPDATE cameras SET bound = 0 WHERE device = ?1", [device.as_str()])?;
        let issued = self.issue_changes(tx, std::slice::from_ref(device), Reason::Unbound, None, now)?;
        let mut done = self.changed(tx, &camera.account, Reason::Upgraded, None, now)?;
        done.issued.splice(0..0, issued);
        done.back = back;
        Ok(done)
    }

    /// Ends what belonged to this camera alone, as a cancel does; the account it was bound to, if any, and what went back.
    fn leave(&self, tx: &Transaction<'_>, camera: &Camera, now: u64) -> Result<(Option<String>, Vec<Order>), ActionError> {
        let mut back = Vec::new();
        for own in subscriptions(tx, &camera.account)?.into_iter().filter(|own| own.device.as_ref() == Some(&camera.device)) {
            if own.channel == Channel::Portal {
                let order = settlement(&own, kind_of_return(tx, &camera.account, &own)?, now);
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
        let Terms { cycle, channel, zone } = terms;
        let device = (tier == Tier::Plus).then_some(&camera.device);
        let period = Period::nth(now, 0, *cycle, zone);
        let price_minor = self.catalogue.price_minor(tier, *cycle);
        let (account, currency) = (camera.account.as_str(), self.catalogue.currency.as_str());
        let order = NewOrder { account, tier, device, channel: *channel, cycle: *cycle, period: &period, price_minor, currency };
        let order_id = ledger::open(tx, &order)?;
        tx.execute(
            "INSERT INTO subscriptions (order_id, account, plan, device, channel, cycle, paid_minor, currency, started_at, period_end,
                                        state, zone, anchor_at, periods)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'active', ?11, ?9, 1)",
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
                zone.name(),
            ],
        )?;
        Ok(())
    }

    /// Closes the order of the period that is over and bills the next one, from the account's credit first.
    fn bill_next(&self, tx: &Transaction<'_>, account: &str, old: &Subscription) -> Result<(), ActionError> {
        ledger::close_used(tx, &old.order_id, old.period_end)?;
        let period = Period::nth(old.anchor_at, old.periods, old.cycle, &old.zone);
        let price_minor = self.catalogue.price_minor(old.tier, old.cycle);
        let order = NewOrder {
            account,
            tier: old.tier,
            device: old.device.as_ref(),
            channel: old.channel,
            cycle: old.cycle,
            period: &period,
            price_minor,
            currency: &self.catalogue.currency,
        };
        let order_id = ledger::open(tx, &order)?;
        tx.execute(
            "UPDATE subscriptions SET order_id = ?2, paid_minor = ?3, currency = ?4, started_at = ?5, period_end = ?6, periods = periods + 1
             WHERE order_id = ?1",
            params![old.order_id, order_id, price_minor, order.currency, period.start, period.end],
        )?;
        Ok(())
    }

    /// Issues what follows for every camera of an account.
    fn changed(&self, tx: &Transaction<'_>, account: &str, reason: Reason, order: Option<Order>, now: u64) -> Result<Done, ActionError> {
        let issued = self.issue_changes(tx, &devices(tx, Some(account))?, reason, order.as_ref(), now)?;
        Ok(Done { issued, back: order.into_iter().collect() })
    }

    /// Ends what has run out, bills what goes on, and issues what follows: the cloud's own performing of `next`.
    pub fn end_periods(&self, tx: &Transaction<'_>, now: u64) -> Result<Vec<Issued>, ActionError> {
        let mut issued = Vec::new();
        for account in accounts_due(tx, now)? {
            let mut ended = false;
            // The oldest first, and each bill for itself: after a long pause there may be several.
            while let Some(due) = subscriptions(tx, &account)?.into_iter().filter(|s| s.period_end <= now).min_by_key(|s| s.period_end) {
                if due.ending {
                    end_used(tx, &due.order_id, due.period_end)?;
                    ended = true;
                } else {
                    self.bill_next(tx, &account, &due)?;
                }
            }
            if ended {
                issued.extend(self.changed(tx, &account, Reason::Cancelled, None, now)?.issued);
            }
        }
        Ok(issued)
    }
}

/// How a subscription is bought.
struct Terms {
    cycle: Cycle,
    channel: Channel,
    zone: Zone,
}

fn accounts_due(tx: &Transaction<'_>, now: u64) -> Result<Vec<String>, DbError> {
    let mut statement = tx.prepare("SELECT DISTINCT account FROM subscriptions WHERE state != 'ended' AND period_end <= ?1")?;
    let accounts = statement.query_map([now], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(accounts)
}

/// FAQ 2116: money goes back, unless something stays subscribed, on whose next bill it is credited. Only what is paid here
/// has a bill here: a subscription of an app store takes no credit.
fn kind_of_return(tx: &Transaction<'_>, account: &str, ending: &Subscription) -> Result<RefundKind, DbError> {
    let stays = |other: &Subscription| other.order_id != ending.order_id && other.channel == Channel::Portal;
    Ok(if subscriptions(tx, account)?.iter().any(stays) { RefundKind::Credit } else { RefundKind::Refund })
}

fn add_account(tx: &Transaction<'_>, account: &str, now: u64) -> Result<(), ActionError> {
    tx.execute("INSERT OR IGNORE INTO accounts (id, created_at) VALUES (?1, ?2)", params![account, now])?;
    Ok(())
}

fn bound_camera(tx: &Transaction<'_>, device: &DeviceId) -> Result<Camera, ActionError> {
    let camera = find_camera(tx, device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
    if camera.bound { Ok(camera) } else { Err(ActionError::NotBound(device.clone())) }
}

fn covering(issuer: &Issuer, tx: &Transaction<'_>, camera: &Camera, now: u64) -> Result<Subscription, ActionError> {
    issuer.covering_subscription(tx, camera, now)?.ok_or_else(|| ActionError::NoSubscription(camera.device.clone()))
}

/// Ends the subscription of this order and books what goes back.
fn end(tx: &Transaction<'_>, back: &Order, now: u64) -> Result<(), ActionError> {
    tx.execute("UPDATE subscriptions SET state = 'ended' WHERE order_id = ?1", [&back.id])?;
    Ok(ledger::close(tx, back, now)?)
}

/// Ends the subscription of this order; nothing goes back.
fn end_used(tx: &Transaction<'_>, order_id: &str, now: u64) -> Result<(), ActionError> {
    tx.execute("UPDATE subscriptions SET state = 'ended' WHERE order_id = ?1", [order_id])?;
    Ok(ledger::close_used(tx, order_id, now)?)
}

/// When the next period ends, Unix seconds: one that was cancelled in its store, or one after which a bill is due.
pub fn next_period_end(connection: &rusqlite::Connection) -> Result<Option<u64>, DbError> {
    let next = "SELECT period_end FROM subscriptions WHERE state != 'ended' ORDER BY period_end LIMIT 1";
    Ok(connection.query_row(next, [], |row| row.get(0)).optional()?)
}
