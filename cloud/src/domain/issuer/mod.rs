//! The issuer: derives each camera's plan from the subscriptions. When the plan differs from the camera's last
//! document, it signs a new one and writes it with its outbox row. If the new plan allows less, the same transaction
//! revokes the camera's open grants and marks its history outside the new window as erased.

mod cameras;
mod documents;
mod subscriptions;

use std::collections::HashMap;

use care_protocol::{Channel, DeviceId, Entitlement, Lease, Next, Order, Policy, Position, Reason};
use serde_json::json;

use self::cameras::{Newest, issued_until, note_newest, signed_before, with_newest};
pub use self::{
    cameras::{Camera, camera, devices, find_camera, note_history, seated, with_old_clips},
    documents::{Body, NextBody, newest_body, newest_token, read_body, token_for},
    subscriptions::{Phase, Subscription, billing_cycle, read_channel, subscriptions},
};
use crate::{
    clock::now_us,
    domain::{
        catalogue::{Catalogue, Tier},
        clips::{self, Kept, mark_others, oldest_ms},
    },
    fail_point,
    storage::{
        db::{Connection, DbError, Transaction},
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
        let mut drafts = Vec::new();
        let mut standings = Standings::default();
        for (camera, last) in with_newest(tx, devices)? {
            if camera.reset {
                continue;
            }
            let current_plan = self.plan_of(&mut standings, tx, &camera, now)?;
            let forced = lasting_reason(&camera, &current_plan);
            if last.as_ref().is_some_and(|last| last.says(&camera, &current_plan, forced)) {
                continue;
            }
            let reason = reason_for(&camera, &current_plan, last.as_ref(), reason);
            // Only the document of the change itself carries the refund, not those of cameras that change seats.
            let order = order.filter(|_| matches!(reason, Reason::Cancelled | Reason::Downgraded | Reason::Refunded)).cloned();
            let document = entitlement(&camera, &current_plan, reason, order, self.lease(now), now)?;
            drafts.push(Draft { document, policy: current_plan.policy, last, bound: camera.bound });
        }
        self.write(tx, &drafts, now)
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
        self.reissue(tx, devices, self.lease(now), now)
    }

    /// Issues the documents of cameras again with this lease, even if nothing has changed.
    pub fn reissue(&self, tx: &Transaction<'_>, devices: &[DeviceId], lease: Lease, now: u64) -> Result<Vec<Issued>, DbError> {
        let mut drafts = Vec::new();
        let mut standings = Standings::default();
        for (camera, last) in with_newest(tx, devices)? {
            let (document, current_plan) = self.renewed(&mut standings, tx, &camera, lease, now)?;
            drafts.push(Draft { document, policy: current_plan.policy, last, bound: camera.bound });
        }
        self.write(tx, &drafts, now)
    }

    /// The next document of a camera, neither signed nor written.
    pub fn draft(&self, connection: &Connection, device: &DeviceId, lease: Lease, now: u64) -> Result<(Entitlement, CurrentPlan), DbError> {
        self.renewed(&mut Standings::default(), connection, &camera(connection, device)?, lease, now)
    }

    fn renewed(
        &self,
        standings: &mut Standings,
        connection: &Connection,
        camera: &Camera,
        lease: Lease,
        now: u64,
    ) -> Result<(Entitlement, CurrentPlan), DbError> {
        let current_plan = self.plan_of(standings, connection, camera, now)?;
        let reason = lasting_reason(camera, &current_plan).unwrap_or(Reason::Renewed);
        Ok((entitlement(camera, &current_plan, reason, None, lease, now)?, current_plan))
    }

    /// The lease of a document that is issued now.
    pub fn lease(&self, now: u64) -> Lease {
        Lease { max_age_s: self.lease_s, not_after: now + self.lease_s }
    }

    /// The plan of a camera at `now`, from its account's subscriptions.
    pub fn current_plan(&self, connection: &Connection, camera: &Camera, now: u64) -> Result<CurrentPlan, DbError> {
        self.plan_of(&mut Standings::default(), connection, camera, now)
    }

    fn plan_of(&self, standings: &mut Standings, connection: &Connection, camera: &Camera, now: u64) -> Result<CurrentPlan, DbError> {
        if !camera.bound {
            let channel = Channel::Portal;
            return Ok(CurrentPlan { tier: Tier::Free, policy: Policy::CLOSED, channel, next: None, seatless: false });
        }
        let standing = standings.of(connection, &camera.account, self.catalogue.seats())?;
        let covering = standing.covering(camera, now);
        let (tier, channel) = covering.subscription.as_ref().map_or((Tier::Free, Channel::Portal), |s| (s.tier, s.channel));
        let mut next = None;
        if let Some((ending, reason)) = covering.subscription.and_then(|s| s.ends_because().map(|reason| (s, reason))) {
            let then = standing.covering(camera, ending.due_at).subscription.map_or(Tier::Free, |s| s.tier);
            let policy = self.catalogue.policy(then, &camera.model);
            next = Some(Next { plan: then.plan(), effective_at: ending.due_at, reason, policy });
        }
        Ok(CurrentPlan { tier, policy: self.catalogue.policy(tier, &camera.model), channel, next, seatless: covering.seatless })
    }

    /// The subscription that covers a camera at `at`, if any.
    pub fn covering_subscription(&self, connection: &Connection, camera: &Camera, at: u64) -> Result<Option<Subscription>, DbError> {
        Ok(Standing::read(connection, &camera.account, self.catalogue.seats())?.covering(camera, at).subscription)
    }

    /// Signs documents and writes them with their outbox rows. Of cameras that are allowed less than by the last one, grants
    /// are revoked and clips erased. What it asks the database does not depend on how many there are.
    fn write(&self, tx: &Transaction<'_>, drafts: &[Draft], now: u64) -> Result<Vec<Issued>, DbError> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.keys.current();
        let signed = drafts.iter().map(|Draft { document, .. }| {
            let Position { epoch, seq } = document.position();
            let body = serde_json::to_string(document).expect("plain data");
            json!({ "device": document.aud, "epoch": epoch, "seq": seq, "token": document.sign(&key.signer), "body": body })
        });
        let signed = signed.collect::<serde_json::Value>().to_string();
        let mut statement = tx.prepare_cached(documents::ADD)?;
        let rows: HashMap<String, i64> = statement.query_map([signed], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        let newest = drafts.iter().map(|Draft { document, policy, .. }| {
            let (device, seq) = (document.aud.as_str(), document.position().seq);
            Newest { device, document: rows[device], seq, history_h: policy.history_h }
        });
        let newest: Vec<_> = newest.collect();
        outbox::add(tx, &serde_json::to_string(&newest).expect("plain data"), now_us())?;
        note_newest(tx, &newest, now, key.number())?;
        newest.iter().for_each(|newest| fail_point::reach("in_transaction", newest.seq));
        let (mut revoked, mut erased) = take_back(tx, drafts, now)?;
        let issued = drafts.iter().map(|Draft { document, .. }| {
            let device = document.aud.clone();
            Issued {
                position: document.position(),
                plan: document.plan.to_string(),
                reason: document.reason,
                revoked: revoked.remove(device.as_str()).unwrap_or_default(),
                erased: erased.remove(device.as_str()).unwrap_or_default(),
                device,
            }
        });
        Ok(issued.collect())
    }
}

/// A document that is to be written.
struct Draft {
    document: Entitlement,
    policy: Policy,
    /// The camera's last one.
    last: Option<Body>,
    /// Whether the camera belongs to an account.
    bound: bool,
}

impl Draft {
    fn allows_less(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.epoch != self.document.position().epoch || self.policy.is_less_than(&last.policy))
    }
}

