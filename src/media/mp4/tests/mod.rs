//! Streams that x264 and x265 make, written as files, and what players and parsers that are not ours say of them: ffmpeg decodes
//! every picture as it was, GStreamer too, Chromium plays and seeks, `mp4-atom` reads every box.

mod chromium;
mod judges;
mod sound;
mod streams;

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::*;

use self::{
    judges::{Boxes, Packet},
    streams::{Film, H264, H265},
};
use crate::media::usability::Colour;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A clip that leaves in parts.
    Fragments,
    /// A recording, with its index.
    Card,
    /// A clip that leaves whole.
    Progressive,
}

const FORMS: [Form; 3] = [Form::Fragments, Form::Card, Form::Progressive];

fn write(frames: &[Frame], form: Form) -> (Vec<u8>, Duration) {
    let identity = Identity { device: "8006E5A1F0C2".into(), started_at: Some(Duration::from_secs(1_767_225_600)) };
    let mut file = Mp4::begin(frames[0].clone()).identified(identity).with_tables();
    let mut bytes = Vec::new();
    let mut told = Vec::new();
    for frame in &frames[1..] {
        assert!(file.takes(&frame.format));
        if let Some(fragment) = file.push(frame.clone()) {
            bytes.extend_from_slice(&fragment.bytes);
            told.push(fragment.duration);
        }
    }
    let last = file.finish(Duration::MAX).unwrap();
    bytes.extend_from_slice(&last.bytes);
    told.push(last.duration);
    assert!(told.is_sorted(), "{told:?}");
    match form {
        Form::Fragments => {}
        Form::Card => bytes.extend_from_slice(&file.index().unwrap()),
        Form::Progressive => bytes = progressive(&file, &bytes),
    }
    (bytes, file.duration())
}

/// These fragments of the file, as a progressive one.
fn progressive(file: &Mp4, fragments: &[u8]) -> Vec<u8> {
    let Progressive { header, replaces } = file.progressive().unwrap();
    [&header, &fragments[replaces..]].concat()
}

/// One kind of stream.
struct Case {
    name: &'static str,
    film: Film,
    /// The keyframe of the film that the file begins with.
    from_key: usize,
    /// How many frames late presentation begins in the file: the depth of reordering.
    depth: u64,
}

fn case(name: &'static str, film: Film, from_key: usize, depth: u64) -> Case {
    Case { name, film, from_key, depth }
}

fn cases() -> Vec<Case> {
    let open = &["-g", "15", "-bf", "3", "-x264-params", "b-pyramid=normal:open-gop=1:scenecut=0"];
    let hevc = |more: &str| format!("keyint=15:min-keyint=15:scenecut=0:log-level=none:{more}");
    vec![
        case("H.264 without B pictures, 15/s", H264.film(15, &["-g", "15", "-bf", "0"]), 0, 0),
        case("H.264 Baseline, gaps in time", H264.film_at(15, GAPS, &["-g", "15", "-profile:v", "baseline"]), 0, 0),
        case("H.264 pyramid, closed GOPs, 25/s", H264.film(25, &["-g", "25", "-bf", "3", "-b_strategy", "0"]), 0, 2),
        case("H.264 pyramid, open GOPs, 30/s", H264.film(30, open), 0, 2),
        case("H.264 pyramid, open GOPs, from the middle", H264.film(30, open), 1, 2),
        case(FORGETFUL, H264.film_at(25, UNEVEN, open), 1, 2),
        case("H.264 B pictures, 29.97/s", H264.film_at(30, NTSC, &["-g", "30", "-bf", "2", "-x264-params", "b-pyramid=none"]), 0, 1),
        case("H.264 of one keyframe", H264.film(15, &["-g", "600", "-bf", "3"]), 0, 2),
        case("H.264 all intra", H264.film(15, &["-g", "1"]), 0, 0),
        case(
            CHANGING,
            H264.film(15, &["-g", "15", "-bf", "0", "-qp", "20"]).then(H264.film(15, &["-g", "15", "-bf", "0", "-qp", "38"])),
            0,
            0,
        ),
        case("H.265 without B pictures", H265.film(15, &["-x265-params", &hevc("bframes=0:open-gop=0")]), 0, 0),
        case("H.265 pyramid, closed GOPs, 25/s", H265.film(25, &["-x265-params", &hevc("bframes=3:open-gop=0:b-adapt=0")]), 0, 2),
        case("H.265 open GOPs, 30/s", H265.film(30, &["-x265-params", &hevc("bframes=3:open-gop=1:b-adapt=0")]), 0, 2),
        case("H.265 open GOPs, from the middle", H265.film(30, &["-x265-params", &hevc("bframes=3:open-gop=1:b-adapt=0")]), 1, 2),
        case("H.265 open GOPs, variable rate", H265.film_at(25, UNEVEN, &["-x265-params", &hevc("bframes=3:open-gop=1:b-adapt=0")]), 1, 2),
        case(
            "H.265 that changes its PPS",
            H265.film(15, &["-x265-params", &hevc("bframes=0:open-gop=0:qp=20")])
                .then(H265.film(15, &["-x265-params", &hevc("bframes=0:open-gop=0:cbqpoffs=6:qp=40")])),
            0,
            0,
        ),
    ]
}

