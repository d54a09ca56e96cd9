//! The one way to a server: look its name up, connect to the first address that answers ([`race`]), do the TLS
//! handshake. API requests, grants, PUTs and the link to the broker all connect through here; they differ in the
//! [`Dialer`] that opens their sockets.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use care_engine::trusted_time::LATEST;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{Connection, Dialer, Fault, Origin, Stage, avoided, race};
use crate::{
    config::Endpoint,
    resolver,
    tls::{self, TlsFault, ValidUntil},
};

/// The largest buffer of TLS.
const TLS_BUFFER: usize = 64 * 1024;

/// Looks the host up and connects: for every caller that does not check the addresses in between.
///
/// # Errors
/// The stage that failed, or the one in progress at `deadline`.
pub async fn open<D: Dialer>(dialer: &D, origin: &Origin, deadline: Instant) -> Result<Connection<D::Guard>, Fault> {
    let addresses = resolve(&origin.endpoint, deadline).await?;
    connect(dialer, origin, &addresses, deadline).await
}

/// Looks the host up.
pub(crate) async fn resolve(endpoint: &Endpoint, deadline: Instant) -> Result<Vec<SocketAddr>, Fault> {
    let host = &endpoint.host;
    let fault = |source| Fault::Dns { host: host.clone(), source };
    let addresses = within(Stage::Dns, host, deadline, resolver::lookup(host, endpoint.port)).await?.map_err(fault)?;
    if addresses.is_empty() {
        return Err(fault(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// Connects to the first of `addresses` that answers ([`race`]), and does the TLS handshake where the endpoint asks
/// for one.
///
/// # Errors
/// [`Fault::Unreachable`] with every address and why it failed.
pub async fn connect<D: Dialer>(
    dialer: &D,
    origin: &Origin,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<Connection<D::Guard>, Fault> {
    race::race(dialer, origin, &avoided::ordered(addresses), deadline).await
}

/// The TLS handshake, with the earliest end of the server's certificates.
pub(super) async fn tls(origin: &Origin, stream: TcpStream) -> Result<Secured, TlsFault> {
    if !origin.endpoint.tls {
        return Ok((Box::new(stream), LATEST));
    }
    let client = origin.tls.as_ref().ok_or_else(|| TlsFault::Other("no TLS settings for this server".into()))?;
    let name = ServerName::try_from(origin.endpoint.host.clone()).map_err(|error| TlsFault::Other(error.to_string()))?;
    let valid_until = ValidUntil::default();
    let connector = TlsConnector::from(Arc::new(client.connection_noting(&valid_until)));
    let handshake = connector.connect_with(name, stream, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    match handshake.await {
        // For a store no certificate end is recorded, since its answers do not set the time.
        Ok(stream) => Ok((Box::new(stream), valid_until.get().unwrap_or_default())),
        Err(error) => Err(tls::handshake_fault(&error).unwrap_or_else(|| TlsFault::Other(error.to_string()))),
    }
}

/// A connection, and the earliest end of the certificates of the server, since 1970.
pub(super) type Secured = (Box<dyn Stream>, Duration);

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Runs one stage of a call until `deadline`.
pub(super) async fn within<F: Future>(stage: Stage, host: &str, deadline: Instant, work: F) -> Result<F::Output, Fault> {
    timeout_at(deadline, work).await.map_err(|_| Fault::Timeout { stage, host: host.to_owned() })
}
