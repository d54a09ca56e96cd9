//! The map of the code in docs/architecture.md: every directory with sources is in it, and every entry exists.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{files, root, text};

/// The directories of the map: an indented tree, one name per line; directories end with `/`.
fn entries(text: &str) -> BTreeSet<PathBuf> {
    let (_, map) = text.split_once("```text\n").expect("docs/architecture.md has a map");
    let (map, _) = map.split_once("\n```").unwrap();
    let mut found = BTreeSet::new();
    let mut within: Vec<&str> = Vec::new();
    for line in map.lines().filter(|line| !line.trim().is_empty()) {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let name = line.split_whitespace().next().unwrap();
        assert!(depth <= within.len(), "docs/architecture.md: {line:?} is indented too far");
        within.truncate(depth);
        let path: PathBuf = within.iter().copied().chain([name]).collect();
        if name.ends_with('/') {
            within.push(name);
        }
        // `components` drops the slash.
        found.insert(path.components().collect());
    }
    found
}

/// Whether a directory holds only unit tests, which the map leaves out.
fn of_tests(directory: &Path) -> bool {
    directory.ends_with("tests") && directory.components().count() > 2
}

#[test]
fn the_map_has_every_directory_with_sources() {
    let map = entries(&text("docs/architecture.md"));
    let source = |path: &Path| {
        path.extension().is_some_and(|extension| ["rs", "sh", "py", "c", "js", "html"].iter().any(|known| extension == *known))
    };
    let sources = files().into_iter().filter(|path| source(path)).filter_map(|path| path.parent().map(Path::to_owned));
    let directories: BTreeSet<PathBuf> = sources.filter(|directory| !directory.as_os_str().is_empty() && !of_tests(directory)).collect();
    assert!(directories.len() > 30, "only {} directories were found", directories.len());
    let missing: Vec<String> = directories.difference(&map).map(|directory| directory.display().to_string()).collect();
    assert!(missing.is_empty(), "not in the map of docs/architecture.md:\n{}", missing.join("\n"));
}

#[test]
fn every_entry_of_the_map_exists() {
    let map = entries(&text("docs/architecture.md"));
    let gone: Vec<String> = map.iter().filter(|entry| !root().join(entry).exists()).map(|entry| entry.display().to_string()).collect();
    assert!(gone.is_empty(), "in the map of docs/architecture.md, and nowhere else:\n{}", gone.join("\n"));
}

#[test]
fn a_map_is_read_as_a_tree() {
    let map = entries("```text\nsrc/  the agent\n  main.rs\n  link/  MQTT\n    acks/\ndocs/\n```\n");
    let expected = ["docs", "src", "src/link", "src/link/acks", "src/main.rs"];
    assert_eq!(map, expected.map(PathBuf::from).into_iter().collect());
}
