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
};

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
    },
    /// Ends the portal subscription that covers the camera, now.
    Cancel {
        /// The camera.
        camera: DeviceId,
    },
    /// From Premium to Plus for this camera, now; the account's others get Free.
    Downgrade {
        /// The camera.
        camera: DeviceId,
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

/// What an action did.
#[derive(Debug, Clone)]
pub struct Done {
    /// The documents it caused.
    pub issued: Vec<Issued>,
    /// Money that went back.
    pub refund: Option<Order>,
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
    /// Every camera that loses its plan by it.
    pub cameras: Vec<DeviceId>,
}

impl Issuer {
    /// Does it, within the caller's transaction.
    pub fn act(&self, tx: &Transaction<'_>, action: &Action, now: u64) -> Result<Done, ActionError> {
        match action {
            Action::Subscribe { camera, plan, cycle, channel } => {
                let cycle = cycle.unwrap_or(Cycle::Monthly);
                self.subscribe(tx, camera, *plan, cycle, channel.unwrap_or(Channel::Portal), now)
            }
            Action::Cancel { camera } => self.cancel(tx, camera, now),
            Action::Downgrade { camera } => self.downgrade(tx, camera, now),
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
        let remaining = subscriptions(tx, &camera.account)?.iter().any(|other| other.order_id != subscription.order_id);
        let cameras = match subscription.tier {
            Tier::Premium => devices(tx, Some(&camera.account))?.into_iter().take(self.catalogue.seats()).collect(),
            Tier::Plus | Tier::Free => vec![device.clone()],
        };
        Ok(Offer {
            kind: if downgrade || remaining { RefundKind::Credit } else { RefundKind::Refund },
            amount_minor: prorated(&subscription, now),
            currency: subscription.currency.clone(),
            plan: subscription.tier.as_str(),
            order_id: subscription.order_id,
            cameras,
        })
    }

    fn subscribe(
        &self,
        tx: &Transaction<'_>,
        device: &DeviceId,
        plan: PaidPlan,
        cycle: Cycle,
        channel: Channel,
        now: u64,
    ) -> Result<Done, ActionError> {
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
        let mut credit = None;
        for old in subscriptions(tx, &camera.account)? {
            let replaced = old.device.as_ref().is_some_and(|d| d == device || (tier == Tier::Premium && seated.contains(d)));
            if replaced && old.channel == Channel::Portal {
                credit = Some(end(tx, &old, RefundKind::Credit, now)?);
            } else if replaced {
                return Err(ActionError::BoughtInApp(old.channel));
            }
        }
        self.start(tx, &camera, tier, cycle, channel, now)?;
        let reason = if running == Tier::Free { Reason::Subscribed } else { Reason::Upgraded };
        let done = self.changed(tx, &camera.account, reason, None, now)?;
        Ok(Done { refund: credit, ..done })
    }

    fn cancel(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Done, ActionError> {
        let offer = self.offer(tx, device, false, now)?;
        let camera = bound_camera(tx, device)?;
        let order = end(tx, &covering(self, tx, &camera, now)?, offer.kind, now)?;
        self.changed(tx, &camera.account, Reason::Cancelled, Some(order), now)
    }

    fn downgrade(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Done, ActionError> {
        let offer = self.offer(tx, device, true, now)?;
        let camera = bound_camera(tx, device)?;
        let premium = covering(self, tx, &camera, now)?;
        let order = end(tx, &premium, offer.kind, now)?;
        let cycle = Cycle::read(&premium.cycle).unwrap_or(Cycle::Monthly);
        self.start(tx, &camera, Tier::Plus, cycle, Channel::Portal, now)?;
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
        tx.execute("UPDATE subscriptions SET state = 'active' WHERE order_id = ?1", [subscription.order_id])?;
        self.changed(tx, &camera.account, Reason::Renewed, None, now)
    }

    fn bind(&self, tx: &Transaction<'_>, device: &DeviceId, account: &str, now: u64) -> Result<Done, ActionError> {
        let camera = find_camera(tx, device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
        let from = self.leave(tx, &camera)?;
        add_account(tx, account, now)?;
        tx.execute(
            "UPDATE cameras SET account = ?2, bound = 1, bound_at = ?3, epoch = epoch + 1 WHERE device = ?1",
            params![device.as_str(), account, now],
        )?;
        let mut done = self.changed(tx, account, Reason::Bound, None, now)?;
        if let Some(from) = from.filter(|from| from != account) {
            done.issued.extend(self.changed(tx, &from, Reason::Upgraded, None, now)?.issued);
        }
        Ok(done)
    }

    fn unbind(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Done, ActionError> {
        let camera = bound_camera(tx, device)?;
        self.leave(tx, &camera)?;
        tx.execute("UPDATE cameras SET bound = 0 WHERE device = ?1", [device.as_str()])?;
        let issued = self.issue_changes(tx, std::slice::from_ref(device), Reason::Unbound, None, now)?;
        let mut done = self.changed(tx, &camera.account, Reason::Upgraded, None, now)?;
        done.issued.splice(0..0, issued);
        Ok(done)
    }

    /// Ends what belonged to this camera alone; the account it was bound to, if any.
    fn leave(&self, tx: &Transaction<'_>, camera: &Camera) -> Result<Option<String>, ActionError> {
        let ended = "UPDATE subscriptions SET state = 'ended' WHERE device = ?1 AND state != 'ended'";
        tx.execute(ended, [camera.device.as_str()])?;
        Ok(camera.bound.then(|| camera.account.clone()))
    }

    fn start(
        &self,
        tx: &Transaction<'_>,
        camera: &Camera,
        tier: Tier,
        cycle: Cycle,
        channel: Channel,
        now: u64,
    ) -> Result<(), ActionError> {
        let number: u64 = tx.query_row("SELECT count(*) + 1 FROM subscriptions", [], |row| row.get(0))?;
        let year = time::OffsetDateTime::from_unix_timestamp(i64::try_from(now).unwrap_or(0)).map_or(1970, |at| at.year());
        let device = (tier == Tier::Plus).then(|| camera.device.as_str());
        tx.execute(
            "INSERT INTO subscriptions (order_id, account, plan, device, channel, cycle, paid_minor, currency, started_at, period_end, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'active')",
            params![
                format!("KC-{year}-{number:06}"),
                camera.account,
                tier.as_str(),
                device,
                channel.as_str(),
                cycle.as_str(),
                self.catalogue.price_minor(tier, cycle),
                self.catalogue.currency,
                now,
                now + cycle.seconds(),
            ],
        )?;
        Ok(())
    }

    /// Issues what follows for every camera of an account.
    fn changed(&self, tx: &Transaction<'_>, account: &str, reason: Reason, order: Option<Order>, now: u64) -> Result<Done, ActionError> {
        let issued = self.issue_changes(tx, &devices(tx, Some(account))?, reason, order.as_ref(), now)?;
        Ok(Done { issued, refund: order })
    }

    /// Ends what has run out, and issues what follows: the cloud's own performing of `next`.
    pub fn end_periods(&self, tx: &Transaction<'_>, now: u64) -> Result<Vec<Issued>, ActionError> {
        let accounts: Vec<String> = tx
            .prepare("UPDATE subscriptions SET state = 'ended' WHERE state = 'ending' AND period_end <= ?1 RETURNING account")?
            .query_map([now], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut issued = Vec::new();
        for account in accounts {
            issued.extend(self.changed(tx, &account, Reason::Cancelled, None, now)?.issued);
        }
        Ok(issued)
    }
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

/// Ends a subscription and books what goes back.
fn end(tx: &Transaction<'_>, subscription: &Subscription, kind: RefundKind, now: u64) -> Result<Order, ActionError> {
    let amount_minor = prorated(subscription, now);
    tx.execute("UPDATE subscriptions SET state = 'ended' WHERE order_id = ?1", [&subscription.order_id])?;
    tx.execute(
        "INSERT INTO refunds (order_id, kind, amount_minor, currency, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![subscription.order_id, kind.as_str(), amount_minor, subscription.currency, now],
    )?;
    let refund = Refund { kind, amount_minor, currency: subscription.currency.clone() };
    Ok(Order { id: subscription.order_id.clone(), refund })
}

/// What was paid for the whole days that are left, rounded down: a day that has begun, the first one too, is used.
fn prorated(subscription: &Subscription, now: u64) -> u64 {
    let days = |seconds: u64| u128::from(seconds / 86_400);
    let period = days(subscription.period_end.saturating_sub(subscription.started_at));
    let left = days(subscription.period_end.saturating_sub(now.max(subscription.started_at) + 1));
    let amount = (u128::from(subscription.paid_minor) * left).checked_div(period).unwrap_or(0);
    u64::try_from(amount).unwrap_or(subscription.paid_minor).min(subscription.paid_minor)
}

/// When the next period ends that was cancelled in its store, Unix seconds.
pub fn next_period_end(connection: &rusqlite::Connection) -> Result<Option<u64>, DbError> {
    let next = "SELECT period_end FROM subscriptions WHERE state = 'ending' ORDER BY period_end LIMIT 1";
    Ok(connection.query_row(next, [], |row| row.get(0)).optional()?)
}
