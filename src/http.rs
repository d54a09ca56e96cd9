//! One small HTTP/1.1 client over sockets of our own: the agent must hold the socket to be able to cut it, and wants to
//! say in which stage a call failed. The engine's polls ([`get`]) go through a plain [`Street`]; transfers go through the
//! gate's door, which knows every socket and opens none under an old generation. One connection carries one request. The
//! link to the broker connects through here too ([`connect`]).

mod race;

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use care_engine::trusted_time::{HeardDate, LATEST};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    pin, select,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use crate::{
    config::Endpoint,
    path_mtu::{PATHS, Watch},
    tls::{self, TlsFault, ValidUntil},
};

pub use race::{Tried, Unreachable, Why};
pub(crate) use race::{peer_name, tls_advice};

/// How much of a request hyper may hold back, and how large an answer's head may be.
const HYPER_BUFFER: usize = 32 * 1024;
/// How much TLS may hold back.
const TLS_BUFFER: usize = 64 * 1024;
/// How long a connection whose answer was read is given to close in good order.
const CLOSING: Duration = Duration::from_millis(500);

/// Where a server is, and with which TLS settings it is reached.
#[derive(Clone)]
pub struct Origin {
    /// Host, port, and whether over TLS.
    pub endpoint: Endpoint,
    /// Present exactly when the endpoint is over TLS.
    pub tls: Option<tls::Client>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.endpoint).finish()
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The `Date` header, since 1970.
    pub date: Option<Duration>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, within the caller's limit.
    pub body: Bytes,
    /// Who answered.
    pub peer: SocketAddr,
    /// The earliest end of the server's certificates, since 1970; [`LATEST`] without TLS.
    pub valid_until: Duration,
}

impl Answer {
    /// Its `Date`, for the clock; `sent` is when the request was sent, on BOOTTIME.
    pub fn heard_date(&self, sent: Duration) -> Option<HeardDate> {
        self.date.map(|date| HeardDate { date, sent, valid_until: self.valid_until })
    }
}

/// The stage a call was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking the host up.
    Dns,
    /// Connecting.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// Request and answer.
    Http,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
        })
    }
}

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub enum Fault {
    /// The name has no address.
    #[error("looking up {host}: {source}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address let us in.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The exchange broke.
    #[error("the exchange with {host} failed: {reason}")]
    Http {
        /// The server's name.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// Nothing happened for too long.
    #[error("{host} did not answer in time ({stage})")]
    Timeout {
        /// The stage it was in.
        stage: Stage,
        /// The server's name.
        host: String,
    },
    /// More than the caller takes.
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge {
        /// The server's name.
        host: String,
        /// The caller's limit.
        limit: usize,
    },
    /// The gate was closed meanwhile: nothing more may happen under this generation.
    #[error(transparent)]
    Stale(#[from] Stale),
}

impl Fault {
    /// The stage it happened in, if the network was to blame.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::Dns { .. } => Some(Stage::Dns),
            Self::Unreachable(unreachable) => Some(unreachable.stage()),
            Self::Http { .. } | Self::TooLarge { .. } => Some(Stage::Http),
            Self::Timeout { stage, .. } => Some(*stage),
            Self::Stale(_) => None,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Dns { .. } | Self::Timeout { stage: Stage::Dns, .. } => "Check the name, and the camera's name server.",
            Self::Unreachable(unreachable) => unreachable.advice(),
            Self::Timeout { .. } | Self::Http { .. } => "Check the server, and what stands between it and the camera.",
            Self::TooLarge { .. } => "Check what the server sends: the answer is larger than any that this agent asks for.",
            Self::Stale(_) => "Nothing: the plan has changed meanwhile.",
        }
    }
}

/// The gate's generation has advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the gate was closed while this was under way")]
pub struct Stale;

/// What a call goes through on its way out.
pub trait Door: Sync {
    /// What holds one connection open.
    type Pass: Pass + Send;

    /// Opens a socket and begins to connect it, without blocking.
    fn open(&self, address: SocketAddr) -> io::Result<(TcpStream, Self::Pass)>;

    /// Whether one may still go on; asked between any two stages.
    fn check(&self) -> Result<(), Stale>;
}

/// One connection's leave to be. Dropping it ends the connection abruptly if its door says so.
pub trait Pass {
    /// Everything was said and answered: the connection may close in good order. It stays within reach of its door until
    /// the pass is dropped.
    fn finished(&self);
}

/// No gate: control traffic, which carries no media.
#[derive(Debug, Clone, Copy)]
pub struct Street;

impl Door for Street {
    type Pass = Walk;

    fn open(&self, address: SocketAddr) -> io::Result<(TcpStream, Walk)> {
        let socket = new_socket(address)?;
        PATHS.limit(&socket, address)?;
        let walk = Walk(Watch::of(&socket, address));
        begin_connect(&socket, address)?;
        Ok((TcpStream::from_std(socket.into())?, walk))
    }

    fn check(&self) -> Result<(), Stale> {
        Ok(())
    }
}

