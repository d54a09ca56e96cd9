//! The issuer: what plan each camera has follows from the subscriptions, and whenever that differs from the camera's last
//! document, a new signed one is written with its outbox row. If it is *less* than before, the camera's open grants are
//! revoked and its history outside the new window is marked erased, in the same transaction.

use care_protocol::{Channel, DeviceId, Entitlement, Lease, Next, Order, Policy, Position, Reason, Refund, RefundKind};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::{
    clock::now_us,
    domain::{
        catalogue::{Catalogue, Cycle, Tier},
        clips::{mark_older, mark_other_owners},
        money::{Period, Zone},
    },
    fail_point,
    storage::{
        db::DbError,
        keys::{ISSUER, Keys},
    },
};

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

/// A camera as the database has it.
#[derive(Debug, Clone)]
pub struct Camera {
    /// Its id.
    pub device: DeviceId,
    /// Its model.
    pub model: String,
    /// Its account, or the last one it had.
    pub account: String,
    /// Whether it belongs to that account now.
    pub bound: bool,
    /// Its binding epoch.
    pub epoch: u64,
    /// The sequence of its newest document, 0 before the first.
    pub seq: u64,
    /// It was reset to factory settings under this epoch: no document of it binds the camera any more.
    pub reset: bool,
}

/// What a camera is entitled to at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The plan.
    pub tier: Tier,
    /// Its limits.
    pub policy: Policy,
    /// Where it was bought.
    pub channel: Channel,
    /// What comes next, if it is known.
    pub next: Option<Next>,
    /// Premium has no seat left for this camera.
    pub seatless: bool,
}

/// A document that was written; what it revoked has to be told to the store once the transaction holds.
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

/// A document as the database holds it: the fields that care-cloud itself needs back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Body {
    /// The account.
    pub account: String,
    /// The binding epoch.
    pub epoch: u64,
    /// The sequence.
    pub seq: u64,
    /// The plan.
    pub plan: String,
    /// Why it was issued.
    pub reason: Reason,
    /// Where the plan was bought.
    pub channel: Channel,
    /// When it was issued, Unix seconds.
    pub iat: u64,
    /// The limits.
    pub policy: Policy,
    /// What comes next.
    pub next: Option<NextBody>,
}

/// [`Next`], read back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NextBody {
    /// The plan then.
    pub plan: String,
    /// When, Unix seconds.
    pub effective_at: u64,
    /// Why.
    pub reason: Reason,
    /// The limits then.
    pub policy: Policy,
}

impl Body {
    /// The limits at `now`: `next` has its effect also when no later document says so yet.
    pub fn policy_at(&self, now: u64) -> Policy {
        self.next.as_ref().filter(|next| next.effective_at <= now).map_or(self.policy, |next| next.policy)
    }

    fn says(&self, camera: &Camera, standing: &Standing, reason: Option<Reason>) -> bool {
        let next = standing.next.as_ref().map(|next| (next.plan.as_str(), next.effective_at, &next.policy));
        self.account == camera.account
            && self.epoch == camera.epoch
            && self.plan == standing.tier.as_str()
            && self.channel == standing.channel
            && self.policy == standing.policy
            && self.next.as_ref().map(|next| (next.plan.as_str(), next.effective_at, &next.policy)) == next
            && reason.is_none_or(|reason| reason == self.reason)
    }
}

