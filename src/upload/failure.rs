//! Why a clip was not stored: a sentence that names the peer and repeats its message, advice, and the cause.

use std::time::{Duration, SystemTime};

use http::{StatusCode, header};
use thiserror::Error;

use super::{
    grant::Violation,
    spool::{Blame, Trouble},
};
use crate::{
    conditions::Kind,
    config::Endpoint,
    http::{Answer, Fault, Stage, Stale},
};

/// Characters of a server's own message that are repeated.
const WORDS: usize = 120;

/// What a transfer was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Asking the API for a grant.
    Asking,
    /// Sending the clip to the store.
    Sending,
}

#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("the gate was closed while this was under way")]
    Stale,
    #[error("{}: {fault}", .doing.words())]
    Fault { doing: Doing, fault: Fault },
    #[error("the cloud refused the grant with {0}")]
    Refused(u16),
    #[error(transparent)]
    Grant(#[from] Violation),
    #[error("{}: {answer}", .doing.words())]
    Answered { doing: Doing, answer: Declined },
    #[error("sending the clip: {0} acknowledges nothing of full segments")]
    Swallowed(String),
    #[error("the grant ended before the clip could be sent")]
    Expired,
    #[error("the clip cannot be read from flash: {0}")]
    Unreadable(String),
}

/// An answer that was not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{peer} answered {}{}", named(*.status), quoted(.words))]
pub(super) struct Declined {
    /// The peer that answered, `host:port`.
    pub(super) peer: String,
    pub(super) status: u16,
    /// Its message; empty if it sent none that can be repeated.
    pub(super) words: String,
    /// How long the server has asked us to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Doing {
    fn words(self) -> &'static str {
        match self {
            Self::Asking => "asking for a grant",
            Self::Sending => "sending the clip",
        }
    }

    pub(super) fn fault(self, fault: Fault) -> Failure {
        match fault {
            Fault::Stale(stale) => stale.into(),
            fault => Failure::Fault { doing: self, fault },
        }
    }

    pub(super) fn declined(self, peer: &Endpoint, answer: &Answer) -> Failure {
        Failure::Answered { doing: self, answer: Declined::of(peer, answer) }
    }
}

impl From<Stale> for Failure {
    fn from(_: Stale) -> Self {
        Self::Stale
    }
}

impl Failure {
    /// The part of it that the spool needs.
    pub(super) fn trouble(&self) -> Trouble {
        let retry_after = match self {
            Self::Answered { answer, .. } => answer.retry_after,
            _ => None,
        };
        Trouble { blame: self.blame(), why: self.to_string(), advice: self.advice(), retry_after }
    }

    fn blame(&self) -> Blame {
        match self {
            Self::Fault { doing: Doing::Asking, fault } if fault.stage() != Some(Stage::Http) => Blame::Away,
            Self::Answered { answer, .. } if answer.is_about_the_clip() => Blame::Clip,
            Self::Grant(_) => Blame::Grant,
            Self::Unreadable(_) => Blame::Flash,
            Self::Fault { .. } | Self::Answered { .. } | Self::Refused(_) | Self::Swallowed(_) | Self::Expired | Self::Stale => {
                Blame::Server
            }
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Fault { fault, .. } => fault.advice(),
            Self::Answered { doing, answer } => match (answer.status, doing) {
                (401, Doing::Asking) => "The API does not accept this device's certificate: check that the cloud knows the device.",
                (401 | 403, Doing::Sending) => {
                    "The store rejects the URL that the cloud has signed: check the cloud's store keys and clock."
                }
                (413, _) => "Raise the body size that the store, or a proxy before it, takes.",
                (429, _) => "The server asks for fewer requests: raise its limit for this device.",
                (500.., _) => "Look for the fault in the server's own log; clips wait until it is fixed.",
                _ => "Ask the server's operator why it declines the request.",
            },
            Self::Grant(Violation::Redirect(_)) => "Let the cloud's grants name the address that the store sends on to.",
            Self::Grant(_) => "Add the host to [store] hosts if it is right, or correct the cloud's grants.",
            Self::Swallowed(_) => Kind::PathMtu.advice(),
            Self::Expired => "Check the API's clock, or give the camera a faster uplink: a grant lives a minute at most.",
            Self::Unreadable(_) => "Check the state directory's file system.",
            Self::Refused(_) => "Check the account's subscription.",
            Self::Stale => "Nothing.",
        }
    }
}

impl Declined {
    fn of(peer: &Endpoint, answer: &Answer) -> Self {
        let after = answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        Self {
            peer: peer.authority(),
            status: answer.status,
            words: words(&answer.body),
            retry_after: after.and_then(|after| retry_after(after, answer.date)),
        }
    }

