//! Snapshots of a camera that a test scripts: what it answers, and what becomes of an event's picture.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize},
    thread,
};

use super::{
    clips::camera,
    scripted::{FPS, Scripted},
    *,
};
use crate::{
    config::SnapshotUrl,
    media::{Dimensions, snapshot::jpeg::tests::jpeg, try_snapshot},
};

/// How the camera answers a request, given its headers and its number.
type Script = dyn Fn(&str, usize) -> Vec<u8> + Send + Sync;

/// The firmware's HTTP server.
struct Firmware {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

impl Firmware {
    fn new(script: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked, open) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counted, answers, script) = (asked.clone(), open.clone(), Arc::<Script>::from(Box::new(script) as Box<Script>));
        answers.store(true, Ordering::Relaxed);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, counted, answers) = (script.clone(), counted.clone(), answers.clone());
                thread::spawn(move || serve(stream.unwrap(), &*script, &counted, &answers));
            }
        });
        Self { address, asked, open }
    }

    fn url(&self, user: &str) -> SnapshotUrl {
        let text = format!("[media]\nsource = \"test\"\nsnapshot_url = \"http://{user}{}/snap.jpg?chn=0\"\n", self.address);
        let example = include_str!("../../../systemd/config.toml");
        let start = example.find("[media]").unwrap();
        let end = start + example[start..].find("[recording]").unwrap();
        let config = format!("{}{text}{}", &example[..start], &example[end..]);
        config::Config::parse(&config, "config.toml".as_ref()).unwrap().media.unwrap().snapshot_url.unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, script: &Script, asked: &AtomicUsize, open: &AtomicBool) {
    let (mut reader, mut head) = (BufReader::new(&stream), String::new());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let answer = script(&head, asked.fetch_add(1, Ordering::Relaxed));
    eventually("the answer may come", || open.load(Ordering::Relaxed));
    // The agent may have left.
    let _ = { &stream }.write_all(&answer);
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn picture(height: u16) -> Vec<u8> {
    answer("200 OK\r\nContent-Type: image/jpeg", &jpeg(height))
}

#[test]
fn a_jpeg_is_taken_and_whatever_else_comes_is_named() {
    let of = |bytes: Vec<u8>| try_snapshot(&Firmware::new(move |_, _| bytes.clone()).url(""));
    assert_eq!(of(picture(360)), Ok((Dimensions { width: 640, height: 360 }, jpeg(360).len())));
    assert!(of(answer("200 OK", &jpeg(360))).is_ok(), "without a type");
    for (bytes, expected) in [
        (answer("200 OK\r\nContent-Type: text/html; charset=x", b"<html>"), "is text/html; charset=x instead of a JPEG"),
        (answer("200 OK\r\nContent-Type: image/png", b"\x89PNG"), "the camera's answer is no JPEG"),
        (answer("200 OK", &jpeg(360)[..50]), "cut short"),
        (answer("404 Not Found", b""), "nothing at this path (404)"),
        (answer("302 Found\r\nLocation: http://10.0.0.1/", b""), "the camera answers 302"),
        (answer("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", b""), "the address has none"),
        (answer("200 OK", &vec![0; (2 << 20) + 1]), "larger than 2097152 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n\xff\xd8".to_vec(), "the exchange with"),
        (Vec::new(), "the exchange with"),
    ] {
        let why = of(bytes).unwrap_err();
        assert!(why.contains(expected), "{expected}: {why}");
    }
    let absent = Firmware::new(|_, _| Vec::new());
    absent.open.store(false, Ordering::Relaxed);
    let began = Instant::now();
    let why = try_snapshot(&absent.url("")).unwrap_err();
    assert!(why.contains("did not answer in time") && began.elapsed() < Duration::from_secs(5), "{why}");
    absent.open.store(true, Ordering::Relaxed);
}

#[test]
fn it_logs_in_by_digest_and_basic_and_shows_no_password() {
    for (challenge, expected) in [
        ("Digest realm=\"cam\", nonce=\"abc\", qop=\"auth\"", "Digest username=\"admin\", realm=\"cam\""),
        ("Basic realm=\"cam\"", "Basic YWRtaW46Q0FOQVJZ"),
    ] {
        let asks = format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}");
        let firmware = Firmware::new(move |head, _| {
            let authorized = head.lines().any(|line| line.to_ascii_lowercase().starts_with("authorization: ") && line.contains(expected));
            let uri = expected.starts_with("Basic") || head.contains("uri=\"/snap.jpg?chn=0\"");
            if authorized && uri { picture(360) } else { answer(&asks, b"") }
        });
        assert!(try_snapshot(&firmware.url("admin:CANARY@")).is_ok(), "{challenge}");
        assert_eq!(firmware.asked(), 2);
    }
    let refuses =
        Firmware::new(|_, n| answer(&format!("401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"CANARY\", nonce=\"{n}\""), b""));
    let why = try_snapshot(&refuses.url("admin:CANARY@")).unwrap_err();
    assert!(why.contains("refuses the user or password (401)") && !why.contains("CANARY"), "{why}");
}

/// Media that films, with this camera's snapshots, and a plan that allows them.
struct Filmed {
    media: Media,
    collector: Collector,
    conditions: Conditions,
    _dir: tempfile::TempDir,
    socket: std::path::PathBuf,
}