/// What decides the plans of an account's cameras.
struct Standing {
    subscriptions: Vec<Subscription>,
    /// The cameras that have a seat, if anything gives seats.
    seats: Vec<DeviceId>,
}

impl Standing {
    fn read(connection: &Connection, account: &str, seats: usize) -> Result<Self, DbError> {
        let subscriptions = subscriptions(connection, account)?;
        let gives_seats = subscriptions.iter().any(|subscription| subscription.tier == Tier::Premium);
        let seats = if gives_seats { seated(connection, account, seats)? } else { Vec::new() };
        Ok(Self { subscriptions, seats })
    }

    /// The subscription that covers a camera at `at`: Premium if there is a seat, else the camera's own Plus.
    fn covering(&self, camera: &Camera, at: u64) -> Covering {
        let running = || self.subscriptions.iter().filter(|subscription| subscription.runs_at(at));
        let premium = running().find(|subscription| subscription.tier == Tier::Premium);
        if premium.is_some() && self.seats.contains(&camera.device) {
            return Covering { subscription: premium.cloned(), seatless: false };
        }
        let own = running().find(|subscription| subscription.device.as_ref() == Some(&camera.device)).cloned();
        Covering { seatless: premium.is_some() && own.is_none(), subscription: own }
    }
}

/// Each account's, read once.
#[derive(Default)]
struct Standings(HashMap<String, Standing>);

