//! The plans for one camera, with their prices, and the changes possible from its current plan. Subscribing is here;
//! restrictions ask for confirmation first (`change`).

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse as _, Redirect, Response},
};
use care_protocol::Policy;
use serde::Deserialize;

use super::{
    Portal,
    auth::CsrfForm,
    camera::{camera_of, no_camera},
    cameras::Household,
    card::about,
    frame::Frame,
    language::Language,
    page::{Notice, failed, html},
    translations::{fill, name_of},
};
use crate::{
    domain::{
        actions::{Action, PaidPlan},
        catalogue::{Catalogue, Cycle, Tier},
        issuer::Phase,
        money::Zone,
    },
    portal::account_view::{AccountView, CameraView},
};

const DAY_S: u64 = 86_400;

#[derive(Template)]
#[template(path = "plan.html")]
struct Page {
    frame: Frame,
    device: String,
    model: String,
    title: String,
    zone: String,
    cycle: &'static str,
    cycles: Vec<Choice>,
    notices: Vec<Notice>,
    plans: Vec<Plan>,
}

struct Choice {
    code: &'static str,
    name: String,
    shown: bool,
}

struct Plan {
    code: &'static str,
    name: String,
    price: String,
    per: String,
    features: Vec<String>,
    current: bool,
    offers: Vec<Offered>,
    why_not: String,
}

