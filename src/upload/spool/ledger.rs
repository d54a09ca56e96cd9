//! The list of clips, and the result for those that were removed. A removed clip leaves two things behind: its memory,
//! which the uploads' thread frees outside the lock, and its file, which the flash thread erases. The ledger keeps
//! both lists; it takes no decisions.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    time::Duration,
};

use bytes::Bytes;
use care_engine::trusted_time::Now;
use care_protocol::{ClipKind, Erased};
use uuid::Uuid;

use super::{
    clip::{Clip, Dropped, OnFlash, Passed, State},
    start::Start,
};

/// How many uploaded clips are remembered for the cooldown.
const UPLOADED: usize = 64;

/// The counts of stored, erased and dropped clips since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::upload) struct Tally {
    pub(in crate::upload) stored: Erased,
    pub(in crate::upload) erased: Erased,
    pub(in crate::upload) dropped: Erased,
}

/// The clips.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Oldest first.
    pub(super) clips: Vec<Clip>,
    /// The newest clips that were uploaded, at least in part.
    pub(super) uploaded: VecDeque<Passed>,
    /// Removed from `clips`: they can no longer be sent. The uploads' thread frees their memory.
    removed: Vec<Clip>,
    /// Those of `removed` that were dropped to make room for newer ones, to be reported.
    dropped: Vec<Dropped>,
    /// Removed clips with data on flash, and how many bytes; not yet passed to the flash thread.
    pub(super) unerased: Vec<(Uuid, u64)>,
    pub(super) tally: Tally,
}

impl Ledger {
    /// Clips and bytes held, in memory and on flash.
    pub(super) fn held(&self) -> Erased {
        sum(&self.clips)
    }

    /// Bytes of memory that clips use.
    pub(super) fn memory(&self) -> u64 {
        self.clips.iter().map(Clip::in_memory).sum()
    }

    /// Bytes of memory that clips use and cannot give back at once: those being recorded, written and sent.
    pub(super) fn fixed_memory(&self) -> u64 {
        let recorded = self.being_recorded();
        let stays = |clip: &&Clip| !clip.may_be_dropped() || recorded.contains(&clip.clip());
        self.clips.iter().filter(stays).map(Clip::in_memory).sum()
    }

    /// Bytes of flash that clips use or are about to use.
    pub(super) fn on_flash(&self) -> u64 {
        self.clips.iter().map(Clip::on_flash).sum()
    }

    /// Bytes of files whose clips are removed, not yet passed to the flash thread.
    pub(super) fn unerased_bytes(&self) -> u64 {
        self.unerased.iter().map(|(_, bytes)| bytes).sum()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.clips.iter().filter(|clip| matches!(clip.state, State::InFlight(_))).count() as u32
    }

    /// The clip of this id while it is being recorded, or the part of it that is.
    pub(super) fn recording(&mut self, clip: Uuid) -> Option<&mut Clip> {
        self.clips.iter_mut().find(|entry| entry.clip() == clip && entry.state == State::Recording)
    }

    /// The clips being recorded.
    pub(super) fn being_recorded(&self) -> BTreeSet<Uuid> {
        self.clips.iter().filter(|clip| clip.state == State::Recording).map(Clip::clip).collect()
    }

    /// The part of this clip that is filmed now ends, and the next one, `next`, begins. The first one leaves no sooner than
    /// `head_start` after it began.
    pub(super) fn end_part(&mut self, clip: Uuid, sha256: String, next: Uuid, head_start: Duration, now: Now) {
        if let Some(part) = self.recording(clip) {
            if part.part.is_none() && part.kind == ClipKind::Motion {
                part.not_before = part.since.saturating_add(head_start);
            }
            let following = part.end_part(sha256, next, now);
            self.insert(following);
        }
    }

    /// Whether this is a part whose predecessor is held, and not on flash.
    pub(super) fn follows_memory(&self, index: usize) -> bool {
        let part = &self.clips[index];
        part.part.is_some() && self.clips[..index].iter().any(|other| other.clip() == part.clip() && other.flash != OnFlash::Yes)
    }

    /// The clip, parts of which may wait already, is this long by now.
    pub(super) fn grow(&mut self, clip: Uuid, duration: Duration) {
        for entry in self.clips.iter_mut().filter(|entry| entry.clip() == clip) {
            entry.duration = entry.duration.max(duration);
        }
    }

