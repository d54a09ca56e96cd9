//! The sections of the status document that the parts of the agent fill in. The control thread calls these setters.

use std::time::Duration;

use super::{LinkStatus, MediaPart, SpoolStatus, StatusDocument, StoreStatus, TransferStatus};
use crate::{conditions::Kind, link, media::MediaStatus, upload::UploadStatus};

#[cfg(feature = "gstreamer")]
const SCALE: &str = "Set [media] low_source to a stream within the plan's max_height. If the camera gives none, let source be a launch: \
                     description that scales the picture (docs/media.md).";

impl StatusDocument {
    /// Sets how long the agent has been running.
    pub fn set_uptime(&mut self, up: Duration) {
        self.up_s = up.as_secs();
    }

    /// Sets the state of the broker connection.
    pub fn set_link(&mut self, link: &link::LinkStatus, confirmed: bool) {
        let up = link.state == link::LinkState::Subscribed;
        self.link = LinkStatus {
            up,
            broker: std::mem::take(&mut self.link.broker),
            confirmed,
            connections: link.connection.map_or(self.link.connections, |connection| connection.0),
            fault: link.last_fault.as_ref().filter(|_| !up).map(ToString::to_string),
        };
    }

    /// Sets the transfers, the spool and the vendor's uploader.
    pub fn set_uploads(&mut self, uploads: &UploadStatus) {
        self.transfers = TransferStatus {
            in_flight: uploads.transfers,
            flights: uploads.flights.clone(),
            generation: uploads.generation.0,
            pace: uploads.pace,
            pace_fault: uploads.pace_fault.clone(),
            last_fault: uploads.last_fault.clone(),
        };
        self.spool = SpoolStatus {
            clips: uploads.spool.clips,
            bytes: uploads.spool.bytes,
            quota_bytes: self.spool.quota_bytes,
            memory_bytes: uploads.memory_bytes,
            flash_clips: uploads.flash.clips,
            flash_bytes: uploads.flash.bytes,
            flash_quota_bytes: self.spool.flash_quota_bytes,
            flash_fault: uploads.flash_fault.clone(),
            flash_written_today: uploads.flash_written_today,
            flash_bytes_per_day: self.spool.flash_bytes_per_day,
            stored_clips: uploads.stored.clips,
            stored_bytes: uploads.stored.bytes,
            erased_clips: uploads.erased.clips,
            erased_bytes: uploads.erased.bytes,
            dropped_clips: uploads.dropped.clips,
            dropped_bytes: uploads.dropped.bytes,
        };
        self.uploader = uploads.uploader.clone();
    }

    /// Sets the camera's state, if media has started.
    pub fn set_media(&mut self, media: Option<MediaStatus>) {
        let Some(part) = &mut self.media else { return };
        if let Some(status) = media {
            *part = MediaPart { why_not: None, status };
        }
        let why_not = self.height_fault();
        self.media.iter_mut().for_each(|part| part.why_not.clone_from(&why_not));
    }

    /// Why no clip may leave although the plan allows clips: no stream is small enough for the plan.
    pub fn height_fault(&self) -> Option<String> {
        let (limits, status) = (self.may_leave, &self.media.as_ref()?.status);
        let low = status.low.as_ref().map(|low| low.height).filter(|height| *height > 0 && !self.low_is_missing());
        let height = low.unwrap_or(status.stream.height).min(status.stream.height);
        (limits.clips && height > limits.max_height).then(|| {
            let low = if self.low_is_missing() { "; the second stream is missing" } else { "" };
            let most = limits.max_height;
            format!("no clip is made: the stream is {height} pixels tall, and at most {most} may leave under this plan{low}")
        })
    }

    /// What to do about [`StatusDocument::height_fault`]: a source of GStreamer can be scaled here, an RTSP camera cannot.
    pub fn height_advice(&self) -> &'static str {
        if self.low_is_missing() {
            return Kind::LowStream.advice();
        }
        #[cfg(feature = "gstreamer")]
        if self.media.as_ref().is_some_and(|media| media.status.low.is_none() && !media.status.stream.source.starts_with("rtsp")) {
            return SCALE;
        }
        Kind::PictureTooTall.advice()
    }

    fn low_is_missing(&self) -> bool {
        self.media.as_ref().and_then(|media| media.status.low.as_ref()).is_some_and(|low| low.fault.is_some())
    }

    /// Sets the state of the store.
    pub fn set_store(&mut self, writes: u64, fault: Option<&str>) {
        self.store = StoreStatus { writes, fault: fault.map(str::to_owned) };
    }
}
