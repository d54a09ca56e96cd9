//! Authorisation as extractors: an owner, an engineer, a form with a valid CSRF token. Every page's handler begins
//! with one of them, so that no page can forget the check; a request that fails it is answered here.

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
    context::RequestContext,
    guard::ReceivedAt,
    page::refusal,
    session::{self, User},
    translations::fill,
};

/// The largest form, bytes.
const LARGEST_FORM: usize = 16 * 1024;

/// A signed-in owner. Other users are redirected to their own page.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Their account.
    pub account: String,
    /// The context of the request.
    pub context: RequestContext,
}

impl<S: Send + Sync> FromRequestParts<S> for Owner {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Ok(context) = RequestContext::from_request_parts(parts, state).await;
        match &context.user {
            Some(User::Owner { account, .. }) => Ok(Self { account: account.clone(), context }),
            Some(User::Engineer) if parts.method == Method::GET => Err(Redirect::to("/engineers").into_response()),
            None if parts.method == Method::GET => Err(Redirect::to("/sign-in").into_response()),
            _ => Err(StatusCode::FORBIDDEN.into_response()),
        }
    }
}

/// A signed-in engineer. An owner gets 404.
#[derive(Debug, Clone)]
pub struct Engineer(pub RequestContext);

impl<S: Send + Sync> FromRequestParts<S> for Engineer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Ok(context) = RequestContext::from_request_parts(parts, state).await;
        match &context.user {
            Some(User::Engineer) => Ok(Self(context)),
            None if parts.method == Method::GET => Err(Redirect::to("/sign-in").into_response()),
            _ => Err(refusal(&context, StatusCode::NOT_FOUND, context.language.translations().no_such_page.clone())),
        }
    }
}

/// A submitted form whose CSRF token is valid, within the rate limit.
#[derive(Debug)]
pub struct CsrfForm<T> {
    /// Its fields.
    pub form: T,
    /// When the request arrived, microseconds since 1970.
    pub at: i64,
}

#[derive(Deserialize)]
struct Token {
    csrf: Option<String>,
}

impl<T: DeserializeOwned> FromRequest<Arc<Portal>> for CsrfForm<T> {
    type Rejection = Response;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let context = parts.extensions.get::<RequestContext>().cloned().expect("every page lies behind `recognise`");
        let at = parts.extensions.get::<ReceivedAt>().map_or_else(crate::clock::now_us, |at| at.0);
        let t = context.language.translations();
        let body: Bytes = axum::body::to_bytes(body, LARGEST_FORM).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE.into_response())?;
        let token = serde_urlencoded::from_bytes::<Token>(&body).ok().and_then(|form| form.csrf).unwrap_or_default();
        if !session::same(&token, &session::form_token(&context.secret)) {
            return Err(refusal(&context, StatusCode::FORBIDDEN, t.form_too_old.clone()));
        }
        if let Some(user) = &context.user
            && let Err(wait) = portal.acts.take(user.login(), Instant::now())
        {
            let seconds = wait.as_secs() + 1;
            let mut answer =
                refusal(&context, StatusCode::TOO_MANY_REQUESTS, fill(&t.too_often, &[("n", &context.language.number(seconds))]));
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
