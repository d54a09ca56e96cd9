//! From the publication of a cancel to its report, on loopback, with an upload in flight: the agent beside two rivals.
//!
//! Each contender has its own Mosquitto, cloud and camera id. They take turns, so that other load on the machine hits all
//! three. The store stops reading after the first bytes, so that an upload stays in flight until it is cut. Writes
//! `target/bench/cut.json`; fails if the agent exceeds its limits.

mod quantile;
mod stamp;

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_protocol::{Mode, Outcome, Policy, Report};
use care_tests::{
    cloud::{Put, Sink},
    issuer::{Draft, PREMIUM},
    media::{self, MotionSocket},
    process::{Lines, Process},
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};
use quantile::quantile;
use serde_json::json;
use tokio::process::Command;

/// Cancels of each contender, unless `CANCELS` says otherwise.
const CANCELS: usize = 200;
/// The limits, in milliseconds.
const P50_MOST: f64 = 5.0;
const P99_MOST: f64 = 25.0;
/// Bytes after which the store stops reading.
const STALL: u64 = 16_000;
/// Paid clips are short, so that filming two hundred of them is quick. Free's are shorter still, so that a cancel erases
/// them.
const PAID: Policy = Policy { clip_max_s: 2, ..PREMIUM };

/// An agent that is measured.
struct Contender {
    name: &'static str,
    world: World,
    film: Film,
    samples: Vec<Sample>,
}

/// What makes a contender upload once it is paid.
enum Film {
    /// The agent: motion in front of its camera.
    Motion(MotionSocket),
    /// A rival: it uploads by itself as long as it runs.
    Rival(#[expect(dead_code, reason = "held, to be ended on drop")] Group),
}

struct Sample {
    /// Publication to report, as the cloud sees it.
    millis: f64,
    /// The agent's own figure for the cut.
    micros: u64,
}

/// A process with children of its own, which all end with it.
struct Group(Process);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.pid();
        // SAFETY: the leader has not been waited for, so its id still names its group and no other.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cancels = match std::env::var("CANCELS") {
        Ok(number) => number.parse().context("CANCELS is a number of cancels")?,
        Err(_) => CANCELS,
    };
    ensure!(cancels > 0, "CANCELS is at least 1");
    let mut contenders = [agent().await, rival("paho", paho).await, rival("shell", shell).await];
    let started = Instant::now();
    for turn in 1..=cancels {
        for contender in &mut contenders {
            contender.cancel().await;
        }
        if turn % 20 == 0 {
            eprintln!("{turn} of {cancels} cancels, {} s", started.elapsed().as_secs());
        }
    }
    let [agent, paho, shell] = &contenders;
    let document = json!({
        "what": "publication of a cancel to its report, milliseconds, on loopback, an upload in flight",
        "cancels": cancels,
        "measured": stamp::stamp("scripts/bench.sh", &["CANCELS"]),
        "kasa-care-agent": agent.figures(),
        "paho": paho.figures(),
        "shell": shell.figures(),
    });
    let path = Path::new("target/bench/cut.json");
    std::fs::create_dir_all("target/bench")?;
    std::fs::write(path, format!("{document:#}\n"))?;
    println!("{:<16} {:>9} {:>9} {:>9}", "", "p50 ms", "p99 ms", "max ms");
    for contender in &contenders {
        let [p50, p99, max] = contender.quantiles();
        println!("{:<16} {p50:>9.2} {p99:>9.2} {max:>9.2}", contender.name);
    }
    println!("{}", path.display());
    let [p50, p99, _] = agent.quantiles();
    ensure!(p50 <= P50_MOST && p99 <= P99_MOST, "p50 {p50:.2} ms, p99 {p99:.2} ms: asked for are {P50_MOST} and {P99_MOST}");
    Ok(())
}

async fn agent() -> Contender {
    let mut world = World::new().await;
    // Past the harness's proxy, because the rivals have none.
    world.agent.config.broker = format!("mqtts://{}", world.broker.addr);
    // Large enough that a clip does not fit into socket buffers.
    let picture = world.agent.dir().join("picture.mp4");
    let make = "-f lavfi -i testsrc2=size=640x360:rate=15,noise=alls=40:allf=t -t 10 -c:v libx264 -preset ultrafast -bf 0 -g 7 -b:v 4M";
    media::ffmpeg(&[&make.split(' ').collect::<Vec<_>>()[..], &["-pix_fmt", "yuv420p", &picture.display().to_string()]].concat());
    world.agent.config.source = Some(format!("file:{}", picture.display()));
    world.cloud.lock().sink = Sink::StallAfter(STALL);
    let draft = world.premium().limited(PAID);
    world.start_with(draft, Mode::Paid).await;
    let motion = world.agent.motion().await;
    Contender { name: "kasa-care-agent", world, film: Film::Motion(motion), samples: Vec::new() }
}

