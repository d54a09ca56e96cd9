//! Puts the parts together (streams, motion, clips, recording) and takes them down again. It is the same in every build:
//! frames come from any [`FrameSource`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use care_protocol::ClipKind;

use super::{
    MediaError, MediaStatus, Outlet, backend, clip,
    drops::DropCounters,
    live::Live,
    motion::{
        self, Events, bitstream,
        built_in::{self, KeyframeWatch},
        onvif::{self, MetadataSink},
    },
    recent::Recent,
    recording,
    ring::Ring,
    snapshot::{self, Snapshots},
    source::{FrameSource, GreySink, Session, SourceError, Stream},
    stop_signal::StopSignal,
    supervisor::{Machine, Role, Supervised, Supervisor},
};
use crate::{
    conditions::{Conditions, Kind},
    config::{self, Motion},
};

/// What to do where no decoder is.
const WITHOUT_DECODER: &str = "Write [media] motion = \"bitstream\", or \"socket:/run/kasa-care-agent/motion.sock\" and have the camera's own software \
     report motion there.";

/// A running camera. Dropping it stops it.
pub struct Media {
    outlet: Arc<dyn Outlet>,
    events: Events,
    /// Those with pre-roll, the best first.
    rings: Vec<Arc<Ring>>,
    clips: Arc<clip::Counts>,
    recording: Option<Arc<recording::Counts>>,
    recent: Arc<Recent>,
    live: Live,
    snapshots: Arc<snapshot::Counts>,
    stop: StopSignal,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    main: Option<Supervised>,
    low: Option<Supervised>,
    threads: Vec<JoinHandle<()>>,
    /// As it was when the camera was stopped.
    last: MediaStatus,
}

/// Where the frames of a camera come from.
pub struct Sources {
    /// The stream.
    pub main: Arc<dyn FrameSource>,
    /// A smaller stream, for policies with a lower `max_height`.
    pub low: Option<Arc<dyn FrameSource>>,
}

impl Sources {
    /// Those that the configuration names.
    ///
    /// # Errors
    /// This build has no way to get frames from the stream, or GStreamer does not start. That the smaller one has none is a
    /// fault of that stream alone.
    pub fn open(config: &config::Media) -> Result<Self, MediaError> {
        let open = |source| super::open(source, config);
        let low = config.low_source.as_ref().map(|source| match open(source) {
            Err(MediaError::NotBuilt) => Ok(Arc::new(NotBuilt) as Arc<dyn FrameSource>),
            opened => opened,
        });
        Ok(Self { main: open(&config.source)?, low: low.transpose()? })
    }
}

/// What is wanted of a stream besides frames.
type Wanted = (Option<GreySink>, Option<MetadataSink>);

/// A source that this build cannot read.
struct NotBuilt;

impl FrameSource for NotBuilt {
    fn run(&self, _: &Session) -> Result<(), SourceError> {
        Err(SourceError::Unusable(MediaError::NotBuilt.to_string()))
    }
}

impl Media {
    /// Starts the camera. A source, a card or a motion socket that is not there yet is no error: a condition names it, it is
    /// tried again, and everything else goes on. `outlet` is called from threads of media.
    ///
    /// # Errors
    /// A thread does not start.
    pub fn start(
        sources: Sources,
        config: &config::Media,
        recording: Option<&config::Recording>,
        outlet: Arc<dyn Outlet>,
        conditions: Conditions,
    ) -> Result<Self, MediaError> {
        let (events, queue) = Events::new();
        let ring = || Arc::new(Ring::new(config.pre_roll, config.pre_roll_bytes));
        let (main, recent, stop) = (ring(), Arc::<Recent>::default(), StopSignal::default());
        let media = Self {
            outlet,
            events,
            live: Live::new(main.clone(), recent.clone(), stop.clone()),
            rings: std::iter::once(main).chain(sources.low.as_ref().map(|_| ring())).collect(),
            clips: Arc::default(),
            recording: recording.map(|_| Arc::default()),
            recent,
            snapshots: Arc::default(),
            stop,
            running: Mutex::default(),
        };
        media.run(sources, config, recording, queue, &conditions)?;
        Ok(media)
    }

