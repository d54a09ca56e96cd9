//! Rendered pages as answers, and the page that explains in the user's language why a request was refused.

use askama::Template;
use axum::{
    http::StatusCode,
    response::{Html, IntoResponse as _, Response},
};

use super::{
    context::RequestContext,
    frame::Frame,
    language::Language,
    translations::{fill, name_of},
};
use crate::domain::{actions::ActionError, catalogue::Cycle};

/// A message on a page or a card.
#[derive(Debug)]
pub struct Notice {
    /// Which it is; an element's id.
    pub id: &'static str,
    /// The words.
    pub text: String,
    /// It needs attention.
    pub warning: bool,
    /// Where to go from it.
    pub link: Option<String>,
    /// And how that is called.
    pub link_text: String,
}

impl Notice {
    /// A piece of information.
    pub fn new(id: &'static str, text: impl Into<String>) -> Self {
        Self { id, text: text.into(), warning: false, link: None, link_text: String::new() }
    }

    /// Something that needs attention.
    pub fn warning(id: &'static str, text: impl Into<String>) -> Self {
        Self { warning: true, ..Self::new(id, text) }
    }

    /// With a way to go on.
    pub fn leading_to(self, link: impl Into<String>, link_text: impl Into<String>) -> Self {
        Self { link: Some(link.into()), link_text: link_text.into(), ..self }
    }
}

#[derive(Template)]
#[template(path = "refused.html")]
struct Refused {
    frame: Frame,
    title: String,
    why: String,
    hint: Option<String>,
    back: String,
}

/// The page.
pub fn html(page: &impl Template) -> Response {
    html_with(StatusCode::OK, page)
}

/// The page, with another status.
pub fn html_with(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(e) => {
            tracing::error!("rendering a page: {e}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The page that gives the reason of a refusal.
pub fn refusal(context: &RequestContext, status: StatusCode, why: String) -> Response {
    let frame = Frame { live: false, ..context.frame() };
    let title = if status == StatusCode::NOT_FOUND { &frame.t.not_found } else { &frame.t.not_done }.clone();
    html_with(status, &Refused { frame, title, why, hint: None, back: "/".into() })
}

/// The page that shows why an action was refused.
pub fn failed(context: &RequestContext, e: &ActionError) -> Response {
    refusal(context, status_of(e), why(context.language, e))
}

/// The status of a refused action.
pub fn status_of(e: &ActionError) -> StatusCode {
    match e {
        ActionError::Db(e) => {
            tracing::error!("{e}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ActionError::Keys(e) => {
            tracing::error!("{e}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ActionError::NoCamera(_) | ActionError::NoAccount(_) | ActionError::NoOrder { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    }
}

/// A refusal in a person's language. Details of the database are for the log.
fn why(language: Language, e: &ActionError) -> String {
    let t = language.translations();
    let of = |code: &str, values: &[(&str, &str)]| fill(&name_of(&t.refusal, code), values);
    match e {
        ActionError::Db(_) | ActionError::Keys(_) => of("database", &[]),
        ActionError::NoCamera(_) => of("no_camera", &[]),
        ActionError::NotBound(device) => of("not_bound", &[("camera", device.as_str())]),
        ActionError::WasReset(device) => of("was_reset", &[("camera", device.as_str())]),
        ActionError::NoOrder { order_id, .. } => of("no_order", &[("order", order_id)]),
        ActionError::NoSubscription(device) => of("no_subscription", &[("camera", device.as_str())]),
        ActionError::BoughtInApp(channel) => of("bought_in_app", &[("store", &name_of(&t.channel, channel.as_str()))]),
        ActionError::BoughtOnPortal => of("bought_on_portal", &[]),
        ActionError::HasPlan { device, plan, .. } => of("has_plan", &[("camera", device.as_str()), ("plan", &name_of(&t.plan, plan))]),
        // No user can sign in to a missing account.
        ActionError::NoAccount(_) => t.no_such_page.clone(),
        ActionError::OneCycle { have } => {
            let have = if *have == Cycle::Annual.as_str() { &t.annual } else { &t.monthly };
            of("one_cycle", &[("have", &have.to_lowercase())])
        }
        ActionError::TrialIsNotDowngraded => of("trial_is_not_downgraded", &[]),
        ActionError::TrialUsed(_) => of("trial_used", &[]),
        ActionError::Declined => of("declined", &[]),
        ActionError::NothingToWithdraw(device) => of("nothing_to_withdraw", &[("camera", device.as_str())]),
        ActionError::NotAsShown => of("not_as_shown", &[]),
        ActionError::NotPremium(device) => of("not_premium", &[("camera", device.as_str())]),
    }
}
