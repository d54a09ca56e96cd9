//! `media.snapshot_url`: the address at which the camera's firmware gives a JPEG. Plaintext stays on this device, as for broker and
//! API: picture and password cross no network. Reading it opens nothing.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

use super::{Endpoint, address, fault::Wrong};
use crate::redact::Secret;

const RIGHT: &str = "write http://127.0.0.1/snapshot.jpg, with user:password@ before the host if the camera asks for them";

/// Where the camera gives a JPEG.
#[derive(Clone, PartialEq)]
pub struct SnapshotUrl {
    text: Secret,
    url: Url,
}

impl SnapshotUrl {
    /// Reads `http://[user[:password]@]host[:port]/path`. A fault quotes nothing of it.
    pub(super) fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |what: &str| Wrong::new(what.to_owned(), RIGHT);
        let url = Url::parse(text).map_err(|_| wrong("is no URL; write / ? # @ in a password as %2F %3F %23 %40"))?;
        if url.scheme() != "http" {
            return Err(wrong("is no http:// address; the agent knows no authority that signs cameras' own certificates"));
        }
        let found = Self { text: text.into(), url };
        if !address::is_loopback(&found.endpoint().host) {
            return Err(wrong("is plaintext to another machine, which picture and password must not cross"));
        }
        Ok(found)
    }

    /// Host and port.
    pub fn endpoint(&self) -> Endpoint {
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        Endpoint { host, port: self.url.port_or_known_default().unwrap_or(80), tls: false }
    }

    /// Path and query, as a request names them. They may hold a password.
    pub fn target(&self) -> String {
        self.url.query().map_or_else(|| self.url.path().to_owned(), |query| format!("{}?{query}", self.url.path()))
    }

    /// User and password, if there are any.
    pub fn credentials(&self) -> Option<(String, String)> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = Some(self.url.username()).filter(|user| !user.is_empty() || self.url.password().is_some())?;
        Some((decoded(user), decoded(self.url.password().unwrap_or_default())))
    }

    /// Whether `Display` leaves a secret out.
    pub(super) fn is_shown_in_part(&self) -> bool {
        self.text.to_string() != self.text.expose()
    }

    /// Removes its secrets from a message about it.
    pub fn hide_in(&self, words: &str) -> String {
        self.text.hide_in(words)
    }
}

impl fmt::Display for SnapshotUrl {
    /// Shows no password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.text, f)
    }
}

impl fmt::Debug for SnapshotUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_on_this_device_is_read_with_its_user_and_shown_without() {
        let url = SnapshotUrl::read("http://admin:a%40b@127.0.0.1:8080/cgi-bin/snap.jpg?chn=0&pwd=CANARY").unwrap();
        assert_eq!(url.endpoint(), Endpoint { host: "127.0.0.1".into(), port: 8080, tls: false });
        assert_eq!(
            (url.target().as_str(), url.credentials()),
            ("/cgi-bin/snap.jpg?chn=0&pwd=CANARY", Some(("admin".into(), "a@b".into())))
        );
        for shown in [format!("{url}"), format!("{url:?}"), url.hide_in("GET /cgi-bin/snap.jpg?chn=0&pwd=CANARY of admin:a@b failed")] {
            assert!(!shown.contains("CANARY") && !shown.contains("a@b") && !shown.contains("a%40b"), "{shown}");
        }
        let plain = SnapshotUrl::read("http://localhost").unwrap();
        assert_eq!((plain.endpoint().port, plain.target(), plain.credentials()), (80, "/".into(), None));
        assert_eq!(SnapshotUrl::read("http://[::1]/x").unwrap().endpoint().host, "::1");
    }

    #[test]
    fn what_leaves_this_device_or_is_no_address_is_refused_and_not_quoted() {
        for text in
            ["http://u:CANARY@192.168.1.5/x", "https://u:CANARY@127.0.0.1/x", "http://u:CAN/ARY@127.0.0.1/x", "CANARY", "http://", ""]
        {
            let Wrong { wrong, right } = SnapshotUrl::read(text).unwrap_err();
            assert!(!wrong.contains("CAN") && right.starts_with("write http://127.0.0.1/"), "{wrong}");
        }
    }
}
