//! Recording to the card, a pre-roll and clips at 1280×720 and 15 frames a second, beside GStreamer's own elements that do
//! the same: processor time of both, on the same kind of camera in one run.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use care_protocol::{Mode, Policy};
use care_tests::{
    build::Build,
    cloud::Sink,
    footprint::Cost,
    issuer::PREMIUM,
    media,
    wait::{PATIENCE, until},
    world::World,
};
use rtsp_camera::{Camera, Codec, Options};
use serde_json::{Value, json};
use tokio::process::Command;

const FPS: u32 = 15;
/// The length of a clip, seconds.
const CLIP_S: u32 = 10;
/// Time to fill the pre-roll and to begin with clips.
const SETTLE: Duration = Duration::from_secs(8);

pub(crate) async fn measure(span: Duration) -> anyhow::Result<Value> {
    let plain = pipeline(span).await?;
    let (with, without) = (agent(Build::WithGstreamer, span).await?, agent(Build::WithoutGstreamer, span).await?);
    let cpu = |cost: &Value| cost["cpu_s_per_min"].as_f64().context("processor time was measured");
    let beside = cpu(&plain)?;
    ensure!(beside > 0.0, "the pipeline took no processor time");
    let ratio = |cost: &Value| cpu(cost).map(|own| (own / beside * 100.0).round() / 100.0);
    Ok(json!({
        "pipeline": plain, "gstreamer": with, "no_gstreamer": without,
        "ratio": { "gstreamer": ratio(&with)?, "no_gstreamer": ratio(&without)? },
    }))
}

fn camera() -> anyhow::Result<Camera> {
    let mut options = Options::new(media::noisy_720(), Codec::H264);
    options.fps = FPS.into();
    Ok(Camera::start(options)?)
}

/// One writer of files of a minute, one of clips of 10 s, and five seconds in a queue before it.
async fn pipeline(span: Duration) -> anyhow::Result<Value> {
    let (camera, dir) = (camera()?, tempfile::tempdir()?);
    let files = |name: &str, seconds: u64| {
        let location = dir.path().join(name).join("%05d.mp4");
        format!(
            "splitmuxsink muxer-properties=\"properties,fragment-duration=1000\" max-size-time={} location={}",
            seconds * 1_000_000_000,
            location.display()
        )
    };
    for name in ["card", "clips"] {
        std::fs::create_dir(dir.path().join(name))?;
    }
    let description = format!(
        "rtspsrc protocols=tcp location={} ! rtph264depay ! h264parse ! tee name=t \
         t. ! queue ! {} t. ! queue min-threshold-time=5000000000 max-size-time=6000000000 max-size-bytes=0 max-size-buffers=0 ! {}",
        camera.url(),
        files("card", 60),
        files("clips", CLIP_S.into())
    );
    let mut child = Command::new("gst-launch-1.0").arg("-q").args(description.split_whitespace()).kill_on_drop(true).spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("gst-launch-1.0 runs")?;
    let written = |name: &str| size(&dir.path().join(name)) > 0;
    until("the pipeline writes", PATIENCE, || (written("card") && written("clips")).then_some(())).await;
    tokio::time::sleep(SETTLE).await;
    let before = size(dir.path());
    let cost = Cost::of(pid, span).await?;
    ensure!(size(dir.path()) > before, "the pipeline wrote nothing meanwhile");
    child.kill().await?;
    Ok(cost.json())
}

/// The bytes of all files below a directory.
fn size(dir: &Path) -> u64 {
    media::recordings(dir).iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).sum()
}

/// The agent with a card, its pre-roll, and clips one after the other, which it also encrypts and uploads.
async fn agent(build: Build, span: Duration) -> anyhow::Result<Value> {
    let camera = camera()?;
    let mut world = World::new().await;
    build.select(&mut world.agent);
    let card = world.agent.dir().join("card");
    std::fs::create_dir(&card)?;
    world.agent.config.source = Some(camera.url());
    world.agent.config.pre_roll_s = None;
    world.agent.config.recording = Some(card.clone());
    world.agent.config.uplink_kbps = 100_000;
    world.cloud.lock().sink = Sink::Swallow;
    let premium = world.premium().limited(Policy { clip_max_s: CLIP_S, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    let moving = world.agent.motion().await.goes_on();
    world.cloud.wait("a clip", |seen| seen.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    let (stored, recorded) = (world.cloud.lock().puts.len(), size(&card));
    let cost = Cost::of(world.agent.pid(), span).await?;
    ensure!(world.cloud.lock().puts.len() > stored && size(&card) > recorded, "nothing was recorded or uploaded meanwhile");
    moving.abort();
    Ok(cost.json())
}
