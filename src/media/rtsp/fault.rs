//! What can go wrong between the agent and a camera that speaks RTSP, and the words for it: what happened at which step, and what to
//! do. Called by the other files here.

use std::{io, time::Duration};

use super::{
    control,
    login::LoginFault,
    message::{Malformed, Response},
};
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

/// Why a step did not succeed, or a session ended.
#[derive(Debug)]
pub(super) enum Fault {
    /// In the kernel's words.
    Broken(io::Error),
    /// The camera closed the connection.
    Closed,
    /// What came is no message, or longer than one may be.
    Malformed(Malformed),
    /// A status other than success, with its words.
    Status(u16, String),
    /// The camera sends on to another address: its host, if it names one.
    Moved(u16, Option<String>),
    Login(LoginFault),
    /// The camera answers SETUP with another transport than the one asked for.
    OtherTransport,
    /// The answer has nothing that can be used; the words say what is missing.
    Unusable(&'static str),
    /// The camera says that the session or the stream ends; completes the sentence "the camera …".
    Ended(&'static str),
    /// The camera answers nothing and sends nothing.
    Unanswered,
    /// The camera reads nothing.
    Unread,
    /// Ports for UDP cannot be had.
    NoPorts(io::Error),
}

impl Fault {
    pub fn status(response: &Response) -> Self {
        match response.status {
            300..400 => {
                let url = response.headers.get("Location").and_then(control::absolute);
                Self::Moved(response.status, url.and_then(|url| url.host_str().map(short)))
            }
            status => Self::Status(status, short(&response.reason)),
        }
    }

    /// Whether the camera refuses interleaved TCP: with the status made for that (RFC 2326, section 11.3.14), or by answering with
    /// another transport.
    pub fn refuses_transport(&self) -> bool {
        matches!(self, Self::Status(461, _) | Self::OtherTransport)
    }

    /// Whether a camera that does not count keepalives may have ended the session because of that.
    pub fn ends_session(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Closed | Self::Ended(_) | Self::Unanswered)
    }
}

/// The camera at `server` did not take `step` within `patience`.
pub(super) fn silent(step: Step, server: &str, patience: Duration) -> SourceError {
    let seconds = patience.as_secs();
    SourceError::Failed(format!("{server} takes connections, but gives no answer to {} within {seconds} s", step.name()))
}

/// The camera at `server` took no connection within `patience`.
pub(super) fn unconnected(server: &str, patience: Duration) -> SourceError {
    SourceError::Failed(format!("{server} does not answer: no connection within {} s", patience.as_secs()))
}

/// A connection that fails, in the kernel's words.
pub(super) fn unreachable(server: &str, error: &io::Error) -> SourceError {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refuses the connection: nothing listens there".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            format!("cannot be reached: {}", bare(error))
        }
        io::ErrorKind::TimedOut => "does not answer".to_owned(),
        _ => format!("cannot be connected to: {}", bare(error)),
    };
    SourceError::Failed(format!("{server} {words}"))
}

/// What a fault of the camera at `server` means.
pub(super) fn told(step: Step, server: &str, fault: &Fault) -> SourceError {
    let name = step.name();
    SourceError::Failed(match fault {
        Fault::Broken(error) => format!("the connection to {server} broke: {}", bare(error)),
        Fault::Closed if step == Step::Receive => "the camera closed the connection".into(),
        Fault::Closed => format!("the camera closed the connection instead of answering {name}"),
        Fault::Malformed(Malformed::NotRtsp) if step == Step::Describe => format!("what listens at {server} does not speak RTSP"),
        Fault::Malformed(why) if step == Step::Receive => format!("the camera sent something that cannot be used: {why}"),
        Fault::Malformed(why) => format!("the camera's answer to {name} cannot be used: {why}"),
        Fault::Unusable(why) => format!("the camera's answer to {name} cannot be used: {why}"),
        Fault::OtherTransport => format!("the camera's answer to {name} cannot be used: it names another transport than the one asked for"),
        Fault::Ended(how) => format!("the camera {how}"),
        Fault::Unanswered => "the camera answers no keepalive, so the session ended".into(),
        Fault::Unread => "the camera does not read what the agent sends".into(),
        Fault::NoPorts(error) => format!("no two ports in a row are free for RTP over UDP: {}", bare(error)),
        Fault::Login(fault) => return unauthorized(fault),
        Fault::Moved(status, to) => {
            let to = to.as_ref().map_or_else(String::new, |to| format!(" at {to}"));
            return SourceError::Unusable(format!("the camera has this stream at another address{to} ({status}): write that one"));
        }
        Fault::Status(403, _) => {
            return SourceError::Unusable("the camera forbids this stream to this user (403): give the user the right".into());
        }
        Fault::Status(461, _) => {
            let words = "the camera takes none of the transports offered (461): set rtsp_transport to auto, or another one in the camera";
            return SourceError::Unusable(words.into());
        }
        Fault::Status(404, _) => "the camera has no stream at this path (404): correct the path in the address".into(),
        Fault::Status(453, _) => "the camera has no room for another viewer (453): end another one, or try later".into(),
        Fault::Status(503, _) => "the camera is busy (503); it is tried again".into(),
        Fault::Status(status, reason) => format!("the camera answers {name} with {status} {reason}").trim_end().to_owned(),
    })
}

