//! Recording scripted frames to a directory that stands for the card, without its second thread.

use std::{fs, path::Path};

use bytes::Bytes;

use super::*;
use crate::media::{
    frame::{Codec, Format},
    sound::{Sound, SoundFormat, Soundtrack},
    tests::{Collector, on_card},
};

/// A second of 15 frames of 1,000 bytes, a keyframe first.
pub(in crate::media) fn second(n: u64) -> impl Iterator<Item = Frame> {
    let format =
        Arc::new(Format { codec: Codec::H264, width: 640, height: 360, configuration: Bytes::from_static(&[1, 66, 0, 30, 255, 224, 0]) });
    (0..15).map(move |frame| Frame {
        pts: Duration::from_millis(n * 1000 + frame * 66),
        key: frame == 0,
        taken: Instant::now(),
        data: Bytes::from(vec![7; 1000]),
        format: format.clone(),
        sound: None,
    })
}

pub(in crate::media) fn recorder(dir: &Path, max_bytes: u64) -> Recorder {
    let config = config::Recording { dir: dir.into(), max_bytes, memory_bytes: 4_000_000, keep_days: None, kept_off: Vec::new() };
    let conditions = Conditions::default();
    Recorder {
        card: Card::new(&config),
        segment: None,
        length: Duration::from_secs(2),
        most: 0,
        outlet: Arc::new(Collector::new(60)),
        counts: Arc::default(),
        drops: DropCounters::new(conditions.clone()),
        conditions,
    }
}

impl Recorder {
    /// What the other thread would do.
    fn upkeep(&self, max_bytes: u64, keep: Option<Duration>) -> Upkeep {
        let (shelf, counts, outlet) = (self.card.shelf().clone(), self.counts.clone(), self.outlet.clone());
        Upkeep { shelf, counts, outlet, max_bytes, keep }
    }

    pub(in crate::media) fn syncs(&self) {
        self.upkeep(u64::MAX, None).sync();
    }

    /// So much waits for the sync of the segment before.
    pub(in crate::media) fn waiting(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Finds the card.
    pub(in crate::media) fn starts(&mut self) {
        self.card.look().unwrap();
        self.upkeep(u64::MAX, None).tidy();
    }

    pub(in crate::media) fn records(&mut self, frames: impl Iterator<Item = Frame>) {
        frames.for_each(|frame| self.record(frame).unwrap());
    }

    pub(in crate::media) fn closes(&mut self) {
        self.close().unwrap();
    }
}

/// The number in the name of a segment.
fn number(file: &Path) -> Option<u64> {
    file.file_stem()?.to_str()?.split_once('-')?.1.parse().ok()
}

fn numbers(dir: &Path) -> Vec<u64> {
    let mut found: Vec<u64> = on_card(dir).iter().filter_map(|file| number(file)).collect();
    found.sort_unstable();
    found
}

#[test]
fn the_oldest_segments_make_room_and_every_frame_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), 100_000);
    recorder.records((0..20).flat_map(second));
    recorder.closes();
    let left = numbers(dir.path());
    assert_eq!(left.last(), Some(&9), "a segment each two seconds");
    assert!((2..=3).contains(&left.len()) && left.is_sorted(), "{left:?}");
    let size = || on_card(dir.path()).iter().map(|file| file.metadata().unwrap().len()).sum::<u64>();
    assert!(size() <= 100_000);
    let held = |recorder: &Recorder| {
        let held = recorder.card.shelf().held();
        (held.bytes, held.deleted as usize)
    };
    assert_eq!(held(&recorder), (size(), 10 - left.len()));
    assert_eq!(recorder.counts.status().frames, 300);

    // The other thread makes room before it is needed.
    recorder.upkeep(size(), None).tidy();
    assert_eq!(numbers(dir.path()), left[1..]);
    assert_eq!(held(&recorder), (size(), 11 - left.len()));
}

#[test]
fn a_segment_that_is_complete_ends_with_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), 1_000_000);
    recorder.records((0..3).flat_map(second));
    recorder.closes();
    for file in on_card(dir.path()) {
        let bytes = fs::read(file).unwrap();
        let size = u32::from_be_bytes(*bytes.last_chunk().unwrap()) as usize;
        assert_eq!(&bytes[bytes.len() - size + 4..][..4], b"mfra");
    }
    assert_eq!(numbers(dir.path()), [0, 1]);
}

