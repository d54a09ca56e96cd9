//! The HTTPS API for cameras (`docs/protocol.md#https`): grants for clips, the entitlement, the keyset. The client
//! certificate identifies the camera, which has access to nothing but its own resources.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use care_protocol::{DeviceId, Grant, GrantRequest, Stored, is_sha256_hex};
use thiserror::Error;

use crate::{
    clock::now_us,
    domain::{
        clip_rules::{forbidden, kind_name},
        issuer::{find_camera, newest_body, token_for},
        parts::{self, PartError, Piece},
    },
    storage::db::{DbError, OptionalExtension as _, Scope, SqlError, Transaction, params},
    transport::{cloud::Cloud, listener::Peer, store},
};

/// How far a camera's clock may be ahead of ours, milliseconds: a clip that begins later is refused. A camera follows
/// our clock to within ten minutes.
const AHEAD_MS: i64 = 10 * 60 * 1000;
/// The largest clip, bytes.
const MAX_CLIP: u64 = 256 * 1024 * 1024;

/// The API and the embedded store, on one origin.
pub fn router(cloud: Arc<Cloud>) -> Router {
    Router::new()
        .route("/v1/devices/{id}/clips", post(clips))
        .route("/v1/devices/{id}/entitlement", get(entitlement))
        .route("/v1/keyset", get(keyset))
        .layer(DefaultBodyLimit::max(16 * 1024))
        .fallback(put)
        .with_state(cloud)
}

