//! Frames written as MP4: ffprobe decodes them and finds nothing wrong.

use super::*;
use crate::media::mp4::Mp4;

/// Codec name, width, height, frames, and what the decoder complained of.
fn probe(frames: &[Frame]) -> (String, String) {
    let mut file = Mp4::begin(frames[0].clone());
    let mut bytes = Vec::new();
    for frame in &frames[1..] {
        if let Some(fragment) = file.push(frame.clone()) {
            bytes.extend_from_slice(&fragment.bytes);
        }
    }
    bytes.extend_from_slice(&file.finish(Duration::MAX).unwrap().bytes);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    std::fs::write(&path, bytes).unwrap();
    let probed = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-count_frames",
            "-show_entries",
            "stream=codec_name,codec_tag_string,width,height,nb_read_frames",
            "-of",
            "csv=p=0",
        ])
        .arg(&path)
        .output()
        .unwrap();
    (String::from_utf8(probed.stdout).unwrap().trim().to_owned(), String::from_utf8(probed.stderr).unwrap())
}

#[test]
fn files_of_both_codecs_play() {
    let h265 = |more: &str| film(Codec::H265, 45, &["-s", "638x358", "-x265-params", &x265(more)]);
    for (codec, units, expected) in [
        (Codec::H264, h264(45), "h264,avc1,320,240,45"),
        (Codec::H264, film(Codec::H264, 45, &["-s", "638x358", "-g", "15", "-bf", "0"]), "h264,avc1,638,358,45"),
        (Codec::H264, film(Codec::H264, 45, &["-g", "15", "-bf", "0", "-flags", "+ildct+ilme"]), "h264,avc1,320,240,45"),
        (Codec::H265, h265("bframes=0:open-gop=0"), "hevc,hvc1,638,358,45"),
        (Codec::H265, h265("bframes=0:open-gop=0:slices=2"), "hevc,hvc1,638,358,45"),
        (Codec::H265, h265("bframes=0:open-gop=0:temporal-layers=1"), "hevc,hvc1,638,358,45"),
    ] {
        let received = receive(codec, packets(codec, &units));
        assert_whole(codec, &units, &received);
        assert_eq!(probe(&received.frames), (expected.into(), String::new()));
    }
}

#[test]
fn other_bit_depths_and_samplings_are_described_and_play() {
    for (options, said, probed) in [
        (&["-pix_fmt", "yuv420p10"][..], "320x240 H.265 Main 10", "hevc,hvc1,320,240,15"),
        (&["-pix_fmt", "yuv422p"], "320x240 H.265 Range Extensions", "hevc,hvc1,320,240,15"),
        (&["-pix_fmt", "yuv420p"], "320x240 H.265 Main", "hevc,hvc1,320,240,15"),
    ] {
        let params = x265("bframes=0:open-gop=0");
        let units = film(Codec::H265, 15, &[options, &["-x265-params", &params]].concat());
        let received = receive(Codec::H265, packets(Codec::H265, &units));
        assert_eq!(received.frames[0].format.to_string(), said);
        assert_eq!(probe(&received.frames), (probed.into(), String::new()));
    }
}