impl Issuer {
    /// Writes a new document for each of these cameras whose standing differs from its last one. `reason` says why, for
    /// cameras that lose or change; one that only gains a seat by it is `upgraded`, one without a seat is `seat_limit`. A camera
    /// that was reset gets none: it refuses everything of this binding.
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
            let standing = self.standing(tx, &camera, now)?;
            let last = newest_body(tx, device)?;
            let forced = lasting_reason(&camera, &standing);
            if last.as_ref().is_some_and(|last| last.says(&camera, &standing, forced)) {
                continue;
            }
            let reason = reason_for(&camera, &standing, last.as_ref(), reason);
            // The money is shown where the change was made; a mere seat shift carries none.
            let order = order.filter(|_| matches!(reason, Reason::Cancelled | Reason::Downgraded | Reason::Refunded)).cloned();
            let document = entitlement(&camera, &standing, reason, order, self.lease(now), now)?;
            issued.push(self.write(tx, &document, &standing.policy, last.as_ref(), now)?);
        }
        Ok(issued)
    }

    /// Writes every document anew whose lease is half over: the next sequence, reason `renewed`.
    pub fn renew(&self, tx: &Transaction<'_>, now: u64) -> Result<Vec<Issued>, DbError> {
        let mut due = Vec::new();
        for device in devices(tx, None)? {
            if self.renewal_due(tx, &device, now)? {
                due.push(device);
            }
        }
        due.iter().map(|device| self.renew_one(tx, device, now)).collect()
    }

    /// Whether any lease is half over.
    pub fn renewals_due(&self, connection: &Connection, now: u64) -> Result<bool, DbError> {
        for device in devices(connection, None)? {
            if self.renewal_due(connection, &device, now)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn renewal_due(&self, connection: &Connection, device: &DeviceId, now: u64) -> Result<bool, DbError> {
        let half_over = newest_body(connection, device)?.is_some_and(|body| body.iat + self.lease_s.div_ceil(2) <= now);
        Ok(half_over && !camera(connection, device)?.reset)
    }

    fn renew_one(&self, tx: &Transaction<'_>, device: &DeviceId, now: u64) -> Result<Issued, DbError> {
        self.reissue(tx, device, self.lease(now), now)
    }

    /// Writes a camera's document anew, whatever its last one says: the next sequence, this lease.
    pub fn reissue(&self, tx: &Transaction<'_>, device: &DeviceId, lease: Lease, now: u64) -> Result<Issued, DbError> {
        let last = newest_body(tx, device)?;
        let (draft, standing) = self.draft(tx, device, lease, now)?;
        self.write(tx, &draft, &standing.policy, last.as_ref(), now)
    }

    /// What a camera's next document would be, neither signed nor written.
    pub fn draft(&self, connection: &Connection, device: &DeviceId, lease: Lease, now: u64) -> Result<(Entitlement, Standing), DbError> {
        let camera = camera(connection, device)?;
        let standing = self.standing(connection, &camera, now)?;
        let reason = lasting_reason(&camera, &standing).unwrap_or(Reason::Renewed);
        Ok((entitlement(&camera, &standing, reason, None, lease, now)?, standing))
    }

    /// The lease of a document that is issued now.
    pub fn lease(&self, now: u64) -> Lease {
        Lease { max_age_s: self.lease_s, not_after: now + self.lease_s }
    }

    /// What the subscriptions say about a camera at `now`.
    pub fn standing(&self, connection: &Connection, camera: &Camera, now: u64) -> Result<Standing, DbError> {
        if !camera.bound {
            let channel = Channel::Portal;
            return Ok(Standing { tier: Tier::Free, policy: Policy::CLOSED, channel, next: None, seatless: false });
        }
        let covering = self.covering(connection, camera, now)?;
        let (tier, channel) = covering.subscription.as_ref().map_or((Tier::Free, Channel::Portal), |s| (s.tier, s.channel));
        let mut next = None;
        if let Some((ending, reason)) = covering.subscription.and_then(|s| s.ends_because().map(|reason| (s, reason))) {
            let then = self.covering(connection, camera, ending.due_at)?.subscription.map_or(Tier::Free, |s| s.tier);
            let policy = self.catalogue.policy(then, &camera.model);
            next = Some(Next { plan: then.plan(), effective_at: ending.due_at, reason, policy });
        }
        Ok(Standing { tier, policy: self.catalogue.policy(tier, &camera.model), channel, next, seatless: covering.seatless })
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
            let seated = devices(connection, Some(&camera.account))?;
            if seated.iter().take(self.catalogue.seats()).any(|device| *device == camera.device) {
                return Ok(Covering { subscription: Some(premium.clone()), seatless: false });
            }
            seatless = true;
        }
        let own = subscriptions.into_iter().find(|subscription| subscription.device.as_ref() == Some(&camera.device));
        Ok(Covering { seatless: seatless && own.is_none(), subscription: own })
    }

    /// Signs a document and writes it with its outbox row; what is less than before is taken back.
    fn write(
        &self,
        tx: &Transaction<'_>,
        document: &Entitlement,
        policy: &Policy,
        last: Option<&Body>,
        now: u64,
    ) -> Result<Issued, DbError> {
        let (device, position) = (&document.aud, document.position());
        let token = document.sign(&self.keys.current().signer);
        let body = serde_json::to_string(document).expect("plain data");
        tx.execute("UPDATE cameras SET seq = ?2 WHERE device = ?1", params![device.as_str(), position.seq])?;
        tx.execute(
            "INSERT INTO documents (device, epoch, seq, token, body) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![device.as_str(), position.epoch, position.seq, token, body],
        )?;
        tx.execute(
            "INSERT INTO outbox (document, device, due, issued_at) VALUES (?1, ?2, 1, ?3)",
            params![tx.last_insert_rowid(), device.as_str(), now_us()],
        )?;
        fail_point::reach("in_transaction", position.seq);
        let less = last.is_some_and(|last| last.epoch != position.epoch || policy.is_less_than(&last.policy));
        let (revoked, erased) = if less { take_back(tx, &camera(tx, device)?, policy, now)? } else { (vec![], vec![]) };
        Ok(Issued { device: device.clone(), position, plan: document.plan.to_string(), reason: document.reason, revoked, erased })
    }
}

