//! Sound of RTSP cameras: AAC is in clips and on the card beside its pictures, whatever the transport; what is not AAC is left out
//! and said; and no sound costs a frame.

use care_protocol::{Mode, Policy};
use care_tests::{
    build::Build,
    filming::{Kind, film_all},
    in_each_build,
    issuer::PREMIUM,
    media::{Heard, heard, probe, recordings, tone},
    status::Status,
    world::World,
};
use rtsp_camera::{Camera, Options, Section, Transports};

use super::{PATIENCE, h264, h265};

/// Sound and picture may end so far apart, seconds.
const APART: f64 = 0.2;

fn with_aac(options: Options) -> Options {
    Options { after: vec![Section::Aac], sound: Some(tone()), ..options }
}

/// Checks a file's sound against its pictures.
fn assert_heard(name: &str, file: &std::path::Path) -> Heard {
    let pictures = probe(file);
    let sound = heard(file).unwrap_or_else(|| panic!("{name}: {} has no sound", file.display()));
    assert_eq!((sound.codec.as_str(), sound.complaints.as_str()), ("aac", ""), "{name}");
    assert_eq!(pictures.complaints, "", "{name}");
    let (first, last) = (pictures.pts[0], pictures.pts[0] + pictures.duration());
    assert!((sound.begins - first).abs() < APART, "{name}: sound begins at {}, the picture at {first}", sound.begins);
    assert!((sound.ends - last).abs() < APART, "{name}: sound ends at {}, the picture at {last}", sound.ends);
    assert!(sound.longest_gap < 0.001, "{name}: a hole of {} s", sound.longest_gap);
    sound
}

in_each_build!(s102_sound_in_aac_is_in_the_clip_and_on_the_card);

async fn s102_sound_in_aac_is_in_the_clip_and_on_the_card(build: Build) {
    let camera = Camera::start(with_aac(h264(|_| {}))).unwrap();
    let mut world = World::of(build).await;
    let card = tempfile::tempdir_in("/dev/shm").unwrap();
    world.agent.config.source = Some(camera.url());
    world.agent.config.recording = Some(card.path().to_owned());
    let premium = world.premium().limited(Policy { clip_max_s: 4, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    let hears = |status: &Status| status.0["media"]["sound"] == "AAC 16 kHz mono" && status.0["media"]["frames"].as_u64() > Some(20);
    world.agent.status_within("sound", PATIENCE, hears).await;
    let put = world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    let status = world.agent.status_within("4 s", PATIENCE, |status| status.0["media"]["frames"].as_u64() > Some(60)).await;
    assert_eq!(status.0["media"]["sound_lost"], 0, "{:#}", status.0["media"]);
    world.agent.stop().await;
    let clip = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    std::fs::write(clip.path(), &put.body).unwrap();
    assert_heard("the clip", clip.path());
    let segments = recordings(card.path());
    assert_eq!(segments.len(), 1);
    let sound = assert_heard("the card", &segments[0]);
    assert!(sound.ends > 3.0, "{sound:?}");
}

in_each_build!(s102_sound_that_cannot_be_recorded_is_left_out_and_said);

async fn s102_sound_that_cannot_be_recorded_is_left_out_and_said(build: Build) {
    let encodes = build == Build::WithGstreamer;
    let samples = if encodes { "AAC 16 kHz mono, from PCMA" } else { "left out: PCMA" };
    for (name, options, config, told) in [
        ("G.711", h264(|camera| camera.after = vec![Section::Audio]), "", Some(samples)),
        (
            "AAC that is refused",
            Options { refused: vec![Section::Aac], ..with_aac(h264(|_| {})) },
            "",
            Some("left out: AAC, because the camera refuses it (404)"),
        ),
        ("AAC that is not wanted", with_aac(h264(|_| {})), "sound = false\n", None),
        ("none", h264(|_| {}), "", None),
    ] {
        let camera = Camera::start(options).unwrap();
        let mut world = World::of(build).await;
        let card = tempfile::tempdir_in("/dev/shm").unwrap();
        world.agent.config.source = Some(camera.url());
        world.agent.config.media = config.into();
        world.agent.config.recording = Some(card.path().to_owned());
        world.agent.start();
        let status = world.agent.status_within(name, PATIENCE, |status| status.0["media"]["frames"].as_u64() > Some(30)).await;
        assert_eq!(status.0["media"]["sound"].as_str(), told, "{name}");
        world.agent.stop().await;
        let file = &recordings(card.path())[0];
        assert_eq!(heard(file).is_some(), told.is_some_and(|told| told.starts_with("AAC")), "{name}");
        assert!(probe(file).pictures.len() > 20, "{name}: it is filmed");
    }
}

#[tokio::test]
async fn sound_costs_no_frame_by_any_transport() {
    let kinds = vec![
        Kind::new("AAC", with_aac(h264(|_| {}))),
        Kind::new("AAC over UDP", with_aac(h264(|camera| camera.transports = Transports::Udp))),
        Kind::new("AAC and sender reports", with_aac(h264(|camera| camera.sender_reports = true))),
        Kind::new("AAC beside H.265", with_aac(h265(|_| {}))),
        Kind::new("AAC that is refused", Options { refused: vec![Section::Aac], ..with_aac(h264(|_| {})) }),
        Kind::new("AAC from an odd camera", with_aac(h264(|camera| camera.odd = true))),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}
