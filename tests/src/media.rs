//! Streams for the agent, made by ffmpeg, and measurements of the clips that come out, by ffprobe.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::UnixStream, task::JoinHandle};

use crate::wait::{PATIENCE, until};

/// Frame rate of all test videos.
pub const FPS: u32 = 15;

/// A recorded H.264 file: 320×180, 15 fps, about 500 kbit/s, about two keyframes per second, ten seconds, no two
/// frames alike. Encoded once and cached.
pub fn recorded() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| record("recorded-2.mp4", "320x180", "500k"))
}

/// The same at 640×360 and about 1 Mbit/s, as a camera's second stream has.
pub fn recorded_360() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| record("recorded-360.mp4", "640x360", "1M"))
}

fn record(name: &str, size: &str, rate: &str) -> PathBuf {
    made_once(name, |part| {
        let picture = format!("testsrc2=size={size}:rate=15,noise=alls=30:allf=t");
        let picture = ["-f", "lavfi", "-i", &picture, "-t", "10", "-pix_fmt", "yuv420p"];
        let codec = ["-c:v", "libx264", "-preset", "veryfast", "-profile:v", "main", "-bf", "0", "-g", "7", "-sc_threshold", "0"];
        let rate = ["-b:v", rate, "-maxrate", rate, "-bufsize", "100k", "-f", "mp4", part];
        ffmpeg(&[&picture[..], &codec, &rate].concat());
    })
}

/// The recorded file's pictures in Annex B form, unchanged.
pub fn recorded_annex_b() -> PathBuf {
    re_encoded("recorded.h264", &["-c", "copy", "-bsf:v", "h264_mp4toannexb", "-f", "h264"])
}

/// The pictures of [`recorded_360`] in Annex B form, unchanged.
pub fn recorded_360_annex_b() -> PathBuf {
    made_once("recorded-360.h264", |part| {
        let input = recorded_360().to_str().expect("a path in ASCII");
        ffmpeg(&["-i", input, "-c", "copy", "-bsf:v", "h264_mp4toannexb", "-f", "h264", part]);
    })
}

/// The recorded file, encoded anew with these arguments of ffmpeg. Encoded once and cached under this name.
pub fn re_encoded(name: &str, arguments: &[&str]) -> PathBuf {
    made_once(&format!("2-{name}"), |part| {
        let input = ["-i", recorded().to_str().expect("a path in ASCII")];
        ffmpeg(&[&input[..], arguments, &[part]].concat());
    })
}

/// A film for a camera in Annex B form: H.264 of 640×360 and this bit rate, one keyframe in `gop` frames, no two frames alike.
/// Encoded once and cached.
pub fn noisy(fps: u32, seconds: u32, gop: u32, megabits: u32) -> PathBuf {
    made_once(&format!("noisy-{fps}-{seconds}-{gop}-{megabits}.h264"), |part| {
        let picture = format!("testsrc2=size=640x360:rate={fps},noise=alls=100:allf=t");
        let (seconds, gop, rate) = (seconds.to_string(), gop.to_string(), format!("{megabits}M"));
        let picture = ["-f", "lavfi", "-i", &picture, "-t", &seconds, "-pix_fmt", "yuv420p"];
        let codec = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0"];
        let rate = ["-b:v", &rate, "-maxrate", &rate, "-bufsize", &rate, "-x264-params", "qcomp=0", "-f", "h264", part];
        ffmpeg(&[&picture[..], &codec, &rate].concat());
    })
}

/// A film for a camera in Annex B form: H.264 of 1280×720 at 15 fps and about 2 Mbit/s, a keyframe every two seconds. Encoded
/// once and cached.
pub fn noisy_720() -> PathBuf {
    made_once("noisy-720.h264", |part| {
        let picture = ["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=15,noise=alls=12:allf=t", "-t", "20", "-pix_fmt", "yuv420p"];
        let codec = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", "30", "-keyint_min", "30", "-sc_threshold", "0"];
        let rate = ["-b:v", "2M", "-maxrate", "2M", "-bufsize", "2M", "-f", "h264", part];
        ffmpeg(&[&picture[..], &codec, &rate].concat());
    })
}

/// Ten seconds of a tone in AAC LC, 16 kHz mono, in ADTS form. Encoded once and cached.
pub fn tone() -> PathBuf {
    made_once("tone.aac", |part| {
        let tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=10"];
        ffmpeg(&[&tone[..], &["-c:a", "aac", "-b:a", "32k", "-f", "adts", part]].concat());
    })
}

/// These Annex B files, one after the other. Joined once and cached under this name.
pub fn joined(name: &str, pieces: &[PathBuf]) -> PathBuf {
    made_once(name, |part| {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| std::fs::read(piece).unwrap()).collect();
        std::fs::write(part, bytes).unwrap();
    })
}

