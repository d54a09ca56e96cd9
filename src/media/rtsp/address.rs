//! Splits an RTSP URL into what may be sent and shown (host, port, path) and the user and password, which RTSP carries in a
//! header of their own. People write passwords as they are, with any `/`, `?`, `#` and `@` in them; percent-encoded ones are
//! decoded. It opens nothing. Called by the source when it connects.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::Url;

use super::login::Credentials;
use crate::media::source::SourceError;

/// The port that RFC 2326 gives RTSP.
const DEFAULT_PORT: u16 = 554;

/// Where a camera is, and who asks.
#[derive(Clone)]
pub(super) struct Address {
    /// Without user and password.
    pub url: Url,
    pub credentials: Option<Credentials>,
}

impl Address {
    /// Reads `rtsp://[user[:password]@]host[:port][/path]`.
    ///
    /// # Errors
    /// It is no address, or asks for TLS. The sentence quotes nothing of it.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let wrong = |words: String| Err(SourceError::Unusable(words));
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("the address is no rtsp:// URL".into()) };
        if !scheme.eq_ignore_ascii_case("rtsp") {
            return wrong("RTSP over TLS (rtsps://) is not supported: use rtsp:// on a network that you trust".into());
        }
        let (user_info, rest) = split_user_info(rest);
        if rest.starts_with('[') && rest.split(']').next().is_some_and(|host| host.contains('%')) {
            return wrong("an IPv6 address with a zone (%eth0) is not supported: use a global or unique local address, or IPv4".into());
        }
        let url = match Url::parse(&format!("rtsp://{rest}")) {
            Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => url,
            Ok(_) => return wrong("the address names no host".into()),
            Err(why) => return wrong(format!("the address cannot be read: {why}")),
        };
        Ok(Self { url, credentials: user_info.map(credentials) })
    }

    /// The host, and whether it is a name that must be resolved.
    pub fn host(&self) -> (&str, bool) {
        let host = self.url.host_str().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        (literal, literal.parse::<std::net::IpAddr>().is_err())
    }

    pub fn port(&self) -> u16 {
        self.url.port().unwrap_or(DEFAULT_PORT)
    }

    /// `host:port`, for people.
    pub fn shown(&self) -> String {
        format!("{}:{}", self.url.host_str().unwrap_or_default(), self.port())
    }
}

fn credentials(user_info: &str) -> Credentials {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    Credentials { user: decoded(user), password: decoded(password) }
}

/// Separates `user:password` from the rest of a URL that is given without its scheme.
///
/// RFC 3986 ends the host at the first `/`, `?` or `#`. The URL is read so if what stands there is certainly a host, or no host
/// follows a later `@`; otherwise the last `@` ends the password. Percent-encoding leaves no doubt.
fn split_user_info(rest: &str) -> (Option<&str>, &str) {
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let Some(last) = rest.rfind('@') else { return (None, rest) };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let follows = &rest[last + 1..];
    let follows = &follows[..follows.find(['/', '?', '#']).unwrap_or(follows.len())];
    let by_the_standard = if last < authority.len() {
        true
    } else {
        let between = &rest[authority.len()..last];
        let certain = host.contains(['.', '[']) || host.ends_with(":554") || host.ends_with(":8554") || !authority.contains([':', '@']);
        !is_host_and_port(follows) || is_host_and_port(host) && (certain || between.contains('='))
    };
    match user {
        Some(user) if by_the_standard => (Some(user), &rest[user.len() + 1..]),
        None if by_the_standard => (None, rest),
        _ => (Some(&rest[..last]), &rest[last + 1..]),
    }
}

fn is_host_and_port(text: &str) -> bool {
    if text.starts_with('[') {
        return text.contains(']');
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "1"));
    let host_char = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    !host.is_empty() && host.chars().all(host_char) && port.parse::<u16>().is_ok()
}

