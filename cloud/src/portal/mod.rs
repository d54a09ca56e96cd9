//! The portal: where a person sees cameras and plans and changes them. Plain HTTP on loopback, no sign-in yet; forms work
//! without a script, a small script follows the switch live. The same actions are there as JSON for programs.

mod page;
pub mod state;

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use askama::Template;
use axum::{
    Form, Json, Router,
    extract::{Path, Request, State as AxumState},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{
        Html, IntoResponse, Redirect, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use care_protocol::{DeviceId, RefundKind};
use futures::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio_stream::wrappers::BroadcastStream;

use crate::{
    actions::{Action, ActionError, Done, PaidPlan, Quote},
    cloud::Cloud,
};

/// How long a plan runs on when the page plays the app store's cancel.
const STORE_PERIOD_LEFT_S: u64 = 30;

/// The portal's routes.
pub fn router(cloud: Arc<Cloud>) -> Router {
    Router::new()
        .route("/portal/state", get(state_json))
        .route("/portal/act", post(act_json))
        .route("/portal/broker", post(broker_json))
        .merge(crate::machine::routes())
        .route("/", get(home))
        .route("/events", get(events))
        .route("/cameras/{id}/{what}", get(confirm).post(act_form))
        .route("/style.css", get(|| asset("text/css", include_str!("../../assets/style.css"))))
        .route("/portal.js", get(|| asset("text/javascript", include_str!("../../assets/portal.js"))))
        .layer(middleware::from_fn(guard))
        .with_state(cloud)
}

/// Only this machine's own pages may act: another site's page in the same browser may not, nor a name that resolves to us.
async fn guard(request: Request, next: Next) -> Response {
    if !is_ours(request.headers()) {
        return (StatusCode::FORBIDDEN, "open the portal by its own address\n").into_response();
    }
    let mut answer = next.run(request).await;
    let policy = "default-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    for (name, value) in [("content-security-policy", policy), ("x-content-type-options", "nosniff"), ("cache-control", "no-store")] {
        answer.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    answer
}

fn is_ours(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or("?"));
    let Some(host) = text(header::HOST) else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let loopback = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback && text(header::ORIGIN).is_none_or(|origin| origin.strip_prefix("http://") == Some(host))
}

async fn asset(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

async fn home(AxumState(cloud): AxumState<Arc<Cloud>>) -> Response {
    match state::read(&cloud).await {
        Ok(state) => html(&page::Page::new(&state, &cloud.issuer.catalogue)),
        Err(e) => refused(&e.into()),
    }
}

/// Says "look again" whenever something happens; what happened is in the page.
async fn events(AxumState(cloud): AxumState<Arc<Cloud>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // Someone who was too slow has missed events, and looks again all the same.
    let news = BroadcastStream::new(cloud.bus.listen()).map(|news| {
        let data = news.ok().and_then(|news| serde_json::to_string(&news).ok()).unwrap_or_else(|| "{}".into());
        Ok(Event::default().data(data))
    });
    Sse::new(news).keep_alive(KeepAlive::default())
}

async fn confirm(AxumState(cloud): AxumState<Arc<Cloud>>, Path((id, what)): Path<(String, String)>) -> Response {
    let downgrade = match what.as_str() {
        "cancel" => false,
        "downgrade" => true,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let Ok(device) = id.parse::<DeviceId>() else { return StatusCode::NOT_FOUND.into_response() };
    let issuer = cloud.issuer.clone();
    let (asked, now) = (device.clone(), cloud.clock.now_s());
    match cloud.db.transact_async(move |tx| issuer.offer(tx, &asked, downgrade, now)).await {
        Ok(offer) => html(&page::Confirm::new(device.as_str(), &offer, downgrade)),
        Err(e) => refused(&e),
    }
}

#[derive(Deserialize)]
struct Choice {
    plan: Option<PaidPlan>,
    // What the confirm page showed.
    order_id: Option<String>,
    kind: Option<RefundKind>,
    amount_minor: Option<u64>,
    at: Option<u64>,
}

impl Choice {
    fn quote(self) -> Option<Quote> {
        Some(Quote { order_id: self.order_id?, kind: self.kind?, amount_minor: self.amount_minor?, at: self.at? })
    }
}

async fn act_form(
    AxumState(cloud): AxumState<Arc<Cloud>>,
    Path((id, what)): Path<(String, String)>,
    Form(choice): Form<Choice>,
) -> Response {
    let Ok(camera) = id.parse::<DeviceId>() else { return StatusCode::NOT_FOUND.into_response() };
    let action = match (what.as_str(), choice.plan) {
        ("cancel", _) => Action::Cancel { camera, quote: choice.quote() },
        ("downgrade", _) => Action::Downgrade { camera, quote: choice.quote() },
        ("subscribe", Some(plan)) => Action::Subscribe { camera, plan, cycle: None, channel: None, zone: None },
        ("store-cancel", _) => Action::StoreCancel { camera, ends_in_s: Some(STORE_PERIOD_LEFT_S) },
        ("withdraw", _) => Action::Withdraw { camera },
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match cloud.act(action).await {
        Ok(_) => Redirect::to("/").into_response(),
        Err(e) => refused(&e),
    }
}

fn html(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(e) => {
            tracing::error!("rendering a page: {e}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn refused(e: &ActionError) -> Response {
    (status_of(e), html(&page::Refused { why: e.to_string() })).into_response()
}

async fn state_json(AxumState(cloud): AxumState<Arc<Cloud>>) -> Response {
    match state::read(&cloud).await {
        Ok(state) => Json(state).into_response(),
        Err(e) => failed(&e.into()),
    }
}

async fn act_json(AxumState(cloud): AxumState<Arc<Cloud>>, Json(action): Json<Action>) -> Response {
    match cloud.act(action).await {
        Ok(done) => Json(done_json(&done)).into_response(),
        Err(e) => failed(&e),
    }
}

#[derive(Deserialize)]
struct Switch {
    run: bool,
}

/// Stops or starts the embedded broker: an outage to watch.
async fn broker_json(AxumState(cloud): AxumState<Arc<Cloud>>, Json(switch): Json<Switch>) -> Response {
    let switched = tokio::task::spawn_blocking(move || cloud.broker.as_ref().map(|broker| broker.set_running(switch.run))).await;
    match switched {
        Ok(Some(true)) => Json(json!({ "running": switch.run })).into_response(),
        Ok(None) => (StatusCode::CONFLICT, Json(json!({ "error": "the broker is external: stop it where it runs" }))).into_response(),
        Ok(Some(false)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": "the broker does not listen again" }))).into_response()
        }
    }
}

fn done_json(done: &Done) -> serde_json::Value {
    let documents: Vec<_> = done
        .issued
        .iter()
        .map(|d| json!({ "camera": d.device, "epoch": d.position.epoch, "seq": d.position.seq, "plan": d.plan, "reason": d.reason }))
        .collect();
    let orders: Vec<_> = done.back.iter().map(|order| json!({ "id": order.id, "refund": order.refund })).collect();
    json!({ "documents": documents, "orders": orders })
}

fn failed(e: &ActionError) -> Response {
    (status_of(e), Json(json!({ "error": e.to_string() }))).into_response()
}

fn status_of(e: &ActionError) -> StatusCode {
    match e {
        ActionError::Db(e) => {
            tracing::error!("{e}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ActionError::NoCamera(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    }
}
