//! Walks a TOML document with its spans and collects every fault. A section may have exactly the keys that `read` asks for;
//! any other key is a fault.

use std::{
    cell::RefCell,
    collections::HashMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    fault::{ConfigFault, Wrong, nearest},
    keys,
};
use crate::redact;

/// The file being read and the faults found so far.
pub(super) struct Findings<'t> {
    file: &'t Path,
    text: &'t str,
    faults: RefCell<Vec<ConfigFault>>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        Self { file, text, faults: RefCell::default() }
    }

    /// The line (from 1) of a byte offset; no offset is line 0.
    pub(super) fn line(&self, at: Option<usize>) -> usize {
        at.map_or(0, |at| 1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count())
    }

    pub(super) fn add(&self, at: Option<usize>, key: impl Into<String>, wrong: Wrong) {
        let Wrong { wrong, right } = wrong;
        // A misplaced value may be a URL with a password.
        let (wrong, key) = (redact::text(&wrong), redact::text(&key.into()));
        self.faults.borrow_mut().push(ConfigFault { file: self.file.to_owned(), line: self.line(at), key, wrong, right });
    }

    /// All faults, in the order of the file; those without a line last.
    pub(super) fn into_faults(self) -> Vec<ConfigFault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| if fault.line == 0 { usize::MAX } else { fault.line });
        faults
    }
}

/// The line of each key of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lines(HashMap<String, usize>);

impl Lines {
    pub(super) fn read(document: &DeTable<'_>, findings: &Findings<'_>) -> Self {
        let mut lines = HashMap::new();
        for (section, value) in document {
            lines.insert(section.get_ref().to_string(), findings.line(Some(section.span().start)));
            for (key, value) in value.get_ref().as_table().into_iter().flatten() {
                lines.insert(format!("{}.{}", section.get_ref(), key.get_ref()), findings.line(Some(value.span().start)));
            }
        }
        Self(lines)
    }

    /// The line of a key that the file gives.
    pub(super) fn given(&self, key: &str) -> Option<usize> {
        self.0.get(key).copied()
    }

    /// The line of a key, or of its section where the key is absent, or 0 where both are.
    pub(super) fn of(&self, key: &str) -> usize {
        let section = key.split('.').next().unwrap_or_default();
        self.0.get(key).or_else(|| self.0.get(section)).copied().unwrap_or(0)
    }
}

/// A value and its byte offset.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed<T> {
    pub value: T,
    pub at: usize,
}

/// One table of the file.
pub(super) struct Section<'a, 't, 'i> {
    findings: &'a Findings<'t>,
    name: &'a str,
    table: &'a DeTable<'i>,
    /// Where the section begins; `None` for the root.
    at: Option<usize>,
    asked: RefCell<Vec<&'static str>>,
    /// The document has syntax errors, so a missing key may be in a part that could not be parsed.
    broken: bool,
}

/// The value of a key, before it is understood.
pub(super) type Value<'i> = DeValue<'i>;

impl<'a, 't, 'i> Section<'a, 't, 'i> {
    pub(super) fn root(findings: &'a Findings<'t>, table: &'a DeTable<'i>, broken: bool) -> Self {
        Self { findings, name: "", table, at: None, asked: RefCell::default(), broken }
    }

    /// An optional section.
    pub(super) fn section(&self, name: &'static str) -> Option<Section<'a, 't, 'i>> {
        self.asked.borrow_mut().push(name);
        let (key, value) = self.table.get_key_value(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section {
                findings: self.findings,
                name,
                table,
                at: Some(key.span().start),
                asked: RefCell::default(),
                broken: self.broken,
            }),
            other => {
                let wrong = Wrong::new(format!("is a {}", other.type_str()), format!("write it as a section, [{name}]"));
                self.findings.add(Some(key.span().start), name, wrong);
                None
            }
        }
    }

