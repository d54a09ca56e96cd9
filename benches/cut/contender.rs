//! The agents that are measured: ours, ours with its cut replaced, and three rivals, each with its own Mosquitto, cloud and
//! camera id.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_protocol::{Mode, Outcome, Policy, Report};
use care_tests::{
    capture,
    cloud::{Put, Sink},
    issuer::{Draft, NOTHING, PREMIUM},
    media::{self, MotionSocket},
    shaped_link::{CLOUD, Link},
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};

use crate::{
    load::Group,
    paho::{SCRIPTS, paho},
};

/// Bytes after which the store stops reading, on loopback.
const STALL: u64 = 16_000;
/// On loopback an upload is in flight once the store has read this many bytes.
pub(crate) const BEGUN: u64 = STALL / 2;
/// Paid clips are short, so that filming hundreds of them is quick. Free has none: whatever leaves after a cancel is wrong.
const PAID: Policy = Policy { clip_max_s: 1, ..PREMIUM };
/// The shell reports on a second connection, which needs a client id of its own.
const ANY_CLIENT_ID: &str = "use_username_as_clientid false";

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Our agent.
    Ours,
    /// Our agent, built with `benches/rivals/drops_request.patch`: a cut only drops the request.
    DropsRequest,
    /// The paho agent, but it verifies the signature and reports only once the document is on flash: the floor.
    DurablePaho,
    /// The paho agent.
    Paho,
    /// `mosquitto_sub`, and `curl` to kill.
    Shell,
}

impl Kind {
    /// All of them. Ours and the floor, which are compared, stand side by side.
    pub(crate) const ALL: [Self; 5] = [Self::Ours, Self::DurablePaho, Self::DropsRequest, Self::Paho, Self::Shell];

    /// Its key in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "kasa-care-agent",
            Self::DropsRequest => "drops_request",
            Self::DurablePaho => "durable_paho",
            Self::Paho => "paho",
            Self::Shell => "shell",
        }
    }

    /// Whether it films. A rival uploads by itself as long as it is paid.
    pub(crate) fn films(self) -> bool {
        matches!(self, Self::Ours | Self::DropsRequest)
    }
}

/// Where broker and store are.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// On loopback; the store stops reading after the first bytes, so that an upload stays in flight.
    Loopback,
    /// At the far end of this link; the store reads whatever comes.
    Behind(&'a Link),
}

/// An agent that is measured.
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) world: World,
    film: Film,
    /// Uploads before the last subscription.
    before: usize,
}

/// What makes a contender upload once it is paid.
enum Film {
    /// Motion in front of its camera, reported at this time.
    Motion(MotionSocket, Option<Instant>),
    /// Nothing.
    Rival(Group),
}

/// A cancel and its report, as the cloud sees them.
pub(crate) struct Answered {
    pub(crate) report: Report,
    pub(crate) millis: f64,
    /// When the cancel was published, Unix time.
    pub(crate) published_ns: u64,
}

/// One cancel on loopback.
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

impl Contender {
    /// Starts it; it is Free.
    pub(crate) async fn start(kind: Kind, place: Place<'_>) -> anyhow::Result<Self> {
        let mut world = match place {
            Place::Loopback => World::with_broker(ANY_CLIENT_ID).await,
            Place::Behind(_) => World::at(CLOUD, ANY_CLIENT_ID).await,
        };
        // Past the harness's proxy, because the rivals have none.
        world.agent.config.broker = format!("mqtts://{}", world.broker.addr);
        if let Place::Loopback = place {
            world.cloud.lock().sink = Sink::StallAfter(STALL);
        }
        let command = match kind {
            Kind::Ours | Kind::DropsRequest => None,
            Kind::DurablePaho => Some(durable_paho(&world)),
            Kind::Paho => Some(paho(&world)),
            Kind::Shell => Some(shell(&world)),
        };
        let draft = world.draft("free", NOTHING);
        let film = if let Some(command) = command {
            let group = Group::start(kind.name(), place.run(command));
            let document = world.issue(draft).await;
            world.issuer.judged(&document, Outcome::Applied).await;
            Film::Rival(group)
        } else {
            if kind == Kind::DropsRequest {
                world.agent.program = drops_request()?;
            }
            world.agent.config.source = Some(format!("file:{}", picture(world.agent.dir()).display()));
            world.agent.under = place.under();
            world.start_with(draft, Mode::Free).await;
            Film::Motion(world.agent.motion().await, None)
        };
        Ok(Self { kind, world, film, before: 0 })
    }

    /// Makes it paid. A rival then uploads.
    pub(crate) async fn subscribe(&mut self) {
        self.before = self.world.cloud.lock().puts.len();
        let draft = self.world.premium().limited(PAID);
        self.publish(draft).await;
    }

    /// The uploads since the last subscription.
    pub(crate) fn uploads<T>(&self, look: impl FnOnce(&[Put]) -> T) -> T {
        look(self.world.cloud.lock().puts.get(self.before..).unwrap_or_default())
    }

    /// Whether an upload is in flight of which the store has so many bytes. Makes a camera film until then.
    pub(crate) async fn is_uploading(&mut self, bytes: u64) -> bool {
        let on_its_way = |put: &Put| put.complete.is_none() && put.body.len() as u64 >= bytes;
        if self.uploads(|puts| puts.iter().any(on_its_way)) {
            return true;
        }
        // Repeat: motion right after the switch may still count under the previous policy.
        if let Film::Motion(motion, moved) = &mut self.film
            && moved.is_none_or(|at| at.elapsed() > Duration::from_millis(500))
        {
            motion.report_motion().await;
            *moved = Some(Instant::now());
        }
        false
    }

