//! The agent's end of the socket, with uploaders of every kind at the other one. Time is a dial.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};

use care_engine::trusted_time::Readings;
use serde_json::Value;

use super::*;
use crate::{
    clock::Dial,
    config::Endpoint,
    http::Origin,
    upload::{Gate, Peers, Settings, Uploads, start},
};

const PAID: Policy = Policy { clips: true, history_h: 720, clip_max_s: 60, cooldown_s: 0, max_height: 1080, snapshots: true };
const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
const AT: Position = Position { epoch: 3, seq: 41 };
const OWN: CutFigures = CutFigures { generation: Generation(0), transfers: 0, bytes_after: Some(0), erased: Erased { clips: 0, bytes: 0 } };

struct Agent {
    uploads: Option<Uploads>,
    gate: Arc<Gate>,
    dial: Dial,
    dir: tempfile::TempDir,
}

impl Agent {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let readings = Readings { boot: Duration::from_secs(100), system: Duration::ZERO };
        let (clock, dial) = Clock::dialled(Duration::from_secs(1_767_225_600), readings);
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: 9, tls: false };
        let settings = Settings {
            device: "8006E5A1F0C2".parse().unwrap(),
            spool_dir: std::path::PathBuf::from("/nowhere"),
            spool: crate::config::Spool { memory_bytes: 1000, flash_bytes: 0, flash_bytes_per_day: 0 },
            upload: crate::config::Upload { uplink_kbps: 0, while_recording: false },
            peers: Peers { api: Origin { endpoint, tls: None }, store: None },
            uploader: Some(dir.path().join("uploader.sock")),
            conditions: crate::conditions::Conditions::default(),
        };
        let uploads = start(settings, clock, |_| {}).unwrap();
        Self { gate: uploads.gate(), uploads: Some(uploads), dial, dir }
    }

    fn open(&self, policy: Policy, position: Position, mode: Mode) {
        self.gate.open(Admission { record: policy, keep: policy, leave: policy, position });
        self.gate.renew(mode);
    }

    /// An uploader that has connected and answered its first `close`, and so has what the agent lets it do.
    fn uploader(&self, mode: Mode) -> Uploader {
        // The session of the one before may still be on its way out; an uploader that is told so comes again.
        let (mut uploader, close) = loop {
            let mut uploader = self.connect();
            let first = uploader.hear();
            if first["type"] != "busy" {
                break (uploader, first);
            }
        };
        assert_eq!(close["type"], "close", "closed before anything else");
        uploader.answer(&close, "");
        until("the answer", || self.gate.due().is_none());
        self.gate.renew(mode);
        uploader
    }

    fn connect(&self) -> Uploader {
        let stream = UnixStream::connect(self.dir.path().join("uploader.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Uploader(BufReader::new(stream))
    }

    fn status(&self) -> UploaderStatus {
        self.uploads.as_ref().unwrap().status().uploader.unwrap()
    }

    #[track_caller]
    fn lost(&self, why: &str) {
        until(why, || self.status().fault.is_some_and(|fault| fault.contains(why)));
        assert!(!self.status().connected && !self.status().open);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.uploads.take().unwrap().stop(Duration::from_secs(5));
        assert!(!self.dir.path().join("uploader.sock").exists(), "the name goes with the agent");
    }
}

struct Uploader(BufReader<UnixStream>);

impl Uploader {
    /// The next line.
    #[track_caller]
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the agent has ended the connection");
        serde_json::from_str(&line).unwrap()
    }

    fn say(&mut self, line: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(line.as_ref()).unwrap();
    }

    fn answer(&mut self, close: &Value, rest: &str) {
        self.say(format!("{{\"type\":\"closed\",\"generation\":{}{rest}}}\n", close["generation"]));
    }

    /// Whether the agent has ended the connection.
    fn is_over(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 4096]), Ok(0) | Err(_))
    }
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never came to be: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_cut_ends_with_the_uploader_s_answer_and_carries_what_it_stopped_and_erased() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    let mut uploader = agent.uploader(Mode::Paid);
    let open = uploader.hear();
    assert_eq!((&open["type"], &open["mode"], &open["epoch"]), (&"open".into(), &"paid".into(), &3.into()));
    assert_eq!(open["until_boot_ms"], 105_000);
    assert_eq!(open["leave"], serde_json::to_value(PAID).unwrap());
    assert!(agent.status().open);

    let own = agent.gate.cut(Some((FREE, Position { seq: 42, ..AT })));
    assert_eq!(agent.gate.cut_figures(own), None, "it may still be sending");
    let close = uploader.hear();
    assert_eq!((&close["generation"], &close["epoch"], &close["keep"]), (&1.into(), &3.into(), &serde_json::to_value(FREE).unwrap()));
    agent.gate.renew(Mode::Free);
    uploader.answer(&close, ",\"transfers\":2,\"bytes_after\":7,\"erased\":{\"clips\":3,\"bytes\":5242880}");
    until("the answer", || agent.status().closed_generation == Some(1));
    let figures = agent.gate.cut_figures(own).expect("answered");
    assert_eq!((figures.generation, figures.transfers, figures.bytes_after), (Generation(1), 2, Some(7)));
    assert_eq!(figures.erased, Erased { clips: 3, bytes: 5_242_880 });
    assert_eq!((agent.status().erased_clips, agent.status().open), (3, false));

    agent.open(FREE, Position { seq: 42, ..AT }, Mode::Free);
    let open = uploader.hear();
    assert_eq!((&open["generation"], &open["seq"], &open["mode"]), (&1.into(), &42.into(), &"free".into()));
}

