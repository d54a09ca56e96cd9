//! A build without GStreamer: the functions of `gstreamer`, each of which refuses. RTSP needs none of them.

use std::sync::Arc;

use super::{
    MediaError,
    frame::Frame,
    motion::built_in::GreyDecoder,
    snapshot::{Snapshots, Started, Target},
    source::FrameSource,
    stop_signal::StopSignal,
};
use crate::config::Source;

/// Whether this build can decode pictures: no.
pub(super) const DECODES: bool = false;

/// Always [`MediaError::NotBuilt`].
pub(super) fn open(_: &Source) -> Result<Arc<dyn FrameSource>, MediaError> {
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

struct NoDecoder;

impl GreyDecoder for NoDecoder {
    fn decode(&mut self, _: &Frame) -> Result<(&'static str, Vec<u8>), String> {
        Err("motion cannot be seen in this stream: this build has no decoder".into())
    }

    fn refresh(&mut self) {}

    fn release(&mut self) {}
}
