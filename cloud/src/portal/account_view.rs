//! The content of one account's pages, read in one go as plain values: cameras with their plans, clips, orders with
//! their ledger. Nothing in it concerns another account.

use std::sync::Arc;

use care_protocol::{Channel, DeviceId, Mode, Position};
use serde::Serialize;

use crate::{
    domain::{
        accounts::{self, Account},
        billing::declines,
        catalogue::{Cycle, Tier},
        clips::oldest_ms,
        issuer::{self, Camera, Issuer, Phase, Subscription, billing_cycle, devices, subscriptions},
        money::ledger::{self, Balance},
        parts::{BEING_FILMED, filmed_since},
        reports::{self, Reported},
    },
    storage::db::{Connection, DbError, params},
    transport::cloud::Cloud,
};

/// An account with everything that belongs to it.
#[derive(Debug, Serialize)]
pub struct AccountView {
    /// The account.
    pub account: Account,
    /// How all its subscriptions are billed; `None`: it has none, and may choose.
    pub cycle: Option<Cycle>,
    /// Its credit, which the next bill uses first, minor units.
    pub credit_minor: u64,
    /// ISO 4217.
    pub currency: String,
    /// Whether the free trial is still available.
    pub trial_available: bool,
    /// Its card is declined.
    pub card_declined: bool,
    /// Cameras that one Premium covers.
    pub seats: usize,
    /// Its cameras, in the order of their seats.
    pub cameras: Vec<CameraView>,
    /// Subscriptions that cover no camera now: a Premium whose last camera was removed, a Plus under a trial.
    pub apart: Vec<SubscriptionView>,
}

/// One camera of an account.
#[derive(Debug, Serialize)]
pub struct CameraView {
    /// Its id.
    pub device: DeviceId,
    /// Its model.
    pub model: String,
    /// The policy of its plan.
    pub plan: Tier,
    /// Hours of history.
    pub history_h: u32,
    /// Premium has no seat for it.
    pub seatless: bool,
    /// It was reset to factory settings, and accepts no document until it is added again.
    pub reset: bool,
    /// The subscription that covers the camera, or would once it is paid.
    pub subscription: Option<SubscriptionView>,
    /// The announced change.
    pub next: Option<NextView>,
    /// The camera's last status and report under this binding.
    #[serde(flatten)]
    pub reported: Reported,
    /// The mode the camera reports.
    pub mode: Option<Mode>,
    /// Clips that can be watched.
    pub clips: u64,
    /// Their bytes.
    pub clip_bytes: u64,
    /// The newest of them.
    pub latest: Option<ClipView>,
}

/// A subscription as its owner sees it.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionView {
    /// The running period's order.
    pub order_id: String,
    /// Its plan.
    pub plan: Tier,
    /// Where it was bought.
    pub channel: Channel,
    /// How often it is paid.
    pub cycle: Cycle,
    /// Whether it is cancelled and changed here; if not, in the store of its channel.
    pub changes_here: bool,
    /// It is the free trial.
    pub trial: bool,
    /// Its phase.
    pub phase: Phase,
    /// When the running period began, Unix seconds.
    pub started_at: u64,
    /// When it ends, Unix seconds.
    pub period_end: u64,
    /// When the next bill is due, or the phase ends, Unix seconds.
    pub due_at: u64,
}

/// An announced change.
#[derive(Debug, Clone, Serialize)]
pub struct NextView {
    /// The plan then.
    pub plan: String,
    /// When, Unix seconds.
    pub at: u64,
    /// Why: `cancelled`, `trial_ended`, `payment_failed`.
    pub reason: String,
}

/// A clip that can be watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClipView {
    /// Its id.
    pub clip: String,
    /// The camera.
    pub device: DeviceId,
    /// `motion`, `snapshot` or `manual`.
    pub kind: String,
    /// When it began, Unix milliseconds.
    pub started_ms: u64,
    /// How long it is, milliseconds.
    pub duration_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// More of it is expected: it arrives in parts while it is being filmed.
    pub being_filmed: bool,
    /// A JPEG, and no video. Only [`playback::know_stills`](super::playback::know_stills) knows.
    #[serde(skip)]
    pub still: bool,
}

