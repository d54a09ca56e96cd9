//! A build without GStreamer: the functions of `gstreamer`, each of which refuses. RTSP needs none of them.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    MediaError,
    frame::Frame,
    motion::built_in::GreyDecoder,
    samples::Samples,
    snapshot::{Snapshots, Started, Target},
    sound::Sound,
    source::{FrameSource, Session},
    stop_signal::StopSignal,
};
use crate::config::Source;

/// Whether this build can decode pictures: no.
pub(super) const DECODES: bool = false;

/// Always [`MediaError::NotBuilt`].
pub(super) fn open(_: &Source, _: bool) -> Result<Arc<dyn FrameSource>, MediaError> {
    Err(MediaError::NotBuilt)
}

/// One that decodes nothing.
pub(super) fn decoder(_: StopSignal) -> Box<dyn GreyDecoder> {
    Box::new(NoDecoder)
}

/// Snapshots that are frames of the stream.
pub(super) fn snapshots(target: Target, _: StopSignal) -> Result<Started, MediaError> {
    Ok(Snapshots::of_stream(target))
}

/// Always an error.
pub(super) fn built_in_available(_: &Source) -> Result<(), String> {
    Err("\"built-in\" needs a decoder, and this build has none".into())
}

/// Always an error: what the status says of the sound that is left out.
pub(super) async fn encodes(samples: Samples) -> Result<(), String> {
    Err(samples.name().into())
}

/// There is none.
pub(super) fn sound_encoder(_: Samples, _: &Session) -> Option<SoundEncoder> {
    None
}

/// Never there.
pub(super) enum SoundEncoder {}

impl SoundEncoder {
    pub fn takes(&self, _: Samples) -> bool {
        match *self {}
    }

    pub fn push(&self, _: Sound) {
        match *self {}
    }
}

/// Makes no JPEG.
pub(super) struct Jpegs;

impl Jpegs {
    pub fn new(_: StopSignal) -> Self {
        Self
    }

    pub fn jpeg(&mut self, _: Frame) -> Result<Option<Bytes>, String> {
        Ok(None)
    }
}

struct NoDecoder;

impl GreyDecoder for NoDecoder {
    fn decode(&mut self, _: &Frame) -> Result<(&'static str, Vec<u8>), String> {
        Err("motion cannot be seen in this stream: this build has no decoder".into())
    }

    fn refresh(&mut self) {}

    fn release(&mut self) {}
}