#[test]
fn numbers_go_on_after_a_start_and_foreign_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let foreign =
        ["holiday.mp4", "2019-07-01/holiday.mp4", "2019-07-02/20190701T000000Z-00000001.mp4", "summer/20190701T000000Z-00000001.mp4"];
    for file in foreign.map(|file| dir.path().join(file)) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, vec![0; 500_000]).unwrap();
    }
    // Of a version without day folders.
    fs::write(dir.path().join("19700101T000000Z-00000041.mp4"), vec![0; 90_000]).unwrap();
    let mut recorder = recorder(dir.path(), 100_000);
    recorder.records((0..3).flat_map(second));
    recorder.closes();
    let left: Vec<_> = on_card(dir.path()).iter().map(|file| file.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned()).collect();
    let (kept, ours): (Vec<_>, Vec<_>) = left.iter().partition(|file| foreign.contains(&file.as_str()));
    assert_eq!(kept.len(), foreign.len(), "{left:?}");
    assert!(ours.len() == 2 && ours[0].ends_with("-00000042.mp4") && ours[1].ends_with("-00000043.mp4"), "{ours:?}");
    assert!(ours.iter().all(|file| file[..10].replace('-', "") == file[11..19]), "each in the folder of its day: {ours:?}");
}

#[test]
fn a_day_folder_goes_with_its_last_segment_and_an_empty_one_when_the_card_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for (file, bytes) in [("2026-01-01/20260101T000000Z-00000001.mp4", 60_000), ("2026-01-02/20260102T000000Z-00000002.mp4", 10)] {
        let file = dir.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, vec![0; bytes]).unwrap();
    }
    fs::create_dir(dir.path().join("2025-12-31")).unwrap();
    let mut recorder = recorder(dir.path(), 100_000);
    recorder.records((0..2).flat_map(second));
    recorder.closes();
    assert_eq!(numbers(dir.path()), [1, 2, 3]);
    assert!(!dir.path().join("2025-12-31").exists());
    recorder.records((2..4).flat_map(second));
    recorder.closes();
    assert_eq!(numbers(dir.path()), [2, 3, 4]);
    assert!(!dir.path().join("2026-01-01").exists() && dir.path().join("2026-01-02").exists());
}

#[test]
fn what_is_older_than_keep_days_goes_and_what_has_no_time_goes_with_its_neighbour() {
    const NOW: Duration = Duration::from_secs(1_767_225_600);
    struct AtNewYear(bool);
    impl Outlet for AtNewYear {
        fn begin(&self, _: crate::media::Beginning) -> Option<(Box<dyn crate::media::ClipWriter>, Duration)> {
            None
        }
        fn clip_max(&self) -> Option<Duration> {
            None
        }
        fn identity(&self, _: Duration) -> crate::media::Identity {
            crate::media::Identity { device: String::new(), started_at: self.0.then_some(NOW) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let made = [
        "19700101T000007Z-00000001.mp4",
        "20251225T000000Z-00000002.mp4",
        "19700101T000009Z-00000003.mp4",
        "20251228T235959Z-00000004.mp4",
        "19700101T000011Z-00000005.mp4",
        "20251229T000000Z-00000006.mp4",
        "20200101T000000Z-00000007.mp4",
    ];
    made.iter().for_each(|name| fs::write(dir.path().join(name), b"film").unwrap());
    let mut recorder = recorder(dir.path(), 100_000);
    recorder.card.look().unwrap();
    let three_days = Some(Duration::from_secs(3 * 86_400));
    recorder.card.shelf().held().to_mend.clear();
    recorder.outlet = Arc::new(AtNewYear(false));
    recorder.upkeep(100_000, three_days).tidy();
    assert_eq!(numbers(dir.path()).len(), made.len(), "while the time is not certain, none is too old");
    recorder.outlet = Arc::new(AtNewYear(true));
    recorder.upkeep(100_000, three_days).tidy();
    assert_eq!(numbers(dir.path()), [5, 6, 7], "in the order in which they were made");
}

#[test]
fn too_few_bytes_for_one_segment_is_a_fault_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), 10_000);
    let fault = (0..2).flat_map(second).find_map(|frame| recorder.record(frame).err()).unwrap();
    recorder.fail(&fault);
    let status = recorder.counts.status();
    assert_eq!((status.frames, status.dropped, status.lost.full), (0, 16, 16));
}

