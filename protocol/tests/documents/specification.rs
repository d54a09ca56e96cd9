//! `docs/protocol.md` against this crate: its examples verify, and its tables list exactly the names and ranges that
//! the code has.

use std::collections::BTreeSet;

use care_protocol::{
    Cause, Channel, ClipKind, Entitlement, Get, Grant, GrantRequest, Keyset, MAX_INTEGER, Mode, Outcome, Policy, Reason, RefundKind,
    Reject, Report, RootKeys, Topics,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ISSUER, ROOT, device, example, judge_payload, key, root};

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

/// The text below a heading, up to the next heading.
fn section(heading: &str) -> &'static str {
    let start = format!("\n{heading}\n");
    let from = PROTOCOL.find(&start).unwrap_or_else(|| panic!("docs/protocol.md has no heading {heading:?}")) + start.len();
    let rest = &PROTOCOL[from..];
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}

/// The fenced blocks of a section that are in this language.
fn blocks(heading: &str, language: &str) -> Vec<&'static str> {
    let open = format!("```{language}\n");
    section(heading).split(&open).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

fn json_of(heading: &str, nth: usize) -> Value {
    serde_json::from_str(blocks(heading, "json")[nth]).unwrap()
}

/// The rows of the table whose header begins with `first`; cells are trimmed.
fn table(heading: &str, first: &str) -> Vec<Vec<&'static str>> {
    let header = format!("| {first} |");
    // The line of dashes distinguishes the header from a row that begins the same way.
    let text = section(heading).lines().collect::<Vec<_>>();
    let is_header = |at: usize| text[at].starts_with(&header) && text.get(at + 1).is_some_and(|rule| rule.starts_with("|---"));
    let start = (0..text.len()).find(|at| is_header(*at)).unwrap_or_else(|| panic!("no table {first:?} below {heading:?}"));
    let lines = text[start + 2..].iter();
    let rows: Vec<_> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .collect();
    assert!(!rows.is_empty(), "the table {first:?} is empty");
    rows
}

/// Names in backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The names in the first column.
fn first_column(heading: &str, first: &str) -> Vec<&'static str> {
    table(heading, first).iter().flat_map(|row| names(row[0])).collect()
}

