//! Built-in motion: how much of a small grey picture differs from a background that follows slow changes. A source with raw
//! pictures delivers grey ones itself. Of any other stream a decoder makes them, from keyframes and no other frame; between two
//! keyframes it is released, because it holds more memory than the rest of media.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use care_protocol::ClipKind;

use super::Events;
use crate::{
    conditions::{Conditions, Kind},
    media::{
        MediaError,
        frame::{Format, Frame},
        ring::{Next, Ring},
        source::{GreySink, Stream},
        stop_signal::StopSignal,
    },
};

/// A cell has changed if it differs this much from the background, of 255, once the mean change of the picture is subtracted.
const CELL: f32 = 18.0;
/// Motion: at least this share of the picture has changed.
const LEAST: f32 = 0.005;
/// More than this is a change of light, not a thing in front of the camera (an infrared filter, a lamp).
const MOST: f32 = 0.8;
/// How much of each new picture goes into the background.
const ADAPT: f32 = 0.1;
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

/// Compares pictures with a background.
#[derive(Debug, Default)]
struct DifferenceDetector {
    background: Vec<f32>,
}

impl DifferenceDetector {
    /// The share of the picture that moved, if enough did.
    fn compare(&mut self, grey: &[u8]) -> Option<f32> {
        if grey.len() != self.background.len() {
            self.background = grey.iter().copied().map(f32::from).collect();
            return None;
        }
        let cells = grey.len().max(1) as f32;
        let brighter = grey.iter().zip(&self.background).map(|(&now, was)| f32::from(now) - was).sum::<f32>() / cells;
        let moved = grey.iter().zip(&self.background).filter(|&(&now, was)| (f32::from(now) - was - brighter).abs() > CELL).count();
        let part = moved as f32 / cells;
        if part > MOST {
            self.background.clear();
            return None;
        }
        for (was, &now) in self.background.iter_mut().zip(grey) {
            *was += (f32::from(now) - *was) * ADAPT;
        }
        (part >= LEAST).then_some(part)
    }
}

/// Raises an event for each grey picture that shows motion.
pub(in crate::media) fn detector(events: Events) -> GreySink {
    let state = Mutex::new((DifferenceDetector::default(), None::<Instant>));
    Arc::new(move |grey| {
        let (detector, raised) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = detector.compare(grey);
        let rested = raised.is_none_or(|at| at.elapsed() >= PAUSE);
        if let Some(score) = moved.filter(|_| rested) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::source::{GREY_HEIGHT, GREY_WIDTH};

    const CELLS: usize = GREY_WIDTH * GREY_HEIGHT;

    /// A grey picture with some noise, and a bright block of 6×6 cells at a column.
    fn picture(seed: u64, block: Option<usize>, light: u8) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..CELLS)
            .map(|cell| {
                let (x, y) = (cell % GREY_WIDTH, cell / GREY_WIDTH);
                let inside = block.is_some_and(|at| (at..at + 6).contains(&x) && (10..16).contains(&y));
                (if inside { 220 } else { 90 }) + light + random.u8(0..8)
            })
            .collect()
    }

    #[test]
    fn a_still_noisy_picture_is_no_motion_and_a_moving_block_is() {
        let mut detector = DifferenceDetector::default();
        assert!((0..50).all(|n| detector.compare(&picture(n, None, 0)).is_none()));
        assert!((0..20).all(|n| detector.compare(&picture(n, Some(n as usize * 2), 0)).is_some()));
    }

    #[test]
    fn what_stays_becomes_background() {
        let mut detector = DifferenceDetector::default();
        detector.compare(&picture(0, None, 0));
        let seen = (0..60).map(|n| detector.compare(&picture(n, Some(20), 0)).is_some()).collect::<Vec<_>>();
        assert!(seen[0] && !seen[59]);
    }

    #[test]
    fn light_is_no_motion() {
        let mut detector = DifferenceDetector::default();
        detector.compare(&picture(0, None, 0));
        assert_eq!(detector.compare(&picture(1, None, 60)), None);
        assert_eq!(detector.compare(&picture(2, None, 0)), None);
    }
}
