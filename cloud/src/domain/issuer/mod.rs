//! The issuer: derives each camera's plan from the subscriptions. When the plan differs from the camera's last
//! document, it signs a new one and writes it with its outbox row. If the new plan allows less, the same transaction
//! revokes the camera's open grants and marks its history outside the new window as erased.

mod cameras;
mod documents;
mod subscriptions;

use care_protocol::{Channel, DeviceId, Entitlement, Lease, Next, Order, Policy, Position, Reason};

use self::cameras::{Newest, issued_until, note_newest, signed_before};
pub use self::{
    cameras::{Camera, camera, devices, find_camera, note_history, seated, with_old_clips},
    documents::{Body, NextBody, newest_body, newest_token, read_body, token_for},
    subscriptions::{Phase, Subscription, billing_cycle, read_channel, subscriptions},
};
use crate::{
    clock::now_us,
    domain::{
        catalogue::{Catalogue, Tier},
        clips::{mark_older, mark_other_owners},
    },
    fail_point,
    storage::{
        db::{Connection, DbError, Transaction, params},
        keys::{ISSUER, Keys},
        outbox,
    },
};

/// Documents issued in one transaction when time or a new key causes them: few enough that nothing waits long for the
/// database.
pub const BATCH: usize = 500;

/// Signs documents under one catalogue and one lease.
#[derive(Debug)]
pub struct Issuer {
    /// The keys in use.
    pub keys: Keys,
    /// The plans.
    pub catalogue: Catalogue,
    /// `max_age_s` of every lease.
    pub lease_s: u64,
}

/// The plan of a camera at a given time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentPlan {
    /// The plan.
    pub tier: Tier,
    /// Its limits.
    pub policy: Policy,
    /// Where it was bought.
    pub channel: Channel,
    /// The announced change, if there is one.
    pub next: Option<Next>,
    /// Premium has no seat left for this camera.
    pub seatless: bool,
}

/// A document that was issued. After the commit, pass the revoked grants to the store.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The camera.
    pub device: DeviceId,
    /// Its place in the order.
    pub position: Position,
    /// The plan it carries.
    pub plan: String,
    /// Why.
    pub reason: Reason,
    /// Grants it revoked.
    pub revoked: Vec<String>,
    /// Clips it erased from the store.
    pub erased: Vec<String>,
}

impl Issuer {
    /// Issues a new document for each of these cameras whose plan differs from its last one. `reason` is for cameras
    /// that lose or change; one that gains a seat is `upgraded`, one without a seat is `seat_limit`. A camera that was
    /// reset gets none, because it rejects every document of this binding.
    pub fn issue_changes(
        &self,
        tx: &Transaction<'_>,
        devices: &[DeviceId],
        reason: Reason,
        order: Option<&Order>,
        now: u64,
    ) -> Result<Vec<Issued>, DbError> {
        let mut issued = Vec::new();
        for device in devices {
            let camera = camera(tx, device)?;
            if camera.reset {
                continue;
            }
            let current_plan = self.current_plan(tx, &camera, now)?;
            let last = newest_body(tx, device)?;
            let forced = lasting_reason(&camera, &current_plan);
            if last.as_ref().is_some_and(|last| last.says(&camera, &current_plan, forced)) {
                continue;
            }
            let reason = reason_for(&camera, &current_plan, last.as_ref(), reason);
            // Only the document of the change itself carries the refund, not those of cameras that change seats.
            let order = order.filter(|_| matches!(reason, Reason::Cancelled | Reason::Downgraded | Reason::Refunded)).cloned();
            let document = entitlement(&camera, &current_plan, reason, order, self.lease(now), now)?;
            issued.push(self.write(tx, &document, &current_plan.policy, last.as_ref(), now)?);
        }
        Ok(issued)
    }

    /// Issues documents again whose lease is half over, with the next sequence and reason `renewed`: one [`BATCH`].
    pub fn renew(&self, tx: &Transaction<'_>, now: u64) -> Result<Vec<Issued>, DbError> {
        self.renew_each(tx, &issued_until(tx, self.half_over(now), BATCH)?, now)
    }

    /// Issues documents again that another key than the present one has signed: one [`BATCH`]. After a rotation it is
    /// called until none is left, also after a crash in between.
    pub fn renew_under_new_key(&self, tx: &Transaction<'_>, now: u64) -> Result<Vec<Issued>, DbError> {
        self.renew_each(tx, &signed_before(tx, self.keys.current().number(), BATCH)?, now)
    }

