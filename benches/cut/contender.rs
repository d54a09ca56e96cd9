//! The agents that are measured: ours and three rivals, each with its own Mosquitto, cloud and camera id.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use care_protocol::{Mode, Outcome, Policy, Report};
use care_tests::{
    cloud::{Put, Sink},
    issuer::{Draft, NOTHING, PREMIUM},
    media::{self, MotionSocket},
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};

use crate::{
    load::Group,
    paho::{SCRIPTS, paho},
};

/// Bytes after which the store stops reading.
const STALL: u64 = 16_000;
/// Paid clips are short, so that filming hundreds of them is quick. Free has none: whatever leaves after a cancel is wrong.
const PAID: Policy = Policy { clip_max_s: 2, ..PREMIUM };
/// The shell reports on a second connection, which needs a client id of its own.
const ANY_CLIENT_ID: &str = "use_username_as_clientid false";

/// An agent that is measured.
pub(crate) struct Contender {
    /// Its key in the results.
    pub(crate) name: &'static str,
    world: World,
    film: Film,
}

/// What makes a contender upload once it is paid.
enum Film {
    /// Ours: motion in front of its camera.
    Motion(MotionSocket),
    /// A rival: it uploads by itself as long as it is paid.
    Rival(Group),
}

/// One cancel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Publication to report, as the cloud sees it.
    pub(crate) millis: f64,
    /// The contender's own figure for the cut.
    pub(crate) micros: u64,
    /// Payload that the store could still read after the publication.
    pub(crate) bytes_after: u64,
    /// Processor time until the store saw the end of the upload. `None` where processes that have ended did the work.
    pub(crate) cpu_micros: Option<f64>,
}

/// Ours, past the harness's proxy, because the rivals have none.
pub(crate) async fn ours() -> Contender {
    let mut world = World::new().await;
    world.agent.config.broker = format!("mqtts://{}", world.broker.addr);
    // Large enough that a clip does not fit into socket buffers.
    let picture = world.agent.dir().join("picture.mp4");
    let make = "-f lavfi -i testsrc2=size=640x360:rate=15,noise=alls=40:allf=t -t 10 -c:v libx264 -preset ultrafast -bf 0 -g 7 -b:v 4M";
    media::ffmpeg(&[&make.split(' ').collect::<Vec<_>>()[..], &["-pix_fmt", "yuv420p", &picture.display().to_string()]].concat());
    world.agent.config.source = Some(format!("file:{}", picture.display()));
    world.cloud.lock().sink = Sink::StallAfter(STALL);
    let draft = world.draft("free", NOTHING);
    world.start_with(draft, Mode::Free).await;
    let motion = world.agent.motion().await;
    Contender { name: "kasa-care-agent", world, film: Film::Motion(motion) }
}

/// A rival, started by this command.
pub(crate) async fn rival(name: &'static str, command: fn(&World) -> std::process::Command) -> Contender {
    let mut world = World::with_broker(ANY_CLIENT_ID).await;
    world.cloud.lock().sink = Sink::StallAfter(STALL);
    let group = Group::start(name, command(&world));
    let draft = world.draft("free", NOTHING);
    let document = world.issue(draft).await;
    world.issuer.judged(&document, Outcome::Applied).await;
    Contender { name, world, film: Film::Rival(group) }
}

/// The paho agent, but it verifies the signature and reports only once the document is on flash.
pub(crate) fn durable_paho(world: &World) -> std::process::Command {
    let mut command = paho(world);
    command.arg(format!("--public-key={}", world.pki.key.public_key().to_base64url()));
    command.arg("--state").arg(world.agent.config.state_dir.join("state"));
    command
}

/// `mosquitto_sub`, and `curl` to kill.
pub(crate) fn shell(world: &World) -> std::process::Command {
    let config = &world.agent.config;
    let clip = world.agent.dir().join("clip");
    std::fs::write(&clip, vec![0; 8_000_000]).expect("a temporary directory has room");
    let mut command = std::process::Command::new("bash");
    command.arg(Path::new(SCRIPTS).join("sub_curl.sh"));
    command.args([&world.broker.addr.ip().to_string(), &world.broker.addr.port().to_string(), &world.cloud.url()]);
    command.arg(&config.ca).arg(&config.cert).arg(&config.key).args([DEVICE, "care/v1"]).arg(clip);
    command
}

