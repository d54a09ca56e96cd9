//! Where a grant may send us (section 3.6). The cloud's answer is only an offer: each rule here is checked before a
//! socket is opened to the place it names, and what breaks one is reported and gets no byte. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use care_protocol::Grant;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::Scheme};
use thiserror::Error;

use crate::config::Endpoint;

/// The longest life of a grant, whatever it says.
const LONGEST_LIFE: Duration = Duration::from_secs(60);

/// What is wrong with a grant.
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
    #[error("the answer carries no Date, so the grant's life is not known")]
    NoDate,
}

/// A place to put a clip that every rule but the one on addresses allows.
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
    /// Judges a grant.
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

    /// Judges where its name led, given where `cloud.url`'s did.
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

/// How long a grant that was answered at `date` may be used.
pub(super) fn life(grant: &Grant, date: Option<Duration>) -> Result<Duration, Violation> {
    let date = date.ok_or(Violation::NoDate)?;
    let expires = Duration::try_from(grant.expires_at.as_duration()).unwrap_or_default();
    Ok(expires.saturating_sub(date).min(LONGEST_LIFE))
}

/// Loopback, link-local, private, or otherwise not a place on the internet.
fn is_local(address: IpAddr) -> bool {
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
