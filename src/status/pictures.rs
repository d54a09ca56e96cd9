//! What the camera films, for the page: `/live.mp4`, `/frame.jpg`, `/frame.mp4` and the pictures of motion events. Only for the page
//! itself: another site that the owner has open must not show the camera's picture, so requests that a browser marks as its are
//! refused. A viewer that does not read is dropped, and the camera never waits for one.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Request, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use hyper::body::Incoming;

use super::{
    SharedStatus,
    body::{Feed, Lasting},
    server::{Answer, text, with_body, with_type},
};
use crate::media::{Live, NoView, View};

/// The type of a file of one frame, which players find out themselves.
const MP4: &str = "video/mp4";

/// The answer to a request for a picture; `None`: it asks for something else.
pub(super) async fn answer(request: &Request<Incoming>, status: &Arc<SharedStatus>, lasting: &Lasting) -> Option<Answer> {
    let wanted = Wanted::of(request.uri().path())?;
    if !is_for_this_page(request.headers()) {
        return Some(text(StatusCode::FORBIDDEN, "the camera's picture is for its own page\n"));
    }
    let Some(live) = status.live() else {
        let why = match status.read().media {
            Some(_) => "the camera has not started yet; see the conditions\n",
            None => "this agent films nothing: its configuration has no [media]\n",
        };
        return Some(text(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let answered = match wanted {
        Wanted::Live => live.view().map(|view| stream(view, lasting)),
        Wanted::Jpeg => live.jpeg().await.map(|jpeg| with_type(StatusCode::OK, "image/jpeg", jpeg)),
        Wanted::Keyframe => live.frame().map(|frame| with_type(StatusCode::OK, MP4, frame)),
        Wanted::Motion(number) => return Some(of_event(&live, number)),
    };
    Some(answered.unwrap_or_else(|why| none(&why)))
}

enum Wanted {
    Live,
    Jpeg,
    Keyframe,
    /// The picture of this event.
    Motion(u64),
}

impl Wanted {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/live.mp4" => Some(Self::Live),
            "/frame.jpg" => Some(Self::Jpeg),
            "/frame.mp4" => Some(Self::Keyframe),
            _ => path.strip_prefix("/motion/")?.strip_suffix(".mp4")?.parse().ok().map(Self::Motion),
        }
    }
}

fn of_event(live: &Live, number: u64) -> Answer {
    match live.motion_picture(number) {
        Some(picture) => with_type(StatusCode::OK, MP4, picture),
        None => text(StatusCode::NOT_FOUND, "the picture of this event is no longer held\n"),
    }
}

fn none(why: &NoView) -> Answer {
    let status = match why {
        NoView::NoPicture | NoView::TooMany => StatusCode::SERVICE_UNAVAILABLE,
        NoView::NoDecoder | NoView::Decoder(_) => StatusCode::NOT_FOUND,
    };
    let mut answer = text(status, &format!("{why}\n"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    answer
}

fn stream(view: View, lasting: &Lasting) -> Answer {
    let media_type = HeaderValue::try_from(view.media_type());
    let (feed, body) = lasting.stream();
    tokio::spawn(show(view, feed));
    let mut answer = with_body(StatusCode::OK, MP4, body);
    if let Ok(media_type) = media_type {
        answer.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    answer
}

/// Until the view ends, or the viewer is gone or does not read.
async fn show(mut view: View, feed: Feed) {
    loop {
        let more = tokio::select! {
            () = feed.gone() => return,
            more = view.next() => more,
        };
        let Some(more) = more else { return };
        if !feed.send(more).await {
            return;
        }
    }
}

/// Whether the request comes from the camera's page, from no page, or from a program. Browsers say so (W3C Fetch Metadata).
fn is_for_this_page(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none")
}
