//! The context of a request: user, language, time zone, and the secret in the browser's cookie. [`super::auth`]
//! decides what the user may see.

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
    session::{self, User},
};

/// Set by the page's script: the browser's time zone, which no header carries.
const ZONE_COOKIE: &str = "care_zone";
/// Set by the page's script on its own requests.
const LIVE_HEADER: &str = "x-care-live";

/// The context of one request.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The language to answer in.
    pub language: Language,
    /// The signed-in user.
    pub user: Option<User>,
    /// The secret in the cookie: the session's, or before sign-in one that only ties forms to this browser.
    pub secret: String,
    /// The path of the request.
    pub path: String,
    /// The user's time zone.
    pub zone: TimeZone,
}

/// Identifies the user. A browser without a cookie gets one, so that the sign-in form has a CSRF token too.
pub async fn identify(State(portal): State<Arc<Portal>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let jar = CookieJar::from_headers(headers);
    let sent = |name| jar.get(name).map(|cookie| cookie.value().to_owned());
    let language = Language::of(headers, &jar);
    let given = sent(portal.session_cookie());
    let anonymous = sent(portal.anonymous_cookie());
    let zone = sent(ZONE_COOKIE).and_then(|name| TimeZone::get(&name).ok()).unwrap_or(TimeZone::UTC);
    // The target of a POST may have no page to return to.
    let path = if request.method() == Method::GET { request.uri().path().to_owned() } else { "/".to_owned() };
    let user = match &given {
        Some(secret) => {
            let (secret, now) = (secret.clone(), portal.cloud.clock.now_s());
            let find = if by_itself(&request) { session::peek } else { session::find };
            match portal.cloud.db.read_async(move |connection| find(connection, &secret, now)).await {
                Ok(user) => user,
                Err(e) => {
                    tracing::error!("{e}");
                    return StatusCode::INTERNAL_SERVER_ERROR.into_response();
                }
            }
        }
        None => None,
    };
    let mut new = None;
    let secret = match given.filter(|_| user.is_some()).or(anonymous) {
        Some(secret) => secret,
        None => match session::new_secret() {
            Ok(secret) => new.insert(secret).clone(),
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
    };
    request.extensions_mut().insert(RequestContext { language, user, secret, path, zone });
    let answer = next.run(request).await;
    let new = new.map(|secret| cookie(portal.anonymous_cookie(), secret, session::LASTS_S, portal.is_secure()));
    (new.into_iter().fold(CookieJar::new(), CookieJar::add), answer).into_response()
}

/// Whether the page's script sends this request and not the user: live events, updates and pictures.
fn by_itself(request: &Request) -> bool {
    let path = request.uri().path();
    let picture = path.split('/').nth(3) == Some("clips") && path.starts_with("/cameras/");
    path == "/events" || picture || request.headers().contains_key(LIVE_HEADER)
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().expect("every page lies behind `recognise`"))
    }
}
