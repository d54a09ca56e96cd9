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
use crate::{
    conditions::{Conditions, Kind},
    media::{
        MediaError,
        frame::{Format, Frame},
        h264,
        ring::{Next, Ring},
        stop::Stop,
        trunk::{GREY_HEIGHT, GREY_WIDTH, OnGrey, down},
    },
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
/// The same while no decoder can read the stream: it may have changed without its format showing it, or a decoder may have come.
const BLIND_REST: Duration = Duration::from_secs(60);
/// So many keyframes in a row that cannot be decoded are no accident.
const DAMAGED: u32 = 3;
/// How long a decoder may take for one keyframe.
const PATIENCE: Duration = Duration::from_secs(2);
/// At most one event in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// In order of memory.
pub(in crate::media) const DECODERS: [&str; 3] = ["openh264dec", "v4l2h264dec", LIBAV];
const LIBAV: &str = "avdec_h264";

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

/// Follows a stream's keyframes on a thread of its own, unless raw pictures are at hand.
pub(in crate::media) fn start(
    ring: Arc<Ring>,
    see: OnGrey,
    sees_raw: Arc<AtomicBool>,
    conditions: Conditions,
    stop: Stop,
) -> Result<JoinHandle<()>, MediaError> {
    let mut sight = Sight::new(stop.clone());
    let follow = move || {
        // Until the first keyframe it is not known what the source has, and a decoder would only cost memory.
        while ring.newest_key().is_none() || sees_raw.load(Ordering::Relaxed) {
            if stop.within(Duration::from_millis(200)) {
                return;
            }
        }
        sight.follow(&ring, &see, &conditions, &stop);
        sight.put_away();
    };
    thread::Builder::new().name("media-eye".into()).spawn(follow).map_err(MediaError::Thread)
}

/// Whether pictures can be made small and grey here, decoded or raw: the missing elements if not.
pub(in crate::media) fn cannot_shrink() -> Option<String> {
    let missing: Vec<&str> =
        ["videoscale", "videoconvert", "videorate"].into_iter().filter(|name| gst::ElementFactory::find(name).is_none()).collect();
    (!missing.is_empty()).then(|| format!("GStreamer's {} is not installed", missing.join(" and ")))
}

/// Makes keyframes into small grey pictures, with whichever decoder can.
pub(in crate::media) struct Sight {
    decoder: Option<Decoder>,
    stop: Stop,
}

impl Sight {
    pub fn new(stop: Stop) -> Self {
        Self { decoder: None, stop }
    }

    fn follow(&mut self, ring: &Ring, see: &OnGrey, conditions: &Conditions, stop: &Stop) {
        let mut position = 0;
        let mut looked: Option<Instant> = None;
        // The stream that was seen last, and the one that cannot be.
        let (mut seen, mut blind_to): (Option<Arc<Format>>, Option<Arc<Format>>) = (None, None);
        let mut failures = 0;
        while !stop.is_now() {
            let Next::Frame { frame, .. } = ring.next(&mut position, Duration::from_millis(200)) else { continue };
            let rest = if blind_to.as_ref() == Some(&frame.format) { BLIND_REST } else { REST };
            if !frame.key || looked.is_some_and(|at| at.elapsed() < rest) {
                continue;
            }
            looked = Some(Instant::now());
            if blind_to.is_some() {
                // A plugin may have been installed since.
                let _ = gst::Registry::update();
            }
            match self.look(&frame) {
                Ok((_, picture)) => {
                    see(&picture);
                    conditions.clear(Kind::MotionBlind);
                    (seen, blind_to, failures) = (Some(frame.format), None, 0);
                }
                Err(_) if stop.is_now() => {}
                Err(why) => {
                    failures += 1;
                    tracing::debug!(why, failures, "a keyframe cannot be decoded");
                    // One damaged keyframe of a stream that was seen before is no blindness.
                    if seen.as_ref() != Some(&frame.format) || failures >= DAMAGED {
                        conditions.raise(Kind::MotionBlind, why);
                        blind_to = Some(frame.format);
                    }
                }
            }
        }
    }

    /// The keyframe as a small grey picture, and which decoder made it. If none can: what each of them says.
    pub fn look(&mut self, frame: &Frame) -> Result<(&'static str, Vec<u8>), String> {
        let before = self.decoder.as_ref().map(|decoder| decoder.name);
        let mut faults = Vec::new();
        let found = DECODERS.iter().copied().filter(|name| gst::ElementFactory::find(name).is_some() && Some(*name) != before);
        for name in before.into_iter().chain(found) {
            if self.stop.is_now() {
                break;
            }
            match self.look_with(name, frame) {
                Ok(picture) => return Ok((name, picture)),
                Err(fault) => {
                    self.put_away();
                    faults.push(format!("{name}: {fault}"));
                }
            }
        }
        if let Some(missing) = cannot_shrink() {
            return Err(format!("motion cannot be seen: {missing}"));
        }
        let Format { width, height, avcc } = &*frame.format;
        let stream = format!("{width}x{height} {}", h264::describe(avcc));
        Err(match faults[..] {
            [] => format!("motion cannot be seen in this stream ({stream}): no decoder is installed, neither {}", DECODERS.join(" nor ")),
            _ => format!("motion cannot be seen in this stream ({stream}), which no decoder here can read: {}", faults.join("; ")),
        })
    }

    fn look_with(&mut self, name: &'static str, frame: &Frame) -> Result<Vec<u8>, String> {
        let decoder = match self.decoder.take() {
            Some(decoder) if decoder.name == name => decoder,
            _ => Decoder::new(name).map_err(|error| error.to_string())?,
        };
        let decoder = self.decoder.insert(decoder);
        let decoded = decoder.decode(frame, &self.stop);
        decoder.pipeline.set_state(gst::State::Ready).map_err(|_| "the decoder cannot be put away")?;
        decoded
    }

    pub fn put_away(&mut self) {
        let Some(decoder) = self.decoder.take() else { return };
        if !down(decoder.pipeline, Duration::from_secs(2)) {
            tracing::error!(decoder = decoder.name, "decoder did not stop in time and was left behind");
        }
    }
}

struct Decoder {
    name: &'static str,
    pipeline: gst::Pipeline,
    feed: gst_app::AppSrc,
    grey: gst_app::AppSink,
}

impl Decoder {
    fn new(name: &'static str) -> Result<Self, MediaError> {
        let threads = if name == LIBAV { " max-threads=1" } else { "" };
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
        Ok(Self { name, pipeline, feed, grey })
    }

    /// The frame as a small grey picture.
    fn decode(&self, frame: &Frame, stop: &Stop) -> Result<Vec<u8>, String> {
        let bus = self.pipeline.bus().ok_or("the decoder has no bus")?;
        bus.set_flushing(true);
        bus.set_flushing(false);
        self.pipeline.set_state(gst::State::Playing).map_err(|_| "the decoder does not start")?;
        // Twice: openh264dec gives a picture out only when the next one comes in.
        let again = Frame { pts: frame.pts + Duration::from_millis(1), ..frame.clone() };
        let taken = self.feed.push_sample(&sample(frame)).and_then(|_| self.feed.push_sample(&sample(&again)));
        // And the end, for libav: it gives a picture out only when it knows that none is shown before it.
        let ended = taken.and_then(|taken| if self.name == LIBAV { self.feed.end_of_stream() } else { Ok(taken) });
        ended.map_err(|_| "the decoder takes no frame")?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE && !stop.is_now() {
            if let Some(sample) = self.grey.try_pull_sample(gst::ClockTime::from_mseconds(50)) {
                let picture = sample.buffer().and_then(|buffer| Some(buffer.map_readable().ok()?.to_vec()));
                return picture.ok_or_else(|| "the decoder gives an empty picture".into());
            }
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
                return Err(crate::media::trunk::reason(&message));
            }
        }
        Err("it gives no picture".into())
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
