//! The part of the status document that media fills in. The threads of media raise the counters behind it without waiting.

use serde::Serialize;

/// How media is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MediaStatus {
    /// The stream.
    #[serde(flatten)]
    pub stream: StreamStatus,
    /// The smaller stream, if one is configured.
    pub low: Option<StreamStatus>,
    /// Motion events since the start.
    pub motion_events: u64,
    /// Lines of the motion socket that were no motion event, documents of ONVIF metadata that could not be used, and events that
    /// came while too many waited.
    pub motion_ignored: u64,
    /// Whether a clip is being recorded now.
    pub clip_running: bool,
    /// Whole clips.
    pub clips_recorded: u64,
    /// Clips that a change of plan erased while they were being recorded.
    pub clips_erased: u64,
    /// Events for which no clip was allowed.
    pub clips_refused: u64,
    /// Events that are in no clip although one was allowed; the condition `events_missed` says why.
    pub events_missed: u64,
    /// Snapshots that the camera's `snapshot_url`, or the decoder, did not give; a frame of the stream stood in.
    pub snapshots_failed: u64,
    /// Recording to the SD card, if configured.
    pub recording: Option<RecordingStatus>,
}

/// How one stream is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StreamStatus {
    /// Where it comes from, without credentials.
    pub source: String,
    /// Pixels; 0 until the first frame.
    pub width: u32,
    /// Pixels; 0 until the first frame.
    pub height: u32,
    /// How the camera codes it: `H.264 High, interlaced`, `H.265 Main`. Absent until the first frame.
    pub coding: Option<String>,
    /// How its sound is coded (`AAC 16 kHz mono`), or why there is none in recordings (`left out: PCMU`). Absent if there is none,
    /// or `[media] sound` is off.
    pub sound: Option<String>,
    /// Access units of sound that came, or should have, and are in no recording.
    pub sound_lost: u64,
    /// RTP packets that came over UDP after they had been given up as lost: the network swaps packets too far apart.
    #[serde(default)]
    pub packets_late: u64,
    /// Frames that the source has delivered.
    pub frames: u64,
    /// Those of them that were lost, or are useless because one before them was.
    pub dropped: u64,
    /// Milliseconds since the last frame; absent before the first.
    pub last_frame_age_ms: Option<u64>,
    /// How often the source had to be started again.
    pub restarts: u64,
    /// What keeps the stream from running; absent while it runs.
    pub fault: Option<String>,
}

/// How the SD recording is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecordingStatus {
    /// Frames written.
    pub frames: u64,
    /// Frames lost while the card was away, full or too slow.
    pub dropped: u64,
    /// The same by reason.
    pub lost: LostFrames,
    /// Bytes of recordings on the card.
    pub bytes: u64,
    /// Segments that gave way to newer ones, or because of their age.
    pub deleted: u64,
    /// Syncs during which more than two seconds of the recording were at risk.
    pub slow_syncs: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// What keeps it from recording; absent while it records.
    pub fault: Option<String>,
}

/// Frames that are not on the card, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LostFrames {
    /// There was no card, or it was pulled.
    pub no_card: u64,
    /// No room for blocks, files or names, and no recording left to give way.
    pub full: u64,
    /// The card, or its file system, was read-only.
    pub read_only: u64,
    /// Any other fault of the card.
    pub error: u64,
    /// More waited than `memory_bytes`, because the card was slow.
    pub too_slow: u64,
    /// They came before the keyframe with which recording begins or goes on.
    pub no_keyframe: u64,
    /// They were written, and the sync that followed failed. They count in `frames`, not in `dropped`.
    pub unsynced: u64,
}
