//! README: its length, its table of faults, and its publisher.

use crate::{quoted, text};

#[test]
fn readme_has_at_most_130_lines() {
    let lines = text("README.md").lines().count();
    assert!(lines <= 130, "README.md has {lines} lines: move something to docs/");
}

#[test]
fn the_faults_of_readme_are_conditions_that_exist() {
    let (readme, conditions) = (text("README.md"), text("docs/conditions.md"));
    let (_, section) = readme.split_once("\n## When a camera does not upload\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(rows.len(), 8);
    for row in rows {
        let shown = row.split(" | ").nth(1).unwrap();
        // A mode is not a condition.
        if let Some(mode) = shown.strip_prefix("mode ") {
            assert_eq!(mode, "`unbound`");
            continue;
        }
        assert!(shown.contains('`'), "{row}");
        for name in quoted(shown) {
            assert!(conditions.contains(&format!("| `{name}` | ")), "docs/conditions.md has no condition {name}");
        }
    }
}

/// The first Python block in a document.
fn python(text: &str) -> &str {
    let (_, rest) = text.split_once("```python\n").expect("there is a block of Python");
    rest.split_once("\n```").unwrap().0
}

#[test]
fn the_publisher_of_readme_is_the_one_that_is_tested() {
    let (readme, tested) = (text("README.md"), text("examples/publisher/README.md"));
    assert_eq!(python(&readme), python(&tested), "tests/publisher runs the program of examples/publisher/README.md");
}
