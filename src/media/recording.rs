//! Records to the SD card in segments that play even if the card is pulled in the middle. It has a ring and a thread of its
//! own, so that a card that is missing, full or slow costs recorded frames and nothing else. The directory is never made
//! here: without the card it would fill the flash it is mounted on.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    MediaError,
    frame::Frame,
    mp4::Mp4,
    ring::{Next, Ring},
    status::RecordingStatus,
    stop::Stop,
};
use crate::config;

/// A segment ends at the first keyframe after this long.
const SEGMENT: Duration = Duration::from_secs(60);
/// Pauses after a fault, doubling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a quiet stream is left to look around.
const TICK: Duration = Duration::from_millis(200);
/// What may wait for a slow card.
pub(super) const WAITING: Duration = Duration::from_secs(4);
/// The same in bytes.
pub(super) const WAITING_BYTES: usize = 4_000_000;

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
            fault: self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Starts the thread that records what comes into `ring`.
pub(super) fn start(config: &config::Recording, ring: Arc<Ring>, counts: Arc<Counts>, stop: Stop) -> Result<JoinHandle<()>, MediaError> {
    let mut recorder = Recorder {
        card: Card { dir: config.dir.clone(), max_bytes: config.max_bytes, segments: VecDeque::new(), bytes: 0, next: 0 },
        segment: None,
        length: SEGMENT,
        counts,
    };
    let run = move || recorder.run(&ring, &stop);
    thread::Builder::new().name("media-sd".into()).spawn(run).map_err(MediaError::Thread)
}

struct Recorder {
    card: Card,
    segment: Option<Segment>,
    length: Duration,
    counts: Arc<Counts>,
}

struct Segment {
    file: File,
    mp4: Mp4,
    begun: Duration,
    /// Frames not yet in the file.
    pending: u64,
}

