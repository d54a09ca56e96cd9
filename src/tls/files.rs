//! Reads certificates, keys and revocation lists, and refuses files that others may change or read.

use std::{
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer},
};
use webpki::OwnedCertRevocationList;

use super::{TlsError, authorities, pem};
use crate::{ownership, redact::Secret, text_file};

pub(super) const CA: &str = "CA file";
pub(super) const CERT: &str = "device certificate";
pub(super) const KEY: &str = "device key";
pub(super) const PASSWORD: &str = "password file";
pub(super) const CRL: &str = "revocation list";
pub(super) const CA_EXPECTED: &str = "the PEM certificates of the authorities to trust";
pub(super) const CERT_EXPECTED: &str = "the device's PEM certificate, followed by its intermediates";
pub(super) const KEY_EXPECTED: &str = "one PEM private key (ECDSA P-256 or P-384, Ed25519 or RSA)";
pub(super) const CRL_EXPECTED: &str = "the PEM revocation lists (X509 CRL) of the authorities";

/// The files that configure one TLS client.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsFiles {
    /// The authorities that the server's certificate must chain to, PEM.
    pub ca: PathBuf,
    /// The device's certificate chain, PEM.
    pub client_cert: PathBuf,
    /// The device's private key, PEM. Group and others may not read it.
    pub client_key: PathBuf,
    /// The authorities' revocation lists, PEM.
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let Self { ca, client_cert, client_key, crl } = self;
        [ca, client_cert, client_key].into_iter().chain(crl).map(PathBuf::as_path)
    }
}

/// The authorities for store hosts.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreCa {
    /// The public roots.
    Webpki,
    /// A PEM file.
    File(PathBuf),
}

pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    authorities::bundle(path).map(|bundle| bundle.roots)
}

/// Reads a certificate chain. Every section of the file must be readable, since a chain with a gap does not verify. A private
/// key may stand beside it.
pub(super) fn certificates(what: &'static str, path: &Path, expected: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path, OTHERS_MAY_WRITE)?;
    let unusable = |reason| TlsError::Unusable { what, path: path.to_owned(), reason, expected };
    let mut found = Vec::new();
    for section in pem::sections(&bytes).map_err(unusable)? {
        let der = section.content.map_err(|reason| unusable(format!("line {}: {reason}", section.line)))?;
        match section.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" => found.push(CertificateDer::from(der)),
            label if is_key(label) || label.ends_with("PARAMETERS") => {}
            label => return Err(unusable(format!("line {}: it holds a {label}", section.line))),
        }
    }
    if found.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    Ok(found)
}

pub(super) fn is_key(label: &str) -> bool {
    label.ends_with("PRIVATE KEY")
}

pub(super) fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(CRL, path, OTHERS_MAY_WRITE)?;
    let mut found = Vec::new();
    for section in pem::sections(&bytes).map_err(|reason| unusable_crl(path, reason))? {
        let at = |reason: String| unusable_crl(path, format!("line {}: {reason}", section.line));
        let der = section.content.as_ref().map_err(|reason| at(reason.clone()))?;
        if section.label != "X509 CRL" {
            return Err(at(format!("it holds a {}", section.label)));
        }
        // As rustls will.
        OwnedCertRevocationList::from_der(der).map_err(|error| at(format!("it cannot be used: {error}")))?;
        found.push(CertificateRevocationListDer::from(der.clone()));
    }
    if found.is_empty() {
        return Err(unusable_crl(path, "it holds no revocation list".into()));
    }
    Ok(found)
}

pub(super) fn unusable_crl(path: &Path, reason: String) -> TlsError {
    TlsError::Unusable { what: CRL, path: path.to_owned(), reason, expected: CRL_EXPECTED }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(KEY, path, OTHERS_MAY_ANYTHING)?;
    let unusable = |reason| TlsError::Unusable { what: KEY, path: path.to_owned(), reason, expected: KEY_EXPECTED };
    let mut keys = Vec::new();
    for section in pem::sections(&bytes).map_err(unusable)? {
        let at = |reason: String| unusable(format!("line {}: {reason}", section.line));
        let der = section.content.map_err(at)?;
        match section.label.as_str() {
            "PRIVATE KEY" => keys.push(PrivateKeyDer::Pkcs8(der.into())),
            "RSA PRIVATE KEY" => keys.push(PrivateKeyDer::Pkcs1(der.into())),
            "EC PRIVATE KEY" => keys.push(PrivateKeyDer::Sec1(der.into())),
            // Some tools write the curve before the key, and the certificate chain after it.
            label if label.ends_with("PARAMETERS") || label == "CERTIFICATE" => {}
            "ENCRYPTED PRIVATE KEY" => return Err(at(pem::ENCRYPTED.to_owned())),
            label => return Err(at(format!("it holds a {label}, which cannot be used"))),
        }
    }
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err(unusable("it holds more than one private key".into())),
        (None, _) => Err(unusable("it holds no private key (an encrypted one does not count)".into())),
    }
}

/// The password in this file, without the line break at its end. Group and others may not read it.
///
/// # Errors
/// It is missing, unreadable, loose, or no password.
pub fn password(path: &Path) -> Result<Secret, TlsError> {
    const LONGEST: usize = 1024;
    let unusable = |reason: &str| TlsError::Unusable {
        what: PASSWORD,
        path: path.to_owned(),
        reason: reason.to_owned(),
        expected: "the password, on one line",
    };
    let bytes = read(PASSWORD, path, OTHERS_MAY_ANYTHING)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("it is not UTF-8"))?;
    match text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line)) {
        "" => Err(unusable("it is empty")),
        long if long.len() > LONGEST => Err(unusable("it is too long")),
        lines if lines.contains(['\n', '\r', '\0']) => Err(unusable("it has more than one line")),
        password => Ok(password.into()),
    }
}

