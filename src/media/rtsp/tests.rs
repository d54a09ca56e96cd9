//! The source against a camera that a test scripts, answer by answer: steps that hang or fail, transports, keepalives, and what
//! becomes of a session that breaks. How real cameras err in their packets is the matter of `media::rtp` and of the black-box
//! tests.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::*;
use crate::{
    conditions::Conditions,
    media::{
        drops::DropCounters,
        ring::{Next, Ring},
        source::Stream,
        tests::{eventually, scripted},
    },
};

/// How a camera answers one request.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// As a good camera does.
    Well,
    /// With this status, and headers after it.
    Status(&'static str),
    /// With this SDP.
    Sdp(&'static str),
    /// With these headers instead of the usual ones.
    Headers(&'static str),
    Nothing,
    /// By closing the connection.
    Close,
}

/// A camera that answers each request as the script says: it is given the method, the number of the connection, and all headers.
struct Camera {
    address: SocketAddr,
    plays: Arc<AtomicUsize>,
}

impl Camera {
    fn new(script: impl Fn(&str, usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, plays, script) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default(), Arc::new(script));
        let counted = plays.clone();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (script, plays) = (script.clone(), counted.clone());
                thread::spawn(move || serve(stream.unwrap(), |method, headers| script(method, number, headers), &plays));
            }
        });
        Self { address, plays }
    }

    fn source(&self) -> RtspSource {
        RtspSource::new(&format!("rtsp://{}/live", self.address), RtspTransport::Auto)
    }

    fn plays(&self) -> usize {
        self.plays.load(Ordering::Relaxed)
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, answer: impl Fn(&str, &str) -> Answer, plays: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut udp = None;
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
        let cseq = headers.lines().find_map(|line| line.strip_prefix("CSeq: ")).unwrap_or("0").to_owned();
        let transport = headers.lines().find_map(|line| line.strip_prefix("Transport: ")).unwrap_or_default().to_owned();
        let usual = match method.as_str() {
            "SETUP" if transport.contains("client_port=") => {
                let port: u16 = transport.split("client_port=").nth(1).unwrap().split('-').next().unwrap().parse().unwrap();
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let ours = socket.local_addr().unwrap().port();
                socket.connect(("127.0.0.1", port)).unwrap();
                udp = Some(socket);
                format!("Session: 7;timeout=60\r\nTransport: {transport};server_port={ours}-{}\r\n", ours + 1)
            }
            "SETUP" => format!("Session: 7;timeout=60\r\nTransport: {transport}\r\n"),
            _ => "Session: 7\r\n".to_owned(),
        };
        let (status, headers, body) = match answer(&method, &headers) {
            Answer::Nothing => continue,
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
        if method == "PLAY" && status == "200 OK" {
            plays.fetch_add(1, Ordering::Relaxed);
            let (stream, udp) = (stream.try_clone().unwrap(), udp.take());
            thread::spawn(move || film(&stream, udp));
        }
    }
}

const SDP: &str = "v=0\r\ns=camera\r\nt=0 0\r\na=control:*\r\nm=audio 0 RTP/AVP 8\r\na=control:audio\r\n\
                   m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:video\r\n";

/// Sends pictures in real time, a keyframe a second, until the connection ends.
fn film(stream: &TcpStream, udp: Option<UdpSocket>) {
    let film = scripted::film("640x360");
    let sets = scripted::parameter_sets(&film[0].format.configuration);
    let mut sequence = 7_u16;
    for (n, frame) in (0_u32..).zip(film.iter().cycle()) {
        let mut units: Vec<&[u8]> = if frame.key { sets.iter().map(Vec::as_slice).collect() } else { Vec::new() };
        units.extend(scripted::units(&frame.data));
        for (index, unit) in units.iter().enumerate() {
            let mark = if index + 1 == units.len() { 0x80 } else { 0 };
            let mut rtp = vec![0x80, mark | 96];
            rtp.extend_from_slice(&sequence.to_be_bytes());
            rtp.extend_from_slice(&(n * 90_000 / scripted::FPS).to_be_bytes());
            rtp.extend_from_slice(&[1, 2, 3, 4]);
            rtp.extend_from_slice(unit);
            sequence = sequence.wrapping_add(1);
            let sent = match &udp {
                Some(socket) => socket.send(&rtp).map(drop),
                None => {
                    let mut packet = vec![b'$', 0];
                    packet.extend_from_slice(&u16::try_from(rtp.len()).unwrap().to_be_bytes());
                    packet.extend_from_slice(&rtp);
                    { stream }.write_all(&packet)
                }
            };
            if sent.is_err() {
                return;
            }
        }
        thread::sleep(Duration::from_secs(1) / scripted::FPS);
    }
}

