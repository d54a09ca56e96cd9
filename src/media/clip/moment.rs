//! A moment of which a snapshot is wanted: the newest keyframe of each stream at that time, so that the picture is of the event even
//! if it is sent a little later.

use std::{sync::Arc, time::Instant};

use care_protocol::ClipKind;

use super::{Stream, file::Clip, start::AFTER};
use crate::media::{Beginning, Outlet, frame::Frame, ring::Ring};

pub(in crate::media) struct Moment {
    /// The best stream first.
    streams: Vec<Newest>,
}

struct Newest {
    ring: Arc<Ring>,
    /// How often the ring had been erased before the frame was read.
    erasures: u64,
    key: Option<Frame>,
}

impl Moment {
    pub fn of(streams: &[Stream]) -> Self {
        let newest = |stream: &Stream| {
            let (ring, erasures) = (stream.ring.clone(), stream.ring.erasures());
            let key = ring.newest_key().and_then(|at| ring.at(at));
            Newest { ring, erasures, key }
        };
        Self { streams: streams.iter().map(newest).collect() }
    }

    /// When the newest of the keyframes was taken.
    pub(super) fn newest(&self) -> Option<Instant> {
        self.streams.iter().filter_map(|stream| Some(stream.key.as_ref()?.taken)).max()
    }

    /// Whether the picture belongs to an account before.
    pub fn is_erased(&self) -> bool {
        self.streams.iter().any(|stream| stream.ring.erasures() != stream.erasures)
    }

    /// The keyframe of the best stream whose width and height fit.
    #[cfg(feature = "gstreamer")]
    pub fn keyframe(&self, fits: impl Fn(u16, u16) -> bool) -> Option<Frame> {
        let here = |newest: &&Newest| newest.ring.erasures() == newest.erasures;
        let mut keys = self.streams.iter().filter(here).filter_map(|newest| newest.key.as_ref());
        keys.find(|frame| fits(frame.format.width, frame.format.height)).cloned()
    }

    /// Sends the keyframe of the best stream that the outlet allows, as a file of one frame.
    pub fn record(&self, outlet: &dyn Outlet) {
        for Newest { ring, erasures, key } in &self.streams {
            let Some(frame) = key.clone().filter(|_| ring.erasures() == *erasures) else { continue };
            let beginning = Beginning { kind: ClipKind::Snapshot, ago: frame.taken.elapsed(), height: frame.format.height.into() };
            let Some((writer, max)) = outlet.begin(beginning) else { continue };
            // A snapshot that is erased already needs nothing more.
            let picture = Clip::begin(Frame { sound: None, ..frame }, (writer, max.max(AFTER)), ring.clone(), *erasures);
            let _ = picture.identified(outlet.identity(beginning.ago)).finish(None);
            return;
        }
    }
}
