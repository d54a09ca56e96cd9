//! The certificates, authorities and revocation lists that the configuration names: makes TLS from them, and reloads them
//! when they have changed on disk.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::Agent;
use crate::{
    clock::Clock,
    conditions::Kind,
    config::{ClipStore, Config},
    http::Origin,
    tls, upload,
};

/// How often the certificate files are checked. A change must be the same in two checks in a row, so that a certificate and
/// its key are reloaded together within ten seconds.
const FILES_EVERY: Duration = Duration::from_secs(5);

impl Agent {
    /// Reloads certificates, authorities and revocation lists that were replaced on disk. Bad files raise a condition, and the
    /// old ones stay in use.
    pub(super) fn reload_changed_certificates(&mut self) {
        if self.certificates_checked_at.elapsed() < FILES_EVERY {
            return;
        }
        self.certificates_checked_at = Instant::now();
        if !self.certificates.has_changed() {
            return;
        }
        let config = self.config.clone();
        match check_device(&config).and_then(|()| self.reconnect(&config)) {
            Ok(()) => tracing::info!("certificates have changed on disk and were read again"),
            Err(why) => {
                let sentence = format!("the certificates on disk have changed and are bad, the old ones are kept: {why:#}");
                self.conditions.raise(Kind::CertificateRejected, sentence);
            }
        }
    }
}

/// When the first of this device's own certificates expires, since 1970.
pub(super) fn certificate_ends(config: &Config) -> Option<Duration> {
    let files = config.broker.tls.iter().chain(&config.cloud.tls);
    // TLS was just set up from these files, so they can be read.
    files.filter_map(|files| tls::expires(&files.client_cert).ok()).min()
}

/// Checks that the certificates name this device.
pub(super) fn check_device(config: &Config) -> anyhow::Result<()> {
    let mut files = config.broker.tls.iter().chain(&config.cloud.tls);
    Ok(files.try_for_each(|files| tls::check_device(files, &config.device.id))?)
}

/// Every file that TLS is configured from.
pub(super) fn certificate_files(config: &Config) -> impl Iterator<Item = &Path> {
    let ours = config.broker.tls.iter().chain(&config.cloud.tls).flat_map(tls::TlsFiles::paths);
    ours.chain(config.store.iter().flat_map(ClipStore::paths))
}

/// TLS towards the broker; `None` for plaintext.
pub(super) fn broker_tls(config: &Config, clock: &Clock) -> anyhow::Result<Option<tls::Client>> {
    let client = config.broker.tls.as_ref().map(|files| tls::device_client(files, clock)).transpose()?;
    Ok(client.map(|client| client.offering(config.broker.alpn.as_deref())))
}

/// The API and the store hosts, with TLS for each.
pub(super) fn peers(config: &Config, clock: &Clock) -> anyhow::Result<upload::Peers> {
    let api_tls = config.cloud.tls.as_ref().map(|files| tls::device_client(files, clock)).transpose()?;
    let store = config.store.as_ref().map(|store| {
        let tls = tls::store_client(&store.ca, store.crl.as_deref(), clock)?;
        anyhow::Ok(upload::Store { hosts: store.hosts.clone(), tls })
    });
    Ok(upload::Peers { api: Origin { endpoint: config.cloud.endpoint.clone(), tls: api_tls }, store: store.transpose()? })
}
