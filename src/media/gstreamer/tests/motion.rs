//! Built-in motion on raw and on encoded pictures.

use gstreamer as gst;
use rustix::time::{ClockId, clock_gettime};

use super::{
    pipeline::{Piece, feed, feed_units, film},
    *,
};
use crate::media::{
    Frame,
    frame::Codec,
    gstreamer::decoder,
    motion::{
        built_in::GreyDecoder,
        detector::{Detector, Tuning},
        tests::{
            difference::Difference,
            scenes::{self, SETTLE_S, World},
        },
    },
    source::{GREY_HEIGHT, GREY_WIDTH},
    stop_signal::StopSignal,
};

/// The pictures of a scene as keyframes of 640×360, one a second.
fn keyframes(pictures: &[Vec<u8>]) -> Vec<Frame> {
    let dir = tempfile::tempdir().unwrap();
    let (raw, coded) = (dir.path().join("scene.raw"), dir.path().join("scene.h264"));
    std::fs::write(&raw, pictures.concat()).unwrap();
    let size = format!("{GREY_WIDTH}x{GREY_HEIGHT}");
    let input = ["-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", &size, "-r", "1", "-i", raw.to_str().unwrap()];
    let encoder = ["-vf", "scale=640:360", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-g", "1", "-b:v", "250k"];
    run("ffmpeg", &[&input[..], &encoder, &[coded.to_str().unwrap()]].concat());
    let stream = std::fs::read(&coded).unwrap();
    let frames = feed(None, stream.chunks(100_000).map(|bytes| Piece::at(bytes, None))).frames;
    assert_eq!(frames.len(), pictures.len());
    frames
}

fn distance(one: &[u8], other: &[u8]) -> u64 {
    one.iter().zip(other).map(|(one, other)| u64::from(one.abs_diff(*other))).sum()
}

/// What an encoder at a camera's bit rate and a decoder leave of a scene is judged as the scene itself.
#[test]
fn scenes_are_judged_alike_after_an_encoder_and_a_decoder() {
    gst::init().unwrap();
    let mut decoders = decoder::Decoders::new(StopSignal::default());
    for name in ["day", "night, sensor noise", "switch to infrared and back", "person", "person at night"] {
        let mut world = World::new(scenes::named(name), 3, 75.0);
        let pictures: Vec<Vec<u8>> = (0..75_u8).map(|second| world.picture(second.into())).collect();
        let mut detector = Detector::new(Tuning::of(50), None);
        let mut events = Vec::new();
        for (second, keyframe) in (0..75_u8).zip(keyframes(&pictures)) {
            let (_, picture) = decoders.decode(&keyframe).unwrap();
            let nearest = (0..pictures.len()).min_by_key(|other| distance(&pictures[*other], &picture));
            assert_eq!(nearest, Some(second.into()), "{name}: a picture of another moment");
            if detector.see(&picture, Duration::from_secs(second.into())).is_some() && f32::from(second) >= SETTLE_S {
                events.push(f32::from(second));
            }
        }
        let passing = |at: &f32| world.passages.iter().any(|passage| (passage.begins..passage.ends + 2.0).contains(at));
        assert!(events.iter().all(passing), "{name}: {events:?}");
        assert!(world.passages.is_empty() || events.len() >= 3, "{name}: {events:?}");
    }
}

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

/// Of the processor's time for one picture, most goes to its decoder.
#[test]
fn a_picture_costs_the_detector_less_than_its_decoder() {
    gst::init().unwrap();
    let spent = |clock| Duration::try_from(clock_gettime(clock)).unwrap();
    let mut world = World::new(scenes::named("person"), 5, 100.0);
    let pictures: Vec<Vec<u8>> = (0..60_u8).map(|second| world.picture(second.into())).collect();
    let frames = keyframes(&pictures[..12]);
    let mut decoders = decoder::Decoders::new(StopSignal::default());
    decoders.decode(&frames[0]).unwrap();
    // Decoders have threads of their own. Other tests may add to it.
    let before = spent(ClockId::ProcessCPUTime);
    frames.iter().for_each(|frame| drop(decoders.decode(frame).unwrap()));
    let decoder = (spent(ClockId::ProcessCPUTime) - before) / frames.len() as u32;
    let (mut old, mut new) = (Difference::default(), Detector::new(Tuning::of(50), None));
    let before = spent(ClockId::ThreadCPUTime);
    let moved = pictures.iter().filter(|picture| old.see(picture)).count();
    let between = spent(ClockId::ThreadCPUTime);
    let sees = |(second, picture): &(u64, &Vec<u8>)| new.see(picture, Duration::from_secs(*second)).is_some();
    let seen = (0..).zip(&pictures).filter(sees).count();
    let (old, new) = (between - before, spent(ClockId::ThreadCPUTime) - between);
    let (old, new) = (old / pictures.len() as u32, new / pictures.len() as u32);
    println!("for one picture: decoder {decoder:?}, detector {new:?}, the one before {old:?}");
    assert!(moved > 0 && seen > 0);
    assert!(new < decoder, "{new:?}, and {decoder:?} for the decoder");
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
