//! The uploads' thread: takes one clip after the other from the spool and sends it, raises conditions, reports events.
//! It has its own runtime, so nothing that it waits for delays the control thread.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use care_protocol::DeviceId;
use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    Event, Gate, Peers,
    content::Open,
    faults::Faults,
    kept::Kept,
    lock,
    pacing::Pacer,
    spool::{Job, Next, Outcome},
    transfer::Flight,
    vendor::Listener,
};

/// How often clips are checked for their age, and the longest wait before the time is read again: the runtime's clock
/// stops in suspend, BOOTTIME does not.
const ROUND: Duration = Duration::from_secs(30);

/// State shared by the uploads' thread and its transfers.
pub(super) struct Shared {
    pub(super) gate: Arc<Gate>,
    pub(super) device: DeviceId,
    pub(super) peers: Mutex<Arc<Peers>>,
    pub(super) pacer: Mutex<Pacer>,
    /// Connections for the next part.
    pub(super) kept: Mutex<Option<Kept>>,
    /// The transfers whose bytes are being sent.
    pub(super) flights: Mutex<Vec<Flight>>,
    pub(super) last_fault: Mutex<Option<String>>,
    pub(super) faults: Faults,
    /// How a clip's file is read.
    pub(super) on_flash: Open,
    pub(super) events: Arc<dyn Fn(Event) + Send + Sync>,
    pub(super) stop: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("device", &self.device).field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) async fn run(self: Arc<Self>, listener: Option<Listener>) {
        let uploader = async {
            match listener {
                Some(listener) => listener.serve().await,
                None => std::future::pending().await,
            }
        };
        select! {
            () = self.clone().work() => {}
            () = uploader => {}
            () = self.stop.notified() => {}
        }
    }

    async fn work(self: Arc<Self>) {
        loop {
            self.sweep();
            let now = self.gate.clock.now();
            let next = self.gate.spool.lock().next(self.gate.generation(), now);
            let wait = match next {
                Next::Take(job) => {
                    self.carry(*job).await;
                    continue;
                }
                Next::At(due) => due.saturating_sub(now.boot).min(ROUND),
                Next::Idle => ROUND,
            };
            let wait = self.let_go().map_or(wait, |until| wait.min(until));
            select! {
                () = self.gate.spool.wake.notified() => {}
                () = sleep(self.until_due(wait)) => {}
            }
        }
    }

    /// This long, or until a condition has to be looked at.
    fn until_due(&self, wait: Duration) -> Duration {
        let now = self.gate.clock.now();
        self.faults.due(now).map_or(wait, |due| wait.min(due.saturating_sub(now.boot).max(Duration::from_secs(1))))
    }

    /// Closes connections that no part has used in time; how long until then otherwise.
    fn let_go(&self) -> Option<Duration> {
        let mut kept = lock(&self.kept);
        let now = Instant::now();
        kept.take_if(|kept| kept.until() <= now);
        kept.as_ref().map(|kept| kept.until() - now)
    }

    /// Sends one clip, in a task that a cut can abort from another thread.
    async fn carry(self: &Arc<Self>, job: Job) {
        let (id, generation, clip, bytes) = (job.id, job.generation, job.facts, job.bytes);
        let (whole, part) = (job.clip, job.part.map(|part| part.index));
        let shared = self.clone();
        let mut task = tokio::spawn(async move { shared.transfer(&job).await });
        self.gate.sockets.adopt(generation, task.abort_handle());
        let end = loop {
            select! {
                end = &mut task => break end,
                () = self.gate.spool.wake.notified() => self.sweep(),
                () = sleep(self.until_due(ROUND)) => self.sweep(),
            }
        };
        let end = match end {
            Ok(end) => end,
            // A panic (for example because invariant 3 is broken) must not be swallowed.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // A cut aborted it.
            Err(_) => Outcome::Stale,
        };
        self.gate.spool.lock().settle(id, generation, end.clone(), self.gate.clock.now());
        self.gate.spool.grown();
        self.faults.name(&self.gate);
        // Only now: a cut that follows from the refusal must find the clip waiting, not in flight.
        if let Outcome::Refused { status, .. } = end {
            self.emit(Event::Refused { status, clip });
        }
        if end == Outcome::Stored {
            tracing::info!(clip = %whole, part, bytes, generation = generation.0, "clip stored");
            *lock(&self.last_fault) = None;
            self.emit(Event::Stored { clip, bytes });
        }
    }

    /// Erases clips that have grown too old, and frees removed clips.
    fn sweep(&self) {
        let mut spool = self.gate.spool.lock();
        let expired = spool.expire(self.gate.clock.now());
        let (removed, losses) = spool.sweep();
        let spilled = spool.take_spilled();
        drop(spool);
        drop((removed, spilled));
        if expired.clips > 0 {
            // From flash as well.
            self.gate.spool.grown();
            tracing::info!(clips = expired.clips, bytes = expired.bytes, "clips are older than the plan keeps: erased");
        }
        self.faults.lost(&losses, self.gate.clock.now());
        self.faults.name(&self.gate);
        for loss in losses {
            tracing::debug!(bytes = loss.bytes, "clip dropped");
            self.emit(Event::Dropped { clip: loss.clip, bytes: loss.bytes });
        }
    }

    pub(super) fn emit(&self, event: Event) {
        (self.events)(event);
    }

    pub(super) fn note_fault(&self, fault: String) {
        *lock(&self.last_fault) = Some(fault);
    }

    pub(super) fn peers(&self) -> Arc<Peers> {
        lock(&self.peers).clone()
    }

    pub(super) fn pacer(&self) -> MutexGuard<'_, Pacer> {
        lock(&self.pacer)
    }
}
