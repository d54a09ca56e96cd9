//! A fault of a configuration: its place, what is wrong, and how to correct it.

use std::{fmt, path::PathBuf};

/// One fault of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The configuration file.
    pub file: PathBuf,
    /// The line, from 1; 0 for a fault without a line (a missing section, an unreadable file).
    pub line: usize,
    /// The key with its section, `broker.url`; empty for a fault without a key.
    pub key: String,
    /// What is wrong, with the value.
    pub wrong: String,
    /// How to correct it.
    pub right: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.wrong, self.right)
    }
}

impl std::error::Error for ConfigFault {}

/// Why a value is not valid for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub wrong: String,
    pub right: String,
}

impl Wrong {
    pub(super) fn new(wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self { wrong: wrong.into(), right: right.into() }
    }
}

/// The name among `known` that was probably meant, if one is close enough.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let within = (name.chars().count() / 3).max(1);
    known.into_iter().map(|known| (distance(name, known), known)).filter(|(distance, _)| *distance <= within).min().map(|(_, known)| known)
}

/// The edit distance between two names: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        assert_eq!(nearest("modle", ["id", "model", "state_dir"]), Some("model"));
        assert_eq!(nearest("client_crt", ["ca", "client_cert", "client_key"]), Some("client_cert"));
        assert_eq!(nearest("zzz", ["id", "model"]), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("ab", "ba"), 1);
    }
}
