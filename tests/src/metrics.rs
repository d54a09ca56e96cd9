//! What `/metrics` shows, and `promtool`, the judge of it (Debian's `prometheus`).

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// The text of one scrape.
#[derive(Debug, Clone)]
pub struct Metrics(String);

impl Metrics {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The value of a sample, named as the text has it: `name` or `name{label="value"}`.
    pub fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("there is no {sample} in\n{}", self.0))
    }

    /// The same; `None` if there is no such sample.
    pub fn find(&self, sample: &str) -> Option<f64> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(value.parse().unwrap_or_else(|_| panic!("{sample} is {value}")))
    }

    /// The families that are declared, with their types.
    pub fn families(&self) -> BTreeMap<String, String> {
        let declared = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        declared.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
    }

    /// The names of the labels of a family, in the order of its samples; empty without samples.
    pub fn labels(&self, family: &str) -> Vec<String> {
        let labelled = |line: &str| line.strip_prefix(family)?.strip_prefix('{')?.rsplit_once('}').map(|(labels, _)| labels.to_owned());
        let Some(labels) = self.0.lines().find_map(labelled) else { return Vec::new() };
        labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned()).collect()
    }
}

/// Runs promtool, with `input` on its standard input. Returns what it says, and whether it is content.
pub fn promtool(arguments: &[&str], dir: &Path, input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is installed (scripts/deps.sh)");
    let mut stdin = child.stdin.take().expect("its standard input is a pipe");
    // What it does not want to read is not for it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}
