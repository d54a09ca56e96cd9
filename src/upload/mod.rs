//! Clips on their way to the cloud. Media records into the [`Gate`], the engine opens and cuts it, and a thread of its
//! own sends what may leave: one clip at a time, oldest first, which keeps the pace exact and the memory small. It
//! decides nothing about plans; it tells what happened as [`Event`]s.
//!
//! Clips wait in memory (`[spool] memory_bytes`) and, when they must, on flash (`flash_bytes`, [`flash`]), where another
//! thread puts them.
//!
//! Where a vendor's own uploader does the uploading, the gate governs that too ([`vendor`]).

mod body;
mod content;
mod failure;
mod faults;
mod flash;
mod gate;
mod grant;
pub(crate) mod kernel;
mod pacing;
mod recording;
mod socket;
mod spool;
#[cfg(test)]
mod tests;
mod transfer;
pub mod vendor;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use care_engine::{ClipFacts, Generation};
use care_protocol::{DeviceId, Erased};
use tokio::{runtime, select, sync::Notify, time::sleep};

use self::{
    content::Open,
    faults::Faults,
    flash::{Files, Opener, Shelved, flash_fault},
    pacing::Pacer,
    spool::{End, Job, Next},
    vendor::{Door, UploaderStatus},
};
pub use self::{flash::erase_spool, gate::Gate};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::{flash::spool_from_a_stranger, grant::grant_from_a_stranger};
use crate::{clock::Clock, conditions::Conditions, config::Spool as SpoolLimits, http::Origin, store::filesystem::Directory, tls};

/// How often clips are looked at for their age, and how long a wait may be before the time is read anew: the runtime's
/// clock stands still in suspend, BOOTTIME does not.
const ROUND: Duration = Duration::from_secs(30);

/// What uploading needs to know.
#[derive(Debug)]
pub struct Settings {
    /// Which camera this is.
    pub device: DeviceId,
    /// `[spool]`
    pub spool: SpoolLimits,
    /// Where clips are put that must not wait in memory.
    pub spool_dir: PathBuf,
    /// `[upload] uplink_kbps`; 0: estimated.
    pub uplink_kbps: u32,
    /// Whom clips are sent to.
    pub peers: Peers,
    /// Where a vendor's own uploader connects.
    pub uploader: Option<PathBuf>,
    /// Where faults are named.
    pub conditions: Conditions,
}

/// The servers that uploads may talk to.
#[derive(Clone)]
pub struct Peers {
    /// `cloud.url`, with its TLS settings and our client certificate.
    pub api: Origin,
    /// `[store]`: the other hosts that a grant may name.
    pub store: Option<Store>,
}

/// Hosts besides the cloud's own.
#[derive(Clone)]
pub struct Store {
    /// Names (lowercase) and ports.
    pub hosts: BTreeSet<(String, u16)>,
    /// The TLS settings for them, without our client certificate.
    pub tls: tls::Client,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.store.as_ref().map(|store| &store.hosts);
        f.debug_struct("Peers").field("api", &self.api).field("store", &hosts).finish()
    }
}

/// What happened. Told on the uploads' thread; whoever listens must not block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The cloud refused a grant with 402 or 403. The clip waits 15 minutes, or until [`Gate::retry_refused`].
    Refused {
        /// 402 or 403.
        status: u16,
        /// The clip.
        clip: ClipFacts,
    },
    /// The store has the clip.
    Stored {
        /// The clip.
        clip: ClipFacts,
        /// Its size.
        bytes: u64,
    },
    /// A grant breaks a rule of section 3.6; no byte was sent where it leads.
    GrantFault {
        /// Which rule, and by what.
        why: String,
    },
    /// A clip gave way to a newer one: the spool is full.
    Dropped {
        /// The clip.
        clip: ClipFacts,
        /// Its size.
        bytes: u64,
    },
    /// The `Date` of an HTTPS answer was given to the clock.
    Date,
    /// A vendor's uploader has come, gone, or said something ([`Gate::tidings`]).
    Uploader,
    /// Flash says of what was erased that it is gone, or has failed to: [`Gate::erasures_settled`] may have become true. Told
    /// on the flash thread.
    ErasuresSettled,
}

/// What people see of uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadStatus {
    /// The gate's generation.
    pub generation: Generation,
    /// Transfers in flight.
    pub transfers: u32,
    /// Clips and bytes held, in memory and on flash: being recorded, waiting, and in flight.
    pub spool: Erased,
    /// Bytes of memory that clips take.
    pub memory_bytes: u64,
    /// Clips that survive a power cut, and the bytes of flash that the spool takes.
    pub flash: Erased,
    /// Why clips cannot be put on flash; absent where nothing stands in the way.
    pub flash_fault: Option<String>,
    /// Bytes that the spool has written to flash today, in whole pages.
    pub flash_written_today: u64,
    /// Clips and bytes the store has taken since the start.
    pub stored: Erased,
    /// Clips and bytes erased because the plan does not allow them, since the start.
    pub erased: Erased,
    /// Clips and bytes that gave way to newer ones, since the start.
    pub dropped: Erased,
    /// What transfers are paced to, bytes of payload a second.
    pub pace: u64,
    /// What the kernel lacks to keep that pace; absent where nothing stands in the way.
    pub pace_fault: Option<String>,
    /// The last thing that kept a clip from being stored.
    pub last_fault: Option<String>,
    /// A vendor's uploader, where one is configured.
    pub uploader: Option<UploaderStatus>,
}

