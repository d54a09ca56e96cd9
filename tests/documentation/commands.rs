//! The `make` commands that documents name, the patch that they describe, and the width of their prose. scripts/citations.py
//! follows their links.

use std::process::Command;

use crate::{documents, prose, quoted, root, text};

/// Documents with long lines: a list of changes, a list of links.
const LONG: [&str; 2] = ["CHANGELOG.md", "docs/scenarios.md"];

#[test]
fn every_make_command_of_a_document_exists() {
    let makefile = text("Makefile");
    let exists = |target: &str| makefile.lines().any(|line| line.split_once(':').is_some_and(|(name, _)| name == target));
    let mut missing = Vec::new();
    let mut seen = 0;
    for document in documents() {
        for (number, line) in text(&document.to_string_lossy()).lines().enumerate() {
            // In a console block the line is the command; in prose it is between backticks.
            let console = line.strip_prefix("$ ").into_iter();
            for command in quoted(line).chain(console) {
                let mut words = command.split_whitespace().skip_while(|word| word.contains('='));
                if words.next() != Some("make") {
                    continue;
                }
                let target = words.find(|word| !word.contains('='));
                seen += 1;
                if let Some(target) = target.filter(|target| !exists(target) && *target != "TARGET") {
                    missing.push(format!("{}:{}: make {target}", document.display(), number + 1));
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} commands were found: the test reads the documents wrongly");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn prose_stays_within_120_columns() {
    let mut long = Vec::new();
    for document in documents().into_iter().filter(|path| !LONG.iter().any(|long| path.as_os_str() == *long)) {
        for (number, line) in prose(&text(&document.to_string_lossy())) {
            // A table's row cannot be broken, and neither can a link.
            if line.chars().count() > 120 && !line.trim_start().starts_with('|') && line.trim().contains(' ') {
                long.push(format!("{}:{number}", document.display()));
            }
        }
    }
    assert!(long.is_empty(), "longer than 120 characters:\n{}", long.join("\n"));
}

/// docs/benchmarks.md describes a rival that is our agent with this patch. Building it takes minutes; that it still applies shows
/// here.
#[test]
fn the_patch_of_a_rival_applies() {
    let patch = root().join("benches/rivals/drops_request.patch");
    let mut command = Command::new("patch");
    command.args(["--batch", "--dry-run", "-p1", "-i"]).arg(&patch).current_dir(root());
    let output = command.output().expect("patch is installed");
    assert!(output.status.success(), "{} does not apply; write it anew: {}", patch.display(), String::from_utf8_lossy(&output.stdout));
}
