//! The engineers' page: documents sent, reports received with their figures, cameras that have not answered, and
//! faults to inject. It shows how long real plan changes took from click to report.

use std::sync::{Arc, Mutex, PoisonError};

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;

use super::{
    Portal,
    auth::{CsrfForm, Engineer},
    context::RequestContext,
    faults::{self, FAULTS, Fault},
    frame::Frame,
    language::Language,
    latency::Latencies,
    page::{failed, html},
    plan_changes::{PlanChange, plan_change},
    state::{self, CameraView, State as Known},
    translations::{fill, name_of},
};
use crate::{
    clock::now_us,
    lab::overview::{Overview, ReportView},
    storage::db::DbError,
};

const SWITCHES: usize = 12;
const REPORTS: usize = 40;
const CLICKS: usize = 200;

/// The last fault injected, and its result.
pub type Played = Mutex<Option<(&'static str, Result<String, String>)>>;

#[derive(Template)]
#[template(path = "engineers.html")]
struct Page {
    frame: Frame,
    figures: Vec<(&'static str, String, String)>,
    clicks_text: String,
    played: Option<(String, String, bool)>,
    silent: Vec<Camera>,
    cameras: Vec<Camera>,
    faults: Vec<Button>,
    switches: Vec<PlanChange>,
    reports: Vec<Line>,
}

struct Camera {
    device: String,
    model: String,
    account: String,
    plan_code: String,
    plan: String,
    status_code: String,
    status: String,
    mode: String,
    position: String,
    since: String,
}

struct Button {
    code: &'static str,
    name: String,
    says: String,
    on_camera: bool,
}

struct Line {
    device: String,
    at: String,
    position: String,
    outcome: String,
    outcome_code: &'static str,
    reason: String,
    cause: String,
    mode: String,
    transfers: String,
    micros: String,
    bytes_after: String,
    erased: String,
}

/// The page.
pub async fn page(State(portal): State<Arc<Portal>>, Engineer(context): Engineer) -> Response {
    match look(&portal, &context).await {
        Ok(page) => html(&page),
        Err(e) => failed(&context, &e.into()),
    }
}

async fn look(portal: &Arc<Portal>, context: &RequestContext) -> Result<Page, DbError> {
    let cloud = &portal.cloud;
    let known = state::read(cloud).await?;
    let overview = portal.lab.overview().await?;
    let latencies = cloud.db.read_async(|connection| Latencies::read(connection, CLICKS)).await?;
    let language = context.language;
    let t = language.translations();
    let played = portal.played.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Page {
        frame: context.frame(),
        figures: figures(language, &known, &latencies, &overview),
        clicks_text: match latencies.count() {
            0 => t.no_clicks.clone(),
            n => fill(&t.click_text, &[("n", &language.number(n as u64))]),
        },
        played: played.map(|(code, done)| {
            let wrong = done.is_err();
            (name_of(&t.fault, code), done.unwrap_or_else(|why| why), wrong)
        }),
        silent: known.cameras.iter().filter(|camera| camera.reported.silent).map(|camera| self::camera(language, camera)).collect(),
        cameras: known.cameras.iter().map(|camera| self::camera(language, camera)).collect(),
        faults: FAULTS
            .iter()
            .map(|fault| Button {
                code: fault.code,
                name: name_of(&t.fault, fault.code),
                says: name_of(&t.fault_says, fault.code),
                on_camera: fault.on_camera,
            })
            .collect(),
        switches: known.switches.iter().take(SWITCHES).map(|switch| plan_change(language, &context.zone, switch)).collect(),
        reports: overview.reports.iter().take(REPORTS).map(|report| line(language, context, report)).collect(),
    })
}

/// Id, name and value of each figure.
fn figures(language: Language, known: &Known, latencies: &Latencies, overview: &Overview) -> Vec<(&'static str, String, String)> {
    let t = language.translations();
    let span = |percent| latencies.percentile(percent).map_or_else(|| "–".into(), |micros| language.span(micros));
    let broker = match known.broker_running {
        Some(true) => &t.broker_runs,
        Some(false) => &t.broker_stands,
        None => &t.broker_external,
    };
    let online = known.cameras.iter().filter(|camera| camera.reported.status == "online").count();
    let online = format!("{} / {}", language.number(online as u64), language.number(known.cameras.len() as u64));
    vec![
        ("p50", t.click_p50.clone(), span(50)),
        ("p90", t.click_p90.clone(), span(90)),
        ("clicks", t.click_count.clone(), language.number(latencies.count() as u64)),
        ("online", t.cameras_online.clone(), online),
        ("broker", t.broker.clone(), broker.clone()),
        ("keyset", t.keyset.clone(), format!("{} · {}", overview.keyset, overview.kid)),
        ("simulated", t.simulated.clone(), language.number(overview.simulated as u64)),
        ("stored", t.clips_stored.clone(), language.number(known.clips_stored)),
    ]
}

fn camera(language: Language, camera: &CameraView) -> Camera {
    let t = language.translations();
    let mode = camera.reported.report.as_ref().map_or("unknown", |report| report.mode.as_str());
    Camera {
        device: camera.device.to_string(),
        model: camera.model.clone(),
        account: if camera.bound { camera.account.clone() } else { "–".into() },
        plan: name_of(&t.plan, &camera.plan),
        plan_code: camera.plan.clone(),
        status: name_of(&t.status, &camera.reported.status),
        status_code: camera.reported.status.clone(),
        mode: mode.to_owned(),
        position: format!("{}.{}", camera.epoch, camera.seq),
        since: camera
            .reported
            .reported_us
            .map_or_else(|| t.no_report.clone(), |at| fill(&t.last_heard, &[("ago", &language.ago((now_us() - at).max(0)))])),
    }
}

/// A report with its figures. Codes are not translated here: engineers look for them in logs.
fn line(language: Language, context: &RequestContext, ReportView { received_us, report }: &ReportView) -> Line {
    let judged = report.judged.map(|judged| format!("{}.{}", judged.epoch, judged.seq));
    let some = |there: bool, text: String| if there { text } else { "–".into() };
    let cut = report.cut.transfers > 0;
    Line {
        device: report.device.to_string(),
        at: language.clock(u64::try_from(received_us / 1_000_000).unwrap_or(0), &context.zone),
        position: judged.unwrap_or_else(|| format!("{}.{}", report.epoch, report.seq)),
        outcome: report.outcome.to_string(),
        outcome_code: report.outcome.as_str(),
        reason: report.reason.clone(),
        cause: report.cause.to_string(),
        mode: report.mode.to_string(),
        transfers: some(cut, report.cut.transfers.to_string()),
        micros: some(cut, language.span(i64::try_from(report.cut.micros).unwrap_or(i64::MAX))),
        bytes_after: some(cut, language.size(report.cut.bytes_after)),
        erased: some(report.erased.clips > 0, report.erased.clips.to_string()),
    }
}

/// The fault to inject, and its camera.
#[derive(Deserialize)]
pub struct Wanted {
    fault: String,
    camera: Option<String>,
}

/// Injects a fault; the page then shows the result.
pub async fn play(State(portal): State<Arc<Portal>>, Engineer(_): Engineer, submitted: CsrfForm<Wanted>) -> Response {
    let Wanted { fault, camera } = submitted.form;
    if let Some(Fault { code, .. }) = FAULTS.iter().find(|known| known.code == fault) {
        let done = faults::play(&portal, code, camera.as_deref(), submitted.at).await;
        if let Err(why) = &done {
            tracing::info!(fault = code, "not played: {why}");
        }
        *portal.played.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, done));
    }
    Redirect::to("/engineers").into_response()
}
