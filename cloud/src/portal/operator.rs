//! The JSON API for the command line, the demo and the tests. It has no session: a request carries the operator's
//! secret, which only the owner of the data directory can read.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use care_protocol::DeviceId;
use serde::Deserialize;
use serde_json::json;

use super::{Portal, account_view, guard::ReceivedAt, page::status_of, session::same, state};
use crate::{
    domain::actions::{Action, ActionError, Done},
    lab::experiments::{Experiment, ExperimentError},
    storage::db::DbError,
};

/// Its routes.
pub fn router(portal: &Arc<Portal>) -> Router<Arc<Portal>> {
    Router::new()
        .route("/portal/state", get(read_state))
        .route("/portal/act", post(act))
        .route("/portal/broker", post(broker))
        .route("/portal/experiment", post(experiment))
        .route("/portal/overview", get(overview))
        .route("/portal/preview", post(preview))
        .route("/portal/accounts/{id}", get(account))
        .route("/portal/accounts/{id}/orders", get(orders))
        .route("/portal/accounts/{id}/cameras/{device}/clips", get(clips))
        .layer(middleware::from_fn_with_state(portal.clone(), authorised))
}

async fn authorised(State(portal): State<Arc<Portal>>, request: Request, next: Next) -> Response {
    if shown(request.headers()).is_some_and(|secret| same(secret, &portal.cloud.operator)) {
        return next.run(request).await;
    }
    let why = "show the operator's secret: authorization: Bearer, and what keys/operator.secret in the data directory says";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], Json(json!({ "error": why }))).into_response()
}

fn shown(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn read_state(State(portal): State<Arc<Portal>>) -> Response {
    match state::read(&portal.cloud).await {
        Ok(state) => Json(state).into_response(),
        Err(e) => failed(&e.into()),
    }
}

async fn act(
    State(portal): State<Arc<Portal>>,
    axum::Extension(ReceivedAt(at)): axum::Extension<ReceivedAt>,
    Json(action): Json<Action>,
) -> Response {
    match portal.act(action, at).await {
        Ok(done) => Json(done_json(&done)).into_response(),
        Err(e) => failed(&e),
    }
}

#[derive(Deserialize)]
struct Switch {
    run: bool,
}

/// Stops or starts the embedded broker: an outage to watch.
async fn broker(State(portal): State<Arc<Portal>>, Json(switch): Json<Switch>) -> Response {
    let cloud = portal.cloud.clone();
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

async fn experiment(State(portal): State<Arc<Portal>>, Json(experiment): Json<Experiment>) -> Response {
    match portal.lab.experiment(experiment).await {
        Ok(done) => Json(done).into_response(),
        Err(e) => refused(experiment_status(&e), &e),
    }
}

async fn overview(State(portal): State<Arc<Portal>>) -> Response {
    answer(portal.lab.overview().await.map(Some))
}

async fn preview(State(portal): State<Arc<Portal>>, Json(action): Json<Action>) -> Response {
    let cloud = &portal.cloud;
    let (issuer, now) = (cloud.issuer.clone(), cloud.clock.now_s());
    match cloud.db.transact_async(move |tx| issuer.preview(tx, &action, now)).await {
        Ok(preview) => Json(preview).into_response(),
        Err(e) => {
            let e = ExperimentError::from(e);
            refused(experiment_status(&e), &e)
        }
    }
}

async fn account(State(portal): State<Arc<Portal>>, Path(id): Path<String>) -> Response {
    answer(account_view::read(&portal.cloud, &id).await)
}

async fn orders(State(portal): State<Arc<Portal>>, Path(id): Path<String>) -> Response {
    answer(account_view::orders(&portal.cloud, &id).await.map(Some))
}

async fn clips(State(portal): State<Arc<Portal>>, Path((id, device)): Path<(String, DeviceId)>) -> Response {
    answer(account_view::clips(&portal.cloud, &id, &device).await.map(Some))
}

fn answer<T: serde::Serialize>(found: Result<Option<T>, DbError>) -> Response {
    match found {
        Ok(Some(found)) => Json(found).into_response(),
        Ok(None) => refused(StatusCode::NOT_FOUND, &"there is no such account"),
        Err(e) => refused(StatusCode::INTERNAL_SERVER_ERROR, &e),
    }
}

/// The HTTP status for an experiment's refusal.
fn experiment_status(e: &ExperimentError) -> StatusCode {
    match e {
        ExperimentError::Action(ActionError::NoCamera(_) | ActionError::NoOrder { .. }) => StatusCode::NOT_FOUND,
        ExperimentError::Action(ActionError::Db(_) | ActionError::Keys(_))
        | ExperimentError::Keys(_)
        | ExperimentError::Pki(_)
        | ExperimentError::Store(_)
        | ExperimentError::BrokerDown => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    }
}

fn refused(status: StatusCode, e: &dyn std::fmt::Display) -> Response {
    if status.is_server_error() {
        tracing::error!("{e}");
    }
    (status, Json(json!({ "error": e.to_string() }))).into_response()
}
