//! What media tells of itself: counters that the streaming threads raise without waiting, read at any time.

use serde::{Deserialize, Serialize};

/// How the camera's picture is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaStatus {
    /// The stream.
    #[serde(flatten)]
    pub stream: StreamStatus,
    /// The smaller stream, if one is configured.
    pub low: Option<StreamStatus>,
    /// Motion events since the start.
    pub motion_events: u64,
    /// Lines of the motion socket that were no motion event, and events that came too fast to be taken.
    pub motion_ignored: u64,
    /// Whether a clip is being recorded now.
    pub clip_running: bool,
    /// Clips handed over whole.
    pub clips_recorded: u64,
    /// Clips that a change of plan erased while they were being recorded.
    pub clips_erased: u64,
    /// Events for which no clip was allowed.
    pub clips_refused: u64,
    /// Recording to the SD card, if configured.
    pub recording: Option<RecordingStatus>,
}

/// How one stream is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Where it comes from, without credentials.
    pub source: String,
    /// Pixels; 0 until the first frame.
    pub width: u32,
    /// Pixels; 0 until the first frame.
    pub height: u32,
    /// Frames the trunk has carried.
    pub frames: u64,
    /// Frames that the tap lost: pushed out of its queue, or useless without one that was.
    pub dropped: u64,
    /// Milliseconds since the last frame; absent before the first.
    pub last_frame_age_ms: Option<u64>,
    /// How often the trunk had to be built anew.
    pub restarts: u64,
    /// What keeps the stream from running; absent while it runs.
    pub fault: Option<String>,
}

/// How the SD recording is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingStatus {
    /// Frames written.
    pub frames: u64,
    /// Frames lost while the card was away, full or too slow.
    pub dropped: u64,
    /// Bytes of recordings on the card.
    pub bytes: u64,
    /// What keeps it from recording; absent while it records.
    pub fault: Option<String>,
}
