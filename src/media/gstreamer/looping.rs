//! Plays a recorded file in a loop, in real time, with timestamps that go on: for tests and demonstrations.

use std::{
    io::{Read, Seek, SeekFrom},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use portable_atomic::AtomicU64;

use super::sound::is_sound;
use crate::{
    config::Source,
    media::{MediaError, source::Session},
};

/// How long a demuxer may take to read the index of a file.
const INDEX: Duration = Duration::from_secs(15);

/// The loop of an MP4 file.
pub(super) struct Loop {
    pipeline: gst::Pipeline,
    /// How often it began again.
    turns: Arc<AtomicU64>,
}

impl Loop {
    /// The loop of this pipeline, if it plays an MP4 file.
    pub fn of(pipeline: &gst::Pipeline) -> Option<Self> {
        let parser = pipeline.by_name("looped")?;
        let turns = Arc::default();
        let picture = parser.static_pad("src")?;
        add_the_last_frame(&picture, &picture, Arc::clone(&turns));
        if let Some(tracks) = pipeline.by_name("tracks") {
            let (picture, turns) = (picture.downgrade(), Arc::clone(&turns));
            // Sound stays beside the picture.
            tracks.connect_pad_added(move |_, pad| {
                if let Some(picture) = picture.upgrade().filter(|_| is_sound(pad)) {
                    add_the_last_frame(pad, &picture, turns.clone());
                }
            });
        }
        Some(Self { pipeline: pipeline.clone(), turns })
    }

    /// Makes the file end with a message instead of an end of stream, which is possible once its index is read. False: it is
    /// not, or the session is over.
    pub fn prepare(&self, session: &Session) -> bool {
        let began = Instant::now();
        if self.pipeline.set_state(gst::State::Paused).is_err() {
            return false;
        }
        while began.elapsed() < INDEX {
            if self.rewind(gst::SeekFlags::SEGMENT | gst::SeekFlags::FLUSH) {
                return true;
            }
            if session.wait(Duration::from_millis(20)) {
                return false;
            }
        }
        false
    }

    /// Goes back to the start. Without a flush the running time goes on, and so do timestamps. False: it could not.
    pub fn again(&self) -> bool {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.rewind(gst::SeekFlags::SEGMENT)
    }

    fn rewind(&self, flags: gst::SeekFlags) -> bool {
        self.pipeline.seek(1.0, flags, gst::SeekType::Set, gst::ClockTime::ZERO, gst::SeekType::None, gst::ClockTime::NONE).is_ok()
    }
}

/// qtdemux begins each turn of a loop at the last frame's time, as if that frame had no length. This adds the length of a frame of
/// `picture` to each turn of what passes `pad`.
fn add_the_last_frame(pad: &gst::Pad, picture: &gst::Pad, turns: Arc<AtomicU64>) {
    let picture = picture.downgrade();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let (Some(event), Some(picture)) = (info.event_mut(), picture.upgrade()) else { return gst::PadProbeReturn::Ok };
        let shifted = match event.view() {
            gst::EventView::Segment(told) => told.segment().clone().downcast::<gst::ClockTime>().ok().map(|mut segment| {
                let turns = turns.load(Ordering::Relaxed);
                segment.set_base(segment.base().unwrap_or_default() + gst::ClockTime::from_nseconds(turns * frame_length(&picture)));
                gst::event::Segment::builder(&segment).seqnum(told.seqnum()).build()
            }),
            _ => None,
        };
        if let Some(shifted) = shifted {
            *event = shifted;
        }
        gst::PadProbeReturn::Ok
    });
}

/// The length of a buffer in nanoseconds, by the stream's frame rate; 25 frames a second if it states none (a rate of 0).
fn frame_length(pad: &gst::Pad) -> u64 {
    let caps = pad.current_caps();
    let stream = caps.as_ref().and_then(|caps| caps.structure(0));
    let stated = stream.and_then(|stream| stream.get::<gst::Fraction>("framerate").ok()).filter(|rate| rate.numer() > 0);
    let is_field = stream.and_then(|stream| stream.get::<&str>("coded-picture-structure").ok()) == Some("field");
    let (frames, seconds) = stated.map_or((if is_field { 50 } else { 25 }, 1), |rate| (rate.numer(), rate.denom()));
    1_000_000_000 * seconds.max(1) as u64 / frames.max(1) as u64
}

/// Reads an elementary stream in small pieces, again and again, and adds the timestamps that such a stream lacks.
pub(super) fn feed(source: &Source, pipeline: &gst::Pipeline) -> Result<(), MediaError> {
    let Source::File(path) = source else { return Ok(()) };
    let mut file = std::fs::File::open(path).map_err(|source| MediaError::File { path: path.clone(), source })?;
    if let Some(feeder) = pipeline.by_name("source").and_then(|element| element.downcast::<gst_app::AppSrc>().ok()) {
        let need_data = move |feeder: &gst_app::AppSrc, _| {
            let mut piece = vec![0; 16 * 1024];
            let mut read = file.read(&mut piece);
            if let Ok(0) = read {
                read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read(&mut piece));
            }
            // A flow that ends and a file that cannot be read end the same way: no more frames, and a new session.
            let _ = match read {
                Ok(length) if length > 0 => {
                    piece.truncate(length);
                    feeder.push_buffer(gst::Buffer::from_mut_slice(piece))
                }
                _ => feeder.end_of_stream(),
            };
        };
        feeder.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(need_data).build());
    }
    let Some(pad) = pipeline.by_name("timed").and_then(|parser| parser.static_pad("src")) else { return Ok(()) };
    let next = AtomicU64::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let Some(buffer) = info.buffer_mut() {
            let time = gst::ClockTime::from_nseconds(next.fetch_add(frame_length(pad), Ordering::Relaxed));
            let buffer = buffer.make_mut();
            buffer.set_pts(time);
            buffer.set_dts(time);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}
