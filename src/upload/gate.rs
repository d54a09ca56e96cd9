//! The gate: the one place that decides whether media bytes may leave. The engine opens it and cuts; media asks it
//! before a clip is recorded; transfers hold its generation (a number that every cut advances) and stop when it
//! changes. No lock here is held during a slow operation, so a cut takes microseconds whatever the uploads' thread is
//! doing.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use care_engine::{Admission, CutFigures, Generation};
use care_protocol::{DeviceId, Erased, Mode, Policy, Position};
use tokio::sync::Notify;

use super::{
    socket::Sockets,
    spool::{Chore, Spool},
    vendor::{UploaderEvents, UploaderStatus, Vendor},
};
use crate::{clock::Clock, config::Spool as SpoolLimits};

/// Decides which clips may leave, and holds those that wait.
#[derive(Debug)]
pub struct Gate {
    pub(super) sockets: Arc<Sockets>,
    pub(super) spool: Arc<SharedSpool>,
    /// A vendor's uploader, where there is one: another process, which the agent cannot kill.
    pub(super) vendor: Option<Arc<Vendor>>,
    pub(super) clock: Clock,
    /// Whether a clip that begins now leaves in parts.
    pub(super) in_parts: AtomicBool,
    /// Named in the headers of files; empty in tests.
    pub(super) device: String,
}

impl Gate {
    pub(super) fn new(limits: &SpoolLimits, vendor: Option<Arc<Vendor>>, clock: Clock) -> Self {
        let spool = SharedSpool {
            spool: Mutex::new(Spool::new(limits.memory_bytes, limits.flash_bytes, limits.flash_bytes_per_day)),
            wake: Notify::new(),
            chores: Condvar::new(),
            ending: false.into(),
        };
        let (sockets, in_parts, device) = (Arc::default(), false.into(), String::new());
        Self { sockets, spool: Arc::new(spool), vendor, clock, in_parts, device }
    }

    /// The gate of this device.
    pub(super) fn of(self, device: &DeviceId) -> Self {
        Self { device: device.to_string(), ..self }
    }

    /// Whether clips leave while they are being filmed, from the next clip on.
    pub(super) fn leave_while_recording(&self, yes: bool) {
        self.in_parts.store(yes, Ordering::Relaxed);
    }

    /// The current generation.
    pub fn generation(&self) -> Generation {
        self.sockets.generation()
    }

    /// Closes the gate and aborts every transfer, even in the middle of a packet; no media leaves until
    /// [`Gate::open`].
    ///
    /// It then judges every clip (being recorded, waiting, in flight) against `keep`, oldest first, for the document
    /// at that position: allowed clips wait under the new generation, the rest are erased. With `None` nothing is
    /// erased. Called on the control thread; takes microseconds. The returned figures are those of the agent's own
    /// uploads; the cut is over once [`Gate::cut_figures`] has the total.
    pub fn cut(&self, keep: Option<(Policy, Position)>) -> CutFigures {
        let generation = self.sockets.advance();
        // From here on no socket opens, and the spool releases no clip: it still has the previous generation.
        if let Some(vendor) = &self.vendor {
            vendor.close(generation, keep);
        }
        let bytes_after = self.sockets.abort();
        // From here on no media leaves: the kernel has discarded every connection.
        let mut spool = self.spool.lock();
        let transfers = spool.recall(self.sockets.generation());
        let erased = keep.map(|(policy, position)| spool.keep(policy, position, self.clock.now())).unwrap_or_default();
        drop(spool);
        self.spool.changed();
        CutFigures { generation, transfers, bytes_after, erased }
    }

    /// The total figures of a cut, `own` included; `None` while a vendor's uploader has not answered and may still
    /// send.
    pub fn cut_figures(&self, own: CutFigures) -> Option<CutFigures> {
        self.vendor.as_ref().map_or(Some(own), |vendor| vendor.cut_figures(own))
    }

    /// The same without waiting for a vendor's uploader: for shutdown, which closes its socket too.
    pub fn give_up_cut(&self, own: CutFigures) -> CutFigures {
        self.vendor.as_ref().map_or(own, |vendor| vendor.give_up(own))
    }

