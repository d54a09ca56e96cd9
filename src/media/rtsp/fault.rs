//! Says in a person's words why a step of RTSP failed. retina's errors are texts for someone with a packet capture, of several
//! lines and with addresses in them: the cause is read from their first line and status code. Called by the other files here.

use std::{io, time::Duration};

use crate::media::source::SourceError;

/// A step on the way to the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Describe,
    Setup,
    Play,
    /// Packets are being received.
    Receive,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Describe => "DESCRIBE",
            Self::Setup => "SETUP",
            Self::Play => "PLAY",
            Self::Receive => "the stream",
        }
    }
}

/// The camera at `server` did not take `step` within `patience`.
pub(super) fn silent(step: Step, server: &str, patience: Duration, connects: bool) -> SourceError {
    let seconds = patience.as_secs();
    SourceError::Failed(match (step, connects) {
        (Step::Describe, false) => format!("{server} does not answer: no connection within {seconds} s"),
        _ => format!("{server} takes connections, but gives no answer to {} within {seconds} s", step.name()),
    })
}

/// A connection that fails, in the kernel's words.
pub(super) fn unreachable(server: &str, error: &io::Error) -> SourceError {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refuses the connection: nothing listens there".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            format!("cannot be reached: {}", bare(&error.to_string()))
        }
        io::ErrorKind::TimedOut => "does not answer".to_owned(),
        _ => format!("cannot be connected to: {}", bare(&error.to_string())),
    };
    SourceError::Failed(format!("{server} {words}"))
}

/// What retina's error means.
pub(super) fn told(step: Step, server: &str, error: &retina::Error) -> SourceError {
    in_words(step, server, error.status_code(), &error.to_string())
}

/// Whether the camera refuses interleaved TCP: with the status made for that (RFC 2326, section 11.3.14), or by answering with
/// another transport.
pub(super) fn refuses_transport(error: &retina::Error) -> bool {
    error.status_code() == Some(461) || error.status_code() == Some(200) && error.to_string().contains("missing interleaved")
}

/// Whether the camera left a keepalive unanswered until retina gave the session up.
pub(super) fn ignores_keepalives(error: &retina::Error) -> bool {
    error.to_string().contains("to respond to keepalive")
}

fn in_words(step: Step, server: &str, status: Option<u16>, text: &str) -> SourceError {
    let first = text.lines().next().unwrap_or_default();
    match status {
        Some(401) => return unauthorized(first),
        Some(403) => return SourceError::Unusable("the camera forbids this stream to this user (403): give the user the right".into()),
        Some(404) => {
            return SourceError::Failed("the camera has no stream at this path (404): correct the path in the address".into());
        }
        Some(461) => {
            let words = "the camera takes none of the transports offered (461): set rtsp_transport to auto, or another one in the camera";
            return SourceError::Unusable(words.into());
        }
        Some(453) => return SourceError::Failed("the camera has no room for another viewer (453): end another one, or try later".into()),
        Some(503) => return SourceError::Failed("the camera is busy (503); it is tried again".into()),
        Some(200..=299) => {
            return SourceError::Failed(format!("the camera's answer to {} cannot be used: {}", step.name(), after_cseq(first)));
        }
        Some(code) => {
            let phrase = first.split(" response to ").next().filter(|phrase| phrase.len() < 80).unwrap_or_default();
            let code = if phrase.contains(&code.to_string()) { phrase.to_owned() } else { code.to_string() };
            return SourceError::Failed(format!("the camera answers {} with {code}", step.name()));
        }
        None => {}
    }
    if let Some(why) = first.strip_prefix("Unable to connect to RTSP server: ") {
        return unreachable(server, &os_error(why));
    }
    let words = if first.contains("to respond to keepalive") {
        "the camera answers no keepalive, so the session ended".to_owned()
    } else if first.contains("EOF while expecting response") {
        format!("the camera closed the connection instead of answering {}", step.name())
    } else if first.contains("wrong ssrc") {
        "the camera began to send as another source (SSRC) within the session".to_owned()
    } else if first.contains("Out-of-order packet or large loss") {
        "the camera lost more packets than can be counted, or sent them out of order over TCP".to_owned()
    } else if first.contains("RTSP framing error") && step == Step::Describe {
        format!("what listens at {server} does not speak RTSP")
    } else if first.contains("corrupt RTP header") {
        "the camera sent a packet that is no RTP".to_owned()
    } else if let Some(why) = first.strip_prefix("Error reading from RTSP peer: ").or(first.strip_prefix("Error writing to RTSP peer: ")) {
        format!("the connection to {server} broke: {}", bare(why))
    } else {
        format!("{} failed: {}", step.name(), short(first))
    };
    SourceError::Failed(words)
}

