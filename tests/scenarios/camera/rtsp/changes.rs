//! Streams that change while a clip is recorded: parameter sets, which the clip goes on with, and the picture's size, with which
//! the next clip begins.

use std::path::PathBuf;

use care_tests::{
    build::Build,
    filmed_events::Watch,
    in_each_build,
    media::{joined, re_encoded},
};

use super::{avc, h264};

in_each_build!(
    s100_other_parameter_sets_in_mid_clip_leave_the_event_in_its_clip,
    s100_another_picture_size_in_mid_clip_goes_on_in_the_next_clip,
);

/// Ten seconds of film; each has parameter sets of its own: another quantizer in the PPS, another frame rate in the SPS.
fn pieces() -> PathBuf {
    let piece = |second: u32| {
        let (at, qp) = (second.to_string(), (20 + 2 * second).to_string());
        let rate = format!("h264_metadata=tick_rate={}", if second % 4 == 3 { 60 } else { 30 });
        let cut = ["-ss", &at, "-t", "1", "-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", "15", "-sc_threshold", "0"];
        re_encoded(&format!("piece-{second}.h264"), &[&cut[..], &["-qp", &qp, "-bsf:v", &rate, "-f", "h264"]].concat())
    };
    joined("pieces.h264", &(0..10).map(piece).collect::<Vec<_>>())
}

async fn s100_other_parameter_sets_in_mid_clip_leave_the_event_in_its_clip(build: Build) {
    let options = h264(|camera| camera.file = pieces());
    let watched = Watch { options, clip_max_s: 30, media: "", period: 15, events: vec![20, 150], ends: 150 + 90 }.run(build).await;
    assert_eq!(watched.clips.len(), 2, "one for each event: {:?}", watched.clips.iter().map(|clip| &clip.frames).collect::<Vec<_>>());
    for (clip, event) in watched.clips.iter().zip(&watched.events) {
        assert!(clip.frames.start <= *event, "event {event}, clip {:?}", clip.frames);
        let after = clip.frames.end - event;
        assert!((65..95).contains(&after), "5 s after the event: {after} frames");
    }
    assert_eq!(watched.missed(), (0, ""));
}

async fn s100_another_picture_size_in_mid_clip_goes_on_in_the_next_clip(build: Build) {
    let small = avc("small.h264", &["-bf", "0", "-vf", "scale=160:90"]);
    // Every three seconds, so that one change comes within the five seconds after the event.
    let options = h264(|camera| {
        let large = camera.file.clone();
        camera.changes = (1..30).map(|n| (f64::from(n) * 3.0, if n % 2 == 1 { small.clone() } else { large.clone() })).collect();
    });
    let watched = Watch { options, clip_max_s: 60, media: "", period: 15, events: vec![20], ends: 20 + 90 }.run(build).await;
    let (event, last) = (watched.events[0], watched.clips.last().unwrap());
    let frames: Vec<_> = watched.clips.iter().map(|clip| (clip.frames.clone(), clip.probe.height)).collect();
    assert!(watched.has(event) && watched.clips.len() > 1, "event {event}, clips {frames:?}");
    assert!(watched.hole().is_none(), "{frames:?}");
    assert!(watched.clips.windows(2).all(|pair| pair[0].probe.height != pair[1].probe.height), "{frames:?}");
    assert!(watched.clips[1..].iter().all(|clip| clip.frames.start % 45 == 0), "with the very frame of the change: {frames:?}");
    let after = last.frames.end - event;
    assert!((65..95).contains(&after), "5 s after the event: {after} frames");
    assert_eq!(watched.missed(), (0, ""));
}