    /// Renews the permission of a vendor's uploader. Called once in each turn of the control loop.
    pub fn renew(&self, mode: Mode) {
        if let Some(vendor) = &self.vendor {
            vendor.renew(mode);
        }
    }

    /// When [`Gate::renew`] or [`Gate::cut_figures`] is due, BOOTTIME.
    pub fn due(&self) -> Option<Duration> {
        self.vendor.as_ref().and_then(|vendor| vendor.due())
    }

    /// The events of a vendor's uploader since the last call. It may have connected or gone: the uploads' thread raises and
    /// clears the condition.
    pub fn uploader_events(&self) -> UploaderEvents {
        self.spool.wake.notify_one();
        self.vendor.as_ref().map(|vendor| vendor.uploader_events()).unwrap_or_default()
    }

    pub(super) fn uploader(&self) -> Option<UploaderStatus> {
        self.vendor.as_ref().map(|vendor| vendor.status())
    }

    /// Releases what `admission` allows, under the current generation, and disturbs no transfer. A restriction needs a
    /// [`Gate::cut`] first.
    pub fn open(&self, admission: Admission) {
        if let Some(vendor) = &self.vendor {
            vendor.open(admission);
        }
        let erased = self.spool.lock().admit(admission, self.clock.now());
        if erased.clips > 0 {
            tracing::info!(clips = erased.clips, bytes = erased.bytes, "clips found on flash are not allowed: erased");
        }
        self.spool.changed();
    }

    /// Lets clips whose grant was refused (402, 403) be tried again now.
    pub fn retry_refused(&self) {
        self.spool.lock().retry_refused();
        self.spool.changed();
    }

    /// Whether the erasure of every erased clip is durable on flash (or has failed, which the status shows). Until
    /// then the record of a document that erases must not be written: a restart that finds it must not find the clips.
    /// [`super::Event::ErasuresSettled`] reports the change to true.
    pub fn erasures_settled(&self) -> bool {
        self.spool.lock().erasures_settled()
    }

    /// Cuts and erases every clip, whatever the policy: for a factory reset or a change of account.
    pub fn erase_all(&self) -> Erased {
        self.cut(Some((Policy::CLOSED, Position::NONE))).erased
    }
}

/// The longest sleep of the flash thread: a condition variable's clock stops in suspend, BOOTTIME does not.
const ROUND: Duration = Duration::from_secs(30);

/// The spool under its lock, with the means to wake the uploads' thread and the flash thread.
#[derive(Debug)]
pub(super) struct SharedSpool {
    spool: Mutex<Spool>,
    pub(super) wake: Notify,
    chores: Condvar,
    ending: AtomicBool,
}

impl SharedSpool {
    pub(super) fn lock(&self) -> MutexGuard<'_, Spool> {
        // Every change leaves the spool consistent, so the lock's poison flag can be ignored.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes both threads.
    pub(super) fn changed(&self) {
        self.wake.notify_one();
        self.chores.notify_one();
    }

    /// Wakes the flash thread alone.
    pub(super) fn grown(&self) {
        self.chores.notify_one();
    }

    /// The flash thread ends once nothing is left to do.
    pub(super) fn end(&self) {
        // Under the lock, so that the thread is not just about to sleep.
        let spool = self.lock();
        self.ending.store(true, Ordering::Relaxed);
        drop(spool);
        self.chores.notify_one();
    }

    /// Waits for the next chore on flash; `None` when there is none and there will be none.
    pub(super) fn wait_for_chore(&self, clock: &Clock) -> Option<Chore> {
        let mut spool = self.lock();
        loop {
            let now = clock.now();
            match spool.chore(now) {
                Ok(chore) => return Some(chore),
                Err(_) if self.ending.load(Ordering::Relaxed) => return None,
                Err(due) => {
                    let wait = due.saturating_sub(now.boot).min(ROUND);
                    spool = self.chores.wait_timeout(spool, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}
