//! Requests and their answers over a [`Connection`]: one, or one after the other ([`Session`]). The caller's future
//! drives the connection itself, so dropping it stops every byte: nothing keeps writing in the background. A cut can
//! therefore stop an upload.

use std::{
    error::Error as StdError,
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
use http::{HeaderValue, Request, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    pin, select,
    time::{Instant, timeout},
};

use super::{
    Answer, Fault, Guard, Stage, Stale,
    avoided::Asked,
    connect::{Stream, within},
    race::{Tried, Unreachable, Why},
};
use crate::tls::{self, TlsFault};

/// The most of a request that hyper may buffer, and the largest head of an answer.
const HYPER_BUFFER: usize = 32 * 1024;
/// The time for a connection to close with a FIN after its answer was read.
const CLOSING: Duration = Duration::from_millis(500);

const CLOSED: &str = "it closed the connection";

/// The body of a request. One type for all: hyper's code, which is large, is in the program once.
pub type AnyBody = UnsyncBoxBody<Bytes, Box<dyn StdError + Send + Sync>>;

/// A connection, ready for its first request.
pub struct Connection<G> {
    pub(super) stream: Box<dyn Stream>,
    pub(super) guard: G,
    /// The name of the other end.
    pub(super) host: String,
    pub(super) peer: SocketAddr,
    pub(super) valid_until: Duration,
}

impl<G: Guard> Connection<G> {
    /// The connection itself, for a caller that does not speak HTTP through hyper.
    pub fn into_stream(self) -> (Box<dyn Stream>, G) {
        (self.stream, self.guard)
    }

    /// The peer, for messages: `host:port`, and the address.
    pub fn peer_name(&self) -> &str {
        &self.host
    }

    /// The earliest end of the server's certificates, since 1970; [`LATEST`](care_engine::trusted_time::LATEST) without TLS.
    pub fn valid_until(&self) -> Duration {
        self.valid_until
    }

    /// The peer's name.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// [`Self::send`] until `deadline`.
    pub(crate) async fn send_by(self, request: Request<AnyBody>, limit: usize, deadline: Instant) -> Result<Answer, Fault> {
        let host = self.host.clone();
        within(Stage::Http, &host, deadline, self.send(request, limit)).await?
    }

    /// Sends the connection's only request, as [`Session::send`], and closes it.
    pub async fn send(self, mut request: Request<AnyBody>, limit: usize) -> Result<Answer, Fault> {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let mut session = self.session().await?;
        let answer = session.send(request, limit).await?;
        session.close().await;
        Ok(answer)
    }

    /// For several requests.
    pub(crate) async fn session(self) -> Result<Session<G>, Fault> {
        let Self { stream, guard, host, peer, valid_until } = self;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HYPER_BUFFER);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&host, peer, &error))?;
        Ok(Session { sender, connection: Box::pin(connection), guard, host, peer, valid_until, state: State::Fresh })
    }
}

/// A connection that takes one request after the other. Between two of them nobody reads it: that the server has closed
/// it shows in the next request, which fails.
pub(crate) struct Session<G> {
    sender: SendRequest<Watched>,
    connection: Pin<Box<Driven>>,
    guard: G,
    host: String,
    peer: SocketAddr,
    valid_until: Duration,
    state: State,
}

/// A connection, driven by whoever sends on it.
type Driven = http1::Connection<TokioIo<Box<dyn Stream>>, Watched>;

/// What a [`Session`] has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    /// Its last request and answer were complete.
    Between,
    /// It takes no further request.
    Over,
}

impl<G: Guard> Session<G> {
    /// The guard that holds the connection open.
    pub(crate) fn guard(&self) -> &G {
        &self.guard
    }

    /// The other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether it may take another request.
    pub(crate) fn is_reusable(&self) -> bool {
        self.state == State::Between
    }

    /// [`Self::send`] until `deadline`.
    pub(crate) async fn send_by(&mut self, request: Request<AnyBody>, limit: usize, deadline: Instant) -> Result<Answer, Fault> {
        let host = self.host.clone();
        within(Stage::Http, &host, deadline, self.send(request, limit)).await?
    }

