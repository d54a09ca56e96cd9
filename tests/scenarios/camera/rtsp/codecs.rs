//! H.265, and streams that decoders find harder: several slices, B pictures, parameter sets only in the SDP or only in
//! the stream.

use care_tests::{
    build::Build,
    filming::{Kind, assert_has, clip_of, film_all},
    in_each_build,
};
use rtsp_camera::{Codec, Sprop};

use super::{PATIENCE, avc, h264, h265, hevc};

in_each_build!(s102_an_h265_camera_is_filmed);

async fn s102_an_h265_camera_is_filmed(build: Build) {
    let plain = h265(|_| {});
    let clip = async {
        let clip = clip_of(build, "H.265", plain.clone()).await;
        assert_eq!(clip.codec, "hevc");
    };
    tokio::join!(film_all(build, PATIENCE, vec![Kind::new("H.265", plain.clone())]), clip);
}

#[tokio::test]
async fn every_form_of_h265_is_filmed() {
    const CRA: u8 = 21;
    let open = hevc("open.h265", "open-gop=1:bframes=0");
    assert_has(&open, Codec::H265, &[CRA]);
    let kinds = vec![
        Kind::new("CRA pictures", h265(|camera| camera.file = open)),
        Kind::new("parameter sets only in the stream", h265(|camera| camera.sprop = Sprop::Absent)),
        Kind::new("parameter sets only in the SDP", h265(|camera| camera.strip_parameter_sets = true)),
        Kind::new("garbage in the SDP", h265(|camera| camera.sprop = Sprop::Garbage)),
        Kind::new("four slices", h265(|camera| camera.file = hevc("slices.h265", "open-gop=0:bframes=0:slices=4"))),
        Kind::new("B pictures", h265(|camera| camera.file = hevc("b.h265", "open-gop=0:bframes=2:b-pyramid=0:b-adapt=0"))),
        Kind::new("over UDP", h265(|camera| camera.transports = rtsp_camera::Transports::Udp)),
        Kind::new("ten times too fast", h265(|camera| camera.clock = rtsp_camera::Clock::Rate(10.0))),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}

#[tokio::test]
async fn parameter_sets_slices_and_b_pictures_of_h264_cost_no_frame() {
    let small = avc("small.h264", &["-bf", "0", "-vf", "scale=160:90"]);
    let kinds = vec![
        Kind::new("no parameter sets in the SDP", h264(|camera| camera.sprop = Sprop::Absent)),
        Kind::new("parameter sets only in the SDP", h264(|camera| camera.strip_parameter_sets = true)),
        Kind::new("garbage in the SDP", h264(|camera| camera.sprop = Sprop::Garbage)),
        Kind::new("no base64 in the SDP", h264(|camera| camera.sprop = Sprop::Unreadable)),
        Kind::new("B pictures", h264(|camera| camera.file = avc("b.h264", &["-bf", "2", "-x264-params", "b-pyramid=none:b-adapt=0"]))),
        Kind::new("another picture size after 2 s", h264(|camera| camera.changes = vec![(2.0, small.clone())])),
        Kind::new("another and back", h264(|camera| camera.changes = vec![(1.0, small), (2.6, camera.file.clone())])),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}
