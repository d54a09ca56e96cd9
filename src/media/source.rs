//! The seam between media and whatever delivers frames. A [`FrameSource`] knows one way to get them (GStreamer is one); it knows
//! nothing of rings, clips, retries or conditions. The supervisor calls it and hands it a [`Session`], to which it delivers.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use portable_atomic::AtomicU64;

use super::{
    drops::DropCounters,
    frame::{Format, Frame},
    motion::onvif::MetadataSink,
    ring::Ring,
    rtp::reason,
    sound::{Sound, SoundFormat, Waiting},
    stop_signal::StopSignal,
};

/// Delivers the frames of one camera stream.
///
/// ```
/// use std::time::Duration;
///
/// use kasa_care_agent::media::{FrameSource, Session, SourceError};
///
/// /// A camera that is never there.
/// struct Absent;
///
/// impl FrameSource for Absent {
///     fn run(&self, session: &Session) -> Result<(), SourceError> {
///         // A real one connects and calls `session.frame` until `session.is_over`.
///         session.wait(Duration::from_millis(10));
///         Err(SourceError::Failed("nobody answers".into()))
///     }
/// }
/// ```
pub trait FrameSource: Send + Sync + 'static {
    /// Opens the source and delivers frames to `session` until [`Session::is_over`], on the calling thread, which it may block.
    /// The supervisor calls it again, with a new session and after a pause, for as long as the agent runs. It gives a source
    /// that falls silent, or is told to end, five seconds to return; after that it ignores the session and its thread.
    ///
    /// # Errors
    /// Why there are no more frames. `Ok` before the session is over means that the source has ended.
    fn run(&self, session: &Session) -> Result<(), SourceError>;

    /// Asks the encoder for a keyframe as soon as possible. Called from any thread. A source that cannot ask ignores it.
    fn request_keyframe(&self) {}
}

/// Why a source delivers no frames. The text may quote the source's URL: the supervisor removes the secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The camera is away or has failed: trying again soon may help.
    #[error("{0}")]
    Failed(String),
    /// Frames came, and the connection broke: it is tried again at once.
    #[error("{0}")]
    Interrupted(String),
    /// Something must be installed, or the configuration corrected: it is tried again, less often.
    #[error("{0}")]
    Unusable(String),
}

/// Receives small grey pictures: [`GREY_WIDTH`]×[`GREY_HEIGHT`], one byte a pixel, row by row.
pub type GreySink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Width of a small grey picture, pixels.
pub const GREY_WIDTH: usize = 64;
/// Height of a small grey picture, pixels.
pub const GREY_HEIGHT: usize = 36;

/// The first frame of a session is shown at least this long after the last frame of the session before.
const SHORTEST_STEP: Duration = Duration::from_millis(1);

/// Sound that has been announced and has not come when so many frames have is told.
const SOUND_IS_LATE: u64 = 60;

/// One run of a source. Clones are the same session. Once it is over it takes nothing more, whoever still delivers.
#[derive(Clone)]
pub struct Session {
    stream: Arc<Stream>,
    /// Raised when this session ends, and when the agent stops.
    over: StopSignal,
    /// Where this session begins on the stream's timeline.
    offset: Duration,
    /// Whether the source delivers grey pictures in this session.
    gives_grey: Arc<AtomicBool>,
    metadata: Option<MetadataSink>,
}

/// What the sessions of one stream share: where frames go, and the counters.
pub(super) struct Stream {
    rings: Vec<Arc<Ring>>,
    grey: Option<GreySink>,
    metadata: Option<MetadataSink>,
    drops: DropCounters,
    pub counters: Counters,
}

/// Read by the status at any time.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub width: AtomicU32,
    pub height: AtomicU32,
    pub frames: AtomicU64,
    pub dropped: AtomicU64,
    /// Those that were handed on.
    pub used: AtomicU64,
    /// Access units of sound that came, or should have, and are in no recording.
    pub sound_lost: AtomicU64,
    /// RTP packets that came after they had been given up.
    pub packets_late: AtomicU64,
    /// Whether the newest session delivers grey pictures.
    pub gives_grey: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    last_frame: Option<Instant>,
    /// The latest presentation time so far, on the stream's timeline.
    latest: Option<Duration>,
    /// That of the newest frame handed on.
    format: Option<Arc<Format>>,
    /// A frame is missing: what comes before the next keyframe cannot be decoded.
    incomplete: bool,
    /// Why the last frames were lost, if none has been handed on since.
    lost: Option<&'static str>,
    /// Sound that waits for the frame which it travels with.
    sound: Waiting,
    hearing: Hearing,
}

