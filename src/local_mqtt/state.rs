//! The states of a camera for Home Assistant, as one JSON document, made from the status document. No account, order id,
//! digest or address of the cloud's is taken over; sentences of conditions hold no secret.

use care_protocol::{Mode, Plan, Report};
use serde_json::{Value, json};

use crate::{conditions::Condition, status::StatusDocument};

/// The longest state that Home Assistant takes, characters.
const LONGEST: usize = 255;
/// How many conditions are listed at most; the gravest come first.
const CONDITIONS: usize = 8;

/// The document. A null is an unknown state in Home Assistant.
pub(super) fn document(status: &StatusDocument) -> Value {
    let held_by = status.held_up_by();
    let conditions: Vec<_> = status.conditions.iter().take(CONDITIONS).map(condition).collect();
    json!({
        "plan": status.plan.as_ref().map(Plan::as_str),
        "mode": status.mode.as_str(),
        "held": held(status),
        "holds": {
            "condition": held_by.map(|condition| &condition.name),
            "what_to_do": held_by.map(|condition| shortened(&condition.advice)),
            "conditions": conditions,
        },
        "last_switch": status.last_switch.as_ref().map(|report| report.at.to_string()),
        "switch": status.last_switch.as_ref().map_or_else(|| json!({}), switch),
        "stored": status.spool.stored_clips,
        "in_flight": status.transfers.in_flight,
        "spool": status.spool.bytes,
        "problem": on(!status.conditions.is_empty()),
        "link": on(status.link.up),
    })
}

/// Motion events so far.
pub(super) fn motion_events(status: &StatusDocument) -> u64 {
    status.media.as_ref().map_or(0, |media| media.status.motion_events)
}

fn on(on: bool) -> &'static str {
    if on { "ON" } else { "OFF" }
}

/// Why uploads wait.
fn held(status: &StatusDocument) -> String {
    match status.held_up_by() {
        Some(condition) => shortened(&condition.sentence),
        None if status.mode == Mode::Held => "the cloud has not confirmed the plan yet".to_owned(),
        None if status.mode == Mode::Unbound => "the camera belongs to no account".to_owned(),
        None if status.is_closed() => "the plan uploads nothing".to_owned(),
        None => "not held".to_owned(),
    }
}

/// Without its time, which moves with trusted time.
fn condition(condition: &Condition) -> Value {
    json!({
        "name": condition.name,
        "severity": condition.severity,
        "sentence": shortened(&condition.sentence),
        "what_to_do": shortened(&condition.advice),
    })
}

/// Neither detail nor digest: the one quotes documents, the other identifies them.
fn switch(report: &Report) -> Value {
    json!({
        "cause": report.cause.as_str(),
        "reason": shortened(&report.reason),
        "outcome": report.outcome.as_str(),
        "plan": report.plan.as_ref().map(Plan::as_str),
        "mode": report.mode.as_str(),
        "transfers_cut": report.cut.transfers,
        "cut_micros": report.cut.micros,
        "bytes_after": report.cut.bytes_after,
        "clips_erased": report.erased.clips,
    })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some(_) => text.chars().take(LONGEST - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}
