//! The address of a broker, embedded or external.

use std::sync::Arc;

/// Where the broker is and how to speak to it.
#[derive(Debug, Clone)]
pub struct BrokerAddress {
    /// What we are called there: no two connections may have one name.
    pub client_id: String,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `None`: plaintext, on loopback only.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The authority of its certificate, PEM.
    pub ca: String,
}