impl Contender {
    /// Makes it paid. A rival then uploads.
    pub(crate) async fn subscribe(&mut self) {
        let draft = match self.film {
            Film::Motion(_) => self.world.premium().limited(PAID),
            Film::Rival(_) => self.world.premium(),
        };
        self.publish(draft).await;
    }

    /// Returns once an upload is in flight, of which the store reads no more.
    pub(crate) async fn until_uploading(&mut self) {
        let on_its_way = |put: &Put| put.complete.is_none() && put.body.len() as u64 >= STALL / 2;
        let mut moved: Option<Instant> = None;
        let started = Instant::now();
        while !self.world.cloud.lock().puts.iter().any(on_its_way) {
            assert!(started.elapsed() < PATIENCE, "{}: no upload begins", self.name);
            if let Film::Motion(motion) = &mut self.film {
                // Repeat: motion right after the switch may still count under the previous policy.
                if moved.is_none_or(|at| at.elapsed() > Duration::from_millis(500)) {
                    motion.report_motion().await;
                    moved = Some(Instant::now());
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Cancels, with so many uploads in flight, and lets the store read what is left of them.
    pub(crate) async fn cancel(&mut self, uploads: u32) -> anyhow::Result<Sample> {
        let draft = self.world.draft("free", NOTHING);
        let before = self.received();
        let cpu = self.cpu_nanos()?;
        let (report, millis) = self.publish(draft).await;
        assert_eq!((report.mode, report.cut.transfers), (Mode::Free, uploads), "{}: {report:?}", self.name);

        self.world.cloud.lock().sink = Sink::Swallow;
        self.world.cloud.wait("the end of the upload", |seen| seen.puts.iter().all(|put| put.complete.is_some()).then_some(())).await;
        let cpu_micros = self.cpu_nanos()?.zip(cpu).map(|(after, before)| (after - before) as f64 / 1000.0);
        let bytes_after = self.received() - before;
        let puts = {
            let mut cloud = self.world.cloud.lock();
            cloud.sink = Sink::StallAfter(STALL);
            std::mem::take(&mut cloud.puts)
        };
        assert!(puts.iter().all(|put| put.complete == Some(false)), "{}: an upload came through", self.name);
        Ok(Sample { millis, micros: report.cut.micros, bytes_after, cpu_micros })
    }

    fn received(&self) -> u64 {
        self.world.cloud.lock().puts.iter().map(|put| put.body.len() as u64).sum()
    }

    /// What the process has computed so far, with threads that have ended. The shell's work is done by processes that have.
    fn cpu_nanos(&self) -> anyhow::Result<Option<i64>> {
        let pid = match &self.film {
            Film::Motion(_) => self.world.agent.pid(),
            Film::Rival(_) if self.name == "shell" => return Ok(None),
            Film::Rival(group) => group.pid(),
        };
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write to a variable of ours that outlives them, and keep no pointer.
        let read = unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0 };
        ensure!(read, "{}: its processor time cannot be read", self.name);
        Ok(Some(time.tv_sec * 1_000_000_000 + time.tv_nsec))
    }

    /// Publishes a document, as the cloud does, and waits for its report: milliseconds in between.
    async fn publish(&self, draft: Draft) -> (Report, f64) {
        let document = self.world.sign(&draft);
        let issuer = &self.world.issuer;
        issuer.heard().answer = Some(document.token.clone());
        self.world.cloud.lock().entitlement = care_tests::cloud::Document::Token(document.token.clone());
        let mark = issuer.mark();
        let published = Instant::now();
        issuer.post(&issuer.topics().entitlement(), true, document.token.as_str());
        let (heard, report) = until(format!("the report of {} by {}", document.position, self.name), PATIENCE, || {
            let heard = issuer.heard();
            heard.reports.iter().skip(mark).find(|(_, report)| document.judged(report, Outcome::Applied)).cloned()
        })
        .await;
        (report, (heard - published).as_secs_f64() * 1000.0)
    }
}
