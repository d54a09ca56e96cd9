//! The cloud and its store in the far namespace: grants every clip, accepts it over TLS, and counts complete objects.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use care_tests::shaped_link::{CLOUD, Link};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::{ServerConfig, crypto::ring::default_provider, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio::{runtime, sync::oneshot};
use tokio_rustls::TlsAcceptor;

/// A sink that serves until it is dropped.
pub struct Sink {
    address: SocketAddr,
    whole: Arc<AtomicU32>,
    ca: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _directory: TempDir,
}

impl Sink {
    /// Serves at the cloud's address.
    pub fn start(link: &Link) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec![CLOUD.to_string()]).unwrap();
        std::fs::write(&ca, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let enter_and_listen = || {
            link.enter_far();
            TcpListener::bind((CLOUD, 0)).unwrap()
        };
        let listener = thread::scope(|scope| scope.spawn(enter_and_listen).join()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let whole = Arc::new(AtomicU32::new(0));
        let (stop, stopped) = oneshot::channel::<()>();
        let counted = whole.clone();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, acceptor, counted) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, whole, ca, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file with the authority to trust.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// Number of complete objects.
    pub fn whole(&self) -> u32 {
        self.whole.load(Ordering::SeqCst)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, whole: Arc<AtomicU32>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, whole) = (acceptor.clone(), whole.clone());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            // Most connections are cut, which is what the test is about; the capture records how.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, address, whole.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, address: SocketAddr, whole: Arc<AtomicU32>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let put = request.method() == Method::PUT;
    // An error here means that the body was cut off.
    let body = request.into_body().collect().await?.to_bytes();
    if put {
        whole.fetch_add(1, Ordering::SeqCst);
        return Ok(Response::new(Full::default()));
    }
    let request: care_protocol::GrantRequest = serde_json::from_slice(&body).unwrap();
    let expires_at = (Timestamp::now() + Duration::from_secs(60)).to_string();
    let url = format!("https://{address}/clips/{}", request.clip);
    let grant = serde_json::json!({"method": "PUT", "url": url, "headers": {}, "expires_at": expires_at});
    Ok(Response::builder().status(201).body(Full::new(grant.to_string().into())).unwrap())
}
