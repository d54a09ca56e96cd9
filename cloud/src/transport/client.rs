//! The portal of a running care-cloud, as the command line and the demo use it: JSON over plain HTTP on loopback.

use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::http;
use crate::storage::pki::{PkiError, client_config};

/// One request. The portal answers in milliseconds, except where it waits for the broker to start.
const WITHIN: Duration = Duration::from_secs(60);

/// Why the request to the portal failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The client could not be set up.
    #[error(transparent)]
    Tls(#[from] PkiError),
    /// Nothing listens there.
    #[error("connecting to {url}: {why}; is care-cloud running on this --data?")]
    Connect {
        /// The URL.
        url: String,
        /// The cause.
        why: String,
    },
    /// The exchange broke.
    #[error("talking to {url}: {why}")]
    Exchange {
        /// The URL.
        url: String,
        /// The cause.
        why: String,
    },
    /// The portal refused; the message is the portal's.
    #[error("{0}")]
    Refused(String),
}

/// The portal of a running care-cloud, with the credentials of its operator.
#[derive(Debug, Clone)]
pub struct Portal {
    /// `http://…`, on loopback.
    pub origin: String,
    /// The operator's secret from the data directory.
    operator: String,
    http: Client,
}

impl Portal {
    /// The portal at this origin.
    pub fn new(origin: String, operator: String) -> Result<Self, ClientError> {
        Ok(Self { http: plain_client(&origin)?, origin, operator })
    }

    /// GETs a JSON document.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        let url = format!("{}{path}", self.origin);
        exchange(self.http.get(&url).bearer_auth(&self.operator), &url).await
    }

    /// POSTs a JSON document and returns the answer.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, ClientError> {
        let url = format!("{}{path}", self.origin);
        exchange(self.http.post(&url).bearer_auth(&self.operator).json(body), &url).await
    }
}

/// GETs a JSON document that needs no credentials.
pub async fn get(origin: &str, path: &str) -> Result<Value, ClientError> {
    let url = format!("{origin}{path}");
    exchange(plain_client(origin)?.get(&url), &url).await
}

fn plain_client(origin: &str) -> Result<Client, ClientError> {
    // No authority is trusted, so that https:// fails instead of passing unchecked.
    let tls = client_config(b"", None)?;
    http::client(&tls, WITHIN).map_err(|e| ClientError::Exchange { url: origin.to_owned(), why: http::reason(e) })
}

async fn exchange(request: RequestBuilder, url: &str) -> Result<Value, ClientError> {
    let broken = |e: reqwest::Error| ClientError::Exchange { url: url.to_owned(), why: http::reason(e) };
    let answer = request.send().await.map_err(|e| match e.is_connect() {
        true => ClientError::Connect { url: url.to_owned(), why: http::reason(e) },
        false => broken(e),
    })?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(broken)?;
    if !status.is_success() {
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let said = said.as_ref().and_then(|said| said["error"].as_str()).map(str::to_owned);
        return Err(ClientError::Refused(said.unwrap_or_else(|| format!("{url} answered {status}"))));
    }
    serde_json::from_slice(&body).map_err(|e| ClientError::Exchange { url: url.to_owned(), why: e.to_string() })
}
