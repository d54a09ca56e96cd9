//! A clip while it is being recorded: whether it may begin, how long it may get, when a part of it or all of it is
//! complete.

use std::time::Duration;

use bytes::Bytes;
use care_engine::{Admission, Judge, trusted_time::Now};
use care_protocol::{ClipKind, Position};
use uuid::Uuid;

use super::{
    Spool,
    clip::{Clip, State},
    start::trusted_ms,
    troubles::Shortened,
};
use crate::media::{Beginning, Verdict};

/// How long the first part of a clip leaves the uplink to the snapshot of its event, which says more per byte and is still being
/// made when the pre-roll is ready.
const HEAD_START: Duration = Duration::from_millis(300);

impl Spool {
    /// Whether a clip may begin, and how long it may get.
    pub(in crate::upload) fn begin(&mut self, id: Uuid, beginning: Beginning, now: Now) -> Option<Duration> {
        let Admission { record, position, .. } = self.admission;
        let clip = Clip::beginning(id, &beginning, position.epoch, now);
        let now_ms = trusted_ms(now.boot, now);
        let held = self.ledger.clips.iter().filter(|clip| clip.kind != ClipKind::Snapshot).map(|clip| match clip.state {
            // It has not ended yet.
            State::Recording => clip.ended_ms(now).max(now_ms),
            State::Waiting | State::InFlight(_) => clip.ended_ms(now),
        });
        let left = self.ledger.uploaded.iter().map(|clip| clip.started.end_ms(clip.duration, now));
        // Trusted time may be earlier than the end of a clip of an earlier boot, so such a clip does not count here.
        let newest = left.chain(held).filter(|end| *end <= now_ms).max();
        let mut judge = Judge::new(record, position.epoch, now_ms, newest);
        let bound = position != Position::NONE;
        if !bound || !judge.allows(&clip.facts(now)) {
            return None;
        }
        self.ledger.insert(clip);
        Some(Duration::from_secs(record.clip_max_s.into()))
    }

    /// Appends to a clip; [`Verdict::Erased`] if it is no longer in the spool.
    pub(in crate::upload) fn append(&mut self, id: Uuid, fragment: Bytes, duration: Duration, now: Now) -> Verdict {
        let size = fragment.len() as u64;
        self.ledger.grow(id, duration);
        let Some(clip) = self.ledger.recording(id) else { return Verdict::Erased };
        clip.bytes += size;
        clip.fragments.push(fragment);
        if !self.make_room_in_memory(id, now) {
            return Verdict::Erased;
        }
        self.make_way(id, size, now);
        self.limit(id)
    }

    /// How long a clip that is being recorded may get; [`Verdict::Erased`] if it is no longer in the spool.
    pub(in crate::upload) fn limit(&self, id: Uuid) -> Verdict {
        let longest = Duration::from_secs(self.admission.record.clip_max_s.into());
        match self.ledger.clips.iter().find(|clip| clip.clip() == id && clip.state == State::Recording) {
            Some(clip) if clip.full.is_some() => Verdict::Continue { max: longest.min(clip.duration) },
            Some(_) => Verdict::Continue { max: longest },
            None => Verdict::Erased,
        }
    }

    /// The part that is being filmed is complete and waits; `next` begins.
    pub(in crate::upload) fn end_part(&mut self, id: Uuid, sha256: String, next: Uuid, now: Now) {
        let head_start = if self.admission.record.snapshots { HEAD_START } else { Duration::ZERO };
        self.ledger.end_part(id, sha256, next, head_start, now);
    }

    /// The clip is complete and waits. A clip longer than the plan allows is erased.
    pub(in crate::upload) fn finish(&mut self, id: Uuid, duration: Duration, sha256: String, now: Now) {
        let longest = Duration::from_secs(self.admission.keep.clip_max_s.into());
        self.ledger.grow(id, duration);
        let Some(clip) = self.ledger.recording(id) else { return };
        clip.end(sha256, now);
        let (kind, length) = (clip.kind, clip.duration);
        if let (Some(why), true) = (clip.full, kind != ClipKind::Snapshot) {
            self.shortened = Some(Shortened { clips: self.shortened.map_or(0, |shortened| shortened.clips) + 1, why, at: now.boot });
        }
        if kind != ClipKind::Snapshot && length > longest {
            self.ledger.erase(|clip| clip.clip() == id);
        }
    }

    /// The clip will not be finished.
    pub(in crate::upload) fn abandon(&mut self, id: Uuid) {
        self.ledger.abandon(id);
    }
}
