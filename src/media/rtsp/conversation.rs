//! Requests and their answers on one connection: logging in, the camera's own requests, packets that come before an answer, and the
//! TEARDOWN that a session which began is left with, however it is left. It knows no streams. Called by `playing`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Handle, task::JoinSet, time::timeout};
use url::Url;

use super::{
    connection::Connection,
    fault::Fault,
    login::{Credentials, Login, LoginFault},
    message::{Message, Request, Response},
};

/// How long a camera may take for TEARDOWN while the next session plays.
const TEARDOWN: Duration = Duration::from_secs(5);
/// Packets before the answer to PLAY are kept up to so many bytes: the first keyframe is among them.
const MOST_EARLY: usize = 512 << 10;
/// What each of them takes besides, bytes.
const OVERHEAD: usize = 128;
/// How often one request is sent: without a login, with one, and with one for a nonce that is not too old.
const ATTEMPTS: u32 = 3;

/// An interleaved packet, and when it came.
#[derive(Debug)]
pub(super) struct Interleaved {
    pub channel: u8,
    pub packet: Bytes,
    pub received: Instant,
}

pub(super) struct Conversation {
    /// `None`: it has ended.
    peer: Option<Peer>,
    /// What TEARDOWN names, and keepalives.
    pub base: Url,
    /// Whether there is a session to end.
    began: bool,
    /// Those that came before the answer to PLAY.
    pub early: Vec<Interleaved>,
    teardowns: Arc<Teardowns>,
}

impl Conversation {
    pub fn new(connection: Connection, credentials: Option<Credentials>, url: Url, teardowns: Arc<Teardowns>) -> Self {
        let peer = Some(Peer { connection, login: Login::new(credentials), session: None });
        Self { peer, base: url, began: false, early: Vec::new(), teardowns }
    }

    /// # Errors
    /// It has ended.
    pub fn connection(&mut self) -> Result<&mut Connection, Fault> {
        self.peer.as_mut().map(|peer| &mut peer.connection).ok_or(Fault::Closed)
    }

    /// The camera has named a session. The first name counts.
    pub fn is_in(&mut self, session: Option<String>) {
        if let Some(peer) = self.peer.as_mut().filter(|peer| peer.session.is_none()) {
            peer.session = session;
        }
    }

    /// Sends a request and waits for its answer, which is a success.
    ///
    /// # Errors
    /// What the camera answered, or why there is no answer.
    pub async fn request(&mut self, method: &'static str, url: &Url, headers: &[(&str, &str)]) -> Result<Response, Fault> {
        let peer = self.peer.as_mut().ok_or(Fault::Closed)?;
        let early = (method == "PLAY").then_some(&mut self.early);
        let answered = peer.exchange(method, url, headers, early).await;
        self.began |= method == "SETUP" && answered.is_ok();
        self.kept(answered)
    }

    /// Sends a request whose answer [`Self::answered`] judges.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send(&mut self, method: &'static str) -> Result<(), Fault> {
        let peer = self.peer.as_mut().ok_or(Fault::Closed)?;
        let sent = peer.send(method, &self.base, &[]);
        self.kept(sent.map(drop))
    }

    /// Judges the answer to a request of [`Self::send`]. True: the camera wants another login, and it is worth sending once more.
    pub fn answered(&mut self, response: &Response) -> bool {
        let Some(Peer { login, .. }) = &mut self.peer else { return false };
        if response.status == 401 {
            return login.refused(response).is_ok();
        }
        login.passed();
        false
    }

    /// Answers a request of the camera.
    ///
    /// # Errors
    /// The camera ends the session, or the connection has ended.
    pub fn asked(&mut self, request: &Request) -> Result<(), Fault> {
        let answered = answer(self.connection()?, request);
        self.kept(answered)
    }

    /// Forgets the connection if it has ended: no TEARDOWN would get through.
    pub fn kept<T>(&mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(Fault::Closed | Fault::Broken(_) | Fault::Unread) = result {
            self.peer = None;
        }
        result
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let Some(mut peer) = self.peer.take().filter(|_| self.began) else { return };
        let url = self.base.clone();
        self.teardowns.add(async move {
            let asked = peer.exchange("TEARDOWN", &url, &[], None);
            // The camera forgets the session by itself, too.
            let _ = timeout(TEARDOWN, asked).await;
        });
    }
}

