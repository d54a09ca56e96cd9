//! A scriptable HTTPS API and clip store (docs/protocol.md#https) in the test's own process, with mutual TLS. Tests
//! set every answer and read every request and body byte.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use care_protocol::GrantRequest;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_LENGTH, DATE, LOCATION},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::AsyncRead,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    pki::Pki,
    wait::{PATIENCE, until},
};

/// How the stand-in answers a `GET`.
#[derive(Debug, Clone)]
pub enum Document {
    /// 200 with this token.
    Token(String),
    /// Another status without a body.
    Status(u16),
    /// No answer until the client gives up.
    Silence,
}

/// How it answers a grant request.
#[derive(Debug, Clone)]
pub enum GrantAnswer {
    /// 201 with a URL at this server.
    Here,
    /// 200: the clip is already stored.
    Stored,
    /// Another status without a body.
    Status(u16),
    /// 201 with this body.
    Body(Value),
    /// No answer until the client gives up.
    Silence,
}

/// How it handles a `PUT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Read the whole body and answer 200.
    Swallow,
    /// Stop reading after so many bytes, until [`CloudState::sink`] is set to something else.
    StallAfter(u64),
    /// Answer with this status after the whole body.
    Status(u16),
    /// Answer 307 with the location in [`CloudState::redirect`].
    Redirect,
}

/// A fault that affects the `PUT`s of one clip only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutFault {
    /// This status with a short body, after the whole request body.
    Status(u16),
    /// This status before any of the body is read, as proxies do; then close the connection.
    Early(u16),
    /// Close the connection in the middle of the body, without an answer.
    Reset,
    /// Read nothing of the body.
    Stall,
}

/// Decides by clip id and announced length whether a `PUT` gets a fault of its own.
pub type OnPut = Box<dyn FnMut(&str, u64) -> Option<PutFault> + Send>;

/// The body of such an answer.
pub const PUT_FAULT_WORDS: &str = "the store does not like this clip";

/// The `Date` header of all answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The machine's time plus so many seconds.
    Offset(i64),
    /// No `Date` header.
    Absent,
}

/// A received request.
#[derive(Debug, Clone)]
pub struct Call {
    /// Time of receipt.
    pub at: Instant,
    /// `GET`, `POST`, `PUT`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Whether the client presented a certificate.
    pub client_certificate: bool,
    /// The client's certificate, DER.
    pub certificate: Option<Vec<u8>>,
}

/// A `PUT` and its progress.
#[derive(Debug, Clone)]
pub struct Put {
    /// The path; it ends in the clip's id and its number of earlier grants.
    pub path: String,
    /// The clip's id.
    pub clip: String,
    /// Start time.
    pub at: Instant,
    /// The announced length.
    pub announced: Option<u64>,
    /// Bytes received so far.
    pub body: Vec<u8>,
    /// `None` while it runs, then whether the body was complete.
    pub complete: Option<bool>,
}

/// The configured answers and the recorded requests.
pub struct CloudState {
    /// `GET /v1/devices/{id}/entitlement`
    pub entitlement: Document,
    /// `GET /v1/keyset`
    pub keyset: Document,
    /// Answers to the next grant requests, in order.
    pub next_grants: VecDeque<GrantAnswer>,
    /// The answer to all further grant requests.
    pub grants: GrantAnswer,
    /// Statuses for the next `PUT`s, in order.
    pub next_puts: VecDeque<u16>,
    /// How all further `PUT`s are handled.
    pub sink: Sink,
    /// The target of [`Sink::Redirect`].
    pub redirect: String,
    /// The `Date` header.
    pub clock: Clock,
    /// All requests.
    pub calls: Vec<Call>,
    /// All grant requests with their time of receipt.
    pub asked: Vec<(Instant, GrantRequest)>,
    /// All uploads.
    pub puts: Vec<Put>,
    /// Number of TCP connections so far.
    pub connections: usize,
    /// The origin that grants name: this server's address, unless the camera must reach it another way.
    pub origin: String,
    /// Called with each grant request before it is answered.
    pub on_grant: Option<OnGrant>,
    /// Called for each `PUT` before its body is read.
    pub on_put: Option<OnPut>,
}

/// A callback that sees each grant request before it is answered.
pub type OnGrant = Box<dyn FnMut(&GrantRequest) + Send>;

/// The stand-in cloud; stopped on drop.
pub struct Cloud {
    /// The listening address.
    pub addr: SocketAddr,
    tls: bool,
    state: Arc<Mutex<CloudState>>,
    task: tokio::task::JoinHandle<()>,
}

impl Cloud {
    /// Starts the API with a fresh server certificate; it requires a client certificate.
    pub async fn start(pki: &Pki) -> Self {
        Self::start_with(Some(pki.mutual_tls(&pki.ca.server()))).await
    }

