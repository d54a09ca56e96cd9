//! Streams from other programs: a recorded file and GStreamer's RTSP server. ffprobe judges the clips that arrive.

use care_protocol::{ClipKind, Policy};
use care_tests::{
    cloud::{CloudState, Put},
    issuer::PREMIUM,
    media::{self, FPS, probe_bytes, recorded},
    process::{Lines, Process},
    snapshot_service::SnapshotService,
    wait::{PATIENCE, until},
    world::World,
};
use tokio::process::Command;

/// Waits for two complete clips from this source in the store.
async fn two_clips_of(source: String) -> Vec<Put> {
    let mut world = World::new().await;
    world.agent.config.source = Some(source);
    let premium = world.premium().limited(Policy { clip_max_s: 4, ..PREMIUM });
    world.start_with(premium, care_protocol::Mode::Paid).await;
    let whole = |n: usize| {
        move |seen: &CloudState| {
            let puts: Vec<_> = seen.puts.iter().filter(|put| put.complete == Some(true)).cloned().collect();
            (puts.len() >= n).then_some(puts)
        }
    };
    world.move_until("a first clip", whole(1)).await;
    let puts = world.move_until("a second clip", whole(2)).await;
    let seen = world.cloud.lock();
    for put in &puts {
        let (_, asked) = seen.asked.iter().find(|(_, asked)| asked.clip == put.clip).unwrap();
        let digest = care_protocol::Digest::of(&put.body);
        assert_eq!((asked.bytes, &asked.sha256), (put.body.len() as u64, &digest.hex()), "the grant was requested for this length");
        let clip = probe_bytes(&put.body);
        let announced = std::time::Duration::from_millis(asked.duration_ms).as_secs_f64();
        assert!((clip.duration() - announced).abs() < 0.5, "announced {announced} s, is {} s", clip.duration());
        assert!(clip.duration() > 1.5, "{} s, announced {announced} s: {clip:?}", clip.duration());
    }
    puts
}

/// `step` is the longest allowed gap between frames, in frames: RTP frames are timestamped on arrival.
fn judge(puts: &[Put], height: u64, step: f64) {
    for put in puts {
        let clip = probe_bytes(&put.body);
        assert_eq!((clip.codec.as_str(), clip.height, clip.complaints.as_str()), ("h264", height, ""));
        assert!(clip.starts_with_keyframe, "a clip that begins without a keyframe");
        assert_eq!(media::boxes(&put.body), media::PROGRESSIVE);
        assert!(clip.longest_step() < step, "a frame is missing: {:?}", clip.pts);
        assert!((1.5..=4.2).contains(&clip.duration()), "{} s", clip.duration());
        assert!(clip.pts.len() as f64 >= clip.duration() * f64::from(FPS) * 0.9, "{} frames in {} s", clip.pts.len(), clip.duration());
    }
}

#[tokio::test]
async fn a_recorded_h264_file_becomes_clips_that_play() {
    let puts = two_clips_of(format!("file:{}", recorded().display())).await;
    judge(&puts, 180, 1.6);
}

#[tokio::test]
async fn a_third_party_rtsp_server_becomes_clips_that_play() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/rtsp_server.py");
    let log = Lines::default();
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script);
    let _server = Process::spawn("rtsp_server.py", command, log.clone());
    let url = until("the RTSP server to print its URL", PATIENCE, || log.find(0, |line| line.starts_with("rtsp://"))).await;
    let puts = two_clips_of(url).await;
    judge(&puts, 360, 5.0);
}

