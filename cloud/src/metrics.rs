//! `/metrics` of care-cloud: the fleet's side of every switch, for Prometheus. It has a listener of its own
//! (`--metrics`), on loopback and without a sign-in, because a scraper must not hold the operator's secret; so there is
//! no camera, account or address in it. `docs/metrics.md` lists the metrics, and a test compares.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use care_metrics::{CONTENT_TYPE, Exposition};
use care_protocol::Outcome;

use crate::{
    clock::now_us,
    portal::guard::is_ours,
    storage::{
        db::{Connection, DbError, params},
        outbox::CHASE_AFTER_US,
    },
    transport::{cloud::Cloud, observed::Counts},
};

/// The status of a camera, as the database has it.
const STATUSES: [&str; 3] = ["online", "offline", "unknown"];

/// The routes of the listener.
pub fn router(cloud: Arc<Cloud>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(cloud)
}

async fn metrics(State(cloud): State<Arc<Cloud>>, headers: HeaderMap) -> Response {
    if !is_ours(&headers, None) {
        return (StatusCode::FORBIDDEN, "metrics are at a loopback address\n").into_response();
    }
    match cloud.db.read_async(Fleet::read).await {
        Ok(fleet) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], render(&cloud, &fleet)).into_response(),
        Err(e) => {
            tracing::error!("metrics: {e}");
            (StatusCode::INTERNAL_SERVER_ERROR, "the database cannot be read\n").into_response()
        }
    }
}

/// What the database says of all cameras.
#[derive(Debug)]
struct Fleet {
    /// By status: all of them, and those whose report on the newest document is overdue.
    cameras: Vec<(String, u64, u64)>,
    /// Since when the oldest of these reports is awaited, seconds.
    overdue_s: f64,
    outbox: u64,
    outbox_s: f64,
    clips: u64,
    clip_bytes: u64,
    clips_to_erase: u64,
}

impl Fleet {
    fn read(connection: &Connection) -> Result<Self, DbError> {
        let now = now_us();
        // As `domain::reports` judges one camera.
        let overdue =
            "FROM documents d INDEXED BY documents_unreported JOIN outbox o ON o.document = d.id JOIN cameras c ON c.device = d.device
             WHERE d.reported_at IS NULL AND c.newest = d.id AND o.issued_at < ?1 AND c.reset_at IS NULL";
        let since = now - CHASE_AFTER_US;
        let by_status =
            format!("SELECT status, count(*), (SELECT count(*) {overdue} AND c.status = cameras.status) FROM cameras GROUP BY status");
        let mut statement = connection.prepare_cached(&by_status)?;
        let cameras = statement.query_map([since], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?;
        let oldest: Option<i64> = connection.query_row(&format!("SELECT min(o.issued_at) {overdue}"), [since], |row| row.get(0))?;
        let (outbox, outbox_oldest): (u64, Option<i64>) =
            connection.query_row("SELECT count(*), min(issued_at) FROM outbox WHERE due = 1", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (clips, clip_bytes) = connection.query_row(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM clips WHERE stored_at IS NOT NULL AND erased_at IS NULL",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let going = "SELECT count(*) FROM clips WHERE erased_at IS NOT NULL AND gone_at IS NULL";
        let clips_to_erase = connection.query_row(going, params![], |row| row.get(0))?;
        let age = |since: Option<i64>| since.map_or(0.0, |since| (now - since).max(0) as f64 / 1e6);
        Ok(Self { cameras, overdue_s: age(oldest), outbox, outbox_s: age(outbox_oldest), clips, clip_bytes, clips_to_erase })
    }
}

fn render(cloud: &Cloud, fleet: &Fleet) -> String {
    let counts = cloud.observed.read();
    let mut metrics = Exposition::default();
    cameras(&mut metrics, fleet);
    documents(&mut metrics, fleet, &counts);
    clips(&mut metrics, fleet, &counts, cloud);
    metrics.gauge("kasa_care_cloud_keyset_version", "Version of the keyset.").set(Some(cloud.issuer.keys.current().keyset.version as f64));
    metrics.gauge("kasa_care_cloud_info", "The version of care-cloud.").add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    metrics.process();
    metrics.text()
}

fn cameras(metrics: &mut Exposition, fleet: &Fleet) {
    let of = |status| fleet.cameras.iter().find(|(name, ..)| name == status).map_or((0, 0), |(_, all, overdue)| (*all, *overdue));
    let mut known = metrics.gauge("kasa_care_cloud_cameras", "Cameras, by their last status.");
    for status in STATUSES {
        known.add(&[("status", status)], of(status).0 as f64);
    }
    let help = "Cameras that have not reported on their newest document within five seconds of its issue.";
    let mut overdue = metrics.gauge("kasa_care_cloud_cameras_overdue", help);
    for status in STATUSES {
        overdue.add(&[("status", status)], of(status).1 as f64);
    }
    metrics.gauge("kasa_care_cloud_oldest_overdue_seconds", "Since the issue of the oldest such document.").set(Some(fleet.overdue_s));
}

fn documents(metrics: &mut Exposition, fleet: &Fleet, counts: &Counts) {
    metrics.gauge("kasa_care_cloud_outbox_documents", "Documents that wait for the broker.").set(Some(fleet.outbox as f64));
    metrics.gauge("kasa_care_cloud_outbox_oldest_seconds", "Since the issue of the oldest of them.").set(Some(fleet.outbox_s));
    let connected = f64::from(u8::from(counts.broker_connected));
    metrics.gauge("kasa_care_cloud_broker_connected", "Whether the broker has granted the subscriptions.").set(Some(connected));
    let help = "Connections made to the broker.";
    metrics.counter("kasa_care_cloud_broker_connections_total", help).set(Some(counts.broker_connections as f64));
    let help = "Documents given to the broker connection, repeats included.";
    metrics.counter("kasa_care_cloud_publishes_total", help).set(Some(counts.publishes as f64));
    let mut reports = metrics.counter("kasa_care_cloud_reports_total", "New reports of cameras, by outcome.");
    for (outcome, count) in Outcome::ALL.iter().zip(counts.reports) {
        reports.add(&[("outcome", outcome.as_str())], count as f64);
    }
    let help = "From a click on the portal to the report that its document is in force.";
    metrics.histogram("kasa_care_cloud_click_to_report_seconds", help, &counts.click_to_report);
}

fn clips(metrics: &mut Exposition, fleet: &Fleet, counts: &Counts, cloud: &Cloud) {
    let mut grants = metrics.counter("kasa_care_cloud_grant_answers_total", "Answers to requests for a grant, by HTTP status.");
    for (status, count) in &counts.grants {
        grants.add(&[("code", &status.to_string())], *count as f64);
    }
    let uploading = cloud.transfers.view().iter().filter(|transfer| transfer.ended_us.is_none()).count();
    metrics.gauge("kasa_care_cloud_uploads_in_flight", "Uploads that the embedded store reads.").set(Some(uploading as f64));
    metrics.gauge("kasa_care_cloud_clips", "Clips in the store.").set(Some(fleet.clips as f64));
    metrics.gauge("kasa_care_cloud_clip_bytes", "Their bytes.").set(Some(fleet.clip_bytes as f64));
    let help = "Clips that are marked, and not yet gone from the store.";
    metrics.gauge("kasa_care_cloud_clips_to_erase", help).set(Some(fleet.clips_to_erase as f64));
    metrics.counter("kasa_care_cloud_clips_erased_total", "Clips erased from the store.").set(Some(counts.erased_clips as f64));
}
