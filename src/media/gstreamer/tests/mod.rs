//! GStreamer against real parts: its encoders, files that ffmpeg made, its RTSP server; ffprobe judges the clips.

mod card;
mod clips;
mod codecs;
mod entry;
mod fields;
mod motion;
mod pipeline;
mod sound;
mod sources;
mod stills;
mod times;

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::DECODERS;
use crate::{
    conditions::Conditions,
    config::{self, Motion, RtspTransport, Source},
    media::{
        Media, MediaError, Outlet, Sources, built_in_available,
        tests::{
            Collector, NEVER, PATIENCE, eventually, named, on_card, probe, probe_clip, probe_clip_with_steps,
            records_one_clip_with_pre_roll, run, wait_for_frames,
        },
        try_source,
    },
};

fn camera(source: Source, pre_roll_s: u64) -> config::Media {
    config::Media {
        source,
        low_source: None,
        rtsp_transport: RtspTransport::Auto,
        sound: true,
        pre_roll: Duration::from_secs(pre_roll_s),
        pre_roll_bytes: 6_000_000,
        snapshot_url: None,
        motion: NEVER,
        detection: config::Detection::default(),
    }
}

fn start(config: &config::Media, collector: &Collector) -> Media {
    start_with(config, None, Arc::new(collector.clone()), Conditions::default()).unwrap()
}

fn start_with(
    config: &config::Media,
    recording: Option<&config::Recording>,
    outlet: Arc<dyn Outlet>,
    conditions: Conditions,
) -> Result<Media, MediaError> {
    Media::start(Sources::open(config)?, config, recording, outlet, conditions)
}

/// A recorded file: `seconds` of a moving picture at 15 fps with B-frames, a keyframe a second.
fn recorded(dir: &TempDir, name: &str, seconds: u32) -> PathBuf {
    let path = dir.path().join(name);
    let picture = format!("testsrc=size=640x360:rate=15:duration={seconds}");
    let encoder =
        ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "15", "-bf", if name.ends_with(".mp4") { "2" } else { "0" }, "-b:v", "1M"];
    let arguments: Vec<&str> =
        ["-v", "error", "-y", "-f", "lavfi", "-i", &picture].into_iter().chain(encoder).chain([path.to_str().unwrap()]).collect();
    run("ffmpeg", &arguments);
    path
}