impl Standings {
    fn of(&mut self, connection: &Connection, account: &str, seats: usize) -> Result<&Standing, DbError> {
        if !self.0.contains_key(account) {
            self.0.insert(account.to_owned(), Standing::read(connection, account, seats)?);
        }
        Ok(&self.0[account])
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

/// Revokes the open grants of cameras. Returns each with its camera.
pub(crate) fn revoke_grants(tx: &Transaction<'_>, devices: &[&str]) -> Result<Vec<(String, String)>, DbError> {
    let devices = serde_json::to_string(devices).expect("plain data");
    let mut statement = tx.prepare_cached(REVOKE_GRANTS)?;
    Ok(statement.query_map([devices], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// By camera: grants that were revoked, or clips that were erased.
type ByCamera = HashMap<String, Vec<String>>;

/// Revokes the open grants of cameras that are allowed less, and erases their history outside the new window.
fn take_back(tx: &Transaction<'_>, drafts: &[Draft], now: u64) -> Result<(ByCamera, ByCamera), DbError> {
    let less: Vec<Kept<'_>> = drafts
        .iter()
        .filter(|draft| draft.allows_less())
        .map(|Draft { document, policy, bound, .. }| Kept {
            device: document.aud.as_str(),
            epoch: bound.then(|| document.position().epoch),
            oldest_ms: oldest_ms(policy.history_h, now),
        })
        .collect();
    let (mut revoked, mut erased) = (ByCamera::new(), ByCamera::new());
    if less.is_empty() {
        return Ok((revoked, erased));
    }
    let devices: Vec<&str> = less.iter().map(|kept| kept.device).collect();
    for (device, grant) in revoke_grants(tx, &devices)? {
        revoked.entry(device).or_default().push(grant);
    }
    for (device, clip) in mark_others(tx, &less)? {
        erased.entry(device).or_default().push(clip);
    }
    Ok((revoked, erased))
}

/// The statements on the way of a change for everybody, and of every look at the clock, for the test of their plans.
pub fn statements() -> Vec<&'static str> {
    let mut all = vec![subscriptions::OF_ACCOUNT, REVOKE_GRANTS];
    all.extend(clips::STATEMENTS);
    all.extend(cameras::STATEMENTS);
    all.extend(documents::STATEMENTS);
    all
}

const REVOKE_GRANTS: &str = "
    UPDATE grants SET state = 'revoked' WHERE state = 'open' AND device IN (SELECT value FROM json_each(?1)) RETURNING device, id";