    /// Whether any lease is half over, or any document is signed by an older key.
    pub fn renewals_due(&self, connection: &Connection, now: u64) -> Result<bool, DbError> {
        let lease = !issued_until(connection, self.half_over(now), 1)?.is_empty();
        Ok(lease || !signed_before(connection, self.keys.current().number(), 1)?.is_empty())
    }

    /// The lease of what was issued until then is half over at `now`.
    fn half_over(&self, now: u64) -> u64 {
        now.saturating_sub(self.lease_s.div_ceil(2))
    }

    fn renew_each(&self, tx: &Transaction<'_>, devices: &[DeviceId], now: u64) -> Result<Vec<Issued>, DbError> {
        devices.iter().map(|device| self.reissue(tx, device, self.lease(now), now)).collect()
    }

    /// Issues a camera's document again with this lease, even if nothing has changed.
    pub fn reissue(&self, tx: &Transaction<'_>, device: &DeviceId, lease: Lease, now: u64) -> Result<Issued, DbError> {
        let last = newest_body(tx, device)?;
        let (draft, current_plan) = self.draft(tx, device, lease, now)?;
        self.write(tx, &draft, &current_plan.policy, last.as_ref(), now)
    }

    /// The next document of a camera, neither signed nor written.
    pub fn draft(&self, connection: &Connection, device: &DeviceId, lease: Lease, now: u64) -> Result<(Entitlement, CurrentPlan), DbError> {
        let camera = camera(connection, device)?;
        let current_plan = self.current_plan(connection, &camera, now)?;
        let reason = lasting_reason(&camera, &current_plan).unwrap_or(Reason::Renewed);
        Ok((entitlement(&camera, &current_plan, reason, None, lease, now)?, current_plan))
    }

    /// The lease of a document that is issued now.
    pub fn lease(&self, now: u64) -> Lease {
        Lease { max_age_s: self.lease_s, not_after: now + self.lease_s }
    }

    /// The plan of a camera at `now`, from its account's subscriptions.
    pub fn current_plan(&self, connection: &Connection, camera: &Camera, now: u64) -> Result<CurrentPlan, DbError> {
        if !camera.bound {
            let channel = Channel::Portal;
            return Ok(CurrentPlan { tier: Tier::Free, policy: Policy::CLOSED, channel, next: None, seatless: false });
        }
        let covering = self.covering(connection, camera, now)?;
        let (tier, channel) = covering.subscription.as_ref().map_or((Tier::Free, Channel::Portal), |s| (s.tier, s.channel));
        let mut next = None;
        if let Some((ending, reason)) = covering.subscription.and_then(|s| s.ends_because().map(|reason| (s, reason))) {
            let then = self.covering(connection, camera, ending.due_at)?.subscription.map_or(Tier::Free, |s| s.tier);
            let policy = self.catalogue.policy(then, &camera.model);
            next = Some(Next { plan: then.plan(), effective_at: ending.due_at, reason, policy });
        }
        Ok(CurrentPlan { tier, policy: self.catalogue.policy(tier, &camera.model), channel, next, seatless: covering.seatless })
    }

    /// The subscription that covers a camera at `at`, if any.
    pub fn covering_subscription(&self, connection: &Connection, camera: &Camera, at: u64) -> Result<Option<Subscription>, DbError> {
        Ok(self.covering(connection, camera, at)?.subscription)
    }

    /// The subscription that covers a camera at `at`: Premium if there is a seat, else the camera's own Plus.
    fn covering(&self, connection: &Connection, camera: &Camera, at: u64) -> Result<Covering, DbError> {
        let subscriptions: Vec<_> =
            subscriptions(connection, &camera.account)?.into_iter().filter(|subscription| subscription.runs_at(at)).collect();
        let mut seatless = false;
        if let Some(premium) = subscriptions.iter().find(|subscription| subscription.tier == Tier::Premium) {
            if seated(connection, &camera.account, self.catalogue.seats())?.contains(&camera.device) {
                return Ok(Covering { subscription: Some(premium.clone()), seatless: false });
            }
            seatless = true;
        }
        let own = subscriptions.into_iter().find(|subscription| subscription.device.as_ref() == Some(&camera.device));
        Ok(Covering { seatless: seatless && own.is_none(), subscription: own })
    }

