//! Reloads the configuration on SIGHUP, and reconnects with the certificates and authorities that it names.

use std::{path::PathBuf, sync::atomic::Ordering};

use care_engine::Event;

use super::{
    Agent,
    certificates::{broker_tls, certificate_ends, certificate_files, peers},
};
use crate::{
    conditions::Kind,
    config::{Config, ConfigFault},
    tls,
};

/// Nothing is wrong with the file: this process has bound itself to the directories of its first configuration.
#[derive(Debug, thiserror::Error)]
#[error("the agent may not read {} since its start, because no file of its configuration was in that directory then", .0.display())]
struct OutOfReach(PathBuf);

impl Agent {
    /// Reloads configuration, certificates and authorities. If anything is wrong with them, the old ones stay in force.
    pub(super) fn reload(&mut self) {
        self.notifier.reloading();
        match self.try_reload() {
            Ok(()) => {
                self.conditions.clear(Kind::ConfigRejected);
                tracing::info!("configuration read again");
            }
            Err(why) => {
                let advice = if why.is::<OutOfReach>() { "Restart the agent." } else { Kind::ConfigRejected.advice() };
                let sentence = format!("the new configuration cannot be used, the old one is kept: {why:#}");
                self.conditions.raise_advising(Kind::ConfigRejected, sentence, advice);
            }
        }
        self.notifier.ready();
    }

    /// The configuration on disk.
    ///
    /// # Errors
    /// Its faults, or [`OutOfReach`].
    fn read_again(&self) -> anyhow::Result<Config> {
        let text = Config::load(&self.path).map_err(|faults| join(&faults))?;
        if let [file, ..] = &self.confined.out_of_reach(&text, &self.path)[..] {
            return Err(OutOfReach(file.clone()).into());
        }
        Config::load_with_files(&self.path).map_err(|faults| join(&faults))
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let config = self.read_again()?;
        for (name, unchanged) in [
            ("[device]", config.device == self.config.device),
            ("[broker] topic_prefix", config.broker.topic_prefix == self.config.broker.topic_prefix),
            ("[trust]", config.trust == self.config.trust),
            ("[media]", config.media == self.config.media),
            ("[recording]", config.recording == self.config.recording),
            ("[uploader]", config.uploader == self.config.uploader),
            ("[spool]", config.spool == self.config.spool),
            ("[local_mqtt]", config.local_mqtt == self.config.local_mqtt),
            ("[status]", config.status == self.config.status),
            ("[process]", config.process == self.config.process),
        ] {
            if !unchanged {
                tracing::warn!("{name} has changed, which takes effect at the next start");
            }
        }
        self.reconnect(&config)?;
        if config.upload != self.config.upload {
            self.uploads.configure(&config.upload);
            self.config.upload = config.upload.clone();
        }
        // The topic prefix stays as it was at the start.
        self.config.broker.endpoint = config.broker.endpoint;
        self.config.broker.tls = config.broker.tls;
        self.config.broker.alpn = config.broker.alpn;
        self.config.cloud = config.cloud;
        self.config.store = config.store;
        self.config.free = config.free;
        self.handle(Event::Reconfigured { free: config.free });
        Ok(())
    }

    /// Reads the certificates and authorities that `config` names and reconnects with them. Changes nothing if any is bad.
    pub(super) fn reconnect(&mut self, config: &Config) -> anyhow::Result<()> {
        let certificates = tls::FileWatch::new(certificate_files(config));
        let peers = peers(config, &self.clock)?;
        let broker_tls = broker_tls(config, &self.clock)?;
        self.api = peers.api.clone();
        // Failures of the previous API address say nothing about this one.
        self.api_requests.fetch_add(1, Ordering::Relaxed);
        self.conditions.clear(Kind::ApiUnreachable);
        self.uploads.set_peers(peers);
        self.link.reload(config.broker.endpoint.clone(), broker_tls);
        self.certificate_ends = certificate_ends(config);
        self.certificates = certificates;
        self.conditions.clear(Kind::CertificateRejected);
        self.monitor.read_certificates(config);
        self.status.update(|document| document.link.broker = config.broker.endpoint.authority());
        self.request_status_update();
        Ok(())
    }
}

fn join(faults: &[ConfigFault]) -> anyhow::Error {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    anyhow::anyhow!(faults.join("; "))
}
