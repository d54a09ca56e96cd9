//! Plan changes as their timeline: each document from the click to the camera's report, with its figures.

use care_protocol::Outcome;
use jiff::tz::TimeZone;

use super::{
    language::{Language, machine_time},
    state::SwitchView,
    translations::{fill, judgement, name_of},
};

/// One document in transit, in words.
#[derive(Debug)]
pub struct PlanChange {
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
    /// Its effect.
    pub figures: Vec<Figure>,
}

/// A stage of its path.
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
    /// Its text.
    pub name: String,
    /// How much.
    pub value: String,
}

/// A switch in words.
pub fn plan_change(language: Language, zone: &TimeZone, switch: &SwitchView) -> PlanChange {
    let t = language.translations();
    let from_code = switch.from.clone().unwrap_or_else(|| "none".into());
    let at = u64::try_from(switch.issued_us / 1_000_000).unwrap_or(0);
    PlanChange {
        device: switch.device.to_string(),
        epoch: switch.epoch,
        seq: switch.seq,
        from: name_of(&t.plan, &from_code),
        from_code,
        plan: name_of(&t.plan, &switch.plan),
        plan_code: switch.plan.clone(),
        reason: name_of(&t.reason, &switch.reason),
        at: language.clock(at, zone),
        machine_time: machine_time(at),
        stops: stops(language, switch),
        figures: figures(language, zone, switch),
    }
}

/// The stops of a document; each time counts from the one at which it was published.
fn stops(language: Language, switch: &SwitchView) -> Vec<Stop> {
    let t = language.translations();
    let start = switch.published_us.unwrap_or(switch.issued_us);
    let stop = |name: &str, at: Option<i64>| match at {
        Some(at) => Stop { name: name.into(), when: format!("+{}", language.span(at - start)), state: "done" },
        None => Stop { name: name.into(), when: t.waiting.clone(), state: "waiting" },
    };
    let refused =
        switch.report.as_ref().is_some_and(|report| matches!(report.outcome, Outcome::Rejected | Outcome::Conflict | Outcome::Stale));
    let answer = match (&switch.report, refused) {
        (Some(_), false) => stop(&t.camera_applied, switch.reported_us),
        (Some(_), true) => Stop { state: "refused", ..stop(&t.camera_refused, switch.reported_us) },
        // A newer document answered for this one.
        (None, _) if switch.reported_us.is_some() => stop(&t.camera_is_further, switch.reported_us),
        (None, _) => stop(&t.camera_applied, None),
    };
    let before = |at: i64| format!("−{}", language.span(start - at));
    let mut stops = Vec::new();
    if let Some(clicked) = switch.clicked_us {
        stops.push(Stop { name: t.clicked.clone(), when: before(clicked), state: "done" });
    }
    stops.push(Stop { name: t.signed.clone(), when: before(switch.issued_us), state: "done" });
    stops.push(match switch.published_us {
        Some(_) if switch.tries > 1 => {
            let when = fill(&t.times, &[("n", &switch.tries.to_string())]);
            Stop { name: t.published.clone(), when, state: "done" }
        }
        Some(_) => Stop { name: t.published.clone(), when: "0".into(), state: "done" },
        None => stop(&t.published, None),
    });
    stops.push(stop(&t.at_the_broker, switch.acked_us));
    stops.push(answer);
    stops
}

fn figures(language: Language, zone: &TimeZone, switch: &SwitchView) -> Vec<Figure> {
    let t = language.translations();
    let mut figures = Vec::new();
    let mut add = |name: &str, value: String| figures.push(Figure { name: name.into(), value });
    if let Some(report) = &switch.report {
        if report.cut.transfers > 0 {
            let uploads = language.count(report.cut.transfers.into(), &t.uploads_one, &t.uploads_other);
            let span = language.span(i64::try_from(report.cut.micros).unwrap_or(i64::MAX));
            add(&t.cut, fill(&t.cut_in, &[("uploads", &uploads), ("span", &span)]));
        }
        if let Some(bytes) = switch.store_bytes_after {
            add(&t.store_after, language.size(bytes));
        }
        if report.erased.clips > 0 {
            let clips = language.count(report.erased.clips.into(), &t.clips_one, &t.clips_other);
            add(&t.erased_on_camera, format!("{clips}, {}", language.size(report.erased.bytes)));
        }
        if report.outcome != Outcome::Applied {
            add(&t.camera_said, judgement(t, report));
        }
    }
    if let (Some(clicked), Some(reported)) = (switch.clicked_us, switch.reported_us) {
        add(&t.click_to_report, language.span(reported - clicked));
    }
    if let Some((plan, at)) = &switch.next {
        let at = language.moment(*at, zone);
        add(&t.next, fill(&t.plan_at, &[("plan", &name_of(&t.plan, plan)), ("at", &at)]));
    }
    if let Some(order) = &switch.order {
        let name = if order.kind == "refund" { &t.refund } else { &t.credit };
        add(name, format!("{} · {}", language.money(order.amount_minor, &order.currency), order.id));
    }
    figures
}
