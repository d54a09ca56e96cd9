//! A pipeline whose buffers a test feeds: what becomes of them, buffer by buffer.

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::*;
use crate::media::{
    Frame,
    drops::DropCounters,
    frame::Codec,
    gstreamer::{
        frames::{CAPS, Frames},
        pipeline::deliver,
    },
    ring::Ring,
    rtp::{nal_units, tests as rtp_tests},
    source::Stream,
};

pub(super) use rtp_tests::kind as nal_type;

/// Access units of a film at 15 frames a second, as a byte stream, without delimiters.
pub(super) fn film(codec: Codec, frames: u32, options: &[&str]) -> Vec<Vec<u8>> {
    let unit = |nals: Vec<Vec<u8>>| nals.iter().flat_map(|nal| [&[0, 0, 0, 1], &nal[..]].concat()).collect();
    rtp_tests::film(codec, frames, options).into_iter().map(unit).collect()
}

/// The NAL units of an access unit.
pub(super) fn nals(unit: &[u8]) -> Vec<Vec<u8>> {
    let mut nals = Vec::new();
    nal_units(unit, &mut |nal| nals.push(nal.to_vec()));
    nals
}

/// The end of a pipeline as the agent builds it.
pub(super) struct Fed {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    frames: Arc<std::sync::Mutex<Frames>>,
    stream: Arc<Stream>,
    ring: Arc<Ring>,
    conditions: Conditions,
}

/// What became of the buffers.
pub(super) struct Received {
    pub frames: Vec<Frame>,
    pub dropped: u64,
    /// The condition `frames_lost`.
    pub told: Option<String>,
}

/// A buffer, or its time in milliseconds and its flags.
pub(super) struct Piece<'a> {
    pub bytes: &'a [u8],
    pub shown_ms: Option<u64>,
    pub flags: gst::BufferFlags,
}

impl<'a> Piece<'a> {
    pub fn at(bytes: &'a [u8], shown_ms: Option<u64>) -> Self {
        Self { bytes, shown_ms, flags: gst::BufferFlags::empty() }
    }
}

impl Fed {
    /// `caps` of what is fed; `None`: it has none, as from a socket.
    pub fn new(caps: Option<&str>) -> Self {
        gst::init().unwrap();
        let launch = format!(
            "appsrc name=source format=time ! queue name=queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! appsink name=out caps=\"{CAPS}\" sync=false async=false"
        );
        let pipeline = gst::parse::launch(&launch).unwrap().downcast::<gst::Pipeline>().unwrap();
        let (ring, conditions) = (Arc::new(Ring::new(Duration::from_secs(600), 1 << 26)), Conditions::default());
        let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(conditions.clone())));
        let (_, frames) = deliver(&pipeline, &stream.session(Duration::ZERO)).unwrap();
        let source = pipeline.by_name("source").unwrap().downcast::<gst_app::AppSrc>().unwrap();
        source.set_caps(caps.map(|caps| caps.parse().unwrap()).as_ref());
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, source, frames, stream, ring, conditions }
    }

    pub fn push(&self, piece: &Piece<'_>) {
        let mut buffer = gst::Buffer::from_slice(piece.bytes.to_vec());
        let writable = buffer.make_mut();
        writable.set_pts(piece.shown_ms.map(gst::ClockTime::from_mseconds));
        writable.set_flags(piece.flags);
        self.source.push_buffer(buffer).unwrap();
    }

    /// Ends the stream, and gives what came of it.
    pub fn received(self) -> Received {
        self.source.end_of_stream().unwrap();
        let bus = self.pipeline.bus().unwrap();
        let last = bus.timed_pop_filtered(gst::ClockTime::from_seconds(30), &[gst::MessageType::Eos, gst::MessageType::Error]);
        assert_eq!(last.map(|message| message.type_()), Some(gst::MessageType::Eos));
        self.frames.lock().unwrap().end();
        self.pipeline.set_state(gst::State::Null).unwrap();
        Received {
            frames: (0..self.ring.end()).filter_map(|at| self.ring.at(at)).collect(),
            dropped: self.stream.counters.dropped.load(Ordering::Relaxed),
            told: named(&self.conditions, "frames_lost"),
        }
    }
}

/// Feeds pieces and gives what came of them.
pub(super) fn feed<'a>(caps: Option<&str>, pieces: impl IntoIterator<Item = Piece<'a>>) -> Received {
    let fed = Fed::new(caps);
    pieces.into_iter().for_each(|piece| fed.push(&piece));
    fed.received()
}

pub(super) const AVC_UNITS: &str = "video/x-h264,stream-format=byte-stream,alignment=au";
pub(super) const HEVC_UNITS: &str = "video/x-h265,stream-format=byte-stream,alignment=au";

/// These access units with a time each, 15 a second.
pub(super) fn feed_units(codec: Codec, units: &[Vec<u8>]) -> Received {
    let caps = if codec == Codec::H264 { AVC_UNITS } else { HEVC_UNITS };
    feed(Some(caps), (0_u64..).zip(units).map(|(n, unit)| Piece::at(unit, Some(n * 1000 / 15))))
}

