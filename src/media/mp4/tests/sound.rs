//! Files with sound: each unit is where it was heard, and every player decodes it as it was.

use super::*;
use crate::media::{
    sound::{Sound, SoundFormat, Waiting},
    tests::scripted,
};

/// Puts sound beside frames that are given in decoding order. Its first unit begins so long after the first frame is shown; `before`
/// it as many units are heard before that frame.
fn with_sound(frames: &[Frame], (format, units): &(Arc<SoundFormat>, Vec<Bytes>), after: Duration, before: usize) -> Vec<Frame> {
    let begins = frames[0].pts + after;
    let mut waiting = Waiting::default();
    for (n, data) in units.iter().enumerate() {
        let place = |n: usize| Duration::from_nanos(n as u64 * 1_000_000_000 * u64::from(format.samples) / u64::from(format.rate));
        let pts = if n < before { begins.saturating_sub(place(before - n)) } else { begins + place(n - before) };
        assert_eq!(waiting.push(format, Sound { pts, data: data.clone() }), 0);
    }
    let mut heard: Vec<Frame> = frames.iter().map(|frame| Frame { sound: waiting.until(frame.pts), ..frame.clone() }).collect();
    // What a frame after the last one would bring.
    let rest = waiting.until(Duration::MAX).unwrap();
    heard.last_mut().unwrap().sound.as_mut().unwrap().units.extend(rest.units);
    heard
}

fn samples(format: &SoundFormat, time: Duration) -> i64 {
    (time.as_secs_f64() * f64::from(format.rate)).round() as i64
}

#[test]
fn sound_is_heard_where_it_was_and_decoded_as_it_was_by_every_player() {
    let dir = tempfile::tempdir().unwrap();
    let mut for_chromium = Vec::new();
    let open = ["-g", "15", "-bf", "3", "-x264-params", "b-pyramid=normal:open-gop=1:scenecut=0"];
    for (n, (name, film, rate, channels, after)) in [
        ("16 kHz mono", H264.film(15, &["-g", "15", "-bf", "0"]), 16_000, 1, 0),
        ("8 kHz mono, later", H264.film(15, &["-g", "15", "-bf", "0"]), 8000, 1, 437),
        ("48 kHz stereo, reordered pictures", H264.film(30, &open), 48_000, 2, 10),
        ("H.265", H265.film(15, &["-x265-params", "log-level=none:keyint=15:bframes=0"]), 44_100, 1, 33),
    ]
    .into_iter()
    .enumerate()
    {
        let film_frames = film.beginning_at_key(0);
        let tone = scripted::tone(rate, channels, 5);
        let (format, after) = (tone.0.clone(), Duration::from_millis(after));
        let frames = with_sound(film_frames, &tone, after, 0);
        let source = dir.path().join(format!("{n}-whole.mp4"));
        for form in FORMS {
            let (bytes, told) = write(&frames, form);
            let path = dir.path().join(format!("{n}-{form:?}.mp4"));
            std::fs::write(&path, &bytes).unwrap();

            let units = Boxes::read(&bytes).heard();
            assert_eq!(judges::units(&path), units.iter().map(|(at, _)| *at).collect::<Vec<_>>(), "{name}");
            let (first, length) = (samples(&format, after), i64::from(format.samples));
            let end = samples(&format, told);
            // As much as fits beside the frames.
            let fits = (end - first + length - 1) / length;
            let expected: Vec<_> = (0..fits).map(|n| first + n * length).map(|at| (at, length.min(end - at))).collect();
            assert_eq!(units.len(), expected.len(), "{name}");
            assert!(units.iter().zip(&expected).all(|(found, expected)| (found.0 - expected.0).abs() <= 1), "{name}: {units:?}");
            let lasts = |units: &[(i64, i64)]| units.iter().map(|(_, lasts)| lasts).sum::<i64>();
            assert!((lasts(&units) - lasts(&expected)).abs() <= 1, "{name}: {units:?}");
            let seconds = judges::duration(&path);
            assert!((seconds - told.as_secs_f64()).abs() < 0.001, "{name}: {seconds} s, told {told:?}; {:?}", units.last());

            // The frames are what they are without sound.
            let silent = write(film_frames, form);
            std::fs::write(&source, &silent.0).unwrap();
            assert_eq!(silent.1, told, "{name}");
            let times = |path| judges::packets(path).iter().map(|packet| (packet.pts, packet.dts)).collect::<Vec<_>>();
            assert_eq!(times(&path), times(&source), "{name}");
            assert_eq!(judges::pictures(&path), judges::pictures(&source), "{name}");
            assert_eq!(judges::gstreamer_frames(&path, film.codec()), film_frames.len(), "{name}");

            let (heard, complaints) = judges::heard(&path);
            assert_eq!(complaints, "", "{name}");
            assert_eq!(heard.len(), units.len(), "{name}");
            let whole = heard.len() - 1;
            assert_eq!(heard[..whole], digests(dir.path(), &tone)[..whole], "{name}");
            let least = whole * usize::from(format.samples) * usize::from(channels) * 2;
            let decoded = judges::gstreamer_sound(&path);
            assert!(decoded >= least, "{name}: GStreamer decodes {decoded} of {least} bytes");

            let boxes = Boxes::read(&bytes);
            assert_eq!(boxes.sound(), Some((rate as u16, channels.into(), format.configuration.to_vec())), "{name}");
            assert_eq!(Boxes::read(&silent.0).sound(), None, "{name}");
            if form != Form::Card && film.codec() == Codec::H264 {
                for_chromium.push((name, path, told));
            }
            if form == Form::Progressive {
                let data: Vec<&[u8]> = tone.1[..units.len()].iter().map(|unit| &unit[..]).collect();
                assert_eq!(boxes.samples(1, &bytes), data, "{name}");
                assert_eq!(boxes.durations(), [told; 2], "{name}");
            }
        }
    }
    let decoded = chromium::plays(&for_chromium);
    assert!(decoded.iter().all(|bytes| *bytes > 0.0), "Chromium decodes no sound: {decoded:?}");
}

