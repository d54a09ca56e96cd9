//! The agent without GStreamer beside a vendor's uploader: the samples of `examples/uploader`, unchanged, with the
//! real agent, a real Mosquitto and a store that counts bytes.

mod sink;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
};

use care_protocol::{Cause, Mode, Outcome, Position, Report};
use care_tests::{
    issuer::Document,
    process::{Lines, Process},
    status::Status,
    unix_now,
    wait::{PATIENCE, until},
    world::World,
};
use serde_json::Value;
use sink::{Put, Sink};
use tokio::process::Command;

/// More than the socket buffers between uploader and store hold, so that a clip stays in flight.
const BIG: usize = 8_000_000;
/// Number of bytes after which the store stops reading.
const STALL: usize = 16_000;

/// The two sample uploaders; every test runs with both.
#[derive(Debug, Clone, Copy)]
enum Sample {
    Python,
    C,
}

impl Sample {
    fn command(self) -> Command {
        match self {
            Self::Python => {
                let mut command = Command::new("python3");
                command.arg(source("uploader.py"));
                command
            }
            Self::C => {
                static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
                let (_, program) = BUILT.get_or_init(|| {
                    let dir = tempfile::tempdir().unwrap();
                    let program = dir.path().join("uploader");
                    let mut cc = std::process::Command::new("cc");
                    cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source("uploader.c"));
                    let built = cc.stdout(Stdio::inherit()).status().expect("a C compiler is installed");
                    assert!(built.success(), "the sample in C does not compile");
                    (dir, program)
                });
                Command::new(program)
            }
        }
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/uploader").join(name)
}

/// A camera with an uploader of its vendor.
struct Vendor {
    sample: Sample,
    uploader: Option<Process>,
    world: World,
    sink: Sink,
}

impl Vendor {
    async fn new(sample: Sample) -> Self {
        let mut world = World::new().await;
        world.agent.without_gstreamer();
        let socket = world.agent.dir().join("uploader.sock");
        world.agent.config.extra = format!("\n[uploader]\nsocket = \"unix:{}\"\n", socket.display());
        std::fs::create_dir(world.agent.dir().join("clips")).unwrap();
        Self { sample, uploader: None, world, sink: Sink::start().await }
    }

    /// The same on Premium, with a clip in flight that Free forbids and a waiting clip that Free allows.
    async fn uploading(sample: Sample) -> (Self, Put) {
        let mut vendor = Self::new(sample).await;
        vendor.sink.stall_after(Some(STALL));
        let now = unix_now();
        vendor.film(3, now - 600, 3, BIG);
        vendor.film(3, now - 10, 1, 1000);
        vendor.world.start_premium().await;
        vendor.start();
        let put = vendor.in_flight(0).await;
        assert!(put.name.ends_with("-3-360.mp4"), "the oldest first: {put:?}");
        (vendor, put)
    }

    fn clips(&self) -> PathBuf {
        self.world.agent.dir().join("clips")
    }

    /// Puts a clip where the uploader looks for it.
    fn film(&self, epoch: u64, started: u64, seconds: u64, bytes: usize) {
        let part = self.clips().join("part");
        std::fs::write(&part, vec![7; bytes]).unwrap();
        std::fs::rename(part, self.clips().join(format!("{epoch}-{started}-{seconds}-360.mp4"))).unwrap();
    }

