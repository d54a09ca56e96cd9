//! The demo's camera: a thread that draws [`Scene`] in real time and hands the frames to the agent over loopback, which
//! encodes them with GStreamer as the encoder of a camera would.

use std::{
    io::{self, Write as _},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::scene::{HEIGHT, Scene, WIDTH};

const FRAMES_A_SECOND: u32 = 15;

/// Starts the camera and returns what the agent's configuration calls it. It films until this process ends.
pub fn start() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("opening a port for the camera's frames")?;
    let port = listener.local_addr().context("asking for that port")?.port();
    let mut scene = Scene::new().context("there is no memory for the camera's picture")?;
    thread::Builder::new()
        .name("camera".to_owned())
        .spawn(move || {
            let ended = film(&listener, &mut scene);
            eprintln!("care-demo: the camera ended: {ended}");
        })
        .context("starting the camera")?;
    Ok(format!(
        "launch:tcpclientsrc host=127.0.0.1 port={port} ! rawvideoparse width={WIDTH} height={HEIGHT} format=rgba \
         framerate={FRAMES_A_SECOND}/1 ! videoconvert ! video/x-raw,format=I420 ! openh264enc bitrate=1000000 gop-size={FRAMES_A_SECOND} \
         complexity=low"
    ))
}

/// Shows the yard to whoever connects, one after the other; returns why no one can connect any more.
fn film(listener: &TcpListener, scene: &mut Scene) -> io::Error {
    let began = Instant::now();
    loop {
        let mut viewer = match listener.accept() {
            Ok((viewer, _)) => viewer,
            Err(e) => return e,
        };
        let mut due = Instant::now();
        // The agent closes its connection when it opens the source anew.
        while viewer.write_all(scene.draw(began.elapsed(), Timestamp::now())).is_ok() {
            due += Duration::from_secs(1) / FRAMES_A_SECOND;
            let now = Instant::now();
            // What a busy machine made it miss is not made up for.
            due = due.max(now);
            thread::sleep(due - now);
        }
    }
}