/// A camera's next document.
fn entitlement(
    camera: &Camera,
    standing: &Standing,
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
        plan: standing.tier.plan(),
        reason,
        channel: standing.channel,
        iat: now,
        lease,
        policy: standing.policy,
        next: standing.next.clone(),
        order,
        crit: vec![],
    })
}

struct Covering {
    subscription: Option<Subscription>,
    seatless: bool,
}

/// A reason that says what the camera is, not only what happened: it stays on every document while it holds.
fn lasting_reason(camera: &Camera, standing: &Standing) -> Option<Reason> {
    match () {
        () if !camera.bound => Some(Reason::Unbound),
        () if standing.seatless => Some(Reason::SeatLimit),
        () => None,
    }
}

fn reason_for(camera: &Camera, standing: &Standing, last: Option<&Body>, asked: Reason) -> Reason {
    if let Some(lasting) = lasting_reason(camera, standing) {
        return lasting;
    }
    let Some(last) = last.filter(|last| last.epoch == camera.epoch) else { return Reason::Bound };
    let rises = Tier::read(&last.plan).is_some_and(|before| before < standing.tier);
    // A camera that goes up while another one goes down has got its seat.
    let says_so = matches!(asked, Reason::Subscribed | Reason::Upgraded | Reason::TrialStarted | Reason::PaymentRecovered);
    if rises && !says_so { Reason::Upgraded } else { asked }
}

/// Revokes the open grants of a camera; their ids.
pub(crate) fn revoke_grants(tx: &Transaction<'_>, device: &DeviceId) -> Result<Vec<String>, DbError> {
    let mut statement = tx.prepare_cached("UPDATE grants SET state = 'revoked' WHERE device = ?1 AND state = 'open' RETURNING id")?;
    Ok(statement.query_map([device.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Revokes the open grants of a camera and erases its history outside the new window.
fn take_back(tx: &Transaction<'_>, camera: &Camera, policy: &Policy, now: u64) -> Result<(Vec<String>, Vec<String>), DbError> {
    let revoked = revoke_grants(tx, &camera.device)?;
    // What was filmed for an account belongs to it: nothing of it stays when the camera leaves.
    let mut erased = mark_other_owners(tx, &camera.device, camera.bound.then_some(camera.epoch))?;
    erased.extend(mark_older(tx, &camera.device, policy.history_h, now)?);
    Ok((revoked, erased))
}

/// A subscription as the database has it.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The running period's order.
    pub order_id: String,
    /// The plan.
    pub tier: Tier,
    /// The camera it is for; `None` for a whole account.
    pub device: Option<DeviceId>,
    /// Where it was bought.
    pub channel: Channel,
    /// How often it is paid.
    pub cycle: Cycle,
    /// What was paid for the running period, minor units.
    pub paid_minor: u64,
    /// ISO 4217.
    pub currency: String,
    /// When the running period began, Unix seconds.
    pub started_at: u64,
    /// When it ends, Unix seconds.
    pub period_end: u64,
    /// Whose days are counted.
    pub zone: Zone,
    /// What its periods are reckoned from, Unix seconds.
    pub anchor_at: u64,
    /// How many periods since then are billed.
    pub periods: u32,
    /// When something is to be done about it next, Unix seconds: the next bill, its end, the end of its grace.
    pub due_at: u64,
    /// Whether it goes on.
    pub phase: Phase,
    /// It is the account's trial: nothing was paid.
    pub trial: bool,
}

/// Whether a subscription goes on, and what waits at its `due_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It goes on; the next bill is due then.
    Active,
    /// It ends then: cancelled in its store, or a trial.
    Ending,
    /// Its bill has failed; the plan goes on until then.
    Grace,
    /// Its bill was not paid in time: Free, until it is paid; it ends then.
    Hold,
}

impl Phase {
    /// As the database has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ending => "ending",
            Self::Grace => "grace",
            Self::Hold => "hold",
        }
    }

    fn read(name: &str) -> Option<Self> {
        [Self::Active, Self::Ending, Self::Grace, Self::Hold].into_iter().find(|phase| phase.as_str() == name)
    }
}

