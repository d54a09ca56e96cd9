//! The whole camera against real parts: GStreamer's encoder, ffmpeg's files, GStreamer's RTSP server; ffprobe judges the clips.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use care_protocol::ClipKind;
use tempfile::TempDir;

use super::*;
use crate::{
    conditions::Conditions,
    config::{self, Motion, Source},
};

const PATIENCE: Duration = Duration::from_secs(40);

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An outlet that keeps every clip in memory.
struct Shelf {
    max: Mutex<Option<Duration>>,
    tallest: AtomicU32,
    snapshots: AtomicBool,
    /// The append at which a clip is erased.
    erase_at: AtomicUsize,
    /// The next append is followed by a cut that allows 400 ms more.
    cut_soon: AtomicBool,
    stalled: (Mutex<bool>, Condvar),
    clips: Mutex<Vec<Kept>>,
    dropped: AtomicUsize,
    begun: AtomicUsize,
}

struct Kept {
    beginning: Beginning,
    bytes: Vec<u8>,
    /// As told by each append.
    durations: Vec<Duration>,
    duration: Duration,
}

struct OnShelf {
    shelf: Arc<Shelf>,
    clip: Option<Kept>,
}

struct Door(Arc<Shelf>);

impl Shelf {
    fn new(max_s: u64) -> Arc<Self> {
        Arc::new(Self {
            max: Mutex::new(Some(Duration::from_secs(max_s))),
            tallest: AtomicU32::new(u32::MAX),
            snapshots: AtomicBool::new(false),
            erase_at: AtomicUsize::new(usize::MAX),
            cut_soon: AtomicBool::new(false),
            stalled: (Mutex::new(false), Condvar::new()),
            clips: Mutex::default(),
            dropped: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
        })
    }

    fn stall(&self, stalled: bool) {
        *self.stalled.0.lock().unwrap() = stalled;
        self.stalled.1.notify_all();
    }

    fn wait_for(&self, clips: usize) {
        eventually("a clip is whole", || self.clips.lock().unwrap().len() >= clips);
    }
}

impl Outlet for Door {
    fn begin(&self, beginning: Beginning) -> Option<(Box<dyn ClipWriter>, Duration)> {
        let allowed = match beginning.kind {
            ClipKind::Snapshot => self.0.snapshots.load(Ordering::Relaxed),
            _ => beginning.height <= self.0.tallest.load(Ordering::Relaxed),
        };
        let max = (*self.0.max.lock().unwrap()).filter(|_| allowed)?;
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        let clip = Kept { beginning, bytes: Vec::new(), durations: Vec::new(), duration: Duration::ZERO };
        Some((Box::new(OnShelf { shelf: self.0.clone(), clip: Some(clip) }), max))
    }

    fn clip_max(&self) -> Option<Duration> {
        *self.0.max.lock().unwrap()
    }
}

impl ClipWriter for OnShelf {
    fn limit(&self) -> Verdict {
        Verdict::Continue { max: self.shelf.max.lock().unwrap().unwrap() }
    }

    fn append(&mut self, fragment: Bytes, duration: Duration) -> Verdict {
        let stalled = self.shelf.stalled.0.lock().unwrap();
        drop(self.shelf.stalled.1.wait_while(stalled, |stalled| *stalled).unwrap());
        let clip = self.clip.as_mut().unwrap();
        clip.bytes.extend_from_slice(&fragment);
        clip.durations.push(duration);
        if clip.durations.len() >= self.shelf.erase_at.load(Ordering::Relaxed) {
            return Verdict::Erased;
        }
        let mut max = self.shelf.max.lock().unwrap();
        let verdict = Verdict::Continue { max: max.unwrap() };
        if self.shelf.cut_soon.swap(false, Ordering::Relaxed) {
            *max = Some(duration + Duration::from_millis(400));
        }
        verdict
    }

