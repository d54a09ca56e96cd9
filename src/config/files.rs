//! The files that a configuration names: there, readable, of the right form, private keys private, certificates this
//! device's. Each fault is laid at the key that names the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Config, ConfigFault, TlsFiles};
use crate::tls::{self, TlsError};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// PEM certificates that servers must chain to.
    Authorities,
    /// The device's certificate chain, PEM.
    Certificate,
    /// The device's private key, PEM; group and others may not read it.
    PrivateKey,
    /// PEM revocation lists of those authorities.
    Revocations,
    /// A directory the agent writes to.
    WritableDir,
}

/// A file that a configuration names, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The key that names it, with its section.
    pub key: String,
    /// The line of its value, from 1.
    pub line: usize,
    /// What it is for.
    pub kind: FileKind,
    /// The file.
    pub path: PathBuf,
}

impl NamedFile {
    /// What is wrong with it by itself, if anything; `config` is the file that names it.
    pub(super) fn fault(&self, config: &Path) -> Option<ConfigFault> {
        let checked = match self.kind {
            FileKind::Authorities => tls::check_ca(&self.path).map_err(|error| in_two(&error)),
            FileKind::Certificate => tls::check_certificate(&self.path).map_err(|error| in_two(&error)),
            FileKind::PrivateKey => tls::check_key(&self.path).map_err(|error| in_two(&error)),
            FileKind::Revocations => tls::check_crl(&self.path).map_err(|error| in_two(&error)),
            FileKind::WritableDir => writable_dir(&self.path),
        };
        checked.err().map(|wrong| self.at(config, wrong))
    }

    fn at(&self, config: &Path, (wrong, right): (String, String)) -> ConfigFault {
        ConfigFault { file: config.to_owned(), line: self.line, key: self.key.clone(), wrong, right }
    }
}

/// What is wrong with files that are good by themselves: certificate and key of two pairs, or of another device.
pub(super) fn pair_faults(config: &Config, named: &[NamedFile], file: &Path) -> Vec<ConfigFault> {
    let mut seen: Vec<&TlsFiles> = Vec::new();
    let mut faults = Vec::new();
    for files in config.broker.tls.iter().chain(&config.cloud.tls) {
        if seen.contains(&files) {
            continue;
        }
        seen.push(files);
        let certificate = named.iter().find(|named| named.kind == FileKind::Certificate && named.path == files.client_cert);
        let errors = tls::check_files(files).into_iter().chain(tls::check_device(files, &config.device.id).err());
        faults.extend(errors.filter_map(|error| Some(certificate?.at(file, in_two(&error)))));
    }
    faults
}

/// These errors say what is wrong and, after the last semicolon or colon, what to do about it.
fn in_two(error: &TlsError) -> (String, String) {
    let message = error.to_string();
    let parts = message.rsplit_once("; ").or_else(|| message.rsplit_once(": "));
    match parts {
        Some((wrong, right)) => (wrong.to_owned(), right.to_owned()),
        None => (message, "replace it".to_owned()),
    }
}

/// Writes a file and removes it: permissions alone do not tell of a read-only mount or a full disk.
fn writable_dir(path: &Path) -> Result<(), (String, String)> {
    let wrong = |error| format!("{} cannot be written to: {error}", path.display());
    let right = || format!("run: install -d -o kasa-care-agent -g kasa-care-agent -m 0700 {}", path.display());
    let probe = path.join(format!(".check-config.{}", std::process::id()));
    fs::write(&probe, b"check").and_then(|()| fs::remove_file(&probe)).map_err(|error| (wrong(error), right()))
}
