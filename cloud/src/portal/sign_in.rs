//! Sign-in, sign-out, and the choice of a language.

use std::{sync::Arc, time::Instant};

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use axum_extra::extract::CookieJar;
use serde::Deserialize;

use super::{
    Portal,
    auth::CsrfForm,
    context::RequestContext,
    cookies::cookie,
    frame::Frame,
    language::{self, Language},
    page::{failed, html, html_with},
    session::{self, ENGINEER, User},
    translations::fill,
};

/// The key of the rate limit for all sign-ins together.
const EVERYBODY: &str = "";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn<'a> {
    frame: Frame,
    id: &'a str,
    wrong: Option<String>,
    demo: &'a [DemoPerson],
}

/// A user that the sign-in page of the demo offers.
#[derive(Debug, Clone)]
pub struct DemoPerson {
    /// `owner` or `engineer`.
    pub role: &'static str,
    /// Their role.
    pub id: String,
    /// And with what.
    pub password: String,
}

/// The form.
pub async fn page(State(portal): State<Arc<Portal>>, context: RequestContext) -> Response {
    match &context.user {
        Some(user) => Redirect::to(home_of(user)).into_response(),
        None => html(&SignIn { frame: context.frame(), id: "", wrong: None, demo: &portal.demo }),
    }
}

fn home_of(user: &User) -> &'static str {
    match user {
        User::Owner { .. } => "/",
        User::Engineer => "/engineers",
    }
}

/// The submitted form.
#[derive(Deserialize)]
pub struct Credentials {
    id: String,
    password: String,
}

/// Signs in. The answer does not reveal whether the name or the password was wrong.
pub async fn enter(State(portal): State<Arc<Portal>>, context: RequestContext, submitted: CsrfForm<Credentials>) -> Response {
    let Credentials { id, password } = submitted.form;
    let id = id.trim();
    let t = context.language.translations();
    let again = |status, why: String| html_with(status, &SignIn { frame: context.frame(), id, wrong: Some(why), demo: &portal.demo });
    let name = id.to_lowercase();
    let now = Instant::now();
    // An attacker with many names exhausts the common limit. It refills fast, so that others are delayed but not
    // locked out.
    if let Err(wait) = portal.sign_ins.take(&name, now).and_then(|()| portal.all_sign_ins.take(EVERYBODY, now)) {
        let seconds = wait.as_secs() + 1;
        tracing::warn!(id, "signing in too often");
        let mut answer = again(StatusCode::TOO_MANY_REQUESTS, fill(&t.too_often, &[("n", &context.language.number(seconds))]));
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        return answer;
    }
    let user = if name == ENGINEER {
        session::same(&password, &portal.cloud.operator).then_some(User::Engineer)
    } else {
        match portal.cloud.sign_in(id, &password).await {
            Ok(account) => {
                account.map(|account| User::Owner { login: account.login.unwrap_or_else(|| id.to_owned()), account: account.id })
            }
            Err(e) => return failed(&context, &e.into()),
        }
    };
    let Some(user) = user else {
        tracing::warn!(id, "a wrong password or an unknown name");
        return again(StatusCode::FORBIDDEN, t.wrong_credentials.clone());
    };
    portal.sign_ins.reset(&name);
    let Ok(secret) = session::new_secret() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let home = home_of(&user);
    let (kept, now) = (secret.clone(), portal.cloud.clock.now_s());
    if let Err(e) = portal.cloud.db.transact_async(move |tx| session::open(tx, &kept, &user, now)).await {
        return failed(&context, &e.into());
    }
    tracing::info!(id, "signed in");
    let secure = portal.is_secure();
    let cookies = CookieJar::new().add(cookie(portal.session_cookie(), secret, session::LASTS_S, secure));
    (cookies.add(cookie(portal.anonymous_cookie(), "", 0, secure)), Redirect::to(home)).into_response()
}

/// Signs out: the session ends here, not only in the browser.
pub async fn leave(State(portal): State<Arc<Portal>>, context: RequestContext, _: CsrfForm<Nothing>) -> Response {
    let secret = context.secret.clone();
    if let Err(e) = portal.cloud.db.read_async(move |connection| session::close(connection, &secret)).await {
        return failed(&context, &e.into());
    }
    let cookies = CookieJar::new().add(cookie(portal.session_cookie(), "", 0, portal.is_secure()));
    (cookies, Redirect::to("/sign-in")).into_response()
}

/// A form with nothing but its token.
#[derive(Deserialize)]
pub struct Nothing {}

/// A choice of language, and where to go on.
#[derive(Deserialize)]
pub struct Choice {
    language: Language,
    back: String,
}

/// Remembers the language that was chosen.
pub async fn choose_language(State(portal): State<Arc<Portal>>, submitted: CsrfForm<Choice>) -> Response {
    let Choice { language, back } = submitted.form;
    // Only a path on this host: `//host` and `/\host` would lead to another one.
    let ours = back.starts_with('/') && !back[1..].starts_with(['/', '\\']) && HeaderValue::from_str(&back).is_ok();
    let cookies = CookieJar::new().add(cookie(language::COOKIE, language.tag(), 365 * 86_400, portal.is_secure()));
    (cookies, Redirect::to(if ours { &back } else { "/" })).into_response()
}
