//! The page an owner comes to: cameras, seats, and the switches as they happen.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    Portal,
    card::{Card, Picture},
    frame::Frame,
    language::Language,
    page::{Notice, failed, html, refusal},
    state,
    switches::{Row, row},
    visitor::{Owner, Visitor},
    words::{Words, fill},
};
use crate::{
    account_view::{self, AccountView},
    catalogue::Tier,
    cloud::Cloud,
    db::now_us,
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
    seats: Option<Seats>,
    switches: Vec<Row>,
}

struct Seats {
    words: String,
    taken: Vec<String>,
    free: Vec<()>,
    without: Vec<String>,
}

/// Everything of an account, or the answer why not.
pub async fn account_of(cloud: &Arc<Cloud>, account: &str, visitor: &Visitor) -> Result<AccountView, Response> {
    match account_view::read(cloud, account).await {
        Ok(Some(view)) => Ok(view),
        Ok(None) => Err(refusal(visitor, axum::http::StatusCode::NOT_FOUND, visitor.language.words().no_such_page.clone())),
        Err(e) => Err(failed(visitor, &e.into())),
    }
}

/// The page.
pub async fn page(State(portal): State<Arc<Portal>>, Owner { account, visitor }: Owner) -> Response {
    let cloud = &portal.cloud;
    let view = match account_of(cloud, &account, &visitor).await {
        Ok(view) => view,
        Err(answer) => return answer,
    };
    let switches = match state::switches_of(cloud, Some(account), SWITCHES).await {
        Ok(switches) => switches,
        Err(e) => return failed(&visitor, &e.into()),
    };
    let (language, zone) = (visitor.language, &visitor.zone);
    let (transfers, now) = (cloud.transfers.view(), now_us());
    html(&Page {
        frame: visitor.frame(),
        broker_up: cloud.broker.as_ref().is_none_or(|broker| broker.pid().is_some()),
        notices: notices(language.words(), &view),
        cameras: view.cameras.iter().map(|camera| Card::new(language, zone, &view, camera, &transfers, now)).collect(),
        seats: seats(language, &view),
        switches: switches.iter().map(|switch| row(language, zone, switch)).collect(),
    })
}

/// What concerns the account and no camera alone.
fn notices(words: &Words, view: &AccountView) -> Vec<Notice> {
    let said = |notice: &Notice| notice.id == "grace" || notice.id == "hold";
    let on_a_card = |notices: Vec<Notice>| notices.iter().any(said);
    let troubled = view.cameras.iter().filter_map(|camera| camera.subscription.as_ref());
    let phases: Vec<_> = troubled.filter_map(|s| super::card::about(Language::English, &jiff::tz::TimeZone::UTC, s)).collect();
    if view.card_declined && !on_a_card(phases) {
        return vec![Notice::warning("declined", words.card_declined.as_str()).leading_to("/orders", words.orders.as_str())];
    }
    vec![]
}

/// Who sits where, if the account has Premium.
fn seats(language: Language, view: &AccountView) -> Option<Seats> {
    let words = language.words();
    let seated: Vec<_> = view.cameras.iter().filter(|camera| camera.plan == Tier::Premium).collect();
    if seated.is_empty() {
        return None;
    }
    let seats = language.number(view.seats as u64);
    let without = view
        .cameras
        .iter()
        .filter(|camera| camera.seatless)
        .map(|camera| fill(&words.seat_none_for, &[("model", &camera.model), ("camera", camera.device.as_str()), ("seats", &seats)]));
    Some(Seats {
        words: fill(&words.seats_taken, &[("taken", &language.number(seated.len() as u64)), ("seats", &seats)]),
        free: vec![(); view.seats.saturating_sub(seated.len())],
        without: without.collect(),
        taken: seated.iter().map(|camera| format!("{} {}", camera.model, camera.device)).collect(),
    })
}
