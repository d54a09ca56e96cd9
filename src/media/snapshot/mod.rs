//! Snapshots: one picture at the start of an event. With `[media] snapshot_url` it is the JPEG that the camera's firmware gives,
//! fetched on a thread of its own so that no clip waits for it; otherwise, and where the camera gives none, the newest keyframe as
//! an MP4 of one frame. Either goes through the outlet as any clip does.

mod fetch;
pub(super) mod jpeg;

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, SyncSender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use care_protocol::ClipKind;
use portable_atomic::AtomicU64;

use self::fetch::{Jpeg, Service};
pub use self::jpeg::Dimensions;
use super::{Beginning, MediaError, Outlet, Verdict, clip::Moment};
use crate::{
    conditions::{Conditions, Kind},
    config::SnapshotUrl,
};

/// So many snapshots may wait while the camera answers slowly.
const WAITING: usize = 2;

/// How often the camera gave none.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub failed: AtomicU64,
}

/// Where moments go of which a snapshot is wanted.
#[derive(Clone)]
pub(super) struct Snapshots(Arc<Shared>);

struct Shared {
    outlet: Arc<dyn Outlet>,
    counts: Arc<Counts>,
    conditions: Conditions,
    /// Absent: the camera's firmware is not asked.
    queue: Option<SyncSender<Moment>>,
}

impl Snapshots {
    /// Those of the stream alone.
    pub fn of_stream(outlet: Arc<dyn Outlet>, conditions: Conditions) -> Self {
        Self(Arc::new(Shared { outlet, counts: Arc::default(), conditions, queue: None }))
    }

    /// Those that the camera gives at this address. The thread ends once nobody can ask it any more.
    pub fn of_camera(
        url: &SnapshotUrl,
        outlet: Arc<dyn Outlet>,
        counts: Arc<Counts>,
        conditions: Conditions,
    ) -> Result<(Self, JoinHandle<()>), MediaError> {
        let mut service = Service::new(url.clone()).map_err(MediaError::Thread)?;
        let (queue, moments) = mpsc::sync_channel::<Moment>(WAITING);
        let shared = Shared { outlet: outlet.clone(), counts: counts.clone(), conditions: conditions.clone(), queue: None };
        let run = move || moments.iter().for_each(|moment| shared.take(&moment, &mut service));
        let thread = crate::threads::named("media-snapshot").spawn(run).map_err(MediaError::Thread)?;
        Ok((Self(Arc::new(Shared { outlet, counts, conditions, queue: Some(queue) })), thread))
    }

    /// Takes one. Never waits for the camera.
    pub fn take(&self, moment: Moment) {
        let Shared { outlet, queue, .. } = &*self.0;
        // A plan without snapshots costs the camera no request.
        let Some(queue) = queue.as_ref().filter(|_| outlet.tallest_snapshot().is_some()) else { return moment.record(&**outlet) };
        if let Err(mpsc::TrySendError::Full(moment) | mpsc::TrySendError::Disconnected(moment)) = queue.try_send(moment) {
            self.0.fail("others wait for the camera's answer already", &moment);
        }
    }
}

impl Shared {
    fn take(&self, moment: &Moment, service: &mut Service) {
        let Some(tallest) = self.outlet.tallest_snapshot() else { return };
        let asked = Instant::now();
        match service.picture() {
            Ok(Jpeg { dimensions: Dimensions { height, .. }, .. }) if u32::from(height) > tallest => {
                self.fail(&format!("its picture has {height} lines, and the plan allows {tallest}"), moment);
            }
            Ok(picture) => {
                self.conditions.clear(Kind::SnapshotFailing);
                self.send(picture, asked, moment);
            }
            Err(why) => self.fail(&why, moment),
        }
    }

    fn send(&self, Jpeg { bytes, dimensions }: Jpeg, asked: Instant, moment: &Moment) {
        let beginning = Beginning { kind: ClipKind::Snapshot, ago: asked.elapsed(), height: dimensions.height.into() };
        // What was asked for under one account goes to no other.
        if moment.is_erased() {
            return;
        }
        let Some((mut writer, _)) = self.outlet.begin(beginning) else { return };
        if writer.append(bytes, Duration::ZERO) != Verdict::Erased && !moment.is_erased() {
            writer.finish(Duration::ZERO);
        }
    }

    /// The stream has the picture instead.
    fn fail(&self, why: &str, moment: &Moment) {
        let failed = 1 + self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let sentence = format!("the camera gives no snapshot, so a frame of the stream is sent instead ({failed} so far): {why}");
        self.conditions.raise(Kind::SnapshotFailing, sentence);
        moment.record(&*self.outlet);
    }
}

/// Gets one picture, for `check-config`: its size, and how many bytes it takes.
///
/// # Errors
/// Why there is none, without secrets.
pub fn try_snapshot(url: &SnapshotUrl) -> Result<(Dimensions, usize), String> {
    let mut service = Service::new(url.clone()).map_err(|error| error.to_string())?;
    service.picture().map(|picture| (picture.dimensions, picture.bytes.len()))
}