/// The uploads' thread and the flash thread.
#[derive(Debug)]
pub struct Uploads {
    shared: Arc<Shared>,
    /// Closed when both have ended.
    ended: mpsc::Receiver<()>,
}

/// Looks at what waits on flash, then starts the uploads' thread and the flash thread, with the gate closed. `events` is
/// called on them.
///
/// # Errors
///
/// The kernel gave no thread, or no descriptors for a runtime, or the socket of a vendor's uploader cannot be made.
pub fn start(settings: Settings, clock: Clock, events: impl Fn(Event) + Send + Sync + 'static) -> io::Result<Uploads> {
    let Settings { device, spool, spool_dir, uplink_kbps, peers, uploader, conditions } = settings;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let events: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(events);
    let door = uploader.map(|path| {
        let _inside = runtime.enter();
        let events = events.clone();
        Door::open(&path, clock.clone(), move |event| events(event))
    });
    let door = door.transpose()?;
    let gate = Arc::new(Gate::new(&spool, door.as_ref().map(Door::vendor), clock));
    let open_dir: Opener<Directory> = {
        let dir = spool_dir.clone();
        Arc::new(move || Directory::open(&dir))
    };
    let mut files = Files::new(open_dir.clone());
    // A camera that never used flash is not given a directory for it.
    if spool.flash_bytes > 0 || spool_dir.exists() {
        find_clips(&mut files, &gate);
    }
    let on_flash: Open = Arc::new(move |id| Shelved::open(&open_dir()?, id));
    let shared = Arc::new(Shared {
        gate,
        device,
        peers: Mutex::new(Arc::new(peers)),
        pacer: Mutex::new(Pacer::new(uplink_kbps)),
        last_fault: Mutex::new(None),
        faults: Faults::new(conditions),
        on_flash,
        events,
        stop: Notify::new(),
    });
    let (end, ended) = mpsc::channel();
    let (on_thread, on_end) = (shared.clone(), end.clone());
    thread::Builder::new().name("uploads".into()).spawn(move || {
        runtime.block_on(on_thread.run(door));
        // A resolver that hangs must not hold us up.
        runtime.shutdown_background();
        drop(on_end);
    })?;
    let on_thread = shared.clone();
    thread::Builder::new().name("flash".into()).spawn(move || {
        flash::thread::run(files, &on_thread.gate, |event| on_thread.tell(event));
        drop(end);
    })?;
    Ok(Uploads { shared, ended })
}

/// Takes in what the last run left on flash. Nothing serves yet, so this may take the time it takes, as reading the state does.
fn find_clips(files: &mut Files<Directory>, gate: &Gate) {
    let now = gate.clock.now();
    match files.scan() {
        Ok(scan) => {
            let mut spool = gate.shelf.lock();
            spool.lost_unreadable(scan.unreadable);
            spool.remember_written(scan.written);
            spool.restore(scan.clips, now);
            let held = spool.held();
            drop(spool);
            if held.clips > 0 {
                tracing::info!(clips = held.clips, bytes = held.bytes, "clips found on flash; they wait to be judged");
            }
        }
        Err(why) => {
            gate.shelf.lock().not_restored(flash_fault("the spool on flash cannot be looked at, and clips wait in memory", &why), now);
        }
    }
}

impl Uploads {
    /// The gate.
    pub fn gate(&self) -> Arc<Gate> {
        self.shared.gate.clone()
    }

    /// How uploads stand.
    pub fn status(&self) -> UploadStatus {
        let spool = self.shared.gate.shelf.lock();
        let (tally, flash) = (spool.tally(), spool.flash_use());
        UploadStatus {
            generation: self.shared.gate.generation(),
            transfers: spool.leaving(),
            spool: spool.held(),
            memory_bytes: spool.memory(),
            flash: flash.held,
            flash_fault: flash.fault.map(|words| words.sentence),
            flash_written_today: flash.written_today,
            stored: tally.stored,
            erased: tally.erased,
            dropped: tally.dropped,
            pace: self.shared.pacer().rate(),
            pace_fault: self.shared.gate.sockets.pace_fault(),
            last_fault: lock(&self.shared.last_fault).clone(),
            uploader: self.shared.gate.uploader(),
        }
    }

    /// From the next grant on, talks to these (SIGHUP: other certificates).
    pub fn set_peers(&self, peers: Peers) {
        *lock(&self.shared.peers) = Arc::new(peers);
    }

