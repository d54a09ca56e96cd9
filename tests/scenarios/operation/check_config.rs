//! `check-config` reports every fault at once, tries what the configuration describes, and does not disturb a
//! running agent.

use std::{fs, net::TcpListener, path::Path};

use care_protocol::Mode;
use care_tests::{
    process::{Lines, Process},
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};
use tokio::process::Command;

/// The exit code of `check-config`, its passed checks and its findings.
async fn checked(world: &World) -> (Option<i32>, String, String) {
    let output = world.agent.command(&["check-config"]).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The number of the configuration line that contains this text.
fn line_of(world: &World, text: &str) -> usize {
    fs::read_to_string(world.agent.config_path()).unwrap().lines().position(|line| line.contains(text)).unwrap() + 1
}

#[tokio::test]
async fn every_fault_is_reported_at_once_with_line_and_key() {
    let mut world = World::new().await;
    // A port that was bound here and is closed again.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.agent.config.source = Some(format!("rtsp://127.0.0.1:{port}/live"));
    world.agent.config.motion = format!("socket:{}", world.agent.dir().join("nowhere/motion.sock").display());
    world.agent.config.recording = Some(world.agent.dir().join("no-card/recordings"));
    world.pki.ca.client_for(DEVICE, 13).write(world.agent.dir(), "device");
    world.agent.write_config();
    let (code, _, found) = checked(&world).await;
    assert_eq!(code, Some(78), "{found}");
    for (key, value) in [("media.source", "source ="), ("media.motion", "motion ="), ("recording.dir", "dir = ")] {
        let line = match key {
            "recording.dir" => line_of(&world, "no-card"),
            _ => line_of(&world, value),
        };
        assert!(found.lines().any(|said| said.contains(&format!("config.toml:{line}: {key}: "))), "{key} in {found}");
    }
    assert!(found.lines().any(|said| said.contains("broker.client_cert: warning: ") && said.contains("ends on")), "{found}");

    // An expired certificate is an error; the message gives both clocks.
    world.agent.config.source = None;
    world.agent.config.recording = None;
    world.pki.ca.client_for(DEVICE, -1).write(world.agent.dir(), "device");
    world.agent.write_config();
    let (code, _, found) = checked(&world).await;
    assert_eq!(code, Some(78), "{found}");
    let said = found.lines().find(|said| said.contains("broker.client_cert: ")).unwrap_or_default();
    assert!(said.contains("ended on") && said.contains("system clock") && said.contains("agent knows"), "{found}");
}

#[tokio::test]
async fn a_working_camera_passes_while_the_agent_runs() {
    let mut world = World::with_camera().await;
    let card = world.agent.dir().join("card");
    fs::create_dir(&card).unwrap();
    world.agent.config.recording = Some(card.clone());
    world.start_premium().await;
    world.agent.motion().await;
    let connects = world.broker.connects_of(DEVICE);
    let (code, well, found) = checked(&world).await;
    assert_eq!((code, found.as_str()), (Some(0), ""), "{well}");
    for said in ["config.toml: ok", "ok      media.source: ", "ok      motion socket: ", "ok      recording.dir: "] {
        assert!(well.contains(said), "{said} in {well}");
    }
    assert!(well.contains("320x180") || well.contains("H.264"), "what the picture is: {well}");
    assert_eq!(world.broker.connects_of(DEVICE), connects, "the agent stays connected");
    // The motion socket and the card are unchanged.
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    world.agent.motion().await.report_motion().await;
    assert!(fs::read_dir(&card).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("check-config")));
}

#[tokio::test]
async fn an_undecodable_stream_is_reported() {
    let mut world = World::new().await;
    let high = world.agent.dir().join("high.mp4");
    let path = high.display().to_string();
    care_tests::media::ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=320x180:r=15",
        "-t",
        "2",
        "-c:v",
        "libx264",
        "-profile:v",
        "high422",
        "-pix_fmt",
        "yuv422p10le",
        "-g",
        "15",
        &path,
    ]);
    world.agent.config.source = Some(format!("file:{path}"));
    world.agent.config.motion = "built-in".into();
    world.agent.write_config();
    let (_, well, found) = checked(&world).await;
    // If a decoder on this machine supports it, the finding names that decoder.
    let decoded = well.lines().any(|line| line.contains("ok      media.motion: "));
    assert!(decoded != found.contains("media.motion: motion cannot be seen"), "{well}{found}");
    assert!(well.contains("ok      media.source: "), "the video itself is good: {well}{found}");
}

#[tokio::test]
async fn a_camera_that_sends_neither_h264_nor_h265_is_reported() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/rtsp_server.py");
    let log = Lines::default();
    let mut command = Command::new("/usr/bin/python3");
    let launch =
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=15/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26";
    command.arg(script).args(["--launch", launch]);
    let _server = Process::spawn("rtsp_server.py", command, log.clone());
    let url = until("the RTSP server to print its URL", PATIENCE, || log.find(0, |line| line.starts_with("rtsp://"))).await;
    let mut world = World::new().await;
    world.agent.config.source = Some(url);
    let free = world.free();
    world.start_with(free, Mode::Free).await;
    let said = |status: &care_tests::status::Status| status.sentence("stream").contains("the camera sends MJPEG");
    world.agent.status("MJPEG in the stream's condition", said).await;
    let (code, _, found) = checked(&world).await;
    assert!(code == Some(78) && found.lines().any(|line| line.contains("media.source") && line.contains("MJPEG")), "{found}");
}
