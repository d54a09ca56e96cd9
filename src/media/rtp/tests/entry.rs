//! Where decoding may begin, and what it needs.

use super::*;
use crate::media::h264::{SliceStart, recovery_point};

#[test]
fn a_plain_i_picture_is_no_entry_point() {
    // Every ten pictures the scene changes: x264 codes an I picture, and an IDR picture from the 21st on.
    let cuts = ["-vf", "negate=enable='lt(mod(n\\,20)\\,10)'", "-x264-params", "keyint=40:min-keyint=21:bframes=0"];
    let units = film(Codec::H264, 40, &cuts);
    let is_plain = |nal: &Vec<u8>| kind(Codec::H264, nal) == 1 && SliceStart::parse(nal).is_some_and(|slice| slice.kind == 2);
    assert_eq!((0..40).filter(|&n| units[n].iter().any(is_plain)).collect::<Vec<_>>(), [10, 20]);
    let received = receive(Codec::H264, packets(Codec::H264, &units));
    assert_whole(Codec::H264, &units, &received);
    assert_eq!((0..40).filter(|&n| received.frames[n].key).collect::<Vec<_>>(), [0, 30]);
    let sets = units[0].iter().filter(|nal| is_set(Codec::H264, nal)).cloned().map(Bytes::from).collect();
    let late = receive_with(Codec::H264, sets, packets(Codec::H264, &units[5..].to_vec()));
    assert_eq!((late.frames.len(), late.lost_for(reason::NOT_BEGUN)), (10, 25));
}

#[test]
fn a_recovery_point_is_an_entry_point_and_its_leading_pictures_are_left_out() {
    let units = film(Codec::H264, 60, &["-x264-params", "open-gop=1:keyint=15:min-keyint=15:scenecut=0:bframes=3:b-adapt=0"]);
    let is_entry = |unit: &Vec<Vec<u8>>| unit.iter().any(|nal| nal[0] & 31 == 5 || recovery_point(nal_of(nal, 6)) == Some(0));
    let entries: Vec<usize> = (0..60).filter(|&n| is_entry(&units[n])).collect();
    assert!(entries.len() >= 3, "{entries:?}");
    let all = receive_sent(Codec::H264, &units, 0);
    assert_eq!((0..60).filter(|&n| all.frames[n].key).collect::<Vec<_>>(), entries);
    // Begun in the middle of the first GOP.
    let late = receive_sent(Codec::H264, &units, 5);
    assert_eq!(late.lost_for(reason::NOT_BEGUN), entries[1] as u64 - 5);
    let leading = late.lost_for(reason::LEADING);
    assert!(leading > 0 && leading <= 3, "{:?}", late.lost);
    assert_eq!(late.frames.len() as u64, 60 - entries[1] as u64 - leading);
    assert!(late.frames[0].key && late.frames.iter().all(|frame| frame.pts >= late.frames[0].pts));
}

fn nal_of(nal: &[u8], kind: u8) -> &[u8] {
    if nal[0] & 31 == kind { nal } else { &[] }
}

/// The packets from this access unit on, with RTP times in the order of presentation, as encoders' pictures have them.
fn receive_sent(codec: Codec, units: &Units, from: usize) -> Received {
    let order = presentation(codec, units);
    let began = Instant::now();
    let mut sent = packets(codec, units);
    for packet in &mut sent {
        let n = packet.timestamp.wrapping_sub(4_000_000_000) / TICKS;
        packet.timestamp = order[n as usize] * TICKS;
        packet.received = began + Duration::from_secs(1) * n / FPS;
    }
    let skipped: usize = units[..from].iter().flatten().map(|nal| fragments(codec, nal, 1000).len()).sum();
    let sets = units[0].iter().filter(|nal| is_set(codec, nal)).cloned().map(Bytes::from).collect();
    receive_with(codec, sets, sent.split_off(skipped))
}