/// A byte stream comes from sockets and pipes in any pieces, often without caps; from encoders with each NAL unit or access unit in
/// a buffer; from files behind lengths.
#[test]
fn a_stream_gives_the_same_frames_however_it_is_packed() {
    for (codec, media_type, options) in [
        (Codec::H264, "video/x-h264", &["-g", "15", "-bf", "0"][..]),
        (Codec::H265, "video/x-h265", &["-x265-params", "aud=1:keyint=15:bframes=0:log-level=none"]),
    ] {
        let units = film(codec, 30, options);
        let expected = feed_units(codec, &units);
        assert_eq!((expected.frames.len(), expected.dropped, expected.told.as_deref()), (30, 0, None));
        let same = |what: &str, received: Received| {
            assert_eq!((received.frames.len(), received.dropped), (30, 0), "{what}");
            for (frame, expected) in received.frames.iter().zip(&expected.frames) {
                assert!(frame.data == expected.data && frame.key == expected.key && frame.format == expected.format, "{what}");
            }
        };
        let stream = units.concat();
        for size in [7, 1000, 100_000] {
            same("cut, without caps", feed(None, stream.chunks(size).map(|bytes| Piece::at(bytes, None))));
            let caps = format!("{media_type},stream-format=byte-stream");
            same("cut", feed(Some(&caps), stream.chunks(size).map(|bytes| Piece::at(bytes, None))));
        }
        let single: Vec<Vec<u8>> = units.iter().flat_map(|unit| nals(unit)).map(|nal| [&[0, 0, 1], &nal[..]].concat()).collect();
        let caps = format!("{media_type},stream-format=byte-stream,alignment=nal");
        same("one NAL unit a buffer", feed(Some(&caps), single.iter().map(|nal| Piece::at(nal, None))));
        let lengths = |unit: &Vec<u8>| -> Vec<u8> {
            nals(unit).iter().flat_map(|nal| [&u32::try_from(nal.len()).unwrap().to_be_bytes()[..], &nal[..]].concat()).collect()
        };
        let records: Vec<Vec<u8>> = units.iter().map(lengths).collect();
        let configuration = expected.frames[0].format.configuration.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let format = if codec == Codec::H264 { "avc" } else { "hvc1" };
        let caps = format!("{media_type},stream-format={format},alignment=au,codec_data=(buffer){configuration}");
        same("behind lengths", feed(Some(&caps), records.iter().map(|unit| Piece::at(unit, None))));
        // A camera that puts each slice into a buffer of its own and calls it an access unit.
        let caps = format!("{media_type},stream-format=byte-stream,alignment=au");
        for format in ["hvc1", "byte-stream"] {
            let format = if codec == Codec::H264 && format == "hvc1" { "avc" } else { format };
            let caps = format!("{media_type},stream-format={format},alignment=au");
            let fed = if format == "byte-stream" { &records } else { &units };
            // With parameter sets in band, whatever the caps say of them.
            same("other than the caps say", feed(Some(&caps), fed.iter().map(|unit| Piece::at(unit, None))));
        }
        same("too many ends", feed(Some(&caps), single.iter().map(|nal| Piece::at(nal, None))));
    }
}

/// Somebody wrote the caps by hand behind a socket, a pipe or an encoder: buffers end elsewhere than they say. What the first
/// buffer of a stream seems to hold is given up, and no picture is recorded in halves.
#[test]
fn a_stream_that_is_cut_elsewhere_than_its_caps_say_is_put_together() {
    for (codec, media_type, options) in [
        (Codec::H264, "video/x-h264", &["-g", "15", "-bf", "0"][..]),
        (Codec::H265, "video/x-h265", &["-x265-params", "aud=1:keyint=15:bframes=0:info=0:log-level=none"]),
    ] {
        let units = film(codec, 60, options);
        let expected = feed_units(codec, &units);
        let (stream, half) = (units.concat(), |unit: &Vec<u8>| unit.len() / 2 + 1);
        let halves: Vec<&[u8]> = units.iter().flat_map(|unit| [&unit[..half(unit)], &unit[half(unit)..]]).collect();
        for alignment in ["au", "nal"] {
            let caps = format!("{media_type},stream-format=byte-stream,alignment={alignment}");
            for pieces in [halves.clone(), stream.chunks(1000).collect(), stream.chunks(100_000).collect()] {
                let (each, count) = (60_000 / 15 / pieces.len() as u64, pieces.len());
                let received = feed(Some(&caps), (0..).zip(pieces).map(|(n, bytes)| Piece::at(bytes, Some(n * each))));
                let what = format!("{media_type}, {alignment}, {count} pieces: {} frames, {:?}", received.frames.len(), received.told);
                assert!(received.frames.len() >= 45, "{what}");
                assert!(received.frames.len() as u64 + received.dropped >= 60, "{what}");
                let whole = |frame: &Frame| expected.frames.iter().any(|expected| expected.data == frame.data);
                assert!(received.frames.iter().all(whole), "{what}");
            }
        }
    }
}

