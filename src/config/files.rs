//! Checks the certificate files that a configuration names: present, readable, well formed, private keys private, and the
//! certificate this device's. A fault is reported at the key that names the file.

use std::path::{Path, PathBuf};

use super::{Config, ConfigFault, TlsFiles};
use crate::tls::{self, TlsError};

/// The purpose of a file.
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
    /// A password on one line; group and others may not read it.
    Password,
    /// A directory the agent writes to.
    WritableDir,
}

/// A file that a configuration names, and the key that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The key that names it, with its section.
    pub key: String,
    /// The line of its value, from 1.
    pub line: usize,
    /// Its purpose.
    pub kind: FileKind,
    /// The file.
    pub path: PathBuf,
}

impl NamedFile {
    /// What is wrong with the file by itself; `config` is the file that names it. Nothing is written: whether a directory can
    /// be written to is for `check-config` to try.
    pub(super) fn fault(&self, config: &Path) -> Option<ConfigFault> {
        let checked = match self.kind {
            FileKind::Authorities => tls::check_ca(&self.path),
            FileKind::Certificate => tls::check_certificate(&self.path),
            FileKind::PrivateKey => tls::check_key(&self.path),
            FileKind::Revocations => tls::check_crl(&self.path),
            FileKind::Password => tls::password(&self.path).map(drop),
            FileKind::WritableDir => Ok(()),
        };
        checked.err().map(|error| self.at(config, split(&error)))
    }

    fn at(&self, config: &Path, (wrong, right): (String, String)) -> ConfigFault {
        ConfigFault { file: config.to_owned(), line: self.line, key: self.key.clone(), wrong, right }
    }
}

/// What is wrong with files that are each good by themselves: a key that does not match, or another device's certificate.
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
        faults.extend(errors.filter_map(|error| Some(certificate?.at(file, split(&error)))));
    }
    faults
}

/// Splits a message into what is wrong and, after its last semicolon or colon, how to correct it.
fn split(error: &TlsError) -> (String, String) {
    let message = error.to_string();
    let parts = message.rsplit_once("; ").or_else(|| message.rsplit_once(": "));
    match parts {
        Some((wrong, right)) => (wrong.to_owned(), right.to_owned()),
        None => (message, "replace it".to_owned()),
    }
}
