//! Servers that must not be trusted: they complete a TLS handshake with any given certificate and count the bytes
//! that they receive.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::ServerConfig;
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;

/// A TLS server on loopback that only accepts handshakes; stopped on drop.
pub struct Impostor {
    /// The listening address.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

/// What an [`Impostor`] has recorded.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// TCP connections.
    pub connections: usize,
    /// Handshakes that completed.
    pub handshakes: usize,
    /// Plaintext bytes received.
    pub told: Vec<u8>,
    /// Errors of failed handshakes.
    pub failures: Vec<String>,
}

impl Impostor {
    /// Listens at `addr` (port 0: any free port).
    pub async fn listen(addr: SocketAddr, tls: ServerConfig) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let record = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                record.lock().unwrap().connections += 1;
                match acceptor.accept(socket).await {
                    Err(e) => record.lock().unwrap().failures.push(e.to_string()),
                    Ok(mut stream) => {
                        let mut bytes = Vec::new();
                        let end = stream.read_buf(&mut bytes).await;
                        let mut record = record.lock().unwrap();
                        match end {
                            // In TLS 1.3 the server finishes before the client verifies its certificate; the
                            // client's alert arrives here as an error.
                            Err(e) => record.failures.push(e.to_string()),
                            Ok(_) => {
                                record.handshakes += 1;
                                record.told.extend(bytes);
                            }
                        }
                    }
                }
            }
        });
        Self { addr, seen, task }
    }

    /// What it has recorded so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
