//! Built-in motion on raw and on encoded pictures.

use bytes::Bytes;
use gstreamer as gst;

use super::*;
use crate::media::{
    frame::{Codec, Format},
    gstreamer::decoder,
    motion::built_in::GreyDecoder,
    stop_signal::StopSignal,
    tests::scripted::film,
};

#[test]
fn built_in_motion_sees_movement_and_nothing_in_a_still_picture() {
    let launch = |pattern: &str| {
        let raw = "video/x-raw,width=640,height=360,framerate=15/1";
        Source::Launch(format!("videotestsrc is-live=true pattern={pattern} ! {raw} ! openh264enc gop-size=8 bitrate=1000000").into())
    };
    let start_motion = |source| start(&config::Media { motion: Motion::BuiltIn, ..camera(source, 1) }, &Collector::new(1));
    assert_eq!(built_in_available(&launch("ball")), Ok(()));
    let (still, moving, raw) = (start_motion(launch("smpte75")), start_motion(launch("ball")), start_motion(Source::Test));
    for media in [&moving, &raw] {
        eventually("motion was seen", || media.status().motion_events >= 2);
    }
    wait_for_frames(&still, 60);
    assert_eq!(still.status().motion_events, 0);
}

#[test]
fn built_in_motion_says_that_it_reads_no_h265() {
    gst::init().unwrap();
    let keyframe = film("640x360")[0].clone();
    let configuration = Bytes::from_static(&[1, 1]);
    let format = Arc::new(Format { codec: Codec::H265, width: 640, height: 360, configuration });
    let said = decoder::Decoders::new(StopSignal::default()).decode(&crate::media::Frame { format, ..keyframe });
    assert_eq!(said, Err("motion cannot be seen in this stream (640x360 H.265 Main): built-in motion reads H.264 only".into()));
}
