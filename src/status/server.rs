//! Serves the status on a loopback port or a unix socket. Clients are not trusted: requests are read-only and limited
//! in size, time and number, and a page of another origin cannot read the status through the owner's browser.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime, select,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

#[cfg(feature = "metrics")]
use super::metrics;
use super::{
    PastDocument, SharedStatus, StatusDocument,
    body::{Body, Lasting},
    events, page, pictures, words,
};
use crate::{
    backoff::{Backoff, Delays, Jitter},
    conditions::{Conditions, Kind},
    config::Listen,
    logging,
    timeline::Entry,
    unix_socket::{self, SocketPath},
};

/// How many connections are served at a time. Further ones are closed at once.
const MOST_CONNECTIONS: usize = 16;
/// The time limit of a connection, unless its answer is a stream; then that of what is left of it when it has ended.
const LIFETIME: Duration = Duration::from_secs(10);
/// The time limit for a request to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// The largest request, bytes. hyper allows no smaller limit.
const REQUEST_MOST: usize = 8 * 1024;
/// The largest number of headers.
const HEADERS_MOST: usize = 32;
/// A control loop that has not updated the status for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// What the page may load: itself, and nothing from elsewhere. The live view is a `blob:` that its script fills.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Pauses between attempts to listen.
const PAUSES: Delays = Delays::new(Duration::from_secs(1), Duration::from_secs(30), Jitter::None);
/// How often to check that the unix socket's path still leads to our socket.
const NAME_EVERY: Duration = Duration::from_secs(2);

/// The running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves `status` on its own thread. The rest of the agent does not depend on it: an address that cannot be bound
    /// raises a condition and is tried again.
    pub fn start(listen: &Listen, status: Arc<SharedStatus>, conditions: Conditions) -> Self {
        let first = bind(listen);
        let address = first.as_ref().ok().and_then(|bound| match bound {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(..) => None,
        });
        let (stop, stopped) = oneshot::channel();
        let (listen, thread_conditions) = (listen.clone(), conditions.clone());
        let serve = move || match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(async {
                select! {
                    () = keep_serving(&listen, first, status, &conditions) => {}
                    _ = stopped => {}
                }
            }),
            Err(error) => conditions.raise(Kind::StatusPage, format!("the status page cannot be served: {error}")),
        };
        let thread = crate::threads::named("status").spawn(serve);
        let thread =
            thread.map_err(|error| thread_conditions.raise(Kind::StatusPage, format!("the status page cannot be served: {error}"))).ok();
        Self { address, stop: Some(stop), thread }
    }

    /// The address of the first listener, if that is a port.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the status page's thread has panicked");
        }
    }
}

/// A bound listener that is not registered with a runtime yet.
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketPath),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketPath),
}