impl Filmed {
    fn new(firmware: &Firmware, tallest: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, collector, conditions) = (dir.path().join("motion.sock"), Collector::new(3), Conditions::default());
        collector.snapshots.store(true, Ordering::Relaxed);
        collector.tallest.store(tallest, Ordering::Relaxed);
        let config = config::Media { snapshot_url: Some(firmware.url("")), ..camera(Motion::Socket(socket.clone()), 1) };
        let sources = Sources { main: Arc::new(Scripted::live()), low: None };
        let media = Media::start(sources, &config, None, Arc::new(collector.clone()), conditions.clone()).unwrap();
        wait_for_frames(&media, 20);
        Self { media, collector, conditions, _dir: dir, socket }
    }

    fn moves(&self) {
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).unwrap();
        stream.write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").unwrap();
    }

    /// The snapshots so far: their height, and whether each is a JPEG.
    fn snapshots(&self) -> Vec<(u32, bool)> {
        let clips = self.collector.clips.lock().unwrap();
        let snapshots = clips.iter().filter(|clip| clip.beginning.kind == ClipKind::Snapshot);
        snapshots.map(|clip| (clip.beginning.height, clip.bytes.starts_with(&[0xFF, 0xD8]))).collect()
    }
}

#[test]
fn an_event_has_the_cameras_own_jpeg() {
    let firmware = Firmware::new(|_, _| picture(720));
    let filmed = Filmed::new(&firmware, 1080);
    filmed.moves();
    eventually("the snapshot", || filmed.snapshots() == [(720, true)]);
    filmed.collector.wait_for(2);
    assert_eq!((firmware.asked(), filmed.media.status().snapshots_failed), (1, 0));
    assert!(filmed.media.stop(Duration::from_secs(5)));
}

#[test]
fn where_the_camera_gives_none_the_stream_has_the_picture_and_the_owner_is_told() {
    let firmware = Firmware::new(|_, n| if n == 0 { answer("500 Internal Server Error", b"") } else { picture(360) });
    let filmed = Filmed::new(&firmware, 1080);
    filmed.moves();
    eventually("the frame of the stream", || filmed.snapshots() == [(360, false)]);
    let said = named(&filmed.conditions, "snapshot_failing").unwrap();
    assert!(said.ends_with("(1 so far): the camera answers 500"), "{said}");
    filmed.collector.wait_for(2);
    assert_eq!(filmed.media.status().snapshots_failed, 1);
    filmed.moves();
    eventually("the next one", || filmed.snapshots() == [(360, false), (360, true)]);
    eventually("that is all", || named(&filmed.conditions, "snapshot_failing").is_none());
}

#[test]
fn a_picture_taller_than_the_plan_allows_is_not_sent() {
    let firmware = Firmware::new(|_, _| picture(1440));
    let filmed = Filmed::new(&firmware, 1080);
    filmed.moves();
    eventually("the frame of the stream", || filmed.snapshots() == [(360, false)]);
    let said = named(&filmed.conditions, "snapshot_failing").unwrap();
    assert!(said.contains("its picture has 1440 lines, and the plan allows 1080"), "{said}");
}

#[test]
fn a_plan_without_snapshots_costs_the_camera_no_request() {
    let firmware = Firmware::new(|_, _| picture(360));
    let filmed = Filmed::new(&firmware, 1080);
    filmed.collector.snapshots.store(false, Ordering::Relaxed);
    filmed.moves();
    filmed.collector.wait_for(1);
    assert_eq!((firmware.asked(), filmed.snapshots()), (0, Vec::new()));
}

/// Where no clip may begin, every report of motion is an event.
#[test]
fn events_between_two_keyframes_have_one_snapshot() {
    let firmware = Firmware::new(|_, _| picture(240));
    let filmed = Filmed::new(&firmware, 300);
    let keyframes = || filmed.media.status().stream.frames / u64::from(FPS);
    let before = keyframes();
    for events in 1..=20 {
        filmed.moves();
        eventually("the clip is refused", || filmed.media.status().clips_refused == events);
    }
    let most = keyframes() - before + 2;
    eventually("the first snapshot", || !filmed.snapshots().is_empty());
    assert!(most < 15 && firmware.asked() as u64 <= most, "{} snapshots of {most} keyframes", firmware.asked());
}

/// The clip begins while the camera thinks, and what it gives after a change of owner is nobody's.
#[test]
fn a_slow_camera_delays_no_clip_and_its_picture_goes_to_no_other_account() {
    let firmware = Firmware::new(|_, _| picture(360));
    let filmed = Filmed::new(&firmware, 1080);
    firmware.open.store(false, Ordering::Relaxed);
    filmed.moves();
    eventually("the camera is asked", || firmware.asked() == 1);
    eventually("the clip is being recorded", || filmed.media.status().clip_running);
    assert_eq!(filmed.snapshots(), []);
    filmed.media.forget();
    firmware.open.store(true, Ordering::Relaxed);
    wait_for_frames(&filmed.media, 60);
    filmed.moves();
    eventually("the next account's snapshot", || !filmed.snapshots().is_empty());
    assert_eq!(filmed.snapshots(), [(360, true)], "and only that");
    assert_eq!(firmware.asked(), 2);
}