/// One bill with its ledger.
#[derive(Debug, Clone, Serialize)]
pub struct OrderView {
    /// `KC-YYYY-NNNNNN`
    pub order_id: String,
    /// For which plan.
    pub plan: String,
    /// For which camera; `None`: the account.
    pub device: Option<String>,
    /// Where it was paid.
    pub channel: String,
    /// How often it is paid.
    pub cycle: String,
    /// The time zone whose days are counted.
    pub zone: String,
    /// From when, Unix seconds.
    pub period_start: u64,
    /// Until when, Unix seconds.
    pub period_end: u64,
    /// The price, minor units.
    pub price_minor: u64,
    /// ISO 4217.
    pub currency: String,
    /// Its subscription runs under this order.
    pub running: bool,
    /// Where its money is.
    pub balance: Balance,
    /// The booked amounts, oldest first.
    pub entries: Vec<Entry>,
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `payment`, `credit_used`, `used`, `refund`, `credit` or `payout`.
    pub kind: String,
    /// Minor units.
    pub amount_minor: u64,
    /// Unix seconds.
    pub at: u64,
}

/// Everything of an account; `None` if there is no such account.
pub async fn read(cloud: &Arc<Cloud>, account: &str) -> Result<Option<AccountView>, DbError> {
    let (issuer, now, account) = (cloud.issuer.clone(), cloud.clock.now_s(), account.to_owned());
    cloud.db.read_async(move |connection| of(connection, &issuer, &account, now)).await
}

/// As [`read`], from the database itself.
pub fn of(connection: &Connection, issuer: &Issuer, account: &str, now: u64) -> Result<Option<AccountView>, DbError> {
    let Some(known) = accounts::find(connection, account)? else { return Ok(None) };
    let subscriptions = subscriptions(connection, account)?;
    let mut cameras = Vec::new();
    for device in devices(connection, Some(account))? {
        cameras.push(camera(connection, issuer, &subscriptions, &device, now)?);
    }
    let shown = |order_id: &str| {
        let mut of_cameras = cameras.iter().filter_map(|camera| camera.subscription.as_ref());
        of_cameras.any(|subscription| subscription.order_id == order_id)
    };
    let apart = subscriptions.iter().filter(|running| !shown(&running.order_id)).map(SubscriptionView::from).collect();
    Ok(Some(AccountView {
        apart,
        account: known,
        cycle: billing_cycle(connection, account)?,
        credit_minor: ledger::credit(connection, account, &issuer.catalogue.currency)?,
        currency: issuer.catalogue.currency.clone(),
        trial_available: connection.query_row("SELECT trial_at IS NULL FROM accounts WHERE id = ?1", [account], |row| row.get(0))?,
        card_declined: declines(connection, account)?,
        seats: issuer.catalogue.seats(),
        cameras,
    }))
}

fn camera(
    connection: &Connection,
    issuer: &Issuer,
    subscriptions: &[Subscription],
    device: &DeviceId,
    now: u64,
) -> Result<CameraView, DbError> {
    let camera = issuer::camera(connection, device)?;
    let current_plan = issuer.current_plan(connection, &camera, now)?;
    let on_hold = |s: &&Subscription| s.phase == Phase::Hold && s.device.as_ref().is_none_or(|d| d == device);
    let covering = issuer.covering_subscription(connection, &camera, now)?;
    let subscription = covering.as_ref().or_else(|| subscriptions.iter().find(on_hold));
    let mut reported = reports::reported(connection, device, Position { epoch: camera.epoch, seq: camera.seq })?;
    // A report of before this binding is another owner's business.
    if reported.report.as_ref().is_some_and(|report| report.epoch != camera.epoch) {
        (reported.report, reported.reported_us) = (None, None);
    }
    let clips = clips_of(connection, issuer, &camera, now)?;
    Ok(CameraView {
        plan: current_plan.tier,
        history_h: current_plan.policy.history_h,
        seatless: current_plan.seatless,
        reset: camera.reset,
        subscription: subscription.map(SubscriptionView::from),
        next: current_plan.next.map(|next| NextView {
            plan: next.plan.to_string(),
            at: next.effective_at,
            reason: next.reason.to_string(),
        }),
        mode: if camera.reset { Some(Mode::Unbound) } else { reported.report.as_ref().map(|report| report.mode) },
        reported,
        clips: clips.len() as u64,
        clip_bytes: clips.iter().map(|clip| clip.bytes).sum(),
        latest: clips.into_iter().next(),
        device: camera.device,
        model: camera.model,
    })
}

impl From<&Subscription> for SubscriptionView {
    fn from(subscription: &Subscription) -> Self {
        Self {
            order_id: subscription.order_id.clone(),
            plan: subscription.tier,
            channel: subscription.channel,
            cycle: subscription.cycle,
            changes_here: subscription.changes_here(),
            trial: subscription.trial,
            phase: subscription.phase,
            started_at: subscription.started_at,
            period_end: subscription.period_end,
            due_at: subscription.due_at,
        }
    }
}