#[test]
fn permission_is_renewed_while_the_control_loop_turns_and_ends_by_itself_otherwise() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    let mut uploader = agent.uploader(Mode::Paid);
    assert_eq!(uploader.hear()["until_boot_ms"], 105_000);
    assert_eq!(agent.gate.due(), Some(Duration::from_secs(102)));
    agent.gate.renew(Mode::Paid);
    agent.dial.advance(Duration::from_secs(2));
    agent.gate.renew(Mode::Paid);
    assert_eq!(uploader.hear()["until_boot_ms"], 107_000, "what was said already is not said again before its time");
    agent.gate.renew(Mode::Held);
    assert_eq!(uploader.hear()["mode"], "held", "what is new is said at once");
    agent.dial.advance(Duration::from_secs(5));
    assert!(!agent.status().open, "a loop that stands still");
}

#[test]
fn a_cut_that_nobody_answers_ends_when_permission_has_and_the_uploader_is_dropped() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    let mut uploader = agent.uploader(Mode::Paid);
    let own = agent.gate.cut(None);
    agent.dial.advance(Duration::from_millis(4_999));
    assert_eq!((agent.gate.cut_figures(own), agent.gate.due()), (None, Some(Duration::from_secs(105))));
    agent.dial.advance(Duration::from_millis(1));
    let figures = agent.gate.cut_figures(own).expect("its permission has ended");
    assert_eq!((figures.transfers, figures.erased), (1, Erased::default()), "who does not say what it did counts as one transfer");
    agent.lost("did not answer close 1 within 5 s");
    let (open, close) = (uploader.hear(), uploader.hear());
    assert_eq!((&open["type"], &close["type"]), (&"open".into(), &"close".into()));
    assert!(uploader.is_over());

    // Its next life begins as any other.
    agent.open(PAID, AT, Mode::Paid);
    assert_eq!(agent.uploader(Mode::Paid).hear()["type"], "open");
}

#[test]
fn an_uploader_that_goes_in_the_middle_of_a_cut_ends_it() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    let mut uploader = agent.uploader(Mode::Paid);
    assert_eq!(uploader.hear()["type"], "open");
    let own = agent.gate.cut(None);
    drop(uploader);
    agent.lost("it disconnected");
    assert_eq!(agent.gate.cut_figures(own).expect("nobody is left who could send").transfers, 1);
    let own = agent.gate.cut(None);
    assert_eq!(agent.gate.cut_figures(own).expect("nobody is there").transfers, 0);
}

#[test]
fn who_was_away_at_the_cut_is_told_what_to_erase_before_it_may_do_anything() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    drop(agent.uploader(Mode::Paid));
    agent.lost("it disconnected");
    let own = agent.gate.cut(Some((FREE, Position { seq: 42, ..AT })));
    assert_eq!(agent.gate.cut_figures(own), Some(own));
    agent.open(FREE, Position { seq: 42, ..AT }, Mode::Free);

    let mut uploader = agent.connect();
    let close = uploader.hear();
    assert_eq!((&close["type"], &close["epoch"], &close["keep"]["history_h"]), (&"close".into(), &3.into(), &12.into()));
    agent.gate.renew(Mode::Free);
    uploader.answer(&close, ",\"erased\":{\"clips\":2,\"bytes\":10}");
    until("the answer", || agent.status().erased_clips == 2);
    agent.gate.renew(Mode::Free);
    assert_eq!(uploader.hear()["type"], "open", "the first since it came");
}

