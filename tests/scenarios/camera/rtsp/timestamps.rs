//! Frames are timed by RTP where its times make sense, and by their arrival where they do not. No frame is lost for
//! its time, and times never go back.

use care_tests::{
    build::Build,
    filming::{Kind, clip_of, film_all},
    in_each_build,
};
use rtsp_camera::{Clock, Options};

use super::{PATIENCE, h264, h265};

fn timed(clock: Clock) -> Options {
    h264(|camera| camera.clock = clock)
}

in_each_build!(equal_times_cost_no_frame);

async fn equal_times_cost_no_frame(build: Build) {
    let constant = timed(Clock::Constant);
    let kinds = vec![Kind::new("constant", constant.clone()), Kind::new("pairs", timed(Clock::Hold(2)))];
    tokio::join!(film_all(build, PATIENCE, kinds), clip_of(build, "constant", constant));
}

#[tokio::test]
async fn times_that_make_no_sense_cost_no_frame() {
    let kinds = vec![
        Kind::new("triples", timed(Clock::Hold(3))),
        Kind::new("ten equal", timed(Clock::Hold(10))),
        Kind::new("random", timed(Clock::Random)),
        Kind::new("ten times too slow", timed(Clock::Rate(0.1))),
        Kind::new("ten times too fast", timed(Clock::Rate(10.0))),
        Kind::new("backwards", timed(Clock::Rate(-1.0))),
        Kind::new("H.265, constant", h265(|camera| camera.clock = Clock::Constant)),
        Kind::new("RTP-Info of zeros", h264(|camera| camera.rtp_info = rtsp_camera::RtpInfo::Zero)),
        Kind::new("RTP-Info of another stream", h264(|camera| camera.rtp_info = rtsp_camera::RtpInfo::Wrong)),
        Kind::new("RTP-Info", h264(|camera| (camera.rtp_info, camera.sender_reports) = (rtsp_camera::RtpInfo::Right, true))),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}

#[tokio::test]
async fn a_clock_that_jumps_wraps_or_drifts_costs_no_frame() {
    let jump = |jumps: &[(f64, f64)]| timed(Clock::Jumps(jumps.to_vec()));
    let kinds = vec![
        Kind::new("an hour ahead", jump(&[(2.0, 3600.0)])),
        Kind::new("an hour back", jump(&[(2.0, -3600.0)])),
        Kind::new("half a second back", jump(&[(2.0, -0.5)])),
        Kind::new("a day ahead and back", jump(&[(1.5, 86_400.0), (3.0, -86_400.0)])),
        Kind::new("20 s ahead", jump(&[(1.0, 20.0)])),
        Kind::new("wrap", timed(Clock::WrapAfter(2.0))),
        Kind::new("a fifth too fast", timed(Clock::Rate(1.2))).seconds(10.0),
        Kind::new("a fifth too slow", timed(Clock::Rate(0.8))).seconds(10.0),
        Kind::new("2 s at once", h264(|camera| camera.lead = 2.0)),
        Kind::new("five at a time", h264(|camera| camera.burst = 5)),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}
