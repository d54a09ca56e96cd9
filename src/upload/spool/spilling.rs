//! Which clips go to flash, which make room there, and which are to be unlinked. The spool only says so; the flash thread does
//! it and comes back.
//!
//! A clip goes to flash
//! - when memory is more than half full and it waits: the other half is for the clip that is being recorded meanwhile;
//! - when it has been whole for [`SPILL_AFTER`] and is still here: the cloud is away, or refuses, or the link is slow, and a power
//!   cut would lose it;
//! - when the agent stops.
//!
//! A clip that leaves at once is never written, which spares the flash.

use std::{cmp::Reverse, collections::BTreeSet, mem, time::Duration};

use bytes::Bytes;
use care_engine::trusted_time::Now;
use care_protocol::Erased;
use uuid::Uuid;

use super::{Clip, Spool, Start, State, Words, add, class};
use crate::{
    backoff::{Delays, Jitter},
    upload::flash::{Facts, HEADER_BYTES, Wear, Written},
};

/// How long a clip waits in memory before a power cut may not take it any more. Far longer than an upload that goes well
/// takes to begin.
const SPILL_AFTER: Duration = Duration::from_secs(15);
/// What one id takes in the journal, with its share of the rest.
const LINE_BYTES: u64 = 50;
/// After a fault the flash is left alone this long, doubling up to the second.
const FAULT_PAUSE: Delays = Delays::new(Duration::from_secs(30), Duration::from_secs(15 * 60), Jitter::None);

/// Whether a clip is on flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFlash {
    No,
    /// The flash thread is at it.
    Writing,
    Yes,
    /// It was begun and not finished: it is kept in memory, tried again, and said to be gone when it goes.
    Doubtful,
}

/// What the spool knows of its part on flash.
#[derive(Debug)]
pub(super) struct Flash {
    /// In bytes of files.
    quota: u64,
    /// Gone from the spool, and not said so on flash yet.
    condemned: Vec<(Uuid, u64)>,
    /// Said so to the flash thread, which has not come back yet.
    burying: bool,
    /// Bytes of files whose clips are gone and which are not unlinked yet.
    gone_bytes: u64,
    /// What lies on flash could not be looked at when the agent started.
    unscanned: bool,
    /// Once more, because it failed.
    again: bool,
    failures: u32,
    not_before: Duration,
    fault: Option<Words>,
    /// Everything goes to flash now.
    stopping: bool,
    /// What was written, and how much may be.
    wear: Wear,
    /// Clips wait in memory because no more may be written today.
    over_budget: bool,
}

/// Something for the flash thread to do.
#[derive(Debug)]
pub(in crate::upload) enum Chore {
    /// Say durably that these are gone, then unlink them.
    Bury(BTreeSet<Uuid>),
    /// Write this clip.
    Spill(Spill),
}

/// A clip to be written.
#[derive(Debug)]
pub(in crate::upload) struct Spill {
    pub(in crate::upload) id: Uuid,
    pub(in crate::upload) facts: Facts,
    pub(in crate::upload) fragments: Vec<Bytes>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upload) enum Spilled {
    Durable,
    /// It was erased, or had to make way for an erasure.
    Interrupted,
    Failed,
}

/// What people see of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::upload) struct FlashUse {
    /// Clips that survive a power cut, and the bytes of flash that the spool takes.
    pub(in crate::upload) held: Erased,
    pub(in crate::upload) fault: Option<Words>,
    /// Bytes written today.
    pub(in crate::upload) written_today: u64,
    /// Clips wait in memory because no more may be written today.
    pub(in crate::upload) over_budget: bool,
}

impl Flash {
    pub(super) fn new(quota: u64, bytes_per_day: u64) -> Self {
        Self {
            quota,
            condemned: Vec::new(),
            burying: false,
            gone_bytes: 0,
            unscanned: false,
            again: false,
            failures: 0,
            not_before: Duration::ZERO,
            fault: None,
            stopping: false,
            wear: Wear::new(bytes_per_day),
            over_budget: false,
        }
    }

    /// This clip is gone: so must be what flash has of it.
    pub(super) fn condemn(&mut self, clip: &Clip) {
        if clip.flash != OnFlash::No {
            self.condemned.push((clip.id, clip.on_flash()));
            self.gone_bytes += clip.on_flash();
        }
    }

    /// A document erases, and what it would say of clips that nobody could look at is not known: they are erased too.
    pub(super) fn erase_what_is_not_known(&mut self) {
        self.again |= self.unscanned;
        if self.unscanned {
            self.not_before = Duration::ZERO;
        }
    }

    fn failed(&mut self, why: Words, now: Now) {
        let pause = FAULT_PAUSE.after(self.failures);
        self.failures += 1;
        self.not_before = if self.stopping { Duration::MAX } else { now.boot + pause };
        self.fault = Some(why);
    }

    fn went_well(&mut self) {
        self.failures = 0;
        self.fault = None;
    }
}