#[test]
fn an_unbound_camera_s_uploader_erases_nothing_and_gets_nothing_until_an_owner_is_known() {
    let agent = Agent::new();
    let mut uploader = agent.connect();
    let close = uploader.hear();
    assert!(close.get("keep").is_none() && close.get("epoch").is_none(), "{close}");
    uploader.answer(&close, "");
    until("the answer", || agent.status().closed_generation == Some(0));
    agent.gate.renew(Mode::Unbound);

    agent.open(PAID, AT, Mode::Paid);
    let close = uploader.hear();
    assert_eq!((&close["type"], &close["epoch"]), (&"close".into(), &3.into()), "another owner's clips go first");
    uploader.answer(&close, "");
    until("the answer", || agent.gate.due().is_none());
    agent.gate.renew(Mode::Paid);
    assert_eq!(uploader.hear()["type"], "open");
}

#[test]
fn whoever_talks_nonsense_loses_the_connection_and_its_permission_is_waited_out() {
    for nonsense in [
        b"hello\n".to_vec(),
        b"\n".to_vec(),
        vec![b'x'; lines::LONGEST_LINE + 1],
        b"{\"type\":\"closed\",\"generation\":1}\n".to_vec(),
        b"\xff\xfe\n".to_vec(),
        [&[b'['; 1000][..], b"\n"].concat(),
    ] {
        let agent = Agent::new();
        agent.open(PAID, AT, Mode::Paid);
        let mut uploader = agent.uploader(Mode::Paid);
        assert_eq!(uploader.hear()["type"], "open");
        uploader.say(&nonsense);
        assert!(uploader.is_over(), "{}", String::from_utf8_lossy(&nonsense));
        until("told", || agent.status().fault.is_some());

        // It was let, and cannot be believed to have stopped: neither a cut nor a successor comes before its time is
        // over.
        let mut successor = agent.uploader(Mode::Paid);
        agent.gate.renew(Mode::Paid);
        let own = agent.gate.cut(None);
        let close = successor.hear();
        assert_eq!(close["type"], "close", "no permission beside the other's");
        successor.answer(&close, "");
        until("the answer", || agent.status().closed_generation == Some(1));
        assert_eq!(agent.gate.cut_figures(own), None);
        agent.dial.advance(PERMISSION);
        assert!(agent.gate.cut_figures(own).is_some());
    }
}

#[test]
fn one_uploader_at_a_time() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    let mut first = agent.uploader(Mode::Paid);
    let mut second = agent.connect();
    assert_eq!(second.hear()["type"], "busy");
    assert!(second.is_over());
    assert_eq!(first.hear()["type"], "open");
    drop(first);
    agent.lost("it disconnected");
    assert_eq!(agent.uploader(Mode::Paid).hear()["type"], "open");
}

#[test]
fn an_uploader_that_reads_nothing_is_lost_and_never_waited_for() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    let uploader = agent.uploader(Mode::Paid);
    let started = Instant::now();
    while agent.status().connected {
        agent.dial.advance(RENEW);
        agent.gate.renew(Mode::Paid);
        assert!(started.elapsed() < Duration::from_secs(30), "the socket takes everything");
    }
    agent.lost("does not read");
    let own = agent.gate.cut(None);
    assert_eq!(agent.gate.cut_figures(own), None);
    agent.dial.advance(PERMISSION);
    assert_eq!(agent.gate.cut_figures(own).map(|figures| figures.transfers), Some(1));
    drop(uploader);
}

#[test]
fn what_it_tells_is_kept_until_the_control_thread_asks() {
    let agent = Agent::new();
    agent.open(PAID, AT, Mode::Paid);
    let mut uploader = agent.uploader(Mode::Paid);
    uploader.say("{\"type\":\"stored\",\"bytes\":7}\n{\"type\":\"stored\",\"bytes\":8}\n{\"type\":\"refused\",\"status\":402}\n");
    let mut heard = UploaderEvents::default();
    let deadline = Instant::now() + Duration::from_secs(30);
    while heard != (UploaderEvents { refused: Some(402), stored: true }) {
        assert!(Instant::now() < deadline, "{heard:?}");
        let UploaderEvents { refused, stored } = agent.gate.uploader_events();
        heard = UploaderEvents { refused: heard.refused.or(refused), stored: heard.stored || stored };
    }
    assert_eq!((agent.status().stored_clips, agent.status().stored_bytes), (2, 15));
    assert_eq!(agent.gate.uploader_events(), UploaderEvents::default(), "told once");
}

#[test]
fn the_socket_is_for_this_user_and_group() {
    let agent = Agent::new();
    let mode = std::fs::metadata(agent.dir.path().join("uploader.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn without_an_uploader_a_cut_is_over_at_once() {
    let gate = Gate::new(&crate::config::Spool { memory_bytes: 1000, flash_bytes: 0, flash_bytes_per_day: 0 }, None, Clock::start(None));
    assert_eq!((gate.cut_figures(OWN), gate.due(), gate.uploader_events()), (Some(OWN), None, UploaderEvents::default()));
}
