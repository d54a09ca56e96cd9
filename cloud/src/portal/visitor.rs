//! Who asks, in which language, and by which cookie. What they may see is asked in [`super::admitted`].

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Method, StatusCode, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use axum_extra::extract::CookieJar;
use jiff::tz::TimeZone;

use super::{
    Portal,
    cookies::cookie,
    language::Language,
    session::{self, Who},
};

/// Set by the page's script: the browser's time zone, which no header tells.
const ZONE_COOKIE: &str = "care_zone";
/// Set by the page's script on what it asks for by itself.
const LIVE_HEADER: &str = "x-care-live";

/// Whoever asks.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The language to answer in.
    pub language: Language,
    /// Who they are, if they have signed in.
    pub who: Option<Who>,
    /// The secret in their cookie: their session's, or one that only ties forms to this browser.
    pub secret: String,
    /// What they asked for.
    pub path: String,
    /// Whose hours the page shows.
    pub zone: TimeZone,
}

/// Finds out who asks. Who has no cookie yet gets one, so that even the sign-in form is theirs alone.
pub async fn recognise(State(portal): State<Arc<Portal>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let jar = CookieJar::from_headers(headers);
    let sent = |name| jar.get(name).map(|cookie| cookie.value().to_owned());
    let language = Language::of(headers, &jar);
    let given = sent(portal.session_cookie());
    let visiting = sent(portal.visit_cookie());
    let zone = sent(ZONE_COOKIE).and_then(|name| TimeZone::get(&name).ok()).unwrap_or(TimeZone::UTC);
    // Where something was posted to there may be no page to come back to.
    let path = if request.method() == Method::GET { request.uri().path().to_owned() } else { "/".to_owned() };
    let who = match &given {
        Some(secret) => {
            let (secret, now) = (secret.clone(), portal.cloud.clock.now_s());
            let find = if by_itself(&request) { session::peek } else { session::find };
            match portal.cloud.db.read_async(move |connection| find(connection, &secret, now)).await {
                Ok(who) => who,
                Err(e) => {
                    tracing::error!("{e}");
                    return StatusCode::INTERNAL_SERVER_ERROR.into_response();
                }
            }
        }
        None => None,
    };
    let mut new = None;
    let secret = match given.filter(|_| who.is_some()).or(visiting) {
        Some(secret) => secret,
        None => match session::new_secret() {
            Ok(secret) => new.insert(secret).clone(),
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
    };
    request.extensions_mut().insert(Visitor { language, who, secret, path, zone });
    let answer = next.run(request).await;
    let new = new.map(|secret| cookie(portal.visit_cookie(), secret, session::LASTS_S, portal.is_secure()));
    (new.into_iter().fold(CookieJar::new(), CookieJar::add), answer).into_response()
}

/// Whether a page asks for this and not the person: its live events, what it then looks at again, and its pictures.
fn by_itself(request: &Request) -> bool {
    let path = request.uri().path();
    let picture = path.split('/').nth(3) == Some("clips") && path.starts_with("/cameras/");
    path == "/events" || picture || request.headers().contains_key(LIVE_HEADER)
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().expect("every page lies behind `recognise`"))
    }
}
