//! The agent's status document. Only this file knows its paths and field names.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    task::JoinHandle,
};

use crate::wait::PATIENCE;

const PATH: &str = "/status.json";

/// The status document.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

impl Status {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("the status has no number at {pointer}: {:#}", self.0))
    }

    /// `unbound`, `free`, `paid`, `held`.
    pub fn mode(&self) -> &str {
        self.text("/mode")
    }

    /// The current plan, empty if there is none.
    pub fn plan(&self) -> &str {
        self.text("/plan")
    }

    /// The seq in force, 0 if there is none.
    pub fn seq(&self) -> u64 {
        self.number("/seq")
    }

    /// The keyset's version, 0 if there is none.
    pub fn keyset(&self) -> u64 {
        self.number("/keyset")
    }

    /// Number of state writes since the start.
    pub fn store_writes(&self) -> u64 {
        self.number("/store/writes")
    }

    /// A counter of the spool.
    pub fn spool(&self, field: &str) -> u64 {
        self.number(&format!("/spool/{field}"))
    }

    /// The last upload error, empty if there is none.
    pub fn last_upload_fault(&self) -> &str {
        self.text("/transfers/last_fault")
    }

    /// Complete clips that wait for upload; 0 while one is being recorded.
    pub fn whole_clips(&self) -> u64 {
        let recording = self.0.pointer("/media/clip_running").and_then(Value::as_bool).unwrap_or_default();
        if recording { 0 } else { self.number("/spool/clips") }
    }

    /// Clips being recorded, waiting and in flight.
    pub fn clips_held(&self) -> u64 {
        self.number("/spool/clips")
    }

    /// Days until the device certificate expires.
    pub fn certificate_days_left(&self) -> u64 {
        self.number("/certificate/days_left")
    }

    /// The warnings as text.
    pub fn warnings(&self) -> String {
        self.0["warnings"].to_string()
    }

    /// The named condition, if it holds.
    pub fn condition(&self, name: &str) -> Option<&Value> {
        self.0["conditions"].as_array().into_iter().flatten().find(|condition| condition["name"] == name)
    }

    /// The message of the named condition, empty if it does not hold.
    pub fn sentence(&self, name: &str) -> &str {
        self.condition(name).and_then(|condition| condition["sentence"].as_str()).unwrap_or_default()
    }

    /// The order id for support, empty if there is none.
    pub fn order(&self) -> &str {
        self.text("/order")
    }

    /// Frames written to the SD card, and frames lost. Zero until the camera's stream has started.
    pub fn recorded_and_lost(&self) -> (u64, u64) {
        ["frames", "dropped"].map(|field| self.0["media"]["recording"][field].as_u64().unwrap_or(0)).into()
    }

    /// The whole document as text.
    pub fn text_of_all(&self) -> String {
        self.0.to_string()
    }
}

/// Fetches the status document; `None` if no agent listens.
pub async fn read(socket: &Path) -> Option<Status> {
    let body = ask(socket, PATH).await?;
    Some(Status(
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("GET {PATH} is not JSON ({e}): {}", String::from_utf8_lossy(&body))),
    ))
}

/// Fetches `/metrics`; `None` if no agent listens.
pub async fn metrics(socket: &Path) -> Option<String> {
    let body = ask(socket, "/metrics").await?;
    Some(String::from_utf8(body.into()).expect("the metrics are UTF-8"))
}

/// Fetches the page in this language; `None` if no agent listens.
pub async fn page(socket: &Path, language: &str) -> Option<String> {
    let body = ask_in(socket, "/", language).await?;
    Some(String::from_utf8(body.into()).expect("the page is UTF-8"))
}

async fn ask(socket: &Path, path: &str) -> Option<Bytes> {
    ask_in(socket, path, "en").await
}

async fn ask_in(socket: &Path, path: &str, language: &str) -> Option<Bytes> {
    let answer = async { get_in(UnixStream::connect(socket).await.ok()?, path, language).await };
    tokio::time::timeout(PATIENCE, answer).await.expect("an agent that listens answers")
}

/// Somebody who watches `/live.mp4` until dropped, and keeps nothing of it.
#[derive(Debug)]
pub struct Viewer {
    received: Arc<AtomicU64>,
    reading: JoinHandle<()>,
}

impl Viewer {
    /// Begins to watch. Panics if there is no place or no picture.
    pub async fn of(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).await.expect("the agent listens");
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        let connection = tokio::spawn(connection);
        let request = Request::get("/live.mp4").header("host", "localhost").body(Empty::<Bytes>::new()).expect("a request");
        let mut answer = client.send_request(request).await.expect("an answer");
        assert!(answer.status().is_success(), "/live.mp4: {}", answer.status());
        let received = Arc::new(AtomicU64::new(0));
        let count = received.clone();
        let reading = tokio::spawn(async move {
            // The connection ends with the client.
            let _client = client;
            while let Some(Ok(frame)) = answer.frame().await {
                count.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Relaxed);
            }
            connection.abort();
        });
        Self { received, reading }
    }

    /// How many bytes have come so far.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The body of a document; `None` if the connection fails. Panics if it is refused.
pub(crate) async fn get(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, path: &str) -> Option<Bytes> {
    get_in(stream, path, "en").await
}

async fn get_in(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, path: &str, language: &str) -> Option<Bytes> {
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").header("accept-language", language).body(Empty::<Bytes>::new()).ok()?;
    let answer = client.send_request(request).await.ok()?;
    let ok = answer.status().is_success();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    connection.abort();
    assert!(ok, "GET {path} was refused: {}", String::from_utf8_lossy(&body));
    Some(body)
}