/// A run of the source, and what it delivers.
struct Run {
    stream: Arc<Stream>,
    ring: Arc<Ring>,
    session: Session,
    ended: mpsc::Receiver<Result<(), SourceError>>,
}

impl Run {
    fn of(source: &Arc<RtspSource>) -> Self {
        let ring = Arc::new(Ring::new(Duration::from_secs(60), 1 << 24));
        let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(Conditions::default())));
        let session = stream.session(Duration::ZERO);
        let (done, ended) = mpsc::channel();
        let (source, its_session) = (source.clone(), session.clone());
        thread::spawn(move || done.send(source.run(&its_session)));
        Self { stream, ring, session, ended }
    }

    fn frames(&self) -> u64 {
        self.stream.counters.used.load(Ordering::Relaxed)
    }

    fn ended(&self) -> Result<(), SourceError> {
        self.ended.recv_timeout(crate::media::tests::PATIENCE).unwrap()
    }

    /// Ends the session, and gives how long the source took to return.
    fn end(&self) -> Duration {
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

/// The camera answers no keepalive: retina gives its session up after twice the interval, here 2 s.
#[test]
fn a_camera_that_answers_no_keepalive_is_filmed_without_a_gap_once_that_is_known() {
    let camera = Camera::new(|method, _, _| match method {
        "OPTIONS" | "GET_PARAMETER" => Answer::Nothing,
        "SETUP" => Answer::Headers("Session: 7;timeout=2\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"),
        _ => Answer::Well,
    });
    let source = Arc::new(camera.source());
    for _ in 0..UNANSWERED {
        let fault = Run::of(&source).ended().unwrap_err();
        assert_eq!(fault, SourceError::Interrupted("the camera answers no keepalive, so the session ended".into()));
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

/// All the answers known at which retina or what it links panics, which ends a program that aborts on a panic. docs/design/rtp.md
/// and SECURITY.md tell of it. The test fails when an update mends one.
#[test]
fn these_answers_end_a_program_that_aborts() {
    for (method, name, answer) in [
        ("SETUP", "a session without an id", session("")),
        ("SETUP", "a blank after the session's id", session("7 ")),
        ("DESCRIBE", "a section without a format", sdp!("", "m=application 0 RTP/AVP \r\nm=video 0 RTP/AVP 96\r\n", "a=control:x\r\n")),
        ("DESCRIBE", "a line without = before another", sdp!("Camera 1\r\n", "m=video 0 RTP/AVP 96\r\n", "a=control:x\r\n")),
        ("DESCRIBE", "such a line in a section", sdp!("", "m=video 0 RTP/AVP 96\r\n", " \r\na=control:x\r\n")),
    ] {
        assert_eq!(outcome(answering(method, answer).source()), None, "{name}: take it out of the documents");
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
    for (method, answer, expected) in [
        ("DESCRIBE", described("a=control:http://[\r\n"), "filmed"),
        ("DESCRIBE", described("a=fmtp:96 sprop-parameter-sets=Z2QA,aA==\r\na=control\r\n"), "filmed"),
        ("DESCRIBE", described("a line that is the last\r\n"), "filmed"),
        ("DESCRIBE", Answer::Sdp("v=0\r\ns=x\r\nm=video 0 RTP/AVP 300\r\n"), "No parseable streams"),
        ("DESCRIBE", Answer::Sdp("v=0\r\nm=video\r\n"), "Unable to parse SDP"),
        ("DESCRIBE", Answer::Sdp(" "), "Unable to parse SDP"),
        ("DESCRIBE", Answer::Status("200 OK\r\nContent-Length: 99999999999999999999"), "does not speak RTSP"),
        ("SETUP", transport("interleaved=255-256"), "bad second channel number"),
        ("SETUP", transport("interleaved=255"), "odd channel"),
        ("SETUP", transport("interleaved=-1"), "bad channel number"),
        ("SETUP", transport("interleaved=0"), "filmed"),
        ("SETUP", Answer::Headers("Session: 7;timeout=0\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n"), "timeout=0"),
        ("SETUP", Answer::Headers("Session: 7;timeout=4294967295\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n"), "filmed"),
        ("PLAY", Answer::Headers("Session: 7\r\nRTP-Info: url=;seq=65535;rtptime=4294967295\r\n"), "filmed"),
        ("PLAY", Answer::Headers("Session: 7\r\nRTP-Info: ;;=\r\n"), "RTP-Info missing stream URL"),
    ] {
        let told = outcome(answering(method, answer).source());
        assert!(told.as_ref().is_some_and(|told| told.contains(expected)), "{method}, {answer:?}: {told:?}");
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
