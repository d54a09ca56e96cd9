//! What a camera's answer to SETUP agrees on: the session and its timeout, and how packets come. Cameras leave parts out or write
//! them oddly; whatever cannot be read counts as left out. Pure; called once per session.

use std::{net::IpAddr, time::Duration};

/// The timeout of a session that names none (RFC 2326, section 12.37).
const TIMEOUT: Duration = Duration::from_secs(60);

/// The header `Session`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SessionHeader {
    /// To be sent with every request. `None` if the camera gives none: it then expects none.
    pub id: Option<String>,
    /// So long may the camera wait for the next request.
    pub timeout: Duration,
}

impl SessionHeader {
    /// Reads `id[;timeout=seconds]`.
    pub fn read(value: &str) -> Self {
        let mut parts = value.split(';').map(str::trim);
        let id = parts.next().filter(|id| !id.is_empty()).map(str::to_owned);
        let timeout = parts.find_map(|part| parameter(part, "timeout")).and_then(|seconds| seconds.parse::<u32>().ok());
        Self { id, timeout: timeout.filter(|seconds| *seconds > 0).map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.into())) }
    }
}

/// The header `Transport`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transport {
    /// Whether RTP comes within the connection.
    pub tcp: bool,
    /// The channels of RTP and RTCP. A camera may give RTCP none.
    pub channels: Option<(u8, Option<u8>)>,
    /// The ports from which RTP and RTCP come.
    pub server_ports: Option<(u16, u16)>,
    /// Where packets come from, if not from the camera's own address.
    pub source: Option<IpAddr>,
}

impl Transport {
    /// Reads the first of the transports, such as `RTP/AVP/TCP;unicast;interleaved=0-1`.
    pub fn read(value: &str) -> Self {
        let mut transport = Self::default();
        for part in value.split(',').next().unwrap_or_default().split(';').map(str::trim) {
            transport.tcp |= part.to_ascii_uppercase().ends_with("/TCP");
            if let Some(value) = parameter(part, "interleaved") {
                transport.tcp = true;
                transport.channels = pair(value).map(|(rtp, rtcp): (u8, _)| (rtp, rtcp.or(rtp.checked_add(1))));
            } else if let Some(value) = parameter(part, "server_port") {
                transport.server_ports = pair(value).and_then(|(rtp, rtcp): (u16, _)| Some((rtp, rtcp.or(rtp.checked_add(1))?)));
            } else if let Some(value) = parameter(part, "source") {
                transport.source = value.parse().ok();
            }
        }
        transport
    }
}

/// The value of `name=value`.
fn parameter<'a>(part: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = part.split_once('=')?;
    key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
}

/// `1-2`, or `1`.
fn pair<T: std::str::FromStr>(text: &str) -> Option<(T, Option<T>)> {
    match text.split_once('-') {
        Some((first, second)) => Some((first.trim().parse().ok()?, Some(second.trim().parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_session_is_read_whatever_blanks_it_has_and_whatever_it_lacks() {
        for (value, id, timeout) in [
            ("7", Some("7"), 60),
            ("7;timeout=30", Some("7"), 30),
            (" 7 ; Timeout = 30 ", Some("7"), 30),
            ("7;timeout=\"30\"", Some("7"), 30),
            ("7;x;timeout=4294967295", Some("7"), 4_294_967_295),
            ("7;timeout=0", Some("7"), 60),
            ("7;timeout=", Some("7"), 60),
            ("7;timeout=soon", Some("7"), 60),
            ("", None, 60),
            (" ;timeout=20", None, 20),
            (";;;", None, 60),
        ] {
            let expected = SessionHeader { id: id.map(str::to_owned), timeout: Duration::from_secs(timeout) };
            assert_eq!(SessionHeader::read(value), expected, "{value:?}");
        }
    }

    #[test]
    fn a_transport_is_read_and_what_cannot_be_read_is_left_out() {
        let channels = |value: &str| {
            let transport = Transport::read(&format!("RTP/AVP/TCP;unicast;{value}"));
            assert!(transport.tcp, "{value}");
            transport.channels
        };
        assert_eq!(channels("interleaved=2-3;ssrc=1234ABCD"), Some((2, Some(3))));
        assert_eq!(channels("Interleaved = 2 - 3"), Some((2, Some(3))));
        assert_eq!(channels("interleaved=4"), Some((4, Some(5))));
        assert_eq!(channels("interleaved=255"), Some((255, None)));
        assert_eq!(channels("interleaved=\"2-3\";mode=\"PLAY\";"), Some((2, Some(3))));
        let unnamed = Transport::read("interleaved=2-3");
        assert_eq!((unnamed.tcp, unnamed.channels), (true, Some((2, Some(3)))), "without a protocol");
        for unreadable in ["interleaved=255-256", "interleaved=-1", "interleaved=", "interleaved=a-b", "interleaved", ""] {
            assert_eq!(channels(unreadable), None, "{unreadable}");
        }
        let udp = Transport::read("rtp/avp; unicast; client_port=5000-5001; server_port=6970-6971; source=10.0.0.7");
        assert_eq!((udp.tcp, udp.server_ports, udp.source), (false, Some((6970, 6971)), Some([10, 0, 0, 7].into())));
        assert_eq!(Transport::read("RTP/AVP/UDP;server_port=6970").server_ports, Some((6970, 6971)));
        assert_eq!(Transport::read("RTP/AVP/UDP;server_port=65535;source=camera").server_ports, None);
        assert_eq!(Transport::read("RTP/AVP/TCP;interleaved=0-1,RTP/AVP;server_port=1-2").server_ports, None);
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "(RTP/AVP)?[ -~]{0,60}", parameters in "(interleaved|server_port|source|timeout)=[0-9:. -]{0,12}") {
            let _ = (SessionHeader::read(&value), Transport::read(&format!("{value};{parameters}")));
        }
    }
}