    /// From the next transfer on, paces by this uplink; 0: estimated anew.
    pub fn set_uplink(&self, kbps: u32) {
        *self.shared.pacer() = Pacer::new(kbps);
    }

    /// Lets clips that wait go to flash from now on, each as soon as it is whole: the agent is about to stop.
    pub fn spill(&self) {
        self.shared.gate.shelf.lock().spill_all();
        self.shared.gate.shelf.changed();
    }

    /// Looks at what is wrong, after a change outside the uploads' thread: a vendor's uploader has come or gone.
    pub fn look(&self) {
        self.shared.gate.shelf.changed();
    }

    /// Closes the gate, aborts what is in flight, puts what waits on flash and ends the threads; waits for them at most
    /// `deadline`. What is not on flash by then is lost with the memory it is in.
    pub fn stop(self, deadline: Duration) {
        self.shared.gate.cut(None);
        self.shared.stop.notify_one();
        self.spill();
        self.shared.gate.shelf.end();
        if self.ended.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("uploads and flash did not come to an end in time");
        }
        let spool = self.shared.gate.shelf.lock();
        let lost = spool.held().clips - spool.flash_use().held.clips;
        if lost > 0 {
            tracing::warn!(clips = lost, "clips that waited in memory are lost");
        }
    }
}

/// What the uploads' thread and its transfers share.
struct Shared {
    gate: Arc<Gate>,
    device: DeviceId,
    peers: Mutex<Arc<Peers>>,
    pacer: Mutex<Pacer>,
    last_fault: Mutex<Option<String>>,
    faults: Faults,
    /// How a clip's file is read.
    on_flash: Open,
    events: Arc<dyn Fn(Event) + Send + Sync>,
    stop: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("device", &self.device).field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Shared {
    async fn run(self: Arc<Self>, door: Option<Door>) {
        let uploader = async {
            match door {
                Some(door) => door.serve().await,
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
            let next = self.gate.shelf.lock().next(self.gate.generation(), now);
            let wait = match next {
                Next::Take(job) => {
                    self.carry(job).await;
                    continue;
                }
                Next::At(due) => due.saturating_sub(now.boot).min(ROUND),
                Next::Idle => ROUND,
            };
            let wait = self.faults.due().map_or(wait, |due| wait.min(due.saturating_sub(now.boot).max(Duration::from_secs(1))));
            select! {
                () = self.gate.shelf.wake.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Sends one clip, in a task of its own that a cut can abort from another thread.
    async fn carry(self: &Arc<Self>, job: Job) {
        let (id, generation, clip, bytes) = (job.id, job.generation, job.facts, job.bytes);
        let shared = self.clone();
        let mut task = tokio::spawn(async move { shared.transfer(&job).await });
        self.gate.sockets.adopt(generation, task.abort_handle());
        let end = loop {
            select! {
                end = &mut task => break end,
                () = self.gate.shelf.wake.notified() => self.sweep(),
                () = sleep(ROUND) => self.sweep(),
            }
        };
        let end = match end {
            Ok(end) => end,
            // Invariant 3 is broken, or something like it: not to be slept over.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // What did not come to an end of its own was aborted by a cut.
            Err(_) => End::Stale,
        };
        self.gate.shelf.lock().settle(id, generation, end.clone(), self.gate.clock.now());
        self.gate.shelf.grown();
        self.faults.name(&self.gate);
        // Told only now: whoever cuts because of a refusal finds the clip waiting for its answer, not in flight.
        if let End::Refused { status, .. } = end {
            self.tell(Event::Refused { status, clip });
        }
        if end == End::Stored {
            tracing::info!(clip = %id, bytes, generation = generation.0, "clip stored");
            *lock(&self.last_fault) = None;
            self.tell(Event::Stored { clip, bytes });
        }
    }

    /// Erases what has grown too old, and lets go of what was erased.
    fn sweep(&self) {
        let mut spool = self.gate.shelf.lock();
        let expired = spool.expire(self.gate.clock.now());
        let (doomed, losses) = spool.sweep();
        let shed = spool.shed();
        drop(spool);
        drop((doomed, shed));
        // What has grown too old goes from flash as well.
        self.gate.shelf.grown();
        if expired.clips > 0 {
            tracing::info!(clips = expired.clips, bytes = expired.bytes, "clips are older than the plan keeps: given up and erased");
        }
        self.faults.lost(&losses, self.gate.clock.now());
        self.faults.name(&self.gate);
        for loss in losses {
            tracing::debug!(bytes = loss.bytes, "clip dropped");
            self.tell(Event::Dropped { clip: loss.clip, bytes: loss.bytes });
        }
    }

    fn tell(&self, event: Event) {
        (self.events)(event);
    }

    fn note_fault(&self, fault: String) {
        *lock(&self.last_fault) = Some(fault);
    }

    fn peers(&self) -> Arc<Peers> {
        lock(&self.peers).clone()
    }

    fn pacer(&self) -> MutexGuard<'_, Pacer> {
        lock(&self.pacer)
    }
}

/// None of these locks is held where a panic could leave half a value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
