//! The settings of uploads, and the servers that they may contact.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use care_protocol::DeviceId;

use crate::{
    conditions::Conditions,
    config::{Spool as SpoolLimits, Upload},
    http::Origin,
    tls,
};

/// The settings of uploads.
#[derive(Debug)]
pub struct Settings {
    /// The id of this camera.
    pub device: DeviceId,
    /// `[spool]`
    pub spool: SpoolLimits,
    /// The directory for clips that cannot wait in memory.
    pub spool_dir: PathBuf,
    /// `[upload]`
    pub upload: Upload,
    /// The servers that clips are sent to.
    pub peers: Peers,
    /// Where a vendor's own uploader connects.
    pub uploader: Option<PathBuf>,
    /// The conditions that faults raise.
    pub conditions: Conditions,
}

/// The servers that uploads may contact.
#[derive(Clone)]
pub struct Peers {
    /// `cloud.url`, with its TLS settings and our client certificate.
    pub api: Origin,
    /// `[store]`: the other hosts that a grant may name.
    pub store: Option<Store>,
}

/// Hosts besides the cloud's own.
#[derive(Clone)]
pub struct Store {
    /// Names (lowercase) and ports.
    pub hosts: BTreeSet<(String, u16)>,
    /// The TLS settings for them, without our client certificate.
    pub tls: tls::Client,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.store.as_ref().map(|store| &store.hosts);
        f.debug_struct("Peers").field("api", &self.api).field("store", &hosts).finish()
    }
}
