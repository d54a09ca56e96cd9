//! Reads the configuration again, and connects anew with what it names.

use std::sync::atomic::Ordering;

use super::{
    Agent,
    certificates::{broker_tls, certificate_ends, certificate_files, peers},
};
use care_engine::Event;

use crate::{conditions::Kind, config::Config, tls};

impl Agent {
    /// SIGHUP: reads configuration, certificates and authorities again, and keeps the last good ones if they are bad.
    pub(super) fn reload(&mut self) {
        self.notifier.reloading();
        match self.reloaded() {
            Ok(()) => {
                self.conditions.clear(Kind::ConfigRejected);
                tracing::info!("configuration read again");
            }
            Err(why) => self.conditions.raise(Kind::ConfigRejected, format!("the new configuration is bad, the old one is kept: {why:#}")),
        }
        self.notifier.ready();
    }

    pub(super) fn reloaded(&mut self) -> anyhow::Result<()> {
        let config = Config::load_with_files(&self.path).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(faults.join("; "))
        })?;
        for (name, fixed) in [
            ("[device]", config.device == self.config.device),
            ("[broker] topic_prefix", config.broker.topic_prefix == self.config.broker.topic_prefix),
            ("[trust]", config.trust == self.config.trust),
            ("[media]", config.media == self.config.media),
            ("[recording]", config.recording == self.config.recording),
            ("[uploader]", config.uploader == self.config.uploader),
            ("[spool]", config.spool == self.config.spool),
            ("[status]", config.status == self.config.status),
        ] {
            if !fixed {
                tracing::warn!("{name} has changed, which takes effect at the next start");
            }
        }
        self.connect_anew(&config)?;
        if config.upload != self.config.upload {
            self.uploads.set_uplink(config.upload.uplink_kbps);
            self.config.upload = config.upload.clone();
        }
        // The topics stay those of the start.
        self.config.broker.endpoint = config.broker.endpoint;
        self.config.broker.tls = config.broker.tls;
        self.config.broker.alpn = config.broker.alpn;
        self.config.cloud = config.cloud;
        self.config.store = config.store;
        self.config.free = config.free;
        self.handle(Event::Reconfigured { free: config.free });
        Ok(())
    }

    /// Reads the certificates and authorities that `config` names and connects with them, or changes nothing.
    pub(super) fn connect_anew(&mut self, config: &Config) -> anyhow::Result<()> {
        let certificates = tls::FileWatch::new(certificate_files(config));
        let peers = peers(config, &self.clock)?;
        let broker_tls = broker_tls(config, &self.clock)?;
        self.api = peers.api.clone();
        // What the one before has failed in says nothing of this one.
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.conditions.clear(Kind::ApiUnreachable);
        self.uploads.set_peers(peers);
        self.link.reload(config.broker.endpoint.clone(), broker_tls);
        self.certificate_ends = certificate_ends(config);
        self.certificates = certificates;
        self.conditions.clear(Kind::CertificateRejected);
        self.notice.read_certificates(config);
        self.board.update(|document| document.link.broker = config.broker.endpoint.authority());
        self.show_soon();
        Ok(())
    }
}
