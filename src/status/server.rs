//! Serves the document on a loopback port or a unix socket. Whoever may connect is not trusted with anything: requests are
//! small, short and read-only, few at a time, and a page of another origin cannot ask through the owner's browser.

use std::{
    convert::Infallible,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime, select,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{PastDocument, SharedStatus, page};
use crate::{
    conditions::{Conditions, Kind},
    config::Listen,
    logging, unix_socket,
};

/// Connections served at a time; one more is closed at once.
const MOST_CONNECTIONS: usize = 16;
/// A connection's whole life.
const LIFETIME: Duration = Duration::from_secs(10);
/// How long its request may take to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// The largest request, in bytes (hyper's least).
const REQUEST_MOST: usize = 8 * 1024;
/// The most headers.
const HEADERS_MOST: usize = 32;
/// A control loop that has not touched the status for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Pauses between attempts to listen, doubling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked whether a unix socket's name still is ours.
const NAME_EVERY: Duration = Duration::from_secs(2);

/// The listener, running or trying to. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves what hangs on `status`, on a thread of its own. Nothing else depends on the page: an address that cannot be had is
    /// a condition, and is tried again.
    pub fn start(listen: &Listen, status: Arc<SharedStatus>, conditions: Conditions) -> Self {
        let first = bind(listen);
        let address = first.as_ref().ok().and_then(|bound| match bound {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(..) => None,
        });
        let (stop, stopped) = oneshot::channel();
        let (listen, told) = (listen.clone(), conditions.clone());
        let serve = move || match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(async {
                select! {
                    () = keep_serving(&listen, first, status, &conditions) => {}
                    _ = stopped => {}
                }
            }),
            Err(error) => conditions.raise(Kind::StatusPage, format!("the status page cannot be served: {error}")),
        };
        let thread = thread::Builder::new().name("status".into()).spawn(serve);
        let thread = thread.map_err(|error| told.raise(Kind::StatusPage, format!("the status page cannot be served: {error}"))).ok();
        Self { address, stop: Some(stop), thread }
    }

    /// Where it listened from the start, if that is a port.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                tracing::error!("the status page's thread has panicked");
            }
        }
    }
}

/// What listens, before a runtime has it.
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Name),
}

enum Door {
    Tcp(TcpListener),
    Unix(UnixListener, Name),
}

/// A unix socket's name, taken away with this as long as it is ours.
struct Name {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Name {
    fn is_ours(&self) -> bool {
        self.identity.is_some() && unix_socket::identity(&self.path) == self.identity
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if self.is_ours() {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Never ends.
async fn keep_serving(listen: &Listen, first: io::Result<Bound>, status: Arc<SharedStatus>, conditions: &Conditions) {
    let (mut bound, mut pause) = (first, FIRST_PAUSE);
    loop {
        match bound.and_then(Door::open) {
            Ok(door) => {
                conditions.clear(Kind::StatusPage);
                tracing::info!(listen = %describe(listen), "status page");
                pause = FIRST_PAUSE;
                accept(door, status.clone()).await;
            }
            Err(why) => {
                let sentence = format!("cannot listen on {} for the status page: {why}", describe(listen));
                conditions.raise_advising(Kind::StatusPage, sentence, advice(&why));
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        bound = bind(listen);
    }
}

fn advice(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::NotFound => "Make the socket's directory, or change [status] listen; the agent tries again.",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "Set [status] listen = \"unix:/run/kasa-care-agent/status.sock\", where the agent may write; it takes effect at the next start."
        }
        _ => Kind::StatusPage.advice(),
    }
}

fn describe(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn bind(listen: &Listen) -> io::Result<Bound> {
    match listen {
        Listen::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Bound::Tcp(listener))
        }
        Listen::Unix(path) => {
            // For this user and group.
            let listener = unix_socket::listen(path, 0o660)?;
            let name = Name { path: path.clone(), identity: unix_socket::identity(path) };
            Ok(Bound::Unix(listener, name))
        }
    }
}

impl Door {
    /// To be called in the runtime.
    fn open(bound: Bound) -> io::Result<Self> {
        match bound {
            Bound::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            Bound::Unix(listener, name) => UnixListener::from_std(listener).map(|listener| Self::Unix(listener, name)),
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as Box<dyn Stream>),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Box::new(stream) as Box<dyn Stream>),
        }
    }

