//! Collects what `check-config` finds: faults, which make it fail, and warnings, which do not. Each check adds to it.

use std::path::Path;

use crate::config::{ConfigFault, Parsed};

/// A parsed configuration, and what was found wrong with it so far.
pub(super) struct Findings {
    /// The configuration as far as it can be understood. Its faults were moved to [`Findings::faults`].
    pub(super) parsed: Parsed,
    /// What does not work.
    pub(super) faults: Vec<ConfigFault>,
    /// What works, but needs attention.
    pub(super) warnings: Vec<ConfigFault>,
}

impl Findings {
    /// Reads the configuration at `path` and the files it names.
    pub(super) fn read(path: &Path) -> Self {
        let mut parsed = Parsed::read_with_files(path);
        let faults = std::mem::take(&mut parsed.faults);
        Self { parsed, faults, warnings: Vec::new() }
    }

    /// Records that what `key` describes does not work.
    pub(super) fn fault(&mut self, key: &str, wrong: impl AsRef<str>, right: impl AsRef<str>) {
        self.faults.push(self.parsed.fault_at(key, wrong.as_ref(), right.as_ref()));
    }

    /// Records that what `key` describes works, but needs attention.
    pub(super) fn warn(&mut self, key: &str, wrong: impl AsRef<str>, right: impl AsRef<str>) {
        let wrong = format!("warning: {}", wrong.as_ref());
        self.warnings.push(self.parsed.fault_at(key, &wrong, right.as_ref()));
    }
}
