//! The table is complete: enough faults, every condition, and docs/troubleshooting.md shows it.

use kasa_care_agent::conditions::Kind;

use super::faults::{ELSEWHERE, FAULTS, Fault, Group, Shows};

#[test]
fn there_are_more_than_forty_faults_and_no_two_alike() {
    assert!(FAULTS.len() > 40, "{} faults", FAULTS.len());
    for (at, fault) in FAULTS.iter().enumerate() {
        assert!(!fault.says.is_empty() && fault.remedy.len() > 4, "{fault:?}");
        assert!(FAULTS[..at].iter().all(|other| other.what != fault.what), "{} stands twice", fault.what);
    }
    assert!(Group::ALL.iter().all(|group| FAULTS.iter().any(|fault| fault.group == *group)));
}

#[test]
fn every_condition_is_raised_by_a_fault_or_tested_elsewhere() {
    for kind in Kind::ALL {
        let raised = FAULTS.iter().any(|fault| fault.shows == Shows::Condition(*kind));
        let elsewhere = ELSEWHERE.iter().find(|(known, _)| known == kind);
        assert!(raised != elsewhere.is_some(), "{}: one of a fault in the drill and a reason for none", kind.name());
        if let Some((_, why)) = elsewhere {
            let file = why.split_once(": ").map_or("", |(_, file)| file);
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../").to_owned() + file;
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(text.contains(kind.name()), "{file} does not test {}", kind.name());
        }
    }
}

fn row(Fault { what, shows, remedy, .. }: &Fault) -> String {
    let shows = match shows {
        Shows::Condition(kind) => format!("`{}`", kind.name()),
        Shows::Exit(code) => format!("exit code {code}"),
    };
    format!("| {what} | {shows} | {remedy} |")
}

#[test]
fn docs_troubleshooting_md_shows_the_drill() {
    let begin = "| what is wrong | it shows | what to do |\n|---|---|---|\n";
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md")).unwrap();
    let table = page.split_once(begin).map_or("", |(_, rest)| rest.split_once("\n\n").map_or(rest, |(table, _)| table));
    let shown: Vec<&str> = table.trim_end().lines().collect();
    let played: Vec<String> =
        Group::ALL.iter().flat_map(|group| FAULTS.iter().filter(move |fault| fault.group == *group)).map(row).collect();
    assert_eq!(shown, played, "the table should be:\n{begin}{}", played.join("\n"));
}
