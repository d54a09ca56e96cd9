//! Motion by the camera's own ONVIF metadata, from the stream to the store.

use care_protocol::{Mode, Policy};
use care_tests::{
    build::Build,
    in_each_build,
    issuer::PREMIUM,
    media::probe_bytes,
    status::Status,
    wait::{PATIENCE, until},
    world::World,
};
use rtsp_camera::{Camera, Options, Section, Transports};

use super::h264;

/// A world whose agent films from this camera and asks it for motion.
async fn world_of(build: Build, options: Options) -> (World, Camera) {
    let camera = Camera::start(options).unwrap();
    let mut world = World::of(build).await;
    world.agent.config.source = Some(camera.url());
    world.agent.config.motion = "onvif".into();
    (world, camera)
}

in_each_build!(s102_onvif_metadata_that_says_motion_is_filmed_until_it_says_otherwise);

async fn s102_onvif_metadata_that_says_motion_is_filmed_until_it_says_otherwise(build: Build) {
    let (mut world, camera) = world_of(
        build,
        h264(|camera| {
            camera.after = vec![Section::Metadata];
            camera.motion = vec![(4.0, 14.0)];
        }),
    )
    .await;
    let premium = world.premium().limited(Policy { clip_max_s: 60, cooldown_s: 0, snapshots: false, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    let put = until("a clip", PATIENCE, || world.cloud.lock().puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    let clip = probe_bytes(&put.body);
    // One event alone makes a clip of at most nine seconds here.
    assert!(clip.duration() >= 12.0 && clip.complaints.is_empty(), "{} s: {}", clip.duration(), clip.complaints);
    let status = world.agent.status("itself", |_| true).await;
    assert_eq!((status.0["media"]["motion_events"].as_u64(), status.0["media"]["motion_ignored"].as_u64()), (Some(1), Some(0)));
    assert_eq!(camera.sessions().len(), 1);
}

#[tokio::test]
async fn onvif_metadata_over_udp_starts_a_clip() {
    let (mut world, _camera) = world_of(
        Build::WithoutGstreamer,
        h264(|camera| {
            camera.before = vec![Section::Metadata, Section::Audio];
            (camera.motion, camera.transports) = (vec![(2.0, 3.0)], Transports::Udp);
        }),
    )
    .await;
    world.start_premium().await;
    until("a clip", PATIENCE, || world.cloud.lock().puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
}

#[tokio::test]
async fn a_camera_that_sends_no_metadata_is_filmed_and_says_so() {
    let none = h264(|camera| camera.after = vec![Section::Audio]);
    let refuses = h264(|camera| (camera.after, camera.refused) = (vec![Section::Metadata], vec![Section::Metadata]));
    for (options, expected) in [(none, "offers no ONVIF metadata"), (refuses, "does not send its ONVIF metadata")] {
        let (mut world, camera) = world_of(Build::WithoutGstreamer, options).await;
        let free = world.free();
        world.start_with(free, Mode::Free).await;
        let told = |status: &Status| status.sentence("motion_blind").contains(expected) && status.0["media"]["frames"].as_u64() > Some(30);
        world.agent.status(expected, told).await;
        assert_eq!(camera.sessions().len(), 1, "{expected}: the picture is not disturbed");
        let output = world.agent.command(&["check-config"]).await;
        let found = String::from_utf8_lossy(&output.stderr);
        let named = found.lines().any(|line| line.contains("media.motion: ") && line.contains(expected));
        assert!(output.status.code() == Some(78) && named, "{found}");
    }
}