/// What was bought in an app before this moment (1 December 2022, UTC) is changed on the portal like what was bought there
/// (FAQ 2116).
const APP_STORES_SINCE: u64 = 1_669_852_800;

impl Subscription {
    /// The period that is paid.
    pub fn period(&self) -> Period {
        Period { start: self.started_at, end: self.period_end, zone: self.zone.clone() }
    }

    /// What goes back if it ends at `at` (Unix seconds): what was paid for the whole days that are left.
    pub fn settlement(&self, kind: RefundKind, at: u64) -> Order {
        let amount_minor = self.period().prorated(self.paid_minor, at);
        Order { id: self.order_id.clone(), refund: Refund { kind, amount_minor, currency: self.currency.clone() } }
    }

    /// Whether it can be cancelled and changed here, and not only in the store it was bought in.
    pub fn changes_here(&self) -> bool {
        self.channel == Channel::Portal || self.anchor_at < APP_STORES_SINCE
    }

    /// Whether a bill of it may still come that takes the account's credit.
    pub fn has_bills_here(&self) -> bool {
        self.channel == Channel::Portal && self.phase != Phase::Ending
    }

    /// Whether it covers anything at this moment.
    pub fn runs_at(&self, at: u64) -> bool {
        match self.phase {
            Phase::Active => true,
            Phase::Ending | Phase::Grace => at < self.due_at,
            Phase::Hold => false,
        }
    }

    /// Why the plan will change at `due_at`, if it will.
    fn ends_because(&self) -> Option<Reason> {
        match self.phase {
            Phase::Ending if self.trial => Some(Reason::TrialEnded),
            Phase::Ending => Some(Reason::Cancelled),
            Phase::Grace => Some(Reason::PaymentFailed),
            Phase::Active | Phase::Hold => None,
        }
    }
}

/// In what rhythm an account is billed, if it is at all: a trial is not.
pub fn billing_cycle(connection: &Connection, account: &str) -> Result<Option<Cycle>, DbError> {
    Ok(subscriptions(connection, account)?.iter().find(|subscription| !subscription.trial).map(|subscription| subscription.cycle))
}

/// The subscriptions of an account that have not ended.
pub fn subscriptions(connection: &Connection, account: &str) -> Result<Vec<Subscription>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT order_id, plan, device, channel, cycle, paid_minor, currency, started_at, period_end, state,
                zone, anchor_at, periods, due_at, trial FROM subscriptions
         WHERE account = ?1 AND state != 'ended' ORDER BY started_at, rowid",
    )?;
    let rows = statement.query_map([account], |row| {
        let text = |i| row.get::<_, String>(i);
        Ok((
            text(0)?,
            text(1)?,
            row.get::<_, Option<String>>(2)?,
            text(3)?,
            text(4)?,
            row.get(5)?,
            text(6)?,
            row.get(7)?,
            row.get(8)?,
            text(9)?,
            (text(10)?, row.get(11)?, row.get(12)?, row.get(13)?, row.get(14)?),
        ))
    })?;
    rows.map(|row| {
        let (order_id, plan, device, channel, cycle, paid_minor, currency, started_at, period_end, state, rest) = row?;
        let (zone, anchor_at, periods, due_at, trial) = rest;
        let damaged = |what, why: String| DbError::Damaged { what, why };
        Ok(Subscription {
            order_id,
            tier: Tier::read(&plan).ok_or_else(|| damaged("subscriptions.plan", plan.clone()))?,
            device: device
                .map(|device| device.parse())
                .transpose()
                .map_err(|e: care_protocol::BadIdent| damaged("subscriptions.device", e.to_string()))?,
            channel: read_channel(&channel).ok_or_else(|| damaged("subscriptions.channel", channel.clone()))?,
            cycle: Cycle::read(&cycle).ok_or_else(|| damaged("subscriptions.cycle", cycle.clone()))?,
            zone: Zone::read(&zone).map_err(|e| damaged("subscriptions.zone", e.to_string()))?,
            anchor_at,
            periods,
            paid_minor,
            currency,
            started_at,
            period_end,
            phase: Phase::read(&state).ok_or_else(|| damaged("subscriptions.state", state.clone()))?,
            due_at,
            trial,
        })
    })
    .collect()
}

