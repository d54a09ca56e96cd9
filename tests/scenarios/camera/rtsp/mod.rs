//! RTSP cameras with the faults that users report, each filmed by an agent of its own; what is on the SD card and in
//! clips is compared with what the camera sent.

use std::{path::PathBuf, time::Duration};

use care_tests::media::{re_encoded, recorded_annex_b};
use rtsp_camera::{Codec, Options};

mod access_units;
mod authentication;
mod changes;
mod codecs;
mod connections;
mod detectors;
mod keyframe_intervals;
mod losses;
mod metadata;
mod slow;
mod sound;
mod timestamps;

/// For all cameras of a test together: they share the machine with other tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// A camera without faults but for this change.
fn h264(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::new(recorded_annex_b(), Codec::H264);
    change(&mut options);
    options
}

/// The same in H.265, with an IDR picture every second.
fn h265(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::new(hevc("recorded.h265", "open-gop=0:bframes=0"), Codec::H265);
    change(&mut options);
    options
}

/// The recorded video in H.265, with these parameters of x265.
fn hevc(name: &str, parameters: &str) -> PathBuf {
    let parameters = format!("log-level=none:keyint=15:min-keyint=15:scenecut=0:{parameters}");
    re_encoded(name, &["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", &parameters, "-f", "hevc"])
}

/// The recorded video in H.264, with these options of x264.
fn avc(name: &str, options: &[&str]) -> PathBuf {
    let common = ["-c:v", "libx264", "-preset", "veryfast", "-g", "15", "-sc_threshold", "0", "-b:v", "500k"];
    re_encoded(name, &[&common[..], options, &["-f", "h264"]].concat())
}