/// The clips of a camera that its owner can watch, newest first; none if the camera is not this account's.
pub async fn clips(cloud: &Arc<Cloud>, account: &str, device: &DeviceId) -> Result<Vec<ClipView>, DbError> {
    let (issuer, now) = (cloud.issuer.clone(), cloud.clock.now_s());
    let (account, device) = (account.to_owned(), device.clone());
    cloud
        .db
        .read_async(move |connection| match own(connection, &account, &device)? {
            Some(camera) => clips_of(connection, &issuer, &camera, now),
            None => Ok(Vec::new()),
        })
        .await
}

/// One clip, if this account can watch it.
pub async fn clip(cloud: &Arc<Cloud>, account: &str, device: &DeviceId, clip: &str) -> Result<Option<ClipView>, DbError> {
    Ok(clips(cloud, account, device).await?.into_iter().find(|known| known.clip == clip))
}

fn own(connection: &Connection, account: &str, device: &DeviceId) -> Result<Option<Camera>, DbError> {
    Ok(issuer::find_camera(connection, device)?.filter(|camera| camera.bound && camera.account == account))
}

/// Clips in the store that were filmed under this binding and lie inside the plan's history, even if older ones have
/// not been erased yet.
fn clips_of(connection: &Connection, issuer: &Issuer, camera: &Camera, now: u64) -> Result<Vec<ClipView>, DbError> {
    let history_h = issuer.current_plan(connection, camera, now)?.policy.history_h;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT clip, kind, started_ms, duration_ms, bytes, {BEING_FILMED} FROM clips c
         WHERE device = ?1 AND epoch = ?2 AND started_ms >= ?3 AND stored_at IS NOT NULL AND erased_at IS NULL
         ORDER BY started_ms DESC, clip",
    ))?;
    let wanted = params![camera.device.as_str(), camera.epoch, oldest_ms(history_h, now), filmed_since()];
    let rows = statement.query_map(wanted, |row| {
        Ok(ClipView {
            clip: row.get(0)?,
            device: camera.device.clone(),
            kind: row.get(1)?,
            started_ms: row.get(2)?,
            duration_ms: row.get(3)?,
            bytes: row.get(4)?,
            being_filmed: row.get(5)?,
            still: false,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every bill of an account, newest first.
pub async fn orders(cloud: &Arc<Cloud>, account: &str) -> Result<Vec<OrderView>, DbError> {
    let account = account.to_owned();
    cloud.db.read_async(move |connection| orders_of(connection, &account)).await
}

/// As [`orders`], from the database itself.
pub fn orders_of(connection: &Connection, account: &str) -> Result<Vec<OrderView>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT o.order_id, o.plan, o.device, o.channel, o.cycle, o.zone, o.period_start, o.period_end, o.price_minor, o.currency,
                EXISTS (SELECT 1 FROM subscriptions s WHERE s.order_id = o.order_id AND s.state != 'ended')
         FROM orders o WHERE o.account = ?1 ORDER BY o.period_start DESC, o.rowid DESC",
    )?;
    let rows = statement.query_map([account], |row| {
        Ok(OrderView {
            order_id: row.get(0)?,
            plan: row.get(1)?,
            device: row.get(2)?,
            channel: row.get(3)?,
            cycle: row.get(4)?,
            zone: row.get(5)?,
            period_start: row.get(6)?,
            period_end: row.get(7)?,
            price_minor: row.get(8)?,
            currency: row.get(9)?,
            running: row.get(10)?,
            balance: Balance::default(),
            entries: Vec::new(),
        })
    })?;
    let mut entries = connection.prepare_cached(
        "SELECT kind, amount_minor, at FROM (
             SELECT 0 AS part, id, kind, amount_minor, at FROM ledger WHERE order_id = ?1
             UNION ALL SELECT 1, id, 'payout', amount_minor, at FROM payouts WHERE order_id = ?1) AS entries ORDER BY part, id",
    )?;
    rows.map(|row| {
        let mut order = row?;
        order.balance = ledger::balance(connection, &order.order_id)?;
        order.entries = entries
            .query_map([&order.order_id], |row| Ok(Entry { kind: row.get(0)?, amount_minor: row.get(1)?, at: row.get(2)? }))?
            .collect::<Result<_, _>>()?;
        Ok(order)
    })
    .collect()
}