/// It tells the decoder to forget a picture that was left out at the beginning. ffmpeg says so and shows every picture; Chromium
/// gives up.
const FORGETFUL: &str = "H.264 pyramid, open GOPs, variable rate, from the middle";
const CHANGING: &str = "H.264 that changes its PPS";
const FORGETS: &str = "mmco: unref short failure";

/// Expressions of ffmpeg's `setpts`, ticks of 1/90000 s.
const UNEVEN: &str = "N*3600+mod(N*N*737,3500)";
const GAPS: &str = "N*6000+if(gte(N,20),200000,0)";
const NTSC: &str = "N*3003";

#[test]
fn files_of_every_kind_of_stream_play_with_every_player() {
    let dir = tempfile::tempdir().unwrap();
    let mut for_chromium = Vec::new();
    for (n, case) in cases().into_iter().enumerate() {
        let name = case.name;
        let frames = case.film.beginning_at_key(case.from_key);
        let origin = frames[0].pts;
        let shown: Vec<&Frame> = frames.iter().filter(|frame| frame.pts >= origin).collect();
        assert_eq!(case.from_key > 0, shown.len() < frames.len(), "{name}: leading pictures");
        let pictures = case.film.pictures(origin);
        assert_eq!(pictures.len(), shown.len(), "{name}");
        for form in FORMS {
            let (bytes, told) = write(frames, form);
            let path: PathBuf = dir.path().join(format!("{n}-{form:?}.mp4"));
            std::fs::write(&path, &bytes).unwrap();

            let packets = judges::packets(&path);
            let exact: Vec<i64> = shown.iter().map(|frame| streams::ticks(frame.pts - origin)).collect();
            assert_eq!(packets.iter().map(|packet| packet.pts).collect::<Vec<_>>(), exact, "{name}");
            assert!(packets.windows(2).all(|pair| pair[0].dts < pair[1].dts), "{name}: {packets:?}");
            assert!(packets.iter().all(|packet| packet.dts <= packet.pts), "{name}: {packets:?}");
            let seconds = judges::duration(&path);
            assert!((seconds - told.as_secs_f64()).abs() < 0.001, "{name}, {form:?}: {seconds} s, told {told:?}");
            let (decoded, complaints) = judges::pictures(&path);
            assert_eq!(decoded, pictures, "{name}");
            assert!(complaints.lines().all(|line| line.ends_with(FORGETS)), "{name}: {complaints}");
            assert_eq!(!complaints.is_empty(), name == FORGETFUL, "{name}: {complaints}");
            assert_eq!(judges::gstreamer_frames(&path, case.film.codec()), pictures.len(), "{name}, {form:?}");

            let boxes = Boxes::read(&bytes);
            let lead = boxes.lead();
            let step = usual_step(exact.iter().map(|&at| at as u64)).unwrap();
            assert_eq!((lead + step / 2) / step, case.depth, "{name}: {lead}");
            assert_eq!(-packets[0].dts, lead as i64, "{name}");
            let sync: Vec<u64> =
                (0..shown.len()).filter(|&n| shown[n].key && !is_open(&shown[n..])).map(|n| exact[n] as u64 + lead).collect();
            assert_eq!(boxes.sync_samples(), sync, "{name}");
            assert_eq!(boxes.indexed(&bytes), if form == Form::Card { sync } else { Vec::new() }, "{name}");
            // Chromium also gives up when it seeks back across a change of the PPS (docs/design/mp4.md).
            let chromium_can = case.film.codec() == Codec::H264 && name != FORGETFUL && name != CHANGING;
            if form != Form::Card && chromium_can {
                for_chromium.push((name, path, told));
            }
            if form == Form::Progressive {
                let data: Vec<&[u8]> = shown.iter().map(|frame| &frame.data[..]).collect();
                // Sets may stand before a frame.
                let found = boxes.samples(0, &bytes);
                assert_eq!(found.len(), data.len(), "{name}");
                assert!(found.iter().zip(&data).all(|(found, data)| found.ends_with(data)), "{name}");
                assert_eq!(boxes.durations(), [told; 2], "{name}");
            }
        }
    }
    chromium::plays(&for_chromium);
}

