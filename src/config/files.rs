//! The files that a configuration names: there, readable, of the right form, and private keys private.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::ConfigFault;

/// The largest PEM file that is read: a bundle of every public root is 250 KiB.
const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// PEM certificates that servers must chain to.
    Authorities,
    /// The device's certificate chain, PEM.
    Certificate,
    /// The device's private key, PEM; group and others may not read it.
    PrivateKey,
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
    /// What is wrong with it, if anything; `config` is the file that names it.
    pub fn fault(&self, config: &Path) -> Option<ConfigFault> {
        let (wrong, right) = match self.kind {
            FileKind::Authorities | FileKind::Certificate => certificates(&self.path),
            FileKind::PrivateKey => private_key(&self.path),
            FileKind::WritableDir => writable_dir(&self.path),
        }
        .err()?;
        let wrong = format!("{} {wrong}", self.path.display());
        Some(ConfigFault { file: config.to_owned(), line: self.line, key: self.key.clone(), wrong, right })
    }
}

type Checked = Result<(), (String, String)>;

fn certificates(path: &Path) -> Checked {
    let right = "put PEM certificates there (-----BEGIN CERTIFICATE-----)";
    let pem = contents(path, right)?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|error| (format!("is not good PEM: {error}"), right.to_owned()))?;
        count += 1;
    }
    if count == 0 { Err(("holds no certificate".to_owned(), right.to_owned())) } else { Ok(()) }
}

fn private_key(path: &Path) -> Checked {
    let right = "put the device's private key there (PEM, PKCS#8), mode 0600";
    let pem = contents(path, right)?;
    let mode = fs::metadata(path).map_err(|error| (format!("cannot be examined: {error}"), right.to_owned()))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err((format!("may be read by others than its owner (mode {mode:04o})"), format!("run: chmod 600 {}", path.display())));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| ("holds no private key".to_owned(), right.to_owned()))?;
    Ok(())
}

fn contents(path: &Path, right: &str) -> Result<Vec<u8>, (String, String)> {
    let wrong = |error: std::io::Error| (format!("cannot be read: {error}"), right.to_owned());
    let mut contents = Vec::new();
    File::open(path).map_err(wrong)?.take(MAX_PEM_BYTES).read_to_end(&mut contents).map_err(wrong)?;
    Ok(contents)
}

/// Writes a file and removes it: permissions alone do not tell of a read-only mount or a full disk.
fn writable_dir(path: &Path) -> Checked {
    let right = format!("create it for the agent's user: install -d -o kasa-care-agent -m 0700 {}", path.display());
    let probe = path.join(format!(".check-config.{}", std::process::id()));
    fs::write(&probe, b"check").map_err(|error| (format!("cannot be written to: {error}"), right.clone()))?;
    fs::remove_file(&probe).map_err(|error| (format!("keeps {}: {error}", probe.display()), right))
}
