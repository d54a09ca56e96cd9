//! What starts a clip: a timer, a motion event from another program, the camera's own ONVIF metadata, built-in motion
//! detection in pictures or in the sizes of coded ones. Detectors put events into a bounded queue, which the clip recorder empties.

pub(super) mod bitstream;
pub(super) mod built_in;
pub(super) mod detector;
mod hours;
mod lasting;
pub(super) mod onvif;
pub(super) mod socket;
#[cfg(test)]
pub(super) mod tests;
mod timer;
mod zones;

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Instant,
};

use care_protocol::ClipKind;
use portable_atomic::AtomicU64;

use super::{MediaError, stop_signal::StopSignal};
use crate::{conditions::Conditions, config};

/// Something happened in front of the camera, or a person asks for a clip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub kind: ClipKind,
    pub at: Instant,
}

/// How many events may wait. While a clip is recorded they only make it longer.
const WAITING: usize = 16;

/// Where detectors put events. Never waits.
#[derive(Debug, Clone)]
pub(super) struct Events {
    queue: mpsc::SyncSender<Event>,
    pub counts: Arc<Counts>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub events: AtomicU64,
    pub ignored: AtomicU64,
}

impl Events {
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::sync_channel(WAITING);
        (Self { queue, counts: Arc::default() }, events)
    }

    pub fn raise(&self, kind: ClipKind) {
        self.counts.events.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(Event { kind, at: Instant::now() }).is_err() {
            self.ignore();
        }
    }

    /// The motion of an event that was raised goes on.
    pub fn prolong(&self, kind: ClipKind) {
        // Events wait already, so it goes on without this one.
        let _ = self.queue.try_send(Event { kind, at: Instant::now() });
    }

    pub fn ignore(&self) {
        self.counts.ignored.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts the detector if it is a thread of its own that waits for no stream: the others watch pictures or metadata.
pub(super) fn start(
    motion: &config::Motion,
    events: Events,
    conditions: Conditions,
    stop: StopSignal,
) -> Result<Option<JoinHandle<()>>, MediaError> {
    match motion {
        config::Motion::Every(period) => timer::start(*period, events, stop).map(Some),
        config::Motion::Socket(path) => socket::start(path, events, conditions, stop).map(Some),
        config::Motion::BuiltIn | config::Motion::Bitstream | config::Motion::Onvif => Ok(None),
    }
}
