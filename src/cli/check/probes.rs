//! Tries what the configuration describes: the picture, the decoder, sockets, the recording folder. Each probe has a time
//! limit, and none disturbs a running agent.

use std::{
    fs,
    io::{self, ErrorKind},
    net::TcpListener,
    os::unix::{fs::FileTypeExt, net::UnixListener},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::findings::Findings;
use crate::{
    config::{Config, Listen, Media, Motion, Recording, Source},
    confinement,
    media::{self, Dimensions, FirstPicture},
    space::{self, Space},
};

/// How long a camera may take for its first picture; some need twenty seconds.
const FIRST_PICTURE: Duration = Duration::from_secs(25);
/// Warns if less than this is free on the card, bytes.
const LITTLE: u64 = 16_000_000;

/// The unit's RuntimeDirectory=, which exists only while the service runs.
const MADE_WITH_THE_SERVICE: &str = "/run/kasa-care-agent";

/// Checks that this build and this camera's GStreamer have what built-in motion needs. The agent starts without it too: it
/// follows the plan, and its status says what is missing.
pub(super) fn motion_elements(findings: &mut Findings) {
    let Some(media) = findings.parsed.media.as_ref().filter(|media| media.motion == Motion::BuiltIn) else { return };
    if let Err(wrong) = media::built_in_available(&media.source) {
        let write = "write motion = \"bitstream\", \"socket:/run/kasa-care-agent/motion.sock\" or \"every:30s\"";
        let right = if cfg!(feature = "gstreamer") { format!("install it, or {write}") } else { write.to_owned() };
        findings.fault("media.motion", wrong, right);
    }
}

/// Runs all probes; returns one line for each that passed.
pub(super) fn run(findings: &mut Findings, running: bool) -> Vec<String> {
    let mut passed = Vec::new();
    if let Some(media) = findings.parsed.media.clone() {
        pictures(findings, &media, running, &mut passed);
        if let Some(url) = &media.snapshot_url {
            match media::try_snapshot(url) {
                Ok((Dimensions { width, height }, bytes)) => {
                    passed.push(format!("media.snapshot_url: {url} gives a JPEG of {width}x{height}, {bytes} bytes"));
                }
                Err(why) => {
                    let right = "check the address in the camera's manual, and the user and password";
                    findings.fault("media.snapshot_url", format!("{url} gives no snapshot: {why}"), right);
                }
            }
        }
        if let Motion::Socket(path) = &media.motion {
            match socket(path, running) {
                Ok(found) => passed.push(format!("motion socket: {found}")),
                Err((wrong, right)) => findings.fault("media.motion", wrong, right),
            }
        }
    }
    if let Some(recording) = findings.parsed.recording.clone() {
        folder(findings, &recording, &mut passed);
    }
    if let Some(config) = findings.parsed.config.clone() {
        sockets(findings, &config, running);
    }
    passed
}

/// Waits for the first picture of each source, all sources in parallel.
fn pictures(findings: &mut Findings, media: &Media, running: bool, passed: &mut Vec<String>) {
    let sources = [("media.source", Some(&media.source)), ("media.low_source", media.low_source.as_ref())];
    let mut tried = Vec::new();
    for (key, source) in sources.into_iter().filter_map(|(key, source)| Some((key, source?.clone()))) {
        if running && matches!(source, Source::V4l2(_) | Source::Launch(_)) {
            passed.push(format!("{key}: not tried, since the running agent has it; its status says what comes of it"));
            continue;
        }
        let began = Instant::now();
        let shown = source.to_string();
        let config = media.clone();
        // The main stream has the metadata.
        let with_metadata = media.motion == Motion::Onvif && tried.is_empty();
        let attempt = thread::spawn(move || {
            let picture = if with_metadata {
                media::try_source_with_metadata(&source, &config, FIRST_PICTURE).map(|(picture, sends)| (picture, Some(sends)))
            } else {
                media::try_source(&source, &config, FIRST_PICTURE).map(|picture| (picture, None))
            };
            let picture = picture.map_err(|why| source.hide_in(&why));
            (source, picture, began.elapsed())
        });
        tried.push((key, shown, attempt));
    }
    let mut last: Option<(Source, FirstPicture)> = None;
    for (key, shown, attempt) in tried {
        match attempt.join() {
            Ok((source, Ok((picture, metadata)), took)) => {
                match metadata {
                    Some(Ok(())) => passed.push("media.motion: the camera sends ONVIF metadata".into()),
                    Some(Err(why)) => findings.fault("media.motion", why.sentence(), why.advice()),
                    None => {}
                }
                passed.push(format!("{key}: {shown} gives {picture}, the first picture after {:.1} s", took.as_secs_f32()));
                // Motion detection uses the low source, which comes last.
                last = Some((source, picture));
            }
            Ok((_, Err(why), _)) => {
                let right = "check the camera and its address";
                findings.fault(key, format!("{shown} gives no picture: {why}"), right);
            }
            Err(_) => findings.fault(key, format!("{shown} could not be tried"), "try it with gst-launch-1.0"),
        }
    }
    let Some((source, picture)) = last.filter(|_| media.motion == Motion::BuiltIn) else { return };
    // For these two sources the agent detects motion in raw pictures, without a decoder.
    if !matches!(source, Source::Test | Source::V4l2(_)) {
        match picture.try_motion() {
            Ok(decoder) => passed.push(format!("media.motion: {decoder} decodes the picture")),
            Err(why) => {
                let right = "set low_source to a stream that a decoder here can read, or motion to \"bitstream\" or a socket";
                findings.fault("media.motion", format!("motion cannot be seen in the picture: {why}"), right);
            }
        }
    }
}

/// Tries whether a socket can be made at this path.
fn socket(path: &Path, running: bool) -> Result<String, (String, String)> {
    let shown = path.display();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder == Path::new(MADE_WITH_THE_SERVICE) && !folder.exists() {
        return Ok(format!("the folder of {shown} is made with the service"));
    }
    if !folder.is_dir() {
        let right = format!("run: install -d -o kasa-care-agent -g kasa-care-agent {}; the agent tries again", folder.display());
        return Err((format!("the folder of the socket {shown} does not exist"), right));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err((format!("{shown} is there, and is no socket"), "remove it".into())),
        Ok(_) if running => return Ok(format!("{shown} is open")),
        Err(_) if running => return Err((format!("the agent runs, and {shown} is not there"), "look at its status".into())),
        _ => {}
    }
    // Bind beside it, because a client may be waiting for the real name to appear. The probe's name must not be longer, since
    // socket paths have a length limit.
    let name = path.file_name().map_or(1, |name| name.len());
    let probe: String = format!("{:x}~~~~~~~~", std::process::id()).chars().take(name.min(8)).collect();
    let probe = folder.join(probe);
    if fs::symlink_metadata(&probe).is_ok() {
        return Ok(format!("the folder of {shown} is there"));
    }
    let bound = UnixListener::bind(&probe).and_then(|_| fs::remove_file(&probe));
    bound.map(|()| format!("{shown} can be made")).map_err(|error| {
        let right = match error.kind() {
            ErrorKind::InvalidInput => "name a shorter path".to_owned(),
            _ => format!("give the user kasa-care-agent the right to write to {}", folder.display()),
        };
        (format!("the socket {shown} cannot be made: {error}"), right)
    })
}

/// Tries the addresses that the agent listens on, unless it is running.
fn sockets(findings: &mut Findings, config: &Config, running: bool) {
    let in_use = |error: &io::Error| error.kind() == ErrorKind::AddrInUse;
    match &config.status {
        Some(Listen::Tcp(address)) if !running => {
            if let Err(error) = TcpListener::bind(address) {
                let right = if in_use(&error) { "stop what uses it, or choose another port" } else { "choose another address" };
                findings.fault("status.listen", format!("nothing can listen on {address}: {error}"), right);
            }
        }
        Some(Listen::Unix(path)) if !running => {
            if let Some((wrong, right)) = socket(path, running).err() {
                findings.fault("status.listen", wrong, right);
            }
        }
        _ => {}
    }
    if let Some(uploader) = &config.uploader
        && let Some((wrong, right)) = socket(&uploader.socket, running).err()
    {
        findings.fault("uploader.socket", wrong, right);
    }
}

/// Tries the recording folder.
fn folder(findings: &mut Findings, recording: &Recording, passed: &mut Vec<String>) {
    let process = findings.parsed.config.as_ref().map(|config| config.process.clone()).unwrap_or_default();
    let dir = match confinement::as_agent(&process, || media::try_recording(recording)) {
        Ok(dir) => dir,
        Err((wrong, right)) => return findings.fault("recording.dir", wrong, right),
    };
    let shown = dir.display();
    let Ok(Space { whole, free, .. }) = fs::File::open(&dir).and_then(space::of) else { return };
    if whole < recording.max_bytes {
        let wrong = format!("is {}, and the file system of {shown} holds {} MB", recording.max_bytes, whole / 1_000_000);
        findings.warn("recording.max_bytes", wrong, "lower it: otherwise the oldest recording gives way only when the card is full");
    }
    if free < LITTLE {
        findings.warn("recording.dir", format!("the file system of {shown} has {} MB left", free / 1_000_000), "free some space there");
    }
    passed.push(format!("recording.dir: {shown} can be written to, {} MB are free", free / 1_000_000));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_a_socket_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.sock");
        assert!(socket(&path, false).is_ok_and(|found| found.ends_with("can be made")));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(socket(&path, true).is_err_and(|(wrong, _)| wrong.contains("not there")), "a running agent has it open");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(socket(&path, true).is_ok_and(|found| found.ends_with("is open")));
        assert!(socket(&path, false).is_ok(), "one that an agent has left behind is replaced");
        assert!(socket(&dir.path().join("nowhere/motion.sock"), false).is_err_and(|(_, right)| right.contains("install -d")));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(socket(&dir.path().join("file"), false).is_err_and(|(wrong, _)| wrong.contains("no socket")));
        let long = dir.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        assert!(socket(&long.join("motion.sock"), false).is_err_and(|(_, right)| right.contains("shorter")));
    }
}
