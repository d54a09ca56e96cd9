//! *Cancel Subscription* and downgrading. The page shows what will be erased and refunded; the confirmed amounts are
//! booked exactly as shown, or not at all.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use care_protocol::{DeviceId, RefundKind};
use serde::Deserialize;

use super::{
    Portal,
    auth::CsrfForm,
    camera::camera_of,
    cameras::Household,
    context::RequestContext,
    frame::Frame,
    language::Language,
    page::{failed, html, refusal},
    translations::{Translations, fill, name_of},
};
use crate::{
    domain::{
        actions::{Action, Quote},
        preview::Offer,
    },
    portal::account_view::AccountView,
};

#[derive(Template)]
#[template(path = "confirm.html")]
struct Confirm {
    frame: Frame,
    title: String,
    action: String,
    back: String,
    button: String,
    consequence: String,
    changes: Vec<String>,
    erased: String,
    money: String,
    credit: Option<String>,
    losses: Vec<Loss>,
    hidden: Vec<(&'static str, String)>,
    order: String,
}

struct Loss {
    device: String,
    history: String,
    erased: String,
    stays: String,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Cancel,
    Downgrade,
}

impl What {
    fn read(name: &str) -> Option<Self> {
        match name {
            "cancel" => Some(Self::Cancel),
            "downgrade" => Some(Self::Downgrade),
            _ => None,
        }
    }
}

/// Asks first.
pub async fn confirm(
    State(portal): State<Arc<Portal>>,
    Household { view, context, .. }: Household,
    Path((id, name)): Path<(String, String)>,
) -> Response {
    let (what, device) = match find(&view, context.language.translations(), &id, &name) {
        Ok(found) => found,
        Err(why) => return refusal(&context, StatusCode::NOT_FOUND, why),
    };
    let (issuer, asked, now) = (portal.cloud.issuer.clone(), device.clone(), portal.cloud.clock.now_s());
    match portal.cloud.db.transact_async(move |tx| issuer.offer(tx, &asked, what == What::Downgrade, now)).await {
        Ok(offer) => html(&page(&context, &view, what, &format!("/cameras/{device}/{name}"), &offer)),
        Err(e) => failed(&context, &e),
    }
}

/// The change and its camera; an error text, if there is no such page.
fn find(view: &AccountView, t: &Translations, id: &str, name: &str) -> Result<(What, DeviceId), String> {
    let what = What::read(name).ok_or_else(|| t.no_such_page.clone())?;
    let camera = camera_of(view, id).ok_or_else(|| name_of(&t.refusal, "no_camera"))?;
    Ok((what, camera.device.clone()))
}

/// Asks first, for a subscription that is named by its order: no camera need be left under it.
pub async fn confirm_order(
    State(portal): State<Arc<Portal>>,
    Household { account, view, context }: Household,
    Path(order): Path<String>,
) -> Response {
    let (issuer, asked, now) = (portal.cloud.issuer.clone(), order.clone(), portal.cloud.clock.now_s());
    match portal.cloud.db.transact_async(move |tx| issuer.offer_for_order(tx, &account, &asked, now)).await {
        Ok(offer) => html(&page(&context, &view, What::Cancel, &format!("/orders/{order}/cancel"), &offer)),
        Err(e) => failed(&context, &e),
    }
}

fn page(context: &RequestContext, view: &AccountView, what: What, action: &str, offer: &Offer) -> Confirm {
    let language = context.language;
    let t = language.translations();
    let models: BTreeMap<_, _> = view.cameras.iter().map(|camera| (&camera.device, camera)).collect();
    let called = |device: &DeviceId| match models.get(device) {
        Some(camera) => format!("{} ({device})", camera.model),
        None => device.to_string(),
    };
    let changes = offer.plans.iter().map(|change| {
        let (from, to) = (name_of(&t.plan, change.from.as_deref().unwrap_or("none")), name_of(&t.plan, &change.to));
        fill(&t.plan_changes, &[("camera", &called(&change.device)), ("from", &from), ("to", &to)])
    });
    let (clips, bytes) = offer.losses.iter().fold((0, 0), |(clips, bytes), loss| (clips + loss.clips, bytes + loss.bytes));
    let amount = language.money(offer.amount_minor, &offer.currency);
    let (title, button, consequence) = match (what, offer.plan) {
        (What::Downgrade, _) => (&t.downgrade_title, &t.downgrade, &t.ends_downgrade),
        (What::Cancel, "premium") => (&t.cancel_title, &t.remove, &t.ends_premium),
        (What::Cancel, _) => (&t.cancel_title, &t.remove, &t.ends_plus),
    };
    Confirm {
        title: title.clone(),
        action: action.to_owned(),
        back: "/".into(),
        button: button.clone(),
        consequence: consequence.clone(),
        changes: changes.collect(),
        erased: match clips {
            0 => t.erases_nothing.clone(),
            n => {
                let clips = language.count(n, &t.clips_one, &t.clips_other);
                fill(&t.erases, &[("clips", &clips), ("size", &language.size(bytes))])
            }
        },
        money: match (offer.amount_minor, offer.kind) {
            (0, _) => t.gives_nothing.clone(),
            (_, RefundKind::Refund) => fill(&t.gives_refund, &[("amount", &amount)]),
            (_, RefundKind::Credit) => fill(&t.gives_credit, &[("amount", &amount)]),
        },
        credit: (offer.credit_paid_out_minor > 0).then(|| {
            let amount = language.money(offer.credit_paid_out_minor, &offer.currency);
            fill(&t.pays_out_credit, &[("amount", &amount)])
        }),
        losses: losses(language, offer),
        hidden: vec![
            ("order_id", offer.order_id.clone()),
            ("kind", offer.kind.to_string()),
            ("amount_minor", offer.amount_minor.to_string()),
            ("at", offer.at.to_string()),
        ],
        order: offer.order_id.clone(),
        frame: context.frame(),
    }
}

fn losses(language: Language, offer: &Offer) -> Vec<Loss> {
    let t = language.translations();
    let count = |n| language.count(n, &t.clips_one, &t.clips_other);
    let history = |device: &DeviceId| offer.plans.iter().find(|change| change.device == *device).map_or(0, |change| change.history_h);
    let row = |loss: &crate::domain::preview::Loss| Loss {
        device: loss.device.to_string(),
        history: language.history(history(&loss.device)),
        erased: fill(&t.clips_and_size, &[("clips", &count(loss.clips)), ("size", &language.size(loss.bytes))]),
        stays: count(loss.kept),
    };
    offer.losses.iter().map(row).collect()
}

/// The preview that was shown and confirmed.
#[derive(Deserialize)]
pub struct Confirmed {
    order_id: String,
    kind: RefundKind,
    amount_minor: u64,
    at: u64,
}

/// Does it.
pub async fn act(
    State(portal): State<Arc<Portal>>,
    Household { view, context, .. }: Household,
    Path((id, name)): Path<(String, String)>,
    submitted: CsrfForm<Confirmed>,
) -> Response {
    let (what, camera) = match find(&view, context.language.translations(), &id, &name) {
        Ok(found) => found,
        Err(why) => return refusal(&context, StatusCode::NOT_FOUND, why),
    };
    let Confirmed { order_id, kind, amount_minor, at } = submitted.form;
    let quote = Some(Quote { order_id, kind, amount_minor, at });
    let action = match what {
        What::Cancel => Action::Cancel { camera, quote },
        What::Downgrade => Action::Downgrade { camera, quote },
    };
    match portal.act(action, submitted.at).await {
        Ok(_) => Redirect::to("/").into_response(),
        Err(e) => failed(&context, &e),
    }
}

/// Cancels the subscription of the requested order.
pub async fn act_on_order(
    State(portal): State<Arc<Portal>>,
    Household { account, context, .. }: Household,
    Path(order): Path<String>,
    submitted: CsrfForm<Confirmed>,
) -> Response {
    let Confirmed { order_id, kind, amount_minor, at } = submitted.form;
    let quote = Some(Quote { order_id, kind, amount_minor, at });
    match portal.act(Action::CancelOrder { account, order_id: order, quote }, submitted.at).await {
        Ok(_) => Redirect::to("/").into_response(),
        Err(e) => failed(&context, &e),
    }
}
