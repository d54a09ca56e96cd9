//! Records clips, on a thread of its own: it follows a stream's pre-roll ring and hands fragments to the outlet. An outlet
//! that takes its time costs this clip frames, never the camera.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use care_protocol::ClipKind;

use super::{
    Beginning, ClipWriter, MediaError, Outlet, Verdict,
    frame::Frame,
    losses::Losses,
    motion::Event,
    mp4::{Fragment, Mp4},
    ring::{Next, Ring},
    stop::Stop,
    trunk::Keyframes,
};

/// A clip ends this long after its last event (section 3.7).
const AFTER: Duration = Duration::from_secs(5);
/// How long a stream that holds no keyframe is waited for.
const FIRST_KEYFRAME: Duration = Duration::from_secs(5);
/// A stream that is silent this long while a clip runs has died; the clip ends with what it has.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a quiet stream is left to look around.
const TICK: Duration = Duration::from_millis(200);

/// What has become of the events.
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
    pub keyframes: Keyframes,
    /// The GOP in which the last clip ended: the next one begins no earlier.
    taken_until: u64,
}

impl Stream {
    pub fn new(ring: Arc<Ring>, keyframes: Keyframes) -> Self {
        Self { ring, keyframes, taken_until: 0 }
    }
}

/// The thread's own.
pub(super) struct Recorder {
    pub outlet: Arc<dyn Outlet>,
    /// The best first; the next is tried when the outlet refuses.
    pub streams: Vec<Stream>,
    pub pre_roll: Duration,
    pub events: mpsc::Receiver<Event>,
    pub counts: Arc<Counts>,
    pub losses: Losses,
    pub stop: Stop,
}

/// A clip being recorded.
struct Clip {
    file: Mp4,
    writer: Box<dyn ClipWriter>,
    max: Duration,
    /// When it ends, unless something happens.
    ends: Instant,
    source: Arc<Ring>,
    /// Of the ring, before its first frame was read.
    forgotten: u64,
}

/// Erased: nothing more may be done with the clip.
struct Gone;

impl Recorder {
    pub fn start(mut self) -> Result<JoinHandle<()>, MediaError> {
        let run = move || {
            while !self.stop.is_now() {
                if let Ok(event) = self.events.recv_timeout(TICK) {
                    self.happened(event);
                }
                self.losses.look();
            }
        };
        thread::Builder::new().name("media-clip".into()).spawn(run).map_err(MediaError::Thread)
    }

    fn happened(&mut self, event: Event) {
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
            Err(Gone) => self.counts.erased.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Finds the stream and the keyframe to begin with, and asks the outlet.
    fn begin(&mut self, event: Event) -> Option<(usize, Clip, u64)> {
        for (index, stream) in self.streams.iter().enumerate() {
            let allowed = self.outlet.clip_max()?;
            let (source, forgotten) = (stream.ring.clone(), stream.ring.forgotten());
            let Some((mut position, first)) = self.first_frame(stream, allowed) else { continue };
            let beginning = Beginning { kind: event.kind, ago: first.taken.elapsed(), height: first.format.height.into() };
            let Some((writer, max)) = self.outlet.begin(beginning) else { continue };
            position += 1;
            let clip = Clip { file: Mp4::begin(first), writer, max, ends: event.at + AFTER, source, forgotten };
            return Some((index, clip, position));
        }
        None
    }

    /// The pre-roll's first frame: at most so old that the event, and if possible what follows it, still fits.
    fn first_frame(&self, stream: &Stream, allowed: Duration) -> Option<(u64, Frame)> {
        let budget = allowed.saturating_sub(AFTER.min(allowed / 2));
        if let Some(at) = stream.ring.start(self.pre_roll, budget, stream.taken_until) {
            return stream.ring.at(at).map(|frame| (at, frame));
        }
        // No pre-roll: begin with the next keyframe.
        stream.keyframes.ask();
        let (began, mut position) = (Instant::now(), stream.ring.end());
        while began.elapsed() < FIRST_KEYFRAME && !self.stop.is_now() {
            if let Next::Frame { frame, .. } = stream.ring.next(&mut position, TICK) {
                if frame.key {
                    return Some((position - 1, frame));
                }
            }
        }
        None
    }

    fn record(&mut self, stream: usize, clip: &mut Clip, mut position: u64) -> Result<(), Gone> {
        let Some(stream) = self.streams.get_mut(stream) else { return Ok(()) };
        stream.taken_until = position - 1;
        let mut last_frame = Instant::now();
        while !self.stop.is_now() {
            for event in self.events.try_iter() {
                clip.ends = clip.ends.max(event.at + AFTER);
            }
            match stream.ring.next(&mut position, TICK) {
                Next::Frame { frame, lost } => {
                    self.losses.add("into a clip", lost);
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

    /// One picture at the start of an event: the newest keyframe, as a file of one frame.
    fn snapshot(&self) {
        for stream in &self.streams {
            let (source, forgotten) = (stream.ring.clone(), stream.ring.forgotten());
            let newest = stream.ring.newest_key().and_then(|at| stream.ring.at(at));
            let Some(frame) = newest else { continue };
            let beginning = Beginning { kind: ClipKind::Snapshot, ago: frame.taken.elapsed(), height: frame.format.height.into() };
            let Some((writer, max)) = self.outlet.begin(beginning) else { continue };
            let picture = Clip { file: Mp4::begin(frame), writer, max: max.max(AFTER), ends: Instant::now(), source, forgotten };
            // Erased already is as good as never taken.
            let _ = picture.finish();
            return;
        }
    }
}

impl Clip {
    fn append(&mut self, fragment: Fragment) -> Result<(), Gone> {
        self.is_of_this_account()?;
        let verdict = self.writer.append(fragment.bytes, fragment.duration);
        self.obey(verdict)
    }

    fn obey(&mut self, verdict: Verdict) -> Result<(), Gone> {
        match verdict {
            Verdict::Continue { max } => {
                self.max = max;
                Ok(())
            }
            Verdict::Erased => Err(Gone),
        }
    }

    /// Whatever the outlet has been told meanwhile.
    fn is_of_this_account(&self) -> Result<(), Gone> {
        if self.source.forgotten() == self.forgotten { Ok(()) } else { Err(Gone) }
    }

    fn finish(mut self) -> Result<(), Gone> {
        if let Some(fragment) = self.file.finish(self.max) {
            self.append(fragment)?;
        }
        self.is_of_this_account()?;
        let duration = self.file.duration();
        self.writer.finish(duration);
        tracing::debug!(duration_ms = duration.as_millis() as u64, "clip recorded");
        Ok(())
    }
}
