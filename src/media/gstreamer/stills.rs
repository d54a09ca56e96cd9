//! Makes a JPEG of a keyframe, for snapshots, with whichever decoder GStreamer has. Each picture has a thread and a pipeline of its
//! own, which end with it: a decoder that hangs delays nothing but the next picture, and between two events none takes memory.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gstreamer as gst;

use super::{
    decoder::{DECODERS, Decoder},
    init, shut_down,
};
use crate::media::{
    clip::Moment,
    frame::{Codec, Frame},
    snapshot::{Still, Stills},
    stop_signal::StopSignal,
};

/// How long it may take. The snapshot is of an event that is going on.
const WITHIN: Duration = Duration::from_millis(1500);
/// The largest picture that is decoded: 1920×1088. A decoder holds several of 3 MB.
const MOST_PIXELS: u32 = 1920 * 1088;
/// The largest JPEG, bytes.
const LARGEST: usize = 2 << 20;
/// The one that uses the least memory first.
const H265_DECODERS: [&str; 3] = ["v4l2h265dec", "libde265dec", "avdec_h265"];

/// What makes a JPEG of a decoded picture. Levels of video, 16 to 235, become those of a JPEG, 0 to 255, on the way through RGB alone:
/// from one form of YUV to another `videoconvert` leaves them.
const ENCODER: &str = "videoconvert ! video/x-raw,format=BGRx ! videoconvert \
                       ! video/x-raw,format=I420,colorimetry=(string)1:4:7:1 ! jpegenc";

/// Decodes what the stream has.
pub(in crate::media) struct Decoded {
    h264: &'static [&'static str],
    within: Duration,
    /// The thread of the last picture.
    last: Option<JoinHandle<()>>,
    stop: StopSignal,
}

impl Decoded {
    pub fn new(stop: StopSignal) -> Self {
        Self::with(&DECODERS, WITHIN, stop)
    }

    /// With these decoders for H.264 alone, and so much time.
    pub fn with(h264: &'static [&'static str], within: Duration, stop: StopSignal) -> Self {
        Self { h264, within, last: None, stop }
    }

    /// `None` if nothing here can decode such a stream, or make a JPEG, or the picture is too large for that.
    pub fn jpeg(&mut self, keyframe: Frame) -> Result<Option<Bytes>, String> {
        if u32::from(keyframe.format.width) * u32::from(keyframe.format.height) > MOST_PIXELS {
            return Ok(None);
        }
        if self.last.take_if(|last| last.is_finished()).is_none() && self.last.is_some() {
            return Err("the decoder has not finished the picture before".into());
        }
        let (done, finished) = mpsc::sync_channel(1);
        let (deadline, stop) = (Instant::now() + self.within, self.stop.clone());
        let candidates = if keyframe.format.codec == Codec::H264 { self.h264 } else { &H265_DECODERS };
        let work = move || drop(done.send(encode(&keyframe, candidates, deadline, &stop)));
        let thread = crate::threads::named("media-jpeg").spawn(work);
        self.last = Some(thread.map_err(|error| format!("no thread for its decoder: {error}"))?);
        finished.recv_timeout(self.within).unwrap_or_else(|ended| {
            Err(match ended {
                RecvTimeoutError::Timeout => format!("its decoder gave no picture within {:.1} s", self.within.as_secs_f64()),
                RecvTimeoutError::Disconnected => "its decoder ended".into(),
            })
        })
    }
}

impl Stills for Decoded {
    const FAILS: &'static str = "no JPEG can be made of the stream";
    const ADVICE: &'static str = "Set [media] snapshot_url if the camera gives a JPEG itself; otherwise nothing: the frame is the picture.";

    fn still(&mut self, moment: &Moment, tallest: u32) -> Result<Option<Still>, String> {
        let fits = |width: u16, height: u16| u32::from(height) <= tallest && u32::from(width) * u32::from(height) <= MOST_PIXELS;
        let Some(keyframe) = moment.keyframe(fits) else { return Ok(None) };
        let taken = keyframe.taken;
        let Some(bytes) = self.jpeg(keyframe)? else { return Ok(None) };
        Still::new(bytes, taken).map(Some).map_err(|why| format!("what the encoder gives {why}"))
    }
}

fn encode(keyframe: &Frame, candidates: &[&'static str], deadline: Instant, stop: &StopSignal) -> Result<Option<Bytes>, String> {
    init().map_err(|error| error.to_string())?;
    let found = |name: &str| gst::ElementFactory::find(name).is_some();
    if !["jpegenc", "videoconvert"].into_iter().all(found) {
        return Ok(None);
    }
    let mut faults = Vec::new();
    for name in candidates.iter().copied().filter(|name| found(name)) {
        if stop.is_raised() || Instant::now() >= deadline {
            break;
        }
        let mut decoder = Decoder::new(name, keyframe.format.codec, ENCODER).map_err(|error| error.to_string())?;
        let made = decoder.decode(keyframe, deadline.saturating_duration_since(Instant::now()), stop);
        if !shut_down(decoder.pipeline, WITHIN) {
            tracing::error!(decoder = name, "decoder did not stop in time and was left behind");
        }
        match made {
            Ok(picture) if picture.len() > LARGEST => faults.push(format!("{name}: the picture has {} bytes", picture.len())),
            Ok(picture) => return Ok(Some(picture.into())),
            Err(fault) => faults.push(format!("{name}: {fault}")),
        }
    }
    if faults.is_empty() { Ok(None) } else { Err(format!("no decoder here can read {}: {}", keyframe.format, faults.join("; "))) }
}
