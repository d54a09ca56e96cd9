//! Dependencies between the layers of care-cloud point one way. This test reads the sources: each layer may name only the
//! layers below it, so that plans and money can be read, and tested, without a network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

/// From the bottom to the top.
const LAYERS: [&str; 5] = ["storage", "domain", "transport", "lab", "portal"];

#[test]
fn each_layer_names_only_the_layers_below_it() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (level, layer) in LAYERS.iter().enumerate() {
        let files = sources_below(&sources.join(layer));
        assert!(files.len() > 1, "{layer} has moved: this test looks in the wrong place");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            // Unit tests may look up; they are at the end of a file.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let named = named(text);
            wrong.extend(
                LAYERS[level + 1..].iter().filter(|above| named.contains(**above)).map(|above| format!("{}: {above}", file.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_layer_is_found_in_every_form_of_use() {
    for text in ["use crate::portal::state;", "use crate::{\n    clock::Clock,\n    portal::{self, state},\n};", "crate::portal::read()"] {
        assert!(named(text).contains("portal"), "{text}");
    }
    assert!(!named("use crate::storage::db; // portal").contains("portal"));
}

fn sources_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(sources_below(&path)),
            false => files.push(path),
        }
    }
    files
}

/// The first names of all paths that begin with `crate::`, in a group of imports or alone.
fn named(text: &str) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for path in text.split("crate::").skip(1) {
        let Some(group) = path.strip_prefix('{') else {
            found.insert(first_name(path));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.insert(first_name(&group[start..at]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(first_name(&group[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    found
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}
