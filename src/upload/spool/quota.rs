//! The limits of memory and flash, and which clips are dropped at the limit: the oldest of the lowest class first,
//! never one in flight, and on flash never one of a higher class than the clip that needs the room.

use std::time::Duration;

use care_engine::trusted_time::Now;
use care_protocol::Erased;
use uuid::Uuid;

use super::{
    Spool,
    clip::{Clip, OnFlash, State, class},
    ledger::add,
    troubles::Diagnosis,
};
use crate::{
    backoff::{Delays, Jitter},
    upload::flash::{Facts, WriteBudget, WriteCount},
};

/// After a fault flash is not tried for this long, doubling up to the second value.
const FAULT_PAUSE: Delays = Delays::new(Duration::from_secs(30), Duration::from_secs(15 * 60), Jitter::None);

/// The flash part of the spool: its limits, and the current work of the flash thread.
#[derive(Debug)]
pub(super) struct Flash {
    /// In bytes of files.
    pub(super) quota: u64,
    /// The flash thread is erasing clips and has not reported the result yet.
    pub(super) erasing: bool,
    /// Bytes of files that the flash thread is erasing and has not unlinked yet.
    pub(super) unlinking_bytes: u64,
    /// The clips on flash could not be scanned when the agent started.
    pub(super) unscanned: bool,
    /// The time of the next attempt after a failure.
    pub(super) again: bool,
    pub(super) failures: u32,
    pub(super) not_before: Duration,
    /// Why clips cannot be put there; until one can, or until none waits in memory.
    pub(super) fault: Option<Diagnosis>,
    /// Why erased clips may still be there, or still take room.
    pub(super) erasing_fault: Option<Diagnosis>,
    /// The agent stops: write all clips to flash.
    pub(super) stopping: bool,
    /// The bytes written today, and their limit.
    pub(super) budget: WriteBudget,
    /// Clips wait in memory because no more may be written today.
    pub(super) over_budget: bool,
}

/// Its part of the status document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::upload) struct FlashUse {
    /// Clips that survive a power cut, and the bytes of flash that the spool takes.
    pub(in crate::upload) held: Erased,
    pub(in crate::upload) fault: Option<Diagnosis>,
    /// Bytes written today.
    pub(in crate::upload) written_today: u64,
    /// Clips wait in memory because no more may be written today.
    pub(in crate::upload) over_budget: bool,
}

impl Flash {
    pub(super) fn new(quota: u64, bytes_per_day: u64) -> Self {
        Self {
            quota,
            erasing: false,
            unlinking_bytes: 0,
            unscanned: false,
            again: false,
            failures: 0,
            not_before: Duration::ZERO,
            fault: None,
            erasing_fault: None,
            stopping: false,
            budget: WriteBudget::new(bytes_per_day),
            over_budget: false,
        }
    }

    /// A document that erases takes effect. Clips that could not be scanned cannot be judged by it, so they are erased
    /// too.
    pub(super) fn erase_what_is_not_known(&mut self) {
        self.again |= self.unscanned;
        if self.unscanned {
            self.not_before = Duration::ZERO;
        }
    }

    /// A clip could not be written.
    pub(super) fn failed(&mut self, why: Diagnosis, now: Now) {
        self.pause(now);
        self.fault = Some(why);
    }

    /// An erasure could not be recorded, or a file not be unlinked.
    pub(super) fn erasing_failed(&mut self, why: Diagnosis, now: Now) {
        self.again = true;
        self.pause(now);
        self.erasing_fault = Some(why);
    }

    /// Why flash takes nothing at the moment.
    pub(super) fn current_fault(&self) -> Option<&Diagnosis> {
        self.erasing_fault.as_ref().or(self.fault.as_ref())
    }

    fn pause(&mut self, now: Now) {
        let pause = FAULT_PAUSE.after(self.failures);
        self.failures += 1;
        self.not_before = if self.stopping { Duration::MAX } else { now.boot + pause };
    }

    /// A clip was written.
    pub(super) fn succeeded(&mut self) {
        self.fault = None;
        self.erased();
    }

    /// Nothing that was erased is there. Full or worn flash can still unlink, so this says nothing of writing.
    pub(super) fn erased(&mut self) {
        self.erasing_fault = None;
        if self.fault.is_none() {
            self.failures = 0;
        }
    }
}

