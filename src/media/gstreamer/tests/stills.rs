//! Snapshots as JPEGs of keyframes; ffprobe and ffmpeg judge them.

use bytes::Bytes;
use care_protocol::ClipKind;

use super::{
    pipeline::{feed_units, film},
    *,
};
use crate::media::{
    Frame,
    clip::{Moment, Stream},
    frame::{Codec, Format},
    gstreamer::stills::Decoded,
    mp4::Mp4,
    ring::Ring,
    snapshot::{Counts, Snapshots, Still, Stills, Target},
    stop_signal::StopSignal,
    tests::scripted::{self, Scripted},
};

const LONG: Duration = Duration::from_secs(20);

fn decoded(h264: &'static [&'static str], within: Duration) -> Decoded {
    Decoded::with(h264, within, StopSignal::default())
}

/// Codec, width and height, and the picture, small and in RGB.
fn seen(file: &[u8]) -> (String, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    let found = run("ffprobe", &["-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0", path]);
    let arguments = ["-v", "error", "-i", path, "-vf", "scale=64:36,format=rgb24", "-f", "rawvideo", "-"];
    let small = Command::new("ffmpeg").args(arguments).output().unwrap();
    (found.trim().to_owned(), small.stdout)
}

#[test]
fn a_keyframe_becomes_a_jpeg_of_its_picture() {
    let keyframe = scripted::film("640x360")[0].clone();
    let jpeg = decoded(&DECODERS, LONG).jpeg(keyframe.clone()).unwrap().unwrap();
    let (found, small) = seen(&jpeg);
    assert_eq!(found, "mjpeg,640,360");
    let (film, expected) = seen(&Mp4::begin(keyframe).finish(LONG).unwrap().bytes);
    assert_eq!((film.as_str(), small.len()), ("h264,640,360", expected.len()));
    let apart: f64 = small.iter().zip(&expected).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    assert!(apart / (expected.len() as f64) < 4.0, "{} of 255", apart / expected.len() as f64);
}

#[test]
fn every_decoder_makes_one_also_of_h265_and_of_pictures_that_are_shown_later() {
    for name in ["openh264dec", "avdec_h264"] {
        let only: &'static [&'static str] = Box::leak(Box::new([name]));
        let keyframe = feed_units(Codec::H264, &film(Codec::H264, 6, &["-bf", "2", "-g", "15", "-profile:v", "main"])).frames[0].clone();
        let jpeg = decoded(only, LONG).jpeg(keyframe).unwrap().unwrap();
        assert_eq!(seen(&jpeg).0, "mjpeg,320,240", "{name}");
    }
    let keyframe = feed_units(Codec::H265, &film(Codec::H265, 2, &["-x265-params", "aud=1:log-level=none"])).frames[0].clone();
    let jpeg = decoded(&[], LONG).jpeg(keyframe).unwrap().unwrap();
    assert_eq!(seen(&jpeg).0, "mjpeg,320,240");
}

/// Two streams of one camera, a moment of both, and where its snapshot goes.
struct Bench {
    rings: [Arc<Ring>; 2],
    target: Target,
    collector: Collector,
}

impl Bench {
    fn new(tallest: u32) -> Self {
        let collector = Collector::new(3);
        collector.snapshots.store(true, Ordering::Relaxed);
        collector.tallest.store(tallest, Ordering::Relaxed);
        let ring = |size| {
            let ring = Arc::new(Ring::new(LONG, 6_000_000));
            ring.push(Frame { taken: Instant::now(), ..scripted::film(size)[0].clone() });
            ring
        };
        let target = Target { outlet: Arc::new(collector.clone()), counts: Arc::<Counts>::default(), conditions: Conditions::default() };
        Self { rings: ["640x360", "320x180"].map(ring), target, collector }
    }

    /// Takes snapshots of this moment, so many one after the other, until all are made.
    fn take(&self, stills: impl Stills, snapshots: usize) {
        let (way, thread) = Snapshots::of(self.target.clone(), stills).unwrap();
        for _ in 0..snapshots {
            way.take(Moment::of(&self.rings.clone().map(|ring| Stream::new(ring, Arc::new(Scripted::live())))));
        }
        drop(way);
        thread.unwrap().join().unwrap();
    }