/// The shell reports on a second connection, which needs a client id of its own.
const ANY_CLIENT_ID: &str = "use_username_as_clientid false";

async fn rival(name: &'static str, command: fn(&World) -> std::process::Command) -> Contender {
    let mut world = World::with_broker(ANY_CLIENT_ID).await;
    world.cloud.lock().sink = Sink::StallAfter(STALL);
    let mut command = command(&world);
    command.process_group(0);
    let group = Group(Process::spawn(name, Command::from(command), Lines::default()));
    let draft = world.premium();
    let document = world.issue(draft).await;
    world.issuer.judged(&document, Outcome::Applied).await;
    Contender { name, world, film: Film::Rival(group), samples: Vec::new() }
}

fn paho(world: &World) -> std::process::Command {
    let config = &world.agent.config;
    // Debian's own Python, because Debian's paho belongs to it.
    let mut command = std::process::Command::new("/usr/bin/python3");
    command.arg(rivals().join("paho_agent.py")).args(["--device", DEVICE, "--prefix", "care/v1"]);
    command.args(["--broker", &world.broker.addr.to_string(), "--store", &world.cloud.addr.to_string()]);
    command.arg("--ca").arg(&config.ca).arg("--cert").arg(&config.cert).arg("--key").arg(&config.key);
    command
}

fn shell(world: &World) -> std::process::Command {
    let config = &world.agent.config;
    let clip = world.agent.dir().join("clip");
    std::fs::write(&clip, vec![0; 8_000_000]).expect("a temporary directory has room");
    let mut command = std::process::Command::new("bash");
    command.arg(rivals().join("sub_curl.sh"));
    command.args([&world.broker.addr.ip().to_string(), &world.broker.addr.port().to_string(), &world.cloud.url()]);
    command.arg(&config.ca).arg(&config.cert).arg(&config.key).args([DEVICE, "care/v1"]).arg(clip);
    command
}

fn rivals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/rivals")
}

impl Contender {
    /// One turn: paid, an upload in flight, the cancel, its report; then paid again.
    async fn cancel(&mut self) {
        self.until_uploading().await;
        let draft = self.world.free();
        let (report, sample) = self.measure(draft).await;
        assert_eq!((report.mode, report.cut.transfers), (Mode::Free, 1), "{}: {report:?}", self.name);
        self.samples.push(sample);

        // Let the store read again, and see that nothing more comes.
        self.world.cloud.lock().sink = Sink::Swallow;
        self.world.cloud.wait("the end of the upload", |seen| seen.puts.iter().all(|put| put.complete.is_some()).then_some(())).await;
        let puts = {
            let mut cloud = self.world.cloud.lock();
            cloud.sink = Sink::StallAfter(STALL);
            std::mem::take(&mut cloud.puts)
        };
        assert!(puts.iter().all(|put| put.complete == Some(false)), "{}: an upload came through", self.name);

        let draft = match self.film {
            Film::Motion(_) => self.world.premium().limited(PAID),
            Film::Rival(_) => self.world.premium(),
        };
        self.measure(draft).await;
    }

    /// Publishes a document, as the cloud does, and waits for its report.
    async fn measure(&self, draft: Draft) -> (Report, Sample) {
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
        let sample = Sample { millis: (heard - published).as_secs_f64() * 1000.0, micros: report.cut.micros };
        (report, sample)
    }

    async fn until_uploading(&mut self) {
        let on_its_way = |put: &&Put| put.complete.is_none() && put.body.len() as u64 >= STALL / 2;
        let mut moved: Option<Instant> = None;
        let started = Instant::now();
        while !self.world.cloud.lock().puts.iter().any(|put| on_its_way(&put)) {
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

    fn quantiles(&self) -> [f64; 3] {
        let mut millis: Vec<f64> = self.samples.iter().map(|sample| sample.millis).collect();
        millis.sort_by(f64::total_cmp);
        [quantile(&millis, 50), quantile(&millis, 99), quantile(&millis, 100)]
    }

    fn figures(&self) -> serde_json::Value {
        let [p50, p99, max] = self.quantiles();
        let mut micros: Vec<u64> = self.samples.iter().map(|sample| sample.micros).collect();
        micros.sort_unstable();
        json!({
            "p50_ms": p50, "p99_ms": p99, "max_ms": max,
            "cut_micros": { "p50": quantile(&micros, 50), "p99": quantile(&micros, 99), "max": quantile(&micros, 100) },
        })
    }
}
