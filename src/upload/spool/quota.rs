//! How much memory and flash clips may take, and which of them give way: the oldest of the lowest class first, never one that
//! is in flight, and on flash never one that is worth more than what takes its room.

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
    upload::flash::{Facts, HEADER_BYTES, WriteBudget, WriteCount},
};

/// After a fault the flash is left alone this long, doubling up to the second.
const FAULT_PAUSE: Delays = Delays::new(Duration::from_secs(30), Duration::from_secs(15 * 60), Jitter::None);

/// The flash part of the spool: its limits, and what the flash thread is at.
#[derive(Debug)]
pub(super) struct Flash {
    /// In bytes of files.
    pub(super) quota: u64,
    /// The flash thread has been told to erase something and has not come back yet.
    pub(super) erasing: bool,
    /// Bytes of files that the flash thread was told to erase and has not unlinked yet.
    pub(super) unlinking_bytes: u64,
    /// What lies on flash could not be looked at when the agent started.
    pub(super) unscanned: bool,
    /// Once more, because it failed.
    pub(super) again: bool,
    pub(super) failures: u32,
    pub(super) not_before: Duration,
    pub(super) fault: Option<Diagnosis>,
    /// Everything goes to flash now.
    pub(super) stopping: bool,
    /// What was written, and how much may be.
    pub(super) budget: WriteBudget,
    /// Clips wait in memory because no more may be written today.
    pub(super) over_budget: bool,
}

/// What people see of it.
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
            stopping: false,
            budget: WriteBudget::new(bytes_per_day),
            over_budget: false,
        }
    }

    /// A document erases, and what it would say of clips that nobody could look at is not known: they are erased too.
    pub(super) fn erase_what_is_not_known(&mut self) {
        self.again |= self.unscanned;
        if self.unscanned {
            self.not_before = Duration::ZERO;
        }
    }

    pub(super) fn failed(&mut self, why: Diagnosis, now: Now) {
        let pause = FAULT_PAUSE.after(self.failures);
        self.failures += 1;
        self.not_before = if self.stopping { Duration::MAX } else { now.boot + pause };
        self.fault = Some(why);
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.fault = None;
    }
}

impl Spool {
    /// Drops the oldest of the lowest class until all fits: never the clip that is being written, unless it alone is too
    /// much. Whether that clip is still here.
    pub(super) fn make_room_in_memory(&mut self, writing: Uuid, now: Now) -> bool {
        while self.ledger.memory() > self.memory_quota {
            let droppable = self.ledger.clips.iter().enumerate().filter(|(_, clip)| clip.may_be_dropped());
            let first = droppable.min_by_key(|(index, clip)| (class(clip.kind), *index)).map(|(index, _)| index);
            // Only clips being sent, recorded and written are left: the newest must go.
            let index = first.or_else(|| self.ledger.clips.iter().position(|clip| clip.id == writing));
            let Some(index) = index else { return false };
            if self.ledger.drop_clip(index, now) == writing {
                return false;
            }
        }
        true
    }

    /// Drops what must go so that the clip at `index` fits: the oldest of the lowest class, never a clip that is worth more
    /// than it, is on its way, or is being written. `None` if there is no room for it; then nothing is dropped.
    pub(super) fn make_room_on_flash(&mut self, index: usize, now: Now) -> Option<Uuid> {
        let clip = &self.ledger.clips[index];
        let (id, worth) = (clip.id, (class(clip.kind), index));
        let needed = (self.ledger.on_flash() + clip.bytes + HEADER_BYTES + self.flash.unlinking_bytes + self.ledger.unerased_bytes())
            .saturating_sub(self.flash.quota);
        let less = |(index, clip): &(usize, &Clip)| {
            clip.state == State::Waiting && clip.flash == OnFlash::Yes && (class(clip.kind), *index) < worth
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
        if freed < needed {
            return None;
        }
        for id in going {
            if let Some(index) = self.ledger.clips.iter().position(|clip| clip.id == id) {
                self.ledger.drop_clip(index, now);
            }
        }
        Some(id)
    }

    /// Takes in what was found on flash at the start. Nothing of it leaves before a document has judged it. What exceeds the
    /// quota, which may have been made smaller, is dropped.
    pub(in crate::upload) fn restore(&mut self, found: Vec<Facts>, now: Now) {
        self.ledger.clips.extend(found.into_iter().filter_map(|facts| Clip::found(facts, now)));
        self.ledger.clips.sort_by_key(|clip| clip.started);
        while self.ledger.on_flash() > self.flash.quota {
            let lowest = self.ledger.clips.iter().enumerate().min_by_key(|(index, clip)| (class(clip.kind), *index));
            let Some((index, _)) = lowest else { break };
            self.ledger.drop_clip(index, now);
        }
    }

    /// What earlier runs have written to flash.
    pub(in crate::upload) fn remember_written(&mut self, written: WriteCount) {
        self.flash.budget.remember(written);
    }

    /// What was written to flash, with what the last chore writes.
    pub(in crate::upload) fn written(&self) -> WriteCount {
        self.flash.budget.written()
    }

    /// What lies on flash could not be looked at: it never leaves, and is erased at the first opportunity.
    pub(in crate::upload) fn not_restored(&mut self, why: Diagnosis, now: Now) {
        self.flash.unscanned = true;
        self.flash.failed(why, now);
    }

    /// How much of flash is used.
    pub(in crate::upload) fn flash_use(&self) -> FlashUse {
        let clips = self.ledger.clips.iter().filter(|clip| clip.flash == OnFlash::Yes).count() as u32;
        FlashUse {
            held: Erased { clips, bytes: self.ledger.on_flash() + self.flash.unlinking_bytes + self.ledger.unerased_bytes() },
            fault: self.flash.fault.clone(),
            written_today: self.flash.budget.today(),
            over_budget: self.flash.over_budget,
        }
    }

    /// Counts a clip as dropped that could not even be looked at.
    pub(in crate::upload) fn lost_unreadable(&mut self, clips: u32) {
        self.ledger.tally.dropped = add(self.ledger.tally.dropped, Erased { clips, bytes: 0 });
    }
}