    fn finish(mut self: Box<Self>, duration: Duration) {
        let mut clip = self.clip.take().unwrap();
        clip.duration = duration;
        self.shelf.clips.lock().unwrap().push(clip);
    }
}

impl Drop for OnShelf {
    fn drop(&mut self) {
        if self.clip.is_some() {
            self.shelf.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

const NEVER: Motion = Motion::Every(Duration::from_secs(3600));

fn camera(source: Source, pre_roll_s: u64) -> config::Media {
    config::Media { source, low_source: None, pre_roll: Duration::from_secs(pre_roll_s), motion: NEVER }
}

fn start(config: &config::Media, shelf: &Arc<Shelf>) -> Media {
    Media::start(config, None, Arc::new(Door(shelf.clone())), Conditions::default()).unwrap()
}

fn wait_for_frames(media: &Media, frames: u64) {
    eventually("frames have come", || media.status().stream.frames >= frames);
}

/// What ffprobe and ffmpeg say of a file.
struct Probed {
    duration: f64,
    frames: usize,
    height: u32,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{program} {arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every frame decodes without a complaint, the first is a keyframe, presentation times rise, by `longest_step` seconds at most.
fn probe(path: &Path, longest_step: f64) -> Probed {
    let path = path.to_str().unwrap();
    run("ffmpeg", &["-v", "error", "-i", path, "-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-f", "null", "-"]);
    let told = run("ffprobe", &["-v", "error", "-show_entries", "stream=codec_name,height:format=duration", "-of", "default=nk=1", path]);
    let told: Vec<&str> = told.lines().filter(|line| !line.starts_with('[')).collect();
    assert_eq!(told[0], "h264");
    let frames =
        run("ffprobe", &["-v", "error", "-select_streams", "v", "-show_entries", "frame=key_frame,pts_time", "-of", "csv=p=0", path]);
    let frames: Vec<(bool, f64)> = frames
        .lines()
        .filter_map(|line| line.trim_end_matches(',').split_once(','))
        .map(|(key, time)| (key == "1", time.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()))
        .collect();
    assert!(frames[0].0, "a clip begins with a keyframe");
    // ffmpeg adds the depth of B-frame reordering to every time where composition offsets are negative.
    assert!((0.0..0.14).contains(&frames[0].1), "and at its beginning: {}", frames[0].1);
    for (before, after) in frames.iter().zip(&frames[1..]) {
        let step = after.1 - before.1;
        assert!(step > 0.0 && step < longest_step, "a step of {step} s at {}", after.1);
    }
    Probed { duration: told[2].parse().unwrap(), frames: frames.len(), height: told[1].parse().unwrap() }
}

fn probe_clip(clip: &Kept) -> Probed {
    probe_clip_with_steps(clip, 0.15)
}

fn probe_clip_with_steps(clip: &Kept, longest_step: f64) -> Probed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mp4");
    std::fs::write(&path, &clip.bytes).unwrap();
    let probed = probe(&path, longest_step);
    let told = clip.duration.as_secs_f64();
    assert!((probed.duration - told).abs() < 0.1, "told {told} s, is {} s", probed.duration);
    assert!(clip.durations.is_sorted() && clip.durations.last() == Some(&clip.duration));
    probed
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

#[test]
fn a_clip_of_the_test_source_has_its_pre_roll_and_ends_5_s_after_the_event() {
    let shelf = Shelf::new(60);
    let media = start(&camera(Source::Test, 2), &shelf);
    wait_for_frames(&media, 60);
    media.record();
    shelf.wait_for(1);
    let clips = shelf.clips.lock().unwrap();
    let ago = clips[0].beginning.ago.as_secs_f64();
    assert_eq!((clips[0].beginning.kind, clips[0].beginning.height), (ClipKind::Manual, 360));
    assert!((1.9..4.0).contains(&ago), "2 s of pre-roll, at a keyframe: {ago}");
    let probed = probe_clip(&clips[0]);
    assert!((ago + 4.0..ago + 6.0).contains(&probed.duration), "{} s", probed.duration);
    assert!((probed.frames as f64 - probed.duration * 15.0).abs() < 3.0, "{} frames in {} s", probed.frames, probed.duration);
    let kbit_s = clips[0].bytes.len() as f64 * 0.008 / probed.duration;
    assert!((500.0..2000.0).contains(&kbit_s), "about 1 Mbit/s: {kbit_s}");
    assert!(clips[0].durations.len() >= 5, "fragments come as they are made, not at the end");
    let status = media.status();
    assert_eq!((status.clips_recorded, status.stream.dropped, status.stream.restarts, status.stream.fault), (1, 0, 0, None));
    assert!(media.stop(Duration::from_secs(5)));
}

#[test]
fn a_clip_ends_at_the_longest_allowed_however_long_the_motion_lasts() {
    let shelf = Shelf::new(3);
    let media = start(&config::Media { motion: Motion::Every(Duration::from_millis(200)), ..camera(Source::Test, 5) }, &shelf);
    shelf.wait_for(3);
    media.stop(Duration::from_secs(5));
    let clips = shelf.clips.lock().unwrap();
    for clip in &clips[..3] {
        let probed = probe_clip(clip);
        assert!(clip.duration <= Duration::from_secs(3) && probed.duration > 2.0, "{} s", probed.duration);
        assert!(clip.beginning.ago <= Duration::from_secs(2), "the event itself must fit");
    }
}

#[test]
fn a_verdict_shortens_a_clip_or_ends_it_without_a_trace() {
    let shelf = Shelf::new(60);
    shelf.erase_at.store(2, Ordering::Relaxed);
    let media = start(&camera(Source::Test, 1), &shelf);
    wait_for_frames(&media, 20);
    media.record();
    eventually("the clip is gone", || media.status().clips_erased == 1);
    assert_eq!((shelf.dropped.load(Ordering::Relaxed), shelf.clips.lock().unwrap().len()), (1, 0));

    shelf.erase_at.store(usize::MAX, Ordering::Relaxed);
    media.record();
    eventually("the next clip has begun", || shelf.begun.load(Ordering::Relaxed) == 2);
    *shelf.max.lock().unwrap() = Some(Duration::from_secs(2));
    shelf.wait_for(1);
    assert!(shelf.clips.lock().unwrap()[0].duration <= Duration::from_secs(2));
    assert_eq!(media.status().clips_recorded, 1);
}

#[test]
fn a_plan_that_changes_between_two_fragments_ends_the_clip_at_its_new_limit() {
    let shelf = Shelf::new(60);
    let media = start(&camera(Source::Test, 1), &shelf);
    wait_for_frames(&media, 20);
    shelf.cut_soon.store(true, Ordering::Relaxed);
    media.record();
    shelf.wait_for(1);
    let (clip, max) = (&shelf.clips.lock().unwrap()[0], shelf.max.lock().unwrap().unwrap());
    assert!(clip.duration <= max && clip.duration + Duration::from_millis(200) > max, "{:?} of {max:?}", clip.duration);
    probe_clip(clip);
}

#[test]
fn a_stalled_outlet_never_stops_the_trunk() {
    let shelf = Shelf::new(60);
    shelf.stall(true);
    let media = start(&camera(Source::Test, 1), &shelf);
    wait_for_frames(&media, 20);
    media.record();
    eventually("the clip has begun", || media.status().clip_running);
    let before = media.status().stream.frames;
    wait_for_frames(&media, before + 60);
    assert_eq!(media.status().stream.dropped, 0);
    assert!(media.status().stream.last_frame_age_ms.unwrap() < 1000);
    assert!(!media.stop(Duration::from_millis(300)), "the thread that hangs in the outlet is told of, not waited for");
    assert!(media.status().stream.frames >= before + 60, "the last status stays readable");
    shelf.stall(false);
    shelf.wait_for(1);
}

#[test]
fn while_no_clip_may_begin_none_does_and_the_stream_runs() {
    let shelf = Shelf::new(60);
    *shelf.max.lock().unwrap() = None;
    let media = start(&config::Media { motion: Motion::Every(Duration::from_millis(100)), ..camera(Source::Test, 1) }, &shelf);
    wait_for_frames(&media, 30);
    eventually("events were refused", || media.status().clips_refused > 5);
    assert_eq!(shelf.begun.load(Ordering::Relaxed), 0);
}

#[test]
fn a_forgotten_pre_roll_is_in_no_clip() {
    let shelf = Shelf::new(60);
    let media = start(&camera(Source::Test, 5), &shelf);
    wait_for_frames(&media, 70);
    media.forget();
    let forgotten = Instant::now();
    media.record();
    eventually("the clip has begun", || shelf.begun.load(Ordering::Relaxed) == 1);
    let since = forgotten.elapsed();
    media.stop(Duration::from_secs(5));
    shelf.wait_for(1);
    let ago = shelf.clips.lock().unwrap()[0].beginning.ago;
    assert!(ago < since, "{ago:?}");
    assert!(since < Duration::from_secs(4), "too slow to tell from the pre-roll forgotten");
}

#[test]
fn a_clip_of_the_account_before_is_gone_even_if_the_outlet_was_not_told() {
    let shelf = Shelf::new(60);
    let media = start(&camera(Source::Test, 2), &shelf);
    wait_for_frames(&media, 30);
    media.record();
    eventually("the clip has begun", || shelf.begun.load(Ordering::Relaxed) == 1);
    media.forget();
    eventually("it is gone", || media.status().clips_erased == 1);
    assert_eq!((shelf.dropped.load(Ordering::Relaxed), shelf.clips.lock().unwrap().len()), (1, 0));
}

#[test]
fn a_file_is_looped_in_real_time_with_timestamps_that_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for (name, min_fps) in [("loop.mp4", 14.0), ("loop.264", 14.0)] {
        let shelf = Shelf::new(60);
        let began = Instant::now();
        let media = start(&camera(Source::File(recorded(&dir, name, 2)), 4), &shelf);
        wait_for_frames(&media, 75);
        let rate = 75.0 / began.elapsed().as_secs_f64();
        assert!(rate < 17.0, "{name}: faster than real time: {rate} fps");
        media.record();
        shelf.wait_for(1);
        let clips = shelf.clips.lock().unwrap();
        let probed = probe_clip(&clips[0]);
        assert!(probed.duration > 8.0, "{name}: {} s, several times around", probed.duration);
        let fps = probed.frames as f64 / probed.duration;
        assert!((min_fps..16.0).contains(&fps), "{name}: {fps} fps");
        assert_eq!((media.status().stream.restarts, media.status().stream.dropped), (0, 0), "{name}");
    }
}

#[test]
fn a_stream_too_tall_for_the_plan_gives_way_to_the_low_one() {
    let shelf = Shelf::new(2);
    shelf.tallest.store(200, Ordering::Relaxed);
    let low = "videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=15/1 ! openh264enc gop-size=15";
    let media = start(&config::Media { low_source: Some(Source::Launch(low.into())), ..camera(Source::Test, 1) }, &shelf);
    eventually("both streams run", || media.status().stream.frames > 30 && media.status().low.is_some_and(|low| low.frames > 30));
    media.record();
    shelf.wait_for(1);
    assert_eq!(probe_clip(&shelf.clips.lock().unwrap()[0]).height, 180);
}

#[test]
fn motion_comes_with_a_snapshot_if_the_plan_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("motion.sock");
    let shelf = Shelf::new(3);
    shelf.snapshots.store(true, Ordering::Relaxed);
    let media = start(&config::Media { motion: Motion::Socket(path.clone()), ..camera(Source::Test, 1) }, &shelf);
    wait_for_frames(&media, 20);
    UnixStream::connect(&path).unwrap().write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").unwrap();
    shelf.wait_for(2);
    let clips = shelf.clips.lock().unwrap();
    assert_eq!((clips[0].beginning.kind, clips[1].beginning.kind), (ClipKind::Snapshot, ClipKind::Motion));
    assert_eq!(probe_clip(&clips[0]).frames, 1);
    probe_clip(&clips[1]);
}

#[test]
fn the_built_in_eye_sees_movement_and_nothing_in_a_still_picture() {
    let launch = |pattern: &str| {
        let raw = "video/x-raw,width=640,height=360,framerate=15/1";
        Source::Launch(format!("videotestsrc is-live=true pattern={pattern} ! {raw} ! openh264enc gop-size=8 bitrate=1000000").into())
    };
    let start_eye = |source| start(&config::Media { motion: Motion::BuiltIn, ..camera(source, 1) }, &Shelf::new(1));
    assert_eq!(built_in_available(&launch("ball")), Ok(()));
    let (still, moving, raw) = (start_eye(launch("smpte75")), start_eye(launch("ball")), start_eye(Source::Test));
    for media in [&moving, &raw] {
        eventually("motion was seen", || media.status().motion_events >= 2);
    }
    wait_for_frames(&still, 60);
    assert_eq!(still.status().motion_events, 0);
}

/// Ends with the test.
struct Camera {
    child: Child,
    url: String,
}

impl Camera {
    fn start(port: u16) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/assets/rtsp_server.py");
        let mut child = Command::new(script)
            .args(["--port", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("rtsp://"), "the RTSP server did not start; is gir1.2-gst-rtsp-server-1.0 installed?");
        Self { child, url: url.trim().into() }
    }

    fn port(&self) -> u16 {
        self.url.split([':', '/']).nth(4).unwrap().parse().unwrap()
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Scenario 73, with a server nobody here wrote.
#[test]
fn s73_a_stream_resumes_when_its_rtsp_server_is_back() {
    let server = Camera::start(0);
    let (port, url) = (server.port(), server.url.clone());
    let shelf = Shelf::new(4);
    let media = start(&camera(Source::Rtsp(url.into()), 1), &shelf);
    wait_for_frames(&media, 40);
    media.record();
    shelf.wait_for(1);
    drop(server);
    eventually("the fault is told", || media.status().stream.fault.is_some());
    media.record();
    let before = media.status().stream.frames;
    let _server = Camera::start(port);
    wait_for_frames(&media, before + 40);
    eventually("the fault is over", || media.status().stream.fault.is_none());
    assert!(media.status().stream.restarts > 0);
    media.record();
    shelf.wait_for(2);
    assert!(media.stop(Duration::from_secs(5)));
    let clips = shelf.clips.lock().unwrap();
    probe_clip(&clips[0]);
    // It spans the outage.
    probe_clip_with_steps(&clips[1], 6.0);
}

/// A server that hangs says nothing at all: only the age of the last frame tells.
#[test]
fn s73_a_silent_source_is_found_and_resumes() {
    let server = Camera::start(0);
    let media = start(&camera(Source::Rtsp(server.url.clone().into()), 1), &Shelf::new(4));
    wait_for_frames(&media, 10);
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    eventually("the silence is told", || media.status().stream.fault.is_some_and(|fault| fault.contains("no frame for")));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let before = media.status().stream.frames;
    wait_for_frames(&media, before + 10);
    eventually("the fault is over", || media.status().stream.fault.is_none());
    assert!(media.stop(Duration::from_secs(5)));
}

#[test]
fn a_camera_that_is_not_plugged_in_is_a_fault_and_is_tried_again() {
    let media = start(&camera(Source::V4l2("/dev/no-such-camera".into()), 1), &Shelf::new(4));
    eventually("it was tried again", || media.status().stream.restarts >= 2);
    let fault = media.status().stream.fault.unwrap();
    assert!(fault.contains("/dev/no-such-camera"), "{fault}");
    assert!(media.stop(Duration::from_secs(5)));
}

#[test]
fn stops_within_5_s_even_while_a_camera_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtsp://127.0.0.1:{}/stream", silent.local_addr().unwrap().port());
    let media = start(&camera(Source::Rtsp(url.into()), 1), &Shelf::new(10));
    let _asked = silent.accept().unwrap();
    assert!(media.stop(Duration::from_secs(5)));
}

#[test]
fn a_description_that_cannot_work_is_named_and_everything_else_runs() {
    let conditions = Conditions::default();
    let low = Some(Source::Launch("nosuchsrc ! h264parse".into()));
    let config = config::Media { low_source: low, ..camera(Source::Test, 1) };
    let media = Media::start(&config, None, Arc::new(Door(Shelf::new(10))), conditions.clone()).unwrap();
    eventually("the element is named", || named(&conditions, "low_stream").is_some_and(|sentence| sentence.contains("nosuchsrc")));
    wait_for_frames(&media, 10);
    assert_eq!(named(&conditions, "stream"), None);
}

/// The sentence of a condition that holds.
fn named(conditions: &Conditions, name: &str) -> Option<String> {
    let now = care_engine::trusted_time::Now::default();
    conditions.list(now).into_iter().find(|condition| condition.name == name).map(|condition| condition.sentence)
}

#[test]
fn a_source_that_is_tried_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let picture = try_source(&Source::File(recorded(&dir, "tried.mp4", 1)), PATIENCE).unwrap();
    assert_eq!(picture.to_string(), "640x360, H.264 High");
    assert!(motion::built_in::DECODERS.contains(&picture.try_motion().unwrap()));
    let fault = try_source(&Source::File("/no/such/file".into()), Duration::from_millis(100)).unwrap_err();
    assert!(fault.contains("/no/such/file"), "{fault}");
}

/// Scenario 72.
#[test]
fn s72_without_its_card_the_camera_goes_on_and_recording_resumes_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let card = dir.path().join("recordings");
    let shelf = Shelf::new(3);
    let recording = config::Recording { dir: card.clone(), max_bytes: 100_000_000, kept_off: Vec::new() };
    let media = Media::start(&camera(Source::Test, 1), Some(&recording), Arc::new(Door(shelf.clone())), Conditions::default()).unwrap();
    let told = |media: &Media| media.status().recording.unwrap();
    eventually("the fault is told", || told(&media).fault.is_some());
    wait_for_frames(&media, 20);
    media.record();
    shelf.wait_for(1);
    std::fs::create_dir(&card).unwrap();
    eventually("recording resumes", || told(&media).fault.is_none() && told(&media).frames > 30);
    assert!(told(&media).dropped > 0, "what was lost is counted");
    std::fs::remove_dir_all(&card).unwrap();
    eventually("the card's loss is told", || told(&media).fault.is_some());
    std::fs::create_dir(&card).unwrap();
    let before = told(&media).frames;
    eventually("recording resumes again", || told(&media).fault.is_none() && told(&media).frames > before + 30);
    assert_eq!(media.status().stream.dropped, 0);
    assert!(media.stop(Duration::from_secs(5)));
    let files: Vec<PathBuf> = std::fs::read_dir(&card).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let whole = probe(&files[0], 0.15).frames;
    assert!(whole > 30);
    // The card pulled in the middle of a write: what was written plays.
    let bytes = std::fs::read(&files[0]).unwrap();
    let torn = dir.path().join("torn.mp4");
    std::fs::write(&torn, &bytes[..bytes.len() * 3 / 4]).unwrap();
    let count = ["-v", "fatal", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", torn.to_str().unwrap()];
    let plays: usize = run("ffprobe", &count).trim().parse().unwrap();
    assert!(plays >= whole / 2 && plays < whole, "{plays} of {whole} frames");
}
