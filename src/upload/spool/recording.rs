//! A clip while it is being recorded: whether it may begin, how long it may get, when it is complete.

use std::time::Duration;

use bytes::Bytes;
use care_engine::{Admission, Judge, trusted_time::Now};
use care_protocol::{ClipKind, Position};
use uuid::Uuid;

use super::{
    Spool,
    clip::{Clip, State},
    start::trusted_ms,
};
use crate::media::{Beginning, Verdict};

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
        let left = self.ledger.uploaded.iter().map(|(start, duration)| start.end_ms(*duration, now));
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
        let Some(clip) = self.ledger.recording(id) else { return Verdict::Erased };
        clip.duration = clip.duration.max(duration);
        clip.bytes += size;
        clip.fragments.push(fragment);
        if !self.make_room_in_memory(id, now) {
            return Verdict::Erased;
        }
        // The next piece is about as large. Ending a clip early is better than dropping it for its last second.
        let fixed: u64 = self.ledger.clips.iter().filter(|clip| !clip.may_be_dropped()).map(Clip::in_memory).sum();
        let full = fixed.saturating_add(2 * size) > self.memory_quota;
        if let Some(clip) = self.ledger.recording(id) {
            clip.full = full;
        }
        self.limit(id)
    }

    /// How long a clip that is being recorded may get; [`Verdict::Erased`] if it is no longer in the spool.
    pub(in crate::upload) fn limit(&self, id: Uuid) -> Verdict {
        let longest = Duration::from_secs(self.admission.record.clip_max_s.into());
        match self.ledger.clips.iter().find(|clip| clip.id == id && clip.state == State::Recording) {
            Some(clip) if clip.full => Verdict::Continue { max: longest.min(clip.duration) },
            Some(_) => Verdict::Continue { max: longest },
            None => Verdict::Erased,
        }
    }

    /// The clip is complete and waits. A clip longer than the plan allows is erased.
    pub(in crate::upload) fn finish(&mut self, id: Uuid, duration: Duration, sha256: String, now: Now) {
        let longest = Duration::from_secs(self.admission.keep.clip_max_s.into());
        let Some(clip) = self.ledger.recording(id) else { return };
        clip.duration = clip.duration.max(duration);
        clip.sha256 = sha256;
        clip.since = now.boot;
        clip.state = State::Waiting;
        if clip.kind != ClipKind::Snapshot && clip.duration > longest {
            self.ledger.erase(|clip| clip.id == id);
        }
    }

    /// The clip will not be finished.
    pub(in crate::upload) fn abandon(&mut self, id: Uuid) {
        self.ledger.abandon(id);
    }
}
