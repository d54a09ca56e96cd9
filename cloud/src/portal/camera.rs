//! The page of one camera: its clips, and a player for one of them. Also serves the clips.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use care_protocol::DeviceId;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::{
    Portal,
    auth::Owner,
    cameras::Household,
    card::Card,
    context::RequestContext,
    frame::Frame,
    language::{Language, machine_time},
    page::{failed, html, refusal},
    translations::{fill, name_of},
};
use crate::{
    clock::now_us,
    portal::{
        account_view::{self, AccountView, CameraView, ClipView},
        playback,
    },
};

#[derive(Template)]
#[template(path = "camera.html")]
struct Page {
    frame: Frame,
    camera: Card,
    kept: String,
    shown: Option<Clip>,
    gone: bool,
    clips: Vec<Clip>,
}

struct Clip {
    id: String,
    url: String,
    text: String,
    kind: String,
    at: String,
    machine_time: String,
    length: String,
    size: String,
    being_filmed: bool,
    still: bool,
    shown: bool,
}

/// Which clip to show.
#[derive(Deserialize)]
pub struct Asked {
    clip: Option<String>,
}

/// A camera of this account.
pub fn camera_of<'v>(view: &'v AccountView, id: &str) -> Option<&'v CameraView> {
    view.cameras.iter().find(|camera| camera.device.as_str() == id)
}

/// The answer that there is none.
pub fn no_camera(context: &RequestContext) -> Response {
    refusal(context, StatusCode::NOT_FOUND, name_of(&context.language.translations().refusal, "no_camera"))
}

/// The page.
pub async fn page(
    State(portal): State<Arc<Portal>>,
    Household { account, view, context }: Household,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(camera) = camera_of(&view, &id) else { return no_camera(&context) };
    let mut clips = match account_view::clips(&portal.cloud, &account, &camera.device).await {
        Ok(clips) => clips,
        Err(e) => return failed(&context, &e.into()),
    };
    let asked_for = |clip: &ClipView| asked.clip.as_ref().is_none_or(|asked| clip.clip == *asked);
    playback::know_stills(&portal.cloud, clips.iter_mut().find(|clip| asked_for(clip)).into_iter().collect()).await;
    let (language, zone) = (context.language, &context.zone);
    let t = language.translations();
    let shown = clips.iter().find(|clip| asked_for(clip));
    let shown_id = shown.map(|clip| clip.clip.clone());
    let count = language.count(camera.clips, &t.clips_one, &t.clips_other);
    let values = [("clips", count), ("size", language.size(camera.clip_bytes)), ("history", language.history(camera.history_h))];
    html(&Page {
        camera: Card::new(language, zone, &view, camera, &portal.cloud.transfers.view(), now_us()),
        kept: fill(&t.kept_text, &values.each_ref().map(|(name, value)| (*name, value.as_str()))),
        gone: asked.clip.is_some(),
        shown: shown.map(|clip| Clip::new(language, zone, clip, shown_id.as_deref())),
        clips: clips.iter().map(|clip| Clip::new(language, zone, clip, shown_id.as_deref())).collect(),
        frame: context.frame(),
    })
}

impl Clip {
    fn new(language: Language, zone: &TimeZone, clip: &ClipView, shown: Option<&str>) -> Self {
        let t = language.translations();
        let (kind, at) = (name_of(&t.clip_kind, &clip.kind), language.moment(clip.started_ms / 1000, zone));
        Self {
            id: clip.clip.clone(),
            url: format!("/cameras/{}/clips/{}", clip.device, clip.clip),
            text: fill(&t.clip_text, &[("kind", &kind), ("at", &at)]),
            machine_time: machine_time(clip.started_ms / 1000),
            length: language.span(i64::try_from(clip.duration_ms).unwrap_or(i64::MAX).saturating_mul(1000)),
            size: language.size(clip.bytes),
            being_filmed: clip.being_filmed,
            still: clip.still,
            shown: shown == Some(&clip.clip),
            kind,
            at,
        }
    }
}

/// A clip's bytes, for the account's own owner.
pub async fn clip(
    State(portal): State<Arc<Portal>>,
    Owner { account, .. }: Owner,
    Path((id, clip)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let Ok(device) = id.parse::<DeviceId>() else { return StatusCode::NOT_FOUND.into_response() };
    playback::serve(&portal.cloud, &account, &device, &clip, &headers).await
}