/// Why a request was refused.
#[derive(Debug, Error)]
enum Refusal {
    #[error("your certificate is another camera's")]
    NotYou,
    #[error("this camera is not bound to an account, or was reset and not added again")]
    NotBound,
    #[error("the clip belongs to another owner or camera")]
    NotYours,
    #[error("the plan does not allow this clip: {0}")]
    Plan(&'static str),
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("the clip begins at {started_at}, and it is {now}: it is accepted once that time is reached")]
    Future { started_at: jiff::Timestamp, now: jiff::Timestamp },
    #[error("clips are at most {MAX_CLIP} bytes")]
    TooLarge,
    #[error(transparent)]
    Part(PartError),
    #[error("there is no such document")]
    None,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<PartError> for Refusal {
    fn from(e: PartError) -> Self {
        match e {
            PartError::Db(e) => Self::Db(e),
            e => Self::Part(e),
        }
    }
}

impl From<SqlError> for Refusal {
    fn from(e: SqlError) -> Self {
        Self::Db(e.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotYou | Self::NotBound | Self::NotYours => StatusCode::FORBIDDEN,
            Self::Plan(_) => StatusCode::PAYMENT_REQUIRED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            // The clip's own fault: neither the plan's nor the network's.
            Self::Future { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Part(_) => StatusCode::CONFLICT,
            Self::None => StatusCode::NOT_FOUND,
            Self::Db(e) => {
                tracing::error!("{e}");
                return (StatusCode::INTERNAL_SERVER_ERROR, "the cloud's database failed\n").into_response();
            }
        };
        (status, format!("{self}\n")).into_response()
    }
}

async fn entitlement(
    State(cloud): State<Arc<Cloud>>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let device = own(&peer, &id)?;
    let token = cloud.db.read_async(move |connection| token_for(connection, &device, None)).await?.ok_or(Refusal::None)?;
    Ok(([(header::CONTENT_TYPE, "text/plain")], token).into_response())
}

async fn keyset(State(cloud): State<Arc<Cloud>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain")], cloud.issuer.keys.current().token.clone()).into_response()
}

async fn put(State(cloud): State<Arc<Cloud>>, Extension(Peer(peer)): Extension<Peer>, request: Request<Body>) -> Response {
    store::put::serve(cloud, &peer, request).await
}

async fn clips(State(cloud): State<Arc<Cloud>>, Extension(Peer(peer)): Extension<Peer>, Path(id): Path<String>, body: Bytes) -> Response {
    let answer = grant(&cloud, &peer, &id, &body).await.into_response();
    cloud.observed.count(|counts| *counts.grants.entry(answer.status().as_u16()).or_default() += 1);
    answer
}

async fn grant(cloud: &Arc<Cloud>, peer: &DeviceId, id: &str, body: &Bytes) -> Result<Response, Refusal> {
    let device = own(peer, id)?;
    let request: GrantRequest = serde_json::from_slice(body).map_err(|e| Refusal::Malformed(e.to_string()))?;
    uuid::Uuid::try_parse(&request.clip).map_err(|_| Refusal::Malformed("clip is not a UUID".into()))?;
    if !is_sha256_hex(&request.sha256) {
        return Err(Refusal::Malformed("sha256 is not 64 lowercase hex digits".into()));
    }
    if request.bytes > MAX_CLIP {
        return Err(Refusal::TooLarge);
    }
    let clip = request.clip.clone();
    let part = request.part.map(|part| part.index);
    let asking = device.clone();
    let now = cloud.clock.now_s();
    if cloud.refused_grants.includes(&device, now) {
        return Err(Refusal::Plan("an engineer wants it so"));
    }
    let decided = cloud.db.transact_async_in(Scope::camera(device.as_str()), move |tx| decide(tx, &asking, &request, now)).await;
    match decided {
        Ok(Decision::Stored) => Ok(Json(Stored { stored: true }).into_response()),
        Ok(Decision::Granted { id }) => {
            let grant: Grant = cloud.store.grant(&device, &Piece { clip, part }, &id);
            Ok((StatusCode::CREATED, Json(grant)).into_response())
        }
        Err(refusal) => {
            tracing::info!(%device, clip, part, "no grant: {refusal}");
            Err(refusal)
        }
    }
}

fn own(peer: &DeviceId, id: &str) -> Result<DeviceId, Refusal> {
    if peer.as_str() == id { Ok(peer.clone()) } else { Err(Refusal::NotYou) }
}

enum Decision {
    Stored,
    Granted { id: String },
}

/// Judges one request under the plan in force, whatever document the camera still thinks is in force.
fn decide(tx: &Transaction<'_>, device: &DeviceId, request: &GrantRequest, now: u64) -> Result<Decision, Refusal> {
    let camera = find_camera(tx, device)?.filter(|camera| camera.bound && !camera.reset).ok_or(Refusal::NotBound)?;
    if request.epoch != camera.epoch {
        return Err(Refusal::NotYours);
    }
    let started_ms = request.started_at.as_millisecond();
    let now_ms = i64::try_from(now).unwrap_or(i64::MAX).saturating_mul(1000);
    if started_ms > now_ms.saturating_add(AHEAD_MS) {
        let now = jiff::Timestamp::from_millisecond(now_ms).unwrap_or(jiff::Timestamp::MAX);
        return Err(Refusal::Future { started_at: request.started_at, now });
    }
    if announce(tx, device, request, started_ms)? {
        return Ok(Decision::Stored);
    }
    if let Some(why) = forbidden(tx, device, &request.clip, now)? {
        return Err(Refusal::Plan(why));
    }
    // The generation of a grant is the document in force here: a cancel that the camera has not seen yet is already in
    // it.
    let body = newest_body(tx, device)?.ok_or(Refusal::NotBound)?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    tx.execute(
        "INSERT INTO grants (id, clip, part, device, epoch, seq, granted_at, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'open')",
        params![id, request.clip, request.part.map(|part| part.index), device.as_str(), body.epoch, body.seq, now_us()],
    )?;
    Ok(Decision::Granted { id })
}

/// Notes what the camera announces, a clip or a part of one. Returns whether it is stored already.
fn announce(tx: &Transaction<'_>, device: &DeviceId, request: &GrantRequest, started_ms: i64) -> Result<bool, Refusal> {
    let known: Option<(String, u64, String, u64, bool)> = tx
        .prepare_cached("SELECT device, epoch, sha256, bytes, stored_at IS NOT NULL AND erased_at IS NULL FROM clips WHERE clip = ?1")?
        .query_row([&request.clip], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .optional()?;
    // The sums of a clip in parts follow from its parts, and it has no digest of its own.
    let (bytes, sha256) = if request.part.is_some() { (0, "") } else { (request.bytes, &request.sha256[..]) };
    let stored = match known {
        Some((owner, epoch, ..)) if owner != device.as_str() || epoch != request.epoch => return Err(Refusal::NotYours),
        Some((_, _, known_sha256, known_bytes, _)) if known_sha256 != sha256 || (request.part.is_none() && known_bytes != bytes) => {
            return Err(Refusal::Malformed("this clip was announced with another content".into()));
        }
        Some((.., stored)) => stored,
        None => {
            tx.execute(
                "INSERT INTO clips (clip, device, epoch, kind, started_ms, duration_ms, bytes, sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![request.clip, device.as_str(), request.epoch, kind_name(request.kind), started_ms, request.duration_ms, bytes, sha256],
            )?;
            false
        }
    };
    match request.part {
        Some(part) => Ok(parts::announce(tx, request, part)?),
        None => Ok(stored),
    }
}