    /// Ends when nobody could connect any more because the name has gone.
    async fn lost(&self) {
        loop {
            sleep(NAME_EVERY).await;
            if let Self::Unix(_, name) = self {
                if !name.is_ours() {
                    return;
                }
            }
        }
    }
}

/// Until nobody can connect any more.
async fn accept(door: Door, status: Arc<SharedStatus>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = select! {
            accepted = door.accept() => accepted,
            () = door.lost() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only burn the processor.
                tracing::warn!(%error, "the status page cannot take a connection");
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let over_tcp = matches!(door, Door::Tcp(_));
        let status = status.clone();
        tokio::spawn(async move {
            converse(stream, over_tcp, status).await;
            drop(place);
        });
    }
}

/// One connection's whole life.
async fn converse(stream: impl Stream + 'static, over_tcp: bool, status: Arc<SharedStatus>) {
    let service = service_fn(move |request| {
        let status = status.clone();
        async move {
            status.wait_until_fresh().await;
            Ok::<_, Infallible>(answer(&request, over_tcp, &status))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(REQUEST_MOST)
        .max_headers(HEADERS_MOST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LIFETIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a status connection ended"),
        Err(_) => tracing::debug!("a status connection took too long"),
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Answer = Response<Full<Bytes>>;

fn answer(request: &Request<Incoming>, over_tcp: bool, status: &SharedStatus) -> Answer {
    if over_tcp && !names_this_device(request.headers()) {
        return text(StatusCode::MISDIRECTED_REQUEST, "this page answers only to localhost\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/" => with_type(StatusCode::OK, "text/html; charset=utf-8", page::render(&status.read())),
        "/status.json" => match serde_json::to_string_pretty(&status.read()) {
            Ok(json) => with_type(StatusCode::OK, "application/json", json + "\n"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the document cannot be written: {error}\n")),
        },
        "/support.json" => {
            let support = json!({
                "status": status.read(),
                "documents": status.documents().iter().map(PastDocument::from).collect::<Vec<_>>(),
                "history": status.history(),
                "log": logging::recent(),
            });
            with_type(StatusCode::OK, "application/json", format!("{support:#}\n"))
        }
        "/healthz" if status.age() < STUCK_AFTER => text(StatusCode::OK, "ok\n"),
        "/healthz" => text(StatusCode::SERVICE_UNAVAILABLE, "the control loop does not turn\n"),
        _ => text(StatusCode::NOT_FOUND, "there are /, /status.json, /support.json and /healthz\n"),
    }
}

/// A browser that was lured to another name which resolves to this address says that name here (DNS rebinding).
fn names_this_device(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn text(status: StatusCode, body: &str) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body.to_owned())
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"));
    answer
}

/// A connection on which these bytes arrive and then nothing more, for `fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn request_from_a_stranger(input: &[u8]) -> crate::fuzzing::Verdict {
    use std::{path::Path, sync::LazyLock};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    static BOARD: LazyLock<Arc<SharedStatus>> = LazyLock::new(|| {
        let config = crate::config::Config::parse(include_str!("../../systemd/config.toml"), Path::new("config.toml"));
        Arc::new(SharedStatus::new(super::StatusDocument::new(&config.expect("the installed example is good"))))
    });
    let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let answer = runtime.block_on(async {
        let (mut stranger, ours) = tokio::io::duplex(1 << 20);
        let talk = async {
            // It may have state up long before the last byte.
            let _ = stranger.write_all(&input[..input.len().min(1 << 19)]).await;
            let _ = stranger.shutdown().await;
            let mut answer = Vec::new();
            let _ = stranger.read_to_end(&mut answer).await;
            answer
        };
        tokio::join!(converse(ours, true, BOARD.clone()), talk).1
    });
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    assert!(answer.is_empty() || status.is_some(), "{:?}", String::from_utf8_lossy(&answer));
    let ok = status == Some(b"200");
    let blank = |b: &u8| matches!(b, b'\r' | b'\n');
    let request = &input[input.iter().take_while(|b| blank(b)).count()..];
    assert!(!ok || request.starts_with(b"GET ") || request.starts_with(b"HEAD "), "answered to {:?}", String::from_utf8_lossy(input));
    crate::fuzzing::Verdict::of(ok)
}
