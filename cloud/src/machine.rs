//! What programs ask the portal for, as JSON: the command line, the demo and the tests. Who may ask is settled before these
//! routes (the operator's secret); what people see is the portal's own.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use care_protocol::DeviceId;
use serde_json::json;

use crate::{
    account_view,
    actions::{Action, ActionError},
    cloud::Cloud,
    db::DbError,
    experiments::{Experiment, ExperimentError},
};

/// `POST /portal/experiment` and `/portal/preview`; `GET /portal/overview`, `/portal/accounts/{id}` and what is below it.
pub fn routes() -> Router<Arc<Cloud>> {
    Router::new()
        .route("/portal/experiment", post(experiment))
        .route("/portal/overview", get(overview))
        .route("/portal/preview", post(preview))
        .route("/portal/accounts/{id}", get(account))
        .route("/portal/accounts/{id}/orders", get(orders))
        .route("/portal/accounts/{id}/cameras/{device}/clips", get(clips))
}

async fn experiment(State(cloud): State<Arc<Cloud>>, Json(experiment): Json<Experiment>) -> Response {
    match cloud.experiment(experiment).await {
        Ok(done) => Json(done).into_response(),
        Err(e) => refused(status_of(&e), &e),
    }
}

async fn overview(State(cloud): State<Arc<Cloud>>) -> Response {
    answer(cloud.overview().await.map(Some))
}

async fn preview(State(cloud): State<Arc<Cloud>>, Json(action): Json<Action>) -> Response {
    let (issuer, now) = (cloud.issuer.clone(), cloud.clock.now_s());
    match cloud.db.transact_async(move |tx| issuer.preview(tx, &action, now)).await {
        Ok(preview) => Json(preview).into_response(),
        Err(e) => {
            let e = ExperimentError::from(e);
            refused(status_of(&e), &e)
        }
    }
}

async fn account(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    answer(account_view::read(&cloud, &id).await)
}

async fn orders(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    answer(account_view::orders(&cloud, &id).await.map(Some))
}

async fn clips(State(cloud): State<Arc<Cloud>>, Path((id, device)): Path<(String, DeviceId)>) -> Response {
    answer(account_view::clips(&cloud, &id, &device).await.map(Some))
}

fn answer<T: serde::Serialize>(found: Result<Option<T>, DbError>) -> Response {
    match found {
        Ok(Some(found)) => Json(found).into_response(),
        Ok(None) => refused(StatusCode::NOT_FOUND, &"there is no such account"),
        Err(e) => refused(StatusCode::INTERNAL_SERVER_ERROR, &e),
    }
}

/// How an experiment's refusal is said in HTTP.
pub fn status_of(e: &ExperimentError) -> StatusCode {
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