#[test]
fn h264_under_caps_that_say_h265_is_filmed() {
    let units = film(Codec::H264, 30, &["-g", "15", "-bf", "0"]);
    let delimited: Vec<Vec<u8>> = units.iter().map(|unit| [&[0, 0, 0, 1, 9, 0xF0], &unit[..]].concat()).collect();
    for units in [units, delimited] {
        let received = feed_units(Codec::H265, &units);
        assert_eq!((received.frames.len(), received.dropped, received.told), (30, 0, None));
    }
}

#[test]
fn what_is_missing_or_damaged_costs_the_rest_of_its_gop_and_is_told() {
    let units = film(Codec::H264, 30, &["-g", "15", "-bf", "0"]);
    let caps = Some(AVC_UNITS);
    let regular = |n: usize| Piece::at(&units[n], Some(n as u64 * 66));
    let lost = feed(
        caps,
        (0..30)
            .filter(|n| *n != 5)
            .map(|n| Piece { flags: if n == 6 { gst::BufferFlags::DISCONT } else { gst::BufferFlags::empty() }, ..regular(n) }),
    );
    assert_eq!((lost.frames.len(), lost.dropped), (20, 9), "5 up to the lost one, 15 from the next keyframe on");
    assert!(lost.told.unwrap().contains("9 because data before them is missing"));
    let damaged = feed(
        caps,
        (0..30).map(|n| Piece { flags: if n == 5 { gst::BufferFlags::CORRUPTED } else { gst::BufferFlags::empty() }, ..regular(n) }),
    );
    assert_eq!((damaged.frames.len(), damaged.dropped), (20, 10));
    assert!(damaged.told.unwrap().contains("that the source marked as damaged"));
    let bare = units.iter().map(|unit| {
        let slices = nals(unit).into_iter().filter(|nal| matches!(nal_type(Codec::H264, nal), 1 | 5));
        slices.flat_map(|nal| [&[0, 0, 1], &nal[..]].concat()).collect::<Vec<u8>>()
    });
    let without = feed_units(Codec::H264, &bare.collect::<Vec<_>>());
    assert_eq!((without.frames.len(), without.dropped), (0, 30));
    assert!(without.told.unwrap().contains("30 that came before their parameter sets"));
}

/// An element that marks each buffer says nothing by it. One picture in four is a keyframe here, so that three losses cost eight.
#[test]
fn marks_of_a_discontinuity_on_every_buffer_do_not_count() {
    let units = film(Codec::H264, 30, &["-g", "4", "-bf", "0"]);
    let marked = feed(
        Some(AVC_UNITS),
        (0..).zip(&units).map(|(n, unit)| Piece { flags: gst::BufferFlags::DISCONT, ..Piece::at(unit, Some(n * 66)) }),
    );
    assert!(marked.frames.len() >= 26, "{} frames", marked.frames.len());
}

/// Parsers that give each NAL unit in a buffer put a discontinuity between the parameter sets and the picture, and give the sets a
/// time of before the first picture.
#[test]
fn parameter_sets_outlive_a_discontinuity_and_the_beginning_of_the_segment() {
    let dir = tempfile::tempdir().unwrap();
    let film = recorded(&dir, "b.mp4", 4);
    let nal = "h264parse ! video/x-h264,stream-format=byte-stream,alignment=nal ! clocksync";
    let source = Source::Launch(format!("filesrc location={} ! qtdemux ! {nal}", film.display()).into());
    let media = start(&camera(source, 1), &Collector::new(10));
    wait_for_frames(&media, 15);
    let stream = media.status().stream;
    assert_eq!((stream.fault, stream.dropped, stream.width), (None, 0, 640));
    assert!(media.stop(Duration::from_secs(5)));
}

/// A time-lapse camera: its picture must not wait for the next one.
#[test]
fn a_picture_is_given_out_when_nothing_follows() {
    let units = film(Codec::H264, 1, &[]);
    for caps in [Some(AVC_UNITS), None] {
        let fed = Fed::new(caps);
        fed.push(&Piece::at(&units[0], None));
        eventually("the picture is there", || {
            fed.frames.lock().unwrap().quiet(Instant::now());
            fed.ring.end() == 1
        });
        assert_eq!(fed.received().frames.len(), 1);
    }
}

/// A slow link: one picture takes longer than the silence after which it would be taken to be complete.
#[test]
fn a_picture_that_comes_slowly_is_not_cut() {
    let units = film(Codec::H264, 2, &["-g", "15", "-bf", "0"]);
    let fed = Fed::new(None);
    for bytes in units[0].chunks(units[0].len() / 3) {
        fed.push(&Piece::at(bytes, None));
        std::thread::sleep(Duration::from_millis(600));
        fed.frames.lock().unwrap().quiet(Instant::now());
    }
    fed.push(&Piece::at(&units[1], None));
    let received = fed.received();
    assert_eq!((received.frames.len(), received.dropped, received.told), (2, 0, None));
}
