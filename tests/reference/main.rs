//! The files that are made from the agent's tables: man page and completions of shells from its commands
//! (`src/cli/commands.rs`), the reference of the configuration and its JSON Schema from its keys (`src/config/keys.rs`). The files are committed; these tests make them anew and compare, and let the
//! programs that will read them judge them.
//!
//! `WRITE_REFERENCE=1 cargo test --workspace --test reference` writes the files again after a table has changed.

mod commands;
mod configuration;
mod manual;
mod meanings;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A file of the repository, by its path from the root.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Checks that a file matches what the tables give; with `WRITE_REFERENCE=1` writes it.
fn check_or_write(name: &str, text: &str) {
    let path = path(name);
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}; write it with WRITE_REFERENCE=1"));
    assert!(found == text, "{name} differs from the agent's tables; set WRITE_REFERENCE=1 to write it");
}

/// What a program that reads `text` from its input has to object to.
fn objections(program: &str, args: &[&str], text: &str) -> String {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut judge = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; scripts/deps.sh installs it"));
    judge.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = judge.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { said } else { format!("{said}{}", output.status) }
}