    /// Signs a document and writes it with its outbox row. If it allows less than the last one, grants are revoked and
    /// clips erased.
    fn write(
        &self,
        tx: &Transaction<'_>,
        document: &Entitlement,
        policy: &Policy,
        last: Option<&Body>,
        now: u64,
    ) -> Result<Issued, DbError> {
        let (device, position) = (&document.aud, document.position());
        let key = self.keys.current();
        let token = document.sign(&key.signer);
        let body = serde_json::to_string(document).expect("plain data");
        let added = params![device.as_str(), position.epoch, position.seq, token, body];
        let row = tx.prepare_cached(documents::ADD)?.query_row(added, |row| row.get(0))?;
        outbox::add(tx, row, device, now_us())?;
        let (signed_by, history_h) = (key.number(), policy.history_h);
        note_newest(tx, device, &Newest { document: row, seq: position.seq, issued_at: now, signed_by, history_h })?;
        fail_point::reach("in_transaction", position.seq);
        let less = last.is_some_and(|last| last.epoch != position.epoch || policy.is_less_than(&last.policy));
        let (revoked, erased) = if less { take_back(tx, &camera(tx, device)?, policy, now)? } else { (vec![], vec![]) };
        Ok(Issued { device: device.clone(), position, plan: document.plan.to_string(), reason: document.reason, revoked, erased })
    }
}

/// A camera's next document.
fn entitlement(
    camera: &Camera,
    current_plan: &CurrentPlan,
    reason: Reason,
    order: Option<Order>,
    lease: Lease,
    now: u64,
) -> Result<Entitlement, DbError> {
    let out_of_range = |e: care_protocol::BadIdent| DbError::Damaged { what: "cameras.seq", why: e.to_string() };
    Ok(Entitlement {
        iss: ISSUER.into(),
        aud: camera.device.clone(),
        account: camera.account.clone(),
        epoch: camera.epoch.try_into().map_err(out_of_range)?,
        seq: (camera.seq + 1).try_into().map_err(out_of_range)?,
        plan: current_plan.tier.plan(),
        reason,
        channel: current_plan.channel,
        iat: now,
        lease,
        policy: current_plan.policy,
        next: current_plan.next.clone(),
        order,
        crit: vec![],
    })
}

struct Covering {
    subscription: Option<Subscription>,
    seatless: bool,
}

/// A reason that describes the camera's state and not an event: every document carries it while the state lasts.
fn lasting_reason(camera: &Camera, current_plan: &CurrentPlan) -> Option<Reason> {
    match () {
        () if !camera.bound => Some(Reason::Unbound),
        () if current_plan.seatless => Some(Reason::SeatLimit),
        () => None,
    }
}

fn reason_for(camera: &Camera, current_plan: &CurrentPlan, last: Option<&Body>, asked: Reason) -> Reason {
    if let Some(lasting) = lasting_reason(camera, current_plan) {
        return lasting;
    }
    let Some(last) = last.filter(|last| last.epoch == camera.epoch) else { return Reason::Bound };
    let rises = Tier::read(&last.plan).is_some_and(|before| before < current_plan.tier);
    // A camera that rises while another one falls has taken its seat.
    let says_so = matches!(asked, Reason::Subscribed | Reason::Upgraded | Reason::TrialStarted | Reason::PaymentRecovered);
    if rises && !says_so { Reason::Upgraded } else { asked }
}

/// Revokes the open grants of a camera. Returns their ids.
pub(crate) fn revoke_grants(tx: &Transaction<'_>, device: &DeviceId) -> Result<Vec<String>, DbError> {
    let mut statement = tx.prepare_cached(REVOKE_GRANTS)?;
    Ok(statement.query_map([device.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Revokes the open grants of a camera and erases its history outside the new window.
fn take_back(tx: &Transaction<'_>, camera: &Camera, policy: &Policy, now: u64) -> Result<(Vec<String>, Vec<String>), DbError> {
    let revoked = revoke_grants(tx, &camera.device)?;
    // Clips belong to the account they were recorded for, and are erased when the camera leaves it.
    let mut erased = mark_other_owners(tx, &camera.device, camera.bound.then_some(camera.epoch))?;
    erased.extend(mark_older(tx, &camera.device, policy.history_h, now)?);
    Ok((revoked, erased))
}

/// The statements on the way of a change for everybody, and of every look at the clock, for the test of their plans.
pub fn statements() -> Vec<&'static str> {
    let mut all = vec![subscriptions::OF_ACCOUNT, REVOKE_GRANTS];
    all.extend(cameras::STATEMENTS);
    all.extend(documents::STATEMENTS);
    all
}

const REVOKE_GRANTS: &str = "UPDATE grants SET state = 'revoked' WHERE device = ?1 AND state = 'open' RETURNING id";