impl Recorder {
    fn run(&mut self, ring: &Ring, stop: &Stop) {
        let mut position = 0;
        let mut pause = FIRST_PAUSE;
        let mut again = Instant::now();
        let mut mounted = false;
        while !stop.is_now() {
            let Next::Frame { frame, lost } = ring.next(&mut position, TICK) else { continue };
            self.lost(lost);
            if Instant::now() < again {
                self.lost(1);
                continue;
            }
            let written = if mounted { Ok(()) } else { self.card.scan() }.and_then(|()| {
                mounted = true;
                self.record(frame)
            });
            match written {
                Ok(()) => {
                    if self.segment.is_some() && self.counts.fault().take().is_some() {
                        tracing::info!(dir = %self.card.dir.display(), "SD recording resumed");
                    }
                    if self.segment.as_ref().is_some_and(|segment| segment.mp4.duration() > LONGEST_PAUSE) {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(error) => {
                    let pending = self.segment.take().map_or(0, |segment| segment.pending);
                    self.lost(1 + pending);
                    tracing::warn!(dir = %self.card.dir.display(), %error, retry_s = pause.as_secs(), "SD recording failed");
                    *self.counts.fault() = Some(format!("cannot record to {}: {error}", self.card.dir.display()));
                    mounted = false;
                    again = Instant::now() + pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            self.counts.bytes.store(self.card.bytes, Ordering::Relaxed);
        }
        if let Err(error) = self.close() {
            tracing::warn!(dir = %self.card.dir.display(), %error, "the last SD segment may lack its end");
        }
    }

    fn lost(&self, frames: u64) {
        self.counts.dropped.fetch_add(frames, Ordering::Relaxed);
    }

    fn record(&mut self, frame: Frame) -> io::Result<()> {
        let due = self.segment.as_ref().is_some_and(|segment| {
            frame.format != *segment.mp4.format() || (frame.key && frame.pts.saturating_sub(segment.begun) >= self.length)
        });
        if due {
            self.close()?;
        }
        let Some(segment) = &mut self.segment else {
            if frame.key {
                let file = self.card.create()?;
                self.segment = Some(Segment { file, begun: frame.pts, mp4: Mp4::begin(frame), pending: 1 });
            } else {
                self.lost(1);
            }
            return Ok(());
        };
        if let Some(fragment) = segment.mp4.push(frame) {
            self.card.write(&mut segment.file, &fragment.bytes)?;
            self.counts.frames.fetch_add(segment.pending, Ordering::Relaxed);
            segment.pending = 0;
        }
        segment.pending += 1;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        if let Some(fragment) = segment.mp4.finish(Duration::MAX) {
            self.card.write(&mut segment.file, &fragment.bytes)?;
            self.counts.frames.fetch_add(segment.pending, Ordering::Relaxed);
        }
        segment.file.sync_data()
    }
}

impl Counts {
    fn fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The recordings on the card, within their share of it.
struct Card {
    dir: PathBuf,
    max_bytes: u64,
    /// Oldest first; the last may be the one being written.
    segments: VecDeque<(PathBuf, u64)>,
    bytes: u64,
    next: u64,
}

impl Card {
    /// Finds what is there already, after a start or a fault.
    fn scan(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if let Some(number) = number(&entry.path()) {
                found.push((number, entry.path(), entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        self.next = found.last().map_or(0, |(number, ..)| number + 1);
        self.bytes = found.iter().map(|(_, _, bytes)| bytes).sum();
        self.segments = found.into_iter().map(|(_, path, bytes)| (path, bytes)).collect();
        Ok(())
    }

    fn create(&mut self) -> io::Result<File> {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let path = self.dir.join(format!("{time}-{:08}.mp4", self.next));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        self.next += 1;
        self.segments.push_back((path, 0));
        Ok(file)
    }

    /// Appends to the newest segment; the oldest make room for it.
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        if let Some((path, _)) = self.segments.back() {
            // A file whose card is gone may still take bytes, for nobody.
            fs::metadata(path)?;
        }
        let more = bytes.len() as u64;
        while self.bytes + more > self.max_bytes && self.segments.len() > 1 {
            self.delete_oldest()?;
        }
        if self.bytes + more > self.max_bytes {
            return Err(io::Error::new(ErrorKind::StorageFull, "max_bytes is too small for one segment"));
        }
        let mut written = file.write_all(bytes);
        // The card is smaller than max_bytes says, or others use it too. The rest of a failed write is cut off before trying again.
        while written.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull) && self.segments.len() > 1 {
            self.delete_oldest()?;
            let whole = self.segments.back().map_or(0, |(_, bytes)| *bytes);
            file.set_len(whole)?;
            written = io::Seek::seek(file, io::SeekFrom::Start(whole)).and_then(|_| file.write_all(bytes));
        }
        written?;
        if let Some((_, bytes)) = self.segments.back_mut() {
            *bytes += more;
        }
        self.bytes += more;
        Ok(())
    }

    fn delete_oldest(&mut self) -> io::Result<()> {
        let Some((path, bytes)) = self.segments.pop_front() else { return Ok(()) };
        self.bytes -= bytes;
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The number of a segment of ours: the clock may step, numbers never do.
fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".mp4")?;
    let (time, number) = name.split_once('-')?;
    (time.len() == 16 && time.ends_with('Z') && number.len() >= 8).then_some(())?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::frame::Format;

    /// A second of 15 frames of 1,000 bytes, a keyframe first.
    fn second(n: u64) -> impl Iterator<Item = Frame> {
        let format = Arc::new(Format { width: 640, height: 360, avcc: Bytes::from_static(&[1, 66, 0, 30, 255, 224, 0]) });
        (0..15).map(move |frame| Frame {
            pts: Duration::from_millis(n * 1000 + frame * 66),
            key: frame == 0,
            taken: Instant::now(),
            data: Bytes::from(vec![0; 1000]),
            format: format.clone(),
        })
    }

    fn recorder(dir: &Path, max_bytes: u64) -> Recorder {
        let card = Card { dir: dir.into(), max_bytes, segments: VecDeque::new(), bytes: 0, next: 0 };
        Recorder { card, segment: None, length: Duration::from_secs(2), counts: Arc::default() }
    }

    fn numbers(dir: &Path) -> Vec<u64> {
        let mut found: Vec<u64> = fs::read_dir(dir).unwrap().filter_map(|entry| number(&entry.unwrap().path())).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn the_oldest_segments_make_room_and_every_frame_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = recorder(dir.path(), 100_000);
        recorder.card.scan().unwrap();
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
    fn numbers_go_on_after_a_start_and_foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("holiday.mp4"), vec![0; 500_000]).unwrap();
        fs::write(dir.path().join("19700101T000000Z-00000041.mp4"), vec![0; 90_000]).unwrap();
        let mut recorder = recorder(dir.path(), 100_000);
        recorder.card.scan().unwrap();
        for frame in (0..3).flat_map(second) {
            recorder.record(frame).unwrap();
        }
        recorder.close().unwrap();
        assert_eq!(numbers(dir.path()), [42, 43]);
        assert!(dir.path().join("holiday.mp4").exists());
    }

    #[test]
    fn a_share_too_small_for_one_segment_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = recorder(dir.path(), 10_000);
        recorder.card.scan().unwrap();
        assert!((0..2).flat_map(second).any(|frame| recorder.record(frame).is_err()));
    }
}
