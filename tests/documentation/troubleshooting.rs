//! docs/troubleshooting.md goes from symptoms to what to do: every condition, exit code and reason code has a place in it.

use crate::{quoted, text};

/// The names in the first column of the tables in a part of a document.
fn listed(document: &str, heading: &str) -> Vec<String> {
    let (_, part) = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no {heading}"));
    let level = heading.split(' ').next().unwrap();
    let part = part.split_once(&format!("\n{level} ")).map_or(part, |(part, _)| part);
    let cells = part.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    cells.flat_map(|(first, _)| quoted(first).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Those that the document does not name.
fn missing(names: &[String]) -> Vec<&String> {
    let document = text("docs/troubleshooting.md");
    let named: Vec<&str> = document.lines().flat_map(quoted).collect();
    names.iter().filter(|name| !named.contains(&name.as_str())).collect()
}

#[test]
fn every_condition_has_a_place() {
    let conditions = listed(&text("docs/conditions.md"), "## The list");
    assert!(conditions.len() > 40, "only {} conditions were found", conditions.len());
    assert_eq!(missing(&conditions), Vec::<&String>::new());
}

#[test]
fn every_reason_code_has_a_place() {
    let codes = listed(&text("docs/protocol.md"), "## Reason codes");
    assert!(codes.len() > 10, "only {} codes were found", codes.len());
    assert_eq!(missing(&codes), Vec::<&String>::new());
}

#[test]
fn every_exit_code_has_a_place() {
    let (configuration, document) = (text("docs/configuration.md"), text("docs/troubleshooting.md"));
    let (_, table) = configuration.split_once("| exit code | means |").unwrap();
    let codes = table.lines().skip(2).map_while(|line| line.strip_prefix("| ")?.split(' ').next()?.parse::<u8>().ok());
    let codes: Vec<u8> = codes.collect();
    assert!(codes.len() >= 4, "{codes:?}");
    for code in codes {
        assert!(document.contains(&format!("exit code {code}")), "exit code {code} has no place");
    }
}

/// What is not a condition any more is not looked for either.
#[test]
fn what_a_status_is_said_to_show_exists() {
    let conditions = listed(&text("docs/conditions.md"), "## The list");
    let document = text("docs/troubleshooting.md");
    for row in document
        .split("| `status` shows |")
        .skip(1)
        .flat_map(|table| table.lines().take_while(|line| line.starts_with('|') || line.contains("what it means")))
    {
        let shown = row.trim_start_matches("| ").split(" | ").next().unwrap();
        for name in quoted(shown).filter(|name| name.contains('_') && !name.contains(' ')) {
            assert!(conditions.contains(&name.to_owned()), "there is no condition {name}: {row}");
        }
    }
}
