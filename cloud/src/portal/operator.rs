//! The way in for programs of whoever owns the data directory: the command line, the demo, the tests. JSON, and no session:
//! they show the operator's secret, which lies in the data directory and which only its owner can read.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use super::{Portal, guard::Arrived, page::status_of, session::same, state};
use crate::{
    actions::{Action, ActionError, Done},
    machine,
};

/// Its routes.
pub fn router(portal: &Arc<Portal>) -> Router<Arc<Portal>> {
    Router::new()
        .route("/portal/state", get(read_state))
        .route("/portal/act", post(act))
        .route("/portal/broker", post(broker))
        .merge(machine::routes().with_state(portal.cloud.clone()))
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
    axum::Extension(Arrived(at)): axum::Extension<Arrived>,
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
