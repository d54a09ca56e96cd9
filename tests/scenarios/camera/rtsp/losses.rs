//! Packets that are lost, late, doubled or malformed: a loss costs the pictures that need it, and is counted; nothing
//! broken is recorded.

use care_tests::{
    build::Build,
    filming::{Expected, Kind, film_all},
};
use rtsp_camera::Transports;

use super::{PATIENCE, h264, h265};

#[tokio::test]
async fn after_a_lost_packet_nothing_is_recorded_until_the_next_keyframe() {
    let kinds = vec![
        Kind::new("TCP, every 100th", h264(|camera| camera.lose = Some(100))).expect(Expected::Percent(50)),
        Kind::new("TCP, every 37th", h264(|camera| camera.lose = Some(37))).expect(Expected::Percent(10)),
        Kind::new("UDP, every 100th", h264(|camera| (camera.lose, camera.transports) = (Some(100), Transports::Udp)))
            .expect(Expected::Percent(50)),
        Kind::new("H.265, every 100th", h265(|camera| camera.lose = Some(100))).expect(Expected::Percent(20)),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds.into_iter().map(|kind| Kind { frames: 45, ..kind }).collect()).await;
}

#[tokio::test]
async fn swapped_doubled_and_malformed_packets_break_no_picture() {
    let udp = Transports::Udp;
    let kinds = vec![
        Kind::new("UDP, every 20th swapped", h264(|camera| (camera.swap, camera.transports) = (Some(20), udp)))
            .expect(Expected::Percent(15)),
        Kind::new("UDP, every 20th doubled", h264(|camera| (camera.repeat, camera.transports) = (Some(20), udp)))
            .expect(Expected::Percent(90)),
        Kind::new("UDP, malformed after every 20th", h264(|camera| (camera.malformed, camera.transports) = (Some(20), udp)))
            .expect(Expected::Percent(20)),
        Kind::new("TCP, malformed after every 20th", h264(|camera| camera.malformed = Some(20))).expect(Expected::Percent(20)),
        Kind::new("TCP, another SSRC after 2 s", h264(|camera| camera.ssrc_change = Some(2.0))).expect(Expected::Percent(50)),
        Kind::new("UDP, another SSRC after 2 s", h264(|camera| (camera.ssrc_change, camera.transports) = (Some(2.0), udp)))
            .expect(Expected::Percent(50)),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds.into_iter().map(|kind| Kind { frames: 90, ..kind }).collect()).await;
}
