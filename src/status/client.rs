//! Asks a running agent for its status, over the port or socket in the configuration. The commands `status`, `support`
//! and `check-config` use it.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, UnixStream},
    runtime,
    time::timeout,
};

use crate::{config::Listen, http::Stream, supervision::ServiceManager};

/// The time limit for an answer.
const WITHIN: Duration = Duration::from_secs(5);
/// The largest answer that is read, bytes.
const ANSWER_MOST: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent listens.
    #[error("no agent answers at {at}: {why}; is it running? ({see})", see = ServiceManager::here().see())]
    Unreachable {
        /// Where.
        at: String,
        /// The system's error.
        why: io::Error,
    },
    /// It listens but does not answer.
    #[error("the agent at {at} did not answer within {} s; see its log", WITHIN.as_secs())]
    Slow {
        /// Where.
        at: String,
    },
    /// What answers has no such document.
    #[error("what answers at {at} has no {path} (404): it is not the agent, or one of another version; try status --json")]
    Missing {
        /// Where.
        at: String,
        /// The document.
        path: String,
    },
    /// Something else answers.
    #[error("what answers at {at} is not the agent's status page: {what}")]
    NotTheAgent {
        /// Where.
        at: String,
        /// The answer.
        what: String,
    },
    /// The runtime cannot be started.
    #[error("cannot ask: {0}")]
    Start(io::Error),
}

/// The body of `path` (such as `/status.json`), unchanged.
///
/// # Errors
/// No answer in time, or a status other than 200.
pub fn ask(listen: &Listen, path: &str) -> Result<Bytes, AskError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(AskError::Start)?;
    let (at, host) = match listen {
        Listen::Tcp(address) => (address.to_string(), address.to_string()),
        Listen::Unix(path) => (format!("unix:{}", path.display()), "localhost".to_owned()),
    };
    let asked = async {
        let unreachable = |why| AskError::Unreachable { at: at.clone(), why };
        // One type for both: hyper's code is large, and would be in the program for each.
        let stream: Box<dyn Stream> = match listen {
            Listen::Tcp(address) => Box::new(TcpStream::connect(address).await.map_err(unreachable)?),
            Listen::Unix(socket) => Box::new(UnixStream::connect(socket).await.map_err(unreachable)?),
        };
        fetch(stream, &host, path, &at).await
    };
    // A timeout must be created inside the runtime.
    let answered = runtime.block_on(async { timeout(WITHIN, asked).await });
    answered.unwrap_or_else(|_| Err(AskError::Slow { at: at.clone() }))
}

async fn fetch(stream: Box<dyn Stream>, host: &str, path: &str, at: &str) -> Result<Bytes, AskError> {
    let not_the_agent = |what: String| AskError::NotTheAgent { at: at.to_owned(), what };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| not_the_agent(error.to_string()))?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new()).map_err(|error| not_the_agent(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| not_the_agent(error.to_string()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_MOST).collect().await.map_err(|error| not_the_agent(error.to_string()))?.to_bytes();
    connection.abort();
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND => Err(AskError::Missing { at: at.to_owned(), path: path.to_owned() }),
        _ => Err(not_the_agent(format!("it answers {status}"))),
    }
}
