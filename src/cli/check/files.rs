//! Checks the directories of a configuration: that the state directory can be written to, and that others cannot replace the
//! configuration or a CA file. The contents of the files are checked when the configuration is read.

use std::{collections::BTreeSet, fs, iter, path::Path};

use super::findings::Findings;
use crate::{
    config::{FileKind, NamedFile},
    ownership, tls,
};

/// Runs all checks of this module.
pub(super) fn check(findings: &mut Findings) {
    state_directory(findings);
    trust_directories(findings);
    skipped_authorities(findings);
}

/// Writes a file to the state directory and removes it: permissions alone do not tell of a read-only mount or a full disk.
fn state_directory(findings: &mut Findings) {
    for NamedFile { key, path, .. } in named(findings, FileKind::WritableDir) {
        let probe = path.join(format!(".check-config.{}", std::process::id()));
        if let Err(error) = fs::write(&probe, b"check").and_then(|()| fs::remove_file(&probe)) {
            let path = path.display();
            let right = format!("run: install -d -o kasa-care-agent -g kasa-care-agent -m 0700 {path}");
            findings.fault(&key, format!("{path} cannot be written to: {error}"), right);
        }
    }
}

/// Warns of directories in which others could replace the configuration or a CA file.
fn trust_directories(findings: &mut Findings) {
    let authorities = named(findings, FileKind::Authorities).into_iter().map(|file| (file.key, file.path));
    let files = iter::once((String::new(), findings.parsed.path.clone())).chain(authorities);
    let mut directories = BTreeSet::new();
    for (key, file) in files.collect::<Vec<_>>() {
        if directories.insert(file.parent().map(Path::to_owned))
            && let Some((wrong, right)) = ownership::directory_fault(&file)
        {
            findings.warn(&key, wrong, right);
        }
    }
}

/// Warns of certificates in a CA file that the agent has to skip.
fn skipped_authorities(findings: &mut Findings) {
    for file in named(findings, FileKind::Authorities) {
        // A file that cannot be read at all is already a fault.
        for skipped in tls::skipped(&file.path).unwrap_or_default() {
            let wrong = format!("{} is read without its {skipped}", file.path.display());
            findings.warn(&file.key, wrong, "remove that part from the file, or replace it");
        }
    }
}

fn named(findings: &Findings, kind: FileKind) -> Vec<NamedFile> {
    findings.parsed.files.iter().filter(|file| file.kind == kind).cloned().collect()
}