/// Mode bits that a private key must not have, and those that other files must not have.
pub(super) const OTHERS_MAY_ANYTHING: u32 = 0o077;
pub(super) const OTHERS_MAY_WRITE: u32 = 0o022;

/// Reads a file of at most 1 MiB whose mode has none of the `forbidden` bits. The mode is that of the open file, so that the
/// file cannot be replaced between check and use.
pub(super) fn read(what: &'static str, path: &Path, forbidden: u32) -> Result<Vec<u8>, TlsError> {
    const MOST: u64 = 1 << 20;
    let unreadable = |source| TlsError::Unreadable { what, path: path.to_owned(), source };
    let file = text_file::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    // It is read again at every reload.
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("it is a pipe or a device, not a file")));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    // The device's own certificate does not decide what the device trusts.
    if let Some((wrong, right)) = ownership::fault(path, &metadata).filter(|_| forbidden == OTHERS_MAY_WRITE && what != CERT) {
        return Err(TlsError::Unsafe { what, wrong, right });
    }
    if mode & forbidden != 0 {
        return Err(TlsError::Loose { what, path: path.to_owned(), mode, right: mode & !forbidden & 0o666 });
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MOST {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::{
        clock::Clock,
        tls::{
            device_client,
            tests::{Pki, T},
        },
    };

    #[test]
    fn missing_unreadable_and_loose_files_are_named_with_the_remedy() {
        let pki = Pki::new();
        let clock = Clock::at(Duration::from_secs(T as u64), true);
        let refused = |files: &TlsFiles| device_client(files, &clock).unwrap_err().to_string();
        let files = pki.files();

        pki.write("device.key", &pki.leaf("x").1, 0o640);
        let message = refused(&files);
        assert!(message.contains("device.key has mode 0640") && message.contains("chmod 600"), "{message}");

        pki.write("device.key", &pki.leaf("x").1, 0o600);
        pki.write("ca.pem", &pki.authority.pem(), 0o664);
        let message = refused(&files);
        assert!(message.contains("ca.pem has mode 0664") && message.contains("chmod 644"), "{message}");
        assert!(message.contains("the CA file"), "{message}");
        pki.write("ca.pem", &pki.authority.pem(), 0o644);

        let missing = |name: &str| pki.dir.path().join(name);
        for files in [
            TlsFiles { ca: missing("no-ca.pem"), ..files.clone() },
            TlsFiles { client_cert: missing("no-cert.pem"), ..files.clone() },
            TlsFiles { client_key: missing("no.key"), ..files.clone() },
            TlsFiles { crl: Some(missing("no-crl.pem")), ..files.clone() },
        ] {
            let message = refused(&files);
            assert!(message.contains("no") && message.contains("install the file or correct its path"), "{message}");
        }
        let directory = TlsFiles { ca: pki.dir.path().to_owned(), ..files.clone() };
        assert!(refused(&directory).contains("directory"));
        let pipe = missing("pipe");
        let permissions = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, permissions, 0).unwrap();
        for ca in [pipe, "/dev/null".into()] {
            let message = refused(&TlsFiles { ca, ..files.clone() });
            assert!(message.contains("pipe or a device, not a file"), "{message}");
        }
    }

    #[test]
    fn empty_and_foreign_contents_are_told_apart() {
        let pki = Pki::new();
        let clock = Clock::at(Duration::from_secs(T as u64), true);
        let refused = || device_client(&pki.files(), &clock).unwrap_err();
        let whole = fs::read_to_string(pki.files().ca).unwrap();

        pki.write("ca.pem", "", 0o644);
        assert!(refused().to_string().contains("it holds no certificate"));
        pki.write("ca.pem", &whole.replace("-----END", "----END"), 0o644);
        assert!(matches!(refused(), TlsError::Unusable { what: CA, .. }));
        pki.write("ca.pem", &whole, 0o644);

        pki.write("device.key", &pki.leaf("8006E5A1F0C2").1, 0o600);
        assert!(matches!(refused(), TlsError::Mismatch { .. }));
        pki.write("device.key", &whole, 0o600);
        assert!(refused().to_string().contains("holds no private key"));
    }

    #[test]
    fn a_password_is_one_line_that_others_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let read = |text: &[u8], mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            password(&path).map(|password| password.expose().to_owned()).map_err(|error| error.to_string())
        };
        for text in [&b"hunter2"[..], b"hunter2\n", b"hunter2\r\n"] {
            assert_eq!(read(text, 0o600).unwrap(), "hunter2");
        }
        assert_eq!(read(b" a b \n", 0o400).unwrap(), " a b ");
        for text in [&b""[..], b"\n", b"hunter2\nhunter2\n", b"\xff", &[b'x'; 1025]] {
            let message = read(text, 0o600).unwrap_err();
            assert!(message.contains("the password, on one line") && !message.contains("hunter2"), "{message}");
        }
        assert!(read(b"hunter2", 0o640).unwrap_err().contains("chmod 600"));
        assert!(format!("{:?}", password(&path).map_err(drop)).find("hunter2").is_none());
    }
}
