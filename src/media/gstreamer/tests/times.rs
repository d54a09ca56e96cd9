//! Times that are missing or wrong: every frame is recorded, and shown in order.

use std::thread;

use super::{
    pipeline::{AVC_UNITS, Fed, HEVC_UNITS, Piece, Received, feed, film},
    *,
};
use crate::media::frame::Codec;

/// Frames whose n-th has this time in milliseconds.
fn with_times(codec: Codec, units: &[Vec<u8>], time: impl Fn(u64) -> Option<u64>) -> Received {
    let caps = if codec == Codec::H264 { AVC_UNITS } else { HEVC_UNITS };
    feed(Some(caps), (0..).zip(units).map(|(n, unit)| Piece::at(unit, time(n))))
}

/// Times of a test's frames, by their number.
type Time = fn(u64) -> Option<u64>;

#[test]
fn every_frame_is_recorded_and_none_goes_back_whatever_the_times_are() {
    let cases: [(&str, Time); 9] = [
        ("none", |_| None),
        ("every third is missing", |n| (n % 3 != 0).then_some(n * 66)),
        ("only keyframes have one", |n| (n % 15 == 0).then_some(n * 66)),
        ("only the first has one", |n| (n == 0).then_some(5_000)),
        ("all equal", |_| Some(7_000)),
        ("equal in pairs", |n| Some(n / 2 * 133)),
        ("back to zero in the middle", |n| Some(n % 20 * 66)),
        ("each before the last", |n| Some(100_000 - n * 66)),
        ("an hour ahead in the middle", |n| Some(n * 66 + n / 20 * 3_600_000)),
    ];
    for (codec, units) in [
        (Codec::H264, film(Codec::H264, 45, &["-g", "15", "-bf", "0"])),
        (Codec::H265, film(Codec::H265, 45, &["-x265-params", "aud=1:keyint=15:bframes=0:log-level=none"])),
    ] {
        for (what, time) in cases {
            let began = Instant::now();
            let received = with_times(codec, &units, time);
            assert_eq!((received.frames.len(), received.dropped, received.told), (45, 0, None), "{what}");
            let shown: Vec<Duration> = received.frames.iter().map(|frame| frame.pts).collect();
            assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "{what}: {shown:?}");
            assert!(shown[44] < began.elapsed() + Duration::from_secs(10), "{what}: {:?} is far from arrival", shown[44]);
        }
    }
}

/// A busy processor hands over the first frames late and then all at once.
#[test]
fn frames_that_come_late_are_shown_at_their_times() {
    let units = film(Codec::H264, 45, &["-g", "15", "-bf", "0"]);
    let fed = Fed::new(Some(AVC_UNITS));
    for (n, unit) in (0..).zip(&units) {
        if n == 5 {
            thread::sleep(Duration::from_millis(800));
        }
        fed.push(&Piece::at(unit, Some(n * 40)));
    }
    let received = fed.received();
    assert!((0..).zip(&received.frames).all(|(n, frame)| frame.pts == Duration::from_millis(40) * n));
}

#[test]
fn right_times_are_kept_and_b_pictures_are_shown_in_their_order() {
    let units = film(Codec::H264, 45, &["-g", "15", "-bf", "0"]);
    let received = with_times(Codec::H264, &units, |n| Some(1_000 + n * 40));
    assert!((0..).zip(&received.frames).all(|(n, frame)| frame.pts == Duration::from_millis(40) * n), "from the first");
    // Decoded as I P B P B: shown as 0 2 1 4 3.
    let units = film(Codec::H264, 30, &["-x264-params", "keyint=30:bframes=1:b-adapt=0:scenecut=0:b-pyramid=0"]);
    let order = |n: u64| if n == 0 { 0 } else { n + 1 - 2 * ((n + 1) % 2) };
    let received = with_times(Codec::H264, &units[..29], |n| Some(order(n) * 40));
    assert_eq!((received.frames.len(), received.dropped), (29, 0));
    let shown: Vec<u64> = received.frames.iter().map(|frame| frame.pts.as_millis() as u64 / 40).collect();
    assert_eq!(shown, (0..29).map(order).collect::<Vec<_>>());
}

/// The first B pictures of x265 are decoded behind one that is five pictures ahead of the first: that is no leap of the clock, and
/// they refer to nothing before it.
#[test]
fn the_first_b_pictures_of_a_deep_pyramid_are_shown_at_their_times() {
    let options = ["-x265-params", "aud=1:keyint=30:min-keyint=30:scenecut=0:bframes=4:b-adapt=0:b-pyramid=1:open-gop=0:log-level=none"];
    let units = film(Codec::H265, 30, &options);
    // Decoded as 0 5 3 1 2 4 10 8 6 7 9.
    let order = |n: u64| if n == 0 { 0 } else { (n - 1) / 5 * 5 + [5, 3, 1, 2, 4][(n as usize - 1) % 5] };
    let fed = Fed::new(Some(HEVC_UNITS));
    for (n, unit) in (0..).zip(&units[..26]) {
        fed.push(&Piece::at(unit, Some(1_000 + order(n) * 66)));
    }
    let received = fed.received();
    assert_eq!((received.frames.len(), received.dropped, received.told), (26, 0, None));
    assert!((0..).zip(&received.frames).all(|(n, frame)| frame.pts.as_millis() == u128::from(order(n) * 66)), "as they are to be shown");
}
