//! Reads the addresses that the agent connects to and listens on. Plaintext and the status page are limited to loopback.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use rustls::pki_types::ServerName;

use super::{Endpoint, Listen, fault::Wrong};

/// The two URL schemes of one service.
pub(super) struct Schemes {
    pub plain: &'static str,
    pub plain_port: u16,
    pub tls: &'static str,
    pub tls_port: u16,
}

/// The broker's.
pub(super) const MQTT: Schemes = Schemes { plain: "mqtt", plain_port: 1883, tls: "mqtts", tls_port: 8883 };
/// The API's.
pub(super) const HTTP: Schemes = Schemes { plain: "http", plain_port: 80, tls: "https", tls_port: 443 };

impl Endpoint {
    /// Whether the host is this device: `localhost`, 127.0.0.0/8 or `::1`. Only such a host may be reached in plaintext.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Reads `scheme://host[:port]`, plaintext only to this device.
pub(super) fn endpoint(url: &str, schemes: &Schemes) -> Result<Endpoint, Wrong> {
    let endpoint = endpoint_anywhere(url, schemes)?;
    if !endpoint.tls && !endpoint.is_loopback() {
        let Schemes { plain, tls, .. } = schemes;
        let right = format!("write {tls}://{}; {plain}:// is for 127.0.0.0/8, [::1] and localhost only", endpoint.host);
        return Err(Wrong::new(format!("{url:?} is plaintext to another machine"), right));
    }
    Ok(endpoint)
}

/// Reads `scheme://host[:port]`.
pub(super) fn endpoint_anywhere(url: &str, schemes: &Schemes) -> Result<Endpoint, Wrong> {
    let Schemes { plain, tls, .. } = schemes;
    let form = || format!("write {tls}://host:{}", schemes.tls_port);
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(Wrong::new(format!("{url:?} is not a URL"), form()));
    };
    if rest.contains('@') {
        return Err(Wrong::new("carries a user name or password", format!("{}; the client certificate says who the device is", form())));
    }
    let secure = match scheme {
        scheme if scheme == *tls => true,
        scheme if scheme == *plain => false,
        _ => return Err(Wrong::new(format!("{scheme}:// is not a scheme for it"), form())),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(Wrong::new(format!("{url:?} has a path"), form()));
    }
    let (host, port) = host_and_port(rest).map_err(|what| Wrong::new(format!("{url:?} {what}"), form()))?;
    let default = if secure { schemes.tls_port } else { schemes.plain_port };
    Ok(Endpoint { host, port: port.unwrap_or(default), tls: secure })
}

/// Reads an entry of `store.hosts`: `host[:port]`, 443 by default.
pub(super) fn store_host(text: &str) -> Result<(String, u16), Wrong> {
    let right = "write host or host:port, as in \"clips.example\" or \"clips.example:9000\"";
    if text.contains("://") {
        return Err(Wrong::new(format!("{text:?} is a URL"), right));
    }
    let (host, port) = host_and_port(text).map_err(|what| Wrong::new(format!("{text:?} {what}"), right))?;
    Ok((host, port.unwrap_or(443)))
}

/// Reads `status.listen`.
pub(super) fn listen(text: &str) -> Result<Listen, Wrong> {
    let right = "write \"127.0.0.1:9180\" or \"unix:/run/kasa-care-agent/status.sock\"";
    match text.strip_prefix("unix:") {
        Some("") => return Err(Wrong::new("names no socket", right)),
        Some(path) => return Ok(Listen::Unix(path.into())),
        None => {}
    }
    let address: SocketAddr = text.parse().map_err(|_| Wrong::new(format!("{text:?} is not an address and port"), right))?;
    if !address.ip().is_loopback() {
        return Err(Wrong::new(format!("{address} can be reached from other machines"), right));
    }
    Ok(Listen::Tcp(address))
}

/// Reads `uploader.socket`.
pub(super) fn unix(text: &str) -> Result<PathBuf, Wrong> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        _ => {
            let right = "write unix: and an absolute path, as in \"unix:/run/kasa-care-agent/uploader.sock\"";
            Err(Wrong::new(format!("{text:?} is not a unix socket"), right))
        }
    }
}

/// A lowercase host without brackets, and a port if there is one. The error completes a sentence: "… has no host".
fn host_and_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has a bracket that does not close")?;
        host.parse::<Ipv6Addr>().map_err(|_| "has brackets around what is not an IPv6 address")?;
        match rest {
            "" => (host, None),
            rest => (host, Some(rest.strip_prefix(':').ok_or("has something after its bracket")?)),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("has an IPv6 address without brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("has no host");
    }
    ServerName::try_from(host).map_err(|_| "has a host that is neither a name nor an address")?;
    let port = match port {
        None => None,
        Some(port) => {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            Some(port.parse::<u16>().ok().filter(|port| digits && *port != 0).ok_or("has a port that is not from 1 to 65535")?)
        }
    };
    Ok((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_reaches_only_this_device() {
        for url in ["mqtt://127.0.0.1", "mqtt://127.9.8.7:1", "mqtt://localhost:1883", "mqtt://LOCALHOST", "mqtt://[::1]:1883"] {
            assert!(endpoint(url, &MQTT).is_ok_and(|endpoint| !endpoint.tls && endpoint.is_loopback()), "{url}");
        }
        for url in [
            "mqtt://10.0.0.1",
            "mqtt://care.example",
            "mqtt://localhost.example",
            "mqtt://[::2]",
            "mqtt://0.0.0.0",
            "mqtt://127.0.0.1.example",
        ] {
            assert!(endpoint(url, &MQTT).is_err(), "{url}");
        }
        assert!(endpoint("http://169.254.0.1", &HTTP).is_err());
    }

    #[test]
    fn ports_default_by_scheme_and_hosts_are_lowercase() {
        let broker = endpoint("mqtts://Care.Example", &MQTT).unwrap();
        assert_eq!(broker, Endpoint { host: "care.example".into(), port: 8883, tls: true });
        assert_eq!(endpoint("https://[fd00::1]:8443/", &HTTP).unwrap().authority(), "[fd00::1]:8443");
        assert_eq!(store_host("Clips.Example").unwrap(), ("clips.example".into(), 443));
        assert_eq!(store_host("[::1]:9000").unwrap(), ("::1".into(), 9000));
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        for url in [
            "https://",
            "https://:443",
            "https://a b",
            "https://h:0",
            "https://h:65536",
            "https://h:+1",
            "https://h/path",
            "https://u:p@h",
            "https://h?q",
            "h:443",
            "https://::1",
            "https://[h]",
        ] {
            assert!(endpoint(url, &HTTP).is_err(), "{url}");
        }
    }

    #[test]
    fn the_status_page_stays_on_this_device() {
        assert_eq!(listen("127.0.0.1:9180").unwrap(), Listen::Tcp("127.0.0.1:9180".parse().unwrap()));
        assert_eq!(listen("unix:/run/a.sock").unwrap(), Listen::Unix("/run/a.sock".into()));
        for address in ["0.0.0.0:9180", "[::]:9180", "192.168.1.2:80", "9180", "unix:", ""] {
            assert!(listen(address).is_err(), "{address}");
        }
    }
}
