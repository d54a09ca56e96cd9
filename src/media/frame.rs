//! One encoded frame as plain data: what a source hands over, and all that the ring, clips and recordings know of it. The bytes
//! are the agent's own copy: holding a capture driver's buffers would starve it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// What a decoder must know before the first frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Format {
    /// Pixels.
    pub width: u16,
    /// Pixels.
    pub height: u16,
    /// The parameter sets, as an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1).
    pub avcc: Bytes,
}

/// One access unit in decoding order. It carries no DTS: the MP4 writer derives decoding times from the presentation times.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Presentation time. A source counts from the start of its session; in a ring it counts from the start of the stream and
    /// never goes back from one session to the next.
    pub pts: Duration,
    /// Whether decoding can begin here.
    pub key: bool,
    /// When the agent received it.
    pub taken: Instant,
    /// NAL units, each prefixed by its length in four bytes.
    pub data: Bytes,
    /// The same for all frames until the parameter sets change.
    pub format: Arc<Format>,
}
