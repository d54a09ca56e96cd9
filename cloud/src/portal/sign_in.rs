//! Signing in and out, and the choice of a language.

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
    admitted::Posted,
    cookies::cookie,
    frame::Frame,
    language::{self, Language},
    page::{failed, html, html_with},
    session::{self, ENGINEER, Who},
    visitor::Visitor,
    words::fill,
};

/// The rate limit of everybody's attempts together goes by this name.
const EVERYBODY: &str = "";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn<'a> {
    frame: Frame,
    id: &'a str,
    wrong: Option<String>,
    demo: &'a [DemoPerson],
}

/// Somebody the demo lets in: shown on the sign-in page of the demo, and nowhere else.
#[derive(Debug, Clone)]
pub struct DemoPerson {
    /// `owner` or `engineer`.
    pub role: &'static str,
    /// What they sign in as.
    pub id: String,
    /// And with what.
    pub password: String,
}

/// The form.
pub async fn page(State(portal): State<Arc<Portal>>, visitor: Visitor) -> Response {
    match &visitor.who {
        Some(who) => Redirect::to(home_of(who)).into_response(),
        None => html(&SignIn { frame: visitor.frame(), id: "", wrong: None, demo: &portal.demo }),
    }
}

fn home_of(who: &Who) -> &'static str {
    match who {
        Who::Owner { .. } => "/",
        Who::Engineer => "/engineers",
    }
}

/// What a person typed.
#[derive(Deserialize)]
pub struct Credentials {
    id: String,
    password: String,
}

/// Signs in. Whether the name or the password was wrong is not said.
pub async fn enter(State(portal): State<Arc<Portal>>, visitor: Visitor, posted: Posted<Credentials>) -> Response {
    let Credentials { id, password } = posted.form;
    let id = id.trim();
    let words = visitor.language.words();
    let again = |status, why: String| html_with(status, &SignIn { frame: visitor.frame(), id, wrong: Some(why), demo: &portal.demo });
    let name = id.to_lowercase();
    let now = Instant::now();
    // A guesser with many names spends everybody's; it fills up fast, so that this is a nuisance and not a lock.
    if let Err(wait) = portal.sign_ins.take(&name, now).and_then(|()| portal.all_sign_ins.take(EVERYBODY, now)) {
        let seconds = wait.as_secs() + 1;
        tracing::warn!(id, "signing in too often");
        let mut answer = again(StatusCode::TOO_MANY_REQUESTS, fill(&words.too_often, &[("n", &visitor.language.number(seconds))]));
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        return answer;
    }
    let who = if name == ENGINEER {
        session::same(&password, &portal.cloud.operator).then_some(Who::Engineer)
    } else {
        match portal.cloud.sign_in(id, &password).await {
            Ok(account) => account.map(|account| Who::Owner { login: account.login.unwrap_or_else(|| id.to_owned()), account: account.id }),
            Err(e) => return failed(&visitor, &e.into()),
        }
    };
    let Some(who) = who else {
        tracing::warn!(id, "a wrong password or an unknown name");
        return again(StatusCode::FORBIDDEN, words.wrong_credentials.clone());
    };
    portal.sign_ins.forgive(&name);
    let Ok(secret) = session::new_secret() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let home = home_of(&who);
    let (kept, now) = (secret.clone(), portal.cloud.clock.now_s());
    if let Err(e) = portal.cloud.db.transact_async(move |tx| session::open(tx, &kept, &who, now)).await {
        return failed(&visitor, &e.into());
    }
    tracing::info!(id, "signed in");
    let secure = portal.is_secure();
    let cookies = CookieJar::new().add(cookie(portal.session_cookie(), secret, session::LASTS_S, secure));
    (cookies.add(cookie(portal.visit_cookie(), "", 0, secure)), Redirect::to(home)).into_response()
}

/// Signs out: the session ends here, not only in the browser.
pub async fn leave(State(portal): State<Arc<Portal>>, visitor: Visitor, _: Posted<Nothing>) -> Response {
    let secret = visitor.secret.clone();
    if let Err(e) = portal.cloud.db.read_async(move |connection| session::close(connection, &secret)).await {
        return failed(&visitor, &e.into());
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
pub async fn choose_language(State(portal): State<Arc<Portal>>, posted: Posted<Choice>) -> Response {
    let Choice { language, back } = posted.form;
    // A path of ours: `//host` and `/\host` would lead elsewhere.
    let ours = back.starts_with('/') && !back[1..].starts_with(['/', '\\']) && HeaderValue::from_str(&back).is_ok();
    let cookies = CookieJar::new().add(cookie(language::COOKIE, language.tag(), 365 * 86_400, portal.is_secure()));
    (cookies, Redirect::to(if ours { &back } else { "/" })).into_response()
}
