//! The page's words: the portal's state turned into what a person reads.

use askama::Template;
use care_protocol::{Outcome, RefundKind, Report};
use jiff::Timestamp;

use super::state::{CameraView, State, SwitchView};
use crate::{
    actions::Offer,
    catalogue::{Catalogue, Cycle, Tier},
    store::TransferView,
};

/// The page with everything on it.
#[derive(Template)]
#[template(path = "page.html")]
pub struct Page {
    broker_up: bool,
    plus_price: String,
    premium_price: String,
    cameras: Vec<Card>,
    switches: Vec<Row>,
}

/// Asks before something is taken away.
#[derive(Template)]
#[template(path = "confirm.html")]
pub struct Confirm {
    title: &'static str,
    action: String,
    button: &'static str,
    consequence: &'static str,
    money: String,
    cameras_line: String,
    order: String,
    kind: RefundKind,
    amount_minor: u64,
    at: u64,
}

/// Says why something was not done.
#[derive(Template)]
#[template(path = "refused.html")]
pub struct Refused {
    /// Why.
    pub why: String,
}

struct Card {
    device: String,
    model: String,
    account: String,
    plan: String,
    channel: String,
    in_app: bool,
    bound: bool,
    status: String,
    mode: String,
    history: String,
    clips: String,
    silent: bool,
    seatless: bool,
    next: Option<String>,
    upload: Option<Upload>,
    report: Option<String>,
    order: Option<String>,
}

struct Upload {
    kind: String,
    received: String,
    expected: String,
    percent: u64,
}

struct Row {
    device: String,
    epoch: u64,
    seq: u64,
    from: String,
    plan: String,
    reason: String,
    at: String,
    stops: Vec<Stop>,
    figures: Vec<Figure>,
}

struct Stop {
    name: &'static str,
    when: String,
    state: &'static str,
}

struct Figure {
    name: &'static str,
    value: String,
}

impl Page {
    /// The page for this state.
    pub fn new(state: &State, catalogue: &Catalogue) -> Self {
        let price = |tier| format!("{} a month", money(catalogue.price_minor(tier, Cycle::Monthly), &catalogue.currency));
        Self {
            broker_up: state.broker_running != Some(false),
            plus_price: price(Tier::Plus),
            premium_price: price(Tier::Premium),
            cameras: state.cameras.iter().map(|camera| card(camera, &state.transfers, state.now_us)).collect(),
            switches: state.switches.iter().map(row).collect(),
        }
    }
}

impl Confirm {
    /// What cancelling (or downgrading) does, before it is done.
    pub fn new(device: &str, offer: &Offer, downgrade: bool) -> Self {
        let amount = money(offer.amount_minor, &offer.currency);
        let cameras: Vec<_> = offer.plans.iter().map(|change| change.device.to_string()).collect();
        Self {
            title: if downgrade { "Downgrade to Plus" } else { "Cancel Subscription" },
            action: format!("/cameras/{device}/{}", if downgrade { "downgrade" } else { "cancel" }),
            button: if downgrade { "DOWNGRADE" } else { "REMOVE" },
            consequence: match (downgrade, offer.plan) {
                (true, _) => "This camera gets Plus; the account's other cameras get Free.",
                (false, "premium") => "Premium ends for every camera of the account; they get Free.",
                (false, _) => "Plus ends for this camera; it gets Free.",
            },
            money: match offer.kind {
                RefundKind::Refund => format!("{amount} is refunded for the days that are left."),
                RefundKind::Credit => format!("{amount} is credited on the next bill for the days that are left."),
            },
            cameras_line: format!("Cameras: {}", cameras.join(", ")),
            order: offer.order_id.clone(),
            kind: offer.kind,
            amount_minor: offer.amount_minor,
            at: offer.at,
        }
    }
}

fn card(camera: &CameraView, transfers: &[TransferView], now_us: i64) -> Card {
    let running =
        transfers.iter().rev().find(|transfer| transfer.device == camera.device && transfer.ended_us.is_none() && !transfer.revoked);
    Card {
        device: camera.device.to_string(),
        model: camera.model.clone(),
        account: if camera.bound { camera.account.clone() } else { "no account".into() },
        plan: camera.plan.clone(),
        in_app: camera.channel != "portal",
        channel: camera.channel.replace('_', " "),
        bound: camera.bound,
        status: camera.status.clone(),
        mode: camera.report.as_ref().map_or("not known yet".into(), |report| report.mode.to_string()),
        history: match camera.history_h {
            0 => "none".into(),
            hours if hours > 48 => format!("{} days", hours / 24),
            hours => format!("{hours} hours"),
        },
        clips: if camera.clips == 0 { "none".into() } else { size(camera.clip_bytes) },
        silent: camera.silent,
        seatless: camera.seatless,
        next: camera.next.as_ref().map(|(plan, at)| format!("Changes to {plan} at {}.", clock_of(i64::try_from(*at).unwrap_or(0)))),
        upload: running.map(|transfer| Upload {
            kind: transfer.kind.clone(),
            received: size(transfer.received),
            expected: size(transfer.expected),
            percent: (transfer.received * 100).checked_div(transfer.expected).unwrap_or(0),
        }),
        report: camera.report.as_ref().zip(camera.reported_us).map(|(report, at)| last_report(report, (now_us - at).max(0))),
        order: camera.order_id.clone(),
    }
}

