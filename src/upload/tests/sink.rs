//! A cloud and a store in one, on loopback, that counts: grants asked, bytes of each PUT, and whether it became whole.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use bytes::Bytes;
use care_protocol::GrantRequest;
use http::{HeaderMap, Method, Request, Response, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::CertificateDer};
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, runtime, sync::oneshot, task::AbortHandle};
use tokio_rustls::TlsAcceptor;

use crate::{config::Endpoint, http::Origin, test_pki::Authority, tls::Client, upload::Store};

/// What the sinks' certificates say.
const HOST: &str = "localhost";

/// A request as the script sees it.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) body: Bytes,
    pub(super) sink: SocketAddr,
    pub(super) tls: bool,
}

pub(super) type Reply = Response<Full<Bytes>>;
type Script = dyn Fn(&Call<'_>) -> Option<Reply> + Send + Sync;

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicU32,
    pub(super) asked: Mutex<Vec<GrantRequest>>,
    pub(super) puts: Mutex<Vec<Put>>,
    serving: Mutex<Vec<AbortHandle>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Put {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) whole: bool,
}

pub(super) struct Sink {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    certificate: Option<CertificateDer<'static>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sink {
    /// A sink that answers as `script` says; `None` never answers.
    pub(super) fn start(tls: bool, script: impl Fn(&Call<'_>) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { listen() });
        let address = listener.local_addr().unwrap();
        let (acceptor, certificate) = if tls { identity() } else { (None, None) };
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let serving = serve(listener, acceptor, seen.clone(), Arc::new(script));
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, seen, certificate, stop: Some(stop), thread: Some(thread) }
    }

    /// A cloud that grants every clip a place of its own at the sink, and takes it.
    pub(super) fn generous(tls: bool) -> Self {
        Self::start(tls, |call| Some(if *call.method == Method::PUT { status(200) } else { grant(call) }))
    }

    pub(super) fn origin(&self) -> Origin {
        let tls = self.certificate.is_some();
        let endpoint = Endpoint { host: HOST.into(), port: self.address.port(), tls };
        Origin { endpoint, tls: self.certificate.is_some().then(|| self.trust()) }
    }

    pub(super) fn store(&self) -> Store {
        Store { hosts: BTreeSet::from([(HOST.into(), self.address.port())]), tls: self.trust() }
    }

    fn trust(&self) -> Client {
        trust(self.certificate.clone().unwrap())
    }

    pub(super) fn authority(&self) -> String {
        format!("{HOST}:{}", self.address.port())
    }

    pub(super) fn connections(&self) -> u32 {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Ends every connection.
    pub(super) fn hang_up(&self) {
        self.seen.serving.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    pub(super) fn asked(&self) -> Vec<GrantRequest> {
        self.seen.asked.lock().unwrap().clone()
    }

    pub(super) fn puts(&self) -> Vec<Put> {
        self.seen.puts.lock().unwrap().clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

fn trust(certificate: CertificateDer<'static>) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    Client::anonymous(config.with_no_client_auth())
}

fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(64).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

fn identity() -> (Option<TlsAcceptor>, Option<CertificateDer<'static>>) {
    let valid = 0..2_000_000_000;
    let authority = Authority::root("test", valid.clone());
    let server = authority.leaf(HOST, valid);
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![server.der()], server.key_der()).unwrap();
    (Some(TlsAcceptor::from(Arc::new(config))), Some(authority.der()))
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, seen: Arc<Seen>, script: Arc<Script>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.connections.fetch_add(1, Ordering::SeqCst);
        let sink = listener.local_addr().unwrap();
        let (acceptor, seen, script) = (acceptor.clone(), seen.clone(), script.clone());
        let serving = seen.clone();
        let task = tokio::spawn(async move {
            let tls = acceptor.is_some();
            let service = service_fn(move |request| answer(request, sink, tls, seen.clone(), script.clone()));
            let server = hyper::server::conn::http1::Builder::new();
            // How connections end is for the tests to see in what was received.
            if let Some(acceptor) = acceptor {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            } else {
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        serving.serving.lock().unwrap().push(task.abort_handle());
    }
}

async fn answer(
    request: Request<Incoming>,
    sink: SocketAddr,
    tls: bool,
    seen: Arc<Seen>,
    script: Arc<Script>,
) -> Result<Reply, Infallible> {
    let (Parts { method, uri, headers, .. }, mut body) = request.into_parts();
    let path = uri.path_and_query().unwrap().to_string();
    let whole = if method == Method::PUT {
        let index = {
            let mut puts = seen.puts.lock().unwrap();
            puts.push(Put { path: path.clone(), headers, ..Put::default() });
            puts.len() - 1
        };
        loop {
            match body.frame().await {
                Some(Ok(frame)) => seen.puts.lock().unwrap()[index].body.extend_from_slice(frame.data_ref().unwrap()),
                Some(Err(_)) => std::future::pending().await,
                None => break,
            }
        }
        seen.puts.lock().unwrap()[index].whole = true;
        Bytes::new()
    } else {
        body.collect().await.map(|body| body.to_bytes()).unwrap_or_default()
    };
    if method == Method::POST {
        seen.asked.lock().unwrap().push(serde_json::from_slice(&whole).unwrap());
    }
    match script(&Call { method: &method, path: &path, body: whole, sink, tls }) {
        Some(reply) => Ok(reply),
        None => std::future::pending().await,
    }
}

pub(super) fn status(status: u16) -> Reply {
    Response::builder().status(status).body(Full::default()).unwrap()
}

pub(super) fn json(status: u16, body: &serde_json::Value) -> Reply {
    Response::builder().status(status).body(Full::new(body.to_string().into())).unwrap()
}

/// A grant for the clip that was asked for, at this sink, for a minute.
pub(super) fn grant(call: &Call<'_>) -> Reply {
    let scheme = if call.tls { "https" } else { "http" };
    grant_at(call, &format!("{scheme}://{HOST}:{}", call.sink.port()), 60)
}

pub(super) fn grant_at(call: &Call<'_>, base: &str, life_s: i64) -> Reply {
    let request: GrantRequest = serde_json::from_slice(&call.body).unwrap();
    let url = format!("{base}/clips/{}?signature=s%2Fs", request.clip);
    let headers = serde_json::json!({"x-amz-meta-kind": "motion", "content-type": "video/mp4"});
    let expires_at = (Timestamp::now() + jiff::SignedDuration::from_secs(life_s)).to_string();
    json(201, &serde_json::json!({"method": "PUT", "url": url, "headers": headers, "expires_at": expires_at}))
}
