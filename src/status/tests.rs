//! The server as untrusted clients meet it, and the document as people read it.

use std::{
    collections::BTreeMap,
    fs,
    future::ready,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use care_engine::trusted_time::Now;
use care_protocol::{Mode, Outcome, Policy};
use tokio::select;

use super::*;
use crate::{
    conditions::{Conditions, Kind},
    config::{Config, Listen},
    media::{MediaStatus, StreamStatus},
};

fn config() -> Config {
    Config::parse(include_str!("../../systemd/config.toml"), Path::new("config.toml")).unwrap()
}

fn status() -> Arc<SharedStatus> {
    Arc::new(SharedStatus::new(StatusDocument::new(&config())))
}

fn over_tcp() -> (Server, SocketAddr, Arc<SharedStatus>) {
    let status = status();
    let server = Server::start(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), status.clone(), Conditions::default());
    let address = server.address().unwrap();
    (server, address, status)
}

/// Sends these bytes and reads until the server closes.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // A server that closes with unread bytes resets the connection; what it has sent still counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn the_page_the_document_and_the_pulse_are_served() {
    let (_server, address, status) = over_tcp();
    status.update(|document| document.mode = Mode::Held);
    let page = get(address, "/");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("text/html") && page.contains("8006E5A1F0C2"), "{page}");
    assert!(page.contains("<span class=\"badge held\">held</span>"), "{page}");
    for (path, kind) in [("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")] {
        let part = get(address, path);
        assert!(page.contains(&format!("\"{path}\"")) && part.starts_with("HTTP/1.1 200 OK\r\n") && part.contains(kind), "{path}: {part}");
    }
    let json = get(address, "/status.json");
    let body = json.split_once("\r\n\r\n").unwrap().1;
    let document: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(document, serde_json::to_value(status.read()).unwrap());
    assert!(get(address, "/status.txt").contains("\nmode         held\n"));
    assert_eq!(code(&get(address, "/healthz")), "200");
    assert_eq!(code(&get(address, "/etc/passwd")), "404");
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_are_served_as_prometheus_reads_them() {
    let (_server, address, status) = over_tcp();
    status.update(|document| {
        document.model = "KC\"420\"".to_owned();
        document.spool.stored_clips = 3;
    });
    status.observe(|observed| {
        observed.report(Outcome::Applied);
        observed.reported(Duration::from_millis(20));
    });
    let answer = get(address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    for line in [
        "# TYPE kasa_care_clips_total counter",
        "kasa_care_clips_total{outcome=\"stored\"} 3.0",
        "kasa_care_agent_info{device=\"8006E5A1F0C2\",model=\"KC\\\"420\\\"\",",
        "kasa_care_report_duration_seconds_bucket{le=\"0.01\"} 0",
        "kasa_care_report_duration_seconds_bucket{le=\"0.025\"} 1",
        "kasa_care_reports_total{outcome=\"applied\"} 1.0",
        "kasa_care_mode{mode=\"unbound\"} 1.0",
    ] {
        assert!(answer.lines().any(|shown| shown.starts_with(line)), "{line} is missing in {answer}");
    }
}

#[tokio::test]
async fn who_asks_is_told_what_has_happened_before() {
    let status = status();
    status.mark_stale();
    let mut asked = pin!(status.wait_until_fresh());
    select! {
        biased;
        () = &mut asked => panic!("answered with what was before"),
        () = ready(()) => {}
    }
    status.update(|document| document.mode = Mode::Held);
    select! {
        biased;
        () = asked => {}
        () = ready(()) => panic!("not told"),
    }
}

#[test]
fn a_loop_that_hangs_is_no_reason_to_say_nothing() {
    let (_server, address, status) = over_tcp();
    status.mark_stale();
    assert_eq!(code(&get(address, "/status.json")), "200");
}

#[test]
fn head_has_no_body() {
    let (_server, address, _board) = over_tcp();
    let answer = exchange(address, format!("HEAD / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    assert_eq!((code(&answer), answer.ends_with("\r\n\r\n")), ("200", true));
}

#[test]
fn a_control_loop_that_stands_still_shows_in_the_pulse() {
    let (_server, address, status) = over_tcp();
    status.grow_old(Duration::from_secs(11));
    assert_eq!(code(&get(address, "/healthz")), "503");
    status.update(|_| {});
    assert_eq!(code(&get(address, "/healthz")), "200");
}

#[test]
fn nothing_but_looking_is_allowed() {
    let (_server, address, _board) = over_tcp();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let answer = exchange(address, format!("{method} / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        assert_eq!(code(&answer), "405", "{method}");
    }
}

#[test]
fn a_page_of_another_name_learns_nothing() {
    let (_server, address, _board) = over_tcp();
    let port = address.port();
    for host in ["localhost", &format!("LocalHost:{port}"), &format!("127.0.0.1:{port}"), &format!("[::1]:{port}")] {
        assert_eq!(code(&exchange(address, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())), "200", "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.2", ""] {
        let answer = exchange(address, format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(code(&answer), "421", "{host}");
        assert!(!answer.contains("8006E5A1F0C2"), "{answer}");
    }
    assert_eq!(code(&exchange(address, b"GET / HTTP/1.0\r\n\r\n")), "421", "no name at all");
    assert_eq!(code(&exchange(address, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")), "421");
}

#[test]
fn large_and_broken_requests_are_refused() {
    let (_server, address, _board) = over_tcp();
    let long = "a".repeat(64 * 1024);
    let many = "X: y\r\n".repeat(100);
    for request in [
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        "\u{16}\u{3}\u{1}nonsense\r\n\r\n".to_owned(),
    ] {
        let answer = exchange(address, request.as_bytes());
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    assert_eq!(code(&get(address, "/")), "200", "it is still there");
}

#[test]
fn one_connection_carries_one_request() {
    let (_server, address, _board) = over_tcp();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let answer = exchange(address, (request.clone() + &request).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[test]
fn idlers_hold_a_few_places_for_a_short_time() {
    let (_server, address, _board) = over_tcp();
    let began = Instant::now();
    let idlers: Vec<_> = (0..16).map(|_| TcpStream::connect(address).unwrap()).collect();
    // All places are taken once sixteen are accepted; one more is closed at once.
    while !get_quietly(address).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(4), "the idlers should hold every place");
    }
    for mut idler in idlers {
        idler.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = idler.read(&mut [0; 512]);
    }
    assert!(began.elapsed() < Duration::from_secs(15), "idlers are sent away");
    while get_quietly(address).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "their places are free again");
    }
}

fn get_quietly(address: SocketAddr) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    let mut answer = String::new();
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
    answer
}

#[test]
fn a_socket_is_for_its_user_and_group_and_is_taken_away_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.sock");
    let listen = Listen::Unix(path.clone());
    let server = Server::start(&listen, status(), Conditions::default());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(ask(&listen, "/status.json").is_ok());
    let conditions = Conditions::default();
    let second = Server::start(&listen, status(), conditions.clone());
    eventually(|| format!("{conditions:?}").contains("status_page"));
    drop(second);
    assert!(ask(&listen, "/status.json").is_ok(), "the second leaves the first alone");
    drop(server);
    assert!(!path.exists());
    assert!(matches!(ask(&listen, "/status.json"), Err(AskError::Unreachable { .. })));
}

#[test]
fn a_port_that_is_taken_and_a_directory_that_is_missing_are_conditions_until_they_are_to_be_had() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("later/status.sock");
    let (over_tcp, over_unix) = (Conditions::default(), Conditions::default());
    let _tcp = Server::start(&Listen::Tcp(address), status(), over_tcp.clone());
    let _unix = Server::start(&Listen::Unix(socket.clone()), status(), over_unix.clone());
    let said = |conditions: &Conditions| format!("{conditions:?}").contains("status_page");
    eventually(|| said(&over_tcp) && said(&over_unix));
    drop(taken);
    fs::create_dir(dir.path().join("later")).unwrap();
    eventually(|| !said(&over_tcp) && !said(&over_unix));
    assert_eq!(code(&get(address, "/")), "200");
    assert!(ask(&Listen::Unix(socket.clone()), "/status.json").is_ok());
    // As if a file system were mounted over the directory.
    fs::remove_dir_all(dir.path().join("later")).unwrap();
    fs::create_dir(dir.path().join("later")).unwrap();
    eventually(|| ask(&Listen::Unix(socket.clone()), "/status.json").is_ok());
}

fn eventually(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(40), "waited in vain");
        thread::yield_now();
    }
}

#[test]
fn what_a_killed_agent_left_is_replaced_and_other_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err());
    let server = Server::start(&Listen::Unix(path.clone()), status(), Conditions::default());
    assert!(UnixStream::connect(&path).is_ok());
    drop(server);

    fs::write(&path, "precious").unwrap();
    let conditions = Conditions::default();
    let _server = Server::start(&Listen::Unix(path.clone()), status(), conditions.clone());
    eventually(|| format!("{conditions:?}").contains("status_page"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn an_answer_that_is_not_the_agent_s_is_told_apart() {
    let (_server, address, _board) = over_tcp();
    let stranger = ask(&Listen::Tcp(address), "/nothing").unwrap_err();
    assert!(stranger.to_string().contains("404"), "{stranger}");
}

#[test]
fn people_are_warned_of_what_they_can_mend() {
    let mut document = StatusDocument::new(&config());
    document.update_warnings();
    assert_eq!(document.warnings, [""; 0]);

    let now = Now { boot: Duration::ZERO, trusted: Duration::from_secs(1_767_225_600), confirmed: true, ..Now::default() };
    let day = Duration::from_secs(86_400);
    document.set_certificate(now.trusted + 15 * day, now);
    document.update_warnings();
    assert_eq!(document.warnings, [""; 0]);
    document.set_certificate(now.trusted + 13 * day, now);
    let conditions = Conditions::default();
    conditions.raise(Kind::LeaseEnded, "the lease has ended");
    conditions.raise(Kind::PictureTooTall, "the stream is taller than the plan allows");
    document.conditions = conditions.list(now);
    document.update_warnings();
    for word in ["lease has ended", "taller"] {
        assert!(document.warnings.iter().any(|warning| warning.contains(word)), "{word}: {:?}", document.warnings);
    }
    assert_eq!(document.certificate.as_ref().unwrap().days_left, 13);
}

/// Whatever the source, the owner learns that there are no clips, why, and what to do.
#[test]
fn a_picture_taller_than_the_plan_is_named_with_what_can_be_done_about_it() {
    let of = |source: &str, low: Option<(u32, Option<&str>)>| {
        let mut document = StatusDocument::new(&config());
        document.may_leave = Policy { clips: true, max_height: 480, ..Policy::CLOSED };
        let stream = StreamStatus { source: source.into(), height: 1080, ..StreamStatus::default() };
        let low = low.map(|(height, fault)| StreamStatus { height, fault: fault.map(str::to_owned), ..stream.clone() });
        document.media = Some(MediaPart { why_not: None, status: MediaStatus { stream, low, ..MediaStatus::default() } });
        (document.height_fault(), document.height_advice())
    };
    for source in ["test", "v4l2:/dev/video0", "file:/clip.mp4", "launch", "rtsp://camera/1"] {
        let (sentence, advice) = of(source, None);
        let sentence = sentence.unwrap();
        assert!(["no clip", "1080", "480"].iter().all(|word| sentence.contains(word)), "{sentence}");
        let scales = cfg!(feature = "gstreamer") && !source.starts_with("rtsp");
        assert_eq!((advice.contains("scales"), advice.contains("low_source")), (scales, true), "{source}: {advice}");
    }
    assert_eq!(of("launch", Some((360, None))).0, None, "the second stream fits");
    assert!(of("launch", Some((720, None))).0.is_some_and(|sentence| sentence.contains("720")));
    // It has not come yet, or comes no longer.
    for height in [0, 360] {
        let (sentence, advice) = of("rtsp://camera/1", Some((height, Some("connection refused"))));
        assert!(sentence.is_some_and(|sentence| sentence.contains("1080") && sentence.contains("second stream is missing")));
        assert_eq!(advice, Kind::LowStream.advice());
    }
}

#[test]
fn the_summary_is_one_line() {
    let mut document = StatusDocument::new(&config());
    document.may_leave = Policy::CLOSED;
    assert_eq!(document.summary(), "unbound, no plan (0, 0), not connected, 0 transfers, 0 clips waiting");
}

#[test]
fn the_summary_names_the_worst_condition_and_how_many_more() {
    let mut document = StatusDocument::new(&config());
    let conditions = Conditions::default();
    conditions.raise(Kind::BrokerUnreachable, "connecting to a.example:8883: connection refused");
    conditions.raise(Kind::UploadsFailing, "the store answers 503");
    let now = Now { trusted: Duration::from_secs(1_767_225_600), confirmed: true, ..Now::default() };
    document.conditions = conditions.list(now);
    assert!(document.summary().ends_with("; uploads_failing: the store answers 503 (and 1 more)"), "{}", document.summary());
    conditions.clear(Kind::BrokerUnreachable);
    document.conditions = conditions.list(now);
    assert!(document.summary().ends_with("; uploads_failing: the store answers 503"), "{}", document.summary());
}

/// Follows `/events`.
struct Subscriber(BufReader<TcpStream>);

impl Subscriber {
    fn new(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(format!("GET /events HTTP/1.1\r\nHost: {address}\r\nAccept-Language: fr\r\n\r\n").as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The status of the answer.
    fn code(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        code(&line).to_owned()
    }

    /// The next event: sections by id.
    fn next(&mut self) -> BTreeMap<String, String> {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream has ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

#[test]
fn events_bring_the_whole_page_and_then_what_changes_in_the_language_of_the_browser() {
    let (_server, address, status) = over_tcp();
    let mut subscriber = Subscriber::new(address);
    assert_eq!(subscriber.code(), "200");
    let first = subscriber.next();
    let page = get(address, "/");
    for id in first.keys().filter(|id| *id != "title" && *id != "motion" && *id != "camera") {
        assert!(page.contains(&format!("<section id=\"{id}\"")), "{id}");
    }
    assert!(first["plan"].contains("Offre"), "{first:?}");
    status.update(|document| document.mode = Mode::Held);
    let next = subscriber.next();
    assert!(next["state"].contains("retenu") && next["title"].ends_with("retenu"), "{next:?}");
    assert!(!next.contains_key("link") && !next.contains_key("uploads"), "nothing there has changed: {next:?}");
}

/// A connection may last ten seconds, unless its answer is a stream.
#[test]
fn events_go_on_for_longer_than_other_answers() {
    let (_server, address, status) = over_tcp();
    let mut subscriber = Subscriber::new(address);
    let began = Instant::now();
    subscriber.next();
    while began.elapsed() < Duration::from_secs(12) {
        status.update(|document| document.up_s += 1);
        assert!(subscriber.next().contains_key("device"));
    }
}

#[test]
fn so_many_pages_are_kept_up_to_date_and_a_place_is_free_again() {
    let (_server, address, _status) = over_tcp();
    let mut subscribers: Vec<_> = (0..events::SUBSCRIBERS).map(|_| Subscriber::new(address)).collect();
    subscribers.iter_mut().for_each(|subscriber| assert_eq!(subscriber.code(), "200"));
    assert_eq!(Subscriber::new(address).code(), "503");
    assert_eq!(code(&get(address, "/")), "200", "the page itself is there for everyone");
    subscribers.pop();
    eventually(|| Subscriber::new(address).code() == "200");
}

#[test]
fn no_other_site_gets_the_camera_s_picture() {
    let (_server, address, _status) = over_tcp();
    let asked = |path: &str, site: &str| {
        exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nSec-Fetch-Site: {site}\r\n\r\n").as_bytes())
    };
    for path in ["/live.mp4", "/frame.jpg", "/frame.mp4", "/motion/1.mp4"] {
        for site in ["cross-site", "same-site", "?"] {
            assert_eq!(code(&asked(path, site)), "403", "{path} {site}");
        }
        for site in ["same-origin", "none"] {
            let answer = asked(path, site);
            assert_eq!(code(&answer), "503", "{path} {site}: media has not started");
            assert!(answer.contains("cross-origin-resource-policy: same-origin"), "{answer}");
        }
        assert_eq!(code(&get(address, path)), "503", "{path}");
    }
    assert_eq!(code(&get(address, "/motion/x.mp4")), "404");
}
