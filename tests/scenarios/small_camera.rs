//! Scenario 104 is a list of other scenarios that must hold on a small camera. Their tests have many names and files; this one
//! fails if any of them runs only in the build with GStreamer. `tests/bare` shows them on the camera itself.

use std::collections::BTreeSet;

use crate::catalogue::{self, Tests};

/// The scenario that is the list.
const NUMBER: u32 = 104;
/// Where tests know no build: nothing below these folders can depend on GStreamer.
const WITHOUT_BUILDS: [&str; 2] = ["engine/", "protocol/"];
/// Begins the list of the tests that run in both builds.
const IN_EACH_BUILD: &str = "in_each_build!(";

/// The numbers after the last colon of the item `104. A small camera: 1, 3, 36–40 hold there.`
fn listed(catalogue: &str) -> BTreeSet<u32> {
    let mut lines = catalogue.lines().skip_while(|line| !line.starts_with(&format!("{NUMBER}. ")));
    let first = lines.next().expect("the catalogue has the list");
    let more = lines.take_while(|line| line.starts_with(' ') && !line.trim_start().starts_with("- "));
    let item = more.fold(first.to_owned(), |item, line| item + " " + line.trim());
    let words = item.rsplit(": ").next().unwrap_or_default().split(|c: char| c == ',' || c.is_whitespace());
    let range = |word: &str| {
        let (first, last) = word.split_once('–').unwrap_or((word, word));
        Some(first.parse::<u32>().ok()?..=last.parse().ok()?)
    };
    words.filter_map(range).flatten().collect()
}

/// The names in the lists of tests that run in both builds.
fn in_each_build(source: &str) -> impl Iterator<Item = &str> {
    source.split(IN_EACH_BUILD).skip(1).filter_map(|rest| rest.split(')').next()).flat_map(|names| names.split(',').map(str::trim))
}

/// The listed scenarios that no test shows in the build without GStreamer.
fn unproven(listed: &BTreeSet<u32>, tests: &Tests, read: impl Fn(&str) -> String) -> BTreeSet<u32> {
    let proven = |number: &&u32| {
        tests.get(*number).into_iter().flatten().any(|(file, name)| {
            WITHOUT_BUILDS.iter().any(|folder| file.starts_with(folder)) || in_each_build(&read(file)).any(|each| each == name)
        })
    };
    listed.iter().filter(|number| !proven(number)).copied().collect()
}

#[test]
fn s104_every_scenario_of_a_small_camera_runs_without_gstreamer() {
    let listed = listed(&catalogue::text());
    assert_eq!((listed.len(), listed.first(), listed.last()), (15, Some(&1), Some(&97)), "{listed:?}");
    let read = |file: &str| std::fs::read_to_string(catalogue::root().join(file)).unwrap();
    assert_eq!(unproven(&listed, &catalogue::tests(), read), BTreeSet::new(), "these run with GStreamer only");
}

#[test]
fn a_scenario_that_runs_with_gstreamer_only_is_found() {
    assert_eq!(
        listed("103. 7\n104. A camera: 1, 3,\n     36–38, 97 hold there.\n     - [`s1`](5, 6)\n105. 8\n"),
        BTreeSet::from([1, 3, 36, 37, 38, 97])
    );
    let of = |number: u32, file: &str, name: &str| (number, BTreeSet::from([(file.to_owned(), name.to_owned())]));
    let tests = Tests::from([
        of(1, "tests/a.rs", "s01_a_cancel"),
        of(2, "tests/a.rs", "s02_a_downgrade"),
        of(3, "engine/src/tests.rs", "s03_an_order"),
        of(4, "tests/a.rs", "s04_a_replay"),
    ]);
    let source = |_: &str| "in_each_build!(\n    s01_a_cancel,\n    s04_a_replay_of_another_kind,\n);\n".to_owned();
    assert_eq!(unproven(&BTreeSet::from([1, 2, 3, 4, 5]), &tests, source), BTreeSet::from([2, 4, 5]));
}
