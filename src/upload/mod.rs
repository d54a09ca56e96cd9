//! Uploads clips to the cloud. Media records into the [`Gate`], the engine opens and cuts it, and the uploads' thread
//! sends what may leave: one clip, or part of one, at a time, which keeps the pace exact and the memory small. Nothing
//! here decides about plans. Results are reported as [`Event`]s.
//!
//! Clips wait in memory (`[spool] memory_bytes`) and, if necessary, on flash (`flash_bytes`, [`flash`]), which has its
//! own thread. A clip that outgrows memory is written there while it is filmed.
//!
//! Where the vendor's own program uploads the clips, the gate controls that too ([`vendor`]).

mod body;
mod content;
mod event;
mod failure;
mod faults;
mod flash;
mod gate;
mod grant;
mod kept;
pub(crate) mod kernel;
mod pacing;
mod recording;
mod settings;
mod socket;
mod spool;
#[cfg(test)]
mod tests;
mod transfer;
pub mod vendor;
mod worker;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use care_engine::Generation;
use care_protocol::Erased;
use tokio::{runtime, sync::Notify};

pub(crate) use self::grant::is_local;
use self::{
    content::Open,
    faults::Faults,
    flash::{ClipFile, Files, Opener, flash_fault},
    pacing::Pacer,
    vendor::{Listener, UploaderStatus},
    worker::Shared,
};
pub use self::{
    event::Event,
    flash::erase_spool,
    gate::Gate,
    settings::{Peers, Settings, Store},
    transfer::Flight,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::{flash::hostile_spool, grant::hostile_grant};
use crate::{clock::Clock, config, store::filesystem::Directory};

/// The status of uploads, as the status document shows it.
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
    /// Why clips cannot be written to flash; absent if they can.
    pub flash_fault: Option<String>,
    /// Bytes that the spool has written to flash today, in whole pages.
    pub flash_written_today: u64,
    /// Clips and bytes stored in the cloud since the start.
    pub stored: Erased,
    /// Clips and bytes erased because the plan does not allow them, since the start.
    pub erased: Erased,
    /// Clips and bytes dropped to make room for newer ones, since the start.
    pub dropped: Erased,
    /// Those of them whose bytes are being sent.
    pub flights: Vec<Flight>,
    /// The pace of transfers, bytes of payload a second.
    pub pace: u64,
    /// The kernel feature missing for that pace; absent if none is missing.
    pub pace_fault: Option<String>,
    /// The last reason why a clip was not stored.
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

/// Scans the clips on flash, then starts the uploads' thread and the flash thread, with the gate closed. `events` is
/// called on them.
///
/// # Errors
///
/// The kernel refuses a thread or the descriptors for a runtime, or the socket for a vendor's uploader cannot be
/// created.
pub fn start(settings: Settings, clock: Clock, events: impl Fn(Event) + Send + Sync + 'static) -> io::Result<Uploads> {
    let Settings { device, spool, spool_dir, upload, peers, uploader, conditions } = settings;
    let runtime = runtime::Builder::new_current_thread().thread_stack_size(crate::threads::STACK_BYTES).enable_all().build()?;
    let events: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(events);
    let listener = uploader.map(|path| {
        let _inside = runtime.enter();
        let events = events.clone();
        Listener::open(&path, clock.clone(), move |event| events(event))
    });
    let listener = listener.transpose()?;
    let gate = Arc::new(Gate::new(&spool, listener.as_ref().map(Listener::vendor), clock).of(&device));
    gate.leave_while_recording(upload.while_recording);
    let open_dir: Opener<Directory> = {
        let dir = spool_dir.clone();
        Arc::new(move || Directory::open(&dir))
    };
    let mut files = Files::new(open_dir.clone());
    // A camera that never used flash gets no directory for it.
    if spool.flash_bytes > 0 || spool_dir.exists() {
        find_clips(&mut files, &gate);
    }
    let on_flash: Open = Arc::new(move |id| ClipFile::open(&open_dir()?, id));
    let shared = Arc::new(Shared {
        gate,
        device,
        peers: Mutex::new(Arc::new(peers)),
        pacer: Mutex::new(Pacer::new(upload.uplink_kbps)),
        kept: Mutex::new(None),
        flights: Mutex::default(),
        last_fault: Mutex::new(None),
        faults: Faults::new(conditions),
        on_flash,
        events,
        stop: Notify::new(),
    });
    // Carries nothing: both ends drop when their threads have ended.
    let (end, ended) = mpsc::channel();
    let (on_thread, on_end) = (shared.clone(), end.clone());
    crate::threads::named("uploads").spawn(move || {
        runtime.block_on(on_thread.run(listener));
        // A hanging resolver must not delay the shutdown.
        runtime.shutdown_background();
        drop(on_end);
    })?;
    let on_thread = shared.clone();
    crate::threads::named("flash").spawn(move || {
        flash::thread::run(files, &on_thread.gate, |event| on_thread.emit(event));
        drop(end);
    })?;
    Ok(Uploads { shared, ended })
}

/// Loads the clips that the last run left on flash. Nothing runs yet, so this may block, as reading the state does.
fn find_clips(files: &mut Files<Directory>, gate: &Gate) {
    let now = gate.clock.now();
    match files.scan() {
        Ok(scan) => {
            let mut spool = gate.spool.lock();
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
            gate.spool.lock().not_restored(flash_fault("the spool on flash cannot be looked at, and clips wait in memory", &why), now);
        }
    }
}

impl Uploads {
    /// The gate.
    pub fn gate(&self) -> Arc<Gate> {
        self.shared.gate.clone()
    }

    /// The status of uploads.
    pub fn status(&self) -> UploadStatus {
        let spool = self.shared.gate.spool.lock();
        let (tally, flash) = (spool.tally(), spool.flash_use());
        UploadStatus {
            generation: self.shared.gate.generation(),
            transfers: spool.in_flight(),
            flights: lock(&self.shared.flights).clone(),
            spool: spool.held(),
            memory_bytes: spool.memory(),
            flash: flash.held,
            flash_fault: flash.fault.map(|fault| fault.sentence),
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

    /// Uses these servers from the next grant on (SIGHUP: other certificates).
    pub fn set_peers(&self, peers: Peers) {
        *lock(&self.shared.peers) = Arc::new(peers);
    }

    /// Paces by this uplink from the next transfer on (0: estimates it afresh), and lets clips leave whole or in parts from
    /// the next clip on.
    pub fn configure(&self, upload: &config::Upload) {
        *self.shared.pacer() = Pacer::new(upload.uplink_kbps);
        self.shared.gate.leave_while_recording(upload.while_recording);
    }

    /// Writes waiting clips to flash from now on, each as soon as it is complete: the agent is about to stop.
    pub fn spill(&self) {
        self.shared.gate.spool.lock().spill_all();
        self.shared.gate.spool.changed();
    }

    /// Updates the conditions after a change outside the uploads' thread: a vendor's uploader has connected or
    /// disconnected.
    pub fn look(&self) {
        self.shared.gate.spool.changed();
    }

    /// Closes the gate, aborts what is in flight, writes the waiting clips to flash and ends the threads; waits for
    /// them at most `deadline`. Clips that are not on flash by then are lost.
    pub fn stop(self, deadline: Duration) {
        self.shared.gate.cut(None);
        self.shared.stop.notify_one();
        self.spill();
        self.shared.gate.spool.end();
        if self.ended.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the threads of uploads and flash did not end in time");
        }
        let spool = self.shared.gate.spool.lock();
        let lost = spool.held().clips - spool.flash_use().held.clips;
        if lost > 0 {
            tracing::warn!(clips = lost, "clips that waited in memory are lost");
        }
    }
}

/// No panic can leave a half-written value under these locks, so the poison flag can be ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
