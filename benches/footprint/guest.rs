//! On an emulated camera, under its own systemd.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use care_protocol::{Cause, Mode};
use care_tests::{
    agent::ConfigFile,
    cloud::Sink,
    guest::{Guest, IDENTITY, Model, PATIENCE, RUNTIME},
    issuer::Document,
    media,
    world::World,
};
use serde_json::{Map, Value};
use tokio::net::TcpStream;

use crate::{SETTLE, figures, start, upload};

/// Starts that are timed.
const STARTS: usize = 5;
/// The other build's name in the guest.
const WITHOUT: &str = "kasa-care-agent-no-gstreamer";

/// The packaged agent.
pub(crate) async fn with_gstreamer(span: Duration) -> anyhow::Result<Value> {
    let mut world = World::new().await;
    world.cloud.lock().sink = Sink::Swallow;
    let mut states = Map::new();
    let free = world.free();
    let free = world.issue(free).await;
    let mut camera = Guest::with(&mut world, Model::default(), &[("picture.mp4", media::recorded_360())]);
    camera.start();
    in_force(&world, &free, Mode::Free).await;
    let mut config = world.agent.config.clone();
    config.uplink_kbps = 0;

    config.motion = "built-in".into();
    camera.configure(&config.text()).await;
    // The picture moves: wait for the one clip that Free allows in five minutes.
    world.cloud.wait_for("a clip", PATIENCE, |seen| seen.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    states.insert("free_idle".into(), cost(&camera, span).await);

    // Paid and nothing moves: a motion socket that nobody writes to.
    config.motion = format!("socket:{RUNTIME}/motion.sock");
    let premium = world.premium();
    let premium = world.issue(premium).await;
    in_force(&world, &premium, Mode::Paid).await;
    again(&world, &camera, &config, &premium).await;
    states.insert("paid_idle".into(), cost(&camera, span).await);

    config.motion = "every:2s".into();
    again(&world, &camera, &config, &premium).await;
    let stored = world.cloud.lock().puts.len();
    states.insert("paid_uploading".into(), cost(&camera, span).await);
    ensure!(world.cloud.lock().puts.len() > stored, "nothing was uploaded meanwhile");

    let start = starts(&world, &camera, &config, &premium).await?;
    let program = camera.run("stat -c %s /usr/bin/kasa-care-agent").await;
    Ok(figures(states, start, program.trim().parse().context("the size of the program")?))
}

/// The other build, in place of the packaged one, with a relay to a vendor's uploader on this machine.
pub(crate) async fn without_gstreamer(span: Duration) -> anyhow::Result<Value> {
    let program = PathBuf::from(std::env::var_os("CARE_CAMERA_NO_GSTREAMER").context("CARE_CAMERA_NO_GSTREAMER names the other build")?);
    let mut world = World::new().await;
    let mut states = Map::new();
    let free = world.free();
    let free = world.issue(free).await;
    let mut camera = Guest::with(&mut world, Model::default(), &[(WITHOUT, &program)]);
    camera.start();
    in_force(&world, &free, Mode::Free).await;
    let dropin = "/run/systemd/system/kasa-care-agent.service.d";
    let run = format!("[Service]\nExecStart=\nExecStart={IDENTITY}/{WITHOUT} run\n");
    camera.run(&format!("mkdir -p {dropin}; printf '{run}' >{dropin}/program.conf; systemctl daemon-reload")).await;
    let mut config = world.agent.config.clone();
    let socket = PathBuf::from(format!("{RUNTIME}/uploader.sock"));
    config.source = None;
    config.extra = format!("\n[uploader]\nsocket = \"unix:{}\"\n", socket.display());
    camera.configure(&config.text()).await;
    let running = camera.run("readlink /proc/$(systemctl show -p MainPID --value kasa-care-agent)/exe").await;
    ensure!(running.trim() == format!("{IDENTITY}/{WITHOUT}"), "{running} is running");
    states.insert("free_idle".into(), cost(&camera, span).await);

    let premium = world.premium();
    let premium = world.issue(premium).await;
    in_force(&world, &premium, Mode::Paid).await;
    states.insert("paid_idle".into(), cost(&camera, span).await);

    let relay = camera.relay(&socket).await;
    let uploader = tokio::spawn(async move {
        let agent = TcpStream::connect(relay).await.expect("the guest takes the connection");
        upload(agent).await.expect("the agent governs")
    });
    states.insert("paid_uploading".into(), cost(&camera, span).await);
    let status: Value = serde_json::from_str(&camera.run("kasa-care-agent status --json").await).context("the agent's status")?;
    ensure!(status["uploader"]["open"] == true, "the uploader was not open: {status:#}");
    uploader.abort();

    let start = starts(&world, &camera, &config, &premium).await?;
    Ok(figures(states, start, std::fs::metadata(&program)?.len()))
}

async fn in_force(world: &World, document: &Document, mode: Mode) {
    let what = format!("{} in force as {mode}", document.position);
    world.issuer.report_within(0, PATIENCE, what, |report| document.in_force(report) && report.mode == mode).await;
}

/// Starts it anew with this configuration; returns once its plan is confirmed.
async fn again(world: &World, camera: &Guest, config: &ConfigFile, document: &Document) {
    let mark = world.issuer.mark();
    camera.configure(&config.text()).await;
    let confirmed = |report: &care_protocol::Report| document.in_force(report) && report.cause == Cause::Confirmed;
    world.issuer.report_within(mark, PATIENCE, "its plan confirmed", confirmed).await;
}

async fn cost(camera: &Guest, span: Duration) -> Value {
    tokio::time::sleep(SETTLE).await;
    camera.cost(span).await.json()
}

/// From exec to ready, connected and confirmed, by the guest's own clock: the median and the longest of [`STARTS`].
async fn starts(world: &World, camera: &Guest, config: &ConfigFile, premium: &Document) -> anyhow::Result<Value> {
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..STARTS {
        again(world, camera, config, premium).await;
        let pid = camera.service().await.pid;
        let exec = camera.run("systemctl show -p ExecMainStartTimestampMonotonic --value kasa-care-agent").await;
        let exec: f64 = exec.trim().parse().context("systemd knows when it started it")?;
        let journal = camera.run(&format!("journalctl --sync; journalctl -o json --no-pager _PID={pid}")).await;
        let lines: Vec<Value> = journal.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for (which, (message, cause)) in [("ready", None), ("connected", None), ("report", Some("confirmed"))].into_iter().enumerate() {
            let wanted = |line: &&Value| line["MESSAGE"] == message && cause.is_none_or(|cause| line["F_CAUSE"] == cause);
            let line = lines.iter().find(wanted).with_context(|| format!("no {message} in the journal:\n{journal}"))?;
            let stamp = line["__MONOTONIC_TIMESTAMP"].as_str().unwrap_or_default().parse::<f64>().context("a line has its time")?;
            times[which].push((stamp - exec) / 1000.0);
        }
    }
    Ok(start(times))
}
