//! On this machine.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    build::Build,
    cloud::Sink,
    footprint::Cost,
    issuer::PREMIUM,
    media,
    status::Viewer,
    wait::{PATIENCE, until},
    world::World,
};
use rtsp_camera::{Camera, Codec, Options};
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;

use crate::{SETTLE, figures, start, upload};

/// Starts that are timed.
const STARTS: usize = 9;

/// A camera of its own.
pub(crate) async fn with_gstreamer(span: Duration) -> anyhow::Result<Value> {
    let mut world = World::new().await;
    world.agent.config.source = Some(format!("file:{}", media::recorded_360().display()));
    world.agent.config.motion = "built-in".into();
    world.cloud.lock().sink = Sink::Swallow;
    let mut states = Map::new();

    let free = world.free();
    world.start_with(free, Mode::Free).await;
    // The picture moves: wait for the one clip that Free allows in five minutes.
    world.cloud.wait("a clip", |seen| seen.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    states.insert("free_idle".into(), cost(&world.agent, span).await?);

    // Paid and nothing moves: a motion socket that nobody writes to.
    world.agent.stop().await;
    world.agent.config.motion = format!("socket:{}", world.agent.dir().join("motion.sock").display());
    world.start_premium().await;
    states.insert("paid_idle".into(), cost(&world.agent, span).await?);
    states.insert("paid_uploading".into(), uploading(&world, span).await?);
    world.agent.stop().await;
    let start = starts(&mut world).await?;
    Ok(figures(states, start, std::fs::metadata(&world.agent.program)?.len()))
}

/// With a vendor's uploader: the agent uploads nothing itself.
pub(crate) async fn without_gstreamer(span: Duration) -> anyhow::Result<Value> {
    let mut world = World::new().await;
    world.agent.without_gstreamer();
    let socket = world.agent.dir().join("uploader.sock");
    world.agent.config.extra = format!("\n[uploader]\nsocket = \"unix:{}\"\n", socket.display());
    let mut states = Map::new();
    let free = world.free();
    world.start_with(free, Mode::Free).await;
    states.insert("free_idle".into(), cost(&world.agent, span).await?);
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    states.insert("paid_idle".into(), cost(&world.agent, span).await?);
    let uploader = tokio::spawn(async move {
        let agent = UnixStream::connect(&socket).await.expect("the agent listens");
        upload(agent).await.expect("the agent governs")
    });
    world.agent.status("it is open", |status| status.0["uploader"]["open"] == true).await;
    states.insert("paid_uploading".into(), cost(&world.agent, span).await?);
    uploader.abort();
    world.agent.stop().await;
    let start = starts(&mut world).await?;
    Ok(figures(states, start, std::fs::metadata(&world.agent.program)?.len()))
}

/// Both builds, one after the other, filming the same camera over RTSP, with the pre-roll that the agent has by default.
pub(crate) async fn same_camera(span: Duration) -> anyhow::Result<Value> {
    let mut builds = Map::new();
    for (key, build) in [("gstreamer", Build::WithGstreamer), ("no_gstreamer", Build::WithoutGstreamer)] {
        let mut camera = Options::new(media::recorded_360_annex_b(), Codec::H264);
        camera.fps = media::FPS.into();
        let camera = Camera::start(camera)?;
        let mut world = World::new().await;
        build.select(&mut world.agent);
        world.agent.config.source = Some(camera.url());
        world.agent.config.pre_roll_s = None;
        world.cloud.lock().sink = Sink::Swallow;
        let mut states = Map::new();
        let free = world.free();
        world.start_with(free, Mode::Free).await;
        filmed(&world.agent).await;
        states.insert("free_idle".into(), cost(&world.agent, span).await?);
        let premium = world.premium();
        world.switch(premium, Mode::Paid).await;
        states.insert("paid_idle".into(), cost(&world.agent, span).await?);
        for (key, viewers) in [("paid_idle_1_viewer", 1), ("paid_idle_4_viewers", 4)] {
            states.insert(key.into(), watched(&world.agent, viewers, span).await?);
        }
        states.insert("paid_uploading".into(), uploading(&world, span).await?);
        world.agent.stop().await;
        builds.insert(key.into(), json!({ "states": states, "program_bytes": std::fs::metadata(&world.agent.program)?.len() }));
    }
    Ok(builds.into())
}

/// Waits until the pre-roll is full.
async fn filmed(agent: &Agent) {
    agent.status("ten seconds of video", |status| status.0["media"]["frames"].as_u64() >= Some(10 * u64::from(media::FPS))).await;
}

/// The cost while so many people watch the live view.
async fn watched(agent: &Agent, viewers: usize, span: Duration) -> anyhow::Result<Value> {
    let mut watching = Vec::new();
    for _ in 0..viewers {
        watching.push(Viewer::of(&agent.config.status).await);
    }
    let received = || watching.iter().map(Viewer::received).collect::<Vec<_>>();
    tokio::time::sleep(SETTLE).await;
    let before = received();
    let cost = Cost::of(agent.pid(), span).await?.json();
    ensure!(before.iter().zip(received()).all(|(before, after)| *before < after), "a viewer saw nothing meanwhile");
    Ok(cost)
}

/// The cost while motion goes on and clips are uploaded.
async fn uploading(world: &World, span: Duration) -> anyhow::Result<Value> {
    let moving = world.agent.motion().await.goes_on();
    let stored = world.cloud.lock().puts.len();
    let cost = cost(&world.agent, span).await?;
    ensure!(world.cloud.lock().puts.len() > stored, "nothing was uploaded meanwhile");
    moving.abort();
    Ok(cost)
}

async fn cost(agent: &Agent, span: Duration) -> anyhow::Result<Value> {
    tokio::time::sleep(SETTLE).await;
    Ok(Cost::of(agent.pid(), span).await?.json())
}

/// From exec to ready, connected and confirmed, on a Premium plan that is on record: the median and the longest of
/// [`STARTS`].
async fn starts(world: &mut World) -> anyhow::Result<Value> {
    // Put the plan on flash first: the timed start finds it there and has it confirmed.
    let draft = world.premium().limited(PREMIUM);
    world.start_with(draft, Mode::Paid).await;
    world.agent.stop().await;
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..STARTS {
        let from = world.agent.log().len();
        let exec = jiff::Timestamp::now();
        world.agent.start();
        for (which, what) in ["ready device=", "connected connection=", "cause=confirmed"].into_iter().enumerate() {
            let line =
                until(format!("a log line with {what}"), PATIENCE, || world.agent.log().find(from, |line| line.contains(what))).await;
            let stamp: jiff::Timestamp = line.split_whitespace().next().unwrap_or_default().parse().context("a log line has its time")?;
            times[which].push((stamp - exec).as_secs_f64() * 1000.0);
        }
        world.agent.stop().await;
    }
    Ok(start(times))
}