/// What can be done with one of the plans.
enum Offered {
    /// At once, by a button.
    Buy { what: &'static str, text: String, primary: bool },
    /// On a page that asks first.
    Go { id: String, path: String, text: String, danger: bool },
}

/// Which prices to show.
#[derive(Deserialize)]
pub struct Asked {
    cycle: Option<Cycle>,
}

/// The page.
pub async fn page(
    State(portal): State<Arc<Portal>>,
    Household { view, context, .. }: Household,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(camera) = camera_of(&view, &id) else { return no_camera(&context) };
    let (language, catalogue) = (context.language, &portal.cloud.issuer.catalogue);
    let t = language.translations();
    let cycle = asked.cycle.or(view.cycle).unwrap_or(Cycle::Monthly);
    let cycles = [(Cycle::Monthly, &t.monthly), (Cycle::Annual, &t.annual)];
    let name = |wanted: Cycle| cycles.iter().find(|(cycle, _)| *cycle == wanted).map_or("", |(_, name)| name).to_lowercase();
    let mut notices: Vec<_> =
        camera.subscription.as_ref().and_then(|subscription| about(language, &context.zone, subscription)).into_iter().collect();
    // FAQ 2116: one cycle an account; to change it is to cancel and to subscribe again.
    let fixed = view.cycle.filter(|have| *have != cycle);
    if let Some(have) = fixed {
        let text = fill(&t.other_cycle, &[("have", &name(have)), ("want", &name(cycle))]);
        let notice = Notice::warning("other-cycle", text);
        let cancellable = camera.subscription.as_ref().is_some_and(|subscription| subscription.changes_here);
        notices.push(if cancellable {
            notice.leading_to(format!("/cameras/{}/cancel", camera.device), t.cancel_subscription.as_str())
        } else {
            notice
        });
    }
    if view.credit_minor > 0 {
        let amount = language.money(view.credit_minor, &view.currency);
        notices.push(Notice::new("credit", fill(&t.credit_available, &[("amount", &amount)])));
    }
    html(&Page {
        device: camera.device.to_string(),
        model: camera.model.clone(),
        title: fill(&t.plans_for, &[("model", &camera.model)]),
        zone: context.zone.iana_name().unwrap_or("UTC").to_owned(),
        cycle: cycle.as_str(),
        cycles: cycles.map(|(each, name)| Choice { code: each.as_str(), name: name.clone(), shown: each == cycle }).into(),
        notices,
        plans: [Tier::Free, Tier::Plus, Tier::Premium]
            .map(|tier| plan(language, catalogue, &view, camera, tier, cycle, fixed.is_none()))
            .into(),
        frame: context.frame(),
    })
}

fn plan(
    language: Language,
    catalogue: &Catalogue,
    view: &AccountView,
    camera: &CameraView,
    tier: Tier,
    cycle: Cycle,
    may_buy: bool,
) -> Plan {
    let t = language.translations();
    let mut offers = offers(language, catalogue, view, camera, tier);
    if !may_buy {
        offers.retain(|offer| matches!(offer, Offered::Go { .. }));
    }
    let (price, per) = match (tier, cycle) {
        (Tier::Free, _) => (language.money(0, &catalogue.currency), String::new()),
        (_, Cycle::Monthly) => (language.money(catalogue.price_minor(tier, cycle), &catalogue.currency), t.per_month.clone()),
        (_, Cycle::Annual) => (language.money(catalogue.price_minor(tier, cycle), &catalogue.currency), t.per_year.clone()),
    };
    let elsewhere = camera.subscription.as_ref().is_some_and(|subscription| !subscription.changes_here);
    Plan {
        code: tier.as_str(),
        name: name_of(&t.plan, tier.as_str()),
        price,
        per,
        features: features(language, &catalogue.policy(tier, &camera.model), tier, catalogue.seats()),
        current: camera.plan == tier,
        offers,
        why_not: match () {
            () if elsewhere => t.from_the_store.clone(),
            () if camera.seatless && tier == Tier::Premium => fill(&t.seatless, &[("seats", &language.number(catalogue.seats() as u64))]),
            () if camera.plan > tier => t.included.clone(),
            () => String::new(),
        },
    }
}

fn features(language: Language, policy: &Policy, tier: Tier, seats: usize) -> Vec<String> {
    let t = language.translations();
    let number = |n: u32| language.number(u64::from(n));
    let mut features = vec![
        fill(&t.feature_history, &[("history", &language.history(policy.history_h))]),
        fill(&t.feature_clips, &[("seconds", &number(policy.clip_max_s))]),
    ];
    if policy.cooldown_s > 0 {
        features.push(fill(&t.feature_cooldown, &[("minutes", &number(policy.cooldown_s.div_ceil(60)))]));
    }
    features.push(fill(&t.feature_height, &[("height", &policy.max_height.to_string())]));
    if policy.snapshots {
        features.push(t.feature_snapshots.clone());
    }
    features.push(match tier {
        Tier::Premium => fill(&t.feature_seats, &[("seats", &language.number(seats as u64))]),
        Tier::Free | Tier::Plus => t.feature_one.clone(),
    });
    features
}

/// What can be done with `tier` from where the camera stands.
fn offers(language: Language, catalogue: &Catalogue, view: &AccountView, camera: &CameraView, tier: Tier) -> Vec<Offered> {
    let t = language.translations();
    let plan = name_of(&t.plan, tier.as_str());
    let named = |pattern: &str| fill(pattern, &[("plan", &plan)]);
    let buy = |what, pattern: &str, primary| Offered::Buy { what, text: named(pattern), primary };
    let go = |what: &str, text: String, danger| Offered::Go {
        id: format!("{what}-{}", camera.device),
        path: format!("/cameras/{}/{what}", camera.device),
        text,
        danger,
    };
    let Some(subscription) = &camera.subscription else {
        let mut offers = match tier {
            Tier::Free => vec![],
            Tier::Plus => vec![buy("subscribe", &t.subscribe_to, false)],
            Tier::Premium if camera.seatless => vec![],
            Tier::Premium => vec![buy("subscribe", &t.subscribe_to, true)],
        };
        let nothing_yet = view.cameras.iter().all(|camera| camera.subscription.is_none());
        if tier == Tier::Premium && view.trial_available && nothing_yet {
            let days = language.count(catalogue.trial_s() / DAY_S, &t.days_one, &t.days_other);
            offers.push(Offered::Buy { what: "trial", text: fill(&t.start_trial, &[("plan", &plan), ("days", &days)]), primary: false });
        }
        return offers;
    };
    if !subscription.changes_here {
        return vec![];
    }
    let runs = matches!(subscription.phase, Phase::Active | Phase::Grace) || subscription.trial;
    match tier {
        Tier::Free => vec![go("cancel", t.cancel_subscription.clone(), true)],
        // A plan on trial can be bought.
        tier if subscription.trial => vec![buy("subscribe", &t.subscribe_to, tier == subscription.plan)],
        Tier::Premium if subscription.plan == Tier::Plus => vec![buy("upgrade", &t.upgrade_to, true)],
        Tier::Plus if subscription.plan == Tier::Premium && runs => vec![go("downgrade", named(&t.downgrade_to), false)],
        Tier::Plus | Tier::Premium => vec![],
    }
}

/// The plan to buy.
#[derive(Deserialize)]
pub struct Purchase {
    plan: PaidPlan,
    cycle: Cycle,
    zone: Option<String>,
    how: String,
}

/// Buys it, or starts the trial of it.
pub async fn subscribe(
    State(portal): State<Arc<Portal>>,
    Household { view, context, .. }: Household,
    Path(id): Path<String>,
    submitted: CsrfForm<Purchase>,
) -> Response {
    let Some(camera) = camera_of(&view, &id).map(|camera| camera.device.clone()) else { return no_camera(&context) };
    let Purchase { plan, cycle, zone, how } = submitted.form;
    let action = match how.as_str() {
        "trial" => Action::StartTrial { camera, plan: Some(plan), ends_in_s: None },
        _ => {
            let zone = zone.and_then(|name| Zone::read(&name).ok());
            Action::Subscribe { camera, plan, cycle: Some(cycle), channel: None, zone }
        }
    };
    match portal.act(action, submitted.at).await {
        Ok(_) => Redirect::to("/").into_response(),
        Err(e) => failed(&context, &e),
    }
}
