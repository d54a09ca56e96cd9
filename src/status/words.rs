//! The status in words, as `kasa-care-agent status` prints it: what is wrong, then everything else. The running agent writes it, so
//! the command need not understand the document of another version.

use std::fmt::Write as _;

use super::document::StatusDocument;
use crate::conditions::Condition;

pub(super) fn render(document: &StatusDocument) -> String {
    let mut text = String::new();
    for Condition { name, since, severity, sentence, advice } in &document.conditions {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<12} {name} since {since}: {sentence}\n{:<12} {advice}", severity.to_string(), "");
    }
    for (name, value) in document.rows() {
        let _ = writeln!(text, "{name:<12} {value}");
    }
    text
}
