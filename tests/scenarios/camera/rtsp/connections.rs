//! The session around the stream: keepalives, transports, other sections and URLs in the SDP, cameras that end the
//! connection.

use std::time::Duration;

use care_tests::{
    build::Build,
    filming::{Expected, Kind, film_all},
    in_each_build,
};
use rtsp_camera::{Control, End, Keepalive, Options, Section, Transports};

use super::{PATIENCE, h264, h265};

/// A camera that drops a client which has sent no request for some seconds longer than half the timeout that it names.
fn impatient(change: impl FnOnce(&mut Options)) -> Options {
    h264(|camera| {
        (camera.timeout, camera.drop_idle) = (6, Some(Duration::from_secs(6)));
        change(camera);
    })
}

in_each_build!(s102_a_camera_that_wants_keepalives_gets_them);

async fn s102_a_camera_that_wants_keepalives_gets_them(build: Build) {
    let kinds = vec![
        Kind::new("answered", impatient(|_| {})),
        Kind::new("never answered", impatient(|camera| camera.keepalive = Keepalive::Silent)),
        Kind::new("only OPTIONS", impatient(|camera| camera.keepalive = Keepalive::OnlyOptions)),
        Kind::new("GET_PARAMETER without an answer", impatient(|camera| camera.keepalive = Keepalive::SilentParameters)),
        Kind::new("over UDP", impatient(|camera| camera.transports = Transports::Udp)),
        Kind::new(
            "stale nonces",
            impatient(|camera| {
                let mut credentials = rtsp_camera::Credentials::new(&[rtsp_camera::Scheme::Md5], "admin", "hunter2");
                credentials.nonce_uses = Some(4);
                camera.credentials = Some(credentials);
            }),
        )
        .user("admin:hunter2"),
    ];
    film_all(build, PATIENCE, kinds.into_iter().map(|kind| kind.seconds(13.0)).collect()).await;
}

in_each_build!(s102_sound_metadata_and_a_back_channel_beside_the_video_cost_no_frame);

async fn s102_sound_metadata_and_a_back_channel_beside_the_video_cost_no_frame(build: Build) {
    use Section::{Audio, BackChannel, Metadata};
    let kinds = vec![
        Kind::new("before the video", h264(|camera| camera.before = vec![Audio, Metadata])),
        Kind::new("after the video", h264(|camera| camera.after = vec![Audio, Metadata, BackChannel])),
        Kind::new("a back channel first", h264(|camera| (camera.before, camera.after) = (vec![BackChannel], vec![Audio]))),
        Kind::new("over UDP", h264(|camera| (camera.before, camera.transports) = (vec![Metadata, Audio], Transports::Udp))),
    ];
    film_all(build, PATIENCE, kinds).await;
}

#[tokio::test]
async fn urls_and_transports_of_every_form_are_understood() {
    let kinds = vec![
        Kind::new("absolute URLs", h264(|camera| camera.control = Control::Absolute)),
        Kind::new("URLs with a query", h264(|camera| camera.control = Control::Query)),
        Kind::new("no Content-Base", h264(|camera| camera.no_content_base = true)),
        Kind::new("a path with a query", h264(|camera| camera.path = "/cam/realmonitor?channel=1&subtype=0".into())),
        Kind::new("only UDP", h264(|camera| camera.transports = Transports::Udp)),
        Kind::new("only TCP", h264(|camera| camera.transports = Transports::Tcp)),
        Kind::new("sender reports", h264(|camera| camera.sender_reports = true)),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}

#[tokio::test]
async fn a_camera_that_ends_the_connection_is_connected_to_again() {
    let ends = |end| h264(|camera| camera.end = Some(end));
    let kinds = vec![
        Kind::new("closes", ends((3.0, End::Close))),
        Kind::new("says BYE", ends((3.0, End::Bye))),
        Kind::new("stalls", ends((3.0, End::Stall))),
        Kind::new("over UDP", h264(|camera| (camera.end, camera.transports) = (Some((3.0, End::Close)), Transports::Udp))),
    ];
    let kinds = kinds.into_iter().map(|kind| kind.seconds(7.0).expect(Expected::EverySession));
    film_all(Build::WithoutGstreamer, PATIENCE, kinds.collect()).await;
}

#[tokio::test]
async fn a_camera_that_sends_as_another_source_than_it_said_is_filmed() {
    let kinds = vec![
        Kind::new("another SSRC than SETUP said", h264(|camera| camera.wrong_ssrc = true)),
        Kind::new("the same over UDP", h264(|camera| (camera.wrong_ssrc, camera.transports) = (true, Transports::Udp))),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}

#[tokio::test]
async fn a_camera_that_answers_as_no_standard_has_it_is_filmed() {
    let kinds = vec![
        Kind::new("over TCP", h264(|camera| camera.odd = true)),
        Kind::new("over UDP", h264(|camera| (camera.odd, camera.transports) = (true, Transports::Udp))),
        Kind::new("with other sections", h265(|camera| (camera.odd, camera.before) = (true, vec![Section::Audio, Section::Metadata]))),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}