    fn run(
        &self,
        sources: Sources,
        config: &config::Media,
        recording: Option<&config::Recording>,
        queue: mpsc::Receiver<motion::Event>,
        conditions: &Conditions,
    ) -> Result<(), MediaError> {
        let drops = DropCounters::new(conditions.clone());
        let mut running = self.running();
        if config.motion == Motion::BuiltIn && !backend::DECODES {
            let words = "motion = \"built-in\" needs a decoder, and this build has none";
            conditions.raise_advising(Kind::MotionBlind, words, WITHOUT_DECODER);
        }
        let built_in = config.motion == Motion::BuiltIn && backend::DECODES;
        let grey = built_in.then(|| built_in::detector(self.events.clone(), &config.detection));
        let mut rings = vec![self.rings[0].clone()];
        if let (Some(config), Some(counts)) = (recording, &self.recording) {
            let ring = Arc::new(Ring::new(recording::WAITING, config.memory_bytes));
            running.threads.push(recording::start(
                config,
                ring.clone(),
                self.outlet.clone(),
                counts.clone(),
                conditions.clone(),
                drops.clone(),
                self.stop.clone(),
            )?);
            rings.push(ring);
        }
        let metadata = match config.motion {
            Motion::Onvif => Some(onvif::start(self.events.clone(), conditions.clone(), self.stop.clone())?),
            _ => None,
        };
        let metadata = metadata.map(|(sink, thread)| {
            running.threads.push(thread);
            sink
        });
        let mut start = |role, described: &config::Source, source: &Arc<dyn FrameSource>, rings, (grey, metadata): Wanted| {
            let stream = Arc::new(Stream::new(rings, grey, drops.clone()).with_metadata(metadata));
            let supervisor = Supervisor {
                role,
                described: described.clone(),
                source: source.clone(),
                stream: stream.clone(),
                conditions: conditions.clone(),
                stop: self.stop.clone(),
                time: Machine,
            };
            let (supervised, thread) = supervisor.start()?;
            running.threads.push(thread);
            Ok((supervised, stream))
        };
        let (main, stream) = start(Role::Main, &config.source, &sources.main, rings, (grey.clone(), metadata))?;
        let mut streams = vec![clip::Stream::new(self.rings[0].clone(), sources.main)];
        let mut low = None;
        if let (Some(source), Some(described), Some(ring)) = (sources.low, &config.low_source, self.rings.get(1)) {
            low = Some(start(Role::Low, described, &source, vec![ring.clone()], (None, None))?.0);
            streams.push(clip::Stream::new(ring.clone(), source));
        }
        (running.main, running.low) = (Some(main), low);
        if let Some(grey) = grey {
            let watch = KeyframeWatch {
                // The smaller picture costs less to decode.
                ring: self.rings[self.rings.len() - 1].clone(),
                main: stream,
                grey,
                decoder: backend::decoder(self.stop.clone()),
                conditions: conditions.clone(),
                stop: self.stop.clone(),
            };
            running.threads.push(watch.start()?);
        }
        if config.motion == Motion::Bitstream {
            let (ring, events) = (self.rings[0].clone(), self.events.clone());
            running.threads.push(bitstream::start(ring, events, &config.detection, conditions.clone(), self.stop.clone())?);
        }
        running.threads.extend(motion::start(&config.motion, self.events.clone(), conditions.clone(), self.stop.clone())?);
        let target = snapshot::Target { outlet: self.outlet.clone(), counts: self.snapshots.clone(), conditions: conditions.clone() };
        let (snapshots, thread) = match &config.snapshot_url {
            Some(url) => Snapshots::of_camera(url, target),
            None => backend::snapshots(target, self.stop.clone()),
        }?;
        running.threads.extend(thread);
        running.threads.push(clip::start(clip::Parts {
            snapshots,
            outlet: self.outlet.clone(),
            streams,
            pre_roll: config.pre_roll,
            events: queue,
            counts: self.clips.clone(),
            recent: self.recent.clone(),
            conditions: conditions.clone(),
            drops,
            card: self.recording.clone(),
            stop: self.stop.clone(),
        })?);
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is doing. Cheap at any time.
    pub fn status(&self) -> MediaStatus {
        self.status_of(&self.running())
    }

    fn status_of(&self, running: &Running) -> MediaStatus {
        let Some(main) = &running.main else { return running.last.clone() };
        MediaStatus {
            stream: main.status(),
            low: running.low.as_ref().map(Supervised::status),
            motion_events: self.events.counts.events.load(Ordering::Relaxed),
            motion_ignored: self.events.counts.ignored.load(Ordering::Relaxed),
            clip_running: self.clips.running.load(Ordering::Relaxed),
            clips_recorded: self.clips.recorded.load(Ordering::Relaxed),
            clips_erased: self.clips.erased.load(Ordering::Relaxed),
            clips_refused: self.clips.refused.load(Ordering::Relaxed),
            events_missed: self.clips.missed.load(Ordering::Relaxed),
            snapshots_failed: self.snapshots.failed.load(Ordering::Relaxed),
            recording: self.recording.as_ref().map(|counts| counts.status()),
        }
    }

    /// What can be seen of it beside it.
    pub fn live(&self) -> Live {
        self.live.clone()
    }

    /// Erases the pre-roll, the newest events and any clip being recorded: they belong to the account before (docs/protocol.md#the-switch). What
    /// goes to the SD card stays. Call it after the gate has closed and before it opens for the next account.
    pub fn forget(&self) {
        for ring in &self.rings {
            ring.erase();
        }
        self.recent.erase();
        self.live.forget();
    }

    /// Starts a clip that a person asks for.
    pub fn record(&self) {
        self.events.raise(ClipKind::Manual);
    }

    /// Ends everything; a clip being recorded is finished. False: something did not end within `deadline` and was left behind.
    pub fn stop(&self, deadline: Duration) -> bool {
        let mut running = self.running();
        running.last = self.status_of(&running);
        self.stop.raise();
        (running.main, running.low) = (None, None);
        let threads = std::mem::take(&mut running.threads);
        drop(running);
        let began = Instant::now();
        while threads.iter().any(|thread| !thread.is_finished()) {
            if began.elapsed() >= deadline {
                for thread in threads.iter().filter(|thread| !thread.is_finished()) {
                    tracing::error!(thread = thread.thread().name(), "media did not stop in time");
                }
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}
