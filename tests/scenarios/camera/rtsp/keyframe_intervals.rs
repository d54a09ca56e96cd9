//! Keyframes that are far apart: larger intervals than the rings hold, and longer ones than the plan's longest clip. The
//! card loses nothing, and each event is in a clip, or the agent says why not.

use care_tests::{
    build::Build,
    filmed_events::Watch,
    filming::{Kind, film_all},
    in_each_build,
    media::noisy,
};
use rtsp_camera::{Codec, Options};

use super::PATIENCE;

in_each_build!(
    s101_a_keyframe_interval_larger_than_the_ring_leaves_no_hole_on_the_card,
    s101_an_event_late_in_an_interval_of_30_s_is_in_its_clip,
    s101_an_event_that_no_clip_can_have_is_counted_and_named,
);

async fn s101_a_keyframe_interval_larger_than_the_ring_leaves_no_hole_on_the_card(build: Build) {
    let camera = |file, fps: f64| {
        let mut options = Options::new(file, Codec::H264);
        options.fps = fps;
        options
    };
    let kinds = vec![
        Kind::new("6 Mbit/s, a keyframe in 10 s", camera(noisy(25, 20, 250, 6), 25.0)).seconds(12.0),
        Kind::new("12 Mbit/s, a keyframe in 30 s", camera(noisy(15, 30, 450, 12), 15.0)).seconds(9.0),
    ];
    film_all(build, PATIENCE, kinds).await;
}

async fn s101_an_event_late_in_an_interval_of_30_s_is_in_its_clip(build: Build) {
    let options = Options::new(noisy(15, 30, 450, 12), Codec::H264);
    let media = "pre_roll_bytes = 60_000_000\n";
    let watched = Watch { options, clip_max_s: 60, media, period: 1, events: vec![150], ends: 150 + 90 }.run(build).await;
    let (event, clip) = (watched.events[0], &watched.clips[0]);
    assert!(watched.has(event), "event {event}, clip {:?}", clip.frames);
    assert_eq!((watched.clips.len(), clip.frames.start % 450), (1, 0));
    let after = clip.frames.end - event;
    assert!((65..95).contains(&after), "5 s after the event: {after} frames");
    assert_eq!(watched.missed(), (0, ""));
}

async fn s101_an_event_that_no_clip_can_have_is_counted_and_named(build: Build) {
    // A keyframe in 20 s, clips of at most 12 s, an event each 4 s.
    let options = Options::new(noisy(15, 20, 300, 1), Codec::H264);
    let events = (0..5).map(|n| 30 + n * 60).collect();
    // The last one may have to wait six seconds for its keyframe.
    let ends = 270 + 90 + 75 + 30;
    let watched = Watch { options, clip_max_s: 12, media: "", period: 60, events, ends }.run(build).await;
    let outside: Vec<u64> = watched.events.iter().copied().filter(|event| !watched.has(*event)).collect();
    let possible: Vec<u64> = watched.events.iter().copied().filter(|event| event % 300 > 170).collect();
    assert_eq!(outside, possible, "12 s hold 180 frames; clips: {:?}", watched.clips.iter().map(|clip| &clip.frames).collect::<Vec<_>>());
    let (missed, told) = watched.missed();
    assert_eq!(missed, outside.len() as u64, "{told}");
    assert!(told.contains("because keyframes are ") && told.contains(" s apart and a clip may last 12 s"), "{told}");
    assert!(watched.clips.iter().all(|clip| clip.probe.pts.len() <= 181), "no clip is longer than the plan allows");
}
