//! Stops the agent on SIGTERM or SIGINT, within five seconds.

use std::{
    thread,
    time::{Duration, Instant},
};

use care_engine::Event;

use super::{Agent, effects::hand_over};
use crate::local_mqtt::LocalMqtt;

/// The time limit of the whole stop, and of its parts.
const STOP: Duration = Duration::from_millis(4500);
const STOP_LINK: Duration = Duration::from_secs(2);
const STOP_MEDIA: Duration = Duration::from_secs(3);
const STOP_TIMELINE: Duration = Duration::from_millis(300);
const STOP_STORE: Duration = Duration::from_millis(500);

impl Agent {
    /// Stops transfers, sends or persists what is pending, stops the pipeline, and writes the last record.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.notifier.stopping();
        // It says goodbye while the rest stops.
        self.local_mqtt.iter_mut().for_each(LocalMqtt::begin_stop);
        let deadline = Instant::now() + STOP;
        let left = || deadline.saturating_duration_since(Instant::now());
        if let Some(own) = self.cut.take() {
            // A vendor's uploader stops when its socket closes, even if it has not answered.
            self.handle(Event::CutDone(self.gate.give_up_cut(own)));
        }
        self.gate.cut(None);
        self.uploads.spill();
        self.handle(Event::Stopping);
        let media = self.media.take().map(|media| thread::spawn(move || media.stop(STOP_MEDIA)));
        if !self.link.stop(STOP_LINK).await {
            tracing::warn!("the broker was not told that this device is offline; the last will says so");
        }
        // The pipeline first, so that the clip being recorded is still kept.
        if let Some(media) = media {
            let down = media.join().map_err(|_| anyhow::anyhow!("the camera's picture could not be stopped"))?;
            if !down {
                tracing::error!("the camera's pipeline did not stop in time");
            }
        }
        self.uploads.stop(left().saturating_sub(STOP_TIMELINE + STOP_STORE));
        if !self.status.timeline().stop(left().min(STOP_TIMELINE)) {
            tracing::error!("the last entries of the timeline are not on flash");
        }
        if let Some((ticket, record)) = self.deferred_record.take() {
            hand_over(&self.store, &mut self.another_owner, ticket, record);
        }
        if !self.store.stop(left()) {
            tracing::error!("the last record is not on flash");
        }
        if self.local_mqtt.is_some_and(|local| !local.stop()) {
            tracing::debug!("the broker in the home was not told that this device is offline; the last will says so");
        }
        drop(self.status_server);
        Ok(())
    }
}
