//! Stops the agent within five seconds.

use std::{
    thread,
    time::{Duration, Instant},
};

use care_engine::Event;

use super::Agent;

/// How long a stop may take in all, so that it is over within five seconds, and what each part of it may.
const STOP: Duration = Duration::from_millis(4500);
const STOP_LINK: Duration = Duration::from_secs(2);
const STOP_MEDIA: Duration = Duration::from_secs(3);
const STOP_STORE: Duration = Duration::from_millis(500);

impl Agent {
    /// The way down: transfers stopped, what is owed delivered or kept, the pipeline down, within five seconds.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.notifier.stopping();
        let deadline = Instant::now() + STOP;
        let left = || deadline.saturating_duration_since(Instant::now());
        if let Some(own) = self.cut.take() {
            // The end of its socket closes a vendor's uploader, whether it has answered or not.
            self.handle(Event::CutDone(self.gate.give_up_cut(own)));
        }
        self.gate.cut(None);
        self.uploads.spill();
        self.handle(Event::Stopping);
        let media = self.media.take().map(|media| thread::spawn(move || media.stop(STOP_MEDIA)));
        if !self.link.stop(STOP_LINK).await {
            tracing::warn!("the broker was not told that this device is offline; the last will says so");
        }
        // First the pipeline: the clip that it was recording is worth keeping too.
        if let Some(media) = media {
            let down = media.join().map_err(|_| anyhow::anyhow!("the camera's picture could not be stopped"))?;
            if !down {
                tracing::error!("the camera's pipeline did not come down in time");
            }
        }
        self.uploads.stop(left().saturating_sub(STOP_STORE));
        if let Some((ticket, record)) = self.record_waits.take() {
            self.store.write(ticket, record);
        }
        if !self.store.stop(left()) {
            tracing::error!("the last record is not on flash");
        }
        drop(self.page);
        Ok(())
    }
}