/// Serves for ever, and listens again whenever the listener is lost.
async fn keep_serving(listen: &Listen, first: io::Result<Bound>, status: Arc<SharedStatus>, conditions: &Conditions) {
    let (mut bound, mut backoff) = (first, Backoff::new(PAUSES));
    loop {
        match bound.and_then(Listener::open) {
            Ok(listener) => {
                conditions.clear(Kind::StatusPage);
                tracing::info!(listen = %describe(listen), "status page");
                backoff.reset();
                accept(listener, status.clone()).await;
            }
            Err(why) => {
                let sentence = format!("cannot listen on {} for the status page: {why}", describe(listen));
                conditions.raise_advising(Kind::StatusPage, sentence, advice(&why));
                sleep(backoff.next_delay()).await;
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
        kind => unix_socket::path_advice(kind).unwrap_or(Kind::StatusPage.advice()),
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
            // Only this user and group may connect.
            let (listener, name) = unix_socket::listen(path, 0o660)?;
            Ok(Bound::Unix(listener, name))
        }
    }
}

impl Listener {
    /// Registers a listener. Must be called inside the runtime.
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

    /// Returns when clients can no longer connect because the path was removed or replaced.
    async fn lost(&self) {
        loop {
            sleep(NAME_EVERY).await;
            if let Self::Unix(_, name) = self
                && !name.is_ours()
            {
                return;
            }
        }
    }
}

/// Accepts connections until the listener is lost.
async fn accept(listener: Listener, status: Arc<SharedStatus>) {
    let served = Served { status, subscribers: Arc::new(Semaphore::new(events::SUBSCRIBERS)) };
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = select! {
            accepted = listener.accept() => accepted,
            () = listener.lost() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Probably out of descriptors; an immediate retry would only burn processor time.
                tracing::warn!(%error, "the status page cannot take a connection");
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let over_tcp = matches!(listener, Listener::Tcp(_));
        let served = served.clone();
        tokio::spawn(async move {
            serve_connection(stream, over_tcp, served).await;
            drop(place);
        });
    }
}

/// What is served.
#[derive(Clone)]
struct Served {
    status: Arc<SharedStatus>,
    /// Places for those that `/events` keeps up to date.
    subscribers: Arc<Semaphore>,
}

/// Serves one connection.
async fn serve_connection(stream: impl Stream + 'static, over_tcp: bool, served: Served) {
    let lasting = Lasting::default();
    let answers = lasting.clone();
    let service = service_fn(move |request| {
        let (served, lasting) = (served.clone(), answers.clone());
        async move {
            served.status.wait_until_fresh().await;
            let answer = match refuse(&request, over_tcp) {
                Some(refused) => refused,
                None => match streams(&request, &served, &lasting).await {
                    Some(answer) => answer,
                    None => answer(&request, &served.status),
                },
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(REQUEST_MOST)
        .max_headers(HEADERS_MOST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut served = timeout(LIFETIME, connection.as_mut()).await;
    if served.is_err()
        && let Some(ended) = lasting.ended()
    {
        served = select! {
            served = connection.as_mut() => Ok(served),
            // What has been fed may still be on its way.
            _ = ended => timeout(LIFETIME, connection).await,
        };
    }
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a status connection ended"),
        Err(_) => tracing::debug!("a status connection took too long"),
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) type Answer = Response<Body>;

/// Why this request gets no answer.
fn refuse(request: &Request<Incoming>, over_tcp: bool) -> Option<Answer> {
    if over_tcp && !names_this_device(request.headers()) {
        return Some(text(StatusCode::MISDIRECTED_REQUEST, "this page answers only to localhost\n"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(refused);
    }
    None
}

/// What goes on, or takes a while: the events of the page, and what the camera films.
async fn streams(request: &Request<Incoming>, Served { status, subscribers }: &Served, lasting: &Lasting) -> Option<Answer> {
    if request.uri().path() != "/events" {
        return pictures::answer(request, status, lasting).await;
    }
    let Ok(place) = subscribers.clone().try_acquire_owned() else {
        return Some(text(StatusCode::SERVICE_UNAVAILABLE, "as many pages are open as are kept up to date\n"));
    };
    let (feed, body) = lasting.stream();
    tokio::spawn(events::feed(feed, status.clone(), page::Words::of(request.headers()), place));
    Some(with_body(StatusCode::OK, "text/event-stream", body))
}

fn answer(request: &Request<Incoming>, status: &SharedStatus) -> Answer {
    match request.uri().path() {
        "/" => {
            let html = page::render(&page::Scene::of(status), page::Words::of(request.headers()));
            with_type(StatusCode::OK, "text/html; charset=utf-8", html)
        }
        "/page.css" => with_type(StatusCode::OK, "text/css; charset=utf-8", page::STYLE),
        "/page.js" => with_type(StatusCode::OK, "text/javascript; charset=utf-8", page::SCRIPT),
        "/icon.svg" => with_type(StatusCode::OK, "image/svg+xml", page::ICON),
        "/status.json" => json(&status.read()),
        "/status.txt" => text(StatusCode::OK, &words::render(&status.read())),
        "/support.json" => json(&Support {
            status: status.read(),
            documents: status.documents().iter().map(PastDocument::from).collect(),
            timeline: status.timeline().entries(),
            log: logging::recent(),
        }),
        #[cfg(feature = "metrics")]
        "/metrics" => with_type(StatusCode::OK, care_metrics::CONTENT_TYPE, metrics::render(status)),
        "/healthz" if status.age() < STUCK_AFTER => text(StatusCode::OK, "ok\n"),
        #[cfg(not(feature = "metrics"))]
        "/metrics" => text(StatusCode::NOT_FOUND, "this build exports no metrics; /status.json has the same figures\n"),
        "/healthz" => text(StatusCode::SERVICE_UNAVAILABLE, "the control loop is stuck\n"),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /, /events, /live.mp4, /frame.jpg, /frame.mp4, /status.json, /status.txt, /support.json, /metrics and /healthz\n",
        ),
    }
}

/// What `kasa-care-agent support` collects of a running agent.
#[derive(Serialize)]
struct Support {
    status: StatusDocument,
    documents: Vec<PastDocument>,
    timeline: Vec<Entry>,
    log: Vec<logging::Line>,
}

fn json(document: &impl Serialize) -> Answer {
    match serde_json::to_string_pretty(document) {
        Ok(json) => with_type(StatusCode::OK, "application/json", json + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the document cannot be written: {error}\n")),
    }
}

/// Whether the Host header names this device. With DNS rebinding it names the attacker's site.
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

pub(super) fn text(status: StatusCode, body: &str) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body.to_owned())
}

pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    with_body(status, content_type, Body::Whole(Full::new(body.into())))
}

pub(super) fn with_body(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Serves a connection that sends these bytes and then closes, for `fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_request(input: &[u8]) -> crate::fuzzing::Verdict {
    use std::{path::Path, sync::LazyLock};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    static STATUS: LazyLock<Arc<SharedStatus>> = LazyLock::new(|| {
        let config = crate::config::Config::parse(include_str!("../../systemd/config.toml"), Path::new("config.toml"));
        Arc::new(SharedStatus::new(super::StatusDocument::new(&config.expect("the installed example is good"))))
    });
    let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let answer = runtime.block_on(async {
        let (mut client, ours) = tokio::io::duplex(1 << 20);
        let talk = async {
            // The server may close long before the last byte.
            let _ = client.write_all(&input[..input.len().min(1 << 19)]).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        let served = Served { status: STATUS.clone(), subscribers: Arc::new(Semaphore::new(events::SUBSCRIBERS)) };
        tokio::join!(serve_connection(ours, true, served), talk).1
    });
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    assert!(answer.is_empty() || status.is_some(), "{:?}", String::from_utf8_lossy(&answer));
    let ok = status == Some(b"200");
    let blank = |b: &u8| matches!(b, b'\r' | b'\n');
    let request = &input[input.iter().take_while(|b| blank(b)).count()..];
    assert!(!ok || request.starts_with(b"GET ") || request.starts_with(b"HEAD "), "answered to {:?}", String::from_utf8_lossy(input));
    crate::fuzzing::Verdict::of(ok)
}
