//! A small HTTP client for the portal of a running care-cloud: what the command line and the demo use. Plain HTTP on
//! loopback only.

use axum::http::{Request, header, request::Builder};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;

/// What can go wrong on the way.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("connecting to {url}: {source}; is care-cloud running on this --data?")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// The exchange broke.
    #[error("talking to {url}: {why}")]
    Exchange {
        /// With whom.
        url: String,
        /// Why.
        why: String,
    },
    /// The portal said no; its words are for the person who asked.
    #[error("{0}")]
    Refused(String),
}

/// The portal of a running care-cloud, and what it knows us by.
#[derive(Debug, Clone)]
pub struct Portal {
    /// `http://…`, on loopback.
    pub origin: String,
    /// The operator's secret from the data directory.
    pub operator: String,
}

impl Portal {
    /// GETs a JSON document.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        exchange(&self.origin, path, self.authorised(Request::get(path)).body(Full::default())).await
    }

    /// POSTs a JSON document and reads the answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        let request = self.authorised(Request::post(path)).header(header::CONTENT_TYPE, "application/json");
        exchange(&self.origin, path, request.body(Full::from(body.to_string()))).await
    }

    fn authorised(&self, request: Builder) -> Builder {
        request.header(header::AUTHORIZATION, format!("Bearer {}", self.operator))
    }
}

/// GETs a JSON document that is there for everyone.
pub async fn get(origin: &str, path: &str) -> Result<Value, ClientError> {
    exchange(origin, path, Request::get(path).body(Full::default())).await
}

async fn exchange(origin: &str, path: &str, request: Result<Request<Full<Bytes>>, axum::http::Error>) -> Result<Value, ClientError> {
    let url = format!("{origin}{path}");
    let broken = |why: &dyn std::fmt::Display| ClientError::Exchange { url: url.clone(), why: why.to_string() };
    let mut request = request.map_err(|e| broken(&e))?;
    let host = origin.strip_prefix("http://").ok_or_else(|| broken(&"only http:// is spoken here"))?;
    request.headers_mut().insert(header::HOST, host.parse().map_err(|e| broken(&e))?);
    let stream = TcpStream::connect(host).await.map_err(|source| ClientError::Connect { url: url.clone(), source })?;
    // Without it the request would only be a little later.
    drop(stream.set_nodelay(true));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
    if !status.is_success() {
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let said = said.as_ref().and_then(|said| said["error"].as_str()).map(str::to_owned);
        return Err(ClientError::Refused(said.unwrap_or_else(|| format!("{url} answered {status}"))));
    }
    serde_json::from_slice(&body).map_err(|e| broken(&e))
}
