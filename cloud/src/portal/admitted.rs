//! What a page is open to: an owner, an engineer, a form of ours. Whoever is none of it gets the answer that says so, and the
//! page is not asked. Every page's handler begins with one of the extractors here, so that no page forgets to ask.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Redirect, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Portal,
    guard::Arrived,
    page::refusal,
    session::{self, Who},
    visitor::Visitor,
    words::fill,
};

/// Forms are short.
const LARGEST_FORM: usize = 16 * 1024;

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
        let at = parts.extensions.get::<Arrived>().map_or_else(crate::clock::now_us, |at| at.0);
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
