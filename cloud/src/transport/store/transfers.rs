//! The uploads under way and the last ones that ended.
//!
//! **What the store counts.** For every PUT: the body bytes it has read in all, since the new document was handed to
//! the broker (`after_published`), and since the camera's report of that document arrived (`after_reported`).

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use crate::clock::now_us;
use care_protocol::{DeviceId, Position};
use serde::Serialize;
use tokio::sync::watch;

const FINISHED_KEPT: usize = 256;

/// Those that are known.
#[derive(Debug, Clone, Default)]
pub struct Transfers {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<String, Arc<Transfer>>,
    finished: VecDeque<Arc<Transfer>>,
}

/// One upload as the store sees it.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) grant: String,
    pub(super) clip: String,
    kind: String,
    pub(super) device: DeviceId,
    position: Position,
    expected: u64,
    began: i64,
    ended: AtomicI64,
    pub(super) received: AtomicU64,
    /// Bytes received when a newer document was published and when the camera reported it; [`NEVER`] before.
    at_published: AtomicU64,
    at_reported: AtomicU64,
    pub(super) stored: AtomicBool,
    pub(super) revoked: watch::Sender<bool>,
}

const NEVER: u64 = u64::MAX;

/// The figures of one upload, for the portal and the demo.
#[derive(Debug, Clone, Serialize)]
pub struct TransferView {
    /// The clip.
    pub clip: String,
    /// `motion`, `snapshot` or `manual`.
    pub kind: String,
    /// The camera.
    pub device: DeviceId,
    /// The document it was granted under.
    pub granted_under: Position,
    /// Body bytes read so far.
    pub received: u64,
    /// The clip's size.
    pub expected: u64,
    /// Microseconds since 1970.
    pub began_us: i64,
    /// Microseconds since 1970, once it has ended.
    pub ended_us: Option<i64>,
    /// Its grant was revoked.
    pub revoked: bool,
    /// The clip was complete and kept.
    pub stored: bool,
    /// Bytes read after a newer document was published; `None` if there was none.
    pub after_published: Option<u64>,
    /// Bytes read after the camera's report of a newer document arrived; `None` if none did.
    pub after_reported: Option<u64>,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the uploads of these grants.
    pub fn revoke(&self, grants: &[String]) {
        let table = self.lock();
        for transfer in grants.iter().filter_map(|grant| table.open.get(grant)) {
            transfer.revoked.send_replace(true);
        }
    }

    /// The grants that are being used.
    pub fn open_grants(&self) -> Vec<String> {
        self.lock().open.keys().cloned().collect()
    }

    /// A document of this position was handed to the broker: older uploads are counted from here.
    pub fn mark_published(&self, device: &DeviceId, position: Position) {
        self.mark(device, position, |transfer| &transfer.at_published);
    }

    /// The camera has reported this position.
    pub fn mark_reported(&self, device: &DeviceId, position: Position) {
        self.mark(device, position, |transfer| &transfer.at_reported);
    }

    fn mark(&self, device: &DeviceId, position: Position, which: impl Fn(&Transfer) -> &AtomicU64) {
        for transfer in self.lock().open.values().filter(|t| t.device == *device && t.position < position) {
            let received = transfer.received.load(Ordering::SeqCst);
            // The first mark counts; one that is there already stays.
            let _ = which(transfer).compare_exchange(NEVER, received, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Every upload that is known, newest last.
    pub fn view(&self) -> Vec<TransferView> {
        let table = self.lock();
        let mut all: Vec<_> = table.finished.iter().chain(table.open.values()).map(|transfer| transfer.view()).collect();
        all.sort_by_key(|view| view.began_us);
        all
    }

    /// Lists a transfer as open; `None` if its grant is in use already.
    pub(super) fn open(&self, transfer: Transfer) -> Option<OpenTransfer> {
        let transfer = Arc::new(transfer);
        let mut table = self.lock();
        if table.open.contains_key(&transfer.grant) {
            return None;
        }
        table.open.insert(transfer.grant.clone(), transfer.clone());
        drop(table);
        Some(OpenTransfer { transfers: self.clone(), transfer })
    }
}

impl Transfer {
    /// One that begins now.
    pub(super) fn begin(grant: String, clip: String, kind: String, device: DeviceId, position: Position, expected: u64) -> Self {
        Self {
            grant,
            clip,
            kind,
            device,
            position,
            expected,
            began: now_us(),
            ended: AtomicI64::new(0),
            received: AtomicU64::new(0),
            at_published: AtomicU64::new(NEVER),
            at_reported: AtomicU64::new(NEVER),
            stored: AtomicBool::new(false),
            revoked: watch::Sender::new(false),
        }
    }

    /// Its grant was revoked before it began: all its bytes count as after the change.
    pub(super) fn was_revoked(&self) {
        self.revoked.send_replace(true);
        self.at_published.store(0, Ordering::SeqCst);
        self.at_reported.store(0, Ordering::SeqCst);
    }

    fn view(&self) -> TransferView {
        let received = self.received.load(Ordering::SeqCst);
        let since = |mark: &AtomicU64| match mark.load(Ordering::SeqCst) {
            NEVER => None,
            mark => Some(received.saturating_sub(mark)),
        };
        let ended = self.ended.load(Ordering::SeqCst);
        TransferView {
            clip: self.clip.clone(),
            kind: self.kind.clone(),
            device: self.device.clone(),
            granted_under: self.position,
            received,
            expected: self.expected,
            began_us: self.began,
            ended_us: (ended != 0).then_some(ended),
            revoked: *self.revoked.borrow(),
            stored: self.stored.load(Ordering::SeqCst),
            after_published: since(&self.at_published),
            after_reported: since(&self.at_reported),
        }
    }
}

/// A transfer that is listed as open; dropping this lists it as finished.
#[derive(Debug)]
pub(super) struct OpenTransfer {
    transfers: Transfers,
    pub(super) transfer: Arc<Transfer>,
}

impl Drop for OpenTransfer {
    fn drop(&mut self) {
        self.transfer.ended.store(now_us(), Ordering::SeqCst);
        let mut table = self.transfers.lock();
        table.open.remove(&self.transfer.grant);
        if table.finished.len() >= FINISHED_KEPT {
            table.finished.pop_front();
        }
        table.finished.push_back(self.transfer.clone());
    }
}
