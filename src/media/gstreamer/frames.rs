//! Frames of the buffers that leave a pipeline, judged by their NAL units as those of an RTSP camera are: GStreamer's own flags and
//! times are hints. Fed by `pipeline`, on a thread of GStreamer's, and by `source` while no buffer comes.

use std::time::{Duration, Instant};

use gstreamer as gst;

use super::nal_units::{self, Cut, Malformed, Packing};
use crate::media::{
    frame::Codec,
    rtp::{Framer, Moment, Output, reason},
    source::Session,
};

/// What has come of a byte stream that is cut anywhere is taken to be complete after a silence this long.
const QUIET: Duration = Duration::from_secs(1);
/// So many buffers in a row do not each follow a loss.
const MARKED_ALWAYS: u32 = 4;
const UNREADABLE: &str = "because their data could not be read";
const DAMAGED: &str = "that the source marked as damaged";
const INCOMPLETE: &str = "because data before them is missing";
const NO_CODEC: &str = "because they are neither H.264 nor H.265";

/// What the agent asks of a pipeline's end.
pub(super) const CAPS: &str = "video/x-h264;video/x-h265";

/// Makes the frames of one session.
pub(super) struct Frames {
    session: Session,
    stream: Option<Stream>,
    ended: bool,
}

/// One stream, for as long as its codec stays.
struct Stream {
    caps: Option<gst::Caps>,
    codec: Codec,
    packing: Packing,
    /// Whether each buffer holds an access unit, as the caps say.
    aligned: bool,
    /// Whether each buffer ends with a NAL unit, as they say.
    whole: bool,
    /// How many buffers in a row were marked as a discontinuity.
    discontinuities: u32,
    framer: Framer,
    /// When the last buffer came.
    last: Instant,
}

impl Frames {
    pub fn new(session: Session) -> Self {
        Self { session, stream: None, ended: false }
    }

    /// Takes the next buffer.
    pub fn take(&mut self, sample: &gst::Sample) {
        let received = Instant::now();
        let Some(buffer) = sample.buffer().filter(|_| !self.ended) else { return };
        let Ok(bytes) = buffer.map_readable() else {
            return self.session.lost(1, UNREADABLE);
        };
        let moment = Moment { shown: shown(sample, buffer), received };
        let follows = self.stream.is_some();
        if self.stream.as_ref().is_none_or(|stream| stream.caps != sample.caps_owned()) {
            self.adapt(sample.caps_owned(), &bytes, moment);
        }
        let Some(stream) = &mut self.stream else {
            // Without caps a byte stream may be joined in the middle of a NAL unit: its first start code is still to come.
            if sample.caps().is_some() {
                self.session.lost(1, NO_CODEC);
            }
            return;
        };
        stream.last = received;
        let out = &mut |output| deliver(&self.session, output);
        let Stream { packing, framer, aligned, whole, discontinuities, .. } = stream;
        // An element that marks every buffer says nothing by it.
        let marked = buffer.flags().contains(gst::BufferFlags::DISCONT);
        *discontinuities = if marked { discontinuities.saturating_add(1) } else { 0 };
        if follows && (1..MARKED_ALWAYS).contains(discontinuities) {
            if *whole {
                packing.flush(&mut |nal, moment| framer.nal(nal, moment, out));
            }
            packing.discard();
            framer.missing(out);
        }
        if packing.continues(&bytes) {
            // The caps are wrong: of an access unit only the beginning was there.
            framer.cut_off(UNREADABLE);
            (*packing, *aligned, *whole) = (Packing::Cut(Cut::default()), false, false);
        }
        let read = packing.read(&bytes, moment, &mut |nal, moment| framer.nal(nal, moment, out));
        if let Err(Malformed) = read {
            framer.damage(moment, UNREADABLE);
        } else if buffer.flags().contains(gst::BufferFlags::CORRUPTED) {
            framer.damage(moment, DAMAGED);
        }
        if stream.aligned {
            framer.mark();
        }
    }

    /// When sound of this running time, nanoseconds, is heard beside the frames. `None`: it is from before the first of them.
    pub fn heard(&self, shown: Option<i64>, received: Instant) -> Option<Duration> {
        self.stream.as_ref()?.framer.heard(Moment { shown, received })
    }

    /// Gives out what would otherwise wait for the next buffer. Call it a few times a second.
    pub fn quiet(&mut self, now: Instant) {
        let Some(stream) = &mut self.stream else { return };
        if stream.packing.is_within_nal_unit() && now.saturating_duration_since(stream.last) < QUIET {
            return;
        }
        let out = &mut |output| deliver(&self.session, output);
        stream.flush(out);
        stream.framer.quiet(now, out);
    }

