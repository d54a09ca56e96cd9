//! Puts the parts together: streams, motion, clips, recording; and takes them down again.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use care_protocol::ClipKind;
use gstreamer as gst;

use super::{
    MediaError, MediaStatus, Outlet,
    clip::{self, Recorder, Stream},
    losses::Losses,
    motion::{self, Events, built_in},
    recording,
    ring::Ring,
    source::Description,
    stop::Stop,
    trunk::{Taps, Trunk, Which},
};
use crate::{
    conditions::Conditions,
    config::{self, Motion, Source},
};

/// The pre-roll of one stream never takes more than this, bytes; about 5 s of 8 Mbit/s.
const PRE_ROLL_BYTES: usize = 6_000_000;

/// A running camera. Dropping it stops it.
pub struct Media {
    outlet: Arc<dyn Outlet>,
    events: Events,
    /// Those with pre-roll, the best first.
    rings: Vec<Arc<Ring>>,
    clips: Arc<clip::Counts>,
    recording: Option<Arc<recording::Counts>>,
    stop: Stop,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    main: Option<Trunk>,
    low: Option<Trunk>,
    threads: Vec<JoinHandle<()>>,
    /// As it was when the camera was stopped.
    last: MediaStatus,
}

impl Media {
    /// Starts the camera. A source, a card or a motion socket that is not there yet is no error: a condition names it, it is
    /// tried again, and everything else goes on.
    /// Threads of its own call `outlet`.
    pub fn start(
        config: &config::Media,
        recording: Option<&config::Recording>,
        outlet: Arc<dyn Outlet>,
        conditions: Conditions,
    ) -> Result<Self, MediaError> {
        gst::init().map_err(|error| MediaError::Gstreamer { reason: error.to_string() })?;
        let (events, queue) = Events::new();
        let media = Self {
            outlet: outlet.clone(),
            events: events.clone(),
            rings: [Some(&config.source), config.low_source.as_ref()]
                .into_iter()
                .flatten()
                .map(|_| Arc::new(Ring::new(config.pre_roll, PRE_ROLL_BYTES)))
                .collect(),
            clips: Arc::default(),
            recording: recording.map(|_| Arc::default()),
            stop: Stop::default(),
            running: Mutex::default(),
        };
        media.run(config, recording, queue, &conditions)?;
        Ok(media)
    }

    fn run(
        &self,
        config: &config::Media,
        recording: Option<&config::Recording>,
        queue: std::sync::mpsc::Receiver<motion::Event>,
        conditions: &Conditions,
    ) -> Result<(), MediaError> {
        let losses = Losses::new(conditions.clone());
        let stream = |which, source: &Source, taps| Trunk::start(which, source.clone(), taps, conditions.clone(), losses.clone());
        let mut running = self.running();
        let eye = (config.motion == Motion::BuiltIn).then(|| built_in::eye(self.events.clone()));
        let mut rings = vec![self.rings[0].clone()];
        if let (Some(config), Some(counts)) = (recording, &self.recording) {
            let ring = Arc::new(Ring::new(recording::WAITING, recording::WAITING_BYTES));
            running.threads.push(recording::start(
                config,
                ring.clone(),
                counts.clone(),
                conditions.clone(),
                losses.clone(),
                self.stop.clone(),
            )?);
            rings.push(ring);
        }
        let main = stream(Which::Main, &config.source, Taps { rings, grey: eye.clone() })?;
        let sees_raw = main.sees_raw();
        let mut streams = vec![Stream::new(self.rings[0].clone(), main.keyframes())];
        running.main = Some(main);
        if let (Some(source), Some(ring)) = (&config.low_source, self.rings.get(1)) {
            let low = stream(Which::Low, source, Taps { rings: vec![ring.clone()], grey: None })?;
            streams.push(Stream::new(ring.clone(), low.keyframes()));
            running.low = Some(low);
        }
        if let Some(eye) = eye {
            // The smaller picture costs less to decode.
            let ring = self.rings[self.rings.len() - 1].clone();
            running.threads.push(built_in::start(ring, eye, sees_raw, conditions.clone(), self.stop.clone())?);
        }
        running.threads.extend(motion::start(&config.motion, self.events.clone(), conditions.clone(), self.stop.clone())?);
        let recorder = Recorder {
            outlet: self.outlet.clone(),
            streams,
            pre_roll: config.pre_roll,
            events: queue,
            counts: self.clips.clone(),
            losses,
            stop: self.stop.clone(),
        };
        running.threads.push(recorder.start()?);
        Ok(())
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is doing; cheap at any time.
    pub fn status(&self) -> MediaStatus {
        self.status_of(&self.running())
    }

    fn status_of(&self, running: &Running) -> MediaStatus {
        let Some(main) = &running.main else { return running.last.clone() };
        MediaStatus {
            stream: main.status(),
            low: running.low.as_ref().map(Trunk::status),
            motion_events: self.events.counts.events.load(Ordering::Relaxed),
            motion_ignored: self.events.counts.ignored.load(Ordering::Relaxed),
            clip_running: self.clips.running.load(Ordering::Relaxed),
            clips_recorded: self.clips.recorded.load(Ordering::Relaxed),
            clips_erased: self.clips.erased.load(Ordering::Relaxed),
            clips_refused: self.clips.refused.load(Ordering::Relaxed),
            recording: self.recording.as_ref().map(|counts| counts.status()),
        }
    }

    /// Erases the pre-roll, and any clip being recorded: they belong to the account before (section 4). What goes to the SD
    /// card stays. To be called after the gate has closed and before it opens for the next account.
    pub fn forget(&self) {
        for ring in &self.rings {
            ring.forget();
        }
    }

    /// A person asks for a clip.
    pub fn record(&self) {
        self.events.raise(ClipKind::Manual);
    }

    /// Ends everything; a clip being recorded is finished. False: something did not end within `deadline` and was left behind.
    pub fn stop(&self, deadline: Duration) -> bool {
        let mut running = self.running();
        running.last = self.status_of(&running);
        self.stop.now();
        let trunks = [running.main.take(), running.low.take()];
        let mut threads = std::mem::take(&mut running.threads);
        threads.extend(trunks.into_iter().flatten().map(Trunk::stop));
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

/// Whether `motion = "built-in"` can see this source: raw pictures, or a decoder for its keyframes. The reason if not.
pub fn built_in_available(source: &Source) -> Result<(), String> {
    gst::init().map_err(|error| MediaError::Gstreamer { reason: error.to_string() }.to_string())?;
    let missing = |names: &[&str]| names.iter().all(|name| gst::ElementFactory::find(name).is_none());
    if missing(&["videoscale"]) || missing(&["videoconvert"]) {
        return Err("built-in motion needs GStreamer's videoscale and videoconvert (plugins-base)".into());
    }
    let raw = matches!(source, Source::Test) || matches!(source, Source::V4l2(_)) && Description::of(source).is_ok_and(|d| d.has_raw());
    if !raw && missing(&built_in::DECODERS) {
        return Err(format!("built-in motion needs an H.264 decoder for this source: one of {}", built_in::DECODERS.join(", ")));
    }
    Ok(())
}
