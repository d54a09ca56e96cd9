//! `vectors/run.py`, the second implementation of the contract, judges the vectors as their files say, and notices
//! every change to one. The first implementation judges them in `protocol/tests/vectors` and in the engine's tests.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

fn run(files: &Path) -> (Output, String) {
    let output = Command::new("/usr/bin/python3").arg("-B").arg(vectors().join("run.py")).arg(files).output();
    let output = output.expect("python3 is installed (scripts/deps.sh)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, said)
}

#[test]
fn the_python_program_judges_every_vector_as_its_file_says() {
    let (output, said) = run(&vectors());
    assert!(output.status.success(), "{said}");
    for file in ["tokens", "keysets", "reports", "histories"] {
        let judged = said.lines().find_map(|line| line.strip_prefix(&format!("{file}: "))?.strip_suffix(" judged"));
        let judged: usize = judged.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{file}: {said}"));
        assert!(judged >= 15, "{judged} cases in {file}.json");
    }
}

/// One verdict changed in each file: the program names the case and fails.
#[test]
fn the_python_program_fails_on_a_changed_vector() {
    for (file, from, to, case) in [
        ("tokens.json", r#""reason": "revoked_key""#, r#""reason": "unknown_key""#, "a key that is listed and revoked"),
        ("tokens.json", r#""seq": 41"#, r#""seq": 42"#, "with next and order"),
        ("keysets.json", r#""version": 9,"#, r#""version": 8,"#, "a key that is listed and revoked"),
        ("reports.json", r#""then": "alarm""#, r#""then": "nothing""#, "another document of this position was signed"),
        ("histories.json", r#""outcome": "conflict""#, r#""outcome": "applied""#, "a cancel, and everything that comes late"),
        ("histories.json", r#""leaves": "mixed under free""#, r#""leaves": "free""#, "when a lease ends the stricter of each limit counts"),
    ] {
        let changed = tempfile::tempdir().unwrap();
        for name in ["tokens.json", "keysets.json", "reports.json", "histories.json"] {
            let mut text = std::fs::read_to_string(vectors().join(name)).unwrap();
            if name == file {
                assert!(text.contains(from), "{name} has no {from}");
                text = text.replacen(from, to, 1);
            }
            std::fs::write(changed.path().join(name), text).unwrap();
        }
        let (output, said) = run(changed.path());
        assert_eq!(output.status.code(), Some(1), "{file}, {to}: {said}");
        let stem = file.trim_end_matches(".json");
        assert!(said.contains(&format!("{stem}: {case}\n")), "{file}, {to}: {said}");
    }
}
