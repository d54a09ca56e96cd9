//! The camera's picture: streams that a supervisor keeps running, a pre-roll of whole GOPs, motion, clips as fragmented MP4, and
//! recording to the SD card. It knows nothing of plans: it asks its [`Outlet`] before it records a clip. Called by the agent,
//! and by `cli` to try a configuration.
//!
//! ```text
//! FrameSource ─ Session ─┬─ Ring ─ clip ─ Mp4 ─ Outlet        source: where frames come from (rtsp, gstreamer)
//!      ▲                 ├─ Ring ─ recording ─ Mp4 ─ card     supervisor: retry, counters, conditions
//!      │                 ├─ Ring ─ live view ─ Mp4 ─ status page
//!  Supervisor            └─ grey pictures ─ motion            everything else knows frames alone
//! ```

mod camera;
mod card;
mod clip;
mod drops;
mod frame;
#[cfg(feature = "gstreamer")]
mod gstreamer;
mod h264;
mod h265;
mod live;
mod motion;
mod mp4;
mod recent;
mod recording;
mod retry;
mod ring;
mod rtp;
mod rtsp;
mod samples;
mod silence;
mod snapshot;
mod sound;
mod source;
mod starting;
mod status;
mod stop_signal;
mod supervisor;
#[cfg(test)]
mod tests;
mod trial;
mod usability;
#[cfg(not(feature = "gstreamer"))]
mod without_gstreamer;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use care_protocol::ClipKind;

use crate::config::{self, Source};

#[cfg(feature = "gstreamer")]
use self::gstreamer as backend;
#[cfg(not(feature = "gstreamer"))]
use self::without_gstreamer as backend;

pub use camera::{Media, Sources};
pub use frame::{Codec, Format, Frame};
pub use live::{Live, NoView, VIEWERS, View};
pub use motion::onvif::Blind;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use motion::{onvif::metadata_document, socket::motion_socket_input};
pub use recent::{Became, MotionEvent};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use rtp::hostile::packets as rtp_packets;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use rtsp::hostile::messages as rtsp_messages;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use snapshot::jpeg::snapshot_jpeg;
pub use snapshot::{Dimensions, try_snapshot};
pub use sound::{Sound, SoundFormat, Soundtrack};
pub use source::{FrameSource, GREY_HEIGHT, GREY_WIDTH, GreySink, Session, SourceError};
pub use starting::start_in_background;
pub use status::{LostFrames, MediaStatus, RecordingStatus, StreamStatus};
pub use trial::{FirstPicture, built_in_available, try_recording, try_source, try_source_with_metadata};

/// Why media does not start. A camera that is away is no such error: it is a fault in the [`MediaStatus`].
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The program was built without the feature `gstreamer`, and the source needs it.
    #[error("this build reads rtsp:// sources only: test, v4l2:, file: and launch: need a build with GStreamer")]
    NotBuilt,
    /// GStreamer itself does not start.
    #[error("GStreamer does not start: {reason}; is it installed?")]
    Gstreamer {
        /// What GStreamer says.
        reason: String,
    },
    /// No pipeline can be made of the source.
    #[error("no pipeline can be made of [media] source: {reason}")]
    Pipeline {
        /// What GStreamer says.
        reason: String,
    },
    /// No H.264 encoder for a source of raw pictures.
    #[error("no H.264 encoder found: install one of v4l2h264enc, openh264enc, x264enc, or choose a source that is encoded already")]
    NoEncoder,
    /// A recorded file cannot be used.
    #[error("cannot read the media file {path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A thread does not start.
    #[error("cannot start a thread for media: {0}")]
    Thread(io::Error),
}

/// The source of frames for one of those that the configuration names. It need not be there yet.
fn open(source: &Source, config: &config::Media) -> Result<Arc<dyn FrameSource>, MediaError> {
    match source {
        Source::Rtsp(url) => Ok(Arc::new(rtsp::RtspSource::new(url.expose(), config.rtsp_transport).hearing(config.sound))),
        other => backend::open(other, config.sound),
    }
}

/// What media knows of a clip when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// What started it.
    pub kind: ClipKind,
    /// How long ago its first frame was taken (the pre-roll).
    pub ago: Duration,
    /// The picture's height in pixels.
    pub height: u32,
}

/// Whose file it is, for its header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The camera; empty if that is not to be told.
    pub device: String,
    /// When its first frame was taken, since 1970, if that is known for certain.
    pub started_at: Option<Duration>,
}

/// The header with which a complete file of fragments is a progressive one: players that read no fragments then play it, and know how
/// long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progressive {
    /// It stands before the fragments, which stay as they are.
    pub header: Bytes,
    /// Instead of so many bytes at the beginning, which are in the first fragment.
    pub replaces: usize,
}

/// What to do with a clip that is being recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Record on, until this long at most.
    Continue {
        /// The plan's longest clip.
        max: Duration,
    },
    /// The plan no longer allows it, and what was written is erased: stop.
    Erased,
}

/// Where clips go. The upload gate implements it: the gate decides, media obeys.
pub trait Outlet: Send + Sync + 'static {
    /// Whether a clip may begin now, and if so where its bytes go.
    fn begin(&self, clip: Beginning) -> Option<(Box<dyn ClipWriter>, Duration)>;

    /// The longest clip allowed at the moment (the pre-roll must fit into it), or `None` while no clip may begin.
    fn clip_max(&self) -> Option<Duration>;

    /// How many lines the picture of a snapshot may have at the moment, or `None` while no snapshot may begin.
    fn tallest_snapshot(&self) -> Option<u32> {
        Some(u32::MAX)
    }

    /// Whose file it is that begins with a frame taken this long ago.
    fn identity(&self, ago: Duration) -> Identity {
        let _ = ago;
        Identity::default()
    }
}

/// One clip being recorded. Dropping it without [`ClipWriter::finish`] erases the clip.
pub trait ClipWriter: Send {
    /// The verdict at this moment: the plan may change between two fragments.
    fn limit(&self) -> Verdict;

    /// More of the file, which now lasts `duration` from its first frame.
    fn append(&mut self, fragment: Bytes, duration: Duration) -> Verdict;

    /// All that was appended can be a progressive file with this header. Called before [`ClipWriter::finish`], if at all.
    fn offer(&mut self, progressive: Progressive) {
        drop(progressive);
    }

    /// The file is complete.
    fn finish(self: Box<Self>, duration: Duration);
}
