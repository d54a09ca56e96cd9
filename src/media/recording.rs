//! Records to the SD card, in segments that play even if the card is pulled out while one is written. It has its own ring and
//! thread: a card that is missing, full or slow costs recorded frames and nothing else.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use portable_atomic::AtomicU64;

use super::{
    MediaError, Outlet,
    card::{Card, CardFault, Open},
    drops::DropCounters,
    frame::Frame,
    mp4::{Fragment, Mp4},
    ring::{Next, Ring},
    status::RecordingStatus,
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

/// Read by the status at any time.
#[derive(Debug, Default)]
pub(super) struct Counts {
    frames: AtomicU64,
    dropped: AtomicU64,
    bytes: AtomicU64,
    fault: Mutex<Option<String>>,
}

impl Counts {
    pub fn status(&self) -> RecordingStatus {
        RecordingStatus {
            frames: self.frames.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            fault: self.fault().clone(),
        }
    }

    fn fault(&self) -> MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that records the frames of `ring`.
pub(super) fn start(
    config: &config::Recording,
    ring: Arc<Ring>,
    outlet: Arc<dyn Outlet>,
    counts: Arc<Counts>,
    conditions: Conditions,
    drops: DropCounters,
    stop: StopSignal,
) -> Result<JoinHandle<()>, MediaError> {
    let mut recorder = Recorder { card: Card::new(config), segment: None, length: SEGMENT, outlet, counts, conditions, drops };
    let run = move || recorder.run(&ring, &stop);
    crate::threads::named("media-sd").spawn(run).map_err(MediaError::Thread)
}

struct Recorder {
    card: Card,
    segment: Option<Segment>,
    length: Duration,
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
    /// Frames not yet in the file.
    pending: u64,
}

impl Recorder {
    fn run(&mut self, ring: &Ring, stop: &StopSignal) {
        let mut position = 0;
        let (mut backoff, mut resting_until) = (Backoff::new(FAULT), Instant::now());
        let mut looked = None;
        while !stop.is_raised() {
            let next = ring.next(&mut position, TICK);
            let resting = Instant::now() < resting_until;
            let done = match next {
                Next::Frame { frame, lost } => {
                    self.lost(lost);
                    self.drops.add("on their way to the card, which was too slow", lost);
                    if resting {
                        self.lost(1);
                        continue;
                    }
                    self.record(frame)
                }
                Next::Quiet if resting || self.segment.is_some() => continue,
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
                        resting_until = Instant::now() + if absent { NO_CARD } else { backoff.next_delay() };
                    }
                }
            }
            self.counts.bytes.store(self.card.bytes, Ordering::Relaxed);
        }
        if let Err(fault) = self.close() {
            tracing::warn!(%fault, "the last SD segment may lack its end");
        }
    }

    /// Ends the segment. Returns whether there is just no card, or `None` if there is no fault at all.
    fn fail(&mut self, fault: &CardFault) -> Option<bool> {
        let pending = self.segment.take().map_or(0, |segment| segment.pending);
        self.lost(pending);
        if let CardFault::Exchanged = fault {
            tracing::info!("another card is mounted: recording goes on there");
            return None;
        }
        self.card.forget();
        self.conditions.raise_advising(Kind::Recording, format!("cannot record: {fault}"), fault.advice());
        *self.counts.fault() = Some(fault.to_string());
        Some(fault.is_absence())
    }

    fn lost(&self, frames: u64) {
        self.counts.dropped.fetch_add(frames, Ordering::Relaxed);
    }

    fn record(&mut self, frame: Frame) -> Result<(), CardFault> {
        let due = self.segment.as_ref().is_some_and(|segment| {
            !segment.mp4.takes(&frame.format) || (frame.key && frame.pts.saturating_sub(segment.begun) >= self.length)
        });
        if due && let Err(fault) = self.close() {
            self.lost(1);
            return Err(fault);
        }
        let Some(segment) = &mut self.segment else {
            if !frame.key {
                self.lost(1);
                return Ok(());
            }
            if let Err(fault) = self.card.look() {
                self.lost(1);
                return Err(fault);
            }
            let (begun, identity) = (frame.pts, self.outlet.identity(frame.taken.elapsed()));
            let mp4 = Mp4::begin(frame).identified(identity);
            self.segment = Some(Segment { file: Open::default(), begun, mp4, pending: 1 });
            return Ok(());
        };
        // Counted before it is tried: what fails is lost with all that is pending.
        let whole = segment.mp4.push(frame);
        segment.pending += 1;
        if let Some(fragment) = whole {
            self.write(&fragment, 1)?;
        }
        Ok(())
    }

    /// Writes a fragment to the file of the segment; `left` frames are still pending after it.
    fn write(&mut self, fragment: &Fragment, left: u64) -> Result<(), CardFault> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        self.card.append(&mut segment.file, &fragment.bytes)?;
        self.counts.frames.fetch_add(segment.pending - left, Ordering::Relaxed);
        segment.pending = left;
        self.conditions.clear(Kind::Recording);
        *self.counts.fault() = None;
        Ok(())
    }

    fn close(&mut self) -> Result<(), CardFault> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        if let Some(fragment) = segment.mp4.finish(Duration::MAX) {
            self.write(&fragment, 0)?;
        }
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        if let Some(index) = segment.mp4.index() {
            self.card.append(&mut segment.file, &index)?;
        }
        self.card.sync(&mut segment.file)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use bytes::Bytes;

    use super::*;
    use crate::media::{
        card::number,
        frame::{Codec, Format},
        tests::Collector,
    };

    /// A second of 15 frames of 1,000 bytes, a keyframe first.
    fn second(n: u64) -> impl Iterator<Item = Frame> {
        let format = Arc::new(Format {
            codec: Codec::H264,
            width: 640,
            height: 360,
            configuration: Bytes::from_static(&[1, 66, 0, 30, 255, 224, 0]),
        });
        (0..15).map(move |frame| Frame {
            pts: Duration::from_millis(n * 1000 + frame * 66),
            key: frame == 0,
            taken: Instant::now(),
            data: Bytes::from(vec![0; 1000]),
            format: format.clone(),
        })
    }

    fn recorder(dir: &Path, max_bytes: u64) -> Recorder {
        let config = config::Recording { dir: dir.into(), max_bytes, memory_bytes: 4_000_000, kept_off: Vec::new() };
        let conditions = Conditions::default();
        Recorder {
            card: Card::new(&config),
            segment: None,
            length: Duration::from_secs(2),
            outlet: Arc::new(Collector::new(60)),
            counts: Arc::default(),
            drops: DropCounters::new(conditions.clone()),
            conditions,
        }
    }

    fn numbers(dir: &Path) -> Vec<u64> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut found: Vec<u64> = names.filter_map(|name| number(&name)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn the_oldest_segments_make_room_and_every_frame_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = recorder(dir.path(), 100_000);
        for frame in (0..20).flat_map(second) {
            recorder.record(frame).unwrap();
        }
        recorder.close().unwrap();
        let left = numbers(dir.path());
        assert_eq!(left.last(), Some(&9), "a segment each two seconds");
        assert!((2..=3).contains(&left.len()) && left.is_sorted(), "{left:?}");
        let on_card: u64 = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(on_card <= 100_000);
        assert_eq!(on_card, recorder.card.bytes);
        assert_eq!(recorder.counts.status().frames, 300);
    }

    #[test]
    fn a_segment_that_is_complete_ends_with_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = recorder(dir.path(), 1_000_000);
        for frame in (0..3).flat_map(second) {
            recorder.record(frame).unwrap();
        }
        recorder.close().unwrap();
        for file in fs::read_dir(dir.path()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let size = u32::from_be_bytes(*bytes.last_chunk().unwrap()) as usize;
            assert_eq!(&bytes[bytes.len() - size + 4..][..4], b"mfra");
        }
        assert_eq!(numbers(dir.path()), [0, 1]);
    }

    #[test]
    fn numbers_go_on_after_a_start_and_foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("holiday.mp4"), vec![0; 500_000]).unwrap();
        fs::write(dir.path().join("19700101T000000Z-00000041.mp4"), vec![0; 90_000]).unwrap();
        let mut recorder = recorder(dir.path(), 100_000);
        for frame in (0..3).flat_map(second) {
            recorder.record(frame).unwrap();
        }
        recorder.close().unwrap();
        assert_eq!(numbers(dir.path()), [42, 43]);
        assert!(dir.path().join("holiday.mp4").exists());
    }

    #[test]
    fn too_few_bytes_for_one_segment_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = recorder(dir.path(), 10_000);
        assert!((0..2).flat_map(second).any(|frame| recorder.record(frame).is_err()));
    }
}