/// Whether leading pictures of H.264 follow the keyframe that these frames begin with.
fn is_open(frames: &[&Frame]) -> bool {
    frames[0].format.codec == Codec::H264 && frames[1..].iter().any(|frame| frame.pts < frames[0].pts)
}

/// At a constant rate decoding is evenly spaced, from the first frame to the last.
#[test]
fn decoding_times_are_not_bent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    let open = H264.film(30, &["-g", "15", "-bf", "3", "-x264-params", "b-pyramid=normal:open-gop=1:scenecut=0"]);
    // From an even GOP, for leading pictures that are left out are steps left out.
    let (bytes, _) = write(open.beginning_at_key(0), Form::Fragments);
    std::fs::write(&path, bytes).unwrap();
    let steps: Vec<i64> = judges::packets(&path).windows(2).map(|pair: &[Packet]| pair[1].dts - pair[0].dts).collect();
    assert!(steps.iter().all(|&step| step == 3000), "{steps:?}");
}

#[test]
fn sample_aspect_and_colour_are_in_the_header() {
    let bt709 = Colour { primaries: 1, transfer: 1, matrix: 1, full_range: false };
    let unspecified = Colour { primaries: 2, transfer: 2, matrix: 2, full_range: true };
    let colours = ["-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709"];
    let sets = "keyint=15:log-level=none:bframes=0";
    for (film, aspect, colour) in [
        (H264.film(15, &["-aspect", "16:9"]), Some((4, 3)), None),
        (H264.film(15, &[&colours[..], &["-bf", "0"]].concat()), None, Some(bt709)),
        (
            H264.film(15, &["-x264-params", "sar=10/11:fullrange=on:nal-hrd=vbr:vbv-maxrate=300:vbv-bufsize=300"]),
            Some((10, 11)),
            Some(unspecified),
        ),
        (H264.film(15, &["-bf", "0"]), None, None),
        (H265.film(15, &[&["-x265-params", &format!("{sets}:sar=1:scaling-list=default")][..], &colours].concat()), None, Some(bt709)),
        (H265.film(15, &["-x265-params", &format!("{sets}:range=full"), "-vf", "setsar=12/11"]), Some((12, 11)), Some(unspecified)),
    ] {
        let frames = film.beginning_at_key(0);
        let format = &frames[0].format;
        let found = format.usability();
        assert_eq!((found.sample_aspect, found.colour), (aspect, colour), "{format}");
        let boxes = Boxes::read(&write(frames, Form::Fragments).0);
        assert_eq!(boxes.sample_aspect(), aspect, "{format}");
        assert_eq!(boxes.colour(), colour, "{format}");
        let shown = aspect.map_or(160.0, |(wide, high)| 160.0 * f64::from(wide) / f64::from(high));
        assert!((boxes.shown_width() - shown).abs() < 0.01, "{format}");
    }
}

/// Cameras send an SPS whose optional end is cut off, or has bytes behind it.
#[test]
fn a_damaged_end_of_an_sps_costs_what_it_says_and_no_more() {
    let film = H264.film(15, &["-bf", "3", "-x264-params", "sar=10/11"]);
    let format = &film.beginning_at_key(0)[0].format;
    assert_eq!((format.usability().sample_aspect, format.usability().reordered), (Some((10, 11)), Some(2)));
    let sps = format.configuration[8..8 + usize::from(format.configuration[7])].to_vec();
    for length in 0..sps.len() {
        let avcc = crate::media::h264::configuration(&[&sps[..length], &[0; 4]].concat(), &[]).unwrap();
        let damaged = Format { codec: Codec::H264, width: 160, height: 120, configuration: avcc };
        let found = damaged.usability();
        assert!(matches!(found.reordered, None | Some(0..=16)), "{found:?}");
        assert!(length < sps.len() - 8 || found.sample_aspect == Some((10, 11)), "{length}: {found:?}");
    }
}

#[test]
fn the_header_names_device_and_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    let film = H264.film(15, &["-bf", "0"]);
    let key = &film.beginning_at_key(0)[0];
    for (device, started_at) in [("8006E5A1F0C2", Some(1_767_225_600)), ("", None), ("2042 needs 64 bits", Some(2_300_000_000))] {
        let identity = Identity { device: device.into(), started_at: started_at.map(Duration::from_secs) };
        let bytes = Mp4::begin(key.clone()).identified(identity).finish(Duration::MAX).unwrap().bytes;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(judges::title(&path), device);
        assert_eq!(Boxes::read(&bytes).created(), [started_at.map_or(0, |since_1970| since_1970 + 2_082_844_800); 3]);
    }
}

