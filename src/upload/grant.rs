//! Where a grant may send a clip (`docs/protocol.md#grants`). Each rule here is checked before a socket is opened to
//! the address that the grant names. A grant that breaks one is reported, and no byte is sent. No I/O.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use care_protocol::Grant;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::Scheme};
use thiserror::Error;

use crate::config::Endpoint;

/// The longest lifetime of a grant, even if it states a longer one.
const LONGEST_LIFE: Duration = Duration::from_secs(60);

/// The rule that a grant breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("the grant cannot be read: {0}")]
    Unreadable(String),
    #[error("the grant's method is {0:?}, not PUT")]
    Method(String),
    #[error("the grant's url is not an absolute https URL")]
    Url,
    #[error("the grant's url carries user information")]
    UserInfo,
    #[error("the grant's url is http")]
    NotHttps,
    #[error("the grant names {host}:{port}, which is neither cloud.url's origin nor in [store] hosts")]
    ForeignHost { host: String, port: u16 },
    #[error("the grant sets the header {0}")]
    Header(String),
    #[error("the grant's host is at {0}, a loopback, link-local or private address, and cloud.url's is not")]
    Address(IpAddr),
    #[error("{0} answered with a redirect; they are not followed")]
    Redirect(String),
}

/// Where a clip may be uploaded, checked by every rule but the one on IP addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    /// Whether it is `cloud.url`'s origin, with its TLS settings and our client certificate.
    pub(super) same_origin: bool,
    /// Path and query, verbatim.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

impl Target {
    /// Checks a grant.
    pub(super) fn of(grant: &Grant, cloud: &Endpoint, hosts: Option<&BTreeSet<(String, u16)>>) -> Result<Self, Violation> {
        if grant.method != "PUT" {
            return Err(Violation::Method(grant.method.clone()));
        }
        let url: Uri = grant.url.parse().map_err(|_| Violation::Url)?;
        let authority = url.authority().ok_or(Violation::Url)?;
        if authority.as_str().contains('@') {
            return Err(Violation::UserInfo);
        }
        let tls = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(Violation::Url),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let well_formed = !host.is_empty() && (authority.port().is_some() || !authority.as_str().ends_with(':'));
        if !well_formed {
            return Err(Violation::Url);
        }
        let same_origin = tls == cloud.tls && port == cloud.port && host == cloud.host.to_ascii_lowercase();
        if !tls && !same_origin {
            return Err(Violation::NotHttps);
        }
        let listed = hosts.is_some_and(|hosts| hosts.contains(&(host.clone(), port)));
        if !same_origin && !listed {
            return Err(Violation::ForeignHost { host, port });
        }
        let path = url.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Ok(Self { endpoint: Endpoint { host, port, tls }, same_origin, path, headers: headers(grant)? })
    }

    /// Checks the addresses that its name resolved to against that of `cloud.url`.
    pub(super) fn may_be_at(&self, addresses: &[SocketAddr], cloud: SocketAddr) -> Result<(), Violation> {
        if self.same_origin || is_local(cloud.ip()) {
            return Ok(());
        }
        match addresses.iter().map(SocketAddr::ip).find(|address| is_local(*address)) {
            Some(address) => Err(Violation::Address(address)),
            None => Ok(()),
        }
    }
}

fn headers(grant: &Grant) -> Result<HeaderMap, Violation> {
    const OURS: [HeaderName; 4] = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
    let mut headers = HeaderMap::new();
    for (name, value) in &grant.headers {
        let refused = || Violation::Header(name.escape_default().to_string());
        let name_on_wire = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        if OURS.contains(&name_on_wire) {
            return Err(refused());
        }
        let mut value = HeaderValue::from_str(value).map_err(|_| refused())?;
        value.set_sensitive(true);
        headers.append(name_on_wire, value);
    }
    Ok(headers)
}

/// How long a grant may be used, counted from `date` (since 1970), when the cloud answered.
pub(super) fn life(grant: &Grant, date: Duration) -> Duration {
    let expires = Duration::try_from(grant.expires_at.as_duration()).unwrap_or_default();
    expires.saturating_sub(date).min(LONGEST_LIFE)
}

/// Loopback, link-local, private, or otherwise not a public internet address.
pub(crate) fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_local_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| is_local_v6(v6), is_local_v4),
    }
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && (64..128).contains(&b); // RFC 6598: behind a carrier's NAT
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || a == 0 // "this host": connects to ourselves
        || shared
}

