//! The URLs that requests name, from what a camera's description says of them: absolute, relative, with blanks, or without a scheme.
//! Pure. Called by `playing`.

use url::Url;

use super::message::Headers;

/// The URL to which those in the description of `requested` are relative (RFC 2326, C.1.1).
pub(super) fn base(requested: &Url, headers: &Headers) -> Url {
    let named = headers.get("Content-Base").or_else(|| headers.get("Content-Location")).filter(|named| *named != "*");
    let read = |named: &str| if named.contains("://") { absolute(named) } else { absolute(&format!("rtsp://{named}")) };
    named.and_then(read).unwrap_or_else(|| requested.clone())
}

/// A control URL. A relative one is appended, a query of the base included: so do the clients that cameras are tried with.
pub(super) fn joined(base: &Url, control: &str) -> Url {
    if control == "*" {
        return base.clone();
    }
    let between = if base.as_str().ends_with('/') { "" } else { "/" };
    absolute(control).or_else(|| absolute(&format!("{base}{between}{control}"))).unwrap_or_else(|| base.clone())
}

/// An RTSP URL, without blanks or control characters in it. A camera's text of another scheme is not even parsed: of schemes that it
/// knows, `url` reads the host by IDNA, which this build has for ASCII only.
pub(super) fn absolute(text: &str) -> Option<Url> {
    text.trim_start().get(..4).filter(|scheme| scheme.eq_ignore_ascii_case("rtsp"))?;
    Url::parse(text).ok().filter(|url| url.scheme().starts_with("rtsp") && url.has_host())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::rtsp::message::{Message, Reader};

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn base_of(header: &str) -> String {
        let text = format!("RTSP/1.0 200 OK\r\n{header}\r\n\r\n");
        let Ok(Some(Message::Response(response))) = Reader::default().next(&mut text.as_bytes().into()) else { panic!("{header}") };
        base(&url("rtsp://camera/live"), &response.headers).to_string()
    }

    #[test]
    fn the_base_is_what_the_camera_names_if_it_can_be_read() {
        assert_eq!(base_of("Content-Base: rtsp://camera/live/"), "rtsp://camera/live/");
        assert_eq!(base_of("content-location: rtsp://10.0.0.7/x"), "rtsp://10.0.0.7/x");
        assert_eq!(base_of("Content-Base: 10.0.0.7:8554/x/"), "rtsp://10.0.0.7:8554/x/");
        assert_eq!(base_of("Content-Base: camera/x/"), "rtsp://camera/x/");
        for unusable in [
            "X: y",
            "Content-Base:",
            "Content-Base: *",
            "Content-Base: /live/",
            "Content-Base: http://[",
            "Content-Base: ://",
            // The fuzz target `rtsp` found that a debug build panicked.
            "Content-Base: file://10.ets=Z\u{fffd}/",
        ] {
            assert_eq!(base_of(unusable), "rtsp://camera/live", "{unusable}");
        }
    }

    #[test]
    fn control_urls_of_every_form_lead_somewhere() {
        let control = |base, control| joined(&url(base), control).to_string();
        assert_eq!(control("rtsp://camera/live", "*"), "rtsp://camera/live");
        assert_eq!(control("rtsp://camera/live", "trackID=1"), "rtsp://camera/live/trackID=1");
        assert_eq!(control("rtsp://camera/live/", "trackID=1"), "rtsp://camera/live/trackID=1");
        assert_eq!(control("rtsp://camera/live?channel=1", "trackID=1"), "rtsp://camera/live?channel=1/trackID=1");
        assert_eq!(control("rtsp://camera/live", "rtsp://10.0.0.7/a b"), "rtsp://10.0.0.7/a%20b");
        assert_eq!(control("rtsp://camera/live", "track:1"), "rtsp://camera/live/track:1");
        assert_eq!(control("rtsp://camera/live", "http://["), "rtsp://camera/live/http://[");
        assert_eq!(control("rtsp://camera/live", "http://Z\u{fffd}"), "rtsp://camera/live/http://Z%EF%BF%BD");
        assert_eq!(control("rtsp://camera/live", " RTSP://10.0.0.7/x"), "rtsp://10.0.0.7/x");
    }

    proptest! {
        #[test]
        fn no_control_url_panics_or_adds_a_line(control in "(rtsp://|//|[?#@:/\\[ -~\t\u{e4}\u{20ac}]){0,30}") {
            let joined = joined(&url("rtsp://camera/live"), &control);
            prop_assert!(joined.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{joined}");
        }
    }
}
