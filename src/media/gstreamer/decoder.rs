//! Decodes single keyframes with whichever decoder GStreamer has: into small grey pictures, for built-in motion, or into what else
//! a pipeline makes of them. Between two keyframes of motion the pipeline rests in READY.

use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::{
    pipeline::{self, Fed},
    shut_down,
};
use crate::media::{
    MediaError,
    frame::{Codec, Frame},
    motion::built_in::GreyDecoder,
    source::{GREY_HEIGHT, GREY_WIDTH},
    stop_signal::StopSignal,
};

/// How long a decoder may take for one keyframe.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same frame goes in once more so much later.
const AGAIN: Duration = Duration::from_millis(1);
/// The one that uses the least memory first.
pub(super) const DECODERS: [&str; 3] = ["openh264dec", "v4l2h264dec", "avdec_h264"];
const LIBAV: &str = "avdec_";

/// The elements that are missing to make pictures small and grey, if any.
pub(super) fn cannot_shrink() -> Option<String> {
    let missing: Vec<&str> =
        ["videoscale", "videoconvert", "videorate"].into_iter().filter(|name| gst::ElementFactory::find(name).is_none()).collect();
    (!missing.is_empty()).then(|| format!("GStreamer's {} is not installed", missing.join(" and ")))
}

/// Tries the decoders in turn and stays with the one that works.
pub(super) struct Decoders {
    candidates: &'static [&'static str],
    current: Option<Decoder>,
    stop: StopSignal,
}

impl Decoders {
    pub fn new(stop: StopSignal) -> Self {
        Self::among(&DECODERS, stop)
    }

    /// Tries these alone.
    pub fn among(candidates: &'static [&'static str], stop: StopSignal) -> Self {
        Self { candidates, current: None, stop }
    }

    fn decode_with(&mut self, name: &'static str, frame: &Frame) -> Result<Vec<u8>, String> {
        let decoder = match self.current.take() {
            Some(decoder) if decoder.name == name => decoder,
            _ => Decoder::new(name, Codec::H264, &grey()).map_err(|error| error.to_string())?,
        };
        let decoder = self.current.insert(decoder);
        let decoded = decoder.decode(frame, PATIENCE, &self.stop);
        decoder.pipeline.set_state(gst::State::Ready).map_err(|_| "the decoder cannot be put away")?;
        decoded
    }
}

impl GreyDecoder for Decoders {
    fn decode(&mut self, keyframe: &Frame) -> Result<(&'static str, Vec<u8>), String> {
        if keyframe.format.codec == Codec::H265 {
            return Err(format!("motion cannot be seen in this stream ({}): built-in motion reads H.264 only", keyframe.format));
        }
        // No source may have started it: rtsp:// needs none of it.
        super::init().map_err(|error| error.to_string())?;
        let before = self.current.as_ref().map(|decoder| decoder.name);
        let mut faults = Vec::new();
        let found = self.candidates.iter().copied().filter(|name| gst::ElementFactory::find(name).is_some() && Some(*name) != before);
        for name in before.into_iter().chain(found) {
            if self.stop.is_raised() {
                break;
            }
            match self.decode_with(name, keyframe) {
                Ok(picture) => return Ok((name, picture)),
                Err(fault) => {
                    self.release();
                    faults.push(format!("{name}: {fault}"));
                }
            }
        }
        if let Some(missing) = cannot_shrink() {
            return Err(format!("motion cannot be seen: {missing}"));
        }
        let stream = &keyframe.format;
        Err(match faults[..] {
            [] => format!(
                "motion cannot be seen in this stream ({stream}): no decoder is installed, neither {}",
                self.candidates.join(" nor ")
            ),
            _ => format!("motion cannot be seen in this stream ({stream}), which no decoder here can read: {}", faults.join("; ")),
        })
    }

    fn refresh(&mut self) {
        // A registry that cannot be updated has the decoders it had.
        let _ = gst::Registry::update();
    }

    fn release(&mut self) {
        let Some(decoder) = self.current.take() else { return };
        if !shut_down(decoder.pipeline, Duration::from_secs(2)) {
            tracing::error!(decoder = decoder.name, "decoder did not stop in time and was left behind");
        }
    }
}