fn unauthorized(fault: &LoginFault) -> SourceError {
    SourceError::Unusable(match fault {
        LoginFault::NoCredentials => {
            "the camera asks for a user and password (401), and the address has none: write rtsp://user:password@host/path".into()
        }
        LoginFault::Unsupported(asked) => {
            let asked = if asked.is_empty() { String::new() } else { format!(" ({})", short(asked)) };
            format!("the camera asks for a kind of login that is not supported{asked}: choose digest or basic in the camera")
        }
        LoginFault::Refused => "the camera refuses the user or password (401): correct them in the address".into(),
    })
}

fn bare(error: &io::Error) -> String {
    let text = error.to_string();
    short(text.split(" (os error").next().unwrap_or(&text)).to_ascii_lowercase()
}

/// A part of another program's text that may stand in a sentence.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, reason: &str) -> Fault {
        Fault::Status(status, reason.into())
    }

    #[test]
    fn each_step_that_fails_is_told_with_its_cause() {
        // The numbers are the processor's: 104 on ARM, 131 on MIPS.
        let reset = Fault::Broken(io::Error::from_raw_os_error(libc::ECONNRESET));
        for (step, fault, expected) in [
            (Step::Describe, Fault::Login(LoginFault::Refused), "user or password"),
            (Step::Describe, Fault::Login(LoginFault::NoCredentials), "the address has none"),
            (Step::Describe, Fault::Login(LoginFault::Unsupported("NTLM".into())), "not supported (NTLM)"),
            (Step::Describe, status(404, "Not Found"), "no stream at this path (404)"),
            (Step::Describe, Fault::Moved(302, Some("camera.lan".into())), "at another address at camera.lan (302)"),
            (Step::Describe, Fault::Closed, "closed the connection instead of answering DESCRIBE"),
            (Step::Describe, Fault::Malformed(Malformed::NotRtsp), "what listens at camera:554 does not speak RTSP"),
            (Step::Describe, Fault::Malformed(Malformed::LongBody), "answer to DESCRIBE cannot be used: it is longer than 64 KiB"),
            (Step::Setup, status(461, "Unsupported Transport"), "rtsp_transport"),
            (Step::Setup, Fault::OtherTransport, "answer to SETUP cannot be used: it names another transport"),
            (Step::Play, status(500, "Internal Server Error"), "answers PLAY with 500 Internal Server Error"),
            (Step::Play, status(500, ""), "answers PLAY with 500"),
            (Step::Receive, Fault::Malformed(Malformed::NotRtsp), "cannot be used: it is no RTSP message"),
            (Step::Receive, reset, "broke: connection reset by peer"),
            (Step::Receive, Fault::Closed, "the camera closed the connection"),
            (Step::Receive, Fault::Unanswered, "answers no keepalive"),
            (Step::Receive, Fault::Ended("ended the session"), "the camera ended the session"),
        ] {
            let told = told(step, "camera:554", &fault).to_string();
            assert!(told.contains(expected) && told.lines().count() == 1, "{fault:?}: {told}");
        }
        let connecting = |number| unreachable("camera:554", &io::Error::from_raw_os_error(number)).to_string();
        assert_eq!(connecting(libc::ECONNREFUSED), "camera:554 refuses the connection: nothing listens there");
        assert!(connecting(libc::EHOSTUNREACH).contains("cannot be reached: "));
    }

    #[test]
    fn what_takes_a_person_is_tried_less_often() {
        let unusable = |code| matches!(told(Step::Describe, "camera:554", &status(code, "")), SourceError::Unusable(_));
        assert!([403, 461].into_iter().all(unusable) && ![404, 453, 500, 503].into_iter().any(unusable));
        assert!(matches!(told(Step::Play, "camera:554", &Fault::Login(LoginFault::Refused)), SourceError::Unusable(_)));
    }

    #[test]
    fn no_answer_is_told_apart_from_no_connection() {
        let seconds = Duration::from_secs(30);
        let told = silent(Step::Describe, "camera:554", seconds).to_string();
        assert_eq!(told, "camera:554 takes connections, but gives no answer to DESCRIBE within 30 s");
        assert_eq!(unconnected("camera:554", seconds).to_string(), "camera:554 does not answer: no connection within 30 s");
    }
}
