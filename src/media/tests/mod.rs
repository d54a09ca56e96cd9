//! Media with sources that a test scripts: no GStreamer, so these run in every build. The tests of `gstreamer` use the outlet
//! and the probes of this file too.

mod clips;
mod gops;
mod live;
mod recording;
pub(super) mod scripted;
mod snapshots;
mod sound;
mod streams;

use std::{
    ops::Deref,
    path::Path,
    process::Command,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use care_protocol::ClipKind;

use super::*;
use crate::{
    conditions::Conditions,
    config::{self, Motion, RtspTransport, Source},
};

pub(super) const PATIENCE: Duration = Duration::from_secs(40);

/// No motion during a test.
pub(super) const NEVER: Motion = Motion::Every(Duration::from_secs(3600));

pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn wait_for_frames(media: &Media, frames: u64) {
    eventually("frames have come", || media.status().stream.frames >= frames);
}

/// Records one clip of a camera with 2 s of pre-roll and a 360-line picture, and checks all that holds for every source.
pub(super) fn records_one_clip_with_pre_roll(media: Media, collector: &Collector, frames_per_second: f64) -> Probed {
    wait_for_frames(&media, 60);
    media.record();
    collector.wait_for(1);
    let clips = collector.clips.lock().unwrap();
    let ago = clips[0].beginning.ago.as_secs_f64();
    assert_eq!((clips[0].beginning.kind, clips[0].beginning.height), (ClipKind::Manual, 360));
    assert!((1.9..4.0).contains(&ago), "2 s of pre-roll, at a keyframe: {ago}");
    let probed = probe_clip(&clips[0]);
    assert_eq!(probed.codec, "h264");
    assert!((ago + 4.0..ago + 6.0).contains(&probed.duration), "{} s", probed.duration);
    let expected = probed.duration * frames_per_second;
    assert!((probed.frames as f64 - expected).abs() < 3.0, "{} frames in {} s", probed.frames, probed.duration);
    assert!(clips[0].durations.len() >= 5, "fragments come as they are made, not at the end");
    let status = media.status();
    assert_eq!((status.clips_recorded, status.stream.dropped, status.stream.restarts, status.stream.fault), (1, 0, 0, None));
    assert!(media.stop(Duration::from_secs(5)));
    probed
}

/// The sentence of a condition that holds.
pub(super) fn named(conditions: &Conditions, name: &str) -> Option<String> {
    let now = care_engine::trusted_time::Now::default();
    conditions.list(now).into_iter().find(|condition| condition.name == name).map(|condition| condition.sentence)
}

/// The files on a card in their day folders, in order.
pub(super) fn on_card(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() { files.extend(on_card(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// An outlet that keeps every clip in memory. Clones are the same outlet.
#[derive(Clone)]
pub(super) struct Collector(Arc<Collected>);

pub(super) struct Collected {
    pub max: Mutex<Option<Duration>>,
    /// The height from which on a clip is refused.
    pub tallest: AtomicU32,
    pub snapshots: AtomicBool,
    /// The end of a pause in which no clip may begin.
    pub pause_until: Mutex<Option<Instant>>,
    /// The append at which a clip is erased.
    pub erase_at: AtomicUsize,
    /// The next append is followed by a cut that allows 400 ms more.
    pub cut_soon: AtomicBool,
    stalled: (Mutex<bool>, Condvar),
    pub clips: Mutex<Vec<Clip>>,
    pub dropped: AtomicUsize,
    pub begun: AtomicUsize,
}

pub(super) struct Clip {
    pub beginning: Beginning,
    /// When its first frame was taken.
    pub started: Instant,
    pub bytes: Vec<u8>,
    /// As given with each append.
    pub durations: Vec<Duration>,
    pub duration: Duration,
}

struct Writer {
    collector: Collector,
    clip: Option<Clip>,
}

impl Deref for Collector {
    type Target = Collected;

    fn deref(&self) -> &Collected {
        &self.0
    }
}

impl Collector {
    pub fn new(max_s: u64) -> Self {
        Self(Arc::new(Collected {
            max: Mutex::new(Some(Duration::from_secs(max_s))),
            tallest: AtomicU32::new(u32::MAX),
            snapshots: AtomicBool::new(false),
            pause_until: Mutex::default(),
            erase_at: AtomicUsize::new(usize::MAX),
            cut_soon: AtomicBool::new(false),
            stalled: (Mutex::new(false), Condvar::new()),
            clips: Mutex::default(),
            dropped: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
        }))
    }

    pub fn stall(&self, stalled: bool) {
        *self.stalled.0.lock().unwrap() = stalled;
        self.stalled.1.notify_all();
    }

    pub fn wait_for(&self, clips: usize) {
        eventually("a clip is complete", || self.clips.lock().unwrap().len() >= clips);
    }
}

impl Outlet for Collector {
    fn begin(&self, beginning: Beginning) -> Option<(Box<dyn ClipWriter>, Duration)> {
        let allowed = match beginning.kind {
            ClipKind::Snapshot => self.tallest_snapshot().is_some_and(|tallest| beginning.height <= tallest),
            _ => beginning.height <= self.tallest.load(Ordering::Relaxed),
        };
        let started = Instant::now().checked_sub(beginning.ago).unwrap();
        let paused = self.pause_until.lock().unwrap().is_some_and(|until| started < until);
        let max = (*self.max.lock().unwrap()).filter(|_| allowed && !paused)?;
        self.begun.fetch_add(1, Ordering::Relaxed);
        let clip = Clip { beginning, started, bytes: Vec::new(), durations: Vec::new(), duration: Duration::ZERO };
        Some((Box::new(Writer { collector: self.clone(), clip: Some(clip) }), max))
    }

    fn clip_max(&self) -> Option<Duration> {
        *self.max.lock().unwrap()
    }

    fn tallest_snapshot(&self) -> Option<u32> {
        self.snapshots.load(Ordering::Relaxed).then(|| self.tallest.load(Ordering::Relaxed))
    }
}

impl ClipWriter for Writer {
    fn limit(&self) -> Verdict {
        Verdict::Continue { max: self.collector.max.lock().unwrap().unwrap() }
    }

    fn append(&mut self, fragment: Bytes, duration: Duration) -> Verdict {
        let stalled = self.collector.stalled.0.lock().unwrap();
        drop(self.collector.stalled.1.wait_while(stalled, |stalled| *stalled).unwrap());
        let clip = self.clip.as_mut().unwrap();
        clip.bytes.extend_from_slice(&fragment);
        clip.durations.push(duration);
        if clip.durations.len() >= self.collector.erase_at.load(Ordering::Relaxed) {
            return Verdict::Erased;
        }
        let mut max = self.collector.max.lock().unwrap();
        let verdict = Verdict::Continue { max: max.unwrap() };
        if self.collector.cut_soon.swap(false, Ordering::Relaxed) {
            *max = Some(duration + Duration::from_millis(400));
        }
        verdict
    }

    fn finish(mut self: Box<Self>, duration: Duration) {
        let mut clip = self.clip.take().unwrap();
        clip.duration = duration;
        self.collector.clips.lock().unwrap().push(clip);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.clip.is_some() {
            self.collector.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What ffprobe and ffmpeg say of a file.
pub(super) struct Probed {
    /// As ffprobe calls it.
    pub codec: String,
    pub duration: f64,
    pub frames: usize,
    pub height: u32,
}

pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{program} {arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every frame decodes without a complaint, the first is a keyframe, presentation times rise, by `longest_step` seconds at most.
pub(super) fn probe(path: &Path, longest_step: f64) -> Probed {
    let path = path.to_str().unwrap();
    run("ffmpeg", &["-v", "error", "-i", path, "-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-f", "null", "-"]);
    let told = run(
        "ffprobe",
        &["-v", "error", "-select_streams", "v", "-show_entries", "stream=codec_name,height:format=duration", "-of", "default=nk=1", path],
    );
    let told: Vec<&str> = told.lines().filter(|line| !line.starts_with('[')).collect();
    let frames =
        run("ffprobe", &["-v", "error", "-select_streams", "v", "-show_entries", "frame=key_frame,pts_time", "-of", "csv=p=0", path]);
    let frames: Vec<(bool, f64)> = frames
        .lines()
        .filter_map(|line| line.trim_end_matches(',').split_once(','))
        .map(|(key, time)| (key == "1", time.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()))
        .collect();
    assert!(frames[0].0, "a clip begins with a keyframe");
    assert!(frames[0].1.abs() < 0.001, "and at its beginning: {}", frames[0].1);
    for (before, after) in frames.iter().zip(&frames[1..]) {
        let step = after.1 - before.1;
        assert!(step > 0.0 && step < longest_step, "a step of {step} s at {}", after.1);
    }
    Probed { codec: told[0].to_owned(), duration: told[2].parse().unwrap(), frames: frames.len(), height: told[1].parse().unwrap() }
}

pub(super) fn probe_clip(clip: &Clip) -> Probed {
    probe_clip_with_steps(clip, 0.15)
}

pub(super) fn probe_clip_with_steps(clip: &Clip, longest_step: f64) -> Probed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mp4");
    std::fs::write(&path, &clip.bytes).unwrap();
    let probed = probe(&path, longest_step);
    let told = clip.duration.as_secs_f64();
    assert!((probed.duration - told).abs() < 0.1, "told {told} s, is {} s", probed.duration);
    assert!(clip.durations.is_sorted() && clip.durations.last() == Some(&clip.duration));
    probed
}