impl Spool {
    /// Drops the oldest of the lowest class until all fits: never the clip that is being written, unless it alone is
    /// too large. Returns whether that clip is still in the spool.
    pub(super) fn make_room_in_memory(&mut self, writing: Uuid, now: Now) -> bool {
        while self.ledger.memory() > self.memory_quota {
            let recorded = self.ledger.being_recorded();
            let goes = |(_, clip): &(usize, &Clip)| clip.may_be_dropped() && !recorded.contains(&clip.clip());
            let droppable = self.ledger.clips.iter().enumerate().filter(goes);
            let first = droppable.min_by_key(|(index, clip)| (class(clip.kind), *index)).map(|(index, _)| index);
            // Only clips being sent, recorded and written are left: the newest must go.
            let index =
                first.or_else(|| self.ledger.clips.iter().position(|clip| clip.clip() == writing && clip.state == State::Recording));
            let Some(index) = index else { return false };
            if self.ledger.drop_clip(index, now) == writing {
                return false;
            }
        }
        true
    }

    /// Drops clips so that `more` bytes of the one at `index` fit. `None` if there is no room for them; then nothing is
    /// dropped.
    pub(super) fn make_room_on_flash(&mut self, index: usize, more: u64, now: Now) -> Option<Uuid> {
        let id = self.ledger.clips[index].id;
        for going in self.what_gives_way(index, more)? {
            if let Some(index) = self.ledger.clips.iter().position(|clip| clip.id == going) {
                self.ledger.drop_clip(index, now);
            }
        }
        Some(id)
    }

    /// What gives way on flash to `more` bytes of the clip at `index`: the oldest of the lowest class, never a clip that is
    /// of a higher class, in flight, or being written. `None` if that is not enough.
    pub(super) fn what_gives_way(&self, index: usize, more: u64) -> Option<Vec<Uuid>> {
        let clip = &self.ledger.clips[index];
        let (whole, worth) = (clip.clip(), (class(clip.kind), index));
        let needed =
            (self.ledger.on_flash() + more + self.flash.unlinking_bytes + self.ledger.unerased_bytes()).saturating_sub(self.flash.quota);
        let less = |(index, clip): &(usize, &Clip)| {
            let there = matches!(clip.flash, OnFlash::Yes | OnFlash::Stuck(_));
            clip.state == State::Waiting && there && clip.clip() != whole && (class(clip.kind), *index) < worth
        };
        let mut victims: Vec<_> = self.ledger.clips.iter().enumerate().filter(less).collect();
        victims.sort_by_key(|(index, clip)| (class(clip.kind), *index));
        let mut freed = 0;
        let going: Vec<Uuid> = victims
            .into_iter()
            .map_while(|(_, clip)| {
                let go = freed < needed;
                freed += if go { clip.on_flash() } else { 0 };
                go.then_some(clip.id)
            })
            .collect();
        (freed >= needed).then_some(going)
    }

    /// Adds the clips found on flash at the start. None of them leaves before a document has judged it. Clips beyond
    /// the quota, which may have been lowered, are dropped.
    pub(in crate::upload) fn restore(&mut self, found: Vec<Facts>, now: Now) {
        self.ledger.restore(found.into_iter().filter_map(|facts| Clip::found(facts, now)), now);
        while self.ledger.on_flash() > self.flash.quota {
            let lowest = self.ledger.clips.iter().enumerate().min_by_key(|(index, clip)| (class(clip.kind), *index));
            let Some((index, _)) = lowest else { break };
            self.ledger.drop_clip(index, now);
        }
    }

    /// Takes in the write count of earlier runs.
    pub(in crate::upload) fn remember_written(&mut self, written: WriteCount) {
        self.flash.budget.remember(written);
    }

    /// The write count, including the write of the last chore.
    pub(in crate::upload) fn written(&self) -> WriteCount {
        self.flash.budget.written()
    }

    /// The clips on flash could not be scanned: they never leave, and are erased at the first opportunity.
    pub(in crate::upload) fn not_restored(&mut self, why: Diagnosis, now: Now) {
        self.flash.unscanned = true;
        self.flash.pause(now);
        self.flash.erasing_fault = Some(why);
    }

    /// How much of flash is used.
    pub(in crate::upload) fn flash_use(&self) -> FlashUse {
        let clips = self.ledger.clips.iter().filter(|clip| clip.flash == OnFlash::Yes).count() as u32;
        FlashUse {
            held: Erased { clips, bytes: self.ledger.on_flash() + self.flash.unlinking_bytes + self.ledger.unerased_bytes() },
            fault: self.flash.current_fault().cloned(),
            written_today: self.flash.budget.today(),
            over_budget: self.flash.over_budget,
        }
    }

    /// Counts a clip that could not be read as dropped.
    pub(in crate::upload) fn lost_unreadable(&mut self, clips: u32) {
        self.ledger.tally.dropped = add(self.ledger.tally.dropped, Erased { clips, bytes: 0 });
    }
}