    /// Starts the API with this TLS configuration, or in plaintext.
    pub async fn start_with(tls: Option<ServerConfig>) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, tls).await
    }

    /// The same on another address of this machine or of the test's network.
    pub async fn start_at(address: Ipv4Addr, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        // A small receive buffer, so that the sender stops soon after the sink stops reading.
        SockRef::from(&listener).set_recv_buffer_size(16 * 1024).unwrap();
        Self::serving(listener, tls)
    }

    /// The same with the kernel's own receive buffer, as stores have it: a sender fills the way to it.
    pub async fn start_roomy_at(address: Ipv4Addr, tls: Option<ServerConfig>) -> Self {
        Self::serving(TcpListener::bind((address, 0)).await.unwrap(), tls)
    }

    fn serving(listener: TcpListener, tls: Option<ServerConfig>) -> Self {
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(CloudState {
            entitlement: Document::Status(404),
            keyset: Document::Status(404),
            next_grants: VecDeque::new(),
            grants: GrantAnswer::Here,
            next_puts: VecDeque::new(),
            sink: Sink::Swallow,
            redirect: String::new(),
            clock: Clock::Offset(0),
            calls: Vec::new(),
            asked: Vec::new(),
            puts: Vec::new(),
            connections: 0,
            origin: format!("{}://{addr}", if tls.is_some() { "https" } else { "http" }),
            on_grant: None,
            on_put: None,
        }));
        let server = Server { state: state.clone() };
        let is_tls = tls.is_some();
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                server.lock().connections += 1;
                let _ = socket.set_nodelay(true);
                connections.spawn(server.clone().converse(socket, acceptor.clone()));
            }
        });
        Self { addr, tls: is_tls, state, task }
    }

    /// The origin, for configurations and grants.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// The answers and records. Do not hold the guard across an await.
    pub fn lock(&self) -> MutexGuard<'_, CloudState> {
        self.state.lock().unwrap()
    }

    /// Stops the server: it accepts no more connections and closes the open ones.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// Number of requests with this method whose path ends in `end`.
    pub fn count(&self, method: Method, end: &str) -> usize {
        self.lock().calls.iter().filter(|call| call.method == method && call.path.ends_with(end)).count()
    }

    /// Number of requests for the entitlement.
    pub fn entitlement_gets(&self) -> usize {
        self.count(Method::GET, "/entitlement")
    }

    /// Number of grant requests.
    pub fn grants_asked(&self) -> usize {
        self.lock().asked.len()
    }

    /// Waits until `wanted` returns a value.
    pub async fn wait<T>(&self, what: &str, wanted: impl FnMut(&CloudState) -> Option<T>) -> T {
        self.wait_for(what, PATIENCE, wanted).await
    }

    /// The same with an explicit timeout.
    pub async fn wait_for<T>(&self, what: &str, patience: Duration, mut wanted: impl FnMut(&CloudState) -> Option<T>) -> T {
        until(format!("the cloud to see {what}"), patience, || wanted(&self.lock())).await
    }

    /// Waits until `n` uploads are complete. Returns the `n`th.
    pub async fn stored(&self, n: usize) -> Put {
        self.wait(&format!("upload {n}"), |seen| seen.puts.iter().filter(|put| put.complete == Some(true)).nth(n - 1).cloned()).await
    }

    /// Waits until an upload is in progress and has sent `bytes`.
    pub async fn in_flight(&self, bytes: usize) -> Put {
        self.wait("an upload on its way", |seen| seen.puts.iter().find(|put| put.complete.is_none() && put.body.len() >= bytes).cloned())
            .await
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            let seen = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            eprintln!("--- the cloud at {} saw {} connections and {} calls:", self.addr, seen.connections, seen.calls.len());
            seen.calls.iter().rev().take(40).rev().for_each(|call| eprintln!("    {} {}", call.method, call.path));
            seen.puts.iter().for_each(|put| {
                eprintln!("    PUT {} {}/{:?} bytes, complete: {:?}", put.path, put.body.len(), put.announced, put.complete);
            });
        }
    }
}

/// A grant as this server makes it, for tests that change one field.
pub fn grant(url: &str) -> Value {
    json!({ "method": "PUT", "url": url, "headers": { "x-care-test": "verbatim" }, "expires_at": expires() })
}

fn expires() -> String {
    let now = i64::try_from(crate::unix_now()).unwrap();
    jiff::Timestamp::from_second(now + 60).unwrap().to_string()
}

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<CloudState>>,
}

type Answer = Response<Full<Bytes>>;

