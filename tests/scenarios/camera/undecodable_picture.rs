//! Motion detection on a stream that the camera's decoder cannot decode.

use std::path::PathBuf;

use care_protocol::Mode;
use care_tests::{
    media::{ffmpeg, recorded},
    world::World,
};

use care_tests::gstreamer_plugins::{add_plugin, only_plugins};

/// The plugins that the package installs.
const PACKAGED: [&str; 8] =
    ["coreelements", "app", "typefindfunctions", "isomp4", "videoparsersbad", "openh264", "videoconvertscale", "videorate"];

/// The recorded video, encoded by x264 with these options.
fn re_encoded(world: &World, options: &[&str]) -> PathBuf {
    let file = world.agent.dir().join("camera.mp4");
    let picture = ["-i", recorded().to_str().unwrap(), "-c:v", "libx264", "-preset", "veryfast", "-g", "15", "-bf", "0"];
    ffmpeg(&[&picture[..], options, &[file.to_str().unwrap()]].concat());
    file
}

/// Checks that the condition names the stream once, that everything else keeps working, and that a decoder that
/// supports the stream detects motion.
async fn motion_goes_undetected(options: &[&str], profile: &str) {
    let mut world = World::with_camera().await;
    world.agent.config.source = Some(format!("file:{}", re_encoded(&world, options).display()));
    world.agent.config.motion = "built-in".into();
    only_plugins(&mut world.agent, &PACKAGED);
    world.start_premium().await;
    let said = world.agent.condition("motion_blind").await;
    assert!(said.contains(profile) && said.contains("openh264dec"), "{said}");
    let frames = |n: u64| move |status: &care_tests::status::Status| status.0["media"]["frames"].as_u64() > Some(n);
    let status = world.agent.status("ten keyframes more", frames(200)).await;
    assert_eq!(status.0["media"]["motion_events"], 0);
    let told: Vec<String> = world.agent.log().all().into_iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    let blind = told.iter().filter(|line| line.contains("decoder") || line.contains("motion")).count();
    assert_eq!(blind, 1, "{told:#?}");
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
}

#[tokio::test]
async fn motion_that_no_decoder_detects_is_reported_once_for_an_interlaced_stream() {
    motion_goes_undetected(&["-pix_fmt", "yuv420p", "-flags", "+ildct+ilme"], "interlaced").await;
}

#[tokio::test]
async fn motion_that_no_decoder_detects_is_reported_once_for_a_high_4_2_2_stream() {
    motion_goes_undetected(&["-pix_fmt", "yuv422p", "-profile:v", "high422"], "High 4:2:2").await;
}

#[tokio::test]
async fn a_decoder_that_supports_the_stream_detects_motion() {
    let mut world = World::with_camera().await;
    let file = re_encoded(&world, &["-pix_fmt", "yuv422p", "-profile:v", "high422", "-flags", "+ildct+ilme"]);
    world.agent.config.source = Some(format!("file:{}", file.display()));
    world.agent.config.motion = "built-in".into();
    let folder = only_plugins(&mut world.agent, &PACKAGED);
    add_plugin(&folder, "libav");
    world.start_premium().await;
    world.cloud.stored(1).await;
    world.agent.condition_gone("motion_blind").await;
}