    /// Sends the request and reads the answer, of at most `limit` bytes. Nothing is sent once the future is dropped,
    /// and the session is then over. It has no time limit.
    ///
    /// An answer that arrives before hyper has taken the whole body ends the session at once, because hyper would
    /// keep writing. Such an answer may refuse, but not accept.
    pub(crate) async fn send(&mut self, request: Request<AnyBody>, limit: usize) -> Result<Answer, Fault> {
        let Self { sender, connection, guard, host, peer, valid_until, state } = self;
        // Until the exchange is complete.
        let before = std::mem::replace(state, State::Over);
        let mut asked = Asked((before == State::Fresh).then_some(*peer));
        let broken = |error: &(dyn StdError + 'static)| broken(host, *peer, error);
        if before == State::Between {
            guard.begun();
            select! {
                biased;
                ended = &mut *connection => {
                    let reason = ended.err().map_or_else(|| CLOSED.to_owned(), |error| error.to_string());
                    return Err(Fault::Http { host: host.clone(), reason });
                }
                ready = sender.ready() => ready.map_err(|error| broken(&error))?,
            }
        }
        let said_all = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let request = request.map(|body| Watched { body, said_all: said_all.clone() });
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, limit).collect().await.map_err(|error| match error.downcast_ref() {
                Some(LengthLimitError { .. }) => Fault::TooLarge { host: host.clone(), limit },
                None => broken(&*error),
            })?;
            Ok::<_, Fault>((head, body.to_bytes()))
        };
        pin!(exchange);
        let mut end = None;
        let answer = loop {
            select! {
                biased;
                answer = &mut exchange => break answer,
                // The answer may have arrived although the connection failed afterwards.
                ended = &mut *connection, if end.is_none() => end = Some(ended),
            }
        };
        let (head, body) = match (answer, &end) {
            (Ok(answer), _) => answer,
            (Err(_), Some(Err(error))) => return Err(broken(error)),
            (Err(fault), _) => return Err(fault),
        };
        asked.answered(head.status.as_u16());
        if said_all.load(Ordering::Relaxed) {
            guard.finished();
            if end.is_none() {
                *state = State::Between;
            }
        } else if head.status.is_success() {
            let reason = format!("it answered {} before it had the whole body", head.status.as_u16());
            return Err(Fault::Http { host: host.clone(), reason });
        }
        let date = head.headers.get(header::DATE).and_then(|value| date(value.to_str().ok()?));
        Ok(Answer { status: head.status.as_u16(), date, headers: head.headers, body, peer: *peer, valid_until: *valid_until })
    }

    /// Closes the connection, with a FIN if all exchanges were complete.
    pub(crate) async fn close(self) {
        if self.state == State::Between {
            drop(self.sender);
            // The last answer is valid however the peer closes the connection.
            let _ = timeout(CLOSING, self.connection).await;
        }
    }
}

/// A body that records when all of it has been returned.
struct Watched {
    body: AnyBody,
    said_all: Arc<AtomicBool>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
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

/// The text of hyper's error and its causes. A server may refuse our certificate once we have begun to write: that is
/// not a fault of the request.
fn broken(host: &str, peer: SocketAddr, error: &(dyn StdError + 'static)) -> Fault {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(stale) = inner.downcast_ref::<Stale>() {
            return (*stale).into();
        }
        let tls = inner.downcast_ref::<io::Error>().and_then(tls::handshake_fault);
        match tls {
            Some(fault @ TlsFault::DeviceRefused(_)) => {
                return Fault::Unreachable(Unreachable {
                    server: host.to_owned(),
                    tried: vec![Tried { address: peer, why: Why::Tls(fault) }],
                });
            }
            // In rustls' own words that is a line with a link to its manual.
            Some(TlsFault::Closed) => {
                CLOSED.clone_into(&mut reason);
                break;
            }
            _ => {}
        }
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    Fault::Http { host: host.to_owned(), reason }
}

fn date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use care_engine::trusted_time::LATEST;
    use http::HeaderMap;
    use http_body_util::Empty;

    use super::*;
    use crate::{
        config::Endpoint,
        http::{DirectGuard, request},
    };

    #[derive(Debug, thiserror::Error)]
    #[error("connection error")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_connection_that_is_cut_short_is_told_in_plain_words() {
        let of = |inner| broken("care.example", ([127, 0, 0, 1], 1).into(), &Outer(inner)).to_string();
        let rustls =
            io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed connection without sending TLS close_notify: https://docs.rs/x");
        assert_eq!(of(rustls), "the exchange with care.example failed: it closed the connection");
        assert_eq!(of(io::Error::other("no")), "the exchange with care.example failed: connection error: no");
    }

    /// A connection whose peer has answered and disconnected: closing it fails.
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
        let connection = Connection {
            stream: Box::new(Gone { answer: what_comes, asked: false, reader: None }),
            guard: DirectGuard::unwatched(),
            host: "care.example".into(),
            peer,
            valid_until: LATEST,
        };
        let endpoint = Endpoint { host: "care.example".into(), port: 443, tls: true };
        let request = request("GET", &endpoint, "/", HeaderMap::new(), Empty::new())?;
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(connection.send(request, 100))
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
}