fn last_report(report: &Report, ago_us: i64) -> String {
    let ago = match ago_us / 1_000_000 {
        0..2 => "just now".to_owned(),
        seconds @ ..120 => format!("{seconds} s ago"),
        seconds => format!("{} min ago", seconds / 60),
    };
    format!(
        "{ago}: {} {}, document {}.{}, agent {}",
        report.outcome,
        report.reason.replace('_', " "),
        report.epoch,
        report.seq,
        report.agent
    )
}

fn row(switch: &SwitchView) -> Row {
    Row {
        device: switch.device.to_string(),
        epoch: switch.epoch,
        seq: switch.seq,
        from: switch.from.clone().unwrap_or_else(|| "none".into()),
        plan: switch.plan.clone(),
        reason: switch.reason.replace('_', " "),
        at: clock_of(switch.issued_us / 1_000_000),
        stops: stops(switch),
        figures: figures(switch),
    }
}

/// The four stops of a document; each time counts from the one at which it was published.
fn stops(switch: &SwitchView) -> Vec<Stop> {
    let start = switch.published_us.unwrap_or(switch.issued_us);
    let stop = |name, at: Option<i64>| match at {
        Some(at) => Stop { name, when: format!("+{}", span(at - start)), state: "done" },
        None => Stop { name, when: "waiting".into(), state: "waiting" },
    };
    let refused =
        switch.report.as_ref().is_some_and(|report| matches!(report.outcome, Outcome::Rejected | Outcome::Conflict | Outcome::Stale));
    let answer = match (&switch.report, refused) {
        (Some(_), false) => stop("camera applied it", switch.reported_us),
        (Some(_), true) => Stop { state: "refused", ..stop("camera refused it", switch.reported_us) },
        // A newer document answered for this one.
        (None, _) if switch.reported_us.is_some() => stop("camera is further", switch.reported_us),
        (None, _) => stop("camera applied it", None),
    };
    let issued = Stop { name: "signed", when: format!("−{}", span(start - switch.issued_us)), state: "done" };
    let published = match switch.published_us {
        Some(_) if switch.tries > 1 => Stop { name: "published", when: format!("{} times", switch.tries), state: "done" },
        Some(_) => Stop { name: "published", when: "0".into(), state: "done" },
        None => stop("published", None),
    };
    vec![issued, published, stop("at the broker", switch.acked_us), answer]
}

fn figures(switch: &SwitchView) -> Vec<Figure> {
    let mut figures = Vec::new();
    if let Some(report) = &switch.report {
        if report.cut.transfers > 0 {
            let transfers = if report.cut.transfers == 1 { "1 upload".into() } else { format!("{} uploads", report.cut.transfers) };
            figures.push(Figure {
                name: "Cut",
                value: format!("{transfers} in {}", span(i64::try_from(report.cut.micros).unwrap_or(i64::MAX))),
            });
        }
        if let Some(bytes) = switch.store_bytes_after {
            figures.push(Figure { name: "Store received after it", value: size(bytes) });
        }
        if report.erased.clips > 0 {
            let clips = if report.erased.clips == 1 { "1 clip".into() } else { format!("{} clips", report.erased.clips) };
            figures.push(Figure { name: "Erased on the camera", value: format!("{clips}, {}", size(report.erased.bytes)) });
        }
        if report.outcome != Outcome::Applied {
            figures.push(Figure { name: "The camera said", value: format!("{}: {}", report.outcome, report.reason) });
        }
    }
    if let Some((plan, at)) = &switch.next {
        figures.push(Figure { name: "Next", value: format!("{plan} at {}", clock_of(i64::try_from(*at).unwrap_or(0))) });
    }
    if let Some(order) = &switch.order {
        let name = if order.kind == "refund" { "Refund" } else { "Credit" };
        figures.push(Figure { name, value: format!("{} · {}", money(order.amount_minor, &order.currency), order.id) });
    }
    figures
}

fn span(micros: i64) -> String {
    match micros {
        ..0 => "0".into(),
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

/// An amount in a currency with two decimals, as all of the catalogue's are.
fn money(minor: u64, currency: &str) -> String {
    let sign = if currency == "USD" { "$".to_owned() } else { format!("{currency} ") };
    format!("{sign}{}.{:02}", minor / 100, minor % 100)
}

/// `12:34:56 UTC`.
fn clock_of(seconds: i64) -> String {
    let text = Timestamp::from_second(seconds).map(|at| at.to_string()).unwrap_or_default();
    text.get(11..19).map_or(text.clone(), |clock| format!("{clock} UTC"))
}
