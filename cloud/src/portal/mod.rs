//! The portal: where a person sees cameras and plans and changes them. Plain HTTP on loopback, no sign-in yet; forms work
//! without a script, a small script follows the switch live. The same actions are there as JSON for programs.

pub mod state;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State as AxumState,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    actions::{Action, ActionError, Done},
    cloud::Cloud,
};

/// The portal's routes.
pub fn router(cloud: Arc<Cloud>) -> Router {
    Router::new()
        .route("/portal/state", get(state_json))
        .route("/portal/act", post(act_json))
        .route("/portal/broker", post(broker_json))
        .with_state(cloud)
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
    let order = done.refund.as_ref().map(|order| json!({ "id": order.id, "refund": order.refund }));
    json!({ "documents": documents, "order": order })
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