/// What every request needs.
struct Peer {
    connection: Connection,
    login: Login,
    /// The session's id, once the camera has given one.
    session: Option<String>,
}

impl Peer {
    fn send(&mut self, method: &'static str, url: &Url, headers: &[(&str, &str)]) -> Result<u32, Fault> {
        let authorization = self.login.authorization(method, url.as_str());
        let mut all = headers.to_vec();
        all.extend(self.session.as_deref().map(|session| ("Session", session)));
        all.extend(authorization.as_deref().map(|authorization| ("Authorization", authorization)));
        self.connection.request(method, url.as_str(), &all)
    }

    /// Sends a request, again if the camera wants another login, and waits for the answer.
    async fn exchange(
        &mut self,
        method: &'static str,
        url: &Url,
        headers: &[(&str, &str)],
        mut early: Option<&mut Vec<Interleaved>>,
    ) -> Result<Response, Fault> {
        let (mut kept, mut attempts) = (0, 0);
        loop {
            attempts += 1;
            let sequence = self.send(method, url, headers)?;
            let response = loop {
                match self.connection.next().await? {
                    // An answer to an earlier request may still come, to a keepalive. Otherwise one request is answered after the other, and
                    // cameras that number their answers wrongly are understood.
                    Message::Response(response) if !self.connection.is_flushed() || is_late(method, &response, sequence) => {}
                    // Not the last answer (RFC 2326, section 7.1.1).
                    Message::Response(response) if response.status < 200 => {}
                    Message::Response(response) => break response,
                    Message::Request(request) => answer(&mut self.connection, &request)?,
                    Message::Data { channel, packet } => {
                        kept += packet.len() + OVERHEAD;
                        if let Some(early) = early.as_mut().filter(|_| kept <= MOST_EARLY) {
                            early.push(Interleaved { channel, packet, received: self.connection.read_at });
                        }
                    }
                }
            };
            match response.status {
                200..300 => {
                    self.login.passed();
                    return Ok(response);
                }
                401 => {
                    self.login.refused(&response).map_err(Fault::Login)?;
                    if attempts == ATTEMPTS {
                        return Err(Fault::Login(LoginFault::Refused));
                    }
                }
                _ => return Err(Fault::status(&response)),
            }
        }
    }
}

fn is_late(method: &str, response: &Response, sequence: u32) -> bool {
    method == "TEARDOWN" && response.headers.sequence().is_some_and(|answered| answered < sequence)
}

/// Answers a request of the camera: it may ask whether the agent is there, and end the session.
fn answer(connection: &mut Connection, request: &Request) -> Result<(), Fault> {
    let (status, headers, ends) = match request.method.as_str() {
        "OPTIONS" => ("200 OK", "Public: OPTIONS, GET_PARAMETER, REDIRECT, TEARDOWN\r\n", false),
        "GET_PARAMETER" => ("200 OK", "", false),
        "REDIRECT" | "TEARDOWN" => ("200 OK", "", true),
        _ => ("501 Not Implemented", "", false),
    };
    connection.respond(status, request.headers.sequence(), headers)?;
    if ends { Err(Fault::Ended("ended the session")) } else { Ok(()) }
}

/// The TEARDOWNs under way.
pub(super) struct Teardowns {
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

impl Teardowns {
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tasks: Mutex::default() }
    }

    fn add(&self, teardown: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are over take no memory.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(teardown, &self.runtime);
    }

    /// Waits for all of them.
    pub async fn finished(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}
