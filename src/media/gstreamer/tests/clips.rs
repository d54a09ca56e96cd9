//! Clips of real encoders.

use super::*;

#[test]
fn a_clip_of_the_test_source_has_its_pre_roll_and_ends_5_s_after_the_event() {
    let collector = Collector::new(60);
    let probed = records_one_clip_with_pre_roll(start(&camera(Source::Test, 2), &collector), &collector, 15.0);
    let clips = collector.clips.lock().unwrap();
    let kbit_s = clips[0].bytes.len() as f64 * 0.008 / probed.duration;
    assert!((500.0..2000.0).contains(&kbit_s), "about 1 Mbit/s: {kbit_s}");
}
