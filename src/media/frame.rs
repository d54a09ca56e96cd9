//! One encoded picture, copied out of the camera's own buffers: holding those would starve the capture driver.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// What a decoder must know before the first frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Pixels.
    pub width: u16,
    /// Pixels.
    pub height: u16,
    /// The AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1).
    pub avcc: Bytes,
}

/// One access unit, its NAL units prefixed by their length.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// When it is shown, on a timeline that never goes back while the agent runs.
    pub pts: Duration,
    /// Whether decoding can begin here.
    pub key: bool,
    /// When it came out of the trunk.
    pub taken: Instant,
    pub data: Bytes,
    pub format: Arc<Format>,
}
