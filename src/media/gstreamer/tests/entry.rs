//! Where decoding may begin: by NAL units, never by GStreamer's flags.

use gstreamer as gst;

use super::pipeline::{AVC_UNITS, Piece, feed, feed_units, film, nal_type, nals};
use crate::media::{frame::Codec, h264};

fn keys(frames: &[crate::media::Frame]) -> Vec<usize> {
    frames.iter().enumerate().filter(|(_, frame)| frame.key).map(|(n, _)| n).collect()
}

/// The picture in an access unit: the type of its first slice's NAL unit.
fn slice_type(codec: Codec, unit: &[u8]) -> u8 {
    let is_slice = |kind: &u8| if codec == Codec::H264 { matches!(kind, 1 | 5) } else { *kind < 32 };
    nals(unit).iter().map(|nal| nal_type(codec, nal)).find(is_slice).unwrap()
}

/// What comes to someone who joins at the n-th access unit and knows the parameter sets.
fn joined(codec: Codec, units: &[Vec<u8>], n: usize) -> Vec<Vec<u8>> {
    let is_set = |nal: &&Vec<u8>| matches!((codec, nal_type(codec, nal)), (Codec::H264, 7 | 8) | (Codec::H265, 32..=34));
    let sets: Vec<u8> = nals(&units[0]).iter().filter(is_set).flat_map(|nal| [&[0, 0, 1], &nal[..]].concat()).collect();
    let mut late = units[n..].to_vec();
    late[0].splice(0..0, sets);
    late
}

fn is_plain_i(unit: &[u8]) -> bool {
    nals(unit).iter().any(|nal| nal_type(Codec::H264, nal) == 1 && h264::SliceStart::parse(nal).is_some_and(|slice| slice.kind == 2))
}

#[test]
fn plain_i_pictures_begin_nothing_and_flags_do_not_matter() {
    // Every ten pictures the scene changes: x264 codes an I picture, and an IDR picture from the 21st on.
    let cuts = ["-vf", "negate=enable='lt(mod(n\\,20)\\,10)'", "-x264-params", "keyint=40:min-keyint=21:bframes=0"];
    let units = film(Codec::H264, 40, &cuts);
    assert_eq!((0..40).filter(|&n| is_plain_i(&units[n])).collect::<Vec<_>>(), [10, 20]);
    for flags in [gst::BufferFlags::empty(), gst::BufferFlags::DELTA_UNIT] {
        let flagged =
            |units: &[Vec<u8>]| feed(Some(AVC_UNITS), (0..).zip(units).map(|(n, unit)| Piece { flags, ..Piece::at(unit, Some(n * 66)) }));
        assert_eq!(keys(&flagged(&units).frames), [0, 30], "{flags:?}");
        let late = flagged(&joined(Codec::H264, &units, 5));
        assert_eq!((late.frames.len(), late.dropped), (10, 25));
        assert!(late.frames[0].key);
        assert!(late.told.unwrap().contains("25 that came before the first keyframe"));
    }
}

#[test]
fn an_open_gop_begins_at_its_recovery_point() {
    let units = film(Codec::H264, 60, &["-x264-params", "open-gop=1:keyint=15:min-keyint=15:scenecut=0:bframes=3:b-adapt=0"]);
    let i_pictures: Vec<usize> = (1..60).filter(|&n| is_plain_i(&units[n])).collect();
    assert!(i_pictures.len() >= 2);
    let late = feed_units(Codec::H264, &joined(Codec::H264, &units, 5));
    assert!(late.frames[0].key && late.told.unwrap().contains("before the first keyframe"));
    assert_eq!((late.dropped, late.frames.len()), (i_pictures[0] as u64 - 5, 60 - i_pictures[0]));
}

/// No IDR picture but the first.
#[test]
fn gradual_refresh_begins_at_a_recovery_point() {
    let units = film(Codec::H264, 80, &["-x264-params", "intra-refresh=1:keyint=20:bframes=0"]);
    assert!((1..80).all(|n| slice_type(Codec::H264, &units[n]) != 5));
    let late = feed_units(Codec::H264, &joined(Codec::H264, &units, 10));
    assert!(late.frames.len() >= 40, "{} frames, {:?}", late.frames.len(), late.told);
    assert!(late.frames[0].key && keys(&late.frames).len() >= 2, "{:?}", keys(&late.frames));
}

/// x265 announces none, other encoders do: here before every twentieth picture, exact 19 pictures later.
#[test]
fn gradual_refresh_of_h265_begins_at_a_recovery_point() {
    const RECOVERY_POINT: [u8; 10] = [0, 0, 1, 0x4E, 0x01, 6, 2, 0x04, 0xD4, 0x80];
    let mut units = film(Codec::H265, 80, &["-x265-params", "aud=1:intra-refresh=1:keyint=20:bframes=0:log-level=none"]);
    assert!((1..80).all(|n| !(16..=21).contains(&slice_type(Codec::H265, &units[n]))));
    let silent = feed_units(Codec::H265, &joined(Codec::H265, &units, 10));
    assert_eq!((silent.frames.len(), silent.dropped), (0, 70));
    assert!(silent.told.unwrap().contains("70 that came before the first keyframe"));
    for n in [20, 40, 60] {
        units[n].splice(0..0, RECOVERY_POINT);
    }
    let late = feed_units(Codec::H265, &joined(Codec::H265, &units, 10));
    assert_eq!((keys(&late.frames), late.frames.len(), late.dropped), (vec![0, 20, 40], 60, 10));
}

#[test]
fn leading_pictures_of_a_cra_are_left_out_where_decoding_begins() {
    let options = "aud=1:keyint=15:min-keyint=15:scenecut=0:bframes=3:b-adapt=0:open-gop=1:log-level=none";
    let units = film(Codec::H265, 60, &["-x265-params", options]);
    let kind = |n: usize| slice_type(Codec::H265, &units[n]);
    let cra: Vec<usize> = (1..60).filter(|&n| kind(n) == 21).collect();
    let leading = (cra[0]..cra[1]).filter(|&n| matches!(kind(n), 8 | 9)).count();
    assert!(leading > 0);
    assert_eq!(feed_units(Codec::H265, &units).frames.len(), 60);
    let late = feed_units(Codec::H265, &joined(Codec::H265, &units, 5));
    assert_eq!(late.frames.len(), 60 - cra[0] - leading);
    assert!(late.told.unwrap().contains(&format!("{leading} that refer to pictures before the first keyframe")));
}