fn is_local_v6(address: Ipv6Addr) -> bool {
    // `::a.b.c.d` was once an IPv4 address too; the deprecated form reaches nothing on the internet.
    let compatible = address.segments()[..6] == [0; 6];
    let site_local = address.segments()[0] & 0xffc0 == 0xfec0;
    let [.., a, b, c, d] = address.octets();
    let translated = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]; // RFC 6052: an IPv4 address behind NAT64
    compatible
        || (translated && is_local_v4(Ipv4Addr::new(a, b, c, d)))
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_multicast()
        || site_local
}

/// Reads and checks an arbitrary API answer as a grant, for `fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_grant(input: &[u8]) -> crate::fuzzing::Verdict {
    use crate::fuzzing::Verdict;

    if care_protocol::Stored::read(input).is_ok() {
        return Verdict::Accepted;
    }
    let Ok(grant) = Grant::read(input) else { return Verdict::Refused };
    let cloud = Endpoint { host: "care.example".into(), port: 8443, tls: true };
    let hosts = BTreeSet::from([("clips.example".to_owned(), 443), ("other.example".to_owned(), 9000)]);
    let target = match Target::of(&grant, &cloud, Some(&hosts)) {
        Ok(target) => target,
        Err(violation) => {
            assert!(!violation.to_string().is_empty());
            return Verdict::Refused;
        }
    };
    let Endpoint { host, port, tls } = &target.endpoint;
    assert!(*tls && (target.same_origin || hosts.contains(&(host.clone(), *port))), "{target:?}");
    assert!(target.path.starts_with('/') || target.path == "*", "{target:?}");
    assert!(!target.headers.contains_key(header::HOST) && !target.headers.contains_key(header::CONTENT_LENGTH));
    assert!(life(&grant, Duration::from_secs(1_767_225_600)) <= LONGEST_LIFE);
    // It is sent as a valid request, or not at all.
    let request = crate::http::request("PUT", &target.endpoint, &target.path, target.headers.clone(), http_body_util::Empty::new());
    Verdict::of(request.is_ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;

    const PUBLIC: &str = "203.0.113.7:443";

    fn cloud() -> Endpoint {
        Endpoint { host: "care.example".into(), port: 8443, tls: true }
    }

    fn hosts() -> BTreeSet<(String, u16)> {
        BTreeSet::from([("clips.example".into(), 443), ("other.example".into(), 9000)])
    }

    fn grant(url: &str) -> Grant {
        let expires_at = Timestamp::from_second(1_767_225_660).unwrap();
        Grant { method: "PUT".into(), url: url.into(), headers: BTreeMap::new(), expires_at }
    }

    fn judge(url: &str) -> Result<Target, Violation> {
        Target::of(&grant(url), &cloud(), Some(&hosts()))
    }

    fn foreign(host: &str, port: u16) -> Result<Target, Violation> {
        Err(Violation::ForeignHost { host: host.into(), port })
    }

    #[test]
    fn the_same_origin_may_be_named_whatever_the_host_list_says() {
        let target = Target::of(&grant("https://Care.example:8443/b/k?X-Amz-Signature=a%2Fb"), &cloud(), None).unwrap();
        assert!(target.same_origin);
        assert_eq!(target.path, "/b/k?X-Amz-Signature=a%2Fb");
        assert_eq!(target.endpoint, cloud());
    }

    #[test]
    fn another_host_or_port_must_be_listed() {
        let target = judge("https://clips.example/k").unwrap();
        assert!(!target.same_origin);
        assert_eq!(target.endpoint, Endpoint { host: "clips.example".into(), port: 443, tls: true });
        assert!(judge("https://other.example:9000/k").is_ok());
        assert_eq!(judge("https://other.example/k"), foreign("other.example", 443));
        assert_eq!(judge("https://clips.example:9000/k"), foreign("clips.example", 9000));
        assert_eq!(judge("https://care.example/k"), foreign("care.example", 443));
        assert_eq!(judge("https://evil.example/k"), foreign("evil.example", 443));
        assert_eq!(judge("https://clips.example.evil.example/k"), foreign("clips.example.evil.example", 443));
        assert_eq!(judge("https://clips.example./k"), foreign("clips.example.", 443));
        assert_eq!(Target::of(&grant("https://clips.example/k"), &cloud(), None), foreign("clips.example", 443));
    }

    #[test]
    fn http_is_refused_even_to_a_listed_host() {
        assert_eq!(judge("http://clips.example:443/k"), Err(Violation::NotHttps));
        assert_eq!(judge("http://care.example:8443/k"), Err(Violation::NotHttps));
        for url in ["ftp://clips.example/k", "file:///etc/passwd", "/k", "", "https:///k", "https://clips.example:/k", "https://[::1/k"] {
            assert_eq!(judge(url), Err(Violation::Url), "{url}");
        }
    }

    #[test]
    fn http_is_allowed_to_the_same_origin_on_loopback() {
        let cloud = Endpoint { host: "127.0.0.1".into(), port: 8080, tls: false };
        assert!(Target::of(&grant("http://127.0.0.1:8080/k"), &cloud, None).unwrap().same_origin);
        assert_eq!(Target::of(&grant("http://127.0.0.1:8081/k"), &cloud, None), Err(Violation::NotHttps));
        let cloud = Endpoint { host: "::1".into(), port: 8080, tls: false };
        assert!(Target::of(&grant("http://[::1]:8080/k"), &cloud, None).unwrap().same_origin);
    }

    #[test]
    fn user_information_is_refused() {
        assert_eq!(judge("https://clips.example@evil.example/k"), Err(Violation::UserInfo));
        assert_eq!(judge("https://a:b@clips.example/k"), Err(Violation::UserInfo));
    }

    #[test]
    fn only_put_is_a_method() {
        for method in ["POST", "put", "", "DELETE"] {
            let grant = Grant { method: method.into(), ..grant("https://clips.example/k") };
            assert_eq!(Target::of(&grant, &cloud(), Some(&hosts())), Err(Violation::Method(method.into())));
        }
    }

    #[test]
    fn our_own_headers_may_not_be_set_and_others_go_out_verbatim() {
        let with = |name: &str, value: &str| {
            let headers = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            Target::of(&Grant { headers, ..grant("https://clips.example/k") }, &cloud(), Some(&hosts()))
        };
        for name in ["Host", "host", "Content-Length", "TRANSFER-ENCODING", "connection"] {
            assert_eq!(with(name, "1"), Err(Violation::Header(name.into())));
        }
        assert_eq!(with("a b", "1"), Err(Violation::Header("a b".into())));
        assert_eq!(with("x", "1\r\nHost: evil.example"), Err(Violation::Header("x".into())));
        assert_eq!(with("x-amz-meta-a", " 1 ;2").unwrap().headers["x-amz-meta-a"], " 1 ;2");
    }

    #[test]
    fn a_local_address_is_refused_unless_the_cloud_is_at_one() {
        let target = judge("https://clips.example/k").unwrap();
        let at = |address: &str| -> SocketAddr { address.parse().unwrap() };
        let local = [
            "127.0.0.1:443",
            "127.8.8.8:443",
            "10.0.0.1:443",
            "172.31.0.1:443",
            "192.168.1.1:443",
            "169.254.169.254:443",
            "100.64.0.1:443",
            "0.0.0.0:443",
            "255.255.255.255:443",
            "224.0.0.1:443",
            "[::1]:443",
            "[::]:443",
            "[fe80::1]:443",
            "[fd00::1]:443",
            "[fec0::1]:443",
            "[ff02::1]:443",
            "[::ffff:10.0.0.1]:443",
            "[::127.0.0.1]:443",
            "[64:ff9b::a00:1]:443",
        ];
        for address in local.map(at) {
            let refused = Err(Violation::Address(address.ip()));
            assert_eq!(target.may_be_at(&[address], at(PUBLIC)), refused);
            assert_eq!(target.may_be_at(&[at(PUBLIC), address], at(PUBLIC)), refused, "one local address among others is enough");
            assert_eq!(target.may_be_at(&[address], at("192.168.1.2:8443")), Ok(()));
        }
        for address in [PUBLIC, "172.32.0.1:443", "100.128.0.1:443", "[2001:db8::1]:443", "[64:ff9b::808:808]:443"].map(at) {
            assert_eq!(target.may_be_at(&[address], at(PUBLIC)), Ok(()));
        }
        let same_origin = judge("https://care.example:8443/k").unwrap();
        assert_eq!(same_origin.may_be_at(&[at("10.0.0.1:8443")], at(PUBLIC)), Ok(()));
    }

    #[test]
    fn a_grant_lives_from_date_to_its_end_and_a_minute_at_most() {
        let grant = grant("https://clips.example/k");
        let ends = 1_767_225_660;
        assert_eq!(life(&grant, Duration::from_secs(ends - 10)), Duration::from_secs(10));
        assert_eq!(life(&grant, Duration::from_secs(ends - 3600)), LONGEST_LIFE);
        assert_eq!(life(&grant, Duration::from_secs(ends + 1)), Duration::ZERO);
    }
}
