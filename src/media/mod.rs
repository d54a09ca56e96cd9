//! The camera's picture: one GStreamer trunk that never leaves PLAYING, a tap beside it, a pre-roll of whole GOPs,
//! motion, and clips as fragmented MP4. It knows nothing of plans: it asks its [`Outlet`] before it records a clip.

use std::time::Duration;

use bytes::Bytes;
use care_protocol::ClipKind;

/// What media knows of a clip when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// What it is.
    pub kind: ClipKind,
    /// How long ago its first frame was taken (the pre-roll).
    pub ago: Duration,
    /// The picture's height in pixels.
    pub height: u32,
}

/// What to do with a clip that is being recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Record on, until this long at most.
    Continue {
        /// The plan's longest clip.
        max: Duration,
    },
    /// The plan no longer allows it: what was written is gone; stop.
    Erased,
}

/// Where clips go. The upload gate implements it; it judges, media obeys.
pub trait Outlet: Send + Sync + 'static {
    /// Whether a clip may begin now, and if so where its bytes go.
    fn begin(&self, clip: Beginning) -> Option<(Box<dyn ClipWriter>, Duration)>;

    /// The longest clip allowed at the moment (the pre-roll must fit into it), or `None` while no clip may begin.
    fn clip_max(&self) -> Option<Duration>;
}

/// One clip being recorded. Dropping it without [`ClipWriter::finish`] erases the clip.
pub trait ClipWriter: Send {
    /// More of the file, which now lasts `duration` from its first frame.
    fn append(&mut self, fragment: Bytes, duration: Duration) -> Verdict;

    /// The file is whole.
    fn finish(self: Box<Self>, duration: Duration);
}