    /// The height of each, and whether it is a JPEG.
    fn stored(&self) -> Vec<(u32, bool)> {
        let clips = self.collector.clips.lock().unwrap();
        assert!(clips.iter().all(|clip| clip.beginning.kind == ClipKind::Snapshot));
        clips.iter().map(|clip| (clip.beginning.height, clip.bytes.starts_with(&[0xFF, 0xD8]))).collect()
    }

    fn failing(&self) -> Option<String> {
        named(&self.target.conditions, "snapshot_failing")
    }

    fn failed(&self) -> u64 {
        self.target.counts.failed.load(Ordering::Relaxed)
    }
}

#[test]
fn a_snapshot_is_a_jpeg_of_the_tallest_picture_that_the_plan_allows() {
    for (tallest, stored) in [(1080, vec![(360, true)]), (359, vec![(180, true)]), (100, vec![])] {
        let bench = Bench::new(tallest);
        bench.take(decoded(&DECODERS, LONG), 1);
        assert_eq!((bench.stored(), bench.failing(), bench.failed()), (stored, None, 0), "{tallest}");
    }
}

#[test]
fn a_picture_too_large_to_decode_is_left_to_the_smaller_stream() {
    let bench = Bench::new(1080);
    let large = Arc::new(Ring::new(LONG, 6_000_000));
    let keyframe = scripted::film("640x360")[0].clone();
    let Format { codec, configuration, .. } = &*keyframe.format;
    let format = Format { codec: *codec, width: 1936, height: 1080, configuration: configuration.clone() };
    large.push(Frame { format: Arc::new(format), ..keyframe });
    let bench = Bench { rings: [large, bench.rings[1].clone()], ..bench };
    bench.take(decoded(&DECODERS, LONG), 1);
    assert_eq!((bench.stored(), bench.failing()), (vec![(180, true)], None));
}

#[test]
fn without_a_decoder_the_frame_is_sent_and_nothing_is_wrong() {
    let bench = Bench::new(1080);
    bench.take(decoded(&["nosuchdec"], LONG), 1);
    assert_eq!((bench.stored(), bench.failing(), bench.failed()), (vec![(360, false)], None, 0));
}

#[test]
fn where_the_decoder_fails_the_frame_is_sent_and_the_owner_is_told() {
    let bench = Bench::new(1080);
    let broken = Arc::new(Ring::new(LONG, 6_000_000));
    let keyframe = scripted::film("640x360")[0].clone();
    broken.push(Frame { data: Bytes::from(vec![0; keyframe.data.len()]), ..keyframe });
    let bench = Bench { rings: [broken, bench.rings[1].clone()], ..bench };
    bench.take(decoded(&["openh264dec"], Duration::from_secs(2)), 1);
    assert_eq!((bench.stored(), bench.failed()), (vec![(360, false)], 1));
    let said = bench.failing().unwrap();
    assert!(said.starts_with("no JPEG can be made of the stream, so a frame of the stream is sent instead (1 so far): "), "{said}");
}

#[test]
fn a_late_decoder_delays_no_snapshot() {
    let bench = Bench::new(1080);
    bench.take(decoded(&DECODERS, Duration::ZERO), 1);
    assert_eq!((bench.stored(), bench.failed()), (vec![(360, false)], 1));
    let said = bench.failing().unwrap();
    assert!(said.ends_with("(1 so far): its decoder gave no picture within 0.0 s"), "{said}");
}

/// Does something between the picture and its leaving.
struct Then<F>(Decoded, F);

impl<F: FnMut() + Send + 'static> Stills for Then<F> {
    const FAILS: &'static str = Decoded::FAILS;
    const ADVICE: &'static str = Decoded::ADVICE;

    fn still(&mut self, moment: &Moment, tallest: u32) -> Result<Option<Still>, String> {
        let still = self.0.still(moment, tallest);
        assert!(matches!(still, Ok(Some(_))), "{still:?}");
        (self.1)();
        still
    }
}

#[test]
fn of_a_picture_that_is_decoded_during_a_cut_nothing_leaves() {
    let bench = Bench::new(1080);
    let rings = bench.rings.clone();
    bench.take(Then(decoded(&DECODERS, LONG), move || rings[0].erase()), 1);
    assert_eq!((bench.stored(), bench.failing()), (vec![], None), "the account is another");

    let bench = Bench::new(1080);
    let collector = bench.collector.clone();
    bench.take(Then(decoded(&DECODERS, LONG), move || collector.snapshots.store(false, Ordering::Relaxed)), 1);
    assert_eq!((bench.stored(), bench.failing()), (vec![], None), "the plan has no snapshots any more");
}