/// The cached file of this name. If there is none, `make` writes it to a path of its own. Two tests may make the same file at the
/// same time, and an encoder with a rate to keep does not make it alike twice: the first one to finish stays, for both.
fn made_once(name: &str, make: impl FnOnce(&str)) -> PathBuf {
    let file = scratch().join(name);
    if !file.exists() {
        let part = tempfile::Builder::new().tempfile_in(scratch()).unwrap();
        make(part.path().to_str().expect("a path in ASCII"));
        match part.persist_noclobber(&file) {
            Ok(_) => {}
            Err(refused) if refused.error.kind() == ErrorKind::AlreadyExists => {}
            Err(refused) => panic!("{}: {refused}", file.display()),
        }
    }
    file
}

fn scratch() -> PathBuf {
    let dir = std::env::temp_dir().join("care-tests");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs ffmpeg quietly and waits until it exits.
pub fn ffmpeg(arguments: &[&str]) {
    let output = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(arguments).output().expect("ffmpeg is installed");
    assert!(output.status.success(), "ffmpeg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Results of ffprobe for a file.
#[derive(Debug)]
pub struct Probe {
    /// Codec name.
    pub codec: String,
    /// Picture height.
    pub height: u64,
    /// Presentation times of the packets in seconds, in order.
    pub pts: Vec<f64>,
    /// A hash of each decoded picture, independent of data between the pictures.
    pub pictures: Vec<String>,
    /// Whether the first packet is a keyframe.
    pub starts_with_keyframe: bool,
    /// The decoder's error messages.
    pub complaints: String,
}

impl Probe {
    /// Duration from the first frame to the end of the last, in seconds.
    pub fn duration(&self) -> f64 {
        match (self.pts.first(), self.pts.last()) {
            (Some(first), Some(last)) => last - first + 1.0 / f64::from(FPS),
            _ => 0.0,
        }
    }

    /// The longest gap between two frames, in frames.
    pub fn longest_step(&self) -> f64 {
        self.pts.windows(2).map(|pair| (pair[1] - pair[0]) * f64::from(FPS)).fold(0.0, f64::max)
    }
}

/// The sound of a file.
#[derive(Debug)]
pub struct Heard {
    /// Codec name.
    pub codec: String,
    /// When the first access unit begins, seconds.
    pub begins: f64,
    /// When the last one ends, seconds.
    pub ends: f64,
    /// The longest time between the end of one unit and the beginning of the next, seconds.
    pub longest_gap: f64,
    /// The decoder's error messages.
    pub complaints: String,
}

/// These entries of one stream of a file, and what ffprobe objects to.
fn ffprobe(file: &Path, stream: &str, entries: &str) -> (Value, String) {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "json"]).arg(file);
    let output = command.output().expect("ffprobe is installed");
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Probes and decodes the sound of a file, if it has any.
pub fn heard(file: &Path) -> Option<Heard> {
    let (found, objections) = ffprobe(file, "a:0", "stream=codec_name:packet=pts_time,duration_time");
    let codec = found["streams"][0]["codec_name"].as_str()?.to_owned();
    let number = |packet: &Value, field: &str| packet[field].as_str()?.parse::<f64>().ok();
    let units: Vec<(f64, f64)> = found["packets"]
        .as_array()?
        .iter()
        .filter_map(|packet| {
            let begins = number(packet, "pts_time")?;
            Some((begins, begins + number(packet, "duration_time")?))
        })
        .collect();
    let longest_gap = units.windows(2).map(|pair| pair[1].0 - pair[0].1).fold(0.0, f64::max);
    let mut decoder = Command::new("ffmpeg");
    decoder.args(["-nostdin", "-v", "error", "-i"]).arg(file).args(["-map", "0:a", "-f", "null", "-"]);
    let decoded = decoder.output().unwrap();
    let complaints = format!("{objections}{}", String::from_utf8_lossy(&decoded.stderr));
    Some(Heard { codec, begins: units.first()?.0, ends: units.last()?.1, longest_gap, complaints })
}

/// Probes and decodes a file.
pub fn probe(file: &Path) -> Probe {
    let (found, objections) = ffprobe(file, "v:0", "stream=codec_name,height:packet=pts_time,flags");
    let packets = found["packets"].as_array().cloned().unwrap_or_default();
    let mut pts: Vec<f64> = packets.iter().filter_map(|packet| packet["pts_time"].as_str()?.parse().ok()).collect();
    pts.sort_by(f64::total_cmp);
    let mut decoder = Command::new("ffmpeg");
    decoder.args(["-nostdin", "-v", "error", "-i"]).arg(file).args(["-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"]);
    let decoded = decoder.output().unwrap();
    let pictures = String::from_utf8_lossy(&decoded.stdout);
    let pictures = pictures.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit(", ").next());
    Probe {
        codec: found["streams"][0]["codec_name"].as_str().unwrap_or_default().to_owned(),
        height: found["streams"][0]["height"].as_u64().unwrap_or_default(),
        pts,
        pictures: pictures.map(str::to_owned).collect(),
        starts_with_keyframe: packets.first().is_some_and(|packet| packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K'))),
        complaints: format!("{objections}{}", String::from_utf8_lossy(&decoded.stderr)),
    }
}

/// The names of the boxes that a file consists of; the last one is cut short if the file is.
pub fn boxes(mut file: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let Some((size, rest)) = file.split_first_chunk() {
        names.push(String::from_utf8_lossy(&rest[..4.min(rest.len())]).into_owned());
        file = file.get(u32::from_be_bytes(*size).max(8) as usize..).unwrap_or_default();
    }
    names
}

/// The boxes of a file that is neither in fragments nor a part.
pub const PROGRESSIVE: [&str; 3] = ["ftyp", "moov", "mdat"];

/// Checks that these consecutive files contain every frame of the looped [`recorded`] source, in order and with even
/// timestamps, starting at the first frame they have (on a full card the oldest are deleted). Returns the number of
/// frames. Parameter sets before a keyframe are not frames: a parser may repeat them at each loop or when a clip
/// without pre-roll requests a keyframe.
pub fn every_frame_in(files: &[PathBuf]) -> usize {
    let source = probe(recorded()).pictures;
    let (mut frames, mut first) = (0, None);
    for file in files {
        let found = probe(file);
        assert!(found.longest_step() < 1.2, "timestamps jump in {}: {:?}", file.display(), found.pts);
        assert_eq!(found.pictures.len(), found.pts.len(), "{}: {}", file.display(), found.complaints);
        for picture in &found.pictures {
            let first = *first.get_or_insert_with(|| source.iter().position(|of_source| of_source == picture).unwrap_or(0));
            let expected = (first + frames) % source.len();
            assert_eq!(*picture, source[expected], "frame {frames} ({}) is not the source's {expected}", file.display());
            frames += 1;
        }
    }
    frames
}

/// A shell command that succeeds if this directory of recordings has a segment with bytes in it. There may be several.
pub fn has_recordings(dir: &str) -> String {
    format!("find {dir} -name '*.mp4' -size +0 | grep -q .")
}

/// The files of a recording in their day folders, in order.
pub fn recordings(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // Any of it may give way meanwhile.
    for path in std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if path.is_dir() { files.extend(recordings(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Probes a received clip.
pub fn probe_bytes(bytes: &[u8]) -> Probe {
    let file = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    probe(file.path())
}

/// The test's end of `motion = "socket:…"`.
pub struct MotionSocket(UnixStream);

impl MotionSocket {
    /// Connects as soon as the agent listens.
    pub async fn open(path: &Path) -> Self {
        // After a kill, the old socket file may still exist without a listener.
        let connected =
            until(format!("{} to listen", path.display()), PATIENCE, || std::os::unix::net::UnixStream::connect(path).ok()).await;
        connected.set_nonblocking(true).unwrap();
        Self(UnixStream::from_std(connected).unwrap())
    }

    /// Reports motion every 200 ms, as a detector does, until the task is aborted.
    pub fn goes_on(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                self.report_motion().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    }

    /// Reports motion.
    pub async fn report_motion(&mut self) {
        self.0.write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").await.unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes the source's packets through ffmpeg's bitstream filters.
    fn filtered(filter: &str) -> tempfile::TempPath {
        let file = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap().into_temp_path();
        ffmpeg(&["-i", recorded().to_str().unwrap(), "-c", "copy", "-bsf:v", filter, file.to_str().unwrap()]);
        file
    }

    #[test]
    fn whoever_makes_a_file_at_the_same_time_gets_the_first_one() {
        let name = format!("made-{}", std::process::id());
        let write = |text: &'static str| move |part: &str| std::fs::write(part, text).unwrap();
        let later = made_once(&name, |part| {
            std::fs::write(part, "later").unwrap();
            made_once(&name, write("first"));
        });
        let read = std::fs::read_to_string(&later).unwrap();
        std::fs::remove_file(&later).unwrap();
        assert_eq!(read, "first");
    }

    #[test]
    fn parameter_sets_between_the_frames_are_no_frames() {
        let file = filtered("h264_mp4toannexb");
        let sizes = |file: &Path| std::fs::metadata(file).unwrap().len();
        assert!(sizes(&file) > sizes(recorded()), "no parameter sets were repeated");
        assert_eq!(every_frame_in(&[file.to_path_buf()]), 150);
    }

    #[test]
    fn a_recording_may_begin_anywhere() {
        let first_gop_gone = filtered("noise=drop='lt(n,7)',setts=ts=N*1024");
        assert_eq!(every_frame_in(&[first_gop_gone.to_path_buf(), recorded().to_path_buf()]), 143 + 150);
    }

    #[test]
    #[should_panic(expected = "is not the source's 8")]
    fn a_missing_frame_is_found() {
        every_frame_in(&[filtered("noise=drop='eq(n,8)',setts=ts=N*1024").to_path_buf()]);
    }
}
