//! The portal: owners see and change cameras, plans, orders and clips; engineers watch documents and reports and
//! inject faults. Server-rendered: forms work without a script, a small script keeps pages live. It speaks plain HTTP
//! on loopback; a proxy in front of it adds TLS, and the portal is then configured with its public origin.
//!
//! A request passes [`guard`] (host name, origin, security headers), then [`context`] (user and language), then its
//! page.

pub mod account_view;
mod auth;
mod camera;
mod cameras;
mod card;
mod change;
mod context;
mod cookies;
mod engineers;
mod events;
mod faults;
mod frame;
pub(crate) mod guard;
mod language;
pub mod latency;
mod operator;
mod orders;
mod page;
mod plan;
mod plan_changes;
pub mod playback;
mod rate_limit;
pub mod session;
mod sign_in;
pub mod state;
mod support;
mod translations;

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
use rate_limit::RateLimit;

/// The portal, shared by all its pages.
pub struct Portal {
    cloud: Arc<Cloud>,
    lab: Lab,
    origin: Option<String>,
    demo: Vec<DemoPerson>,
    content_policy: HeaderValue,
    sign_ins: RateLimit,
    all_sign_ins: RateLimit,
    acts: RateLimit,
    played: engineers::Played,
}

impl Portal {
    /// The portal of this cloud. `origin`: where browsers reach it, if not here but through a proxy
    /// (`https://care.example`). `demo`: the users that the sign-in page offers.
    pub fn new(cloud: Arc<Cloud>, origin: Option<String>, demo: Vec<DemoPerson>) -> Arc<Self> {
        Arc::new(Self {
            content_policy: guard::content_policy(cloud.store.external_origin().as_deref()),
            lab: Lab::new(cloud.clone()),
            cloud,
            origin,
            demo,
            // Five attempts for typing errors, then two a minute.
            sign_ins: RateLimit::new(5, Duration::from_secs(30)),
            all_sign_ins: RateLimit::new(50, Duration::from_millis(500)),
            acts: RateLimit::new(40, Duration::from_secs(1)),
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
            .fallback(not_found)
            .layer(middleware::from_fn_with_state(self.clone(), context::identify));
        Router::new()
            .route("/style.css", get(|| asset("text/css; charset=utf-8", include_str!("../../assets/style.css"))))
            .route("/portal.js", get(|| asset("text/javascript; charset=utf-8", include_str!("../../assets/portal.js"))))
            .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("../../assets/icon.svg"))))
            .merge(operator::router(self))
            .merge(pages)
            .layer(middleware::from_fn_with_state(self.clone(), guard::guard))
            .with_state(self.clone())
    }

    /// Carries out an action that was clicked at `at` (microseconds), and records that time.
    async fn act(&self, action: Action, at: i64) -> Result<Done, ActionError> {
        self.cloud.act_and(action, move |tx, done| latency::record(tx, &done.issued, at)).await
    }

    /// Whether browsers reach it by https.
    fn is_secure(&self) -> bool {
        self.origin.as_deref().is_some_and(|origin| origin.starts_with("https://"))
    }

    /// The name of the session cookie. Over https its prefix binds it to this host.
    fn session_cookie(&self) -> &'static str {
        if self.is_secure() { "__Host-care_session" } else { "care_session" }
    }

    /// The name of the cookie before sign-in.
    fn anonymous_cookie(&self) -> &'static str {
        if self.is_secure() { "__Host-care_visit" } else { "care_visit" }
    }
}

async fn asset(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

async fn not_found(context: context::RequestContext) -> Response {
    page::refusal(&context, StatusCode::NOT_FOUND, context.language.translations().no_such_page.clone())
}