    /// Adds clips that an earlier run left on flash. The parts of one clip get the same beginning and length, whatever was
    /// known when each was written. A part whose predecessor could not be read is dropped with all that follow.
    pub(super) fn restore(&mut self, found: impl Iterator<Item = Clip>, now: Now) {
        let mut wholes: BTreeMap<Uuid, (Start, Duration)> = BTreeMap::new();
        let found: Vec<Clip> = found.collect();
        for clip in &found {
            let (started, duration) = wholes.entry(clip.clip()).or_insert((clip.started, clip.duration));
            (*started, *duration) = ((*started).min(clip.started), (*duration).max(clip.duration));
        }
        self.clips.extend(found.into_iter().map(|mut clip| {
            if let Some(&(started, duration)) = wholes.get(&clip.clip()) {
                (clip.started, clip.duration) = (started.lasting(duration), duration);
            }
            clip
        }));
        self.clips.sort_by_key(|clip| (clip.started, clip.clip(), clip.part.map(|part| part.index)));
        let follows = |pair: &[Clip]| match (pair[0].part, pair[1].part) {
            (Some(a), Some(b)) if a.clip == b.clip => b.index == a.index.saturating_add(1),
            _ => true,
        };
        while let Some(gap) = self.clips.windows(2).position(|pair| !follows(pair)) {
            self.drop_clip(gap + 1, now);
        }
    }

    /// Inserts a clip in order of age, behind its earlier parts.
    pub(super) fn insert(&mut self, clip: Clip) {
        let place = self.clips.partition_point(|other| other.started <= clip.started);
        self.clips.insert(place, clip);
    }

    /// Erases every clip for which `forbidden` returns true, called oldest first.
    pub(super) fn erase(&mut self, mut forbidden: impl FnMut(&Clip) -> bool) -> Erased {
        let (erased, kept): (Vec<Clip>, Vec<Clip>) = mem::take(&mut self.clips).into_iter().partition(|clip| forbidden(clip));
        self.clips = kept;
        let sum = sum(&erased);
        self.tally.erased = add(self.tally.erased, sum);
        erased.into_iter().for_each(|clip| self.remove(clip));
        sum
    }

    /// Drops a clip because there is no room or it cannot be read, or this part of it and all that follow: without it
    /// they do not play. Returns the clip's id.
    pub(super) fn drop_clip(&mut self, index: usize, now: Now) -> Uuid {
        let (clip, place) = (self.clips[index].clip(), self.clips[index].part.map(|part| part.index));
        let goes = |entry: &Clip| entry.clip() == clip && entry.part.map(|part| part.index) >= place;
        let (gone, kept): (Vec<Clip>, Vec<Clip>) = mem::take(&mut self.clips).into_iter().partition(goes);
        self.clips = kept;
        let sum = sum(&gone);
        self.tally.dropped = add(self.tally.dropped, sum);
        self.dropped.extend(gone.first().map(|first| Dropped { bytes: sum.bytes, ..first.as_dropped(now) }));
        gone.into_iter().for_each(|clip| self.remove(clip));
        clip
    }

    /// The store has this clip, or this part of it. A clip counts once it is there whole.
    pub(super) fn stored(&mut self, index: usize) {
        let clip = self.clips.remove(index);
        let whole = clip.part.is_none_or(|part| part.last);
        self.tally.stored = add(self.tally.stored, Erased { clips: u32::from(whole), bytes: clip.bytes });
        if clip.kind != ClipKind::Snapshot {
            self.uploaded.retain(|other| other.clip != clip.clip());
            self.uploaded.push_back(Passed::of(&clip));
            if self.uploaded.len() > UPLOADED {
                self.uploaded.pop_front();
            }
        }
        self.remove(clip);
    }

    /// Discards a clip that will not be finished, or the part of it that is being filmed; no counter includes it.
    pub(super) fn abandon(&mut self, clip: Uuid) {
        if let Some(index) = self.clips.iter().position(|entry| entry.clip() == clip && entry.state == State::Recording) {
            let clip = self.clips.remove(index);
            self.remove(clip);
        }
    }

    fn remove(&mut self, clip: Clip) {
        if clip.may_have_file() {
            self.unerased.push((clip.id, clip.on_flash()));
        }
        self.removed.push(clip);
    }

    /// The clips that the uploads' thread has to free, and those dropped because there was no room.
    pub(super) fn sweep(&mut self) -> (Vec<Clip>, Vec<Dropped>) {
        (mem::take(&mut self.removed), mem::take(&mut self.dropped))
    }

    /// Memory of clips that are on flash and not in flight: to be freed outside the lock.
    pub(super) fn take_spilled(&mut self) -> Vec<Bytes> {
        let spilled = self.clips.iter_mut().filter(|clip| clip.flash == OnFlash::Yes && clip.state == State::Waiting);
        spilled.flat_map(|clip| mem::take(&mut clip.fragments)).collect()
    }
}

/// Parts of one clip count as one.
fn sum(clips: &[Clip]) -> Erased {
    let ids: BTreeSet<Uuid> = clips.iter().map(Clip::clip).collect();
    Erased { clips: ids.len() as u32, bytes: clips.iter().map(|clip| clip.bytes).sum() }
}

/// Two counts in one.
pub(super) fn add(a: Erased, b: Erased) -> Erased {
    Erased { clips: a.clips + b.clips, bytes: a.bytes + b.bytes }
}
