//! The data directory: certificates, keys, the database, the broker's files, the clips. Only its owner can read it
//! (0700, keys 0600), because the CA's key can impersonate any camera.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a file in the data directory could not be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or directory could not be made, read or written.
    #[error("{doing} {path}: {source}")]
    Io {
        /// The attempted operation.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file's content is not as expected.
    #[error("{path} is not what care-cloud wrote ({why}): restore it, or start with another --data directory")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
    },
}

/// The data directory. It is created if it does not exist.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

/// The addresses of the running, or last, care-cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// `https://…`: the API (`docs/protocol.md#https`) and the embedded store.
    pub api: String,
    /// `mqtts://…`, for cameras.
    pub broker: String,
    /// The broker's separate listener for the cloud, if there is one.
    #[serde(default)]
    pub broker_cloud: Option<String>,
    /// `http://…`, on loopback.
    pub portal: String,
    /// `http://…`, on loopback: the metrics, if there is a listener for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// The topics' prefix.
    pub prefix: String,
    /// Where clips go, if not to the API's own origin.
    #[serde(default)]
    pub store: Option<StoreEndpoint>,
}

/// An external clip store, as cameras are configured for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreEndpoint {
    /// `host` or `host:port`.
    pub host: String,
    /// The authority of its certificate; `None`: a public one.
    pub ca: Option<PathBuf>,
}

impl DataDir {
    /// Opens or makes the directory (0700).
    pub fn open(root: &Path) -> Result<Self, DataError> {
        let data = Self { root: root.to_owned() };
        make_private_dir(root)?;
        for part in ["pki", "keys", "broker", "store"] {
            make_private_dir(&root.join(part))?;
        }
        Ok(data)
    }

    /// A path below it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Where the last care-cloud on this directory could be reached, if one ever ran.
    pub fn endpoints(&self) -> Result<Option<Endpoints>, DataError> {
        let path = self.path("endpoints.json");
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| DataError::Damaged { path, why: e.to_string() })
    }

    /// The secret by which the command line and the demo authenticate at the portal. Created if it does not exist.
    pub fn operator(&self) -> Result<String, DataError> {
        let path = self.path("keys/operator.secret");
        if let Some(secret) = read_if_there(&path)? {
            return String::from_utf8(secret).map_err(|e| DataError::Damaged { path, why: e.to_string() });
        }
        let secret = new_secret();
        write_private(&path, secret.as_bytes())?;
        Ok(secret)
    }

    /// The secret part of this cloud's MQTT client ids. Created if it does not exist.
    pub fn client_secret(&self) -> Result<String, DataError> {
        let path = self.path("keys/client.secret");
        if let Some(secret) = read_if_there(&path)? {
            return String::from_utf8(secret).map_err(|e| DataError::Damaged { path, why: e.to_string() });
        }
        let secret = new_secret()[..16].to_owned();
        write_private(&path, secret.as_bytes())?;
        Ok(secret)
    }

    /// Writes the addresses of this care-cloud, for the command line and for `camera add`.
    pub fn set_endpoints(&self, endpoints: &Endpoints) -> Result<(), DataError> {
        write_private(&self.path("endpoints.json"), &serde_json::to_vec_pretty(endpoints).expect("plain data"))
    }
}

/// 64 random hex digits.
pub fn new_secret() -> String {
    uuid::Uuid::new_v4().simple().to_string() + &uuid::Uuid::new_v4().simple().to_string()
}

/// Makes a directory that only its owner may enter.
pub fn make_private_dir(path: &Path) -> Result<(), DataError> {
    let failed = |source| DataError::Io { doing: "making the directory", path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), DataError> {
    write_with_mode(path, content, 0o600)
}

/// Writes a file that everyone may read (a certificate), whole or not at all.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), DataError> {
    write_with_mode(path, content, 0o644)
}

fn write_with_mode(path: &Path, content: &[u8], mode: u32) -> Result<(), DataError> {
    let failed = |source| DataError::Io { doing: "writing", path: path.to_owned(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial).map_err(failed)?;
    // `mode` only counts for a new file, and under the umask.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}

/// A file's content; `None` if it does not exist.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Io { doing: "reading", path: path.to_owned(), source }),
    }
}
