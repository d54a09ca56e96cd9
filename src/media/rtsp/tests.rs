//! The source against a camera that a test scripts, answer by answer: steps that hang or fail, transports, keepalives, and what
//! becomes of a session that breaks. How real cameras err in their packets is the matter of `media::rtp` and of the black-box
//! tests.

mod network;
mod sound;

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use self::{
    network::{Disorder, Network, ORDER},
    sound::{SoundBeside, is_sound},
};
use super::*;
use crate::{
    conditions::Conditions,
    media::{
        drops::DropCounters,
        motion::onvif::MetadataSink,
        ring::{Next, Ring},
        source::Stream,
        tests::{eventually, scripted},
    },
};

/// How a camera answers one request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// As a good camera does.
    Well,
    /// With this status, and headers after it.
    Status(&'static str),
    /// With this SDP.
    Sdp(&'static str),
    /// With these headers instead of the usual ones.
    Headers(&'static str),
    /// With these bytes and nothing else. `{cseq}` in them becomes the request's number.
    Bytes(&'static str),
    /// With these bytes, and then as a good camera does.
    After(&'static str),
    /// With the first pictures, and then as a good camera does.
    Early,
    Nothing,
    /// By closing the connection.
    Close,
}

/// A camera that answers each request as the script says: it is given the method, the number of the connection, and all headers.
pub(super) struct Camera {
    address: SocketAddr,
    plays: Arc<AtomicUsize>,
}

impl Camera {
    pub fn new(script: impl Fn(&str, usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        Self::through(ORDER, script)
    }

    /// With a network between that does this to pictures and sound.
    pub fn through(disorder: Disorder, script: impl Fn(&str, usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, plays, script) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default(), Arc::new(script));
        let counted = plays.clone();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (script, plays) = (script.clone(), counted.clone());
                thread::spawn(move || serve(stream.unwrap(), disorder, |method, headers| script(method, number, headers), &plays));
            }
        });
        Self { address, plays }
    }

    pub fn source(&self) -> RtspSource {
        RtspSource::new(&format!("rtsp://{}/live", self.address), RtspTransport::Auto)
    }

    pub fn plays(&self) -> usize {
        self.plays.load(Ordering::Relaxed)
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, disorder: Disorder, answer: impl Fn(&str, &str) -> Answer, plays: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut udp, mut beside) = (None, Beside::None);
    let mut film = Film::new(disorder);
    let (mut sound_udp, mut sends_samples) = (None, false);
    loop {
        let (mut line, mut headers) = (String::new(), String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            headers.push_str(&line);
        }
        let Some(method) = headers.split(' ').next().map(str::to_owned) else { continue };
        if method.starts_with("RTSP/") {
            // An answer to a request of ours.
            answer(&method, &headers);
            continue;
        }
        let cseq = headers.lines().find_map(|line| line.strip_prefix("CSeq: ")).unwrap_or("0").to_owned();
        let transport = headers.lines().find_map(|line| line.strip_prefix("Transport: ")).unwrap_or_default().to_owned();
        let is_beside = method == "SETUP" && headers.lines().next().is_some_and(|line| line.contains("/metadata "));
        let usual = match method.as_str() {
            "SETUP" if transport.contains("client_port=") => {
                let port: u16 = transport.split("client_port=").nth(1).unwrap().split('-').next().unwrap().parse().unwrap();
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let ours = socket.local_addr().unwrap().port();
                socket.connect(("127.0.0.1", port)).unwrap();
                if is_beside {
                    beside = Beside::Udp(socket);
                } else {
                    *(if is_sound(&headers) { &mut sound_udp } else { &mut udp }) = Some(socket);
                }
                format!("Session: 7;timeout=60\r\nTransport: {transport};server_port={ours}-{}\r\n", ours + 1)
            }
            "SETUP" => {
                if is_beside {
                    let channels = transport.split("interleaved=").nth(1).unwrap();
                    beside = Beside::Tcp(channels.split('-').next().unwrap().parse().unwrap());
                }
                format!("Session: 7;timeout=60\r\nTransport: {transport}\r\n")
            }
            _ => "Session: 7\r\n".to_owned(),
        };
        let asked = answer(&method, &headers);
        let asked_with = headers.clone();
        let before = match asked {
            Answer::Bytes(bytes) | Answer::After(bytes) => bytes.replace("{cseq}", &cseq),
            _ => String::new(),
        };
        if (&stream).write_all(before.as_bytes()).is_err() {
            return;
        }
        if matches!(asked, Answer::Early) {
            (0..EARLY).for_each(|_| assert!(film.send(&stream, None)));
        }
        sends_samples |= matches!(asked, Answer::Sdp(sdp) if sdp.contains("m=audio 0 RTP/AVP 0"));
        let asked = if matches!(asked, Answer::Early | Answer::After(_)) { Answer::Well } else { asked };
        let (status, headers, body) = match asked {
            Answer::Nothing | Answer::Bytes(_) | Answer::Early | Answer::After(_) => continue,
            Answer::Close => return drop(stream.shutdown(std::net::Shutdown::Both)),
            Answer::Status(status) => (status, String::new(), String::new()),
            Answer::Headers(headers) => ("200 OK", headers.to_owned(), String::new()),
            Answer::Sdp(sdp) => ("200 OK", "Content-Type: application/sdp\r\n".to_owned(), sdp.to_owned()),
            Answer::Well if method == "DESCRIBE" => ("200 OK", "Content-Type: application/sdp\r\n".to_owned(), SDP.to_owned()),
            Answer::Well => ("200 OK", usual, String::new()),
        };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let told = format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{headers}{length}\r\n{body}");
        if (&stream).write_all(told.as_bytes()).is_err() {
            return;
        }
        if method == "SETUP" && status == "200 OK" && is_sound(&asked_with) {
            let channel = transport.split("interleaved=").nth(1).and_then(|pair| pair.split('-').next()?.parse().ok());
            film.sound = Some(SoundBeside::new(channel.unwrap_or_default(), sound_udp.take(), Network::new(disorder), sends_samples));
        }
        if method == "PLAY" && status == "200 OK" {
            plays.fetch_add(1, Ordering::Relaxed);
            let (stream, udp) = (stream.try_clone().unwrap(), udp.take());
            let mut film = std::mem::replace(&mut film, Film::new(disorder));
            let beside = std::mem::replace(&mut beside, Beside::None);
            thread::spawn(move || {
                beside.send(&stream);
                while film.send(&stream, udp.as_ref()) {
                    thread::sleep(Duration::from_secs(1) / scripted::FPS);
                }
            });
        }
    }
}

const SDP: &str = "v=0\r\ns=camera\r\nt=0 0\r\na=control:*\r\nm=audio 0 RTP/AVP 9\r\na=control:audio\r\n\
                   m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:video\r\n";

/// Where metadata goes, if it is set up.
enum Beside {
    None,
    Tcp(u8),
    Udp(UdpSocket),
}

impl Beside {
    /// Sends a document in two packets, and the first half of another. The network between swaps two of them.
    fn send(&self, stream: &TcpStream) {
        let document = include_bytes!("../../../fuzz/corpus/onvif/hikvision");
        let (first, second) = document.split_at(500);
        let mut packets = [(9, 0, first), (10, 0x80, second), (11, 0, first)];
        if matches!(self, Self::Udp(_)) {
            packets.swap(1, 2);
        }
        for (sequence, mark, payload) in packets {
            let mut rtp = vec![0x80, mark | 107, 0, sequence, 0, 0, 0, 0, 9, 9, 9, 9];
            rtp.extend_from_slice(payload);
            match self {
                Self::None => {}
                Self::Udp(socket) => drop(socket.send(&rtp)),
                Self::Tcp(channel) => {
                    let length = u16::try_from(rtp.len()).unwrap().to_be_bytes();
                    let _ = { stream }.write_all(&[&[b'$', *channel, length[0], length[1]], &rtp[..]].concat());
                }
            }
        }
    }
}

/// So many pictures come before the answer to PLAY.
const EARLY: usize = 5;

/// Sends a packet. False: the connection has ended.
fn deliver(mut stream: &TcpStream, channel: u8, udp: Option<(&UdpSocket, &mut Network)>, rtp: &[u8]) -> bool {
    match udp {
        Some((socket, network)) => network.pass(rtp).iter().all(|packet| socket.send(packet).is_ok()),
        None => {
            let mut packet = vec![b'$', channel];
            packet.extend_from_slice(&u16::try_from(rtp.len()).unwrap().to_be_bytes());
            packet.extend_from_slice(rtp);
            stream.write_all(&packet).is_ok()
        }
    }
}

/// Pictures, a keyframe a second.
struct Film {
    film: &'static [crate::media::Frame],
    sets: [Vec<u8>; 2],
    next: u32,
    sequence: u16,
    sound: Option<SoundBeside>,
    network: Network,
}

impl Film {
    fn new(disorder: Disorder) -> Self {
        let film = scripted::film("640x360");
        let sets = scripted::parameter_sets(&film[0].format.configuration);
        // The numbers wrap soon.
        Self { film, sets, next: 0, sequence: 65_530, sound: None, network: Network::new(disorder) }
    }

    /// Sends the next picture. False: the connection has ended.
    fn send(&mut self, stream: &TcpStream, udp: Option<&UdpSocket>) -> bool {
        let frame = &self.film[self.next as usize % self.film.len()];
        let mut units: Vec<&[u8]> = if frame.key { self.sets.iter().map(Vec::as_slice).collect() } else { Vec::new() };
        units.extend(scripted::units(&frame.data));
        let payloads: Vec<_> = units.into_iter().flat_map(|unit| self.network.payloads(unit)).collect();
        for (index, payload) in payloads.iter().enumerate() {
            let mark = if index + 1 == payloads.len() { 0x80 } else { 0 };
            let mut rtp = vec![0x80, mark | 96];
            rtp.extend_from_slice(&self.sequence.to_be_bytes());
            rtp.extend_from_slice(&(self.next * 90_000 / scripted::FPS).to_be_bytes());
            rtp.extend_from_slice(&[1, 2, 3, 4]);
            rtp.extend_from_slice(payload);
            self.sequence = self.sequence.wrapping_add(1);
            if !deliver(stream, 0, udp.map(|udp| (udp, &mut self.network)), &rtp) {
                return false;
            }
        }
        let until = Duration::from_secs(1) * self.next / scripted::FPS;
        self.next += 1;
        self.sound.as_mut().is_none_or(|sound| sound.send(stream, until))
    }
}

/// A run of the source, and what it delivers.
pub(super) struct Run {
    stream: Arc<Stream>,
    ring: Arc<Ring>,
    session: Session,
    ended: mpsc::Receiver<Result<(), SourceError>>,
}

impl Run {
    fn of(source: &Arc<RtspSource>) -> Self {
        Self::wanting(source, None)
    }

    /// With metadata.
    pub fn wanting(source: &Arc<RtspSource>, metadata: Option<MetadataSink>) -> Self {
        let ring = Arc::new(Ring::new(Duration::from_secs(60), 1 << 24));
        let stream = Stream::new(vec![ring.clone()], None, DropCounters::new(Conditions::default())).with_metadata(metadata);
        let stream = Arc::new(stream);
        let session = stream.session(Duration::ZERO);
        let (done, ended) = mpsc::channel();
        let (source, its_session) = (source.clone(), session.clone());
        thread::spawn(move || done.send(source.run(&its_session)));
        Self { stream, ring, session, ended }
    }

    pub fn frames(&self) -> u64 {
        self.stream.counters.used.load(Ordering::Relaxed)
    }

    fn ended(&self) -> Result<(), SourceError> {
        self.ended.recv_timeout(crate::media::tests::PATIENCE).unwrap()
    }

    /// Ends the session, and gives how long the source took to return.
    pub fn end(&self) -> Duration {
        let began = Instant::now();
        self.session.end();
        self.ended().unwrap();
        began.elapsed()
    }
}

fn fault_of(camera: &Camera) -> SourceError {
    Run::of(&Arc::new(camera.source())).ended().unwrap_err()
}

#[test]
fn a_camera_is_filmed_and_left_with_a_teardown() {
    let torn_down = Arc::<AtomicUsize>::default();
    let seen = torn_down.clone();
    let camera = Camera::new(move |method, _, _| {
        seen.fetch_add(usize::from(method == "TEARDOWN"), Ordering::Relaxed);
        Answer::Well
    });
    let run = Run::of(&Arc::new(camera.source()));
    eventually("frames come", || run.frames() >= 20);
    let mut position = 0;
    let mut last = None;
    for n in 0..20 {
        let Next::Frame { frame, lost: 0 } = run.ring.next(&mut position, Duration::ZERO) else { panic!("frame {n} is missing") };
        assert_eq!((frame.key, frame.format.width), (n % 15 == 0, 640));
        assert!(Some(frame.pts) > last);
        last = Some(frame.pts);
    }
    assert!(run.stream.counters.coding().is_some_and(|coding| coding.starts_with("H.264 ")), "{:?}", run.stream.counters.coding());
    assert!(run.end() < Duration::from_secs(2));
    assert_eq!(torn_down.load(Ordering::Relaxed), 1);
}

#[test]
fn each_answer_that_refuses_is_told_in_words() {
    let refusing = |method: &'static str, answer: fn() -> Answer| {
        Camera::new(move |asked, _, _| if asked == method { answer() } else { Answer::Well })
    };
    for (method, answer, expected) in [
        ("DESCRIBE", (|| Answer::Status("404 Not Found")) as fn() -> Answer, "no stream at this path (404)"),
        ("DESCRIBE", || Answer::Status("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\""), "the address has none"),
        ("DESCRIBE", || Answer::Close, "closed the connection instead of answering DESCRIBE"),
        ("DESCRIBE", || Answer::Sdp("v=0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:x\r\n"), "the camera sends MJPEG"),
        ("DESCRIBE", || Answer::Sdp("v=0\r\ns=x\r\nt=0 0\r\nm=audio 0 RTP/AVP 8\r\na=control:x\r\n"), "offers no video"),
        ("SETUP", || Answer::Status("461 Unsupported Transport"), "none of the transports offered (461)"),
        ("PLAY", || Answer::Status("503 Service Unavailable"), "is busy (503)"),
    ] {
        let told = fault_of(&refusing(method, answer)).to_string();
        assert!(told.contains(expected), "{method}: {told}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let absent = Arc::new(RtspSource::new(&format!("rtsp://{closed}/x"), RtspTransport::Auto));
    assert!(Run::of(&absent).ended().unwrap_err().to_string().contains("refuses the connection"));
    let nameless = Arc::new(RtspSource::new("rtsp://camera.invalid/x", RtspTransport::Auto));
    assert!(Run::of(&nameless).ended().unwrap_err().to_string().contains("the name camera.invalid cannot be resolved"));
}

#[test]
fn a_wrong_password_is_told_apart_from_none_and_tried_less_often() {
    let camera = Camera::new(|_, _, _| Answer::Status("401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"x\", nonce=\"y\""));
    let source = Arc::new(RtspSource::new(&format!("rtsp://admin:CANARY@{}/live", camera.address), RtspTransport::Auto));
    let fault = Run::of(&source).ended().unwrap_err();
    assert_eq!(fault, SourceError::Unusable("the camera refuses the user or password (401): correct them in the address".into()));
    let camera = Camera::new(|_, _, _| Answer::Status("401 Unauthorized\r\nWWW-Authenticate: NTLM"));
    let source = Arc::new(RtspSource::new(&format!("rtsp://admin:CANARY@{}/live", camera.address), RtspTransport::Auto));
    let fault = Run::of(&source).ended().unwrap_err().to_string();
    assert!(fault.contains("kind of login that is not supported") && !fault.contains("CANARY"), "{fault}");
}

#[test]
fn a_session_that_is_over_ends_whatever_the_camera_leaves_unanswered() {
    for step in ["DESCRIBE", "SETUP", "PLAY", "TEARDOWN"] {
        let reached = Arc::<AtomicUsize>::default();
        let seen = reached.clone();
        let camera = Camera::new(move |method, _, _| {
            let hangs = method == step;
            seen.fetch_add(usize::from(hangs), Ordering::Relaxed);
            if hangs { Answer::Nothing } else { Answer::Well }
        });
        let run = Run::of(&Arc::new(camera.source()));
        match step {
            "TEARDOWN" => eventually("frames come", || run.frames() > 0),
            _ => eventually("the camera is asked", || reached.load(Ordering::Relaxed) > 0),
        }
        let took = run.end();
        assert!(took < Duration::from_secs(3), "{step}: {took:?}");
    }
}

#[test]
fn a_camera_that_refuses_tcp_is_filmed_over_udp_and_asked_for_it_first_the_next_time() {
    for refusal in [Answer::Status("461 Unsupported Transport"), Answer::Headers("Session: 7\r\nTransport: RTP/AVP;unicast\r\n")] {
        let refused = Arc::<AtomicUsize>::default();
        let seen = refused.clone();
        let camera = Camera::new(move |method, _, headers| {
            if method != "SETUP" || !headers.contains("interleaved") {
                return Answer::Well;
            }
            seen.fetch_add(1, Ordering::Relaxed);
            refusal
        });
        let source = Arc::new(camera.source());
        for _ in 0..2 {
            let run = Run::of(&source);
            eventually("frames come", || run.frames() >= 20);
            assert_eq!(refused.load(Ordering::Relaxed), 1);
            run.end();
        }
        let only_tcp = RtspSource::new(&format!("rtsp://{}/live", camera.address), RtspTransport::Tcp);
        assert!(Run::of(&Arc::new(only_tcp)).ended().is_err());
    }
}

#[test]
fn a_camera_that_refuses_tcp_and_hangs_up_is_asked_for_udp_the_next_time() {
    let camera = Camera::new(|method, connection, headers| match (method, connection) {
        ("SETUP", 0) if headers.contains("interleaved") => Answer::Status("461 Unsupported Transport"),
        ("SETUP", 0) => Answer::Close,
        ("SETUP", _) if headers.contains("interleaved") => Answer::Close,
        _ => Answer::Well,
    });
    let source = Arc::new(camera.source());
    assert!(Run::of(&source).ended().is_err());
    let run = Run::of(&source);
    eventually("frames come", || run.frames() > 0);
    run.end();
}

#[test]
fn a_session_that_breaks_is_told_and_tried_again_at_once() {
    let camera = Camera::new(|method, _, _| match method {
        "OPTIONS" | "GET_PARAMETER" => Answer::Close,
        "SETUP" => Answer::Headers("Session: 7;timeout=2\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"),
        _ => Answer::Well,
    });
    let run = Run::of(&Arc::new(camera.source()));
    let fault = run.ended().unwrap_err();
    assert!(matches!(&fault, SourceError::Interrupted(_)), "{fault:?}");
    assert!(run.frames() > 5);
}

/// Session headers of a camera that wants a request every other second.
const IMPATIENT: Answer = Answer::Headers("Session: 7;timeout=2\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n");

fn is_keepalive(method: &str) -> bool {
    ["OPTIONS", "GET_PARAMETER", "SET_PARAMETER"].contains(&method)
}

/// It is alive as long as pictures come.
#[test]
fn a_camera_that_answers_no_keepalive_is_filmed_in_one_session() {
    let asked = Arc::<AtomicUsize>::default();
    let seen = asked.clone();
    let camera = Camera::new(move |method, _, _| match method {
        "SETUP" => IMPATIENT,
        _ if is_keepalive(method) => {
            seen.fetch_add(1, Ordering::Relaxed);
            Answer::Nothing
        }
        _ => Answer::Well,
    });
    let run = Run::of(&Arc::new(camera.source()));
    eventually("several keepalives have gone unanswered", || asked.load(Ordering::Relaxed) >= 4);
    assert_eq!(camera.plays(), 1);
    run.end();
}

#[test]
fn a_camera_that_neither_answers_nor_sends_is_given_up() {
    let camera = Camera::new(|method, _, _| match method {
        "SETUP" => IMPATIENT,
        // Without the pictures of a good camera.
        "PLAY" => Answer::Bytes("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n\r\n"),
        _ if is_keepalive(method) => Answer::Nothing,
        _ => Answer::Well,
    });
    assert_eq!(fault_of(&camera), SourceError::Interrupted("the camera answers no keepalive, so the session ended".into()));
}

/// The camera ends each session after two seconds, as if it had been asked nothing.
#[test]
fn a_camera_that_counts_no_keepalive_is_filmed_without_a_gap_once_that_is_known() {
    let asked = Mutex::<std::collections::HashMap<usize, u32>>::default();
    let camera = Camera::new(move |method, connection, _| match method {
        "SETUP" => IMPATIENT,
        _ if is_keepalive(method) => {
            let mut asked = asked.lock().unwrap();
            let times = asked.entry(connection).or_default();
            *times += 1;
            if *times == 3 { Answer::Close } else { Answer::Nothing }
        }
        _ => Answer::Well,
    });
    let source = Arc::new(camera.source());
    for _ in 0..UNANSWERED {
        let fault = Run::of(&source).ended().unwrap_err();
        assert_eq!(fault, SourceError::Interrupted("the camera closed the connection".into()));
    }
    let run = Run::of(&source);
    let before = camera.plays();
    eventually("several sessions have followed each other", || camera.plays() >= before + 4);
    assert!(run.ended.try_recv().is_err(), "the run goes on");
    let (mut position, mut last): (u64, Option<Duration>) = (0, None);
    while let Next::Frame { frame, lost } = run.ring.next(&mut position, Duration::ZERO) {
        let step = last.map(|last| frame.pts - last);
        assert!(lost == 0 && step.is_none_or(|step| step < Duration::from_millis(700)), "a gap of {step:?}");
        last = Some(frame.pts);
    }
    assert!(last > Some(Duration::from_secs(2)), "{last:?}");
    run.end();
}

#[test]
fn a_nonce_that_becomes_stale_in_a_keepalive_is_answered_anew() {
    let accepted = Arc::<AtomicUsize>::default();
    let seen = accepted.clone();
    let camera = Camera::new(move |method, _, headers| {
        // Two keepalives under each nonce.
        let nonce = format!("nonce=\"{}\"", seen.load(Ordering::Relaxed) / 2);
        if !headers.contains(&nonce) {
            return Answer::Status(format!("401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"x\", {nonce}, stale=true").leak());
        }
        seen.fetch_add(usize::from(is_keepalive(method)), Ordering::Relaxed);
        if method == "SETUP" { IMPATIENT } else { Answer::Well }
    });
    let source = RtspSource::new(&format!("rtsp://admin:CANARY@{}/live", camera.address), RtspTransport::Auto);
    let run = Run::of(&Arc::new(source));
    eventually("keepalives are accepted under several nonces", || accepted.load(Ordering::Relaxed) >= 5);
    assert_eq!(camera.plays(), 1);
    run.end();
}

#[test]
fn pictures_before_the_answer_to_play_are_used() {
    let camera = answering("PLAY", Answer::Early);
    let run = Run::of(&Arc::new(camera.source()));
    eventually("frames come", || run.frames() >= 12);
    assert_eq!(run.stream.counters.dropped.load(Ordering::Relaxed), 0, "the first keyframe is among them");
    run.end();
}

#[test]
fn a_camera_that_sends_on_another_channel_than_it_named_is_filmed() {
    let camera = answering("SETUP", Answer::Headers("Session: 7\r\nTransport: RTP/AVP/TCP;unicast;interleaved=2-3\r\n"));
    let run = Run::of(&Arc::new(camera.source()));
    eventually("frames come", || run.frames() >= 20);
    run.end();
}

#[test]
fn requests_of_the_camera_are_answered() {
    let answered = Arc::<Mutex<Vec<String>>>::default();
    let seen = answered.clone();
    let camera = Camera::new(move |method, _, headers| {
        if method == "RTSP/1.0" {
            seen.lock().unwrap().push(headers.lines().take(2).collect::<Vec<_>>().join(", "));
        }
        match method {
            "PLAY" => Answer::After("OPTIONS * RTSP/1.0\r\nCSeq: 70\r\n\r\n"),
            "SETUP" => Answer::After("ANNOUNCE rtsp://x RTSP/1.0\r\nCSeq: 69\r\nContent-Length: 3\r\n\r\nv=0"),
            _ => Answer::Well,
        }
    });
    let run = Run::of(&Arc::new(camera.source()));
    eventually("frames come", || run.frames() >= 5);
    assert_eq!(*answered.lock().unwrap(), ["RTSP/1.0 501 Not Implemented, CSeq: 69", "RTSP/1.0 200 OK, CSeq: 70"]);
    run.end();
    let camera = answering("PLAY", Answer::After("TEARDOWN rtsp://x RTSP/1.0\r\n\r\n"));
    assert!(fault_of(&camera).to_string().contains("the camera ended the session"));
}

/// An answer to this method, and otherwise good ones.
fn answering(asked: &'static str, answer: Answer) -> Camera {
    Camera::new(move |method, _, _| if method == asked { answer } else { Answer::Well })
}

/// What a camera says before the stream: what the SDP and its sections begin with, and what a section says.
macro_rules! sdp {
    ($before:literal, $media:literal, $control:literal) => {
        Answer::Sdp(concat!("v=0\r\ns=camera\r\n", $before, "t=0 0\r\n", $media, "a=rtpmap:96 H264/90000\r\n", $control))
    };
}

/// What becomes of a run with this camera: `filmed`, or why not. `None`: the source panicked.
fn outcome(source: RtspSource) -> Option<String> {
    let run = Run::of(&Arc::new(source));
    let mut ended = Err(mpsc::TryRecvError::Empty);
    eventually("frames come, or the run ends", || {
        ended = run.ended.try_recv();
        run.frames() > 0 || ended != Err(mpsc::TryRecvError::Empty)
    });
    match ended {
        Ok(ended) => Some(ended.unwrap_err().to_string()),
        Err(mpsc::TryRecvError::Disconnected) => None,
        Err(mpsc::TryRecvError::Empty) => {
            run.end();
            Some("filmed".into())
        }
    }
}

/// Answers at which an RTSP library of before panicked, and more of their kinds. A program that aborts on a panic would end.
#[test]
fn no_session_header_and_no_description_ends_the_agent() {
    const VIDEO: &str = "m=video 0 RTP/AVP 96\r\n";
    for (method, name, answer, expected) in [
        ("SETUP", "a session without an id", session(""), "filmed"),
        ("SETUP", "a session of blanks", session("  "), "filmed"),
        ("SETUP", "a blank after the session's id", session("7 "), "filmed"),
        ("SETUP", "a tab around the session's id", session("\t7\t"), "filmed"),
        ("SETUP", "letters beyond ASCII in the id", session("\u{e4}\u{20ac}"), "filmed"),
        ("SETUP", "no session", Answer::Headers("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"), "filmed"),
        ("SETUP", "nothing at all", Answer::Headers(""), "filmed"),
        (
            "DESCRIBE",
            "a section without a format",
            sdp!("", "m=application 0 RTP/AVP \r\nm=video 0 RTP/AVP 96\r\n", "a=control:x\r\n"),
            "filmed",
        ),
        ("DESCRIBE", "the video without a format", sdp!("", "m=video 0 RTP/AVP\r\n", "a=control:x\r\n"), "filmed"),
        ("DESCRIBE", "sections of nothing", sdp!("", "m=\r\nm= \r\nm=audio\r\nm=video 0 RTP/AVP 96\r\n", "a=control:x\r\n"), "filmed"),
        ("DESCRIBE", "a line without = before another", sdp!("Camera 1\r\n", "m=video 0 RTP/AVP 96\r\n", "a=control:x\r\n"), "filmed"),
        ("DESCRIBE", "such a line in a section", sdp!("", "m=video 0 RTP/AVP 96\r\n", " \r\na=control:x\r\n"), "filmed"),
        ("DESCRIBE", "lines of one letter and of none", sdp!("v\r\n=\r\n\r\nm\r\n", "m=video 0 RTP/AVP 96\r\n", "a\r\na=\r\n"), "filmed"),
        (
            "DESCRIBE",
            "the wrong order",
            Answer::Sdp("a=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\ns=x\r\na=rtpmap:96 H264/90000\r\nv=0\r\n"),
            "filmed",
        ),
        ("DESCRIBE", "no attributes", Answer::Sdp(VIDEO), "a kind that it does not name"),
    ] {
        let told = outcome(answering(method, answer).source());
        assert!(told.as_ref().is_some_and(|told| told.contains(expected)), "{name}: {told:?}");
    }
}

fn session(id: &str) -> Answer {
    Answer::Headers(format!("Session: {id};timeout=60\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n").leak())
}

#[test]
fn other_odd_answers_are_told_or_ignored() {
    let transport = |transport: &str| Answer::Headers(format!("Session: 7\r\nTransport: RTP/AVP/TCP;{transport}\r\n").leak());
    let video = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
    let described = |more: &str| Answer::Sdp(format!("v=0\r\ns=x\r\nt=0 0\r\n{video}{more}").leak());
    let whole = |head: &str| Answer::Bytes(format!("{head}Content-Length: {}\r\n\r\n{SDP}", SDP.len()).leak());
    for (method, answer, expected) in [
        ("DESCRIBE", described("a=control:http://[\r\n"), "filmed"),
        ("DESCRIBE", described("a=fmtp:96 sprop-parameter-sets=Z2QA,aA==\r\na=control\r\n"), "filmed"),
        ("DESCRIBE", described("a line that is the last\r\n"), "filmed"),
        ("DESCRIBE", Answer::Sdp("v=0\r\ns=x\r\nm=video 0 RTP/AVP 300\r\n"), "a kind that it does not name"),
        ("DESCRIBE", Answer::Sdp("v=0\r\nm=video\r\n"), "a kind that it does not name"),
        ("DESCRIBE", Answer::Sdp(" "), "it describes no stream"),
        ("DESCRIBE", Answer::Status("200 OK"), "it describes no stream: it has no Content-Length"),
        ("DESCRIBE", Answer::Status("200 OK\r\nContent-Length: 99999999999999999999"), "it is longer than 64 KiB"),
        ("DESCRIBE", Answer::Status("200 OK\r\nContent-Length: many"), "its Content-Length cannot be read"),
        ("DESCRIBE", Answer::Status("302 Moved\r\nLocation: rtsp://me:CANARY@other/live"), "another address at other (302)"),
        ("DESCRIBE", Answer::Bytes("SSH-2.0-OpenSSH\r\n"), "does not speak RTSP"),
        ("DESCRIBE", Answer::Bytes("\u{0}\u{1}"), "does not speak RTSP"),
        ("DESCRIBE", Answer::Bytes("RTSP/1.0 100 Wait\r\n\r\nRTSP/1.0 404 No\r\n\r\n"), "no stream at this path (404)"),
        ("DESCRIBE", whole("RTSP/1.0 200 OK\nCSeq : {cseq}\n"), "filmed"),
        ("DESCRIBE", whole("rtsp/1.0  200 \r\ncseq:{cseq}\r\n"), "filmed"),
        ("DESCRIBE", whole("RTSP/1.0 200 OK\r\nCSeq: 0\r\n"), "filmed"),
        ("DESCRIBE", whole("\r\n\r\nRTSP/1.0 200 OK\r\n"), "filmed"),
        ("SETUP", transport("interleaved=255-256"), "filmed"),
        ("SETUP", transport("interleaved=-1"), "filmed"),
        ("SETUP", transport("interleaved=0"), "filmed"),
        ("SETUP", transport("unicast"), "filmed"),
        ("SETUP", Answer::Headers("Session: 7;timeout=0\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n"), "filmed"),
        ("SETUP", Answer::Headers("Session: 7;timeout=4294967295\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n"), "filmed"),
        ("SETUP", Answer::After("$\u{0}\u{0}\u{0}$\u{7}\u{0}\u{2}ab"), "filmed"),
        ("SETUP", Answer::After("noise\r\n"), "answer to SETUP cannot be used: it is no RTSP message"),
        ("PLAY", Answer::Headers("Session: 7\r\nRTP-Info: url=;seq=65535;rtptime=4294967295\r\n"), "filmed"),
        ("PLAY", Answer::Headers("Session: 7\r\nRTP-Info: ;;=\r\n"), "filmed"),
    ] {
        let told = outcome(answering(method, answer).source());
        assert!(told.as_ref().is_some_and(|told| told.contains(expected) && !told.contains("CANARY")), "{method}, {answer:?}: {told:?}");
    }
}

#[test]
fn a_message_without_an_end_is_given_up_at_its_bound() {
    let head: &'static str = format!("RTSP/1.0 200 OK\r\nX: {}", "y".repeat(20_000)).leak();
    let told = fault_of(&answering("DESCRIBE", Answer::Bytes(head))).to_string();
    assert!(told.contains("its headers are longer than 16 KiB"), "{told}");
    for (kind, expected) in [(head, "its headers are longer than 16 KiB"), ("noise", "it is no RTSP message")] {
        // While pictures come.
        let camera = Camera::new(move |method, _, _| match method {
            "SETUP" => IMPATIENT,
            _ if is_keepalive(method) => Answer::Bytes(kind),
            _ => Answer::Well,
        });
        let run = Run::of(&Arc::new(camera.source()));
        let fault = run.ended().unwrap_err();
        assert!(matches!(&fault, SourceError::Interrupted(_)) && run.frames() > 5, "{fault}");
        assert!(fault.to_string().contains(expected), "{fault}");
    }
}

#[test]
fn an_odd_challenge_is_answered_or_told() {
    for challenge in [
        r#"Digest realm="a \"b\" \\", nonce="	 ", opaque="", qop="auth,auth-int", userhash=true"#,
        r#"Digest realm="", nonce="", algorithm=SHA-256-sess, stale=maybe, domain="\"""#,
        r#"Digest realm="x", Basic"#,
        r#"Digest realm="\"#,
        "Basic",
        ",,,",
    ] {
        let status: &'static str = format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}").leak();
        let camera =
            Camera::new(move |_, _, headers| if headers.contains("Authorization: ") { Answer::Well } else { Answer::Status(status) });
        let source = RtspSource::new(&format!("rtsp://\u{e4}\"min:p\u{20ac}w\"@{}/live", camera.address), RtspTransport::Auto);
        let told = outcome(source);
        assert!(told.is_some(), "{challenge}: the source panicked");
    }
}