impl Clip {
    /// Bytes of flash that it takes, or is about to.
    fn on_flash(&self) -> u64 {
        if matches!(self.flash, OnFlash::Writing | OnFlash::Yes) { self.bytes + HEADER_BYTES } else { 0 }
    }

    /// Whether dropping it gives memory back at once.
    pub(super) fn may_be_dropped(&self) -> bool {
        self.state == State::Waiting && !self.fragments.is_empty() && matches!(self.flash, OnFlash::No | OnFlash::Doubtful)
    }
}

impl Spool {
    /// Takes in what was found on flash at the start. Nothing of it leaves before a document has judged it. What exceeds the
    /// quota, which may have been made smaller, is dropped.
    pub(in crate::upload) fn restore(&mut self, found: Vec<Facts>, now: Now) {
        let clips = found.into_iter().filter_map(|facts| {
            let duration = Duration::from_millis(facts.duration_ms);
            Some(Clip {
                id: facts.id()?,
                kind: facts.kind,
                epoch: facts.epoch,
                height: facts.height,
                started: Start::Earlier { stamped_ms: facts.started_ms, found: now.boot, lasted: duration },
                duration,
                fragments: Vec::new(),
                flash: OnFlash::Yes,
                since: Duration::ZERO,
                bytes: facts.bytes,
                sha256: facts.sha256,
                state: State::Waiting,
                full: false,
                not_before: Duration::ZERO,
                failures: 0,
                unreadable: 0,
                refused: false,
                singled_out: false,
                trouble: None,
            })
        });
        self.clips.extend(clips);
        self.clips.sort_by_key(|clip| clip.started);
        while self.on_flash() > self.flash.quota {
            let lowest = self.clips.iter().enumerate().min_by_key(|(index, clip)| (class(clip.kind), *index));
            let Some((index, _)) = lowest else { break };
            self.drop_clip(index, now);
        }
    }

    /// What earlier runs have written to flash.
    pub(in crate::upload) fn remember_written(&mut self, written: Written) {
        self.flash.wear.remember(written);
    }

    /// What was written to flash, with what the last chore writes.
    pub(in crate::upload) fn written(&self) -> Written {
        self.flash.wear.written()
    }

    /// What lies on flash could not be looked at: it never leaves, and is erased at the first opportunity.
    pub(in crate::upload) fn not_restored(&mut self, why: Words, now: Now) {
        self.flash.unscanned = true;
        self.flash.failed(why, now);
    }

    /// How much of flash is used.
    pub(in crate::upload) fn flash_use(&self) -> FlashUse {
        let clips = self.clips.iter().filter(|clip| clip.flash == OnFlash::Yes).count() as u32;
        FlashUse {
            held: Erased { clips, bytes: self.on_flash() + self.flash.gone_bytes },
            fault: self.flash.fault.clone(),
            written_today: self.flash.wear.today(),
            over_budget: self.flash.over_budget,
        }
    }

    fn on_flash(&self) -> u64 {
        self.clips.iter().map(Clip::on_flash).sum()
    }

    /// Whether flash says of everything that is erased that it is gone, or cannot: until then no record may say that it was.
    pub(in crate::upload) fn erasures_settled(&self) -> bool {
        let not_known = self.flash.unscanned && self.flash.again && self.flash.not_before.is_zero();
        self.flash.condemned.is_empty() && !self.flash.burying && !not_known
    }

    /// Everything that waits goes to flash from now on: the agent stops.
    pub(in crate::upload) fn spill_all(&mut self) {
        self.flash.stopping = true;
        self.flash.not_before = Duration::ZERO;
    }

    // --- the flash thread ---

    /// What there is to do; otherwise when to look again.
    pub(in crate::upload) fn chore(&mut self, now: Now) -> Result<Chore, Duration> {
        self.flash.wear.turn(now);
        if !self.flash.condemned.is_empty() || (self.flash.again && self.flash.not_before <= now.boot) {
            self.flash.burying = true;
            self.flash.again = false;
            let gone: BTreeSet<Uuid> = mem::take(&mut self.flash.condemned).into_iter().map(|(id, _)| id).collect();
            // Counted, and never refused: what is erased must be gone.
            self.flash.wear.charge(LINE_BYTES * (1 + gone.len() as u64));
            return Ok(Chore::Bury(gone));
        }
        if self.flash.quota == 0 {
            return Err(Duration::MAX);
        }
        if self.flash.not_before > now.boot {
            return Err(self.flash.not_before);
        }
        let crowded = self.memory() > self.quota / 2;
        let mut soonest = Duration::MAX;
        self.flash.over_budget = false;
        // What is worth most first: it must not take the room of what would have to make way for it again.
        let mut order: Vec<usize> = (0..self.clips.len()).collect();
        order.sort_by_key(|index| (Reverse(class(self.clips[*index].kind)), *index));
        for index in order {
            let clip = &self.clips[index];
            let here = matches!(clip.flash, OnFlash::Writing | OnFlash::Yes);
            if clip.state == State::Recording || here || clip.fragments.is_empty() {
                continue;
            }
            let due = clip.since.saturating_add(SPILL_AFTER);
            let pressed = self.flash.stopping || (crowded && clip.state == State::Waiting);
            if !pressed && due > now.boot {
                soonest = soonest.min(due);
                continue;
            }
            if !self.flash.wear.has_room_for(clip.bytes + HEADER_BYTES) {
                // Before anything gives way to it.
                self.flash.over_budget = true;
                continue;
            }
            if let Some(id) = self.make_room_on_flash(index, now) {
                if !self.flash.condemned.is_empty() {
                    // What makes room goes first, so that the quota holds at every moment.
                    return self.chore(now);
                }
                if let Some(spill) = self.begin_spill(id, now) {
                    return Ok(Chore::Spill(spill));
                }
            }
        }
        Err(soonest)
    }