    /// A required section; `holds` says what belongs in it.
    pub(super) fn required_section(&self, name: &'static str, holds: &str) -> Option<Section<'a, 't, 'i>> {
        let section = self.section(name);
        if section.is_none() && !self.table.contains_key(name) {
            self.missing(name, format!("add [{name}] with {holds}"));
        }
        section
    }

    /// An optional key. `None` also where it has a fault, which is recorded.
    pub(super) fn optional<T>(&self, key: &'static str, read: impl FnOnce(&'a Value<'i>) -> Result<T, Wrong>) -> Option<Placed<T>> {
        self.asked.borrow_mut().push(key);
        let value: &'a Spanned<DeValue<'i>> = self.table.get(key)?;
        let at = value.span().start;
        match read(value.get_ref()) {
            Ok(value) => Some(Placed { value, at }),
            Err(wrong) => {
                self.findings.add(Some(at), self.key(key), wrong);
                None
            }
        }
    }

    /// A required key; `right` says what to write where it is missing.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        right: &str,
        read: impl FnOnce(&'a Value<'i>) -> Result<T, Wrong>,
    ) -> Option<Placed<T>> {
        let value = self.optional(key, read);
        if value.is_none() && !self.table.contains_key(key) {
            self.missing(key, right.to_owned());
        }
        value
    }

    /// A key with a default. `None` only where it has a fault.
    pub(super) fn or<T>(&self, key: &'static str, default: T, read: impl FnOnce(&'a Value<'i>) -> Result<T, Wrong>) -> Option<T> {
        let value = self.optional(key, read);
        if self.has(key) { value.map(|placed| placed.value) } else { Some(default) }
    }

    /// A number with the default and range of the table. `None` only where it has a fault.
    pub(super) fn number(&self, key: &'static str) -> Option<u64> {
        self.or(key, keys::number(self.name, key), integer(self.range(key)))
    }

    /// True or false, by default as in the table. `None` only where it has a fault.
    pub(super) fn truth(&self, key: &'static str) -> Option<bool> {
        self.or(key, keys::truth(self.name, key), boolean)
    }

    /// A key's range in the table.
    pub(super) fn range(&self, key: &str) -> RangeInclusive<u64> {
        keys::range(self.name, key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Records a fault of this section's key at `at`.
    pub(super) fn wrong(&self, key: &str, at: usize, wrong: Wrong) {
        self.findings.add(Some(at), self.key(key), wrong);
    }

    /// Records that a key which another one requires is missing.
    pub(super) fn missing(&self, key: &str, right: String) {
        if !self.broken {
            self.findings.add(self.at, self.key(key), Wrong::new("is missing", right));
        }
    }

    /// Records every key that `read` did not ask for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table {
            if asked.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let what = if self.name.is_empty() { "section" } else { "key" };
            let right = match nearest(key.get_ref(), asked.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("remove it; known here: {}", asked.join(", ")),
            };
            self.findings.add(Some(key.span().start), self.key(key.get_ref()), Wrong::new(format!("is not a known {what}"), right));
        }
    }

    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// A string.
pub(super) fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| Wrong::new(format!("is a {}", value.type_str()), "write a string in quotes"))
}

/// A string that is not empty.
pub(super) fn some_text(value: &Value<'_>) -> Result<String, Wrong> {
    match text(value)?.trim() {
        "" => Err(Wrong::new("is empty", "write a name")),
        name => Ok(name.to_owned()),
    }
}

/// A path. Relative paths are resolved against the working directory of the agent.
pub(super) fn path(value: &Value<'_>) -> Result<PathBuf, Wrong> {
    match text(value)? {
        "" => Err(Wrong::new("is empty", "write a path")),
        path => Ok(path.into()),
    }
}

/// True or false.
pub(super) fn boolean(value: &Value<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| Wrong::new(format!("is a {}", value.type_str()), "write true or false, without quotes"))
}

/// A whole number in a range.
pub(super) fn integer(range: RangeInclusive<u64>) -> impl FnOnce(&Value<'_>) -> Result<u64, Wrong> {
    move |value| {
        let right = || format!("write a whole number from {} to {}", range.start(), range.end());
        let number = value.as_integer().ok_or_else(|| Wrong::new(format!("is a {}", value.type_str()), right()))?;
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
        parsed.filter(|number| range.contains(number)).ok_or_else(|| Wrong::new(format!("is {number}"), right()))
    }
}
