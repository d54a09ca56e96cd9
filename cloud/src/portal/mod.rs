//! The portal: where an owner sees cameras, plans, orders and clips and changes them, and where engineers watch documents
//! and reports and play faults. Server-rendered; forms work without a script, a small script follows what happens live.
//! Plain HTTP on loopback; a proxy before it brings TLS, and then it is told its public origin.
//!
//! A request passes `guard` (our name, our pages, the headers), then `visitor` (who, in which language), then its page.

pub mod account_view;
mod admitted;
mod camera;
mod cameras;
mod card;
mod change;
pub mod clicks;
mod cookies;
mod engineers;
mod events;
mod fault;
mod frame;
mod guard;
mod language;
mod limits;
mod operator;
mod orders;
mod page;
mod plan;
pub mod playback;
pub mod session;
mod sign_in;
pub mod state;
mod support;
mod switches;
mod visitor;
mod words;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};

pub use sign_in::DemoPerson;

use crate::{
    domain::actions::{Action, ActionError, Done},
    lab::experiments::Lab,
    transport::cloud::Cloud,
};
use limits::Limit;

/// What every page needs.
pub struct Portal {
    cloud: Arc<Cloud>,
    lab: Lab,
    origin: Option<String>,
    demo: Vec<DemoPerson>,
    content_policy: HeaderValue,
    sign_ins: Limit,
    all_sign_ins: Limit,
    acts: Limit,
    played: engineers::Played,
}

impl Portal {
    /// The portal of this cloud. `origin`: where browsers reach it, if not here but through a proxy (`https://care.example`).
    /// `demo`: who is let in by a click.
    pub fn new(cloud: Arc<Cloud>, origin: Option<String>, demo: Vec<DemoPerson>) -> Arc<Self> {
        Arc::new(Self {
            content_policy: guard::content_policy(cloud.store.external_origin().as_deref()),
            lab: Lab::new(cloud.clone()),
            cloud,
            origin,
            demo,
            // A person mistypes a few times; who guesses has two tries a minute.
            sign_ins: Limit::new(5, Duration::from_secs(30)),
            all_sign_ins: Limit::new(50, Duration::from_millis(500)),
            acts: Limit::new(40, Duration::from_secs(1)),
            played: engineers::Played::default(),
        })
    }

    /// Its routes.
    pub fn router(self: &Arc<Self>) -> Router {
        let pages = Router::new()
            .route("/", get(cameras::page))
            .route("/cameras/{id}", get(camera::page))
            .route("/cameras/{id}/clips/{clip}", get(camera::clip))
            .route("/cameras/{id}/plan", get(plan::page))
            .route("/cameras/{id}/subscribe", post(plan::subscribe))
            .route("/cameras/{id}/{what}", get(change::confirm).post(change::act))
            .route("/orders", get(orders::page))
            .route("/orders/pay", post(orders::pay))
            .route("/orders/{order}/cancel", get(change::confirm_order).post(change::act_on_order))
            .route("/support", get(support::page))
            .route("/engineers", get(engineers::page))
            .route("/engineers/play", post(engineers::play))
            .route("/events", get(events::stream))
            .route("/sign-in", get(sign_in::page).post(sign_in::enter))
            .route("/sign-out", post(sign_in::leave))
            .route("/language", post(sign_in::choose_language))
            .fallback(nowhere)
            .layer(middleware::from_fn_with_state(self.clone(), visitor::recognise));
        Router::new()
            .route("/style.css", get(|| asset("text/css; charset=utf-8", include_str!("../../assets/style.css"))))
            .route("/portal.js", get(|| asset("text/javascript; charset=utf-8", include_str!("../../assets/portal.js"))))
            .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("../../assets/icon.svg"))))
            .merge(operator::router(self))
            .merge(pages)
            .layer(middleware::from_fn_with_state(self.clone(), guard::guard))
            .with_state(self.clone())
    }

    /// Does what somebody clicked at `at` (microseconds), and remembers when that was.
    async fn act(&self, action: Action, at: i64) -> Result<Done, ActionError> {
        self.cloud.act_and(action, move |tx, done| clicks::record(tx, &done.issued, at)).await
    }

    /// Whether browsers reach it by https.
    fn is_secure(&self) -> bool {
        self.origin.as_deref().is_some_and(|origin| origin.starts_with("https://"))
    }

    /// The cookie of a session. Its prefix binds it to this host, where that can be.
    fn session_cookie(&self) -> &'static str {
        if self.is_secure() { "__Host-care_session" } else { "care_session" }
    }

    /// The cookie of who has not signed in.
    fn visit_cookie(&self) -> &'static str {
        if self.is_secure() { "__Host-care_visit" } else { "care_visit" }
    }
}

async fn asset(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

async fn nowhere(visitor: visitor::Visitor) -> Response {
    page::refusal(&visitor, StatusCode::NOT_FOUND, visitor.language.words().no_such_page.clone())
}
