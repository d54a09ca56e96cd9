//! The static firmware on a bare camera (BusyBox, 26 MB for Linux): memory, threads, wakeups and processor time in Free
//! idle, paid idle and paid uploading, and the time from the publication of a cancel to its report. It films 640×360 from
//! RTSP. `CARE_BARE_CAMERA` names the image, `CARE_FIRMWARE` the tarball. Writes `target/bench/bare.json`; fails if the
//! agent exceeds its limits. `FOOTPRINT_SECONDS=10 CANCELS=20` gives a quick look.

mod cancels;
mod quantile;
mod setting;
mod stamp;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_protocol::Mode;
use care_tests::{
    agent::ConfigFile,
    bare_camera::{BareCamera, Memory, Model, STREAM},
    cloud::Sink,
    guest::RUNTIME,
    issuer::Document,
    steps::in_force,
    world::World,
};
use quantile::quantile;
use serde_json::{Map, Value, json};

/// How long each state is measured, and how many cancels, unless the environment says otherwise.
const SECONDS: u64 = 30;
const CANCELS: usize = 40;
/// The pause before each measurement, so that the work of starting is over.
const SETTLE: Duration = Duration::from_secs(5);
/// The limits: PSS while idle and while filming and uploading, the median to the report.
const IDLE_MOST_KB: u64 = 4 * 1024;
const UPLOADING_MOST_KB: u64 = 6 * 1024;
const P50_MOST_MS: f64 = 25.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let span = Duration::from_secs(setting::number("FOOTPRINT_SECONDS", SECONDS)?);
    let cancels = setting::number("CANCELS", CANCELS)?;
    let mut world = World::new().await;
    world.agent.config.source = Some(STREAM.to_owned());
    let mut camera = BareCamera::new(&mut world, Model { memory: Memory::Small, ..Model::default() });
    let free = world.free();
    let free = world.issue(free).await;
    let powered = Instant::now();
    camera.start();
    in_force(&world.issuer, 0, &free, Mode::Free).await;
    let first_report = powered.elapsed().as_secs_f64();
    let states = states(&mut world, &camera, span).await?;
    let memory = camera.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").await;
    let program = camera.run("stat -c %s /usr/bin/kasa-care-agent").await;
    let (millis, micros) = switches(&mut world, &camera, cancels).await?;
    let [p50, p99, max] = [50, 99, 100].map(|percent| quantile(&millis, percent));
    let firmware = std::env::var_os("CARE_FIRMWARE").context("CARE_FIRMWARE names the firmware's tarball")?;
    let document = json!({
        "what": "the static program on an emulated bare camera: Cortex-A7, BusyBox, 640x360 H.264 at 15 fps and 1 Mbit/s from RTSP",
        "measured": stamp::stamp("scripts/bench-bare.sh", &["FOOTPRINT_SECONDS", "CANCELS"]),
        "seconds": span.as_secs(),
        "linux_memory_kb": memory.trim().parse::<u64>().context("Linux's memory")?,
        "program_bytes": program.trim().parse::<u64>().context("the size of the program")?,
        "tarball_bytes": std::fs::metadata(&firmware).with_context(|| firmware.display().to_string())?.len(),
        "first_report_s": (first_report * 10.0).round() / 10.0,
        "states": states,
        "cancels": cancels,
        "p50_ms": p50, "p99_ms": p99, "max_ms": max,
        "cut_micros": { "p50": quantile(&micros, 50), "p99": quantile(&micros, 99), "max": quantile(&micros, 100) },
    });
    std::fs::create_dir_all("target/bench")?;
    let path = Path::new("target/bench/bare.json");
    std::fs::write(path, format!("{document:#}\n"))?;
    println!("{document:#}");
    judge(&document)
}

/// Compares the figures with the limits.
fn judge(document: &Value) -> anyhow::Result<()> {
    let mut over = Vec::new();
    for (state, most) in [("free_idle", IDLE_MOST_KB), ("paid_idle", IDLE_MOST_KB), ("paid_uploading", UPLOADING_MOST_KB)] {
        let pss = document["states"][state]["pss_kb"].as_u64().with_context(|| format!("no figure for {state}"))?;
        if pss > most {
            over.push(format!("{state}: PSS {pss} kB, at most {most} are promised"));
        }
    }
    let p50 = document["p50_ms"].as_f64().context("no median")?;
    if p50 > P50_MOST_MS {
        over.push(format!("p50 {p50} ms, at most {P50_MOST_MS} are promised"));
    }
    ensure!(over.is_empty(), "{}", over.join("; "));
    Ok(())
}

/// The cost of each state.
async fn states(world: &mut World, camera: &BareCamera, span: Duration) -> anyhow::Result<Map<String, Value>> {
    world.cloud.lock().sink = Sink::Swallow;
    let mut states = Map::new();
    let mut config = world.agent.config.clone();
    // The picture comes in, and nothing moves: a motion socket that nobody writes to.
    config.motion = format!("socket:{RUNTIME}/motion.sock");
    config.uplink_kbps = 0;
    let free = world.free();
    let free = world.issue(free).await;
    again(world, camera, &config, &free, Mode::Free).await;
    states.insert("free_idle".into(), cost(camera, span).await);

    let premium = world.premium();
    let premium = world.issue(premium).await;
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    states.insert("paid_idle".into(), cost(camera, span).await);

    config.motion = "every:2s".into();
    again(world, camera, &config, &premium, Mode::Paid).await;
    let stored = world.cloud.lock().puts.len();
    states.insert("paid_uploading".into(), cost(camera, span).await);
    ensure!(world.cloud.lock().puts.len() > stored, "nothing was uploaded meanwhile");
    Ok(states)
}

/// Starts it anew with this configuration; returns once the document is in force and confirmed.
async fn again(world: &World, camera: &BareCamera, config: &ConfigFile, document: &Document, mode: Mode) {
    let mark = world.issuer.mark();
    camera.configure(&config.text()).await;
    in_force(&world.issuer, mark, document, mode).await;
}

async fn cost(camera: &BareCamera, span: Duration) -> Value {
    tokio::time::sleep(SETTLE).await;
    camera.cost(span).await.json()
}

/// Cancels with an upload in flight: sorted milliseconds to the report, sorted microseconds of the cut.
async fn switches(world: &mut World, camera: &BareCamera, cancels: usize) -> anyhow::Result<(Vec<f64>, Vec<u64>)> {
    // Slow, so that there is an upload to cut.
    let mut config = world.agent.config.clone();
    config.uplink_kbps = 200;
    config.motion = "every:2s".into();
    let premium = world.premium().limited(cancels::PAID);
    let premium = world.issue(premium).await;
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    again(world, camera, &config, &premium, Mode::Paid).await;
    cancels::switches(world, cancels).await
}
