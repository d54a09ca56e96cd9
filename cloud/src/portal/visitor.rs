//! Who asks, in which language, and whether a form that is posted is one we gave them. Every page's handler begins with one
//! of the extractors here, so that no page forgets to ask.

use std::{convert::Infallible, sync::Arc, time::Instant};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use jiff::tz::TimeZone;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Portal, cookie,
    frame::Frame,
    guard::Arrived,
    language::Language,
    page::refusal,
    session::{self, Who},
    words::fill,
};

/// Set by the page's script: the browser's time zone, which no header tells.
const ZONE_COOKIE: &str = "care_zone";
/// Forms are short.
const LARGEST_FORM: usize = 16 * 1024;

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

impl Visitor {
    /// The frame of a page for them.
    pub fn frame(&self) -> Frame {
        Frame::new(self)
    }
}

/// Finds out who asks. Who has no cookie yet gets one, so that even the sign-in form is theirs alone.
pub async fn recognise(State(portal): State<Arc<Portal>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let language = Language::of(headers);
    let given = cookie::value(headers, portal.session_cookie()).map(str::to_owned);
    let visiting = cookie::value(headers, portal.visit_cookie()).map(str::to_owned);
    let zone = cookie::value(headers, ZONE_COOKIE).and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    // Where something was posted to there may be no page to come back to.
    let path = if request.method() == Method::GET { request.uri().path().to_owned() } else { "/".to_owned() };
    let who = match &given {
        Some(secret) => {
            let (secret, now) = (secret.clone(), portal.cloud.clock.now_s());
            match portal.cloud.db.read_async(move |connection| session::find(connection, &secret, now)).await {
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
    let mut answer = next.run(request).await;
    if let Some(cookie) = new.and_then(|secret| cookie::set(portal.visit_cookie(), &secret, session::LASTS_S, portal.is_secure())) {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    answer
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().expect("every page lies behind `recognise`"))
    }
}

/// The owner who is signed in; anybody else is sent to where they belong.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Their account.
    pub account: String,
    /// How they are shown.
    pub visitor: Visitor,
}

impl<S: Send + Sync> FromRequestParts<S> for Owner {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Ok(visitor) = Visitor::from_request_parts(parts, state).await;
        match &visitor.who {
            Some(Who::Owner { account, .. }) => Ok(Self { account: account.clone(), visitor }),
            Some(Who::Engineer) if parts.method == Method::GET => Err(Redirect::to("/engineers").into_response()),
            None if parts.method == Method::GET => Err(Redirect::to("/sign-in").into_response()),
            _ => Err(StatusCode::FORBIDDEN.into_response()),
        }
    }
}

/// An engineer who is signed in. For an owner there is no such page.
#[derive(Debug, Clone)]
pub struct Engineer(pub Visitor);

impl<S: Send + Sync> FromRequestParts<S> for Engineer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Ok(visitor) = Visitor::from_request_parts(parts, state).await;
        match &visitor.who {
            Some(Who::Engineer) => Ok(Self(visitor)),
            None if parts.method == Method::GET => Err(Redirect::to("/sign-in").into_response()),
            _ => Err(refusal(&visitor, StatusCode::NOT_FOUND, visitor.language.words().no_such_page.clone())),
        }
    }
}

/// A form of ours, posted by the one we gave it to, not too often.
#[derive(Debug)]
pub struct Posted<T> {
    /// Its fields.
    pub form: T,
    /// When it reached us, microseconds since 1970.
    pub at: i64,
}

#[derive(Deserialize)]
struct Token {
    csrf: Option<String>,
}

impl<T: DeserializeOwned> FromRequest<Arc<Portal>> for Posted<T> {
    type Rejection = Response;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let visitor = parts.extensions.get::<Visitor>().cloned().expect("every page lies behind `recognise`");
        let at = parts.extensions.get::<Arrived>().map_or_else(crate::db::now_us, |at| at.0);
        let words = visitor.language.words();
        let body: Bytes = axum::body::to_bytes(body, LARGEST_FORM).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE.into_response())?;
        let token = serde_urlencoded::from_bytes::<Token>(&body).ok().and_then(|form| form.csrf).unwrap_or_default();
        if !session::same(&token, &session::form_token(&visitor.secret)) {
            return Err(refusal(&visitor, StatusCode::FORBIDDEN, words.form_too_old.clone()));
        }
        if let Some(who) = &visitor.who
            && let Err(wait) = portal.acts.take(who.login(), Instant::now())
        {
            let seconds = wait.as_secs() + 1;
            let mut answer =
                refusal(&visitor, StatusCode::TOO_MANY_REQUESTS, fill(&words.too_often, &[("n", &visitor.language.number(seconds))]));
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            return Err(answer);
        }
        match serde_urlencoded::from_bytes(&body) {
            Ok(form) => Ok(Self { form, at }),
            Err(e) => {
                tracing::info!("a form that is not ours: {e}");
                Err(StatusCode::BAD_REQUEST.into_response())
            }
        }
    }
}