/// What ffmpeg makes of a tone that is in no file of ours.
fn digests(dir: &std::path::Path, (format, units): &(Arc<SoundFormat>, Vec<Bytes>)) -> Vec<String> {
    let path = dir.join("tone.aac");
    let adts = |data: &Bytes| {
        let length = data.len() + 7;
        let index = (format.configuration[0] & 7) << 1 | format.configuration[1] >> 7;
        let channels = format.channels;
        let header = [
            0xFF,
            0xF1,
            1 << 6 | index << 2 | channels >> 2,
            channels << 6 | (length >> 11) as u8,
            (length >> 3) as u8,
            (length << 5) as u8 | 0x1F,
            0xFC,
        ];
        [&header[..], data].concat()
    };
    std::fs::write(&path, units.iter().flat_map(adts).collect::<Vec<u8>>()).unwrap();
    judges::heard(&path).0
}

#[test]
fn sound_from_before_the_first_frame_is_not_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    let film = H264.film(15, &["-g", "15", "-bf", "0"]);
    let tone = scripted::tone(16_000, 1, 5);
    let later: Vec<Frame> = film.beginning_at_key(1).to_vec();
    let frames = with_sound(&later, &tone, Duration::from_millis(20), 9);
    assert_eq!(frames[0].sound.as_ref().unwrap().units.len(), 9, "they travel with the first frame");
    for form in FORMS {
        std::fs::write(&path, write(&frames, form).0).unwrap();
        assert_eq!(judges::units(&path)[0], 320, "{form:?}");
    }
}

/// A camera that pauses its sound, and frames that come while it is away.
#[test]
fn a_hole_in_the_sound_stays_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    let film = H264.film(15, &["-g", "15", "-bf", "0"]);
    let mut frames = with_sound(film.beginning_at_key(0), &scripted::tone(16_000, 1, 5), Duration::ZERO, 0);
    for frame in &mut frames {
        frame.sound.as_mut().unwrap().units.retain(|unit| !(640..1920).contains(&unit.pts.as_millis()));
    }
    for form in FORMS {
        std::fs::write(&path, write(&frames, form).0).unwrap();
        assert_eq!(judges::units(&path)[..11], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 30].map(|n| n * 1024), "{form:?}");
        assert_eq!(judges::heard(&path).1, "", "{form:?}");
    }
}

#[test]
fn no_file_is_longer_than_it_may_be_with_sound() {
    let film = H264.film(15, &["-g", "600", "-bf", "0"]);
    let frames = with_sound(film.beginning_at_key(0), &scripted::tone(8000, 1, 5), Duration::ZERO, 0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    for ms in [100, 333, 1000, 1234, 2500] {
        let max = Duration::from_millis(ms);
        let (mut file, mut bytes) = (Mp4::begin(frames[0].clone()).with_tables(), Vec::new());
        for frame in &frames[1..] {
            if file.reach(frame) > max {
                file.hear(frame);
                break;
            }
            bytes.extend(file.push(frame.clone()).into_iter().flat_map(|fragment| fragment.bytes));
        }
        bytes.extend(file.finish(max).into_iter().flat_map(|fragment| fragment.bytes));
        let whole = progressive(&file, &bytes);
        for bytes in [bytes, whole] {
            std::fs::write(&path, &bytes).unwrap();
            let (seconds, told) = (judges::duration(&path), file.duration().as_secs_f64());
            assert!(seconds <= max.as_secs_f64() + 0.0005 && (seconds - told).abs() < 0.001, "{ms}: {seconds} s, told {told} s");
            let heard: i64 = Boxes::read(&bytes).heard().iter().map(|(_, lasts)| lasts).sum();
            assert!((heard as f64 / 8000.0 - told).abs() < 0.001, "{ms}: {heard} samples in {told} s");
        }
    }
}

/// A session's first file begins before its first sound has come.
#[test]
fn sound_that_begins_within_the_first_fragment_has_a_track() {
    let film = H264.film(15, &["-g", "15", "-bf", "0"]);
    let frames = with_sound(film.beginning_at_key(0), &scripted::tone(16_000, 1, 5), Duration::ZERO, 0);
    let cases = [(5, Some(48)), (14, Some(39)), (20, None)];
    for (form, (silent, units)) in [Form::Fragments, Form::Progressive].iter().flat_map(|form| cases.map(|case| (*form, case))) {
        let late: Vec<Frame> = frames
            .iter()
            .enumerate()
            .map(|(n, frame)| Frame { sound: frame.sound.clone().filter(|_| n >= silent), ..frame.clone() })
            .collect();
        let boxes = Boxes::read(&write(&late, form).0);
        assert_eq!(boxes.sound().map(|_| boxes.heard().len()), units, "{silent} frames without sound");
    }
}
