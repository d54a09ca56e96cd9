//! Shows the status: once a second, and soon after a change.

use std::time::{Duration, Instant};

use super::Agent;
use crate::{conditions::Kind, media::Media};

/// How old the status may be at most.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How soon it shows what has changed: behind the switch that changed it, for it wakes systemd too.
pub(super) const STATUS_SOON: Duration = Duration::from_millis(50);

impl Agent {
    /// Brings the status up to date.
    pub(super) fn show(&mut self) {
        let now = self.clock.now();
        let view = self.engine.view(now);
        let uploads = self.uploads.status();
        let media = self.media.as_ref().map(Media::status);
        let link = self.link.status();
        let confirmed = self.engine.is_confirmed();
        self.clock_watch.look();
        let writes = self.store.writes();
        self.board.know(view.history.clone());
        self.notice.see(&view, self.store_fault.as_deref(), now);
        self.board.update(|document| {
            document.see(view, now);
            document.see_uptime(self.started.elapsed());
            document.see_link(&link, confirmed);
            document.see_uploads(&uploads);
            document.see_media(media);
            document.see_store(writes, self.store_fault.as_deref());
            if let Some(ends) = self.certificate_ends {
                document.see_certificate(ends, now);
            }
            self.conditions.set(Kind::PictureTooTall, document.too_tall());
            document.conditions = self.conditions.list(now);
            document.warn();
        });
        self.notifier.status(&self.board.read().summary());
        for figures in self.untold.drain(..) {
            tracing::info!(
                generation = figures.generation.0,
                transfers = figures.transfers,
                bytes_after = figures.bytes_after,
                doomed_clips = figures.doomed.clips,
                "cut"
            );
        }
        self.show_at = Instant::now() + STATUS_EVERY;
    }

    /// What has just changed is shown soon; a burst does not show every step, and does not put it off.
    pub(super) fn show_soon(&mut self) {
        self.board.outdate();
        self.show_at = self.show_at.min(Instant::now() + STATUS_SOON);
    }

    /// Keeps for support what has changed.
    pub(super) fn remember(&self) {
        if let Some((report, order)) = self.engine.last_switch() {
            self.board.remember(report, order);
        }
    }
}
