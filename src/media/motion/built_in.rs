//! The agent's own eye: how much of a small grey picture differs from a background that follows slow changes. It sees raw
//! pictures where the source has them; of an H.264 source it decodes the keyframes, and no other frame. Between two of them the
//! decoder is put away: it holds more memory than all the rest of the agent's camera.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use care_protocol::ClipKind;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::Events;
use crate::media::{
    MediaError,
    frame::Frame,
    ring::{Next, Ring},
    stop::Stop,
    trunk::{GREY_HEIGHT, GREY_WIDTH, OnGrey, down},
};

/// A cell has changed if it differs this much from the background, of 255, after the picture's mean change is taken away.
const CELL: f32 = 18.0;
/// Motion: at least this part of the picture has changed.
const LEAST: f32 = 0.005;
/// More than this is the light, not a thing in front of the camera (an infrared filter, a lamp).
const MOST: f32 = 0.8;
/// How much of each new picture goes into the background.
const ADAPT: f32 = 0.1;
/// The next keyframe is looked at no sooner than this: a stream of nothing but keyframes costs no more than another.
const REST: Duration = Duration::from_millis(900);
/// How long a decoder may take for one keyframe.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(2);
/// At most one event in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// In order of memory.
pub(in crate::media) const DECODERS: [&str; 3] = ["openh264dec", "v4l2h264dec", "avdec_h264"];

/// Compares pictures.
#[derive(Debug, Default)]
pub(in crate::media) struct Eye {
    background: Vec<f32>,
}

impl Eye {
    /// The part of the picture that moved, if enough did.
    pub fn look(&mut self, grey: &[u8]) -> Option<f32> {
        if grey.len() != self.background.len() {
            self.background = grey.iter().copied().map(f32::from).collect();
            return None;
        }
        let cells = grey.len().max(1) as f32;
        let brighter = grey.iter().zip(&self.background).map(|(&now, was)| f32::from(now) - was).sum::<f32>() / cells;
        let moved = grey.iter().zip(&self.background).filter(|&(&now, was)| (f32::from(now) - was - brighter).abs() > CELL).count();
        let part = moved as f32 / cells;
        if part > MOST {
            self.background.clear();
            return None;
        }
        for (was, &now) in self.background.iter_mut().zip(grey) {
            *was += (f32::from(now) - *was) * ADAPT;
        }
        (part >= LEAST).then_some(part)
    }
}

/// An eye that raises events, for whoever has grey pictures.
pub(in crate::media) fn eye(events: Events) -> OnGrey {
    let state = Mutex::new((Eye::default(), None::<Instant>));
    Arc::new(move |grey| {
        let (eye, raised) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = eye.look(grey);
        let rested = raised.is_none_or(|at| at.elapsed() >= PAUSE);
        if let Some(score) = moved.filter(|_| rested) {
            *raised = Some(Instant::now());
            tracing::debug!(score, "motion");
            events.raise(ClipKind::Motion);
        }
    })
}

/// Follows a stream's keyframes on a thread of its own, unless raw pictures are at hand; a decoder that fails is replaced by
/// the next.
pub(in crate::media) fn start(ring: Arc<Ring>, see: OnGrey, sees_raw: Arc<AtomicBool>, stop: Stop) -> Result<JoinHandle<()>, MediaError> {
    let follow = move || {
        let mut decoders = DECODERS.iter().filter(|name| gst::ElementFactory::find(name).is_some()).cycle();
        let mut position = 0;
        // Until the first keyframe it is not known what the source has, and a decoder would only cost memory.
        while ring.newest_key().is_none() || sees_raw.load(Ordering::Relaxed) {
            if stop.within(Duration::from_millis(200)) {
                return;
            }
        }
        while let Some(name) = decoders.next().filter(|_| !stop.is_now()) {
            match Decoder::new(name) {
                Ok(decoder) => {
                    let fault = decoder.follow(&ring, &mut position, &see, &stop);
                    if !down(decoder.pipeline, Duration::from_secs(2)) {
                        tracing::error!(decoder = name, "decoder did not stop in time and was left behind");
                    }
                    let Some(fault) = fault else { return };
                    tracing::warn!(decoder = name, fault, "motion decoder failed");
                }
                Err(error) => tracing::warn!(decoder = name, %error, "motion decoder failed"),
            }
            if stop.within(Duration::from_secs(1)) {
                return;
            }
        }
    };
    thread::Builder::new().name("media-eye".into()).spawn(follow).map_err(MediaError::Thread)
}

struct Decoder {
    pipeline: gst::Pipeline,
    feed: gst_app::AppSrc,
    grey: gst_app::AppSink,
}