fn wire_names<T: Serialize>(values: &[T]) -> Vec<String> {
    values.iter().map(|value| serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_example_tokens_verify_and_match_their_examples() {
    let token = |heading| blocks(heading, "jws")[0].replace('\n', "");
    let (entitlement, keyset) = (token("### Entitlement example"), token("### Keyset example"));
    assert!(section("### Entitlement example").contains(&format!("`{}`", key().public_key().to_base64url())));
    assert!(section("### Keyset example").contains(&format!("`{}`", root().public_key().to_base64url())));

    let roots = RootKeys::from([(ROOT.to_owned(), root().public_key())]);
    let keyset = Keyset::verify(keyset.as_bytes(), &roots, ISSUER).unwrap().keyset;
    let shown = json_of("### Keyset example", 0);
    assert_eq!(
        Keyset::verify(root().sign("care-keyset+jws", shown.to_string().as_bytes()).as_bytes(), &roots, ISSUER).unwrap().keyset,
        keyset
    );

    let verified = Entitlement::verify(entitlement.as_bytes(), Some(&keyset), ISSUER, &device()).unwrap();
    assert_eq!(serde_json::to_value(&verified.entitlement).unwrap(), json_of("### Entitlement example", 0));
    assert!(section("### Entitlement example").contains(&format!("`{}`", verified.digest)));
}

#[test]
fn a_changed_example_token_does_not_verify() {
    let token = blocks("### Entitlement example", "jws")[0].replace('\n', "");
    let changed = token.replacen('b', "c", 1);
    assert_ne!(changed, token);
    let keyset = super::keyset();
    assert!(Entitlement::verify(changed.as_bytes(), Some(&keyset), ISSUER, &device()).is_err());
}

#[test]
fn the_other_examples_are_documents_of_their_kind() {
    serde_json::from_value::<Get>(json_of("## Get and answer", 0)).unwrap();
    serde_json::from_value::<Report>(json_of("## Report", 0)).unwrap();
    serde_json::from_value::<GrantRequest>(json_of("## Grants", 0)).unwrap();
    Grant::read(json_of("## Grants", 1).to_string().as_bytes()).unwrap();
}

#[test]
fn every_reason_code_is_listed_and_no_other() {
    assert_eq!(first_column("## Reason codes", "code"), Reject::CODES);
    let judged: BTreeSet<_> = table("## Judgement", "step").iter().flat_map(|row| names(row[2])).collect();
    let known: BTreeSet<_> = Reject::CODES.iter().copied().collect();
    assert!(judged.is_subset(&known), "{:?}", judged.difference(&known));
    // Keyset versions and flash errors are not reasons for rejecting an entitlement.
    let not_judged: Vec<_> = known.difference(&judged).copied().collect();
    assert_eq!(not_judged, ["not_persisted", "old_keyset"]);
}

#[test]
fn every_name_on_the_wire_is_listed_and_no_other() {
    assert_eq!(first_column("## Entitlement", "`reason`"), wire_names(Reason::ALL));
    assert_eq!(first_column("## Report", "`outcome`"), wire_names(Outcome::ALL));
    assert_eq!(first_column("## Report", "`cause`"), wire_names(Cause::ALL));
    assert_eq!(first_column("## Modes", "mode"), wire_names(Mode::ALL));
    let range = |heading, first, field: &str, column: usize| {
        let rows = table(heading, first);
        let row = rows.iter().find(|row| row[0] == format!("`{field}`")).unwrap();
        names(row[column]).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(range("## Entitlement", "field", "channel", 2), wire_names(Channel::ALL));
    assert_eq!(range("## Entitlement", "field", "order.refund.kind", 2), wire_names(RefundKind::ALL));
    assert_eq!(range("## Grants", "field of the request", "kind", 3), wire_names(ClipKind::ALL));
}

#[test]
fn the_topics_are_those_of_the_table() {
    let topics = Topics::new("{prefix}", &"D".parse().unwrap());
    let ours = [topics.entitlement(), topics.answer(), topics.keyset(), topics.get(), topics.report(), topics.status()];
    let listed: Vec<_> = first_column("## Topics", "topic").iter().map(|topic| topic.replace("{device}", "D")).collect();
    assert_eq!(listed, ours);
}

/// Follows a dotted path; `None` if its last step does not exist.
fn at<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    path.split('.').try_fold(value, |value, step| value.get_mut(step))
}

#[test]
fn every_field_of_an_entitlement_is_listed_with_whether_it_is_required() {
    let rows = table("## Entitlement", "field");
    let listed: BTreeSet<_> = rows.iter().flat_map(|row| names(row[0])).collect();
    let mut written = BTreeSet::new();
    let mut walk = vec![(String::new(), example())];
    while let Some((path, value)) = walk.pop() {
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            // A policy has its own table.
            if !path.ends_with("policy") {
                walk.push((path.clone(), value.clone()));
            }
            written.insert(path);
        }
    }
    assert_eq!(listed, written.iter().map(String::as_str).collect());
    for row in rows {
        let path = names(row[0]).next().unwrap();
        let mut document = example();
        let (parent, name) = match path.rsplit_once('.') {
            Some((parent, name)) => (at(&mut document, parent).unwrap(), name),
            None => (&mut document, path),
        };
        assert!(parent.as_object_mut().unwrap().remove(name).is_some(), "{path}");
        let judged = judge_payload(document.to_string().as_bytes()).map_err(|reject| reject.code());
        match row[3] {
            "no" => assert!(judged.is_ok(), "{path} is optional: {judged:?}"),
            "yes" | "in `next`" | "in `order`" => assert_eq!(judged.err(), Some("bad_form"), "{path} is required"),
            other => panic!("{path}: required {other:?}?"),
        }
    }
}

#[test]
fn every_integer_has_the_range_that_is_listed() {
    let bound = |text: &str| match text {
        "2^53 − 1" => MAX_INTEGER,
        "2^31 − 1" => (1 << 31) - 1,
        number => number.parse().unwrap(),
    };
    let policy = table("## Policy", "field").into_iter().map(|row| (format!("policy.{}", names(row[0]).next().unwrap()), row[1], row[3]));
    let fields = table("## Entitlement", "field").into_iter().map(|row| (names(row[0]).next().unwrap().to_owned(), row[1], row[2]));
    let mut checked = 0;
    for (path, _, range) in fields.chain(policy).filter(|(_, kind, _)| *kind == "integer") {
        let (least, most) = range.split_once(" to ").unwrap();
        let (least, most) = (bound(least), bound(most));
        for (value, good) in
            [(json!(least), true), (json!(most), true), (json!(most + 1), false), (json!(i64::try_from(least).unwrap() - 1), false)]
        {
            let mut document = example();
            *at(&mut document, &path).unwrap() = value.clone();
            let judged = judge_payload(document.to_string().as_bytes()).map_err(|reject| reject.code()).err();
            // An `iat` from before its key's validity is rejected for that reason, after all ranges were checked.
            let judged = judged.filter(|code| *code != "key_not_yet_valid");
            assert_eq!(judged, (!good).then_some("out_of_range"), "{path} = {value}");
        }
        checked += 1;
    }
    assert_eq!(checked, 11, "integers in the two tables");
}

#[test]
fn every_field_of_a_policy_and_of_a_report_is_listed() {
    let policy = serde_json::to_value(Policy::CLOSED).unwrap();
    assert_eq!(sorted(first_column("## Policy", "field")), sorted(policy.as_object().unwrap().keys().map(String::as_str).collect()));

    let report: Report = serde_json::from_value(json_of("## Report", 0)).unwrap();
    let report = serde_json::to_value(Report { detail: Some("why".into()), ..report }).unwrap();
    let mut written = Vec::new();
    for (name, value) in report.as_object().unwrap() {
        match (name.as_str(), value.as_object()) {
            ("cut" | "erased", Some(parts)) => written.extend(parts.keys().map(|part| format!("{name}.{part}"))),
            _ => written.push(name.clone()),
        }
    }
    assert_eq!(sorted(first_column("## Report", "field")), sorted(written.iter().map(String::as_str).collect()));
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}
