//! A scriptable HTTPS API and clip store (docs/protocol.md#https) in the test's own process, with mutual TLS. Tests set every answer and
//! read every request and body byte.

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

/// What a `GET` is answered with.
#[derive(Debug, Clone)]
pub enum Document {
    /// 200 and this token.
    Token(String),
    /// Another status without a body.
    Status(u16),
    /// Nothing, until the client gives up.
    Silence,
}

/// What a grant request is answered with.
#[derive(Debug, Clone)]
pub enum GrantAnswer {
    /// 201 with a URL at this server.
    Here,
    /// 200: the clip is there already.
    Stored,
    /// Another status without a body.
    Status(u16),
    /// 201 with this body.
    Body(Value),
    /// Nothing, until the client gives up.
    Silence,
}

/// What happens to a `PUT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Read it all and answer 200.
    Swallow,
    /// Stop reading after so many bytes, until [`Sink`] is set to something else.
    StallAfter(u64),
    /// Answer this status once the body is there.
    Status(u16),
    /// Answer 307 to another place, kept in [`CloudState::redirect`].
    Redirect,
}

/// What befalls one clip's `PUT` and no other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutFault {
    /// This status, with a few words, once the body is there.
    Status(u16),
    /// This status before anything of the body was read, as proxies do; then the connection is closed.
    Early(u16),
    /// The connection ends in the middle of the body, without an answer.
    Reset,
    /// Nothing of the body is read.
    Stall,
}

/// What decides by clip and announced length whether a `PUT` has a fault of its own.
pub type OnPut = Box<dyn FnMut(&str, u64) -> Option<PutFault> + Send>;

/// What such an answer says.
pub const PUT_FAULT_WORDS: &str = "the store does not like this clip";

/// The `Date` of every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The machine's, moved by so many seconds.
    Offset(i64),
    /// None.
    Absent,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Call {
    /// When.
    pub at: Instant,
    /// `GET`, `POST`, `PUT`.
    pub method: Method,
    /// The path with its query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Whether the client showed a certificate.
    pub client_certificate: bool,
    /// That certificate, DER.
    pub certificate: Option<Vec<u8>>,
}

/// One `PUT`, as far as it has come.
#[derive(Debug, Clone)]
pub struct Put {
    /// The path, which ends in the clip's id and how many grants it had before.
    pub path: String,
    /// The clip's id.
    pub clip: String,
    /// When it began.
    pub at: Instant,
    /// The announced length.
    pub announced: Option<u64>,
    /// The bytes so far.
    pub body: Vec<u8>,
    /// How it ended: `None` while it runs, then whether the body was complete.
    pub complete: Option<bool>,
}

/// What the cloud answers, and what it has seen.
pub struct CloudState {
    /// `GET /v1/devices/{id}/entitlement`
    pub entitlement: Document,
    /// `GET /v1/keyset`
    pub keyset: Document,
    /// Answers to the next grant requests, one each.
    pub next_grants: VecDeque<GrantAnswer>,
    /// The answer to the rest.
    pub grants: GrantAnswer,
    /// Statuses for the next `PUT`s, one each.
    pub next_puts: VecDeque<u16>,
    /// What happens to the rest.
    pub sink: Sink,
    /// Where [`Sink::Redirect`] points.
    pub redirect: String,
    /// The `Date` header.
    pub clock: Clock,
    /// Every request.
    pub calls: Vec<Call>,
    /// Every grant request, with when it came.
    pub asked: Vec<(Instant, GrantRequest)>,
    /// Every upload.
    pub puts: Vec<Put>,
    /// TCP connections so far.
    pub connections: usize,
    /// What grants name as this cloud's origin: its own address, unless the camera comes by another way.
    pub origin: String,
    /// Called with every grant request before it is answered.
    pub on_grant: Option<OnGrant>,
    /// Asked about every `PUT` before its body is read.
    pub on_put: Option<OnPut>,
}

/// What looks at a grant request before it is answered.
pub type OnGrant = Box<dyn FnMut(&GrantRequest) + Send>;

/// The stand-in cloud; gone when dropped.
pub struct Cloud {
    /// Where it listens.
    pub addr: SocketAddr,
    tls: bool,
    state: Arc<Mutex<CloudState>>,
    task: tokio::task::JoinHandle<()>,
}

impl Cloud {
    /// The API with a fresh server certificate, asking for the client's.
    pub async fn start(pki: &Pki) -> Self {
        Self::start_with(Some(pki.mutual_tls(&pki.ca.server()))).await
    }

    /// With this TLS, or plaintext.
    pub async fn start_with(tls: Option<ServerConfig>) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, tls).await
    }

    /// The same at another address of this machine, or of the test's own network.
    pub async fn start_at(address: Ipv4Addr, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        // So that a sink that stops reading stops the sender soon.
        SockRef::from(&listener).set_recv_buffer_size(16 * 1024).unwrap();
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

    /// Its origin, for a configuration or a grant.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// Its answers and records, to read and to set. Never hold it across a wait.
    pub fn lock(&self) -> MutexGuard<'_, CloudState> {
        self.state.lock().unwrap()
    }

    /// Stops answering: no connection is taken any more, those that stand are closed.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// How many requests of this method have a path that ends in `end`.
    pub fn count(&self, method: Method, end: &str) -> usize {
        self.lock().calls.iter().filter(|call| call.method == method && call.path.ends_with(end)).count()
    }

    /// How many times the entitlement was asked for.
    pub fn entitlement_gets(&self) -> usize {
        self.count(Method::GET, "/entitlement")
    }

    /// How many grants were asked for.
    pub fn grants_asked(&self) -> usize {
        self.lock().asked.len()
    }

    /// Waits until the records give a value.
    pub async fn wait<T>(&self, what: &str, wanted: impl FnMut(&CloudState) -> Option<T>) -> T {
        self.wait_for(what, PATIENCE, wanted).await
    }

    /// The same with a patience of one's own.
    pub async fn wait_for<T>(&self, what: &str, patience: Duration, mut wanted: impl FnMut(&CloudState) -> Option<T>) -> T {
        until(format!("the cloud to see {what}"), patience, || wanted(&self.lock())).await
    }

    /// Waits for the `n`th upload to be complete, counted from 1.
    pub async fn stored(&self, n: usize) -> Put {
        self.wait(&format!("upload {n}"), |seen| seen.puts.iter().filter(|put| put.complete == Some(true)).nth(n - 1).cloned()).await
    }

    /// Waits until an upload is on its way and has brought `bytes`.
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

/// A grant as this cloud makes it, to change a field of.
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

    /// An error ends the connection without an answer.
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
        // If the connection dies, hyper drops this future: then the upload is incomplete.
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
                // Not reading is the point; hyper notices a dead peer only when it reads again.
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

/// Sets how an upload ended, whichever way it ends.
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
