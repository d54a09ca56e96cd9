//! The switches as they happened: each document's way from the click to the camera's report, with its figures.

use care_protocol::Outcome;
use jiff::tz::TimeZone;

use super::{
    language::{Language, machine_time},
    state::SwitchView,
    words::{fill, judgement, name_of},
};

/// One document on its way, in words.
#[derive(Debug)]
pub struct Row {
    /// The camera.
    pub device: String,
    /// Its place in the order.
    pub epoch: u64,
    /// Its place in the order.
    pub seq: u64,
    /// The plan before, as a code.
    pub from_code: String,
    /// And in words.
    pub from: String,
    /// The plan it brings, as a code.
    pub plan_code: String,
    /// And in words.
    pub plan: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: String,
    /// When, for machines.
    pub machine_time: String,
    /// Where it has been.
    pub stops: Vec<Stop>,
    /// What it did.
    pub figures: Vec<Figure>,
}

/// A place on its way.
#[derive(Debug)]
pub struct Stop {
    /// Which.
    pub name: String,
    /// When it was there.
    pub when: String,
    /// `done`, `waiting` or `refused`.
    pub state: &'static str,
}

/// A figure with its name.
#[derive(Debug)]
pub struct Figure {
    /// What it says.
    pub name: String,
    /// How much.
    pub value: String,
}

/// A switch in words.
pub fn row(language: Language, zone: &TimeZone, switch: &SwitchView) -> Row {
    let words = language.words();
    let from_code = switch.from.clone().unwrap_or_else(|| "none".into());
    let at = u64::try_from(switch.issued_us / 1_000_000).unwrap_or(0);
    Row {
        device: switch.device.to_string(),
        epoch: switch.epoch,
        seq: switch.seq,
        from: name_of(&words.plan, &from_code),
        from_code,
        plan: name_of(&words.plan, &switch.plan),
        plan_code: switch.plan.clone(),
        reason: name_of(&words.reason, &switch.reason),
        at: language.clock(at, zone),
        machine_time: machine_time(at),
        stops: stops(language, switch),
        figures: figures(language, zone, switch),
    }
}

/// The stops of a document; each time counts from the one at which it was published.
fn stops(language: Language, switch: &SwitchView) -> Vec<Stop> {
    let words = language.words();
    let start = switch.published_us.unwrap_or(switch.issued_us);
    let stop = |name: &str, at: Option<i64>| match at {
        Some(at) => Stop { name: name.into(), when: format!("+{}", language.span(at - start)), state: "done" },
        None => Stop { name: name.into(), when: words.waiting.clone(), state: "waiting" },
    };
    let refused =
        switch.report.as_ref().is_some_and(|report| matches!(report.outcome, Outcome::Rejected | Outcome::Conflict | Outcome::Stale));
    let answer = match (&switch.report, refused) {
        (Some(_), false) => stop(&words.camera_applied, switch.reported_us),
        (Some(_), true) => Stop { state: "refused", ..stop(&words.camera_refused, switch.reported_us) },
        // A newer document answered for this one.
        (None, _) if switch.reported_us.is_some() => stop(&words.camera_is_further, switch.reported_us),
        (None, _) => stop(&words.camera_applied, None),
    };
    let before = |at: i64| format!("−{}", language.span(start - at));
    let mut stops = Vec::new();
    if let Some(clicked) = switch.clicked_us {
        stops.push(Stop { name: words.clicked.clone(), when: before(clicked), state: "done" });
    }
    stops.push(Stop { name: words.signed.clone(), when: before(switch.issued_us), state: "done" });
    stops.push(match switch.published_us {
        Some(_) if switch.tries > 1 => {
            let when = fill(&words.times, &[("n", &switch.tries.to_string())]);
            Stop { name: words.published.clone(), when, state: "done" }
        }
        Some(_) => Stop { name: words.published.clone(), when: "0".into(), state: "done" },
        None => stop(&words.published, None),
    });
    stops.push(stop(&words.at_the_broker, switch.acked_us));
    stops.push(answer);
    stops
}

fn figures(language: Language, zone: &TimeZone, switch: &SwitchView) -> Vec<Figure> {
    let words = language.words();
    let mut figures = Vec::new();
    let mut add = |name: &str, value: String| figures.push(Figure { name: name.into(), value });
    if let Some(report) = &switch.report {
        if report.cut.transfers > 0 {
            let uploads = language.count(report.cut.transfers.into(), &words.uploads_one, &words.uploads_other);
            let span = language.span(i64::try_from(report.cut.micros).unwrap_or(i64::MAX));
            add(&words.cut, fill(&words.cut_in, &[("uploads", &uploads), ("span", &span)]));
        }
        if let Some(bytes) = switch.store_bytes_after {
            add(&words.store_after, language.size(bytes));
        }
        if report.erased.clips > 0 {
            let clips = language.count(report.erased.clips.into(), &words.clips_one, &words.clips_other);
            add(&words.erased_on_camera, format!("{clips}, {}", language.size(report.erased.bytes)));
        }
        if report.outcome != Outcome::Applied {
            add(&words.camera_said, judgement(words, report));
        }
    }
    if let (Some(clicked), Some(reported)) = (switch.clicked_us, switch.reported_us) {
        add(&words.click_to_report, language.span(reported - clicked));
    }
    if let Some((plan, at)) = &switch.next {
        let at = language.moment(*at, zone);
        add(&words.next, fill(&words.plan_at, &[("plan", &name_of(&words.plan, plan)), ("at", &at)]));
    }
    if let Some(order) = &switch.order {
        let name = if order.kind == "refund" { &words.refund } else { &words.credit };
        add(name, format!("{} · {}", language.money(order.amount_minor, &order.currency), order.id));
    }
    figures
}
