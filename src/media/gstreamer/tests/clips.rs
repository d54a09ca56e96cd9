//! Clips of real encoders.

use super::*;

#[test]
fn a_clip_of_the_test_source_has_its_pre_roll_and_ends_5_s_after_the_event() {
    let collector = Collector::new(60);
    let media = start(&camera(Source::Test, 2), &collector);
    wait_for_frames(&media, 60);
    media.record();
    collector.wait_for(1);
    let clips = collector.clips.lock().unwrap();
    let ago = clips[0].beginning.ago.as_secs_f64();
    assert_eq!((clips[0].beginning.kind, clips[0].beginning.height), (ClipKind::Manual, 360));
    assert!((1.9..4.0).contains(&ago), "2 s of pre-roll, at a keyframe: {ago}");
    let probed = probe_clip(&clips[0]);
    assert!((ago + 4.0..ago + 6.0).contains(&probed.duration), "{} s", probed.duration);
    assert!((probed.frames as f64 - probed.duration * 15.0).abs() < 3.0, "{} frames in {} s", probed.frames, probed.duration);
    let kbit_s = clips[0].bytes.len() as f64 * 0.008 / probed.duration;
    assert!((500.0..2000.0).contains(&kbit_s), "about 1 Mbit/s: {kbit_s}");
    assert!(clips[0].durations.len() >= 5, "fragments come as they are made, not at the end");
    let status = media.status();
    assert_eq!((status.clips_recorded, status.stream.dropped, status.stream.restarts, status.stream.fault), (1, 0, 0, None));
    assert!(media.stop(Duration::from_secs(5)));
}
