//! Sound that a pipeline gives beside its picture: AAC goes on as it is, all else to an encoder. It has no say in whether the pipeline
//! plays: before its end stands a leaky queue, and nothing here waits. Set up by `source` with a pipeline; fed by GStreamer's threads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::{Input, MOST_PIECES, MOST_WAITING, SoundEncoder, aac_format, adts, encoders::ENCODERS};
use crate::{
    config::Source,
    media::{
        MediaError,
        gstreamer::frames::{self, Frames},
        sound::{Sound, SoundFormat},
        source::{Hearing, Session},
    },
};

/// The element of a `launch:` description that gives sound.
const ELEMENT: &str = "sound";

/// Takes the sound of a pipeline, if it has any: of the first such track of a file, or of the element named `sound`. Without `wanted`
/// it is thrown away.
///
/// # Errors
/// That element is linked to another, or GStreamer lacks an element of its core.
pub(in crate::media::gstreamer) fn attach(
    pipeline: &gst::Pipeline,
    source: &Source,
    session: &Session,
    frames: &Arc<Mutex<Frames>>,
    wanted: bool,
) -> Result<(), MediaError> {
    let failed = |reason: &str| MediaError::Pipeline { reason: reason.to_owned() };
    let element = match source {
        Source::Launch(_) => pipeline.by_name(ELEMENT),
        Source::File(_) => pipeline.by_name("tracks").filter(|_| wanted),
        _ => None,
    };
    let Some(element) = element else { return Ok(()) };
    let end = End::new(pipeline, wanted.then(|| Branch::new(session.clone(), frames.clone())))?;
    let given = match element.static_pad("src") {
        Some(pad) if pad.is_linked() => return Err(failed("the element named sound is linked already: put a tee before it")),
        Some(pad) => Some(pad),
        None if element.pad_template("src_%u").is_some_and(|pads| pads.presence() == gst::PadPresence::Request) => {
            element.request_pad_simple("src_%u")
        }
        None => None,
    };
    let hears = {
        let session = session.clone();
        move || {
            if wanted {
                session.hears(Hearing::Awaited)
            }
        }
    };
    match given {
        Some(pad) => {
            end.take(&pad).ok_or_else(|| failed("the element named sound gives none"))?;
            hears();
        }
        // Its streams are not known before it plays.
        None => drop(element.connect_pad_added(move |_, pad| {
            if is_sound(pad) && end.take(pad).is_some() {
                hears();
            }
        })),
    }
    Ok(())
}

/// Whether what leaves this pad is sound.
pub(in crate::media::gstreamer) fn is_sound(pad: &gst::Pad) -> bool {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    caps.structure(0).is_some_and(|kind| kind.name().starts_with("audio/"))
}

/// Queue and sink, for one pad.
struct End {
    pipeline: gst::glib::WeakRef<gst::Pipeline>,
    queue: gst::Element,
    sink: gst::Element,
}

impl End {
    fn new(pipeline: &gst::Pipeline, branch: Option<Branch>) -> Result<Self, MediaError> {
        let failed = |error: gst::glib::BoolError| MediaError::Pipeline { reason: error.message.into_owned() };
        let queue = gst::ElementFactory::make("queue")
            .property_from_str("leaky", "downstream")
            .property("max-size-buffers", MOST_PIECES as u32)
            .property("max-size-bytes", MOST_WAITING as u32)
            .property("max-size-time", 0_u64)
            .build()
            .map_err(failed)?;
        let Some(mut branch) = branch else {
            let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build().map_err(failed)?;
            return Ok(Self { pipeline: pipeline.downgrade(), queue, sink });
        };
        let session = branch.session.clone();
        queue.connect("overrun", false, move |_| {
            session.sound_lost(1);
            None
        });
        let new_sample = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            branch.take(&sample);
            Ok(gst::FlowSuccess::Ok)
        };
        let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build();
        let sink = gst_app::AppSink::builder().sync(false).async_(false).enable_last_sample(false).callbacks(callbacks).build();
        Ok(Self { pipeline: pipeline.downgrade(), queue, sink: sink.upcast() })
    }

    /// Takes what leaves this pad, if it takes nothing yet.
    fn take(&self, pad: &gst::Pad) -> Option<()> {
        if self.queue.parent().is_some() {
            return None;
        }
        let pipeline = self.pipeline.upgrade()?;
        pipeline.add_many([&self.queue, &self.sink]).ok()?;
        self.queue.link(&self.sink).ok()?;
        pad.link(&self.queue.static_pad("sink")?).ok()?;
        self.sink.sync_state_with_parent().ok()?;
        self.queue.sync_state_with_parent().ok()
    }
}

/// What becomes of the sound of a pipeline.
struct Branch {
    session: Session,
    frames: Arc<Mutex<Frames>>,
    caps: Option<gst::Caps>,
    coding: Coding,
}

