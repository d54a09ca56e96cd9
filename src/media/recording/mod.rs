//! Records to the SD card, in segments that play even if the card is pulled out, or the power goes, while one is written. It has its
//! own ring and threads: a card that is missing, full or slow costs recorded frames and nothing else. One thread empties the ring
//! and writes; the other (`card::Upkeep`) syncs and makes room. docs/media.md#the-recording-on-the-card says what that promises.

mod counts;
#[cfg(test)]
pub(super) mod tests;

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub(super) use self::counts::{Counts, Loss};
use super::{
    MediaError, Outlet,
    card::{Card, CardFault, Open, Upkeep},
    drops::DropCounters,
    frame::Frame,
    mp4::{FRAGMENT, Fragment, Mp4},
    ring::{Next, Ring},
    stop_signal::StopSignal,
};
use crate::{
    backoff::{Backoff, Delays, Jitter},
    conditions::{Conditions, Kind},
    config,
};

/// A segment ends at the first keyframe after this long.
const SEGMENT: Duration = Duration::from_secs(60);
/// The pause before the card is checked again, if there is just none.
const NO_CARD: Duration = Duration::from_secs(1);
/// Pauses after any other fault.
const FAULT: Delays = Delays::new(NO_CARD, Duration::from_secs(30), Jitter::None);
/// A segment of this length ends the growth of the pauses.
const STABLE: Duration = Duration::from_secs(30);
/// How often a quiet stream is left to check the card and the stop signal.
const TICK: Duration = Duration::from_millis(200);
/// How much may wait for a slow card; `[recording] memory_bytes` bounds it in bytes.
pub(super) const WAITING: Duration = Duration::from_secs(4);

/// Starts the threads that record the frames of `ring`. The one that is returned ends after the other.
pub(super) fn start(
    config: &config::Recording,
    ring: Arc<Ring>,
    outlet: Arc<dyn Outlet>,
    counts: Arc<Counts>,
    conditions: Conditions,
    drops: DropCounters,
    stop: StopSignal,
) -> Result<JoinHandle<()>, MediaError> {
    let card = Card::new(config);
    let shelf = card.shelf().clone();
    let upkeep = Upkeep::new(config, shelf.clone(), counts.clone(), outlet.clone()).start()?;
    let most = config.memory_bytes / 2;
    let mut recorder = Recorder { card, segment: None, length: SEGMENT, most, outlet, counts, conditions, drops };
    let run = move || {
        recorder.run(&ring, &stop);
        shelf.end();
        // It syncs what was written last.
        let _ = upkeep.join();
    };
    crate::threads::named("media-sd").spawn(run).map_err(MediaError::Thread)
}

pub(super) struct Recorder {
    card: Card,
    segment: Option<Segment>,
    length: Duration,
    /// How much of a segment waits at most for the sync of the one before.
    most: usize,
    /// Knows whose files these are.
    outlet: Arc<dyn Outlet>,
    counts: Arc<Counts>,
    conditions: Conditions,
    drops: DropCounters,
}

struct Segment {
    file: Open,
    mp4: Mp4,
    begun: Duration,
    /// Frames not yet in the file, and when the first of them was taken.
    pending: u64,
    since: Option<Instant>,
    /// Fragments that wait until the segment before is synced.
    waiting: Vec<u8>,
}

/// No try before this moment, and why frames are lost until then.
struct Rest {
    until: Instant,
    loss: Loss,
}

impl Recorder {
    fn run(&mut self, ring: &Ring, stop: &StopSignal) {
        let mut position = 0;
        let mut backoff = Backoff::new(FAULT);
        let mut rest = Rest { until: Instant::now(), loss: Loss::Error };
        let mut looked = None;
        while !stop.is_raised() {
            let next = ring.next(&mut position, TICK);
            let resting = Instant::now() < rest.until;
            let done = match next {
                Next::Frame { frame, lost } => {
                    self.counts.lose(Loss::TooSlow, lost);
                    self.drops.add("on their way to the card, which was too slow", lost);
                    if resting {
                        self.counts.lose(rest.loss, 1);
                        continue;
                    }
                    self.record(frame)
                }
                Next::Quiet if self.segment.is_some() => self.write_what_is_old(),
                Next::Quiet if resting => continue,
                // Without a picture the card is checked all the same. A frame that comes meanwhile is recorded.
                Next::Quiet if looked.is_some_and(|at: Instant| at.elapsed() < NO_CARD) => continue,
                Next::Quiet => {
                    looked = Some(Instant::now());
                    self.card.look()
                }
            };
            match done {
                Ok(()) => {
                    if self.segment.as_ref().is_some_and(|segment| segment.mp4.duration() > STABLE) {
                        backoff.reset();
                    }
                }
                Err(fault) => {
                    if let Some(absent) = self.fail(&fault) {
                        let pause = if absent { NO_CARD } else { backoff.next_delay() };
                        rest = Rest { until: Instant::now() + pause, loss: fault.loss() };
                    }
                }
            }
            let held = self.card.shelf().held();
            self.counts.bytes.store(held.bytes, Ordering::Relaxed);
            self.counts.deleted.store(held.deleted, Ordering::Relaxed);
        }
        if let Err(fault) = self.close() {
            tracing::warn!(%fault, "the last SD segment may lack its end");
        }
    }

