//! The order history: every bill with what was paid, used, refunded and credited. And the payment of bills that could
//! not be paid.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse as _, Redirect, Response},
};
use jiff::tz::TimeZone;

use super::{
    Portal,
    auth::{CsrfForm, Owner},
    cameras::Household,
    card::about,
    frame::Frame,
    language::Language,
    page::{Notice, failed, html},
    sign_in::Nothing,
    translations::{fill, name_of},
};
use crate::{
    domain::{actions::Action, issuer::Phase},
    portal::account_view::{self, AccountView, OrderView, SubscriptionView},
};

#[derive(Template)]
#[template(path = "orders.html")]
struct Page {
    frame: Frame,
    credit: Option<String>,
    troubles: Vec<Notice>,
    orders: Vec<Order>,
}

struct Order {
    id: String,
    what: String,
    period: String,
    channel: String,
    state: String,
    state_code: &'static str,
    cancel: Option<String>,
    entries: Vec<Entry>,
}

struct Entry {
    code: String,
    name: String,
    at: String,
    amount: String,
}

/// The page.
pub async fn page(State(portal): State<Arc<Portal>>, Household { account, view, context }: Household) -> Response {
    let orders = match account_view::orders(&portal.cloud, &account).await {
        Ok(orders) => orders,
        Err(e) => return failed(&context, &e.into()),
    };
    let language = context.language;
    let t = language.translations();
    let amount = language.money(view.credit_minor, &view.currency);
    html(&Page {
        credit: (view.credit_minor > 0).then(|| fill(&t.credit_available, &[("amount", &amount)])),
        troubles: troubles(language, &context.zone, &view),
        orders: orders.iter().map(|order| self::order(language, &view, order)).collect(),
        frame: context.frame(),
    })
}

/// The unpaid bills, once for each order.
fn troubles(language: Language, zone: &TimeZone, view: &AccountView) -> Vec<Notice> {
    let mut seen = Vec::new();
    let mut notices = Vec::new();
    for subscription in running(view) {
        if matches!(subscription.phase, Phase::Grace | Phase::Hold) && !seen.contains(&&subscription.order_id) {
            seen.push(&subscription.order_id);
            notices.extend(about(language, zone, subscription).map(|notice| Notice { link: None, ..notice }));
        }
    }
    if notices.is_empty() && view.card_declined {
        notices.push(Notice::warning("declined", language.translations().card_declined_here.as_str()));
    }
    notices
}

/// Every subscription of the account; one that covers several cameras is listed several times.
fn running(view: &AccountView) -> impl Iterator<Item = &SubscriptionView> {
    view.cameras.iter().filter_map(|camera| camera.subscription.as_ref()).chain(&view.apart)
}

fn order(language: Language, view: &AccountView, order: &OrderView) -> Order {
    let t = language.translations();
    // A bill's days are those of its own time zone.
    let zone = TimeZone::get(&order.zone).unwrap_or(TimeZone::UTC);
    let subscription = running(view).find(|subscription| subscription.order_id == order.order_id);
    let state_code = match subscription {
        _ if !order.running => "ended",
        Some(subscription) if subscription.trial => "trial",
        Some(subscription) => subscription.phase.as_str(),
        None => "active",
    };
    let scope = match &order.device {
        Some(device) => fill(&t.only_camera, &[("camera", device)]),
        None => t.whole_account.clone(),
    };
    let cycle = if order.cycle == "annual" { &t.annual } else { &t.monthly }.to_lowercase();
    Order {
        what: fill(&t.order_what, &[("plan", &name_of(&t.plan, &order.plan)), ("cycle", &cycle), ("scope", &scope)]),
        period: fill(&t.period, &[("from", &language.day(order.period_start, &zone)), ("to", &language.day(order.period_end, &zone))]),
        channel: name_of(&t.channel, &order.channel),
        state: name_of(&t.order_state, state_code),
        state_code,
        cancel: subscription
            .filter(|subscription| order.running && subscription.changes_here)
            .map(|_| format!("/orders/{}/cancel", order.order_id)),
        entries: order
            .entries
            .iter()
            // A trial's bookings are all nothing.
            .filter(|entry| entry.amount_minor > 0)
            .map(|entry| Entry {
                name: name_of(&t.entry, &entry.kind),
                code: entry.kind.clone(),
                at: language.day(entry.at, &zone),
                amount: language.money(entry.amount_minor, &order.currency),
            })
            .collect(),
        id: order.order_id.clone(),
    }
}

/// The owner has corrected the card: unpaid bills are paid.
pub async fn pay(State(portal): State<Arc<Portal>>, Owner { account, context }: Owner, submitted: CsrfForm<Nothing>) -> Response {
    match portal.act(Action::PaymentRecovers { account }, submitted.at).await {
        Ok(_) => Redirect::to("/orders").into_response(),
        Err(e) => failed(&context, &e),
    }
}