#[tokio::test]
async fn a_picture_taller_than_the_plan_allows_is_never_uploaded_and_status_says_why() {
    let mut world = World::with_camera().await;
    let low = world.premium().limited(Policy { max_height: 90, ..PREMIUM });
    let low = world.start_with(low, care_protocol::Mode::Paid).await;
    let status = world.agent.status("why no clip is uploaded", |status| status.text_of_all().contains("90")).await;
    assert_eq!(status.seq(), low.position.seq);
    world.agent.motion().await.report_motion().await;
    care_tests::wait::holds("nothing is uploaded", std::time::Duration::from_secs(4), || {
        (world.cloud.grants_asked() > 0).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;
    // A plan that allows this resolution opens the gate at once.
    let premium = world.premium();
    world.switch(premium, care_protocol::Mode::Paid).await;
    let put = world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    assert_eq!(media::probe_bytes(&put.body).height, 180);
}

/// The newest whole clip of this kind in the store.
fn of_kind(kind: ClipKind) -> impl Fn(&CloudState) -> Option<Put> {
    move |seen: &CloudState| {
        let is_asked = |put: &&Put| seen.asked.iter().any(|(_, asked)| asked.kind == kind && asked.clip == put.clip);
        seen.puts.iter().rev().filter(is_asked).find(|put| put.complete == Some(true)).cloned()
    }
}

#[tokio::test]
async fn a_snapshot_is_uploaded_with_the_clip_if_the_plan_allows_it() {
    let mut world = World::with_camera().await;
    let with_pictures = world.premium().limited(Policy { snapshots: true, ..PREMIUM });
    world.start_with(with_pictures, care_protocol::Mode::Paid).await;
    // A decoder that is late gives none, and the frame is sent instead.
    let is_jpeg = |put: Put| put.body.starts_with(&[0xFF, 0xD8]).then_some(put);
    let picture = world.move_until("a JPEG", |seen| of_kind(ClipKind::Snapshot)(seen).and_then(is_jpeg)).await;
    let found = probe_bytes(&picture.body);
    assert_eq!((found.codec.as_str(), found.height, found.pts.len(), found.complaints.as_str()), ("mjpeg", 180, 1, ""));
    let clip = world.move_until("the clip", of_kind(ClipKind::Motion)).await;
    assert!(probe_bytes(&clip.body).duration() > 1.5);

    let without = world.premium();
    world.switch(without, care_protocol::Mode::Paid).await;
    let before = world.cloud.grants_asked();
    world.move_until("another clip", |seen| seen.asked.get(before).cloned()).await;
    assert!(world.cloud.lock().asked[before..].iter().all(|(_, asked)| asked.kind == ClipKind::Motion));
}

/// The firmware's own JPEG is the snapshot. Where it fails, a frame of the stream is, and the owner is told.
#[tokio::test]
async fn the_cameras_own_jpeg_is_the_snapshot_as_long_as_its_address_answers() {
    let jpeg = std::fs::read(media::re_encoded("snapshot.jpg", &["-frames:v", "1", "-f", "mjpeg"])).unwrap();
    let firmware = SnapshotService::start(jpeg.clone());
    let mut world = World::with_camera().await;
    world.agent.config.media = format!("snapshot_url = \"{}\"\n", firmware.url());
    world.agent.write_config();
    let checked = world.agent.command(&["check-config"]).await;
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(text.contains("media.snapshot_url: ") && text.contains("gives a JPEG of 320x180") && !text.contains("hunter2"), "{text}");

    let with_pictures = world.premium().limited(Policy { snapshots: true, ..PREMIUM });
    world.start_with(with_pictures, care_protocol::Mode::Paid).await;
    let picture = world.move_until("a snapshot", of_kind(ClipKind::Snapshot)).await;
    assert_eq!(picture.body, jpeg);
    world.move_until("the clip", of_kind(ClipKind::Motion)).await;

    firmware.fail();
    let is_mp4 = |put: Put| (put.body != jpeg).then_some(put);
    let picture = world.move_until("a snapshot of the stream", |seen| of_kind(ClipKind::Snapshot)(seen).and_then(is_mp4)).await;
    let found = probe_bytes(&picture.body);
    assert_eq!((found.codec.as_str(), found.pts.len()), ("h264", 1));
    assert_eq!(media::boxes(&picture.body), media::PROGRESSIVE);
    let status = world.agent.status("why", |status| status.sentence("snapshot_failing").ends_with("the camera answers 503")).await;
    assert!(status.0["media"]["snapshots_failed"].as_u64() > Some(0) && !status.0.to_string().contains("hunter2"));
}