impl Decoder {
    fn new(name: &str) -> Result<Self, MediaError> {
        let threads = if name == "avdec_h264" { " max-threads=1" } else { "" };
        let launch = format!(
            "appsrc name=feed format=time ! h264parse ! {name}{threads} ! videoscale add-borders=false \
             ! videoconvert ! video/x-raw,format=GRAY8,width={GREY_WIDTH},height={GREY_HEIGHT} \
             ! appsink name=grey sync=false async=false enable-last-sample=false"
        );
        let failed = |reason: &str| MediaError::Pipeline { reason: reason.to_owned() };
        let pipeline = gst::parse::launch(&launch).map_err(|error| failed(error.message()))?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| failed("not a pipeline"))?;
        let feed = pipeline.by_name("feed").and_then(|e| e.downcast::<gst_app::AppSrc>().ok()).ok_or_else(|| failed("no appsrc"))?;
        let grey = pipeline.by_name("grey").and_then(|e| e.downcast::<gst_app::AppSink>().ok()).ok_or_else(|| failed("no appsink"))?;
        Ok(Self { pipeline, feed, grey })
    }

    /// Until it fails (the reason is returned) or it is time to stop.
    fn follow(&self, ring: &Ring, position: &mut u64, see: &OnGrey, stop: &Stop) -> Option<String> {
        let mut looked: Option<Instant> = None;
        while !stop.is_now() {
            let Next::Frame { frame, .. } = ring.next(position, Duration::from_millis(200)) else { continue };
            if !frame.key || looked.is_some_and(|at| at.elapsed() < REST) {
                continue;
            }
            looked = Some(Instant::now());
            let decoded = self.decode(&frame);
            if self.pipeline.set_state(gst::State::Ready).is_err() {
                return Some("the decoder cannot be put away".into());
            }
            match decoded {
                Ok(picture) => see(&picture),
                Err(fault) => return Some(fault),
            }
        }
        None
    }

    /// The frame as a small grey picture.
    fn decode(&self, frame: &Frame) -> Result<Vec<u8>, String> {
        let bus = self.pipeline.bus().ok_or("the decoder has no bus")?;
        bus.set_flushing(true);
        bus.set_flushing(false);
        self.pipeline.set_state(gst::State::Playing).map_err(|_| "the decoder does not start")?;
        // Twice: openh264dec gives a picture out only when the next one comes in.
        let again = Frame { pts: frame.pts + Duration::from_millis(1), ..frame.clone() };
        let taken = self.feed.push_sample(&sample(frame)).and_then(|_| self.feed.push_sample(&sample(&again)));
        taken.map_err(|_| "the decoder takes no frame")?;
        let picture = self.grey.try_pull_sample(PATIENCE).and_then(|sample| Some(sample.buffer()?.map_readable().ok()?.to_vec()));
        picture.ok_or_else(|| match bus.pop_filtered(&[gst::MessageType::Error]) {
            Some(message) => crate::media::trunk::reason(&message),
            None => "the decoder gives no picture".into(),
        })
    }
}

fn sample(frame: &Frame) -> gst::Sample {
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "avc")
        .field("alignment", "au")
        .field("codec_data", gst::Buffer::from_slice(frame.format.avcc.clone()))
        .field("width", i32::from(frame.format.width))
        .field("height", i32::from(frame.format.height))
        .build();
    let mut buffer = gst::Buffer::from_slice(frame.data.clone());
    buffer.make_mut().set_pts(gst::ClockTime::try_from(frame.pts).ok());
    gst::Sample::builder().buffer(&buffer).caps(&caps).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: usize = GREY_WIDTH * GREY_HEIGHT;

    /// A grey picture with some noise, and a bright block of 6×6 cells at a column.
    fn picture(seed: u64, block: Option<usize>, light: u8) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..CELLS)
            .map(|cell| {
                let (x, y) = (cell % GREY_WIDTH, cell / GREY_WIDTH);
                let inside = block.is_some_and(|at| (at..at + 6).contains(&x) && (10..16).contains(&y));
                (if inside { 220 } else { 90 }) + light + random.u8(0..8)
            })
            .collect()
    }

    #[test]
    fn a_still_noisy_picture_is_no_motion_and_a_moving_block_is() {
        let mut eye = Eye::default();
        assert!((0..50).all(|n| eye.look(&picture(n, None, 0)).is_none()));
        assert!((0..20).all(|n| eye.look(&picture(n, Some(n as usize * 2), 0)).is_some()));
    }

    #[test]
    fn what_stays_becomes_background() {
        let mut eye = Eye::default();
        eye.look(&picture(0, None, 0));
        let seen = (0..60).map(|n| eye.look(&picture(n, Some(20), 0)).is_some()).collect::<Vec<_>>();
        assert!(seen[0] && !seen[59]);
    }

    #[test]
    fn light_is_no_motion() {
        let mut eye = Eye::default();
        eye.look(&picture(0, None, 0));
        assert_eq!(eye.look(&picture(1, None, 60)), None);
        assert_eq!(eye.look(&picture(2, None, 0)), None);
    }
}