/// What becomes of the sound of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Hearing {
    /// The source has told nothing: there is none, or it comes without being announced.
    #[default]
    Nothing,
    /// There is sound, which is not recorded: its name, or its name and why.
    LeftOut(String),
    /// Sound that the camera has announced.
    Expected(Arc<SoundFormat>),
    /// The same, of which AAC is made here: its name.
    Encoded(String),
    /// There is sound. How it is coded is not known before it comes.
    #[cfg(feature = "gstreamer")]
    Awaited,
}

impl Counters {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn last_frame(&self) -> Option<Instant> {
        self.progress().last_frame
    }

    /// How the newest frame is coded.
    pub fn coding(&self) -> Option<String> {
        let format = self.progress().format.clone();
        format.map(|format| format.coding())
    }

    /// How sound is coded, or why it is left out. `None`: there is none.
    pub fn sound(&self) -> Option<String> {
        let progress = self.progress();
        let announced = match (&progress.hearing, progress.sound.format()) {
            (Hearing::LeftOut(what), _) => return Some(format!("left out: {what}")),
            (Hearing::Encoded(from), Some(format)) => return Some(format!("{format}, from {from}")),
            (_, Some(format)) => return Some(format.to_string()),
            (Hearing::Expected(format), None) => format.to_string(),
            (Hearing::Encoded(from), None) => format!("AAC from {from}"),
            #[cfg(feature = "gstreamer")]
            (Hearing::Awaited, None) => "sound".to_owned(),
            (Hearing::Nothing, None) => return None,
        };
        let late = self.used.load(Ordering::Relaxed) > SOUND_IS_LATE;
        Some(if late { announced + ", none has come" } else { announced })
    }

    /// Whether sound is announced, and what it becomes can be told only once some has come.
    pub fn awaits_sound(&self) -> bool {
        let progress = self.progress();
        let told = matches!(progress.hearing, Hearing::Nothing | Hearing::LeftOut(_) | Hearing::Expected(_));
        !told && progress.sound.format().is_none()
    }

    /// Why frames come and none is handed on, and whether the encoder's settings are the cause.
    pub fn why_unused(&self) -> (String, bool) {
        let lost = self.progress().lost;
        let why = lost.map_or("no keyframe has come".to_owned(), |reason| format!("they are lost {reason}"));
        (why, lost.is_none_or(reason::is_the_encoders))
    }
}

impl Stream {
    pub fn new(rings: Vec<Arc<Ring>>, grey: Option<GreySink>, drops: DropCounters) -> Self {
        Self { rings, grey, metadata: None, drops, counters: Counters::default() }
    }

    /// The same, for a camera whose ONVIF metadata somebody wants.
    pub fn with_metadata(self, metadata: Option<MetadataSink>) -> Self {
        Self { metadata, ..self }
    }

    /// A new session, which begins `at` on the stream's timeline, or later: presentation times never go back.
    pub fn session(self: &Arc<Self>, at: Duration) -> Session {
        let mut progress = self.counters.progress();
        progress.incomplete = true;
        (progress.sound, progress.hearing) = (Waiting::default(), Hearing::Nothing);
        let offset = progress.latest.map_or(at, |latest| at.max(latest + SHORTEST_STEP));
        drop(progress);
        let metadata = self.metadata.as_ref().map(MetadataSink::of_session);
        Session { stream: self.clone(), over: StopSignal::default(), offset, gives_grey: Arc::default(), metadata }
    }
}