/// The channel of this name.
pub fn read_channel(name: &str) -> Option<Channel> {
    Channel::ALL.iter().copied().find(|channel| channel.as_str() == name)
}

/// One camera.
pub fn camera(connection: &Connection, device: &DeviceId) -> Result<Camera, DbError> {
    find_camera(connection, device)?.ok_or_else(|| DbError::Damaged { what: "cameras", why: format!("{device} is missing") })
}

/// One camera, if it is known.
pub fn find_camera(connection: &Connection, device: &DeviceId) -> Result<Option<Camera>, DbError> {
    let mut statement =
        connection.prepare_cached("SELECT model, account, bound, epoch, seq, reset_at IS NOT NULL FROM cameras WHERE device = ?1")?;
    let found = statement.query_row([device.as_str()], |row| {
        let device = device.clone();
        Ok(Camera {
            device,
            model: row.get(0)?,
            account: row.get(1)?,
            bound: row.get(2)?,
            epoch: row.get(3)?,
            seq: row.get(4)?,
            reset: row.get(5)?,
        })
    });
    Ok(found.optional()?)
}

/// Bound cameras of an account in the order of their seats, or all cameras there are.
pub fn devices(connection: &Connection, account: Option<&str>) -> Result<Vec<DeviceId>, DbError> {
    let mut statement = connection
        .prepare_cached("SELECT device FROM cameras WHERE ?1 IS NULL OR (account = ?1 AND bound = 1) ORDER BY bound_at, rowid")?;
    let rows = statement.query_map([account], |row| row.get::<_, String>(0))?;
    rows.map(|row| row?.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "cameras.device", why: e.to_string() }))
        .collect()
}

/// The newest document of a camera, if it has one.
pub fn newest_body(connection: &Connection, device: &DeviceId) -> Result<Option<Body>, DbError> {
    let mut statement = connection.prepare_cached("SELECT body FROM documents WHERE device = ?1 ORDER BY epoch DESC, seq DESC LIMIT 1")?;
    let body: Option<String> = statement.query_row([device.as_str()], |row| row.get(0)).optional()?;
    body.map(|body| read_body(&body)).transpose()
}

/// A document's body, read back.
pub fn read_body(body: &str) -> Result<Body, DbError> {
    serde_json::from_str(body).map_err(|e| DbError::Damaged { what: "documents.body", why: e.to_string() })
}

/// The newest document of a camera as JWS, if it has one.
pub fn newest_token(connection: &Connection, device: &DeviceId) -> Result<Option<String>, DbError> {
    let mut statement = connection.prepare_cached("SELECT token FROM documents WHERE device = ?1 ORDER BY epoch DESC, seq DESC LIMIT 1")?;
    Ok(statement.query_row([device.as_str()], |row| row.get(0)).optional()?)
}

/// The newest document of a camera as JWS, if it would take it. A camera that was reset takes nothing of the binding it had:
/// unless it says that it never got so far (`ratchet`, from its `get`), there is nothing for it.
pub fn token_for(connection: &Connection, device: &DeviceId, ratchet: Option<u64>) -> Result<Option<String>, DbError> {
    let useless = find_camera(connection, device)?.is_some_and(|camera| camera.reset && ratchet.is_none_or(|epoch| epoch >= camera.epoch));
    if useless { Ok(None) } else { newest_token(connection, device) }
}
