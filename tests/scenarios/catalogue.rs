//! `docs/scenarios.md` lists every numbered scenario with links to its tests. People write the text; this file
//! writes the links and compares them with the tree in every run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const CATALOGUE: &str = "docs/scenarios.md";
/// Directories with numbered tests.
const SOURCES: [&str; 5] = ["cloud", "engine", "protocol", "src", "tests"];
/// The heading above scenarios without a test.
const NOT_BUILT: &str = "## Not built yet";
/// The prefix of a line that links to a test.
const LINK: &str = "- [`s";

/// Scenario number → its tests, as file and function.
pub(crate) type Tests = BTreeMap<u32, BTreeSet<(String, String)>>;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository").to_owned()
}

/// The catalogue's text.
pub(crate) fn text() -> String {
    fs::read_to_string(root().join(CATALOGUE)).unwrap()
}

/// Every numbered test of the tree.
pub(crate) fn tests() -> Tests {
    let mut tests = Tests::new();
    for folder in SOURCES.map(|name| root().join(name)).iter().filter(|folder| folder.exists()) {
        collect(folder, &mut tests);
    }
    tests
}

fn collect(folder: &Path, tests: &mut Tests) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root()).unwrap().display().to_string();
            let source = fs::read_to_string(&path).unwrap();
            for function in source.lines().filter_map(|line| line.split("fn ").nth(1)) {
                let name: String = function.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if let Some(number) = scenario(&name) {
                    tests.entry(number).or_default().insert((file.clone(), name));
                }
            }
        }
    }
}

/// `s07_…` → 7.
fn scenario(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix('s')?.split_once('_')?;
    (number.len() >= 2).then(|| number.parse().ok())?
}

/// The catalogue with its links replaced by those of `tests`, and the numbers that it lists as built and as not
/// built.
fn linked(text: &str, tests: &Tests) -> (String, BTreeSet<u32>, BTreeSet<u32>) {
    let (mut built, mut planned) = (BTreeSet::new(), BTreeSet::new());
    let (mut lines, mut pending, mut is_built) = (Vec::new(), Vec::new(), true);
    for line in text.lines().filter(|line| !line.trim_start().starts_with(LINK)).chain([""]) {
        let starts = line.split_once(". ").and_then(|(number, _)| number.parse::<u32>().ok());
        if starts.is_some() || line.is_empty() {
            lines.append(&mut pending);
        }
        is_built &= line != NOT_BUILT;
        if let Some(number) = starts {
            if is_built {
                built.insert(number)
            } else {
                planned.insert(number)
            };
            let indent = " ".repeat(number.to_string().len() + 2);
            let tests = tests.get(&number).into_iter().flatten();
            pending = tests.map(|(file, name)| format!("{indent}- [`{name}`](../{file})")).collect();
        }
        lines.push(line.to_owned());
    }
    (lines.join("\n").trim_end().to_owned() + "\n", built, planned)
}

#[test]
fn the_catalogue_links_every_numbered_test() {
    let (tests, text) = (tests(), text());
    let (now, built, planned) = linked(&text, &tests);
    assert_eq!(built, tests.keys().copied().collect(), "left: scenarios said to be built; right: scenarios with a test");
    assert!(planned.is_disjoint(&built), "{planned:?} are said not to be built");
    if std::env::var_os("CATALOGUE").is_some_and(|value| value == "write") {
        return fs::write(root().join(CATALOGUE), &now).unwrap();
    }
    assert!(text == now, "{CATALOGUE} has other links than the tree; run this test with CATALOGUE=write");
}

#[test]
fn a_missing_or_wrong_link_is_detected() {
    let tests = Tests::from([(1, BTreeSet::from([("tests/a.rs".into(), "s01_works".into())]))]);
    let good = "1. It works.\n   - [`s01_works`](../tests/a.rs)\n2. It does too.\n\n## Not built yet\n\n3. Later.\n";
    let (written, built, planned) = linked(good, &tests);
    assert_eq!((written.as_str(), built, planned), (good, BTreeSet::from([1, 2]), BTreeSet::from([3])));
    for bad in ["1. It works.\n", "1. It works.\n   - [`s01_works`](../tests/b.rs)\n", "1. It works.\n   - [`s01_worked`](../tests/a.rs)\n"]
    {
        assert_eq!(linked(bad, &tests).0, "1. It works.\n   - [`s01_works`](../tests/a.rs)\n");
    }
}
