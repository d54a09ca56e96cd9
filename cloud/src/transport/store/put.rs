//! An upload to the embedded store, from its first byte to the index. A cancel revokes its grant, and from then on no
//! byte of it is stored. To let the store's count show what the *camera* does, the connection of a revoked upload
//! stays open: its bytes are discarded and counted for [`LINGER`], then it is closed.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Method, Request, Response, StatusCode, header, request::Parts},
};
use care_protocol::{DeviceId, Position};
use futures::{StreamExt as _, channel::mpsc};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use thiserror::Error;
use tokio::sync::watch;

use super::{
    GRANT_PARAMETER,
    embedded::{BUCKET, Embedded},
    key, mark_stored,
    transfers::{OpenTransfer, Transfer},
};
use crate::{
    domain::parts::Piece,
    storage::db::{DbError, Scope},
    transport::{cloud::Cloud, events::CloudEvent},
};

/// How long a revoked upload is still read (and thrown away) before its connection is closed.
pub const LINGER: Duration = Duration::from_secs(1);

/// Why a PUT was refused.
#[derive(Debug, Error)]
enum Refusal {
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("{0}")]
    Bad(&'static str),
    /// Refused at its beginning; bytes that arrive all the same are counted as after the change.
    #[error("the plan changed: the grant was revoked")]
    Revoked(OpenTransfer),
    #[error("clips go to an external store")]
    External,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Refusal {
    /// Sends the answer at once. The rest of the body is read, discarded and counted for [`LINGER`] after it: closing
    /// with unread bytes would reset the connection, and the camera might never see why it was refused.
    fn answer(self, rest: Option<Body>) -> Response<Body> {
        let status = match &self {
            Self::Forbidden(_) | Self::Revoked(_) => StatusCode::FORBIDDEN,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::External => StatusCode::NOT_FOUND,
            Self::Db(e) => {
                tracing::error!("{e}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let why = Bytes::from(format!("{self}\n"));
        let first = futures::stream::once(async move { Ok::<_, Infallible>(why) });
        let then = futures::stream::once(drain(rest, self)).filter_map(async |()| None);
        let mut answer = Response::new(Body::from_stream(first.chain(then)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        answer
    }
}

async fn drain(rest: Option<Body>, refusal: Refusal) {
    let Some(mut rest) = rest else { return };
    let deadline = tokio::time::Instant::now() + LINGER;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(deadline, rest.frame()).await {
        if let (Refusal::Revoked(open), Some(data)) = (&refusal, frame.data_ref()) {
            open.transfer.received.fetch_add(data.len() as u64, Ordering::SeqCst);
        }
    }
}

/// The database's entry for a grant.
struct Granted {
    piece: Piece,
    kind: String,
    device: DeviceId,
    position: Position,
    bytes: u64,
    sha256: String,
    state: String,
}

/// Serves one request to the embedded store. `peer` is the client certificate's CN.
pub async fn serve(cloud: Arc<Cloud>, peer: &DeviceId, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    match put(&cloud, peer, parts, &mut body).await {
        Ok(answer) => answer,
        Err(refusal) => {
            tracing::info!(device = %peer, "PUT refused: {refusal}");
            refusal.answer(body)
        }
    }
}

/// Takes the body out of its place once it is wanted.
async fn put(cloud: &Arc<Cloud>, peer: &DeviceId, request: Parts, body: &mut Option<Body>) -> Result<Response<Body>, Refusal> {
    let embedded = cloud.store.as_embedded().ok_or(Refusal::External)?;
    if request.method != Method::PUT {
        return Err(Refusal::Forbidden("cameras only put"));
    }
    let query = request.uri.query().unwrap_or_default();
    let grant = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == GRANT_PARAMETER).map(|(_, id)| id.into_owned());
    let grant = grant.ok_or(Refusal::Forbidden("the URL names no grant"))?;
    let granted = find_grant(cloud, &grant).await?.ok_or(Refusal::Forbidden("no such grant"))?;
    if granted.device != *peer || request.uri.path() != format!("/{BUCKET}/{}", key(peer, &granted.piece)) {
        return Err(Refusal::Forbidden("the grant is another's"));
    }
    let length = request.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    if length != Some(granted.bytes) {
        return Err(Refusal::Bad("Content-Length is not the clip's size"));
    }
    let transfer =
        Transfer::begin(grant.clone(), granted.piece.clip.clone(), granted.kind.clone(), peer.clone(), granted.position, granted.bytes);
    let open = cloud.transfers.open(transfer).ok_or(Refusal::Forbidden("the grant is in use"))?;
    // Looked at again once listed: a cancel either finds the transfer in the list or its grant is seen as revoked here.
    let granted = find_grant(cloud, &grant).await?.ok_or(Refusal::Forbidden("no such grant"))?;
    if granted.state == "used" {
        return Err(Refusal::Forbidden("the grant is used up"));
    }
    if granted.state != "open" {
        open.transfer.was_revoked();
        return Err(Refusal::Revoked(open));
    }
    let Some(body) = body.take() else { return Err(Refusal::Bad("no body")) };
    cloud.events.send(CloudEvent::Upload { device: peer.to_string() });
    let answer = receive(cloud, embedded, &open.transfer, &granted, request, body).await;
    drop(open);
    cloud.events.send(CloudEvent::Upload { device: peer.to_string() });
    answer
}

/// Passes the body to S3 while it is wanted, and counts it as it arrives.
async fn receive(
    cloud: &Arc<Cloud>,
    embedded: &Embedded,
    transfer: &Arc<Transfer>,
    granted: &Granted,
    parts: Parts,
    mut body: Body,
) -> Result<Response<Body>, Refusal> {
    // One frame waits at most: the camera is read as fast as the disk writes.
    let (feed, fed) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(1);
    let request = Request::from_parts(parts, s3s::Body::http_body(http_body_util::StreamBody::new(fed)));
    let service = embedded.service.clone();
    let storing = tokio::spawn(async move { service.call(request).await });

    let mut revoked = transfer.revoked.subscribe();
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut feed = Some(feed);
    let mut deadline = None;
    let complete = loop {
        tokio::select! {
            biased;
            () = revocation(&mut revoked), if deadline.is_none() => {
                deadline = Some(tokio::time::Instant::now() + LINGER);
                if let Some(mut feed) = feed.take() {
                    // S3 discards the partial upload; if it has ended already there is nothing to abort.
                    drop(futures::SinkExt::send(&mut feed, Err(io::Error::other("the grant was revoked"))).await);
                }
            }
            () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => break false,
            frame = body.frame() => match frame {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    transfer.received.fetch_add(data.len() as u64, Ordering::SeqCst);
                    hash.update(&data);
                    if let Some(feed) = feed.as_mut() {
                        // S3 may have refused already; its answer contains the reason.
                        drop(futures::SinkExt::send(feed, Ok(Frame::data(data))).await);
                    }
                }
            },
        }
    };
    let genuine = hex(hash.finish().as_ref()) == granted.sha256;
    if let Some(mut feed) = feed.filter(|_| !(complete && genuine)) {
        drop(futures::SinkExt::send(&mut feed, Err(io::Error::other("the upload was cut or is not the clip"))).await);
    }
    let answer = match storing.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => {
            tracing::error!("the embedded store: {e:?}");
            return Err(Refusal::Bad("the store failed"));
        }
        Err(e) => {
            tracing::error!("the embedded store: {e}");
            return Err(Refusal::Bad("the store failed"));
        }
    };
    if answer.status().is_success() && (deadline.is_some() || !complete || !genuine) {
        cloud.store.delete_embedded(&granted.device, &granted.piece);
    }
    if deadline.is_some() {
        return Err(Refusal::Forbidden("the plan changed: the grant was revoked"));
    }
    if complete && !genuine {
        return Err(Refusal::Bad("the body is not the clip that was announced"));
    }
    if !answer.status().is_success() {
        return Ok(answer.map(Body::new));
    }
    let (grant, piece, device, now) = (transfer.grant.clone(), granted.piece.clone(), transfer.device.clone(), cloud.clock.now_s());
    if !cloud.db.transact_async_in(Scope::camera(device.as_str()), move |tx| mark_stored(tx, &grant, &piece, &device, now)).await? {
        cloud.store.delete_embedded(&granted.device, &granted.piece);
        return Err(Refusal::Forbidden("the plan changed: the clip was not kept"));
    }
    transfer.stored.store(true, Ordering::SeqCst);
    tracing::info!(device = %granted.device, clip = granted.piece.clip, part = granted.piece.part, bytes = granted.bytes, "stored");
    Ok(answer.map(Body::new))
}

/// Ends when the grant is revoked. The sender lives as long as the transfer, so it cannot go first.
async fn revocation(revoked: &mut watch::Receiver<bool>) {
    drop(revoked.wait_for(|revoked| *revoked).await);
}

async fn find_grant(cloud: &Arc<Cloud>, grant: &str) -> Result<Option<Granted>, Refusal> {
    use crate::storage::db::OptionalExtension as _;
    let grant = grant.to_owned();
    let found = cloud.db.read_async(move |connection| {
        let mut statement = connection.prepare_cached(
            "SELECT g.clip, g.part, g.device, g.epoch, g.seq, g.state, coalesce(p.bytes, c.bytes), coalesce(p.sha256, c.sha256), c.kind
             FROM grants g JOIN clips c ON c.clip = g.clip LEFT JOIN parts p ON p.clip = g.clip AND p.part = g.part WHERE g.id = ?1",
        )?;
        let row = statement.query_row([grant], |row| {
            let position = Position { epoch: row.get(3)?, seq: row.get(4)? };
            let piece = Piece { clip: row.get(0)?, part: row.get(1)? };
            Ok((piece, row.get::<_, String>(2)?, position, row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?))
        });
        Ok(row.optional()?)
    });
    let Some((piece, device, position, state, bytes, sha256, kind)) = found.await? else { return Ok(None) };
    let device = device.parse().map_err(|_| Refusal::Forbidden("the grant's device is unreadable"))?;
    Ok(Some(Granted { piece, kind, device, position, bytes, sha256, state }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