    /// Statuses with which a server refuses this particular body.
    fn is_about_the_clip(&self) -> bool {
        matches!(self.status, 409 | 411 | 412 | 413 | 415 | 422)
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3), which counts from the answer's own.
fn retry_after(text: &str, date: Option<Duration>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(date?))
}

fn named(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

fn quoted(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": \"{words}\"") }
}

/// The reason that a server gives for its refusal: S3's `Code` and `Message`, a JSON object's `error`, `message` or
/// `detail`, or the first line of plain text. An S3 answer may repeat the request and its signature; neither is
/// copied.
fn words(body: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(body) else { return String::new() };
    let text = text.trim_start_matches('\u{feff}').trim();
    let said = if text.starts_with('<') {
        let parts: Vec<_> = ["Code", "Message", "title"].iter().filter_map(|tag| element(text, tag)).collect();
        parts.join(": ")
    } else if text.starts_with('{') {
        let object: serde_json::Value = serde_json::from_slice(text.as_bytes()).unwrap_or_default();
        let member = ["error", "message", "detail"].iter().find_map(|name| object.get(name)?.as_str());
        member.unwrap_or_default().to_owned()
    } else {
        text.lines().next().unwrap_or_default().to_owned()
    };
    clean(&said)
}

fn element<'t>(text: &'t str, tag: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(inner, _)| inner.trim())
}

/// Shortens the text to one line and removes anything that could be a URL with a secret in it.
fn clean(said: &str) -> String {
    let plain = said.split_whitespace().filter(|word| !word.contains("://") && !word.contains("Signature"));
    let mut line = plain.collect::<Vec<_>>().join(" ");
    line.retain(|character| !character.is_control() && character != '"');
    match line.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_own_words_are_repeated_and_its_secrets_are_not() {
        let s3 = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated \
                  differs</Message><StringToSign>AWS4 secret</StringToSign></Error>";
        assert_eq!(words(s3.as_bytes()), "The request signature we calculated differs");
        assert_eq!(words(b"<Error><Code>SlowDown</Code><Message>Reduce\n your rate</Message></Error>"), "SlowDown: Reduce your rate");
        assert_eq!(words(b"<html><head><title>413 Request Entity Too Large</title>"), "413 Request Entity Too Large");
        assert_eq!(words(b"{\"error\": \"disk full\", \"token\": \"x\"}"), "disk full");
        assert_eq!(words(b"no such bucket https://s.example/?X-Amz-Signature=1 here\nsecond"), "no such bucket here");
        for nothing in [&b""[..], b"\xff\xfe", b"{}", b"{\"error\": 1}", b"<a/>"] {
            assert_eq!(words(nothing), "");
        }
        assert_eq!(words("ä".repeat(500).as_bytes()).chars().count(), WORDS + 1);
    }

    #[test]
    fn how_long_to_wait_is_seconds_or_a_date() {
        let date = Some(Duration::from_secs(784_111_777));
        assert_eq!(retry_after(" 120", None), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", date), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:40:37 GMT", date), Some(Duration::ZERO));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", None), None);
        assert_eq!(retry_after("soon", date), None);
        assert_eq!(retry_after("-1", date), None);
    }

    #[test]
    fn only_what_shows_that_the_api_is_away_is_put_down_to_it() {
        let timeout = |stage| Fault::Timeout { stage, host: "care.example".into() };
        let blame = |doing: Doing, fault| doing.fault(fault).trouble().blame;
        for stage in [Stage::Dns, Stage::Tcp, Stage::Tls] {
            assert_eq!(blame(Doing::Asking, timeout(stage)), Blame::Away);
            assert_eq!(blame(Doing::Sending, timeout(stage)), Blame::Server, "the store's host may be one of several");
        }
        assert_eq!(blame(Doing::Asking, timeout(Stage::Http)), Blame::Server);
        let answered = |status| {
            let answer = Declined { peer: "clips.example:443".into(), status, words: "it said so".into(), retry_after: None };
            Failure::Answered { doing: Doing::Sending, answer }
        };
        assert_eq!(answered(413).trouble().blame, Blame::Clip);
        for status in [400, 401, 404, 429, 500, 503, 599] {
            assert_eq!(answered(status).trouble().blame, Blame::Server);
        }
        let said = "sending the clip: clips.example:443 answered 503 Service Unavailable: \"it said so\"";
        assert_eq!(answered(503).to_string(), said);
    }
}