    /// Drops what must go so that the clip at `index` fits: the oldest of the lowest class, never a clip that is worth more
    /// than it, is on its way, or is being written. `None` if there is no room for it; then nothing is dropped.
    fn make_room_on_flash(&mut self, index: usize, now: Now) -> Option<Uuid> {
        let clip = &self.clips[index];
        let (id, worth) = (clip.id, (class(clip.kind), index));
        let needed = (self.on_flash() + clip.bytes + HEADER_BYTES + self.flash.gone_bytes).saturating_sub(self.flash.quota);
        let less = |(index, clip): &(usize, &Clip)| {
            clip.state == State::Waiting && clip.flash == OnFlash::Yes && (class(clip.kind), *index) < worth
        };
        let mut victims: Vec<_> = self.clips.iter().enumerate().filter(less).collect();
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
            if let Some(index) = self.clips.iter().position(|clip| clip.id == id) {
                self.drop_clip(index, now);
            }
        }
        Some(id)
    }

    fn begin_spill(&mut self, id: Uuid, now: Now) -> Option<Spill> {
        let clip = self.clips.iter_mut().find(|clip| clip.id == id)?;
        clip.flash = OnFlash::Writing;
        self.flash.wear.charge(clip.bytes + HEADER_BYTES);
        let facts = Facts {
            clip: id.to_string(),
            kind: clip.kind,
            epoch: clip.epoch,
            height: clip.height,
            started_ms: clip.started.trusted_ms(now),
            duration_ms: u64::try_from(clip.duration.as_millis()).unwrap_or(u64::MAX),
            bytes: clip.bytes,
            sha256: clip.sha256.clone(),
        };
        Some(Spill { id, facts, fragments: clip.fragments.clone() })
    }

    /// Whether a clip that is being written is to be written on: not if it is erased meanwhile, and not while something else
    /// is, whose record waits.
    pub(in crate::upload) fn is_wanted(&self, id: Uuid) -> bool {
        self.flash.condemned.is_empty() && self.clips.iter().any(|clip| clip.id == id)
    }

    /// A clip was written, or not. Returns what memory no longer needs, to be let go of outside the lock.
    pub(in crate::upload) fn spilled(&mut self, id: Uuid, spilled: Spilled, why: Option<Words>, now: Now) -> Vec<Bytes> {
        match why {
            Some(why) => self.flash.failed(why, now),
            None if spilled == Spilled::Durable => self.flash.went_well(),
            None => {}
        }
        if let Some(clip) = self.clips.iter_mut().find(|clip| clip.id == id) {
            clip.flash = match spilled {
                Spilled::Durable => OnFlash::Yes,
                Spilled::Interrupted | Spilled::Failed => OnFlash::Doubtful,
            };
        }
        self.shed()
    }

    /// What was erased is durably gone, or, with a reason, not surely.
    pub(in crate::upload) fn buried(&mut self, why: Option<Words>, now: Now) {
        self.flash.burying = false;
        match why {
            None => self.flash.unscanned = false,
            Some(why) => {
                self.flash.again = true;
                self.flash.failed(why, now);
            }
        }
    }

    /// The files of what is gone are unlinked, or, with a reason, still take room.
    pub(in crate::upload) fn unlinked(&mut self, why: Option<Words>, now: Now) {
        match why {
            None => {
                // What was condemned meanwhile has its turn next.
                self.flash.gone_bytes = self.flash.condemned.iter().map(|(_, bytes)| bytes).sum();
                self.flash.went_well();
            }
            Some(why) => {
                self.flash.again = true;
                self.flash.failed(why, now);
            }
        }
    }

    /// Counts a clip as dropped that could not even be looked at.
    pub(in crate::upload) fn lost_unreadable(&mut self, clips: u32) {
        self.tally.dropped = add(self.tally.dropped, Erased { clips, bytes: 0 });
    }

    #[cfg(test)]
    pub(in crate::upload) fn ids(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.clips.iter().map(|clip| clip.id)
    }

    #[cfg(test)]
    pub(in crate::upload) fn ids_on_flash(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.clips.iter().filter(|clip| clip.flash == OnFlash::Yes).map(|clip| clip.id)
    }
}