enum Coding {
    Aac(Arc<SoundFormat>),
    /// The same, each access unit behind a header that describes it.
    Adts(Option<Arc<SoundFormat>>),
    Encoded(SoundEncoder),
    LeftOut,
}

impl Branch {
    fn new(session: Session, frames: Arc<Mutex<Frames>>) -> Self {
        Self { session, frames, caps: None, coding: Coding::LeftOut }
    }

    fn take(&mut self, sample: &gst::Sample) {
        let received = Instant::now();
        let Some(buffer) = sample.buffer() else { return };
        if self.caps != sample.caps_owned() || self.caps.is_none() {
            self.caps = sample.caps_owned();
            self.coding = self.adapt();
        }
        if is_outside(sample, buffer) {
            return;
        }
        let shown = frames::shown(sample, buffer);
        let heard = self.frames.lock().unwrap_or_else(PoisonError::into_inner).heard(shown, received);
        let (Some(pts), Ok(bytes)) = (heard, buffer.map_readable()) else { return };
        let data = Bytes::copy_from_slice(&bytes);
        match &mut self.coding {
            Coding::Aac(format) => self.session.sound(format, Sound { pts, data }),
            Coding::Adts(known) => {
                let mut begins = pts;
                let whole = adts::units(&data, &mut |format, data| {
                    let format = match known {
                        Some(same) if **same == format => same.clone(),
                        _ => {
                            let format = Arc::new(format);
                            self.session.hears(Hearing::Expected(format.clone()));
                            known.insert(format).clone()
                        }
                    };
                    self.session.sound(&format, Sound { pts: begins, data });
                    begins += format.lasts();
                });
                if !whole {
                    self.session.sound_lost(1);
                }
            }
            Coding::Encoded(encoder) => encoder.push(Sound { pts, data }),
            Coding::LeftOut => {}
        }
    }

    /// Follows new caps, and tells what becomes of the sound.
    fn adapt(&self) -> Coding {
        let (hearing, coding) = match self.caps.as_ref().map(described) {
            Some(Described::Aac(format)) => {
                let format = Arc::new(format);
                (Hearing::Expected(format.clone()), Coding::Aac(format))
            }
            Some(Described::Adts) => (Hearing::Awaited, Coding::Adts(None)),
            Some(Described::Other(input)) => {
                let name = input.name.clone();
                // Told before the encoder starts, which may tell otherwise.
                self.session.hears(Hearing::Encoded(name.clone()));
                match SoundEncoder::start(input, &ENCODERS, &self.session) {
                    Some(encoder) => return Coding::Encoded(encoder),
                    None => (Hearing::LeftOut(name), Coding::LeftOut),
                }
            }
            Some(Described::Unusable(name)) => (Hearing::LeftOut(name.into()), Coding::LeftOut),
            None => (Hearing::LeftOut("sound without a description".into()), Coding::LeftOut),
        };
        self.session.hears(hearing);
        coding
    }
}

/// Whether the source says that nothing of a buffer is to be heard, as of what decoders of a file need before its beginning.
fn is_outside(sample: &gst::Sample, buffer: &gst::BufferRef) -> bool {
    let segment = sample.segment().and_then(|segment| segment.downcast_ref::<gst::ClockTime>());
    let (Some(segment), Some(begins)) = (segment, buffer.pts()) else { return false };
    segment.clip(begins, begins + buffer.duration().unwrap_or(gst::ClockTime::NSECOND)).is_none()
}

/// What caps say of sound.
enum Described {
    Aac(SoundFormat),
    Adts,
    Other(Input),
    /// Its name.
    Unusable(&'static str),
}

fn described(caps: &gst::Caps) -> Described {
    let Some(kind) = caps.structure(0) else { return Described::Unusable("sound without a description") };
    let version = kind.get::<i32>("mpegversion").unwrap_or_default();
    let media_type = kind.name().as_str();
    let (name, decoder) = match media_type {
        "audio/mpeg" if version == 2 || version == 4 => {
            return match kind.get::<&str>("stream-format") {
                Ok("adts") => Described::Adts,
                Ok("raw") => aac_format(caps).map_or(Described::Unusable("AAC of a kind that cannot be recorded"), Described::Aac),
                _ => Described::Unusable("AAC in a form that cannot be recorded"),
            };
        }
        "audio/x-mulaw" => ("PCMU".to_owned(), Some("mulawdec")),
        "audio/x-alaw" => ("PCMA".to_owned(), Some("alawdec")),
        "audio/x-raw" => ("samples".to_owned(), None),
        "audio/mpeg" => ("MPEG audio".to_owned(), Some("decodebin")),
        other => match other.strip_prefix("audio/") {
            Some(name) => (name.trim_start_matches("x-").to_ascii_uppercase(), Some("decodebin")),
            None => return Described::Unusable("what is no sound"),
        },
    };
    Described::Other(Input { name, caps: caps.clone(), decoder, whole: 1 })
}
