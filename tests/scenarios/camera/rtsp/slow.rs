//! The stream's own rate decides when it is dead: a camera that is slow to start, or sends a frame every few seconds,
//! is left alone.

use std::time::Duration;

use care_tests::{
    build::Build,
    filming::{Kind, film_all},
};

use super::h264;

#[tokio::test]
async fn slow_cameras_and_idle_ones_are_waited_for_and_left_alone() {
    let kinds = vec![
        Kind::new("first frame after 20 s", h264(|camera| camera.start_after = 20.0)),
        Kind::new("first frame after 33 s", h264(|camera| camera.start_after = 33.0)),
        Kind::new("a frame every 7 s", h264(|camera| camera.fps = 1.0 / 7.0)).seconds(35.0),
        Kind::new("a frame every 10 s", h264(|camera| camera.fps = 0.1)).seconds(40.0),
        Kind::new("a frame every 13 s, the first after 8 s", h264(|camera| (camera.fps, camera.start_after) = (1.0 / 13.0, 8.0)))
            .seconds(26.0),
        // The default of RFC 2326, a minute, counts if SETUP names no timeout.
        Kind::new(
            "no timeout named, dropped after 40 s without a request",
            h264(|camera| {
                (camera.timeout, camera.drop_idle) = (0, Some(Duration::from_secs(40)));
            }),
        )
        .seconds(42.0),
    ];
    film_all(Build::WithoutGstreamer, Duration::from_secs(120), kinds).await;
}
