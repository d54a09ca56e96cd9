//! How far a connection attempt has come, for the name of the stage when it times out: rumqttc does DNS, TCP, TLS and
//! CONNECT in one step and says only that it took too long.
//!
//! rustls tells us without being changed: it asks the session store when a handshake begins, that is when TCP stands,
//! and tells the key log when the handshake is over. Neither keeps anything: there are no sessions to resume, and the
//! secrets offered to the key log are dropped.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use rustls::{
    ClientConfig, KeyLog, NamedGroup,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls12Resumption, Tls13ClientSessionValue},
    pki_types::ServerName,
};

use super::Stage;

/// The progress of one attempt.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

const TCP: u8 = 0;
const TLS: u8 = 1;
const MQTT: u8 = 2;

impl Progress {
    /// The TLS configuration of an attempt, reporting here.
    pub(super) fn watch(self: &Arc<Self>, mut config: ClientConfig) -> Arc<ClientConfig> {
        config.resumption = Resumption::store(self.clone()).tls12_resumption(Tls12Resumption::Disabled);
        config.key_log = self.clone();
        Arc::new(config)
    }

    /// A new attempt begins.
    pub(super) fn restart(&self) {
        self.0.store(TCP, Ordering::Relaxed);
    }

    /// What the attempt is waiting for. Without TLS nothing tells us that TCP stands; only loopback has no TLS, and there
    /// TCP does not wait.
    pub(super) fn stage(&self, tls: bool) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            TCP if tls => Stage::Tcp,
            TLS => Stage::Tls,
            _ => Stage::Connack,
        }
    }
}

impl KeyLog for Progress {
    fn log(&self, label: &str, _: &[u8], _: &[u8]) {
        self.will_log(label);
    }

    fn will_log(&self, label: &str) -> bool {
        // The first is TLS 1.3's, the second 1.2's; both come when the handshake needs no more from the server.
        if matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "CLIENT_RANDOM") {
            self.0.store(MQTT, Ordering::Relaxed);
        }
        false
    }
}

impl ClientSessionStore for Progress {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.fetch_max(TLS, Ordering::Relaxed);
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
