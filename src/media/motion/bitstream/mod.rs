//! Motion by the sizes of coded pictures (`motion = "bitstream"`): nothing is decoded, so it works in every build and for every codec,
//! and costs next to nothing. It follows the stream of `source`. What it sees and what it does not: docs/motion.md.

mod judge;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use care_protocol::ClipKind;

pub(in crate::media) use self::judge::Judge;
use super::{Events, hours::Hours};
use crate::{
    conditions::{Conditions, Kind},
    config::Detection,
    media::{
        MediaError,
        frame::Format,
        ring::{Next, Ring},
        stop_signal::StopSignal,
    },
};

/// At most one event in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a quiet stream is left to check the stop signal.
const TICK: Duration = Duration::from_millis(200);
/// So many keyframes in a row, and no other picture: there is nothing to compare.
const KEYFRAMES: u32 = 30;
const ADVICE: &str = "Let the camera send a keyframe every second or two, or set [media] motion to a socket.";

/// Watches the frames of one stream, on a thread of its own.
///
/// # Errors
/// The thread does not start.
pub(in crate::media) fn start(
    ring: Arc<Ring>,
    events: Events,
    detection: &Detection,
    conditions: Conditions,
    stop: StopSignal,
) -> Result<JoinHandle<()>, MediaError> {
    let (sensitivity, mut hours) = (detection.sensitivity, Hours::new(detection.schedule.clone()));
    let watch = move || {
        let mut judge = Judge::new(sensitivity);
        let (mut position, mut keyframes) = (0, 0_u32);
        let (mut format, mut raised): (Option<Arc<Format>>, Option<Instant>) = (None, None);
        while !stop.is_raised() {
            let Next::Frame { frame, .. } = ring.next(&mut position, TICK) else { continue };
            if format.as_ref().is_some_and(|format| *format != frame.format) {
                judge = Judge::new(sensitivity);
            }
            format = Some(frame.format);
            if frame.key {
                keyframes = keyframes.saturating_add(1);
                if keyframes == KEYFRAMES {
                    conditions.raise_advising(Kind::MotionBlind, "the camera sends keyframes only, whose sizes tell no motion", ADVICE);
                }
            } else if std::mem::take(&mut keyframes) >= KEYFRAMES {
                conditions.clear(Kind::MotionBlind);
            }
            let moves = judge.see(frame.key, frame.data.len(), frame.pts);
            if moves && raised.is_none_or(|at| at.elapsed() >= PAUSE) && hours.count_now() {
                raised = Some(Instant::now());
                events.raise(ClipKind::Motion);
            }
        }
    };
    crate::threads::named("media-motion").spawn(watch).map_err(MediaError::Thread)
}
