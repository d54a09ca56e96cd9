//! Playback: streams a clip to its owner, whole or in ranges, as a video element asks for it. The caller has checked
//! the session; this module checks that the account may watch the clip.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use care_protocol::DeviceId;

use crate::{
    domain::parts,
    portal::account_view,
    transport::{
        cloud::Cloud,
        store::{MEDIA_TYPE, Object, StoreError},
    },
};

/// Answers a GET of one clip. Another account's clip, an erased clip and an unknown clip are all 404.
pub async fn serve(cloud: &Arc<Cloud>, account: &str, device: &DeviceId, clip: &str, headers: &HeaderMap) -> Response<Body> {
    match account_view::clip(cloud, account, device, clip).await {
        Ok(Some(_)) => {}
        Ok(None) => return plain(StatusCode::NOT_FOUND, "there is no such clip\n"),
        Err(e) => {
            tracing::error!("looking for a clip: {e}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the cloud's database failed\n");
        }
    }
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let asked = clip.to_owned();
    let parts = match cloud.db.read_async(move |connection| parts::stored(connection, &asked)).await {
        Ok(parts) => parts,
        Err(e) => {
            tracing::error!("looking for a clip's parts: {e}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the cloud's database failed\n");
        }
    };
    match cloud.store.open_clip(device, clip, &parts, range).await {
        Ok(Some(Object::Content { body, length, content_range })) => found(body, length, content_range),
        Ok(Some(Object::Redirect(url))) => {
            let mut answer = plain(StatusCode::SEE_OTHER, "");
            match HeaderValue::try_from(url.as_str()) {
                Ok(location) => answer.headers_mut().insert(header::LOCATION, location),
                Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR, "the store's address is unusable\n"),
            };
            answer
        }
        Ok(None) => plain(StatusCode::NOT_FOUND, "there is no such clip\n"),
        Err(StoreError::Range) => plain(StatusCode::RANGE_NOT_SATISFIABLE, "the clip is shorter than that\n"),
        Err(e) => {
            tracing::error!("{e}");
            plain(StatusCode::BAD_GATEWAY, "the store failed\n")
        }
    }
}

fn found(body: Body, length: u64, content_range: Option<String>) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // An erased clip must not be playable from a cache.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    if let Some(range) = content_range.and_then(|range| HeaderValue::try_from(range).ok()) {
        headers.insert(header::CONTENT_RANGE, range);
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    answer
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    answer
}
