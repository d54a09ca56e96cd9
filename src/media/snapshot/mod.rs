//! Snapshots: one picture at the start of an event. With `[media] snapshot_url` it is the JPEG that the camera's firmware gives;
//! without it, and with GStreamer, one that is made of the newest keyframe. A thread of its own makes it, so that no clip waits for
//! it. Otherwise, and where there is none, it is the keyframe as an MP4 of one frame. All go through the outlet as any clip does.

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

use bytes::Bytes;
use care_protocol::ClipKind;
use portable_atomic::AtomicU64;

use self::fetch::{Jpeg, Service};
pub use self::jpeg::Dimensions;
use super::{Beginning, MediaError, Outlet, Verdict, clip::Moment};
use crate::{
    conditions::{Conditions, Kind},
    config::SnapshotUrl,
};

/// So many snapshots may wait while one is made.
const WAITING: usize = 2;

/// How often there was none.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub failed: AtomicU64,
}

/// Gives JPEGs of moments.
pub(super) trait Stills: Send + 'static {
    /// Begins the sentence that says why there is none.
    const FAILS: &'static str;
    /// What to do about it.
    const ADVICE: &'static str;

    /// The picture, no taller than `tallest` lines if that can be chosen. `None`: a frame of the stream is the picture, and
    /// nothing is wrong.
    ///
    /// # Errors
    /// Why there is none, without secrets.
    fn still(&mut self, moment: &Moment, tallest: u32) -> Result<Option<Still>, String>;
}

/// A JPEG.
#[derive(Debug)]
pub(super) struct Still {
    bytes: Bytes,
    dimensions: Dimensions,
    taken: Instant,
}

impl Still {
    /// # Errors
    /// It is no whole JPEG: completes the sentence "what … gives …".
    #[cfg(feature = "gstreamer")]
    pub fn new(bytes: Bytes, taken: Instant) -> Result<Self, &'static str> {
        jpeg::dimensions(&bytes).map(|dimensions| Self { bytes, dimensions, taken })
    }
}

/// Where snapshots go, and what counts and says how that went.
#[derive(Clone)]
pub(super) struct Target {
    pub outlet: Arc<dyn Outlet>,
    pub counts: Arc<Counts>,
    pub conditions: Conditions,
}

/// Where moments go of which a snapshot is wanted.
#[derive(Clone)]
pub(super) struct Snapshots(Arc<Shared>);

/// And the thread that makes them, if there is one.
pub(super) type Started = (Snapshots, Option<JoinHandle<()>>);

struct Shared {
    target: Target,
    /// [`Stills::FAILS`] and [`Stills::ADVICE`].
    words: (&'static str, &'static str),
    /// Absent: snapshots are frames of the stream.
    queue: Option<SyncSender<Moment>>,
}

impl Snapshots {
    /// Those of the stream alone.
    #[cfg(not(feature = "gstreamer"))]
    pub fn of_stream(target: Target) -> Started {
        (Self(Arc::new(Shared { target, words: ("", ""), queue: None })), None)
    }

    /// Those that the camera gives at this address.
    pub fn of_camera(url: &SnapshotUrl, target: Target) -> Result<Started, MediaError> {
        Self::of(target, Service::new(url.clone()).map_err(MediaError::Thread)?)
    }

    /// JPEGs from there. The thread ends once nobody can ask it any more.
    pub fn of<S: Stills>(target: Target, mut stills: S) -> Result<Started, MediaError> {
        let (queue, moments) = mpsc::sync_channel::<Moment>(WAITING);
        let words = (S::FAILS, S::ADVICE);
        let shared = Shared { target: target.clone(), words, queue: None };
        let run = move || moments.iter().for_each(|moment| shared.take(&moment, &mut stills));
        let thread = crate::threads::named("media-snapshot").spawn(run).map_err(MediaError::Thread)?;
        Ok((Self(Arc::new(Shared { target, words, queue: Some(queue) })), Some(thread)))
    }

    /// Takes one. Never waits for the picture.
    pub fn take(&self, moment: Moment) {
        let Shared { target: Target { outlet, .. }, queue, .. } = &*self.0;
        // A plan without snapshots costs no request, and nothing is decoded.
        let Some(queue) = queue.as_ref().filter(|_| outlet.tallest_snapshot().is_some()) else { return moment.record(&**outlet) };
        if let Err(mpsc::TrySendError::Full(moment) | mpsc::TrySendError::Disconnected(moment)) = queue.try_send(moment) {
            self.0.fail("others wait already", &moment);
        }
    }
}

impl Shared {
    fn take(&self, moment: &Moment, stills: &mut impl Stills) {
        let Some(tallest) = self.target.outlet.tallest_snapshot() else { return };
        match stills.still(moment, tallest) {
            Ok(Some(Still { dimensions: Dimensions { height, .. }, .. })) if u32::from(height) > tallest => {
                self.fail(&format!("its picture has {height} lines, and the plan allows {tallest}"), moment);
            }
            Ok(Some(still)) => {
                self.target.conditions.clear(Kind::SnapshotFailing);
                self.send(still, moment);
            }
            Ok(None) => moment.record(&*self.target.outlet),
            Err(why) => self.fail(&why, moment),
        }
    }

    fn send(&self, Still { bytes, dimensions, taken }: Still, moment: &Moment) {
        let beginning = Beginning { kind: ClipKind::Snapshot, ago: taken.elapsed(), height: dimensions.height.into() };
        // What was asked for under one account goes to no other.
        if moment.is_erased() {
            return;
        }
        let Some((mut writer, _)) = self.target.outlet.begin(beginning) else { return };
        if writer.append(bytes, Duration::ZERO) != Verdict::Erased && !moment.is_erased() {
            writer.finish(Duration::ZERO);
        }
    }

    /// The stream has the picture instead.
    fn fail(&self, why: &str, moment: &Moment) {
        let failed = 1 + self.target.counts.failed.fetch_add(1, Ordering::Relaxed);
        let (fails, advice) = self.words;
        let sentence = format!("{fails}, so a frame of the stream is sent instead ({failed} so far): {why}");
        self.target.conditions.raise_advising(Kind::SnapshotFailing, sentence, advice);
        moment.record(&*self.target.outlet);
    }
}

impl Stills for Service {
    const FAILS: &'static str = "the camera gives no snapshot";
    const ADVICE: &'static str = Kind::SnapshotFailing.advice();

    fn still(&mut self, _: &Moment, _: u32) -> Result<Option<Still>, String> {
        let taken = Instant::now();
        self.picture().map(|Jpeg { bytes, dimensions }| Some(Still { bytes, dimensions, taken }))
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