#[test]
fn another_codec_or_size_needs_another_file() {
    let frame = H264.film(15, &["-bf", "0"]).beginning_at_key(0)[0].clone();
    let other = |codec, width, height| Format { codec, width, height, configuration: Bytes::from_static(&[1]) };
    let file = Mp4::begin(frame);
    assert!(file.takes(&other(Codec::H264, 160, 120)));
    assert!(!file.takes(&other(Codec::H265, 160, 120)));
    assert!(!file.takes(&other(Codec::H264, 160, 128)));
    assert!(!file.takes(&other(Codec::H264, 176, 120)));
}

/// Sets stand in band from their first change on, before each keyframe, and never in a file without a change.
#[test]
fn parameter_sets_are_in_band_only_after_they_have_changed() {
    let one = H264.film(15, &["-g", "5", "-bf", "0", "-qp", "20"]);
    let two = H264.film(15, &["-g", "5", "-bf", "0", "-qp", "38"]);
    let sets = one.beginning_at_key(0)[0].format.parameter_sets().len();
    let whole = |frames: &[Frame]| -> usize { frames.iter().map(|frame| frame.data.len()).sum() };
    let media = |bytes: &[u8]| Boxes::read(bytes).media_bytes();
    let frames = one.beginning_at_key(0);
    assert_eq!(media(&write(frames, Form::Fragments).0), whole(frames));
    let keys = two.beginning_at_key(0).iter().filter(|frame| frame.key).count();
    let changing = one.then(two);
    let frames = changing.beginning_at_key(0);
    assert_eq!(media(&write(frames, Form::Fragments).0), whole(frames) + keys * sets);
}

#[test]
fn no_file_is_longer_than_it_may_be() {
    let film = H264.film_at(15, UNEVEN, &["-g", "600", "-bf", "3"]);
    let frames = film.beginning_at_key(0);
    for ms in [1, 100, 333, 1000, 1234] {
        let max = Duration::from_millis(ms);
        let mut file = Mp4::begin(frames[0].clone());
        for frame in frames[1..].iter().filter(|frame| frame.pts < Duration::from_millis(900)) {
            assert!(file.push(frame.clone()).is_none());
        }
        if file.finish(max).is_some() {
            assert!(file.duration() <= max, "{ms}: {:?}", file.duration());
        } else {
            assert_eq!(ms, 1, "not even one frame");
        }
    }
}

/// Of B pictures that only a later GOP has, the header of a progressive file tells before they come. Fragments cannot.
#[test]
fn a_progressive_file_of_a_stream_that_reorders_more_than_it_promised_is_exact() {
    let film = H264
        .film(15, &["-g", "15", "-bf", "0"])
        .then(H264.film(15, &["-g", "50", "-bf", "3", "-b_strategy", "0", "-x264-params", "b-pyramid=normal"]));
    let frames = film.beginning_at_key(0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    let (bytes, told) = write(frames, Form::Progressive);
    std::fs::write(&path, &bytes).unwrap();
    assert!(Boxes::read(&bytes).lead() > 0, "it begins later for what comes later");
    assert_eq!(judges::pictures(&path), (film.pictures(Duration::ZERO), String::new()));
    assert!((judges::duration(&path) - told.as_secs_f64()).abs() < 0.001);
    assert_eq!(judges::gstreamer_frames(&path, Codec::H264), frames.len());
}

/// A snapshot.
#[test]
fn a_progressive_file_of_one_frame_plays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    for film in [H264.film(15, &["-bf", "3"]), H265.film(15, &["-x265-params", "log-level=none"])] {
        let frames = &film.beginning_at_key(0)[..1];
        let mut file = Mp4::begin(frames[0].clone()).with_tables();
        let fragments = file.finish(Duration::MAX).unwrap().bytes;
        std::fs::write(&path, progressive(&file, &fragments)).unwrap();
        let (pictures, complaints) = judges::pictures(&path);
        assert_eq!((&pictures[..], complaints.as_str()), (&film.pictures(frames[0].pts)[..1], ""));
        assert_eq!(judges::gstreamer_frames(&path, film.codec()), 1);
        assert!((judges::duration(&path) - file.duration().as_secs_f64()).abs() < 0.001);
    }
}

#[test]
fn a_file_of_too_many_frames_keeps_its_fragments_and_nothing_of_its_tables() {
    let frame = H264.film(15, &["-bf", "0"]).beginning_at_key(0)[0].clone();
    let mut file = Mp4::begin(frame.clone()).with_tables();
    for n in 1..=32 * 1024_u32 {
        file.push(Frame { pts: frame.pts + n * Duration::from_millis(1), ..frame.clone() });
    }
    assert!(file.progressive().is_some(), "the last one waits");
    file.finish(Duration::MAX);
    assert_eq!(file.progressive(), None);
    assert!(Mp4::begin(frame).progressive().is_none(), "none were kept");
}
