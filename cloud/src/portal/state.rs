//! Everything the portal knows, read from the database at once: for the engineers' page, the JSON API and the demo.

use std::sync::Arc;

use care_protocol::{DeviceId, Position, Report};
use serde::{Deserialize, Serialize};

use crate::{
    clock::now_us,
    domain::{
        issuer::{self, Body, CurrentPlan, devices, read_body},
        reports::{self, Reported},
    },
    storage::db::{Connection, DbError, SqlError, params},
    transport::{cloud::Cloud, store::TransferView},
};

/// How many switches are shown.
const SWITCHES: usize = 20;

/// Everything the portal knows.
#[derive(Debug, Serialize)]
pub struct State {
    /// Microseconds since 1970.
    pub now_us: i64,
    /// Whether the embedded broker runs; `None`: external.
    pub broker_running: Option<bool>,
    /// Every camera.
    pub cameras: Vec<CameraView>,
    /// The last documents that changed something, newest first.
    pub switches: Vec<SwitchView>,
    /// The store's uploads, oldest first.
    pub transfers: Vec<TransferView>,
    /// Clips in the store.
    pub clips_stored: u64,
}

/// One camera.
#[derive(Debug, Serialize)]
pub struct CameraView {
    /// Its id.
    pub device: DeviceId,
    /// Its model.
    pub model: String,
    /// Its account.
    pub account: String,
    /// Whether it belongs to that account now.
    pub bound: bool,
    /// The policy of its plan.
    pub plan: String,
    /// Where that was bought.
    pub channel: String,
    /// The order, if it is paid.
    pub order_id: Option<String>,
    /// Premium has no seat for it.
    pub seatless: bool,
    /// It was reset to factory settings, and accepts no document until it is bound again.
    pub reset: bool,
    /// `next`: the plan then, and when (Unix seconds).
    pub next: Option<(String, u64)>,
    /// Hours of history.
    pub history_h: u32,
    /// Its last status and report.
    #[serde(flatten)]
    pub reported: Reported,
    /// Its newest document.
    pub seq: u64,
    /// Its newest document.
    pub epoch: u64,
    /// Its clips in the store.
    pub clips: u64,
    /// Their bytes.
    pub clip_bytes: u64,
}

/// One document on its way to a camera and back.
#[derive(Debug, Serialize)]
pub struct SwitchView {
    /// The camera.
    pub device: DeviceId,
    /// Its place in the order.
    pub epoch: u64,
    /// Its place in the order.
    pub seq: u64,
    /// The plan before.
    pub from: Option<String>,
    /// The plan it brings.
    pub plan: String,
    /// Why.
    pub reason: String,
    /// `next`, if it carries one.
    pub next: Option<(String, u64)>,
    /// The refund or credit.
    pub order: Option<OrderView>,
    /// Microseconds since 1970, as the following: the click that caused it reached the portal.
    pub clicked_us: Option<i64>,
    /// It was signed.
    pub issued_us: i64,
    /// Handed to the broker's connection.
    pub published_us: Option<i64>,
    /// The broker has it.
    pub acked_us: Option<i64>,
    /// The camera's report arrived.
    pub reported_us: Option<i64>,
    /// How often it was published.
    pub tries: u32,
    /// The report that judged it.
    pub report: Option<Report>,
    /// Bytes the store read of older uploads after the report arrived; `None`: nothing was in flight.
    pub store_bytes_after: Option<u64>,
}

/// The refund or credit.
#[derive(Debug, Serialize, Deserialize)]
pub struct OrderView {
    /// The order id.
    pub id: String,
    /// `refund` or `credit`.
    pub kind: String,
    /// Minor units.
    pub amount_minor: u64,
    /// ISO 4217.
    pub currency: String,
}

/// Reads the state.
pub async fn read(cloud: &Arc<Cloud>) -> Result<State, DbError> {
    let reader = cloud.clone();
    cloud.db.read_async(move |connection| read_from(&reader, connection)).await
}

/// The last documents of an account, or of all, newest first.
pub async fn switches_of(cloud: &Arc<Cloud>, account: Option<String>, most: usize) -> Result<Vec<SwitchView>, DbError> {
    let transfers = cloud.transfers.view();
    cloud.db.read_async(move |connection| switches(connection, &transfers, account.as_deref(), most)).await
}

fn read_from(cloud: &Cloud, connection: &Connection) -> Result<State, DbError> {
    let transfers = cloud.transfers.view();
    let mut cameras = Vec::new();
    for device in devices(connection, None)? {
        cameras.push(camera(cloud, connection, &device)?);
    }
    Ok(State {
        now_us: now_us(),
        broker_running: cloud.broker.as_ref().map(|broker| broker.pid().is_some()),
        cameras,
        switches: switches(connection, &transfers, None, SWITCHES)?,
        clips_stored: connection
            .query_row("SELECT count(*) FROM clips WHERE stored_at IS NOT NULL AND erased_at IS NULL", [], |r| r.get(0))?,
        transfers,
    })
}