impl Session {
    /// Delivers the next frame. Never waits. After a gap frames are dropped until the next keyframe: a decoder would show grey
    /// blocks for what refers to a missing frame.
    pub fn frame(&self, frame: Frame) {
        let counters = &self.stream.counters;
        let frame = Frame { pts: self.offset + frame.pts, ..frame };
        // Held to the end: a session that ends waits for the frame under way, so that none comes after it.
        let mut progress = counters.progress();
        if self.is_over() {
            return;
        }
        progress.last_frame = Some(Instant::now());
        counters.frames.fetch_add(1, Ordering::Relaxed);
        counters.gives_grey.store(self.gives_grey.load(Ordering::Relaxed), Ordering::Relaxed);
        progress.incomplete &= !frame.key;
        if progress.incomplete {
            counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let frame = Frame { sound: progress.sound.until(frame.pts), ..frame };
        progress.latest = progress.latest.max(Some(frame.pts));
        progress.lost = None;
        progress.format = Some(frame.format.clone());
        counters.used.fetch_add(1, Ordering::Relaxed);
        counters.width.store(frame.format.width.into(), Ordering::Relaxed);
        counters.height.store(frame.format.height.into(), Ordering::Relaxed);
        for ring in &self.stream.rings {
            ring.push(frame.clone());
        }
    }

    /// Delivers sound, which travels with the first frame that is shown after it begins. Never waits.
    pub fn sound(&self, format: &Arc<SoundFormat>, sound: Sound) {
        let mut progress = self.stream.counters.progress();
        if self.is_over() {
            return;
        }
        let lost = progress.sound.push(format, Sound { pts: self.offset + sound.pts, ..sound });
        drop(progress);
        self.stream.counters.sound_lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// So many access units of sound came, or should have, and cannot be used.
    pub fn sound_lost(&self, units: u64) {
        if !self.is_over() {
            self.stream.counters.sound_lost.fetch_add(units, Ordering::Relaxed);
        }
    }

    /// So many RTP packets came after they had been given up.
    pub(super) fn packets_late(&self, packets: u64) {
        self.stream.counters.packets_late.fetch_add(packets, Ordering::Relaxed);
    }

    /// What becomes of the sound of the stream, for the status.
    pub(super) fn hears(&self, hearing: Hearing) {
        if !self.is_over() {
            self.stream.counters.progress().hearing = hearing;
        }
    }

    /// Frames are missing before the next one, and have been counted or cannot be.
    pub fn gap(&self) {
        if !self.is_over() {
            self.stream.counters.progress().incomplete = true;
        }
    }

    /// `frames` came and could not be delivered; `reason` completes the sentence "frames were lost: 3 …".
    pub fn lost(&self, frames: u64, reason: &'static str) {
        if self.is_over() {
            return;
        }
        let counters = &self.stream.counters;
        let mut progress = counters.progress();
        progress.last_frame = Some(Instant::now());
        progress.incomplete = true;
        progress.lost = Some(reason);
        drop(progress);
        counters.frames.fetch_add(frames, Ordering::Relaxed);
        counters.dropped.fetch_add(frames, Ordering::Relaxed);
        self.stream.drops.add(reason, frames);
    }

    /// Where grey pictures go, about four a second, if anyone wants them. Optional: a source without raw pictures does not
    /// call it, and built-in motion decodes keyframes instead. Whoever calls it delivers grey pictures in this session.
    pub fn grey(&self) -> Option<GreySink> {
        let grey = self.stream.grey.clone()?;
        for gives_grey in [&self.gives_grey, &self.stream.counters.gives_grey] {
            gives_grey.store(true, Ordering::Relaxed);
        }
        let over = self.over.clone();
        Some(Arc::new(move |picture| {
            if !over.is_raised() {
                grey(picture);
            }
        }))
    }

    /// Whether anyone wants grey pictures.
    pub fn wants_grey(&self) -> bool {
        self.stream.grey.is_some()
    }

    /// Where the camera's ONVIF metadata goes, if anyone wants it.
    pub(super) fn metadata(&self) -> Option<MetadataSink> {
        self.metadata.clone()
    }

    /// Whether the source must return now.
    pub fn is_over(&self) -> bool {
        self.over.is_raised()
    }

    /// Waits as a task until it is over.
    pub(super) fn until_over(&self) -> impl Future<Output = ()> + use<> {
        self.over.raised()
    }

    /// Waits, for `patience` at most. True: the session is over.
    pub fn wait(&self, patience: Duration) -> bool {
        self.over.wait(patience)
    }

    /// Ends it. Nothing it delivers has any effect after this.
    pub(super) fn end(&self) {
        let under_way = self.stream.counters.progress();
        self.over.raise();
        drop(under_way);
        if let Some(metadata) = &self.metadata {
            metadata.over();
        }
    }
}