/// Percent-encoded bytes as the characters that they stand for; anything else as it is.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Option<(String, String)>) {
        let address = Address::parse(text).unwrap();
        (address.url.to_string(), address.credentials.map(|given| (given.user, given.password)))
    }

    #[test]
    fn user_and_password_are_taken_out_whatever_their_characters() {
        for (text, url, user, password) in [
            ("rtsp://me:secret@camera", "rtsp://camera", "me", "secret"),
            ("rtsp://me@camera/live", "rtsp://camera/live", "me", ""),
            ("rtsp://admin:hunter2/secret@10.0.0.7:554/live", "rtsp://10.0.0.7:554/live", "admin", "hunter2/secret"),
            ("rtsp://admin:hun?ter2@10.0.0.7/live", "rtsp://10.0.0.7/live", "admin", "hun?ter2"),
            ("rtsp://admin:hun#ter2@10.0.0.7/live", "rtsp://10.0.0.7/live", "admin", "hun#ter2"),
            ("rtsp://admin:hun@ter:2@10.0.0.7/live", "rtsp://10.0.0.7/live", "admin", "hun@ter:2"),
            ("rtsp://admin:1234/5678@10.0.0.7/live", "rtsp://10.0.0.7/live", "admin", "1234/5678"),
            ("rtsp://admin:a:1@/b@camera:8554/live", "rtsp://camera:8554/live", "admin", "a:1@/b"),
            ("rtsp://admin:p%40ss%2Fw%C3%B6rd@camera/live?x=1", "rtsp://camera/live?x=1", "admin", "p@ss/wörd"),
            ("rtsp://admin:100%@camera/live", "rtsp://camera/live", "admin", "100%"),
            ("rtsp://admin:%+1%zz@camera/live", "rtsp://camera/live", "admin", "%+1%zz"),
            ("rtsp://ad%3Amin: \"'\\;@camera/live", "rtsp://camera/live", "ad:min", " \"'\\;"),
            ("rtsp://admin:x@[fd00::7]:554/live", "rtsp://[fd00::7]:554/live", "admin", "x"),
            ("rtsp://a:b@camera/live?to=me@home", "rtsp://camera/live?to=me@home", "a", "b"),
        ] {
            assert_eq!(read(text), (url.to_owned(), Some((user.to_owned(), password.to_owned()))), "{text}");
        }
    }

    #[test]
    fn an_at_in_the_path_or_query_is_no_password() {
        for text in [
            "rtsp://127.0.0.1/stream",
            "rtsp://camera/live?token=abc@def",
            "rtsp://camera/live@high",
            "rtsp://camera:554/live@high",
            "rtsp://10.0.0.7:5544/live@2/x",
            "rtsp://camera/user=admin&password=hunter2&channel=1",
            "rtsp://camera/live/@",
        ] {
            assert_eq!(read(text), (text.to_owned(), None), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in
            ["camera", "rtsp://", "rtsp://CANARY:CANARY@", "rtsps://CANARY:CANARY@camera/x", "rtsp://u:CANARY@[fe80::1%25eth0]/live"]
        {
            let Err(SourceError::Unusable(words)) = Address::parse(text) else { panic!("{text}") };
            assert!(!words.contains("CANARY"), "{text}: {words}");
        }
    }

    #[test]
    fn a_name_is_told_from_an_address() {
        let of = |text: &str| {
            let address = Address::parse(text).unwrap();
            (address.host().0.to_owned(), address.host().1, address.port(), address.shown())
        };
        assert_eq!(of("rtsp://camera.lan/live"), ("camera.lan".into(), true, 554, "camera.lan:554".into()));
        assert_eq!(of("rtsp://10.0.0.7:8554"), ("10.0.0.7".into(), false, 8554, "10.0.0.7:8554".into()));
        assert_eq!(of("rtsp://[fd00::7]/live"), ("fd00::7".into(), false, 554, "[fd00::7]:554".into()));
    }
}
