//! `schemas/` against the code. What a running agent writes validates; the schemas and the Rust readers judge the
//! same examples; `openapi.yaml` and `asyncapi.yaml` name the paths, statuses and topics that the code has.
//!
//! An implementation of JSON Schema that is not ours judges: Debian's python3-jsonschema, through `judge.py`.

mod configuration;
mod documents;
mod home_assistant;
mod interfaces;
mod schema;
mod wire;

/// `docs/protocol.md`.
const PROTOCOL: &str = include_str!("../../docs/protocol.md");

/// The rows of a table below a heading of `docs/protocol.md`, cells trimmed, without its header.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, below) = PROTOCOL.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let below = below.split_once("\n#").map_or(below, |(section, _)| section);
    let rows = below.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The text between backticks.
fn quoted(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}
