//! Looks names up for every server and for a camera that has a name. Many routers in homes drop questions for IPv6 addresses
//! (RFC 4074). The C library asks for both families at once, and musl's gives up the IPv4 address that it has got
//! when the other answer does not come. So IPv4 is also asked for alone when the answer takes long.

use std::{io, net::SocketAddr, time::Duration};

use dns_lookup::AddrInfoHints;
use tokio::{
    net::lookup_host,
    select,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

/// How long an answer for both families is waited for before IPv4 is asked for alone.
const BOTH_WITHIN: Duration = Duration::from_secs(1);

/// The addresses of `host`, which may be one itself, in the order in which to try them.
///
/// # Errors
/// The C library's, of the question for both families.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let late = Instant::now() + BOTH_WITHIN;
    let mut fault = io::Error::other("nobody answered");
    let both = async { lookup_host((host, port)).await.map_err(|error| fault = error) };
    let alone = async {
        sleep_until(late).await;
        ipv4(host.to_owned(), port).await
    };
    select! {
        Ok(found) = both => return Ok(found.collect()),
        Ok(found) = alone => return Ok(found),
        else => {}
    }
    Err(fault)
}

async fn ipv4(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let hints = AddrInfoHints { address: libc::AF_INET, socktype: libc::SOCK_STREAM, ..AddrInfoHints::default() };
    spawn_blocking(move || {
        let found = dns_lookup::getaddrinfo(Some(&host), None, Some(hints))?;
        found.map(|info| info.map(|info| SocketAddr::new(info.sockaddr.ip(), port))).collect()
    })
    .await?
}