impl Server {
    fn lock(&self) -> MutexGuard<'_, CloudState> {
        self.state.lock().unwrap()
    }

    async fn converse(self, socket: TcpStream, acceptor: Option<TlsAcceptor>) {
        match acceptor {
            None => self.serve(socket, None).await,
            Some(acceptor) => {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
                self.serve(stream, shown).await;
            }
        }
    }

    async fn serve(self, stream: impl AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static, shown: Option<Vec<u8>>) {
        let service = service_fn(move |request| {
            let (server, shown) = (self.clone(), shown.clone());
            async move { server.answer(request, shown).await }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    /// An error closes the connection without an answer.
    async fn answer(&self, request: Request<Incoming>, shown: Option<Vec<u8>>) -> Result<Answer, io::Error> {
        let method = request.method().clone();
        let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        self.lock().calls.push(Call {
            at: Instant::now(),
            method: method.clone(),
            path: path.clone(),
            headers: request.headers().clone(),
            client_certificate: shown.is_some(),
            certificate: shown,
        });
        let mut answer = match (method, path.as_str()) {
            (Method::GET, "/v1/keyset") => {
                let document = self.lock().keyset.clone();
                hand_out(document).await
            }
            (Method::GET, p) if p.starts_with("/v1/devices/") && p.ends_with("/entitlement") => {
                let document = self.lock().entitlement.clone();
                hand_out(document).await
            }
            (Method::POST, p) if p.starts_with("/v1/devices/") && p.ends_with("/clips") => self.grant(request).await,
            (Method::PUT, p) => self.put(p.to_owned(), request).await?,
            _ => status(404),
        };
        if let Clock::Offset(seconds) = self.lock().clock {
            let now = i64::try_from(crate::unix_now()).unwrap() + seconds;
            answer.headers_mut().insert(DATE, crate::http_date(now).parse().unwrap());
        }
        Ok(answer)
    }

    async fn grant(&self, request: Request<Incoming>) -> Answer {
        let Ok(body) = request.into_body().collect().await else { return status(400) };
        let Ok(asked) = serde_json::from_slice::<GrantRequest>(&body.to_bytes()) else { return status(400) };
        let (answer, nth) = {
            let mut state = self.lock();
            if let Some(hook) = &mut state.on_grant {
                hook(&asked);
            }
            let nth = state.asked.iter().filter(|(_, earlier)| earlier.clip == asked.clip).count();
            state.asked.push((Instant::now(), asked.clone()));
            let default = state.grants.clone();
            (state.next_grants.pop_front().unwrap_or(default), nth)
        };
        match answer {
            GrantAnswer::Here => json_answer(201, &grant(&format!("{}/clips/{}/{nth}", self.lock().origin, asked.clip))),
            GrantAnswer::Stored => json_answer(200, &json!({ "stored": true })),
            GrantAnswer::Status(code) => status(code),
            GrantAnswer::Body(body) => json_answer(201, &body),
            GrantAnswer::Silence => std::future::pending().await,
        }
    }

    async fn put(&self, path: String, request: Request<Incoming>) -> Result<Answer, io::Error> {
        let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let clip = path.split('/').nth(2).unwrap_or_default().to_owned();
        let index = {
            let mut state = self.lock();
            state.puts.push(Put { path, clip, at: Instant::now(), announced, body: Vec::new(), complete: None });
            state.puts.len() - 1
        };
        // If the connection ends, hyper drops this future; the upload is then recorded as incomplete.
        let mut record = Record { server: self.clone(), index, complete: false };
        let mut body = request.into_body();
        let fault = {
            let mut state = self.lock();
            let clip = state.puts[index].clip.clone();
            state.on_put.as_mut().and_then(|on_put| on_put(&clip, announced.unwrap_or_default()))
        };
        match fault {
            Some(PutFault::Early(code)) => return Ok(status(code)),
            Some(PutFault::Stall) => std::future::pending().await,
            Some(PutFault::Reset) => {
                drop(body.frame().await);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(PutFault::Status(_)) | None => {}
        }
        loop {
            let stalled = |state: &CloudState| matches!(state.sink, Sink::StallAfter(n) if state.puts[index].body.len() as u64 >= n);
            while stalled(&self.lock()) {
                // Deliberately reads nothing; hyper notices a closed connection only at the next read.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            match body.frame().await {
                None => break,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lock().puts[index].body.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => return Ok(status(400)),
            }
        }
        if let Some(PutFault::Status(code)) = fault {
            let mut answer = Response::new(Full::from(PUT_FAULT_WORDS));
            *answer.status_mut() = StatusCode::from_u16(code).unwrap();
            return Ok(answer);
        }
        record.complete = true;
        drop(record);
        let mut state = self.lock();
        if let Some(code) = state.next_puts.pop_front() {
            return Ok(status(code));
        }
        Ok(match state.sink {
            Sink::Status(code) => status(code),
            Sink::Redirect => {
                let mut answer = status(307);
                answer.headers_mut().insert(LOCATION, state.redirect.parse().unwrap());
                answer
            }
            Sink::Swallow | Sink::StallAfter(_) => status(200),
        })
    }
}

/// Records how an upload ended, on every path.
struct Record {
    server: Server,
    index: usize,
    complete: bool,
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut state = self.server.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let put = &mut state.puts[self.index];
        put.complete = Some(self.complete && put.announced == Some(put.body.len() as u64));
    }
}

async fn hand_out(document: Document) -> Answer {
    match document {
        Document::Token(token) => {
            let mut answer = Response::new(Full::from(token));
            answer.headers_mut().insert("content-type", "text/plain".parse().unwrap());
            answer
        }
        Document::Status(code) => status(code),
        Document::Silence => std::future::pending().await,
    }
}

fn status(code: u16) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
    answer
}
