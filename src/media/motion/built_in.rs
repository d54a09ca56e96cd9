//! Built-in motion: where small grey pictures come from, and what happens when `detector` sees motion in one. A source with raw
//! pictures delivers grey ones itself. Of any other stream a decoder makes them, from keyframes and no other frame; between two
//! keyframes it is released, because it holds more memory than the rest of media.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use care_protocol::ClipKind;

use super::{
    Events,
    detector::{Detector, Tuning},
    hours::Hours,
    zones,
};
use crate::{
    conditions::{Conditions, Kind},
    config::Detection,
    media::{
        MediaError,
        frame::{Format, Frame},
        ring::{Next, Ring},
        source::{GreySink, Stream},
        stop_signal::StopSignal,
    },
};

/// Keyframes are decoded at most this often: a stream of nothing but keyframes costs no more than another.
const REST: Duration = Duration::from_millis(900);
/// The same while no decoder can read the stream: it may change without its format showing it, or a decoder may be installed.
const BLIND_REST: Duration = Duration::from_secs(60);
/// So many keyframes in a row that cannot be decoded are no accident.
const DAMAGED: u32 = 3;
/// At most one event in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a quiet stream is left to check the stop signal.
const TICK: Duration = Duration::from_millis(200);

/// Makes small grey pictures of keyframes.
pub(in crate::media) trait GreyDecoder: Send {
    /// The picture, and the name of the decoder that made it.
    ///
    /// # Errors
    /// No decoder can: a sentence that names the stream and what each decoder says of it.
    fn decode(&mut self, keyframe: &Frame) -> Result<(&'static str, Vec<u8>), String>;

    /// Looks for decoders that were installed since.
    fn refresh(&mut self);

    /// Frees what the decoder holds. The next [`GreyDecoder::decode`] starts it again.
    fn release(&mut self);
}

/// Raises an event for each grey picture that shows motion, while the schedule counts it.
pub(in crate::media) fn detector(events: Events, detection: &Detection) -> GreySink {
    let began = Instant::now();
    let judge = Detector::new(Tuning::of(detection.sensitivity), zones::watched(detection));
    let state = Mutex::new((judge, Hours::new(detection.schedule.clone()), None::<Instant>));
    Arc::new(move |grey| {
        let (judge, hours, raised) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        // It learns what is usual at every hour.
        let moved = judge.see(grey, began.elapsed());
        let counts = hours.count_now();
        let rested = raised.is_none_or(|at| at.elapsed() >= PAUSE);
        if let Some(score) = moved.filter(|_| rested && counts) {
            *raised = Some(Instant::now());
            tracing::debug!(score, "motion");
            events.raise(ClipKind::Motion);
        }
    })
}

/// Decodes the keyframes of one stream, while the main stream delivers no grey pictures itself.
pub(in crate::media) struct KeyframeWatch {
    /// The keyframes.
    pub ring: Arc<Ring>,
    /// The stream that may deliver grey pictures.
    pub main: Arc<Stream>,
    pub grey: GreySink,
    pub decoder: Box<dyn GreyDecoder>,
    pub conditions: Conditions,
    pub stop: StopSignal,
}

impl KeyframeWatch {
    /// Runs on a thread of its own.
    pub fn start(mut self) -> Result<JoinHandle<()>, MediaError> {
        let run = move || {
            self.run();
            self.decoder.release();
        };
        crate::threads::named("media-motion").spawn(run).map_err(MediaError::Thread)
    }

    fn run(&mut self) {
        let mut position = 0;
        let mut decoded: Option<Instant> = None;
        // The last format that could be decoded, and the one that cannot be.
        let (mut readable, mut blind_to): (Option<Arc<Format>>, Option<Arc<Format>>) = (None, None);
        let mut failures = 0;
        while !self.stop.is_raised() {
            // Before the first keyframe it is not known what the source delivers, and a decoder would only cost memory.
            if self.ring.newest_key().is_none() || self.main.counters.gives_grey.load(Ordering::Relaxed) {
                position = self.ring.newest_key().unwrap_or(position);
                self.stop.wait(TICK);
                continue;
            }
            let Next::Frame { frame, .. } = self.ring.next(&mut position, TICK) else { continue };
            let rest = if blind_to.as_ref() == Some(&frame.format) { BLIND_REST } else { REST };
            if !frame.key || decoded.is_some_and(|at| at.elapsed() < rest) {
                continue;
            }
            decoded = Some(Instant::now());
            if blind_to.is_some() {
                self.decoder.refresh();
            }
            match self.decoder.decode(&frame) {
                Ok((_, picture)) => {
                    (self.grey)(&picture);
                    self.conditions.clear(Kind::MotionBlind);
                    (readable, blind_to, failures) = (Some(frame.format), None, 0);
                }
                Err(_) if self.stop.is_raised() => {}
                Err(why) => {
                    failures += 1;
                    tracing::debug!(why, failures, "a keyframe cannot be decoded");
                    // One damaged keyframe of a stream that was readable before is no blindness.
                    if readable.as_ref() != Some(&frame.format) || failures >= DAMAGED {
                        self.conditions.raise(Kind::MotionBlind, why);
                        blind_to = Some(frame.format);
                    }
                }
            }
        }
    }
}
