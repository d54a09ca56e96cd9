//! The listener of the API: mutual TLS, one HTTP/1.1 connection per task, and the device id from the client
//! certificate.

use std::{sync::Arc, time::Duration};

use axum::Router;
use care_protocol::DeviceId;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceBuilder;

/// The CN of the client's certificate.
#[derive(Debug, Clone)]
pub struct Peer(pub DeviceId);

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Accepts for ever. A failed accept (out of descriptors) is logged and tried again.
pub async fn accept_tls(listener: TcpListener, config: Arc<ServerConfig>, router: Router) {
    let acceptor = TlsAcceptor::from(config);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, acceptor.clone(), router.clone()));
            }
            Err(e) => {
                tracing::error!("accepting a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    // Answers are short. If this fails, the connection only has more latency.
    drop(stream.set_nodelay(true));
    let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return tracing::info!("a TLS handshake failed: {e}"),
        Err(_) => return tracing::info!("a TLS handshake took too long"),
    };
    let Some(peer) = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?)) else {
        return tracing::warn!("a client certificate without a device id");
    };
    let service = ServiceBuilder::new().layer(axum::Extension(Peer(peer))).service(router);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(e) = served {
        // This is also how an upload ends that the camera cuts.
        tracing::debug!("a connection ended early: {e}");
    }
}

fn common_name(certificate: &[u8]) -> Option<DeviceId> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    name.parse().ok()
}
