//! The outermost check: the portal answers only under its own host name, accepts forms only from its own pages, and
//! adds the security headers to every answer.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::Portal;
use crate::clock::now_us;

/// When a request reached the portal, microseconds since 1970: from here a switch is timed.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedAt(pub i64);

const HEADERS: [(HeaderName, HeaderValue); 7] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    // Not `no-referrer`: with that, a browser posts our own forms with `Origin: null`.
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("permissions-policy"), HeaderValue::from_static("camera=(), microphone=(), geolocation=()")),
];

/// The layer.
pub async fn guard(State(portal): State<Arc<Portal>>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(ReceivedAt(now_us()));
    if !is_ours(request.headers(), portal.origin.as_deref()) {
        return (StatusCode::FORBIDDEN, "open the portal by its own address\n").into_response();
    }
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    headers.extend(HEADERS);
    headers.insert(header::CONTENT_SECURITY_POLICY, portal.content_policy.clone());
    if portal.is_secure() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    answer
}

/// The content security policy: only what this portal serves, and no inline script or style.
pub fn content_policy(media_elsewhere: Option<&str>) -> HeaderValue {
    let media = media_elsewhere.map(|origin| format!(" {origin}")).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{media}; media-src 'self'{media}; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    HeaderValue::from_str(&policy).expect("an origin is printable ASCII")
}

/// Whether the request names this portal's host and, if a page sent it, comes from one of its pages: under the given
/// origin, or a loopback address. Any other name that resolves to this host is refused (DNS rebinding).
pub fn is_ours(headers: &HeaderMap, origin: Option<&str>) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    let Some(host) = text(header::HOST) else { return false };
    let sent_by = text(header::ORIGIN);
    // A proxy passes on its own host name; programs on this machine connect directly.
    if let Some((_, name)) = origin.and_then(|origin| origin.split_once("://"))
        && name == host
    {
        return sent_by.is_none_or(|sent_by| Some(sent_by) == origin);
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let loopback = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback && sent_by.is_none_or(|sent_by| sent_by.strip_prefix("http://") == Some(host))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn ours(host: &str, sent_by: Option<&str>, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(sent_by) = sent_by {
            headers.insert(header::ORIGIN, sent_by.parse().unwrap());
        }
        is_ours(&headers, origin)
    }

    #[test]
    fn only_our_own_pages_under_our_own_name() {
        for host in ["127.0.0.1:8480", "localhost:8480", "[::1]:8480"] {
            assert!(ours(host, None, None) && ours(host, Some(&format!("http://{host}")), None), "{host}");
            for other in ["http://evil.example", "null", "https://127.0.0.1:8480", "http://127.0.0.1:1"] {
                assert!(!ours(host, Some(other), None), "{host} {other}");
            }
        }
        assert!(!ours("evil.example", None, None));
    }

    #[test]
    fn behind_a_proxy_its_name_is_ours() {
        let origin = Some("https://care.example");
        assert!(ours("care.example", Some("https://care.example"), origin));
        assert!(!ours("care.example", Some("http://care.example"), origin));
        assert!(!ours("evil.example", None, origin));
        assert!(ours("127.0.0.1:8480", None, origin), "the command line");
    }

    #[test]
    fn no_page_may_run_what_it_holds_itself() {
        let policy = content_policy(Some("https://s3.example"));
        let policy = policy.to_str().unwrap();
        assert!(!policy.contains("unsafe") && policy.starts_with("default-src 'none'"), "{policy}");
        assert!(policy.contains("media-src 'self' https://s3.example;"), "{policy}");
    }
}
