//! The camera's picture: one GStreamer trunk that never leaves PLAYING, a tap beside it, a pre-roll of whole GOPs,
//! motion, and clips as fragmented MP4. It knows nothing of plans: it asks its [`Outlet`] before it records a clip.

#[cfg(feature = "gstreamer")]
mod camera;
#[cfg(feature = "gstreamer")]
mod card;
#[cfg(feature = "gstreamer")]
mod clip;
#[cfg(feature = "gstreamer")]
mod frame;
#[cfg(feature = "gstreamer")]
mod h264;
#[cfg(feature = "gstreamer")]
mod losses;
#[cfg(feature = "gstreamer")]
mod motion;
#[cfg(feature = "gstreamer")]
mod mp4;
#[cfg(not(feature = "gstreamer"))]
mod no_camera;
#[cfg(feature = "gstreamer")]
mod picture;
#[cfg(feature = "gstreamer")]
mod recording;
#[cfg(feature = "gstreamer")]
mod ring;
#[cfg(feature = "gstreamer")]
mod source;
mod status;
#[cfg(feature = "gstreamer")]
mod stop;
#[cfg(test)]
#[cfg(feature = "gstreamer")]
mod tests;
#[cfg(feature = "gstreamer")]
mod trial;
#[cfg(feature = "gstreamer")]
mod trunk;

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use care_protocol::ClipKind;

#[cfg(feature = "gstreamer")]
pub use camera::{Media, built_in_available};
#[cfg(feature = "gstreamer")]
pub use card::try_recording;
#[cfg(all(feature = "gstreamer", any(test, feature = "fuzzing")))]
pub(crate) use motion::socket::motion_from_a_stranger;
#[cfg(not(feature = "gstreamer"))]
pub use no_camera::{FirstPicture, Media, built_in_available, try_recording, try_source};
pub use status::{MediaStatus, RecordingStatus, StreamStatus};
#[cfg(feature = "gstreamer")]
pub use trial::{FirstPicture, try_source};

/// Why there is no picture. Only what no waiting can heal; a camera that is away is a fault in the [`MediaStatus`].
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The program was built without the feature `gstreamer`.
    #[error("this build has no media: leave out [media], or build with the feature gstreamer")]
    NotBuilt,
    /// GStreamer itself does not start.
    #[error("GStreamer does not start: {reason}; is it installed?")]
    Gstreamer {
        /// GStreamer's own words.
        reason: String,
    },
    /// No pipeline can be made of the source.
    #[error("no pipeline can be made of [media] source: {reason}")]
    Pipeline {
        /// GStreamer's own words.
        reason: String,
    },
    /// No H.264 encoder for a source of raw pictures.
    #[error("no H.264 encoder found: install one of v4l2h264enc, openh264enc, x264enc, or choose a source that ends in H.264")]
    NoEncoder,
    /// A recorded file cannot be used.
    #[error("cannot read the media file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread for media: {0}")]
    Thread(io::Error),
}

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
    /// What holds at this moment: the plan may change between two fragments.
    fn limit(&self) -> Verdict;

    /// More of the file, which now lasts `duration` from its first frame.
    fn append(&mut self, fragment: Bytes, duration: Duration) -> Verdict;

    /// The file is whole.
    fn finish(self: Box<Self>, duration: Duration);
}
