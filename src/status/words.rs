//! The status in words, as `kasa-care-agent status` prints it: what is wrong, then everything else, then what happened. The
//! running agent writes it, so the command need not understand the document of another version.

use std::fmt::Write as _;

use super::document::{StatusDocument, causes, in_english};
use crate::{
    conditions::Condition,
    timeline::{Change, End, Entry, Episode, What},
};

pub(super) fn render(document: &StatusDocument) -> String {
    let mut text = String::new();
    for Condition { name, since, severity, sentence, advice } in &document.conditions {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<12} {name} since {since}: {sentence}\n{:<12} {advice}", severity.to_string(), "");
    }
    for (name, value) in document.rows() {
        let _ = writeln!(text, "{name:<12} {value}");
    }
    for (n, entry) in document.timeline.iter().rev().enumerate() {
        let name = if n == 0 { "timeline" } else { "" };
        let when = match &entry.at {
            Some(at) => at.0.to_string(),
            None => format!("time unknown, {} after boot", in_english(entry.boot_s)),
        };
        let _ = writeln!(text, "{name:<12} {when}: {}", what(entry));
    }
    text
}

fn what(entry: &Entry) -> String {
    match &entry.what {
        What::Switch(change) => switch(change),
        What::Condition(Episode { name, sentence, lasted_s, times }) => {
            let lasted = lasted_s.map_or_else(String::new, |lasted| format!(" for {}", in_english(lasted)));
            let times = if *times > 1 { format!(", {times} times") } else { String::new() };
            format!("{name}{lasted}{times}: {sentence}")
        }
        What::Started(start) => {
            let previous = match start.previous {
                Some(End::Stopped) => ", after a stop",
                Some(End::Killed) => ", after a crash or a kill",
                Some(End::PowerLost) => ", after a power cut or a reset",
                None => "",
            };
            format!("agent {} started{previous}", start.agent)
        }
        What::Stopped {} => "agent stopped".to_owned(),
        What::ClockStep(step) => step.clone(),
    }
}

fn switch(Change { report, order, stages }: &Change) -> String {
    let mut text = format!("switch to {} {}", report.mode, causes(report));
    let stages = [("cut", stages.cut), ("written", stages.written), ("acknowledged", stages.acknowledged), ("reported", stages.reported)];
    for (name, micros) in stages {
        if let Some(micros) = micros {
            let _ = write!(text, ", {name} after {micros} µs");
        }
    }
    if let Some(order) = order {
        let _ = write!(text, ", order {order}");
    }
    text
}
