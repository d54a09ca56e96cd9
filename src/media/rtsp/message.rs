//! RTSP messages (RFC 2326) out of the bytes of a connection: the camera's responses and requests, and interleaved RTP among them.
//! Strict in where a message begins and how long it is, lenient in the rest: cameras differ in line ends, blanks and the case of
//! names. Pure and bounded; the fuzz target `rtsp` feeds it. Called by `connection`.

use bytes::{Buf, Bytes, BytesMut};

/// The longest start line and headers together, bytes.
pub(super) const LONGEST_HEAD: usize = 16 << 10;
/// The most headers of a message.
const MOST_HEADERS: usize = 100;
/// The longest body, bytes. An SDP takes one or two thousand.
pub(super) const LONGEST_BODY: usize = 64 << 10;

/// What a camera sends.
#[derive(Debug)]
pub(super) enum Message {
    /// An interleaved packet (RFC 2326, section 10.12).
    Data {
        channel: u8,
        packet: Bytes,
    },
    Response(Response),
    /// Of the camera. Its body is left out.
    Request(Request),
}

#[derive(Debug)]
pub(super) struct Response {
    pub status: u16,
    /// The words after the status.
    pub reason: String,
    pub headers: Headers,
    pub body: Bytes,
}

#[derive(Debug)]
pub(super) struct Request {
    pub method: String,
    pub headers: Headers,
}

/// Names and values, without control characters and the blanks around them.
#[derive(Debug, Default)]
pub(super) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first of this name, in whatever case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The number that tells responses apart. Some cameras send none, or one that cannot be read.
    pub fn sequence(&self) -> Option<u32> {
        self.get("CSeq")?.parse().ok()
    }
}

/// Why bytes are no message. Each completes the sentence "the camera's answer cannot be used: …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it is no RTSP message")]
    NotRtsp,
    #[error("its headers are longer than {} KiB", LONGEST_HEAD >> 10)]
    LongHead,
    #[error("it has more than {MOST_HEADERS} headers")]
    ManyHeaders,
    #[error("its Content-Length cannot be read")]
    Length,
    #[error("it is longer than {} KiB", LONGEST_BODY >> 10)]
    LongBody,
}

/// Reads one message after another.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// A message whose body has not come yet.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    start: Start,
    headers: Headers,
    body: usize,
}

/// A message's first line.
#[derive(Debug)]
enum Start {
    Response { status: u16, reason: String },
    Request { method: String },
}

impl Reader {
    /// Takes the next message out of `bytes`; `None` if it is not complete.
    ///
    /// # Errors
    /// What stands there is no message, or longer than one may be. Nothing after it can be read.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => {
                // Empty lines between messages are allowed, and cameras send them after bodies.
                let blank = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                bytes.advance(blank);
                if bytes.first() == Some(&b'$') {
                    return Ok(interleaved(bytes));
                }
                let Some(begun) = head(bytes)? else { return Ok(None) };
                begun
            }
        };
        if bytes.len() < begun.body {
            self.begun = Some(begun);
            return Ok(None);
        }
        let Begun { start, headers, body } = begun;
        let body = bytes.split_to(body).freeze();
        Ok(Some(match start {
            Start::Response { status, reason } => Message::Response(Response { status, reason, headers, body }),
            Start::Request { method } => Message::Request(Request { method, headers }),
        }))
    }
}

/// A dollar sign, the channel, the length in two bytes, and as many bytes.
fn interleaved(bytes: &mut BytesMut) -> Option<Message> {
    let [_, channel, high, low, rest @ ..] = &bytes[..] else { return None };
    let (channel, length) = (*channel, usize::from(u16::from_be_bytes([*high, *low])));
    if rest.len() < length {
        return None;
    }
    bytes.advance(4);
    Some(Message::Data { channel, packet: bytes.split_to(length).freeze() })
}

/// Takes start line and headers, once they are complete.
fn head(bytes: &mut BytesMut) -> Result<Option<Begun>, Malformed> {
    let Some(first) = bytes.split_inclusive(|byte| *byte == b'\n').next() else { return Ok(None) };
    // Noise is told from a message at once, without waiting for a line's end that may never come.
    if first.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
        return Err(Malformed::NotRtsp);
    }
    let start = if first.ends_with(b"\n") { Some(start_line(&line(first)).ok_or(Malformed::NotRtsp)?) } else { None };
    let mut length = 0;
    let ends = |line: &[u8]| line.ends_with(b"\n") && line.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
    let complete = bytes.split_inclusive(|byte| *byte == b'\n').any(|line| {
        length += line.len();
        ends(line)
    });
    if length > LONGEST_HEAD {
        return Err(Malformed::LongHead);
    }
    let (Some(start), true) = (start, complete) else { return Ok(None) };
    let headers = headers(&bytes.split_to(length))?;
    let body = body_length(&headers)?;
    Ok(Some(Begun { start, headers, body }))
}

/// `RTSP/1.0 200 OK` or `OPTIONS rtsp://… RTSP/1.0`.
fn start_line(line: &str) -> Option<Start> {
    let is_version = |word: &str| word.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("RTSP/"));
    let (first, rest) = line.split_once(' ')?;
    if is_version(first) {
        let (status, reason) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        let status = status.parse().ok().filter(|status| (100..1000).contains(status))?;
        return Some(Start::Response { status, reason: reason.trim().to_owned() });
    }
    let is_method = first.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let version = rest.trim_end().rsplit(' ').next()?;
    (is_method && is_version(version)).then(|| Start::Request { method: first.to_owned() })
}

