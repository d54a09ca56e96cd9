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

/// How often the certificate files are looked at; what is found must be there at two looks in a row.
const FILES_EVERY: Duration = Duration::from_secs(5);

impl Agent {
    /// Takes over certificates, authorities and revocation lists that were exchanged on disk (scenario 79).
    pub(super) fn look_at_certificates(&mut self) {
        if self.certificates_seen.elapsed() >= FILES_EVERY {
            self.certificates_seen = Instant::now();
            if self.certificates.has_changed() {
                let config = self.config.clone();
                match check_device(&config).and_then(|()| self.connect_anew(&config)) {
                    Ok(()) => tracing::info!("certificates have changed on disk and were read again"),
                    Err(why) => {
                        let sentence = format!("the certificates on disk have changed and are bad, the old ones are kept: {why:#}");
                        self.conditions.raise(Kind::CertificateRejected, sentence);
                    }
                }
            }
        }
    }
}

/// The first to end of the certificates that this device shows.
pub(super) fn certificate_ends(config: &Config) -> Option<Duration> {
    let files = config.broker.tls.iter().chain(&config.cloud.tls);
    // They were read a moment ago, or the agent would not be here.
    files.filter_map(|files| tls::expires(&files.client_cert).ok()).min()
}

/// Whether the device's certificates are this device's.
pub(super) fn check_device(config: &Config) -> anyhow::Result<()> {
    let mut files = config.broker.tls.iter().chain(&config.cloud.tls);
    Ok(files.try_for_each(|files| tls::check_device(files, &config.device.id))?)
}

/// Every file that TLS is made from.
pub(super) fn certificate_files(config: &Config) -> impl Iterator<Item = &Path> {
    let ours = config.broker.tls.iter().chain(&config.cloud.tls).flat_map(tls::TlsFiles::paths);
    ours.chain(config.store.iter().flat_map(ClipStore::paths))
}

pub(super) fn broker_tls(config: &Config, clock: &Clock) -> anyhow::Result<Option<tls::Client>> {
    let client = config.broker.tls.as_ref().map(|files| tls::device_client(files, clock)).transpose()?;
    Ok(client.map(|client| client.offering(config.broker.alpn.as_deref())))
}

pub(super) fn peers(config: &Config, clock: &Clock) -> anyhow::Result<upload::Peers> {
    let api_tls = config.cloud.tls.as_ref().map(|files| tls::device_client(files, clock)).transpose()?;
    let store = config.store.as_ref().map(|store| {
        let tls = tls::store_client(&store.ca, store.crl.as_deref(), clock)?;
        anyhow::Ok(upload::Store { hosts: store.hosts.clone(), tls })
    });
    Ok(upload::Peers { api: Origin { endpoint: config.cloud.endpoint.clone(), tls: api_tls }, store: store.transpose()? })
}