/// The place of each access unit in the order of presentation, by ffprobe.
fn presentation(codec: Codec, units: &Units) -> Vec<u32> {
    let dir = tempfile::tempdir().unwrap();
    let stream = dir.path().join("a.bin");
    let bytes: Vec<u8> = units.iter().flatten().flat_map(|nal| [&[0, 0, 0, 1], &nal[..]].concat()).collect();
    std::fs::write(&stream, bytes).unwrap();
    let format = if codec == Codec::H264 { "h264" } else { "hevc" };
    let made = Command::new("ffprobe")
        .args(["-v", "error", "-f", format, "-show_entries", "frame=pkt_pos", "-of", "csv=p=0"])
        .arg(&stream)
        .output()
        .unwrap();
    let text = String::from_utf8(made.stdout).unwrap();
    // Frames come in the order of presentation; each names where its packet stood in the stream.
    let mut positions: Vec<(u64, u32)> = (0..)
        .zip(text.lines().filter(|line| !line.is_empty()))
        .map(|(n, line)| (line.split(',').find_map(|field| field.parse().ok()).unwrap(), n))
        .collect();
    assert_eq!(positions.len(), units.len(), "{text}");
    positions.sort_unstable();
    positions.into_iter().map(|(_, shown)| shown).collect()
}

#[test]
fn leading_pictures_of_a_cra_are_left_out_only_where_decoding_begins() {
    let units = film(Codec::H265, 60, &["-x265-params", &x265("bframes=3:b-adapt=0:open-gop=1")]);
    let kinds = |unit: &Vec<Vec<u8>>| unit.iter().find(|nal| is_slice(Codec::H265, nal)).map(|nal| kind(Codec::H265, nal)).unwrap();
    let cra: Vec<usize> = (1..60).filter(|&n| kinds(&units[n]) == 21).collect();
    let rasl = (0..60).filter(|&n| matches!(kinds(&units[n]), 8 | 9)).count();
    assert!(cra.len() >= 2 && rasl > 0, "{cra:?} {rasl}");
    let all = receive_sent(Codec::H265, &units, 0);
    assert_eq!((all.frames.len(), all.lost()), (60, 0));
    let late = receive_sent(Codec::H265, &units, 5);
    let here = (cra[0]..cra[1]).filter(|&n| matches!(kinds(&units[n]), 8 | 9)).count();
    assert_eq!(late.lost_for(reason::LEADING), here as u64, "only after the one where it began");
    assert_eq!(late.frames.len(), 60 - cra[0] - here);
}

/// Gradual refresh has no other entry points.
#[test]
fn a_stream_of_gradual_refreshes_begins_at_a_recovery_point() {
    let units = film(Codec::H264, 60, &["-x264-params", "intra-refresh=1:keyint=20:bframes=0"]);
    let late = receive(Codec::H264, packets(Codec::H264, &units[10..].to_vec()));
    assert!(late.frames.len() >= 30, "{:?}", late.lost);
    assert!(late.frames[0].key);
}

#[test]
fn parameter_sets_come_from_the_sdp_or_in_band_and_may_change() {
    for (codec, small, large) in [
        (Codec::H264, h264(15), film(Codec::H264, 15, &["-g", "15", "-bf", "0", "-s", "640x360", "-qp", "30"])),
        (Codec::H265, h265(15), film(Codec::H265, 15, &["-s", "640x360", "-x265-params", &x265("bframes=0:open-gop=0:qp=30")])),
    ] {
        let sets: Vec<Bytes> = small[0].iter().filter(|nal| is_set(codec, nal)).cloned().map(Bytes::from).collect();
        assert!(sets.len() >= 2);
        let bare: Units = small.iter().map(|unit| unit.iter().filter(|nal| !is_set(codec, nal)).cloned().collect()).collect();
        let received = receive_with(codec, sets.clone(), packets(codec, &bare));
        assert_whole(codec, &bare, &received);
        // As a byte stream in the SDP.
        let stream: Vec<u8> = sets.iter().flat_map(|set| [&[0, 0, 0, 1], &set[..]].concat()).collect();
        assert_whole(codec, &bare, &receive_with(codec, vec![stream.into()], packets(codec, &bare)));
        // None at all: said, and counted.
        let none = receive(codec, packets(codec, &bare));
        assert_eq!((none.frames.len(), none.lost_for(reason::NO_PARAMETER_SETS)), (0, 15));
        // Another size in mid-stream, and back.
        let changing: Units = small.iter().chain(&large).chain(&small).cloned().collect();
        let received = receive(codec, packets(codec, &changing));
        assert_whole(codec, &changing, &received);
        let widths: Vec<u16> = [0, 14, 15, 29, 30].iter().map(|&n| received.frames[n].format.width).collect();
        assert_eq!(widths, [320, 320, 640, 640, 320]);
        assert!(Arc::ptr_eq(&received.frames[15].format, &received.frames[29].format));
        // Others in the SDP than in band: those in band count.
        let received = receive_with(codec, sets, packets(codec, &large));
        assert_eq!((received.frames.len(), received.frames[0].format.width), (15, 640));
    }
}
