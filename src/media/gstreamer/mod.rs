//! GStreamer as a source of frames: every kind of `[media] source` but RTSP, as a pipeline. It is the only part of media that knows
//! GStreamer, and is compiled with the feature `gstreamer` alone; `without_gstreamer` stands in its place otherwise.

mod decoder;
mod description;
mod frames;
mod looping;
mod nal_units;
mod pipeline;
mod sound;
mod source;
mod stills;
#[cfg(test)]
mod tests;
mod time_overlay;

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use gst::prelude::*;
use gstreamer as gst;

use super::{
    MediaError,
    motion::built_in::GreyDecoder,
    samples::Samples,
    snapshot::{Snapshots, Started, Target},
    source::{FrameSource, Session},
    stop_signal::StopSignal,
};
use crate::config::Source;
use decoder::{DECODERS, Decoders};
use description::Description;
pub(super) use sound::SoundEncoder;
pub(super) use stills::Decoded as Jpegs;

/// Whether this build can decode pictures: with whichever decoders are installed.
pub(super) const DECODES: bool = true;

/// Starts GStreamer. The first time it looks for plugins, which can take seconds.
fn init() -> Result<(), MediaError> {
    gst::init().map_err(|error| MediaError::Gstreamer { reason: error.to_string() })
}

/// The source of frames for a source in the configuration, with its `sound` if that is wanted. It need not be there yet.
///
/// # Errors
/// GStreamer does not start.
pub(super) fn open(source: &Source, sound: bool) -> Result<Arc<dyn FrameSource>, MediaError> {
    init()?;
    Ok(Arc::new(source::GstreamerSource::new(source.clone(), sound)))
}

/// Decodes keyframes for built-in motion.
pub(super) fn decoder(stop: StopSignal) -> Box<dyn GreyDecoder> {
    Box::new(Decoders::new(stop))
}

/// Snapshots that are JPEGs where there is a decoder. GStreamer starts with the first of them.
pub(super) fn snapshots(target: Target, stop: StopSignal) -> Result<Started, MediaError> {
    Snapshots::of(target, stills::Decoded::new(stop))
}

/// Whether `motion = "built-in"` can see this source: raw pictures, or a decoder for its keyframes.
///
/// # Errors
/// What is missing.
pub(super) fn built_in_available(source: &Source) -> Result<(), String> {
    init().map_err(|error| error.to_string())?;
    let missing = |names: &[&str]| names.iter().all(|name| gst::ElementFactory::find(name).is_none());
    if missing(&["videoscale"]) || missing(&["videoconvert"]) {
        return Err("built-in motion needs GStreamer's videoscale and videoconvert (plugins-base)".into());
    }
    let raw = matches!(source, Source::Test) || matches!(source, Source::V4l2(_)) && Description::of(source).is_ok_and(|d| d.has_raw());
    if !raw && missing(&DECODERS) {
        return Err(format!("built-in motion needs an H.264 decoder for this source: one of {}", DECODERS.join(", ")));
    }
    Ok(())
}

/// Whether AAC can be made of samples. It may take seconds the first time, while GStreamer looks for plugins.
///
/// # Errors
/// What the status says of the sound that is left out.
pub(super) async fn encodes(samples: Samples) -> Result<(), String> {
    let find = move || {
        init().map_err(|error| error.to_string())?;
        sound::encoders::find(&sound::encoders::ENCODERS, &sound::Input::of(samples)).map(drop)
    };
    let found = tokio::task::spawn_blocking(find).await.unwrap_or_else(|error| Err(error.to_string()));
    found.map_err(|why| format!("{}, because {why}", samples.name()))
}

/// What makes AAC of samples, for this session. `None`: there is no thread for it.
pub(super) fn sound_encoder(samples: Samples, session: &Session) -> Option<SoundEncoder> {
    SoundEncoder::of(samples, session)
}

/// Takes a pipeline to NULL on a thread of its own, because an element may hang in there. False: it hangs and is left behind.
fn shut_down(pipeline: gst::Pipeline, deadline: Duration) -> bool {
    let (done, finished) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name("media-down".into()).spawn(move || {
        let _ = pipeline.set_state(gst::State::Null);
        let _ = done.send(());
    });
    spawned.is_ok() && finished.recv_timeout(deadline).is_ok()
}