fn unauthorized(first: &str) -> SourceError {
    SourceError::Unusable(if first.contains("no credentials supplied") {
        "the camera asks for a user and password (401), and the address has none: write rtsp://user:password@host/path".into()
    } else if first.contains("Can't understand") || first.contains("without WWW-Authenticate") {
        let asked = first.rsplit_once("header: ").map_or("", |(_, asked)| asked);
        let asked = if asked.is_empty() { String::new() } else { format!(" ({})", short(asked)) };
        format!("the camera asks for a kind of login that is not supported{asked}: choose digest or basic in the camera")
    } else {
        "the camera refuses the user or password (401): correct them in the address".into()
    })
}

/// What follows `200 OK response to SETUP CSeq=3: `.
fn after_cseq(first: &str) -> String {
    short(first.split_once("CSeq=").and_then(|(_, rest)| rest.split_once(": ")).map_or(first, |(_, words)| words))
}

/// `Connection refused (os error 111)` as an error with a kind.
fn os_error(text: &str) -> io::Error {
    let number = text.rsplit_once("(os error ").and_then(|(_, number)| number.trim_end_matches(')').parse().ok());
    number.map_or_else(|| io::Error::other(short(text)), io::Error::from_raw_os_error)
}

fn bare(text: &str) -> String {
    short(text.split(" (os error").next().unwrap_or(text)).to_lowercase()
}

/// A part of another program's text that may stand in a sentence.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_that_fails_is_told_with_its_cause() {
        let context = "\n\nconn: 127.0.0.1:1(me)->127.0.0.1:2@2026\nmsg: 7@2026";
        // The numbers are the processor's: 111 on ARM, 146 on MIPS.
        let connecting = |number| format!("Unable to connect to RTSP server: {}", io::Error::from_raw_os_error(number));
        let (refused, unreachable) = (connecting(libc::ECONNREFUSED), connecting(libc::EHOSTUNREACH));
        for (step, status, text, expected) in [
            (Step::Describe, None, refused.as_str(), "camera:554 refuses the connection: nothing listens there"),
            (Step::Describe, None, unreachable.as_str(), "cannot be reached: "),
            (
                Step::Describe,
                Some(401),
                "401 Unauthorized response to DESCRIBE CSeq=2: Received Unauthorized after trying digest auth",
                "user or password",
            ),
            (Step::Describe, Some(401), "401 …: Authentication requested and no credentials supplied", "the address has none"),
            (
                Step::Describe,
                Some(401),
                "401 …: Can't understand WWW-Authenticate header: Unsupported scheme \"NTLM\"",
                "not supported (Unsupported scheme \"NTLM\")",
            ),
            (
                Step::Describe,
                Some(404),
                "404 Not Found response to DESCRIBE CSeq=1: Unexpected RTSP response status",
                "no stream at this path (404)",
            ),
            (Step::Setup, Some(461), "461 Unsupported Transport response to SETUP CSeq=2: …", "rtsp_transport"),
            (
                Step::Setup,
                Some(200),
                "200 OK response to SETUP CSeq=2: Missing Session header",
                "answer to SETUP cannot be used: Missing Session header",
            ),
            (Step::Play, Some(500), "500 Internal Server Error response to PLAY CSeq=3: …", "answers PLAY with 500 Internal Server Error"),
            (
                Step::Describe,
                None,
                "Error reading from RTSP peer: EOF while expecting response to DESCRIBE CSeq 1",
                "closed the connection instead",
            ),
            (Step::Describe, None, "RTSP framing error: Invalid RTSP message: …", "does not speak RTSP"),
            (
                Step::Receive,
                None,
                "Error reading from RTSP peer: Connection reset by peer (os error 104)",
                "broke: connection reset by peer",
            ),
            (
                Step::Receive,
                None,
                "Error reading from RTSP peer: Server failed to respond to keepalive 5 within 30s",
                "answers no keepalive",
            ),
            (Step::Receive, None, "wrong ssrc after 3 RTP pkts + 0 RTCP pkts; expecting …", "another source (SSRC)"),
        ] {
            let told = in_words(step, "camera:554", status, &format!("{text}{context}")).to_string();
            assert!(told.contains(expected) && !told.contains("conn:") && told.lines().count() == 1, "{text}: {told}");
        }
    }

    #[test]
    fn what_takes_a_person_is_tried_less_often() {
        let unusable = |status| matches!(in_words(Step::Describe, "camera:554", Some(status), ""), SourceError::Unusable(_));
        assert!([401, 403, 461].into_iter().all(unusable) && ![404, 453, 500, 503].into_iter().any(unusable));
    }

    #[test]
    fn no_answer_is_told_apart_from_no_connection() {
        let told = |connects| silent(Step::Describe, "camera:554", Duration::from_secs(30), connects).to_string();
        assert_eq!(told(true), "camera:554 takes connections, but gives no answer to DESCRIBE within 30 s");
        assert_eq!(told(false), "camera:554 does not answer: no connection within 30 s");
    }
}
