//! One small HTTP/1.1 client over sockets of our own: the agent must hold the socket to be able to cut it, and reports
//! in which stage a call failed. The engine's polls ([`get`]), grants and PUTs use it; the link to the broker connects
//! through it too. One connection carries one request, but for the parts of a clip; redirects are not followed.

mod avoided;
mod connect;
mod dialer;
mod exchange;
mod fault;
mod race;

use std::{error::Error as StdError, fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use care_engine::trusted_time::HeardDate;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tokio::time::Instant;

use crate::{config::Endpoint, tls};

pub(crate) use avoided::Avoided;
pub(crate) use connect::resolve;
pub use connect::{Stream, connect, open};
pub use dialer::{Dialer, Direct, DirectGuard, Guard};
pub(crate) use dialer::{begin_connect, new_socket};
pub(crate) use exchange::Session;
pub use exchange::{AnyBody, Connection};
pub use fault::{Fault, Stage, Stale};
pub use race::{Tried, Unreachable, Why};
pub(crate) use race::{peer_name, tls_advice};

/// A server's address, and the TLS settings for it.
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
    /// The `Date` header, since 1970; one that is no HTTP date (RFC 9110) counts as absent.
    pub date: Option<Duration>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, within the caller's limit.
    pub body: Bytes,
    /// The peer that answered.
    pub peer: SocketAddr,
    /// The earliest end of the server's certificates, since 1970; [`LATEST`](care_engine::trusted_time::LATEST) without TLS.
    pub valid_until: Duration,
}

impl Answer {
    /// Its `Date`, for the clock; `sent` is when the request was sent, on BOOTTIME.
    pub fn heard_date(&self, sent: Duration) -> Option<HeardDate> {
        self.date.map(|date| HeardDate { date, sent, valid_until: self.valid_until })
    }
}

/// Sends GET `path` to `origin`. The answer may have `limit` bytes, and the whole call may take `timeout`. Redirects
/// are not followed.
pub async fn get(origin: &Origin, path: &str, limit: usize, timeout: Duration) -> Result<Answer, Fault> {
    let deadline = Instant::now() + timeout;
    let request = request("GET", &origin.endpoint, path, HeaderMap::new(), Empty::<Bytes>::new())?;
    open(&Direct, origin, deadline).await?.send_by(request, limit, deadline).await
}

/// A request for `path` at `endpoint`; `headers` are sent verbatim, `Host` is added here.
pub(crate) fn request<B>(method: &str, endpoint: &Endpoint, path: &str, headers: HeaderMap, body: B) -> Result<Request<AnyBody>, Fault>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    let broken = |error: &dyn fmt::Display| Fault::Http { host: endpoint.host.clone(), reason: error.to_string() };
    let body = body.map_err(Into::into).boxed_unsync();
    let mut request = Request::builder().method(method).uri(path).body(body).map_err(|e| broken(&e))?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(&authority(endpoint)).map_err(|e| broken(&e))?;
    request.headers_mut().insert(header::HOST, host);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_only_where_it_is_not_the_schemes_own() {
        let named = |host: &str, port, tls| authority(&Endpoint { host: host.into(), port, tls });
        assert_eq!(named("care.example", 443, true), "care.example");
        assert_eq!(named("care.example", 80, true), "care.example:80");
        assert_eq!(named("127.0.0.1", 80, false), "127.0.0.1");
        assert_eq!(named("::1", 8443, true), "[::1]:8443");
    }
}
