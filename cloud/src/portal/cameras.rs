//! The owner's home page: cameras, seats, and the latest plan changes.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
    response::Response,
};
use jiff::tz::TimeZone;

use super::{
    Portal,
    auth::Owner,
    card::{Card, Picture, about},
    context::RequestContext,
    frame::Frame,
    language::Language,
    page::{Notice, failed, html, refusal},
    plan_changes::{PlanChange, plan_change},
    state,
    translations::{Translations, fill, name_of},
};
use crate::{
    clock::now_us,
    domain::catalogue::{Cycle, Tier},
    portal::{
        account_view::{self, AccountView, SubscriptionView},
        playback,
    },
};

/// How many switches an owner sees.
const SWITCHES: usize = 8;

#[derive(Template)]
#[template(path = "cameras.html")]
struct Page {
    frame: Frame,
    broker_up: bool,
    notices: Vec<Notice>,
    cameras: Vec<Card>,
    apart: Vec<Apart>,
    seats: Option<Seats>,
    switches: Vec<PlanChange>,
}

struct Seats {
    text: String,
    taken: Vec<String>,
    free: Vec<()>,
    without: Vec<String>,
}

/// A subscription that no camera's card shows.
struct Apart {
    order: String,
    plan: String,
    period: String,
    notice: Option<Notice>,
    cancellable: bool,
}

/// An owner who is signed in, with everything of the account as it is now.
pub struct Household {
    /// The account.
    pub account: String,
    /// Its content.
    pub view: AccountView,
    /// The context of the request.
    pub context: RequestContext,
}

impl FromRequestParts<Arc<Portal>> for Household {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, portal: &Arc<Portal>) -> Result<Self, Response> {
        let Owner { account, context } = Owner::from_request_parts(parts, portal).await?;
        match account_view::read(&portal.cloud, &account).await {
            Ok(Some(mut view)) => {
                let latest = view.cameras.iter_mut().filter_map(|camera| camera.latest.as_mut()).collect();
                playback::know_stills(&portal.cloud, latest).await;
                Ok(Self { account, view, context })
            }
            Ok(None) => Err(refusal(&context, StatusCode::NOT_FOUND, context.language.translations().no_such_page.clone())),
            Err(e) => Err(failed(&context, &e.into())),
        }
    }
}

/// The page.
pub async fn page(State(portal): State<Arc<Portal>>, Household { account, view, context }: Household) -> Response {
    let cloud = &portal.cloud;
    let switches = match state::switches_of(cloud, Some(account), SWITCHES).await {
        Ok(switches) => switches,
        Err(e) => return failed(&context, &e.into()),
    };
    let (language, zone) = (context.language, &context.zone);
    let (transfers, now) = (cloud.transfers.view(), now_us());
    html(&Page {
        frame: context.frame(),
        broker_up: cloud.broker.as_ref().is_none_or(|broker| broker.pid().is_some()),
        notices: notices(language.translations(), &view),
        cameras: view.cameras.iter().map(|camera| Card::new(language, zone, &view, camera, &transfers, now)).collect(),
        apart: view.apart.iter().map(|subscription| apart(language, zone, subscription)).collect(),
        seats: seats(language, &view),
        switches: switches.iter().map(|switch| plan_change(language, zone, switch)).collect(),
    })
}

fn apart(language: Language, zone: &TimeZone, subscription: &SubscriptionView) -> Apart {
    let t = language.translations();
    let cycle = if subscription.cycle == Cycle::Annual { &t.annual } else { &t.monthly }.to_lowercase();
    let until = language.day(subscription.period_end, zone);
    let period = fill(&t.period, &[("from", &language.day(subscription.started_at, zone)), ("to", &until)]);
    Apart {
        order: subscription.order_id.clone(),
        plan: name_of(&t.plan, subscription.plan.as_str()),
        period: format!("{cycle} · {period}"),
        notice: about(language, zone, subscription),
        cancellable: subscription.changes_here,
    }
}

/// The account's state apart from single cameras.
fn notices(t: &Translations, view: &AccountView) -> Vec<Notice> {
    let said = |notice: &Notice| notice.id == "grace" || notice.id == "hold";
    let on_a_card = |notices: Vec<Notice>| notices.iter().any(said);
    let troubled = view.cameras.iter().filter_map(|camera| camera.subscription.as_ref());
    let phases: Vec<_> = troubled.filter_map(|s| about(Language::English, &TimeZone::UTC, s)).collect();
    if view.card_declined && !on_a_card(phases) {
        return vec![Notice::warning("declined", t.card_declined.as_str()).leading_to("/orders", t.orders.as_str())];
    }
    vec![]
}

/// The seats and their cameras, if the account has Premium.
fn seats(language: Language, view: &AccountView) -> Option<Seats> {
    let t = language.translations();
    let seated: Vec<_> = view.cameras.iter().filter(|camera| camera.plan == Tier::Premium).collect();
    if seated.is_empty() {
        return None;
    }
    let seats = language.number(view.seats as u64);
    let without = view
        .cameras
        .iter()
        .filter(|camera| camera.seatless)
        .map(|camera| fill(&t.seat_none_for, &[("model", &camera.model), ("camera", camera.device.as_str()), ("seats", &seats)]));
    Some(Seats {
        text: fill(&t.seats_taken, &[("taken", &language.number(seated.len() as u64)), ("seats", &seats)]),
        free: vec![(); view.seats.saturating_sub(seated.len())],
        without: without.collect(),
        taken: seated.iter().map(|camera| format!("{} {}", camera.model, camera.device)).collect(),
    })
}