    fn held(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(self.clips()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn start(&mut self) {
        let mut command = self.sample.command();
        command.arg(self.world.agent.dir().join("uploader.sock")).arg(self.sink.addr.to_string()).arg(self.clips());
        self.uploader = Some(Process::spawn("uploader", command, Lines::default()));
    }

    fn signal(&self, signal: i32) {
        self.uploader.as_ref().expect("it is running").signal(signal);
    }

    async fn put(&self, what: &str, wanted: impl Fn(usize, &Put) -> bool) -> Put {
        until(format!("{:?}: {what}", self.sample), PATIENCE, || {
            self.sink.puts().into_iter().enumerate().find(|(index, put)| wanted(*index, put)).map(|(_, put)| put)
        })
        .await
    }

    /// Waits until a PUT from index `from` on is in progress and stalled.
    async fn in_flight(&self, from: usize) -> Put {
        self.put("an upload in progress", |index, put| index >= from && !put.ended && put.arrived >= STALL).await
    }

    /// Lets the store read on; the clip in flight must not complete.
    async fn was_cut(&self, put: &Put) {
        self.sink.stall_after(None);
        let cut = self.put("the end of the upload", |_, seen| seen.name == put.name && seen.ended).await;
        assert!(!cut.is_whole(), "{:?}: the store has the whole clip", self.sample);
    }

    async fn status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.world.agent.status(what, |status| wanted(&status.0["uploader"])).await.0
    }

    async fn cancel(&mut self) -> Document {
        let free = self.world.free();
        self.world.issue(free).await
    }

    async fn applied(&self, document: &Document) -> Report {
        self.world.issuer.judged(document, Outcome::Applied).await
    }
}

#[tokio::test]
async fn a_cancel_closes_the_uploader_and_its_answer_ends_the_cut() {
    tokio::join!(cancelled(Sample::Python), cancelled(Sample::C));
}

async fn cancelled(sample: Sample) {
    let (mut vendor, put) = Vendor::uploading(sample).await;
    let cancel = vendor.cancel().await;
    let report = vendor.applied(&cancel).await;
    assert_eq!((report.mode, report.cut.transfers, report.erased.clips), (Mode::Free, 1, 1), "{sample:?}: {report:?}");
    assert_eq!(report.erased.bytes, BIG as u64, "{sample:?}");
    let status = vendor.status("the answer", |uploader| uploader["closed_generation"] == 1).await;
    let answered = status["uploader"]["closed_micros"].as_u64().unwrap();
    assert!(report.cut.micros >= answered && answered > 0, "{sample:?}: {report:?}, answered in {answered}");
    vendor.was_cut(&put).await;

    // What Free allows leaves under the new generation, and nothing of the other is left.
    vendor.put("the short clip", |_, put| put.is_whole() && put.length == 1000).await;
    vendor.status("it stored", |uploader| uploader["stored_clips"] == 1 && uploader["erased_clips"] == 1).await;
    assert_eq!(vendor.held(), Vec::<String>::new(), "{sample:?}");
    vendor.world.agent.stop().await;
}

/// A power cut after the answer must not bring back erased clips: the content and the directory are synced before
/// it.
#[tokio::test]
async fn erasures_are_on_disk_before_the_uploader_answers() {
    tokio::join!(erased_for_good(Sample::Python), erased_for_good(Sample::C));
}

async fn erased_for_good(sample: Sample) {
    let mut vendor = Vendor::new(sample).await;
    vendor.film(2, unix_now() - 900, 3, 2000);
    let clips = vendor.clips().display().to_string();
    let log = vendor.world.agent.dir().join("uploader.strace");
    let mut command = Command::new("strace");
    command
        .args(["-D", "-f", "-qq", "-y", "-s", "200", "-o"])
        .arg(&log)
        .args(["-e", "trace=openat,ftruncate,fsync,unlink,unlinkat,send,sendto,write"]);
    let sampled = sample.command();
    command.arg(sampled.as_std().get_program()).args(sampled.as_std().get_args());
    command.arg(vendor.world.agent.dir().join("uploader.sock")).arg(vendor.sink.addr.to_string()).arg(&clips);
    vendor.uploader = Some(Process::spawn("uploader", command, Lines::default()));
    vendor.world.start_premium().await;
    vendor.status("the other owner's clip erased", |uploader| uploader["erased_clips"] == 1).await;

    let said = std::fs::read_to_string(&log).unwrap();
    let at = |what: &str, wanted: &dyn Fn(&str) -> bool| {
        said.lines().position(wanted).unwrap_or_else(|| panic!("{sample:?}: no {what} in\n{said}"))
    };
    let content = at("sync of the content", &|line| line.contains("fsync(") && line.contains("/clips/2-"));
    let name = at("unlink", &|line| line.contains("unlink") && line.contains("/clips/2-"));
    let directory = at("sync of the directory", &|line| line.contains("fsync(") && line.contains(&format!("<{clips}>")));
    // It answered earlier if it was told to close before anything had to be erased.
    let answer = at("answer", &|line| line.contains("closed") && line.replace(' ', "").contains(r#"\"clips\":1"#));
    assert!(content < name && name < directory && directory < answer, "{sample:?}: {content} {name} {directory} {answer}\n{said}");
    vendor.world.agent.stop().await;
}

#[tokio::test]
async fn a_killed_agent_closes_the_uploader_and_under_a_hung_one_its_permission_expires() {
    tokio::join!(without_agent(Sample::Python), without_agent(Sample::C));
}

async fn without_agent(sample: Sample) {
    let (mut vendor, put) = Vendor::uploading(sample).await;
    vendor.world.agent.kill().await;
    vendor.was_cut(&put).await;

    // After a restart the agent works as usual; the clip is uploaded from the beginning.
    vendor.sink.stall_after(Some(STALL));
    let before = vendor.sink.puts().len();
    vendor.world.agent.start();
    let again = vendor.in_flight(before).await;
    assert_eq!(again.name, put.name);

    // This time, no closed connection tells it.
    vendor.world.agent.signal(libc::SIGSTOP);
    let seen = vendor.sink.puts().len();
    vendor.sink.stall_after(Some(2 * STALL));
    until(format!("{sample:?}: the end of its permission"), PATIENCE, || {
        // A stalled store does not see a reset: it reads on to find out.
        vendor.sink.stall_after(Some(vendor.sink.puts().last().unwrap().arrived + 1));
        vendor.sink.puts().last().filter(|put| put.ended).cloned()
    })
    .await;
    assert!(!vendor.sink.puts().last().unwrap().is_whole(), "{sample:?}: the store has the whole clip");
    assert_eq!(vendor.sink.puts().len(), seen, "{sample:?}: it began another");

    vendor.sink.stall_after(None);
    vendor.world.agent.signal(libc::SIGCONT);
    vendor.put("the complete clip", |_, seen| seen.name == put.name && seen.is_whole()).await;
    vendor.world.agent.stop().await;
}

#[tokio::test]
async fn a_killed_uploader_is_shown_in_status_and_erases_forbidden_clips_when_it_returns() {
    tokio::join!(killed(Sample::Python), killed(Sample::C));
}

async fn killed(sample: Sample) {
    let (mut vendor, _) = Vendor::uploading(sample).await;
    vendor.status("it is open", |uploader| uploader["open"] == true && uploader["pid"].is_u64()).await;
    vendor.signal(libc::SIGKILL);
    vendor.uploader.take().unwrap().exited(PATIENCE).await;
    let gone = |status: &Status| status.0["uploader"]["connected"] == false && status.condition("uploader_away").is_some();
    vendor.world.agent.status("it is disconnected, and the condition", gone).await;
    let page = vendor.world.agent.command(&["status"]).await;
    assert!(String::from_utf8_lossy(&page.stdout).contains("uploader     not connected"), "{page:?}");

    let cancel = vendor.cancel().await;
    let report = vendor.applied(&cancel).await;
    assert_eq!((report.cut.transfers, report.erased.clips), (0, 0), "no uploader was connected: {report:?}");
    vendor.sink.stall_after(None);
    vendor.start();
    vendor.status("the other clips erased", |uploader| uploader["connected"] == true && uploader["erased_clips"] == 1).await;
    vendor.put("what Free allows", |_, put| put.is_whole() && put.length == 1000).await;
    vendor.world.agent.stop().await;
}

#[tokio::test]
async fn the_agent_waits_for_a_hung_uploader_until_its_permission_expires() {
    tokio::join!(hung(Sample::Python), hung(Sample::C));
}

async fn hung(sample: Sample) {
    let (mut vendor, put) = Vendor::uploading(sample).await;
    vendor.signal(libc::SIGSTOP);
    let cancel = vendor.cancel().await;
    let report = vendor.applied(&cancel).await;
    assert_eq!((report.mode, report.cut.transfers, report.erased.clips), (Mode::Free, 1, 0), "{sample:?}: {report:?}");
    assert!(report.cut.micros >= 5_000_000, "{sample:?}: it may have been sending until then: {report:?}");
    vendor.status("why", |uploader| uploader["fault"].to_string().contains("did not answer close 1")).await;

    // It resumes and finds the command and the closed connection: it erases, whether or not it can still answer.
    vendor.signal(libc::SIGCONT);
    vendor.was_cut(&put).await;
    vendor.status("it is connected again", |uploader| uploader["connected"] == true).await;
    until("the forbidden clip erased", PATIENCE, || (!vendor.held().contains(&put.name)).then_some(())).await;
    vendor.put("what Free allows", |_, put| put.is_whole() && put.length == 1000).await;
    vendor.world.agent.stop().await;
}

#[tokio::test]
async fn a_refused_grant_holds_paid_media_and_another_owners_clips_never_leave() {
    tokio::join!(refused(Sample::Python), refused(Sample::C));
}

async fn refused(sample: Sample) {
    let mut vendor = Vendor::new(sample).await;
    vendor.sink.answer(402);
    vendor.film(3, unix_now() - 600, 3, 1000);
    vendor.film(2, unix_now() - 900, 3, 2000);
    vendor.world.start_premium().await;
    vendor.start();
    let report = vendor.world.issuer.report("held", |report| report.cause == Cause::Refused).await;
    assert_eq!((report.mode, report.erased.clips), (Mode::Held, 0), "{sample:?}: {report:?}");
    vendor.status("the other's clip erased", |uploader| uploader["erased_clips"] == 1).await;

    // Another account: the other clips are erased too, whatever the plan.
    vendor.sink.answer(200);
    vendor.world.position = Position { epoch: 4, seq: 0 };
    let next = vendor.world.premium().of("acct-other");
    let next = vendor.world.issue(next).await;
    assert_eq!(vendor.applied(&next).await.erased.clips, 1, "{sample:?}");
    assert!(vendor.sink.puts().iter().all(|put| put.length == 1000), "{sample:?}: {:?}", vendor.sink.puts());
    assert_eq!(vendor.held(), Vec::<String>::new(), "{sample:?}");
    vendor.world.agent.stop().await;
}
