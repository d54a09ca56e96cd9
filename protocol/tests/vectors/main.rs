//! The test vectors of `vectors/`: what every reader and writer of the contract must agree on.
//!
//! This target writes the files and judges the tokens, keysets and reports with the crate itself. The expectations are
//! written by hand, beside each case; nothing here asks the implementation for the right answer. The histories are
//! judged by the engine's own tests, and all files by `vectors/run.py`.
//!
//! `WRITE_VECTORS=1 cargo test --workspace --test vectors` writes the files again after a case has changed.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

mod histories;
mod keys;
mod keysets;
mod reports;
mod tokens;

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

/// The issuer of all vectors.
const ISSUER: &str = "care";
/// The device that judges the vectors.
const DEVICE: &str = "8006E5A1F0C2";
/// 2026-01-01T00:00:00Z: the documents' `iat`, and trusted time at the start of each history.
const T0: u64 = 1_767_225_600;

/// Checks that a file in `vectors/` matches the cases in this target; with `WRITE_VECTORS=1` writes it.
fn check_or_write<T: Serialize>(name: &str, content: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors").join(name);
    let text = serde_json::to_string_pretty(content).unwrap() + "\n";
    if std::env::var_os("WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; write it with WRITE_VECTORS=1", path.display()));
    assert!(found == text, "vectors/{name} differs from what this test generates; set WRITE_VECTORS=1 to write it");
}

/// Reads a file of `vectors/` as another program would.
fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors").join(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// Panics if two cases of a file share a name, or if a case cites a heading that docs/protocol.md does not have.
fn check_names<'a>(cases: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let protocol = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md")).unwrap();
    let headings: std::collections::BTreeSet<_> = protocol.lines().filter(|line| line.starts_with('#')).map(slug).collect();
    let mut names = std::collections::BTreeSet::new();
    for (name, tests) in cases {
        assert!(names.insert(name), "two cases are named {name:?}");
        let anchor = tests.strip_prefix("docs/protocol.md#").unwrap_or_else(|| panic!("{name}: {tests}"));
        assert!(headings.contains(anchor), "{name}: docs/protocol.md has no heading #{anchor}");
    }
}

/// A heading's anchor, as GitHub generates it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
}