/// What makes a picture small and grey.
fn grey() -> String {
    format!("videoscale add-borders=false ! videoconvert ! video/x-raw,format=GRAY8,width={GREY_WIDTH},height={GREY_HEIGHT}")
}

/// A pipeline that decodes keyframes, one at a time.
pub(super) struct Decoder {
    name: &'static str,
    pub pipeline: gst::Pipeline,
    feed: gst_app::AppSrc,
    out: gst_app::AppSink,
    /// The time of the last frame that went in.
    fed: Option<Duration>,
}

impl Decoder {
    /// With this element, and `then` behind it.
    pub fn new(name: &'static str, codec: Codec, then: &str) -> Result<Self, MediaError> {
        let threads = if name.starts_with(LIBAV) { " max-threads=1" } else { "" };
        let parser = match codec {
            Codec::H264 => "h264parse",
            Codec::H265 => "h265parse",
        };
        let launch = format!(
            "appsrc name=feed format=time ! {parser} ! {name}{threads} ! {then} \
             ! appsink name=out sync=false async=false enable-last-sample=false"
        );
        let Fed { pipeline, feed, out } = Fed::launch(&launch).map_err(|reason| MediaError::Pipeline { reason })?;
        Ok(Self { name, pipeline, feed, out, fed: None })
    }

    /// What the pipeline makes of the frame.
    pub fn decode(&mut self, frame: &Frame, within: Duration, stop: &StopSignal) -> Result<Vec<u8>, String> {
        let bus = self.pipeline.bus().ok_or("the decoder has no bus")?;
        bus.set_flushing(true);
        bus.set_flushing(false);
        self.pipeline.set_state(gst::State::Playing).map_err(|_| "the decoder does not start")?;
        // Twice: openh264dec gives a picture out only when the next one comes in. What it still gives of the frame before is another
        // picture, unless that frame is this one.
        let again = Frame { pts: frame.pts + AGAIN, ..frame.clone() };
        let before = self.fed.replace(frame.pts).filter(|before| *before != frame.pts).map(|before| [before, before + AGAIN]);
        let is_late = |buffer: &gst::BufferRef| {
            let shown = buffer.pts().map(Duration::from);
            before.is_some_and(|before| shown.is_some_and(|shown| before.contains(&shown)))
        };
        let taken = self.feed.push_sample(&sample(frame)).and_then(|_| self.feed.push_sample(&sample(&again)));
        // And the end, for libav and libde265: they give a picture out only when they know that none is shown before it.
        let waits = self.name.starts_with(LIBAV) || self.name == "libde265dec";
        let ended = taken.and_then(|taken| if waits { self.feed.end_of_stream() } else { Ok(taken) });
        ended.map_err(|_| "the decoder takes no frame")?;
        let began = Instant::now();
        while began.elapsed() < within && !stop.is_raised() {
            let given = self.out.try_pull_sample(gst::ClockTime::from_mseconds(50));
            if let Some(sample) = given.filter(|sample| !sample.buffer().is_some_and(is_late)) {
                let picture = sample.buffer().and_then(|buffer| Some(buffer.map_readable().ok()?.to_vec()));
                return picture.ok_or_else(|| "the decoder gives an empty picture".into());
            }
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
                return Err(pipeline::reason(&message));
            }
        }
        Err("it gives no picture".into())
    }
}

fn sample(frame: &Frame) -> gst::Sample {
    let (name, form) = match frame.format.codec {
        Codec::H264 => ("video/x-h264", "avc"),
        Codec::H265 => ("video/x-h265", "hvc1"),
    };
    let caps = gst::Caps::builder(name)
        .field("stream-format", form)
        .field("alignment", "au")
        .field("codec_data", gst::Buffer::from_slice(frame.format.configuration.clone()))
        .field("width", i32::from(frame.format.width))
        .field("height", i32::from(frame.format.height))
        .build();
    let mut buffer = gst::Buffer::from_slice(frame.data.clone());
    buffer.make_mut().set_pts(gst::ClockTime::try_from(frame.pts).ok());
    gst::Sample::builder().buffer(&buffer).caps(&caps).build()
}
