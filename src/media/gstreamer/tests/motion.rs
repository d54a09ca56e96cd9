//! Built-in motion on raw and on encoded pictures.

use gstreamer as gst;

use super::{
    pipeline::{feed_units, film},
    *,
};
use crate::media::{frame::Codec, gstreamer::decoder, motion::built_in::GreyDecoder, stop_signal::StopSignal};

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

/// What openh264dec, the decoder of the package, cannot decode. Nothing is shown as motion, and the coding is named.
#[test]
fn a_coding_that_the_decoder_cannot_decode_is_named() {
    gst::init().unwrap();
    let x264 = |options: &[&str]| feed_units(Codec::H264, &film(Codec::H264, 2, options)).frames[0].clone();
    let fields = fields::film(1).remove(0).concat();
    let inputs = [
        (x264(&["-pix_fmt", "yuv444p"]), "H.264 High 4:4:4 Predictive"),
        (x264(&["-pix_fmt", "yuv420p10le"]), "H.264 High 10"),
        (x264(&["-pix_fmt", "yuv422p"]), "H.264 High 4:2:2"),
        // Macroblock-adaptive fields, then pictures of two fields.
        (x264(&["-flags", "+ildct+ilme"]), "H.264 High, interlaced"),
        (feed_units(Codec::H264, &[fields]).frames[0].clone(), "H.264 Main, interlaced"),
    ];
    let mut decoders = decoder::Decoders::among(&["openh264dec"], StopSignal::default());
    for (keyframe, coding) in inputs {
        let said = decoders.decode(&keyframe).unwrap_err();
        assert!(said.contains(coding) && said.contains("which no decoder here can read: openh264dec: "), "{coding}: {said}");
    }
    let readable = x264(&["-g", "15"]);
    assert_eq!(decoders.decode(&readable).map(|(name, _)| name), Ok("openh264dec"));
}

#[test]
fn built_in_motion_says_that_it_reads_no_h265() {
    gst::init().unwrap();
    for (options, coding) in [(["-pix_fmt", "yuv420p"], "Main"), (["-pix_fmt", "yuv420p10le"], "Main 10")] {
        let parameters = ["-x265-params", "aud=1:log-level=none"];
        let keyframe = feed_units(Codec::H265, &film(Codec::H265, 2, &[options, parameters].concat())).frames[0].clone();
        let said = decoder::Decoders::new(StopSignal::default()).decode(&keyframe);
        let expected = format!("motion cannot be seen in this stream (320x240 H.265 {coding}): built-in motion reads H.264 only");
        assert_eq!(said, Err(expected));
    }
}
