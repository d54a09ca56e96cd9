//! Gets one JPEG of the camera's firmware over HTTP, within bounds, and logs in where it asks for that. Called by the snapshot thread
//! and `trial`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::Empty;
use tokio::{runtime::Runtime, time::Instant};

use super::jpeg::{self, Dimensions};
use crate::{
    config::SnapshotUrl,
    http::{self as client, Answer, Direct, Fault, Origin},
    media::rtsp::{Credentials, Login, LoginFault},
};

/// How long it may take, logins included. The snapshot is of an event that is going on.
const WITHIN: Duration = Duration::from_millis(1500);
/// The largest picture, bytes.
const LARGEST: usize = 2 << 20;
/// How often it is asked for: without a login, with one, and with one for a newer nonce.
const ATTEMPTS: u32 = 3;

/// A picture of the camera's own.
#[derive(Debug)]
pub(super) struct Jpeg {
    pub bytes: Bytes,
    pub dimensions: Dimensions,
}

/// The camera's snapshot service.
pub(super) struct Service {
    url: SnapshotUrl,
    origin: Origin,
    login: Login,
    runtime: Runtime,
}

impl Service {
    /// # Errors
    /// The system gives no runtime.
    pub fn new(url: SnapshotUrl) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(1).build()?;
        let credentials = url.credentials().map(|(user, password)| Credentials { user, password });
        Ok(Self { origin: Origin { endpoint: url.endpoint(), tls: None }, login: Login::new(credentials), url, runtime })
    }

    /// One picture.
    ///
    /// # Errors
    /// Why there is none, without secrets.
    pub fn picture(&mut self) -> Result<Jpeg, String> {
        let Self { url, origin, login, runtime } = self;
        runtime.block_on(fetch(url, origin, login)).map_err(|why| url.hide_in(&why))
    }
}

async fn fetch(url: &SnapshotUrl, origin: &Origin, login: &mut Login) -> Result<Jpeg, String> {
    let (deadline, target) = (Instant::now() + WITHIN, url.target());
    for _ in 0..ATTEMPTS {
        let answer = ask(origin, &target, login, deadline).await.map_err(|fault| fault.to_string())?;
        match answer.status {
            200 => {
                login.passed();
                return read(answer);
            }
            401 => login.asked(&challenges(&answer)).map_err(|fault| unauthorized(&fault))?,
            404 => return Err("the camera has nothing at this path (404)".into()),
            status => return Err(format!("the camera answers {status}")),
        }
    }
    Err(unauthorized(&LoginFault::Refused))
}

async fn ask(origin: &Origin, target: &str, login: &mut Login, deadline: Instant) -> Result<Answer, Fault> {
    let mut headers = HeaderMap::new();
    let authorization = login.authorization("GET", target).and_then(|value| HeaderValue::try_from(value).ok());
    headers.extend(authorization.map(|value| (header::AUTHORIZATION, value)));
    let request = client::request("GET", &origin.endpoint, target, headers, Empty::<Bytes>::new())?;
    client::open(&Direct, origin, deadline).await?.send_by(request, LARGEST, deadline).await
}

fn challenges(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect()
}

fn read(answer: Answer) -> Result<Jpeg, String> {
    let kind = answer.headers.get(header::CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase());
    // Some name none, or that of any bytes.
    if let Some(kind) = kind.filter(|kind| !kind.starts_with("image/") && !kind.starts_with("application/octet-stream")) {
        let kind: String = kind.chars().filter(|c| !c.is_control()).take(60).collect();
        return Err(format!("the camera's answer is {kind} instead of a JPEG"));
    }
    let dimensions = jpeg::dimensions(&answer.body).map_err(|why| format!("the camera's answer {why}"))?;
    Ok(Jpeg { bytes: answer.body, dimensions })
}

fn unauthorized(fault: &LoginFault) -> String {
    match fault {
        LoginFault::NoCredentials => "the camera asks for a user and password (401), and the address has none".into(),
        LoginFault::Unsupported(_) => "the camera asks for a kind of login that is not supported: choose digest or basic".into(),
        LoginFault::Refused => "the camera refuses the user or password (401)".into(),
    }
}