/// The [`Pass`] of the [`Street`].
#[derive(Debug)]
#[expect(dead_code, reason = "it looks at the connection when it is dropped")]
pub struct Walk(Option<Watch>);

impl Pass for Walk {
    fn finished(&self) {}
}

/// A TCP socket that never blocks, with Nagle off.
pub(crate) fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Sends the SYN and returns.
pub(crate) fn begin_connect(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}

/// Asks `origin` for `path`. The answer may have `limit` bytes, and all of it may take `timeout`. Redirects are not followed.
pub async fn get(origin: &Origin, path: &str, limit: usize, timeout: Duration) -> Result<Answer, Fault> {
    let deadline = Instant::now() + timeout;
    let request = request("GET", &origin.endpoint, path, HeaderMap::new(), Empty::<Bytes>::new())?;
    let addresses = resolve(&origin.endpoint, deadline).await?;
    let line = connect(&Street, origin, &addresses, deadline).await?;
    let host = line.host.clone();
    within(Stage::Http, &host, deadline, line.send(request, limit)).await?
}

/// A request for `path` at `endpoint`; `headers` go out verbatim, `Host` and `Connection` are ours.
pub(crate) fn request<B>(method: &str, endpoint: &Endpoint, path: &str, headers: HeaderMap, body: B) -> Result<Request<B>, Fault> {
    let broken = |error: &dyn fmt::Display| Fault::Http { host: endpoint.host.clone(), reason: error.to_string() };
    let mut request = Request::builder().method(method).uri(path).body(body).map_err(|e| broken(&e))?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(&authority(endpoint)).map_err(|e| broken(&e))?;
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let agent = HeaderValue::from_static(concat!("kasa-care-agent/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
    Ok(request)
}

/// The `Host` of an endpoint: without the port where it is the scheme's own (a presigned URL is signed that way).
fn authority(endpoint: &Endpoint) -> String {
    let host = if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    let default_port = if endpoint.tls { 443 } else { 80 };
    if endpoint.port == default_port { host } else { format!("{host}:{}", endpoint.port) }
}

/// Looks the host up.
pub(crate) async fn resolve(endpoint: &Endpoint, deadline: Instant) -> Result<Vec<SocketAddr>, Fault> {
    let host = &endpoint.host;
    let fault = |source| Fault::Dns { host: host.clone(), source };
    let found = within(Stage::Dns, host, deadline, tokio::net::lookup_host((host.as_str(), endpoint.port))).await?;
    let addresses: Vec<_> = found.map_err(fault)?.collect();
    if addresses.is_empty() {
        return Err(fault(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// Connects to the first of `addresses` that answers ([`race`]), and does the TLS handshake where the endpoint asks for one.
///
/// # Errors
/// [`Fault::Unreachable`] with every address and why it failed.
pub async fn connect<D: Door>(door: &D, origin: &Origin, addresses: &[SocketAddr], deadline: Instant) -> Result<Line<D::Pass>, Fault> {
    race::race(door, origin, addresses, deadline).await
}

/// The TLS handshake, with the earliest end of the server's certificates.
async fn tls(origin: &Origin, stream: TcpStream) -> Result<Secured, TlsFault> {
    if !origin.endpoint.tls {
        return Ok((Box::new(stream), LATEST));
    }
    let client = origin.tls.as_ref().ok_or_else(|| TlsFault::Other("no TLS settings for this server".into()))?;
    let name = ServerName::try_from(origin.endpoint.host.clone()).map_err(|error| TlsFault::Other(error.to_string()))?;
    let valid_until = ValidUntil::default();
    let connector = TlsConnector::from(Arc::new(client.connection_noting(&valid_until)));
    let handshake = connector.connect_with(name, stream, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    match handshake.await {
        // A store, whose end nobody notes, says nothing of the time.
        Ok(stream) => Ok((Box::new(stream), valid_until.get().unwrap_or_default())),
        Err(error) => Err(tls::handshake_fault(&error).unwrap_or_else(|| TlsFault::Other(error.to_string()))),
    }
}

/// A connection, and the earliest end of the certificates of the server, since 1970.
type Secured = (Box<dyn Stream>, Duration);

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, ready for its one request.
pub struct Line<P> {
    stream: Box<dyn Stream>,
    pass: P,
    /// [`peer_name`] of the other end.
    host: String,
    peer: SocketAddr,
    valid_until: Duration,
}

impl<P: Pass> Line<P> {
    /// What holds the connection open.
    pub(crate) fn pass(&self) -> &P {
        &self.pass
    }

    /// The connection itself, for a caller with an HTTP of its own.
    pub fn into_stream(self) -> (Box<dyn Stream>, P) {
        (self.stream, self.pass)
    }

    /// Who is at the other end, for people: `host:port`, and the address.
    pub fn peer_name(&self) -> &str {
        &self.host
    }

    /// The earliest end of the server's certificates, since 1970; [`LATEST`] without TLS.
    pub fn valid_until(&self) -> Duration {
        self.valid_until
    }

    /// Who is at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sends the request and reads the answer, of at most `limit` bytes. Dropping the future drops the connection with
    /// it: nothing goes on writing behind it. The caller minds the time.
    ///
    /// An answer that comes before the body has been given out ends the connection at once: hyper would go on writing. Such
    /// an answer may refuse, but not accept.
    pub async fn send<B>(self, request: Request<B>, limit: usize) -> Result<Answer, Fault>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Self { stream, pass, host, peer, valid_until } = self;
        let said_all = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let request = request.map(|body| Watched { body, said_all: said_all.clone() });
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(HYPER_BUFFER);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&host, peer, &error))?;
        pin!(connection);
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| broken(&host, peer, &error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, limit).collect().await.map_err(|error| match error.downcast_ref() {
                Some(LengthLimitError { .. }) => Fault::TooLarge { host: host.clone(), limit },
                None => broken(&host, peer, &*error),
            })?;
            Ok::<_, Fault>((head, body.to_bytes()))
        };
        pin!(exchange);
        let mut end = None;
        let answer = loop {
            select! {
                biased;
                answer = &mut exchange => break answer,
                // The answer may be in our hands already though the connection ended badly behind it.
                ended = &mut connection, if end.is_none() => end = Some(ended),
            }
        };
        let (head, body) = match (answer, &end) {
            (Ok(answer), _) => answer,
            (Err(_), Some(Err(error))) => return Err(broken(&host, peer, error)),
            (Err(fault), _) => return Err(fault),
        };
        if said_all.load(Ordering::Relaxed) {
            pass.finished();
            if end.is_none() {
                // The answer is ours whether the peer closes well or not.
                let _ = timeout(CLOSING, connection).await;
            }
        } else if head.status.is_success() {
            let reason = format!("it answered {} before it had the whole body", head.status.as_u16());
            return Err(Fault::Http { host: host.clone(), reason });
        }
        let date = head.headers.get(header::DATE).and_then(|value| date(value.to_str().ok()?));
        Ok(Answer { status: head.status.as_u16(), date, headers: head.headers, body, peer, valid_until })
    }
}

/// A body that says when all of it has been given out.
struct Watched<B> {
    body: B,
    said_all: Arc<AtomicBool>,
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.said_all.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What hyper's error says, down to its cause. A server may refuse our certificate once we have begun to write: that is no
/// fault of what is written.
fn broken(host: &str, peer: SocketAddr, error: &(dyn StdError + 'static)) -> Fault {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(stale) = inner.downcast_ref::<Stale>() {
            return (*stale).into();
        }
        let tls = inner.downcast_ref::<io::Error>().and_then(tls::handshake_fault);
        if let Some(fault @ TlsFault::DeviceRefused(_)) = tls {
            return Fault::Unreachable(Unreachable { server: host.to_owned(), tried: vec![Tried { address: peer, why: Why::Tls(fault) }] });
        }
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    Fault::Http { host: host.to_owned(), reason }
}

fn date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

/// Runs one stage of a call until `deadline`.
pub(crate) async fn within<F: Future>(stage: Stage, host: &str, deadline: Instant, work: F) -> Result<F::Output, Fault> {
    timeout_at(deadline, work).await.map_err(|_| Fault::Timeout { stage, host: host.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::*;

    /// A connection whose peer has answered and gone: it cannot be closed in good order.
    struct Gone {
        answer: &'static [u8],
        asked: bool,
        reader: Option<Waker>,
    }

    impl AsyncRead for Gone {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if !self.asked {
                self.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            into.put_slice(std::mem::take(&mut self.answer));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
            self.asked = true;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
            Poll::Ready(Ok(from.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
    }

    fn answer(what_comes: &'static [u8]) -> Result<Answer, Fault> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let line = Line {
            stream: Box::new(Gone { answer: what_comes, asked: false, reader: None }),
            pass: Walk(None),
            host: "care.example".into(),
            peer,
            valid_until: LATEST,
        };
        let endpoint = Endpoint { host: "care.example".into(), port: 443, tls: true };
        let request = request("GET", &endpoint, "/", HeaderMap::new(), Empty::<Bytes>::new())?;
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(line.send(request, 100))
    }

    #[test]
    fn an_answer_counts_even_if_the_connection_ends_badly_behind_it() {
        for whole in [&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..], b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"] {
            assert_eq!(answer(whole).unwrap().status, 200);
        }
        for part in [&b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok"[..], b"HTTP/1.1 200 OK\r\n", b""] {
            assert_eq!(answer(part).unwrap_err().stage(), Some(Stage::Http));
        }
    }

    #[test]
    fn a_port_is_named_only_where_it_is_not_the_schemes_own() {
        let named = |host: &str, port, tls| authority(&Endpoint { host: host.into(), port, tls });
        assert_eq!(named("care.example", 443, true), "care.example");
        assert_eq!(named("care.example", 80, true), "care.example:80");
        assert_eq!(named("127.0.0.1", 80, false), "127.0.0.1");
        assert_eq!(named("::1", 8443, true), "[::1]:8443");
    }
}
