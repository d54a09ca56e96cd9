//! What starts a clip: a timer, another program's word, or the agent's own look at the picture.

pub(super) mod built_in;
mod every;
pub(super) mod socket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Instant,
};

use care_protocol::ClipKind;

use super::{MediaError, stop::Stop};
use crate::{conditions::Conditions, config};

/// Something happened in front of the camera, or a person asks for a clip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub kind: ClipKind,
    pub at: Instant,
}

/// How many events may wait; while a clip is recorded they only make it longer.
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

    pub fn ignore(&self) {
        self.counts.ignored.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts the detector that is no part of the pipeline, if it is one of those.
pub(super) fn start(
    motion: &config::Motion,
    events: Events,
    conditions: Conditions,
    stop: Stop,
) -> Result<Option<JoinHandle<()>>, MediaError> {
    match motion {
        config::Motion::Every(period) => every::start(*period, events, stop).map(Some),
        config::Motion::Socket(path) => socket::start(path, events, conditions, stop).map(Some),
        config::Motion::BuiltIn => Ok(None),
    }
}