    /// Publishes a cancel and waits for its report.
    pub(crate) async fn cancelled(&mut self) -> Answered {
        let draft = self.world.draft("free", NOTHING);
        self.publish(draft).await
    }

    /// Cancels, with so many uploads in flight, and lets the store read what is left of them. `None` if the cancel found another
    /// number: an upload has ended by itself.
    pub(crate) async fn cancel(&mut self, uploads: u32) -> anyhow::Result<Option<Sample>> {
        let before = self.received();
        let cpu = self.cpu_nanos()?;
        let Answered { report, millis, .. } = self.cancelled().await;
        ensure!(report.mode == Mode::Free, "{}: {report:?}", self.kind.name());

        self.world.cloud.lock().sink = Sink::Swallow;
        self.world.cloud.wait("the end of the upload", |seen| seen.puts.iter().all(|put| put.complete.is_some()).then_some(())).await;
        let cpu_micros = self.cpu_nanos()?.zip(cpu).map(|(after, before)| (after - before) as f64 / 1000.0);
        let bytes_after = self.received() - before;
        let puts = {
            let mut cloud = self.world.cloud.lock();
            cloud.sink = Sink::StallAfter(STALL);
            std::mem::take(&mut cloud.puts)
        };
        let cut = report.cut.transfers == uploads && puts.iter().all(|put| put.complete == Some(false));
        Ok(cut.then_some(Sample { millis, micros: report.cut.micros, bytes_after, cpu_micros }))
    }

    fn received(&self) -> u64 {
        self.world.cloud.lock().puts.iter().map(|put| put.body.len() as u64).sum()
    }

    /// What the process has computed so far, with threads that have ended. The shell's work is done by processes that have.
    fn cpu_nanos(&self) -> anyhow::Result<Option<i64>> {
        let pid = match &self.film {
            Film::Motion(..) => self.world.agent.pid(),
            Film::Rival(_) if self.kind == Kind::Shell => return Ok(None),
            Film::Rival(group) => group.pid(),
        };
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write to a variable of ours that outlives them, and keep no pointer.
        let read = unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0 };
        ensure!(read, "{}: its processor time cannot be read", self.kind.name());
        Ok(Some(time.tv_sec * 1_000_000_000 + time.tv_nsec))
    }

    /// Publishes a document, as the cloud does, and waits for its report.
    async fn publish(&self, draft: Draft) -> Answered {
        let document = self.world.sign(&draft);
        let issuer = &self.world.issuer;
        issuer.heard().answer = Some(document.token.clone());
        self.world.cloud.lock().entitlement = care_tests::cloud::Document::Token(document.token.clone());
        let mark = issuer.mark();
        let (published, published_ns) = (Instant::now(), capture::now_ns());
        issuer.post(&issuer.topics().entitlement(), true, document.token.as_str());
        let (heard, report) = until(format!("the report of {} by {}", document.position, self.kind.name()), PATIENCE, || {
            let heard = issuer.heard();
            heard.reports.iter().skip(mark).find(|(_, report)| document.judged(report, Outcome::Applied)).cloned()
        })
        .await;
        Answered { report, millis: (heard - published).as_secs_f64() * 1000.0, published_ns }
    }
}

impl Place<'_> {
    /// What a camera's program runs under here.
    fn under(self) -> Vec<String> {
        match self {
            Self::Loopback => Vec::new(),
            Self::Behind(link) => ["ip", "netns", "exec", link.near()].map(str::to_owned).to_vec(),
        }
    }

    fn run(self, command: Command) -> Command {
        let under = self.under();
        let Some((program, arguments)) = under.split_first() else { return command };
        let mut wrapped = Command::new(program);
        wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
        wrapped
    }
}

/// A stream so large that a clip does not fit into socket buffers.
fn picture(dir: &Path) -> PathBuf {
    let picture = dir.join("picture.mp4");
    let make = "-f lavfi -i testsrc2=size=640x360:rate=15,noise=alls=40:allf=t -t 10 -c:v libx264 -preset ultrafast -bf 0 -g 7 -b:v 4M";
    media::ffmpeg(&[&make.split(' ').collect::<Vec<_>>()[..], &["-pix_fmt", "yuv420p", &picture.display().to_string()]].concat());
    picture
}

/// The agent that `scripts/drops-request.sh` builds.
fn drops_request() -> anyhow::Result<PathBuf> {
    let program = PathBuf::from(std::env::var_os("CARE_AGENT_DROPS_REQUEST").context("CARE_AGENT_DROPS_REQUEST is not set")?);
    ensure!(program.exists(), "{} is not built: run scripts/drops-request.sh", program.display());
    Ok(program)
}

fn durable_paho(world: &World) -> Command {
    let mut command = paho(world);
    command.arg(format!("--public-key={}", world.pki.key.public_key().to_base64url()));
    command.arg("--state").arg(world.agent.config.state_dir.join("state"));
    command
}

fn shell(world: &World) -> Command {
    let config = &world.agent.config;
    let clip = world.agent.dir().join("clip");
    std::fs::write(&clip, vec![0; 8_000_000]).expect("a temporary directory has room");
    let mut command = Command::new("bash");
    command.arg(Path::new(SCRIPTS).join("sub_curl.sh"));
    command.args([&world.broker.addr.ip().to_string(), &world.broker.addr.port().to_string(), &world.cloud.url()]);
    command.arg(&config.ca).arg(&config.cert).arg(&config.key).args([DEVICE, "care/v1"]).arg(clip);
    command
}