fn camera(cloud: &Cloud, connection: &Connection, device: &DeviceId) -> Result<CameraView, DbError> {
    let camera = issuer::camera(connection, device)?;
    let CurrentPlan { tier, policy, channel, next, seatless } = cloud.issuer.current_plan(connection, &camera, cloud.clock.now_s())?;
    let order_id = cloud.issuer.covering_subscription(connection, &camera, cloud.clock.now_s())?.map(|subscription| subscription.order_id);
    let (clips, clip_bytes) = connection.query_row(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM clips WHERE device = ?1 AND stored_at IS NOT NULL AND erased_at IS NULL",
        [device.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(CameraView {
        plan: if camera.bound { tier.as_str().into() } else { "unbound".into() },
        channel: channel.to_string(),
        order_id: order_id.filter(|_| camera.bound),
        seatless,
        reset: camera.reset,
        next: next.map(|next| (next.plan.to_string(), next.effective_at)),
        history_h: policy.history_h,
        reported: reports::reported(connection, device, Position { epoch: camera.epoch, seq: camera.seq })?,
        clips,
        clip_bytes,
        device: camera.device,
        model: camera.model,
        account: camera.account,
        bound: camera.bound,
        seq: camera.seq,
        epoch: camera.epoch,
    })
}

fn switches(connection: &Connection, transfers: &[TransferView], account: Option<&str>, most: usize) -> Result<Vec<SwitchView>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT d.device, d.body, d.report, d.reported_at, o.issued_at, o.published_at, o.acked_at, o.tries,
                (SELECT body FROM documents b WHERE b.device = d.device AND (b.epoch, b.seq) < (d.epoch, d.seq)
                   AND (CAST(?2 AS TEXT) IS NULL OR b.body ->> 'account' = ?2) ORDER BY b.epoch DESC, b.seq DESC LIMIT 1),
                (SELECT at FROM clicks c WHERE c.document = d.id)
         FROM documents d JOIN outbox o ON o.document = d.id
         WHERE CAST(?2 AS TEXT) IS NULL OR d.body ->> 'account' = ?2 ORDER BY d.id DESC LIMIT ?1",
    )?;
    let rows = statement.query_map(params![most, account], |row| {
        let view = SwitchView {
            device: row.get::<_, String>(0)?.parse().map_err(|_| SqlError::Unreadable("documents.device"))?,
            epoch: 0,
            seq: 0,
            from: None,
            plan: String::new(),
            reason: String::new(),
            next: None,
            order: None,
            clicked_us: row.get(9)?,
            issued_us: row.get(4)?,
            published_us: row.get(5)?,
            acked_us: row.get(6)?,
            reported_us: row.get(3)?,
            tries: row.get(7)?,
            report: None,
            store_bytes_after: None,
        };
        Ok((view, row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?, row.get::<_, Option<String>>(8)?))
    })?;
    rows.map(|row| {
        let (mut view, body, report, before) = row?;
        let document = read_body(&body)?;
        let OrderBody { order } =
            serde_json::from_str(&body).map_err(|e| DbError::Damaged { what: "documents.body", why: e.to_string() })?;
        view.order = order.map(OrderView::from);
        view.from = before.map(|before| read_body(&before)).transpose()?.map(|before: Body| before.plan);
        view.report = report
            .map(|report| serde_json::from_str(&report).map_err(|e| DbError::Damaged { what: "documents.report", why: e.to_string() }))
            .transpose()?;
        view.next = document.next.map(|next| (next.plan, next.effective_at));
        (view.epoch, view.seq, view.plan, view.reason) = (document.epoch, document.seq, document.plan, document.reason.to_string());
        // Uploads that ran when this document was issued and that it ended.
        let cut = transfers.iter().filter(|t| {
            let older = (t.granted_under.epoch, t.granted_under.seq) < (view.epoch, view.seq);
            t.device == view.device
                && t.revoked
                && older
                && t.began_us <= view.issued_us
                && t.ended_us.is_none_or(|at| at >= view.issued_us)
        });
        let counts: Vec<u64> = cut.map(|t| t.after_reported.unwrap_or(0)).collect();
        view.store_bytes_after = (!counts.is_empty()).then(|| counts.iter().sum());
        Ok(view)
    })
    .collect()
}

#[derive(Deserialize)]
struct OrderBody {
    order: Option<OrderFields>,
}

#[derive(Deserialize)]
struct OrderFields {
    id: String,
    refund: RefundFields,
}

#[derive(Deserialize)]
struct RefundFields {
    kind: String,
    amount_minor: u64,
    currency: String,
}

impl From<OrderFields> for OrderView {
    fn from(order: OrderFields) -> Self {
        let RefundFields { kind, amount_minor, currency } = order.refund;
        Self { id: order.id, kind, amount_minor, currency }
    }
}
