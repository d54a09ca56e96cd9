//! Frames are divided by their own structure, never by the RTP marker alone: cameras set it on SEI, on each packet, or
//! never.

use care_tests::{
    build::Build,
    filming::{Kind, clip_of, film_all},
    in_each_build,
};
use rtsp_camera::Marker;

use super::{PATIENCE, avc, h264, h265};

in_each_build!(a_marker_on_sei_and_on_each_nal_unit_costs_no_frame);

async fn a_marker_on_sei_and_on_each_nal_unit_costs_no_frame(build: Build) {
    let sei = h264(|camera| (camera.sei, camera.marker) = (true, Marker::Sei));
    let each_nal = h264(|camera| (camera.sei, camera.marker) = (true, Marker::EachNal));
    let kinds = vec![Kind::new("SEI", sei.clone()), Kind::new("each NAL unit", each_nal)];
    tokio::join!(film_all(build, PATIENCE, kinds), clip_of(build, "SEI", sei));
}

#[tokio::test]
async fn markers_anywhere_or_nowhere_cost_no_frame() {
    let marked = |marker| h264(|camera| camera.marker = marker);
    let slices = |marker| {
        h264(|camera| {
            camera.file = avc("slices.h264", &["-bf", "0", "-slices", "4"]);
            camera.marker = marker;
        })
    };
    let kinds = vec![
        Kind::new("each packet", marked(Marker::EachPacket)),
        Kind::new("never", marked(Marker::Never)),
        Kind::new("the first packet", marked(Marker::First)),
        Kind::new("parameter sets", marked(Marker::ParameterSets)),
        Kind::new("each of four slices", slices(Marker::EachNal)),
        Kind::new("four slices, each packet", slices(Marker::EachPacket)),
        Kind::new("four slices, never", slices(Marker::Never)),
        Kind::new("four slices, as it should be", slices(Marker::Normal)),
        Kind::new("H.265, each NAL unit", h265(|camera| (camera.sei, camera.marker) = (true, Marker::EachNal))),
        Kind::new("H.265, never", h265(|camera| camera.marker = Marker::Never)),
        Kind::new("delimiters, never", h264(|camera| (camera.delimiters, camera.marker) = (true, Marker::Never))),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}

#[tokio::test]
async fn aggregation_single_fragments_and_delimiters_cost_no_frame() {
    let kinds = vec![
        Kind::new("STAP-A", h264(|camera| camera.aggregate = true)),
        Kind::new("STAP-A with SEI and delimiters", h264(|camera| (camera.aggregate, camera.sei, camera.delimiters) = (true, true, true))),
        Kind::new("single FU-A", h264(|camera| camera.single_fragments = true)),
        Kind::new("H.265 aggregation", h265(|camera| (camera.aggregate, camera.sei, camera.delimiters) = (true, true, true))),
        Kind::new("H.265 single fragments", h265(|camera| camera.single_fragments = true)),
        Kind::new("small packets", h264(|camera| camera.mtu = 200)),
        Kind::new("large packets", h264(|camera| camera.mtu = 60_000)),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}
