//! The list of clips, and the result for those that were removed. A removed clip leaves two things behind: its memory,
//! which the uploads' thread frees outside the lock, and its file, which the flash thread erases. The ledger keeps
//! both lists; it takes no decisions.

use std::{collections::VecDeque, mem, time::Duration};

use bytes::Bytes;
use care_engine::trusted_time::Now;
use care_protocol::{ClipKind, Erased};
use uuid::Uuid;

use super::{
    clip::{Clip, Dropped, OnFlash, State},
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
    /// Starts and lengths of the newest clips that were uploaded.
    pub(super) uploaded: VecDeque<(Start, Duration)>,
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

    /// The clip of this id while it is being recorded.
    pub(super) fn recording(&mut self, id: Uuid) -> Option<&mut Clip> {
        self.clips.iter_mut().find(|clip| clip.id == id && clip.state == State::Recording)
    }

    /// Inserts a clip in order of age.
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

    /// Drops a clip because there is no room or it cannot be read; returns its id.
    pub(super) fn drop_clip(&mut self, index: usize, now: Now) -> Uuid {
        let clip = self.clips.remove(index);
        let (id, dropped) = (clip.id, clip.as_dropped(now));
        self.tally.dropped = add(self.tally.dropped, Erased { clips: 1, bytes: dropped.bytes });
        self.dropped.push(dropped);
        self.remove(clip);
        id
    }

    /// The store has this clip.
    pub(super) fn stored(&mut self, index: usize) {
        let clip = self.clips.remove(index);
        self.tally.stored = add(self.tally.stored, Erased { clips: 1, bytes: clip.bytes });
        if clip.kind != ClipKind::Snapshot {
            self.uploaded.push_back((clip.started, clip.duration));
            if self.uploaded.len() > UPLOADED {
                self.uploaded.pop_front();
            }
        }
        self.remove(clip);
    }

    /// Discards a clip that will not be finished; no counter includes it.
    pub(super) fn abandon(&mut self, id: Uuid) {
        if let Some(index) = self.clips.iter().position(|clip| clip.id == id && clip.state == State::Recording) {
            let clip = self.clips.remove(index);
            self.remove(clip);
        }
    }

    fn remove(&mut self, clip: Clip) {
        if clip.flash != OnFlash::No {
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

fn sum(clips: &[Clip]) -> Erased {
    Erased { clips: clips.len() as u32, bytes: clips.iter().map(|clip| clip.bytes).sum() }
}

/// Two counts in one.
pub(super) fn add(a: Erased, b: Erased) -> Erased {
    Erased { clips: a.clips + b.clips, bytes: a.bytes + b.bytes }
}
