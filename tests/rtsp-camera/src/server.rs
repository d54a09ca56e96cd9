//! RTSP (RFC 2326): reads the requests of one connection and answers them. PLAY starts a thread of
//! [`crate::stream`].

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Shared,
    digest::Guard,
    options::{Keepalive, RtpInfo, Transports},
    sdp::{Media, describe},
    stream::{self, Outlet, SSRC, Sink, Start},
};

const SESSION: &str = "5C1E7A2B";
/// A client that reads nothing for so long has gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A longer request is refused by closing the connection.
const LONGEST_REQUEST: usize = 16 * 1024;

/// One client. Its threads share it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub shared: Arc<Shared>,
    stream: TcpStream,
    writing: Mutex<()>,
    stopped: AtomicBool,
    last_request: Mutex<Instant>,
}

impl Connection {
    /// Writes bytes as a whole, whichever thread calls.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _whole = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.stream).write_all(bytes)
    }

    /// Whether the stream has to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.shared.is_closed()
    }

    /// Time since the last request.
    pub fn idle(&self) -> Duration {
        self.last_request.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Ends the stream and the connection.
    pub fn close(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Fails if the client has closed it already.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// Serves a connection on a thread of its own.
pub(crate) fn serve(shared: &Arc<Shared>, stream: TcpStream) {
    let ready = stream.set_nodelay(true).and_then(|()| stream.set_write_timeout(Some(WRITE_TIMEOUT)));
    let registered = ready.and_then(|()| {
        shared.state().connections.push(stream.try_clone()?);
        stream.peer_addr()
    });
    let peer = match registered {
        Ok(peer) => peer,
        Err(e) => return shared.event(format!("connection: {e}")),
    };
    let connection = Arc::new(Connection {
        shared: Arc::clone(shared),
        stream,
        writing: Mutex::new(()),
        stopped: AtomicBool::new(false),
        last_request: Mutex::new(Instant::now()),
    });
    thread::spawn(move || {
        if let Err(e) = Conversation::new(&connection, peer.ip()).run() {
            connection.shared.event(format!("-- connection: {e}"));
        }
        connection.close();
        let mut state = connection.shared.state();
        state.connections.retain(|other| other.peer_addr().is_ok_and(|of_other| of_other != peer));
    });
}

/// A request without its body.
struct Request {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, uri) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        Some(Self { method, uri, headers: headers.collect() })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

/// What the requests of one connection have agreed on.
struct Conversation<'a> {
    connection: &'a Arc<Connection>,
    peer: IpAddr,
    guard: Option<Guard>,
    buffer: Vec<u8>,
    outlets: Vec<Outlet>,
    playing: bool,
}

impl<'a> Conversation<'a> {
    fn new(connection: &'a Arc<Connection>, peer: IpAddr) -> Self {
        let guard = connection.shared.options.credentials.clone().map(Guard::new);
        Self { connection, peer, guard, buffer: Vec::new(), outlets: Vec::new(), playing: false }
    }

    fn run(mut self) -> io::Result<()> {
        while let Some(request) = self.next_request()? {
            *self.connection.last_request.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.connection.shared.event(format!("-> {}", request.method));
            self.answer(&request)?;
            if request.method == "TEARDOWN" {
                break;
            }
        }
        Ok(())
    }

    /// The next request; skips interleaved packets (RTCP of the client) and bodies. `None` at the end.
    fn next_request(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let [b'$', _, high, low, ..] = self.buffer[..] {
                let end = 4 + usize::from(u16::from_be_bytes([high, low]));
                if self.buffer.len() >= end {
                    self.buffer.drain(..end);
                    continue;
                }
            } else if self.buffer.first() != Some(&b'$')
                && let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                let request =
                    Request::parse(head.trim_start()).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a request"))?;
                let body = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                let end = end + 4 + body;
                while self.buffer.len() < end {
                    if !self.read()? {
                        return Ok(None);
                    }
                }
                self.buffer.drain(..end);
                return Ok(Some(request));
            } else if self.buffer.len() > LONGEST_REQUEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a request without an end"));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let count = match (&self.connection.stream).read(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    fn reply(&self, request: &Request, status: &str, headers: &str, body: &str) -> io::Result<()> {
        let sequence = request.header("cseq").unwrap_or("0");
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = if self.connection.shared.options.odd {
            format!("RTSP/1.0 {status}\n{headers}{length}\n").replace('\r', "")
        } else {
            format!("RTSP/1.0 {status}\r\nCSeq: {sequence}\r\n{headers}{length}\r\n")
        };
        self.connection.send(format!("{head}{body}").as_bytes())
    }

    fn answer(&mut self, request: &Request) -> io::Result<()> {
        if request.method != "OPTIONS"
            && let Some(guard) = &mut self.guard
            && let Some(challenges) = guard.judge(&request.method, &request.uri, request.header("authorization"))
        {
            let headers: String = challenges.iter().map(|challenge| format!("WWW-Authenticate: {challenge}\r\n")).collect();
            return self.reply(request, "401 Unauthorized", &headers, "");
        }
        let shared = &self.connection.shared;
        let options = &shared.options;
        if !path_of(&request.uri).starts_with(&options.path) && request.uri != "*" {
            return self.reply(request, "404 Not Found", "", "");
        }
        match request.method.as_str() {
            "OPTIONS" | "GET_PARAMETER" | "SET_PARAMETER" => self.answer_keepalive(request),
            "DESCRIBE" => {
                let base = base_of(&request.uri);
                let body = describe(options, &shared.videos[0].1, shared.sound.as_ref(), base);
                let location = if options.no_content_base { String::new() } else { format!("Content-Base: {base}/\r\n") };
                self.reply(request, "200 OK", &format!("Content-Type: application/sdp\r\n{location}"), &body)
            }
            "SETUP" => self.set_up(request),
            "PLAY" if request.header("session").is_none_or(|session| !session.starts_with(SESSION)) || self.outlets.is_empty() => {
                self.reply(request, "454 Session Not Found", "", "")
            }
            "PLAY" => self.play(request),
            "TEARDOWN" => self.reply(request, "200 OK", "", ""),
            _ => self.reply(request, "501 Not Implemented", "", ""),
        }
    }

    fn answer_keepalive(&self, request: &Request) -> io::Result<()> {
        let keepalive = self.connection.shared.options.keepalive;
        let is_options = request.method == "OPTIONS";
        let silent = match keepalive {
            Keepalive::Silent => self.playing,
            Keepalive::SilentParameters => !is_options,
            Keepalive::Answered | Keepalive::OnlyOptions => false,
        };
        if silent {
            return Ok(());
        }
        if is_options {
            let others = if keepalive == Keepalive::OnlyOptions { "" } else { ", GET_PARAMETER, SET_PARAMETER" };
            return self.reply(request, "200 OK", &format!("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN{others}\r\n"), "");
        }
        match keepalive {
            Keepalive::OnlyOptions => self.reply(request, "501 Not Implemented", "", ""),
            _ => self.reply(request, "200 OK", &format!("Session: {SESSION}\r\n"), ""),
        }
    }

    fn set_up(&mut self, request: &Request) -> io::Result<()> {
        let options = &self.connection.shared.options;
        let offered = |media: &Media| match media {
            Media::Video => true,
            Media::Beside(section) => options.before.contains(section) || options.after.contains(section),
        };
        let media = Media::ALL.into_iter().filter(offered).find(|media| {
            let control = media.control(options.control, base_of(&request.uri));
            // A client may put a trailing slash between a base URL and a relative one, or none.
            request.uri.ends_with(control.rsplit('/').next().unwrap_or_default())
        });
        let refused = |media: &Media| matches!(media, Media::Beside(section) if options.refused.contains(section));
        let Some(media) = media.filter(|media| !refused(media)) else { return self.reply(request, "404 Not Found", "", "") };
        let accepted = request.header("transport").unwrap_or_default().split(',').find_map(|transport| self.accept(transport.trim()));
        let Some((sink, transport)) = accepted else { return self.reply(request, "461 Unsupported Transport", "", "") };
        self.outlets.push(Outlet { media, sink });
        let ssrc = if options.wrong_ssrc { !SSRC } else { SSRC };
        let timeout = if options.timeout == 0 { String::new() } else { format!(";timeout={}", options.timeout) };
        let blank = if options.odd { " " } else { "" };
        let headers = format!("Transport: {transport};ssrc={ssrc:08X}\r\nSession: {SESSION}{blank}{timeout}\r\n");
        self.reply(request, "200 OK", &headers, "")
    }

    /// Prepares one alternative of a Transport header; `None` if the camera does not offer it.
    fn accept(&self, transport: &str) -> Option<(Sink, String)> {
        let transports = self.connection.shared.options.transports;
        let parameter = |name: &str| transport.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        let is_tcp = transport.to_ascii_uppercase().starts_with("RTP/AVP/TCP");
        if is_tcp && transports != Transports::Udp {
            let free = u8::try_from(self.outlets.len() * 2).unwrap_or_default();
            let channel = parameter("interleaved").map_or(Some(free), |pair| pair.split('-').next()?.parse().ok())?;
            return Some((Sink::Tcp { channel }, format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", channel + 1)));
        }
        if is_tcp || transports == Transports::Tcp {
            return None;
        }
        let port: u16 = parameter("client_port")?.split('-').next()?.parse().ok()?;
        let local = self.connection.stream.local_addr().ok()?.ip();
        let (rtp, rtcp) = (0..100).find_map(|_| port_pair(local))?;
        rtp.connect((self.peer, port)).ok()?;
        rtcp.connect((self.peer, port + 1)).ok()?;
        let server = rtp.local_addr().ok()?.port();
        let headers = format!("RTP/AVP;unicast;client_port={port}-{};server_port={server}-{}", port + 1, server + 1);
        Some((Sink::Udp { rtp, rtcp }, headers))
    }

    fn play(&mut self, request: &Request) -> io::Result<()> {
        let shared = &self.connection.shared;
        let start = Start::of_session(shared.state().sessions.len(), &shared.options);
        let info = match shared.options.rtp_info {
            RtpInfo::Absent => None,
            RtpInfo::Right => Some((start.sequence, start.timestamp)),
            RtpInfo::Zero => Some((0, 0)),
            RtpInfo::Wrong => Some((start.sequence.wrapping_add(20_000), start.timestamp.wrapping_add(900_000_000))),
        };
        let url = format!("{}/{}", base_of(&request.uri), Media::Video.track());
        let info = info.map_or_else(String::new, |(sequence, time)| format!("RTP-Info: url={url};seq={sequence};rtptime={time}\r\n"));
        self.reply(request, "200 OK", &format!("Session: {SESSION}\r\nRange: npt=0.000-\r\n{info}"), "")?;
        if !std::mem::replace(&mut self.playing, true) {
            let (connection, outlets) = (Arc::clone(self.connection), std::mem::take(&mut self.outlets));
            thread::spawn(move || stream::play(&connection, &outlets, start));
        }
        Ok(())
    }
}

/// Two ports, the first of them even (RFC 3550 section 11).
fn port_pair(local: IpAddr) -> Option<(UdpSocket, UdpSocket)> {
    let rtp = UdpSocket::bind((local, 0)).ok()?;
    let port = rtp.local_addr().ok()?.port();
    let rtcp = if port % 2 == 0 { UdpSocket::bind((local, port + 1)).ok()? } else { return None };
    Some((rtp, rtcp))
}

/// The path of an RTSP URL.
fn path_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.find('/').map_or("", |slash| &rest[slash..])
}

/// The stream's URL without a trailing slash, from the URL of a request for it or one of its tracks.
fn base_of(uri: &str) -> &str {
    uri.find("trackID=").map_or(uri, |track| &uri[..track]).trim_end_matches('/')
}
