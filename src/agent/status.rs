//! Updates the status document, the conditions and systemd's status line: once a second, and soon after a change.

use std::time::{Duration, Instant};

use super::Agent;
use crate::{conditions::Kind, media::Media};

/// The status is updated at least this often.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How soon after a change. Not at once, because the update wakes systemd and the switch itself comes first.
pub(super) const STATUS_SOON: Duration = Duration::from_millis(50);

impl Agent {
    /// Updates the status document from every part of the agent.
    pub(super) fn update_status(&mut self) {
        let now = self.clock.now();
        let view = self.engine.view(now);
        let uploads = self.uploads.status();
        let media = self.media.as_ref().map(Media::status);
        let link = self.link.status();
        let confirmed = self.engine.is_confirmed();
        self.clock_monitor.update();
        let writes = self.store.writes();
        self.status.set_documents(view.history.clone());
        self.status.timeline().update(now, view.position.epoch);
        self.monitor.update(&view, self.store_fault.as_deref(), now);
        self.status.update(|document| {
            document.set_engine_view(view, now);
            document.set_uptime(self.started.elapsed());
            document.set_link(&link, confirmed);
            document.set_uploads(&uploads);
            document.set_media(media);
            document.set_store(writes, self.store_fault.as_deref());
            if let Some(ends) = self.certificate_ends {
                document.set_certificate(ends, now);
            }
            match document.height_fault() {
                Some(sentence) => self.conditions.raise_advising(Kind::PictureTooTall, sentence, document.height_advice()),
                None => self.conditions.clear(Kind::PictureTooTall),
            }
            document.conditions = self.conditions.list(now);
            document.update_warnings();
        });
        self.status.observe(|observed| observed.clock(now.trusted));
        self.notifier.status(&self.status.read().summary());
        for figures in self.unlogged_cuts.drain(..) {
            tracing::info!(
                generation = figures.generation.0,
                transfers = figures.transfers,
                bytes_after = figures.bytes_after,
                doomed_clips = figures.erased.clips,
                "cut"
            );
        }
        self.next_status_at = Instant::now() + STATUS_EVERY;
    }

    /// Schedules a status update after a change. Further changes before it neither add updates nor delay it.
    pub(super) fn request_status_update(&mut self) {
        self.status.mark_stale();
        self.next_status_at = self.next_status_at.min(Instant::now() + STATUS_SOON);
    }

    /// Adds the newest switch to the timeline.
    pub(super) fn record_switch(&mut self) {
        if let Some((report, order)) = self.engine.last_switch()
            && self.status.record_switch(report, order)
        {
            self.status.timeline().time(self.stopwatch.switched());
        }
    }
}