    /// Ends the segment. Returns whether there is just no card, or `None` if there is no fault at all.
    fn fail(&mut self, fault: &CardFault) -> Option<bool> {
        let pending = self.segment.take().map_or(0, |segment| segment.pending);
        self.counts.lose(fault.loss(), pending);
        self.counts.give_up();
        self.card.close();
        if let CardFault::Exchanged = fault {
            tracing::info!("another card is mounted: recording goes on there");
            return None;
        }
        self.card.forget();
        self.conditions.raise_advising(Kind::Recording, format!("cannot record: {fault}"), fault.advice());
        *self.counts.fault() = Some(fault.to_string());
        Some(fault.is_absence())
    }

    fn record(&mut self, frame: Frame) -> Result<(), CardFault> {
        let due = self.segment.as_ref().is_some_and(|segment| {
            !segment.mp4.takes(&frame.format) || (frame.key && frame.pts.saturating_sub(segment.begun) >= self.length)
        });
        if let Some(segment) = self.segment.as_mut().filter(|_| due) {
            segment.mp4.hear(&frame);
        }
        if due && let Err(fault) = self.close() {
            self.counts.lose(fault.loss(), 1);
            return Err(fault);
        }
        let taken = frame.taken;
        let Some(segment) = &mut self.segment else {
            if !frame.key {
                self.counts.lose(Loss::NoKeyframe, 1);
                return Ok(());
            }
            if let Err(fault) = self.card.look() {
                self.counts.lose(fault.loss(), 1);
                return Err(fault);
            }
            let (begun, identity) = (frame.pts, self.outlet.identity(taken.elapsed()));
            let file = Open::at(identity.started_at);
            let mp4 = Mp4::begin(frame).identified(identity);
            self.segment = Some(Segment { file, begun, mp4, pending: 1, since: Some(taken), waiting: Vec::new() });
            self.counts.wait_in_memory(Some(taken));
            return Ok(());
        };
        // Counted before it is tried: what fails is lost with all that is pending.
        let whole = segment.mp4.push(frame);
        segment.pending += 1;
        if let Some(fragment) = whole {
            self.write(Some(fragment), 1, Some(taken), false)?;
        } else if segment.since.is_none() {
            segment.since = Some(taken);
            self.counts.wait_in_memory(segment.since);
        }
        Ok(())
    }

    /// A stream of few frames, or one that pauses, must not keep its last ones in memory.
    fn write_what_is_old(&mut self) -> Result<(), CardFault> {
        let Some(segment) = self.segment.as_mut() else { return Ok(()) };
        let patience = if segment.mp4.knows_order() { FRAGMENT } else { FRAGMENT * 3 / 2 };
        let is_old = segment.since.is_some_and(|since| since.elapsed() >= patience);
        let fragment = is_old.then(|| segment.mp4.flush()).flatten();
        if !is_old || (fragment.is_none() && segment.waiting.is_empty()) {
            return Ok(());
        }
        self.write(fragment, 0, None, false)
    }

    /// Writes a fragment to the file of the segment; `left` frames are still pending after it, the first of them taken `since`.
    /// Before its file exists it may have to wait, but not at its end.
    fn write(&mut self, fragment: Option<Fragment>, left: u64, since: Option<Instant>, end: bool) -> Result<(), CardFault> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let mut bytes = fragment.map(|fragment| fragment.bytes).unwrap_or_default();
        if !end && segment.waiting.len() + bytes.len() <= self.most && !self.card.is_ready(&segment.file) {
            segment.waiting.extend_from_slice(&bytes);
            return Ok(());
        }
        let frames = segment.pending - left;
        self.counts.write_begins();
        if !segment.waiting.is_empty() {
            let mut waited = std::mem::take(&mut segment.waiting);
            waited.extend_from_slice(&bytes);
            bytes = waited.into();
        }
        self.card.append(&mut segment.file, &bytes, frames)?;
        self.counts.frames.fetch_add(frames, Ordering::Relaxed);
        self.counts.wait_in_memory(since);
        (segment.pending, segment.since) = (left, since);
        if !self.card.shelf().held().failing {
            self.conditions.clear(Kind::Recording);
            *self.counts.fault() = None;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), CardFault> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let last = segment.mp4.finish(Duration::MAX);
        if last.is_some() || !segment.waiting.is_empty() {
            self.write(last, 0, None, true)?;
        }
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        if let Some(index) = segment.mp4.index() {
            self.card.append(&mut segment.file, &index, 0)?;
        }
        self.card.close();
        Ok(())
    }
}
