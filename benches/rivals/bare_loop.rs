//! A bare loop of rumqttc: it connects with mutual TLS, subscribes to the camera's documents, and does nothing with them. What
//! the agent costs above this is what the agent does. A rival for the benchmark, not for use.
//!
//! `rival-bare-loop HOST:PORT CA-PEM CERT-PEM KEY-PEM DEVICE PREFIX`

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// As the agent's.
const KEEPALIVE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [broker, ca, cert, key, device, prefix] = &args[..] else { bail!("six arguments are needed, see the source") };
    let (host, port) = broker.rsplit_once(':').context("HOST:PORT")?;
    let mut options = MqttOptions::new(device, host, port.parse()?);
    options.set_keep_alive(KEEPALIVE).set_clean_session(false);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls(ca, cert, key)?))));
    let (client, mut events) = AsyncClient::new(options, 16);
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = events.poll().await? {
            client.subscribe(format!("{prefix}/{device}/entitlement"), QoS::AtLeastOnce).await?;
        }
    }
}

fn tls(ca: &str, cert: &str, key: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let chain = CertificateDer::pem_slice_iter(&fs::read(cert)?).collect::<Result<Vec<_>, _>>()?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?)
}
