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
    portal::account_view::{self, ClipView},
    transport::{
        cloud::Cloud,
        store::{MEDIA_TYPE, Object, STILL_TYPE, StoreError},
    },
};

/// Answers a GET of one clip. Another account's clip, an erased clip and an unknown clip are all 404.
pub async fn serve(cloud: &Arc<Cloud>, account: &str, device: &DeviceId, clip: &str, headers: &HeaderMap) -> Response<Body> {
    let mut found = match account_view::clip(cloud, account, device, clip).await {
        Ok(Some(found)) => found,
        Ok(None) => return plain(StatusCode::NOT_FOUND, "there is no such clip\n"),
        Err(e) => {
            tracing::error!("looking for a clip: {e}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the cloud's database failed\n");
        }
    };
    know_stills(cloud, vec![&mut found]).await;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let asked = clip.to_owned();
    let parts = match cloud.db.read_async(move |connection| parts::stored(connection, &asked)).await {
        Ok(parts) => parts,
        Err(e) => {
            tracing::error!("looking for a clip's parts: {e}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the cloud's database failed\n");
        }
    };
    let media_type = if found.still { STILL_TYPE } else { MEDIA_TYPE };
    match cloud.store.open_clip(device, clip, &parts, range, media_type).await {
        Ok(Some(Object::Content { body, length, content_range })) => content(media_type, body, length, content_range),
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

/// Finds out which of these clips are JPEGs. One of which that cannot be told counts as a video.
pub async fn know_stills(cloud: &Arc<Cloud>, clips: Vec<&mut ClipView>) {
    for clip in clips.into_iter().filter(|clip| clip.kind == "snapshot") {
        let id = clip.clip.clone();
        let still = match cloud.db.read_async(move |connection| parts::stored(connection, &id)).await {
            Ok(parts) => cloud.store.is_jpeg(&clip.device, &clip.clip, &parts).await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        clip.still = still.unwrap_or_else(|why| {
            tracing::warn!("what kind of picture {} is: {why}", clip.clip);
            false
        });
    }
}

fn content(media_type: &'static str, body: Body, length: u64, content_range: Option<String>) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
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
