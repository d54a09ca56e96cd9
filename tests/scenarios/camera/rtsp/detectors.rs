//! The agent's own detectors of motion, from the stream of an RTSP camera to the store.

use std::process::Command;

use care_tests::{
    build::Build,
    in_each_build,
    media::recorded_360_annex_b,
    wait::{PATIENCE, until},
    world::World,
};
use rtsp_camera::{Camera, Codec, Options};

/// A picture that stays as it is for this long, seconds, and another in which much moves.
const STILL_S: u32 = 16;

/// Such a film, coded as a camera at a variable bit rate would.
fn film(dir: &std::path::Path, codec: Codec) -> std::path::PathBuf {
    let pictures = format!(
        "smptebars=size=640x360:rate=15:duration={STILL_S}[still];testsrc2=size=640x360:rate=15:duration=10[moving];\
         [still][moving]concat,format=yuv420p"
    );
    let (encoder, form, path) = match codec {
        Codec::H264 => (["-c:v", "libx264", "-x264-params", "keyint=15:scenecut=0:bframes=0"], "h264", dir.join("film.h264")),
        Codec::H265 => (
            ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=15:min-keyint=15:scenecut=0:bframes=0:open-gop=0"],
            "hevc",
            dir.join("film.h265"),
        ),
    };
    let input = ["-v", "error", "-y", "-f", "lavfi", "-i", &pictures];
    let made = Command::new("ffmpeg").args(input).args(encoder).args(["-preset", "ultrafast", "-f", form]).arg(&path).status();
    assert!(made.unwrap().success());
    path
}

in_each_build!(the_sizes_of_coded_pictures_start_a_clip);

/// Also of H.265, which no build decodes.
async fn the_sizes_of_coded_pictures_start_a_clip(build: Build) {
    let dir = tempfile::tempdir().unwrap();
    for codec in [Codec::H264, Codec::H265] {
        let camera = Camera::start(Options::new(film(dir.path(), codec), codec)).unwrap();
        let mut world = World::of(build).await;
        world.agent.config.source = Some(camera.url());
        world.agent.config.motion = "bitstream".into();
        world.start_premium().await;
        until("a clip", PATIENCE, || world.cloud.lock().puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
        let status = world.agent.status("itself", |_| true).await;
        let (frames, events) = (&status.0["media"]["frames"], &status.0["media"]["motion_events"]);
        assert!(frames.as_u64() >= Some(u64::from(STILL_S) * 15) && events.as_u64() >= Some(1), "{frames} frames, {events} events");
    }
}

/// The picture does not come by GStreamer, and its decoder is the first that needs it.
#[tokio::test]
async fn built_in_motion_starts_a_clip() {
    let camera = Camera::start(Options::new(recorded_360_annex_b(), Codec::H264)).unwrap();
    let mut world = World::new().await;
    world.agent.config.source = Some(camera.url());
    world.agent.config.motion = "built-in".into();
    world.start_premium().await;
    world.cloud.stored(1).await;
    let status = world.agent.status("itself", |_| true).await;
    assert!(status.0["media"]["motion_events"].as_u64() >= Some(1), "{:#}", status.0["media"]);
}
