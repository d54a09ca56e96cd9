//! Records clips on a thread of its own: follows the pre-roll ring of a stream and hands fragments to the outlet. A slow outlet
//! costs this clip frames, never the camera.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use care_protocol::ClipKind;
use portable_atomic::AtomicU64;

use super::{
    Beginning, ClipWriter, MediaError, Outlet, Verdict,
    drops::DropCounters,
    frame::Frame,
    motion::Event,
    mp4::{Fragment, Mp4},
    ring::{Next, Ring},
    source::FrameSource,
    stop_signal::StopSignal,
};

/// A clip ends this long after its last event.
const AFTER: Duration = Duration::from_secs(5);
/// How long a clip waits for its first keyframe.
const FIRST_KEYFRAME: Duration = Duration::from_secs(5);
/// A clip whose stream is silent this long ends with what it has.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a quiet stream is left to check events and the stop signal.
const TICK: Duration = Duration::from_millis(200);

/// What became of the events.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub running: AtomicBool,
    pub recorded: AtomicU64,
    pub erased: AtomicU64,
    pub refused: AtomicU64,
}

/// One stream to record from.
pub(super) struct Stream {
    pub ring: Arc<Ring>,
    pub source: Arc<dyn FrameSource>,
    /// The GOP in which the last clip ended: the next clip begins no earlier.
    taken_until: u64,
}

impl Stream {
    pub fn new(ring: Arc<Ring>, source: Arc<dyn FrameSource>) -> Self {
        Self { ring, source, taken_until: 0 }
    }
}

/// The state of the thread.
pub(super) struct Recorder {
    pub outlet: Arc<dyn Outlet>,
    /// The best first. The recorder tries the next one when the outlet refuses.
    pub streams: Vec<Stream>,
    pub pre_roll: Duration,
    pub events: mpsc::Receiver<Event>,
    pub counts: Arc<Counts>,
    pub drops: DropCounters,
    pub stop: StopSignal,
}

/// A clip being recorded.
struct Clip {
    file: Mp4,
    writer: Box<dyn ClipWriter>,
    max: Duration,
    /// When it ends, unless there is another event.
    ends: Instant,
    ring: Arc<Ring>,
    /// How often the ring had been erased before the clip began.
    erasures: u64,
}

/// The clip was erased: nothing more may be done with it.
struct Erased;

impl Recorder {
    pub fn start(mut self) -> Result<JoinHandle<()>, MediaError> {
        let run = move || {
            while !self.stop.is_raised() {
                if let Ok(event) = self.events.recv_timeout(TICK) {
                    self.handle(event);
                }
                self.drops.expire();
            }
        };
        crate::threads::named("media-clip").spawn(run).map_err(MediaError::Thread)
    }