    /// No more buffers come, and none is taken.
    pub fn end(&mut self) {
        self.end_stream();
        self.ended = true;
    }

    fn end_stream(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let out = &mut |output| deliver(&self.session, output);
            stream.flush(out);
            stream.framer.end(out);
        }
    }

    /// Follows new caps. Without any, as a socket or a pipe gives them, the bytes tell the codec.
    fn adapt(&mut self, caps: Option<gst::Caps>, bytes: &[u8], moment: Moment) {
        let Some(described) = Described::of(caps.as_deref(), bytes) else {
            return self.end_stream();
        };
        if self.stream.as_ref().is_some_and(|stream| stream.codec != described.codec) {
            self.end_stream();
        }
        let out = &mut |output| deliver(&self.session, output);
        let Described { codec, packing, aligned, whole, configuration } = described;
        let stream = match &mut self.stream {
            Some(stream) => {
                stream.flush(out);
                (stream.packing, stream.aligned, stream.whole, stream.caps) = (packing, aligned, whole, caps);
                stream
            }
            none => {
                let framer = Framer::new(codec);
                none.insert(Stream { caps, codec, packing, aligned, whole, discontinuities: 0, framer, last: moment.received })
            }
        };
        for set in nal_units::configuration(codec, &configuration).iter().flat_map(|(_, sets)| sets) {
            stream.framer.nal(set, moment, out);
        }
    }
}

impl Stream {
    fn flush(&mut self, out: &mut dyn FnMut(Output)) {
        let framer = &mut self.framer;
        self.packing.flush(&mut |nal, moment| framer.nal(nal, moment, out));
    }
}

/// What caps say of a stream.
struct Described {
    codec: Codec,
    packing: Packing,
    aligned: bool,
    whole: bool,
    /// `codec_data`; empty if there is none.
    configuration: Vec<u8>,
}

impl Described {
    fn of(caps: Option<&gst::CapsRef>, bytes: &[u8]) -> Option<Self> {
        let cut = Packing::Cut(Cut::default());
        let Some(structure) = caps.and_then(|caps| caps.structure(0)) else {
            let codec = nal_units::codec_of(bytes)?;
            return Some(Self { codec, packing: cut, aligned: false, whole: false, configuration: Vec::new() });
        };
        let codec = match structure.name().as_str() {
            "video/x-h264" => Codec::H264,
            // The bytes know better than caps that somebody wrote.
            "video/x-h265" if nal_units::is_h264_for_certain(bytes) => Codec::H264,
            "video/x-h265" => Codec::H265,
            _ => return None,
        };
        let record = structure.get::<gst::Buffer>("codec_data").ok();
        let configuration = record.and_then(|record| Some(record.map_readable().ok()?.to_vec())).unwrap_or_default();
        let text = |name| structure.get::<&str>(name).unwrap_or_default();
        let aligned = text("alignment") == "au";
        let whole = aligned || text("alignment") == "nal";
        let size = nal_units::configuration(codec, &configuration).map_or(4, |(size, _)| size);
        let said = matches!(text("stream-format"), "avc" | "avc3" | "hvc1" | "hev1");
        let packing = if nal_units::has_lengths(bytes, size, said) {
            Packing::Lengths(size)
        } else if aligned {
            Packing::Whole { starts: false }
        } else {
            cut
        };
        Some(Self { codec, packing, aligned, whole, configuration })
    }
}

/// When a buffer is shown, or heard, nanoseconds of running time. Its DTS is better than nothing.
pub(super) fn shown(sample: &gst::Sample, buffer: &gst::BufferRef) -> Option<i64> {
    let time = buffer.pts().or(buffer.dts())?;
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    match segment.to_running_time_full(time)? {
        gst::Signed::Positive(time) => i64::try_from(time.nseconds()).ok(),
        gst::Signed::Negative(time) => i64::try_from(time.nseconds()).ok().map(|time| -time),
    }
}

fn deliver(session: &Session, output: Output) {
    match output {
        Output::Frame(frame) => session.frame(frame),
        Output::Lost { frames, reason } => session.lost(frames, without_rtp(reason)),
        Output::Gap => session.gap(),
    }
}

/// The same reason where no RTP packets are.
fn without_rtp(reason: &'static str) -> &'static str {
    match reason {
        reason::PACKETS_LOST => INCOMPLETE,
        reason::MALFORMED => UNREADABLE,
        other => other,
    }
}