#[test]
fn a_stream_that_pauses_leaves_its_last_frames_on_the_card() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), 1_000_000);
    let ago = |frame: Frame| Frame { taken: Instant::now().checked_sub(FRAGMENT * 2).unwrap(), ..frame };
    recorder.records(second(0).map(ago));
    recorder.write_what_is_old().unwrap();
    assert_eq!((recorder.counts.status().frames, numbers(dir.path()).len()), (15, 1));
    recorder.write_what_is_old().unwrap();
    recorder.records(second(5));
    recorder.closes();
    assert_eq!(recorder.counts.status().frames, 30);
}

#[test]
fn a_sync_that_fails_ends_the_segment_and_is_counted_by_its_frames() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), 1_000_000);
    recorder.records((0..2).flat_map(second));
    recorder.card.shelf().held().failure = Some(std::io::ErrorKind::ReadOnlyFilesystem.into());
    recorder.card.shelf().held().failing = true;
    let fault = second(2).find_map(|frame| recorder.record(frame).err()).unwrap();
    assert!(fault.to_string().contains("syncing a recording"), "{fault}");
    recorder.fail(&fault);
    assert_eq!(recorder.counts.status().lost.read_only, 16);
    recorder.records((3..5).flat_map(second));
    assert!(recorder.counts.status().fault.is_some(), "writing proves nothing");
    recorder.syncs();
    recorder.records((5..6).flat_map(second));
    assert_eq!(recorder.counts.status().fault, None);
}

#[test]
fn a_segment_has_no_file_before_the_one_before_it_is_synced_unless_too_much_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), 1_000_000);
    (recorder.most, recorder.length) = (40_000, Duration::from_secs(3));
    let found = |recorder: &Recorder| (numbers(dir.path()), recorder.counts.status().frames);
    recorder.records((0..5).flat_map(second));
    assert_eq!(found(&recorder), (vec![0], 45), "the second segment waits");
    recorder.syncs();
    recorder.records(second(5));
    assert_eq!(found(&recorder), (vec![0, 1], 75));
    recorder.records((6..8).flat_map(second));
    assert_eq!(found(&recorder), (vec![0, 1], 90), "the third segment waits");
    recorder.most = 20_000;
    recorder.records(second(8));
    assert_eq!(found(&recorder), (vec![0, 1, 2], 120), "too much waits");
    recorder.closes();
    assert_eq!((found(&recorder).1, recorder.counts.status().dropped), (135, 0));
    assert!(on_card(dir.path()).iter().all(|file| file.metadata().unwrap().len() > 45_000));
}

/// The frame that begins a segment brings the sound that is heard before it, which belongs to the segment before.
#[test]
fn no_sound_is_missing_between_two_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), 1_000_000);
    let format = Arc::new(SoundFormat::plain(16_000, 1).unwrap());
    let heard = |frame: Frame| {
        let units = frame.pts.checked_sub(Duration::from_millis(66)).map(|pts| Sound { pts, data: Bytes::from_static(&[7]) });
        Frame { sound: Some(Soundtrack { format: format.clone(), units: units.into_iter().collect() }), ..frame }
    };
    recorder.records((0..4).flat_map(second).map(heard));
    recorder.closes();
    let units = |file: &Path| {
        let fields = ["-v", "quiet", "-select_streams", "a", "-show_entries", "packet=size", "-of", "csv=p=0"];
        let told = std::process::Command::new("ffprobe").args(fields).arg(file).output().unwrap();
        String::from_utf8(told.stdout).unwrap().lines().count()
    };
    let files = on_card(dir.path());
    // Each frame but the first brings a unit; that of the 31st, with which the second segment begins, is in the first one.
    assert_eq!(files.iter().map(|file| units(file)).collect::<Vec<_>>(), [30, 29]);
}