    fn handle(&mut self, event: Event) {
        if event.kind == ClipKind::Motion {
            self.snapshot();
        }
        let Some((stream, mut clip, position)) = self.begin(event) else {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.counts.running.store(true, Ordering::Relaxed);
        let end = self.record(stream, &mut clip, position);
        self.counts.running.store(false, Ordering::Relaxed);
        match end.and_then(|()| clip.finish()) {
            Ok(()) => self.counts.recorded.fetch_add(1, Ordering::Relaxed),
            Err(Erased) => self.counts.erased.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Finds the stream and the keyframe to begin with, and asks the outlet.
    fn begin(&mut self, event: Event) -> Option<(usize, Clip, u64)> {
        for (index, stream) in self.streams.iter().enumerate() {
            let allowed = self.outlet.clip_max()?;
            let (ring, erasures) = (stream.ring.clone(), stream.ring.erasures());
            let Some((mut position, first)) = self.first_frame(stream, allowed) else { continue };
            let beginning = Beginning { kind: event.kind, ago: first.taken.elapsed(), height: first.format.height.into() };
            let Some((writer, max)) = self.outlet.begin(beginning) else { continue };
            position += 1;
            let clip = Clip { file: Mp4::begin(first), writer, max, ends: event.at + AFTER, ring, erasures };
            return Some((index, clip, position));
        }
        None
    }

    /// The first frame of the pre-roll: young enough that the event, and if possible what follows it, fits into the clip.
    fn first_frame(&self, stream: &Stream, allowed: Duration) -> Option<(u64, Frame)> {
        let budget = allowed.saturating_sub(AFTER.min(allowed / 2));
        if let Some(at) = stream.ring.start(self.pre_roll, budget, stream.taken_until) {
            return stream.ring.at(at).map(|frame| (at, frame));
        }
        // No pre-roll: begin with the next keyframe.
        stream.source.request_keyframe();
        let (began, mut position) = (Instant::now(), stream.ring.end());
        while began.elapsed() < FIRST_KEYFRAME && !self.stop.is_raised() {
            if let Next::Frame { frame, .. } = stream.ring.next(&mut position, TICK)
                && frame.key
            {
                return Some((position - 1, frame));
            }
        }
        None
    }

    fn record(&mut self, stream: usize, clip: &mut Clip, mut position: u64) -> Result<(), Erased> {
        let Some(stream) = self.streams.get_mut(stream) else { return Ok(()) };
        stream.taken_until = position - 1;
        let mut last_frame = Instant::now();
        while !self.stop.is_raised() {
            for event in self.events.try_iter() {
                clip.ends = clip.ends.max(event.at + AFTER);
            }
            match stream.ring.next(&mut position, TICK) {
                Next::Frame { frame, lost } => {
                    self.drops.add("into a clip", lost);
                    last_frame = Instant::now();
                    let verdict = clip.writer.limit();
                    clip.obey(verdict)?;
                    let new_format = frame.format != *clip.file.format();
                    if frame.taken > clip.ends || new_format || clip.file.reach(&frame) > clip.max {
                        return Ok(());
                    }
                    if frame.key {
                        stream.taken_until = position - 1;
                    }
                    if let Some(fragment) = clip.file.push(frame) {
                        clip.append(fragment)?;
                    }
                }
                Next::Quiet if last_frame.elapsed() > SILENCE => return Ok(()),
                Next::Quiet => {}
            }
        }
        Ok(())
    }

    /// Records one picture at the start of an event: the newest keyframe, as a file of one frame.
    fn snapshot(&self) {
        for stream in &self.streams {
            let (ring, erasures) = (stream.ring.clone(), stream.ring.erasures());
            let newest = stream.ring.newest_key().and_then(|at| stream.ring.at(at));
            let Some(frame) = newest else { continue };
            let beginning = Beginning { kind: ClipKind::Snapshot, ago: frame.taken.elapsed(), height: frame.format.height.into() };
            let Some((writer, max)) = self.outlet.begin(beginning) else { continue };
            let picture = Clip { file: Mp4::begin(frame), writer, max: max.max(AFTER), ends: Instant::now(), ring, erasures };
            // A snapshot that is erased already needs nothing more.
            let _ = picture.finish();
            return;
        }
    }
}

impl Clip {
    fn append(&mut self, fragment: Fragment) -> Result<(), Erased> {
        self.check_account()?;
        let verdict = self.writer.append(fragment.bytes, fragment.duration);
        self.obey(verdict)
    }

    fn obey(&mut self, verdict: Verdict) -> Result<(), Erased> {
        match verdict {
            Verdict::Continue { max } => {
                self.max = max;
                Ok(())
            }
            Verdict::Erased => Err(Erased),
        }
    }

    /// Fails once the ring was erased for another account, even if the outlet does not know yet.
    fn check_account(&self) -> Result<(), Erased> {
        if self.ring.erasures() == self.erasures { Ok(()) } else { Err(Erased) }
    }

    fn finish(mut self) -> Result<(), Erased> {
        if let Some(fragment) = self.file.finish(self.max) {
            self.append(fragment)?;
        }
        self.check_account()?;
        let duration = self.file.duration();
        self.writer.finish(duration);
        tracing::debug!(duration_ms = duration.as_millis() as u64, "clip recorded");
        Ok(())
    }
}