fn headers(head: &[u8]) -> Result<Headers, Malformed> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for bytes in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line(bytes);
        // A line that begins with a blank goes on with the one before, as in HTTP.
        if let (Some(b' ' | b'\t'), Some((_, value))) = (bytes.first(), headers.last_mut()) {
            value.push(' ');
            value.push_str(&line);
        } else if let Some((name, value)) = line.split_once(':') {
            if headers.len() == MOST_HEADERS {
                return Err(Malformed::ManyHeaders);
            }
            headers.push((name.trim_end().to_owned(), value.trim_start().to_owned()));
        }
    }
    Ok(Headers(headers))
}

/// How long the body is. Two lengths that differ would leave open where the next message begins.
fn body_length(headers: &Headers) -> Result<usize, Malformed> {
    let mut lengths = headers.all("Content-Length");
    let Some(first) = lengths.next() else { return Ok(0) };
    if lengths.any(|other| other != first) || first.is_empty() || first.bytes().any(|byte| !byte.is_ascii_digit()) {
        return Err(Malformed::Length);
    }
    // Whatever is too large for the type is too large for a body.
    let length = first.parse().unwrap_or(usize::MAX);
    if length > LONGEST_BODY { Err(Malformed::LongBody) } else { Ok(length) }
}

/// A line as text, without control characters: what comes of it may go into a request.
fn line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::is_control, " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The messages in `bytes`, as they come in pieces of this size.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Message>, Malformed> {
        let (mut reader, mut buffer, mut messages) = (Reader::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            buffer.extend_from_slice(piece);
            while let Some(message) = reader.next(&mut buffer)? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    fn response(text: &str) -> Response {
        match read(text.as_bytes(), text.len()).unwrap().pop() {
            Some(Message::Response(response)) => response,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let bytes = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 4\r\n\r\nv=0\n$\x00\x00\x02ab$\x01\x00\x00\
                      \r\n\r\nOPTIONS * RTSP/1.0\r\nCSeq: 7\r\nContent-Length: 2\r\n\r\nxxRTSP/1.0 454 \r\n\r\n";
        for piece in 1..bytes.len() {
            let messages = read(bytes, piece).unwrap();
            let [
                Message::Response(described),
                Message::Data { channel: 0, packet },
                Message::Data { channel: 1, packet: empty },
                rest @ ..,
            ] = &messages[..]
            else {
                panic!("{piece}: {messages:?}")
            };
            assert_eq!((described.status, &described.body[..]), (200, &b"v=0\n"[..]));
            assert_eq!((&packet[..], empty.len()), (&b"ab"[..], 0));
            let [Message::Request(asked), Message::Response(gone)] = rest else { panic!("{piece}: {rest:?}") };
            assert_eq!((asked.method.as_str(), asked.headers.sequence()), ("OPTIONS", Some(7)));
            assert_eq!((gone.status, gone.headers.sequence()), (454, None));
        }
    }

    #[test]
    fn what_cameras_do_with_blanks_case_and_line_ends_is_understood() {
        let odd =
            response("rtsp/1.0  401   Not you \ncseq : 3 \nWWW-Authenticate: Basic\n\trealm=\"x\"\nno header\nX:\x07\x1by\r\r\n\r\r\n");
        assert_eq!((odd.status, odd.reason.as_str(), odd.headers.sequence()), (401, "Not you", Some(3)));
        assert_eq!(odd.headers.get("www-authenticate"), Some("Basic realm=\"x\""));
        assert_eq!(odd.headers.get("x"), Some("y"), "no control character is kept");
        assert_eq!(response("RTSP/1.0 200\r\nCSeq: x\r\n\r\n").headers.sequence(), None);
        assert_eq!(response("RTSP/1.0 200 OK\r\nContent-Length: 0\r\nContent-length:0\r\n\r\n").body.len(), 0);
    }

    #[test]
    fn every_bound_has_a_fault_of_its_own() {
        let fault = |text: &str| read(text.as_bytes(), 1000).unwrap_err();
        let with = |header: &str| fault(&format!("RTSP/1.0 200 OK\r\n{header}\r\n\r\n"));
        assert_eq!(with("Content-Length: 65537"), Malformed::LongBody);
        assert_eq!(with("Content-Length: 99999999999999999999"), Malformed::LongBody);
        for length in ["-1", "+1", "", "1 1", "0x10", "1\r\nContent-Length: 2"] {
            assert_eq!(with(&format!("Content-Length: {length}")), Malformed::Length, "{length}");
        }
        assert_eq!(with(&"X: y\r\n".repeat(101)), Malformed::ManyHeaders);
        assert_eq!(with(&"X".repeat(LONGEST_HEAD)), Malformed::LongHead);
        assert_eq!(fault(&format!("RTSP/1.0 200 {}", "O".repeat(LONGEST_HEAD))), Malformed::LongHead, "without an end");
    }

    #[test]
    fn what_is_no_message_is_found_at_its_first_line() {
        for text in
            ["HTTP/1.1 400 Bad Request\r\n", "220 mail\n", "v=0\r\n", "\x01\x02", "RTSP/1.0 OK\n", "RTSP/1.0 99 x\n", "GET / HTTP/1.1\n"]
        {
            assert_eq!(read(text.as_bytes(), text.len()).unwrap_err(), Malformed::NotRtsp, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_none_are_kept_beyond_the_bound(bytes in prop::collection::vec(any::<u8>(), 0..2000), piece in 1_usize..300) {
            let _ = read(&bytes, piece);
        }

        #[test]
        fn no_headers_panic(text in "(RTSP/1.0 200 OK|PLAY x RTSP/1.0)\r?\n([ \tA-Za-z:\u{e4}\u{0}-\u{1f}0-9;=-]{0,40}\r?\n){0,20}\r?\n", piece in 1_usize..90) {
            let _ = read(text.as_bytes(), piece);
        }
    }
}
