//! One source as a pipeline that is built for each session, run, and taken down. The supervisor decides when to try again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::{
    decoder,
    description::{Description, Kind},
    frames::Frames,
    looping::{self, Loop},
    pipeline, shut_down, sound, time_overlay,
};
use crate::{
    config::Source,
    media::{
        MediaError,
        source::{FrameSource, Session, SourceError},
    },
};

/// How long a pipeline may take to reach NULL. Then it is left behind.
const DOWN: Duration = Duration::from_secs(3);
/// How often the bus is left to check whether the session is over.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// A source in the configuration that is no RTSP server.
pub(super) struct GstreamerSource {
    source: Source,
    /// Whether sound is wanted.
    sound: bool,
    /// Of the pipeline that runs: keyframe requests travel upstream from here.
    sink: Mutex<Option<gst_app::AppSink>>,
}

impl FrameSource for GstreamerSource {
    fn run(&self, session: &Session) -> Result<(), SourceError> {
        let Assembled { pipeline, sink, frames } = self.assemble(session).map_err(|error| match error {
            MediaError::Pipeline { .. } | MediaError::NoEncoder => {
                // What is missing may be installed, or its folder mounted, before the next try. Until then the registry stays.
                let _ = gst::Registry::update();
                SourceError::Unusable(error.to_string())
            }
            error => SourceError::Failed(error.to_string()),
        })?;
        *self.sink() = Some(sink.clone());
        let ended = play(&pipeline, session, &frames);
        // A session that was left behind must not take away the sink of the next one.
        self.sink().take_if(|current| *current == sink);
        if !shut_down(pipeline, DOWN) {
            tracing::error!(source = %self.source, "pipeline did not stop in time and was left behind");
        }
        ended
    }

    fn request_keyframe(&self) {
        let sink = self.sink().clone();
        if let Some(sink) = sink {
            // False: nothing upstream can be asked.
            let _ = sink.send_event(gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
        }
    }
}

impl GstreamerSource {
    pub fn new(source: Source, sound: bool) -> Self {
        Self { source, sound, sink: Mutex::default() }
    }

    fn sink(&self) -> MutexGuard<'_, Option<gst_app::AppSink>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assemble(&self, session: &Session) -> Result<Assembled, MediaError> {
        let description = Description::of(&self.source)?;
        // Without these elements motion follows the keyframes and says what is missing; the picture does not depend on it.
        let shrinks = session.wants_grey() && description.has_raw() && decoder::cannot_shrink().is_none();
        let pipeline = pipeline::build(&description, &self.source, shrinks)?;
        match description.kind {
            Kind::Test => time_overlay::add(&pipeline),
            Kind::Elementary => looping::feed(&self.source, &pipeline)?,
            Kind::Live | Kind::Mp4 => {}
        }
        let (sink, frames) = pipeline::deliver(&pipeline, session)?;
        sound::attach(&pipeline, &self.source, session, &frames, self.sound)?;
        if let Some(grey) = shrinks.then(|| session.grey()).flatten() {
            pipeline::deliver_grey(&pipeline, grey)?;
        }
        Ok(Assembled { pipeline, sink, frames })
    }
}

/// A pipeline that is ready to play.
struct Assembled {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
    frames: Arc<Mutex<Frames>>,
}

/// Plays until the session is over, the source ends, or an element reports an error.
fn play(pipeline: &gst::Pipeline, session: &Session, frames: &Mutex<Frames>) -> Result<(), SourceError> {
    let ended = play_to_the_end(pipeline, session, frames);
    frames.lock().unwrap_or_else(PoisonError::into_inner).end();
    ended
}

fn play_to_the_end(pipeline: &gst::Pipeline, session: &Session, frames: &Mutex<Frames>) -> Result<(), SourceError> {
    let bus = pipeline.bus().ok_or_else(|| SourceError::Failed("the pipeline has no bus".into()))?;
    // Why a change of state was refused, if an element said.
    let refused = |otherwise: &str| {
        let message = bus.pop_filtered(&[gst::MessageType::Error]);
        SourceError::Failed(message.map_or_else(|| otherwise.to_owned(), |message| pipeline::reason(&message)))
    };
    let looped = Loop::of(pipeline);
    if looped.as_ref().is_some_and(|looped| !looped.prepare(session)) {
        return Err(refused("the file cannot be looped: it has no index"));
    }
    if pipeline.set_state(gst::State::Playing).is_err() {
        return Err(refused("the source cannot play"));
    }
    while !session.is_over() {
        frames.lock().unwrap_or_else(PoisonError::into_inner).quiet(Instant::now());
        let Some(message) = bus.timed_pop_filtered(TICK, &[gst::MessageType::Error, gst::MessageType::Eos, gst::MessageType::SegmentDone])
        else {
            continue;
        };
        match message.view() {
            gst::MessageView::SegmentDone(_) => {
                if !looped.as_ref().is_some_and(Loop::again) {
                    return Err(SourceError::Failed("the file could not be begun again".into()));
                }
            }
            gst::MessageView::Eos(_) => return Ok(()),
            _ => return Err(SourceError::Failed(pipeline::reason(&message))),
        }
    }
    Ok(())
}
