//! The chores of the flash thread: which clips it writes, and which it erases from flash. The spool only issues them;
//! the flash thread carries them out and reports the results.
//!
//! A clip is written to flash
//! - when memory is more than half full and it waits: the other half is for the clip that is being recorded meanwhile;
//! - when it has been complete for [`SPILL_AFTER`] and still waits: the cloud is unreachable, or refuses, or the link
//!   is slow, and a power cut would lose it;
//! - when it outgrows memory while it is filmed ([`super::growth`]);
//! - when the agent stops.
//!
//! The parts of a clip are written in their order, so that a power cut leaves no gap: of parts on flash that follow one in
//! memory, none would play.
//!
//! A clip that is uploaded at once is never written, which spares the flash.

use std::{cmp::Reverse, collections::BTreeSet, mem, time::Duration};

use bytes::Bytes;
use care_engine::trusted_time::Now;
use uuid::Uuid;

use super::{
    Spool,
    clip::{Clip, OnFlash, State, class},
    growth::{Completion, Piece, Shortage},
    header::Reading,
    troubles::Diagnosis,
};
use crate::upload::flash::{Facts, HEADER_BYTES, PartFacts};

/// How long a clip waits in memory before it must survive a power cut. Far longer than a successful upload takes to
/// begin.
const SPILL_AFTER: Duration = Duration::from_secs(15);
/// Bytes of one id in the journal, with its share of the rest of the line.
const LINE_BYTES: u64 = 50;

/// One chore for the flash thread.
#[derive(Debug)]
pub(in crate::upload) enum Chore {
    /// Record these durably as erased, then unlink them.
    Erase(BTreeSet<Uuid>),
    /// Write this clip.
    Spill(Spill),
    /// Write the next piece of a clip that is being filmed.
    Grow(Piece),
    /// All of it is written: complete its file.
    Complete(Completion),
    /// Read what is in the file of a clip that will not be completed, for its digest with another header.
    Read(Reading),
}

/// A clip to be written.
#[derive(Debug)]
pub(in crate::upload) struct Spill {
    pub(in crate::upload) id: Uuid,
    pub(in crate::upload) facts: Facts,
    pub(in crate::upload) fragments: Vec<Bytes>,
}

/// The result of writing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upload) enum Spilled {
    Durable,
    /// It was erased, or writing stopped because an erasure had to run first.
    Interrupted,
    Failed,
}

impl Spool {
    /// The next chore; otherwise when to call again.
    pub(in crate::upload) fn chore(&mut self, now: Now) -> Result<Chore, Duration> {
        self.flash.budget.roll_day(now);
        if !self.ledger.unerased.is_empty() || (self.flash.again && self.flash.not_before <= now.boot) {
            self.flash.erasing = true;
            self.flash.again = false;
            self.flash.unlinking_bytes += self.ledger.unerased_bytes();
            let gone: BTreeSet<Uuid> = mem::take(&mut self.ledger.unerased).into_iter().map(|(id, _)| id).collect();
            // Erasures are counted but never refused.
            self.flash.budget.charge(LINE_BYTES * (1 + gone.len() as u64));
            return Ok(Chore::Erase(gone));
        }
        if self.flash.quota == 0 {
            return Err(Duration::MAX);
        }
        if self.flash.not_before > now.boot {
            self.stop_growth(Shortage::Fault);
            return self.reading().map(Chore::Read).ok_or(self.flash.not_before);
        }
        if let Some(chore) = self.growth(now).or_else(|| self.reading().map(Chore::Read)) {
            return Ok(chore);
        }
        let crowded = self.ledger.memory() > self.memory_quota / 2;
        let mut soonest = Duration::MAX;
        self.flash.over_budget = false;
        // The highest class first: otherwise a clip of a lower class would be written and then dropped to make room
        // for it.
        let mut order: Vec<usize> = (0..self.ledger.clips.len()).collect();
        order.sort_by_key(|index| (Reverse(class(self.ledger.clips[*index].kind)), *index));
        for index in order {
            let clip = &self.ledger.clips[index];
            let here = !matches!(clip.flash, OnFlash::No | OnFlash::Doubtful);
            if clip.state == State::Recording || here || clip.fragments.is_empty() || self.ledger.follows_memory(index) {
                continue;
            }
            let due = clip.since.saturating_add(SPILL_AFTER);
            let pressed = self.flash.stopping || (crowded && (clip.state == State::Waiting || clip.part.is_some()));
            if !pressed && due > now.boot {
                soonest = soonest.min(due);
                continue;
            }
            if !self.flash.budget.has_room_for(clip.bytes + HEADER_BYTES) {
                // Before any clip is dropped to make room for it.
                self.flash.over_budget = true;
                continue;
            }
            if let Some(id) = self.make_room_on_flash(index, clip.bytes + HEADER_BYTES, now) {
                if !self.ledger.unerased.is_empty() {
                    // Erasures run first, so that the quota holds at every moment.
                    return self.chore(now);
                }
                if let Some(spill) = self.begin_spill(id, now) {
                    return Ok(Chore::Spill(spill));
                }
            }
        }
        Err(soonest)
    }

    pub(super) fn begin_spill(&mut self, id: Uuid, now: Now) -> Option<Spill> {
        let clip = self.ledger.clips.iter_mut().find(|clip| clip.id == id)?;
        clip.flash = OnFlash::Writing;
        self.flash.budget.charge(clip.bytes + HEADER_BYTES);
        Some(Spill { id, facts: clip.for_header(now), fragments: clip.fragments.clone() })
    }

    /// Whether to continue writing a clip: not if it has been erased, and not if another clip has been erased whose
    /// record waits.
    pub(in crate::upload) fn is_wanted(&self, id: Uuid) -> bool {
        self.ledger.unerased.is_empty() && self.ledger.clips.iter().any(|clip| clip.id == id)
    }

    /// Takes the result of writing a clip. Returns memory to be freed outside the lock.
    pub(in crate::upload) fn spilled(&mut self, id: Uuid, spilled: Spilled, why: Option<Diagnosis>, now: Now) -> Vec<Bytes> {
        match why {
            Some(why) => self.flash.failed(why, now),
            None if spilled == Spilled::Durable => self.flash.succeeded(),
            None => {}
        }
        if let Some(clip) = self.ledger.clips.iter_mut().find(|clip| clip.id == id) {
            clip.flash = match spilled {
                Spilled::Durable => OnFlash::Yes,
                Spilled::Interrupted | Spilled::Failed => OnFlash::Doubtful,
            };
        }
        self.ledger.take_spilled()
    }

    /// The erasures are durable, or, with a reason, perhaps not.
    pub(in crate::upload) fn erasure_recorded(&mut self, why: Option<Diagnosis>, now: Now) {
        self.flash.erasing = false;
        match why {
            None => self.flash.unscanned = false,
            Some(why) => self.flash.erasing_failed(why, now),
        }
    }

    /// The files of erased clips are unlinked, or, with a reason, still take room.
    pub(in crate::upload) fn unlinked(&mut self, why: Option<Diagnosis>, now: Now) {
        match why {
            None => {
                self.flash.unlinking_bytes = 0;
                self.flash.erased();
            }
            Some(why) => self.flash.erasing_failed(why, now),
        }
    }

    /// Whether every erasure is recorded durably on flash, or has failed. Until then the engine's record may not be
    /// written.
    pub(in crate::upload) fn erasures_settled(&self) -> bool {
        let not_known = self.flash.unscanned && self.flash.again && self.flash.not_before.is_zero();
        self.ledger.unerased.is_empty() && !self.flash.erasing && !not_known
    }

    /// Writes all waiting clips to flash from now on: the agent stops.
    pub(in crate::upload) fn spill_all(&mut self) {
        self.flash.stopping = true;
        self.flash.not_before = Duration::ZERO;
        // Reading what was filmed may take longer than a stop does.
        self.ledger.clips.iter_mut().for_each(|clip| clip.offered = None);
    }
}

impl Clip {
    /// What the header of its file says.
    pub(super) fn for_header(&self, now: Now) -> Facts {
        Facts {
            clip: self.id.to_string(),
            kind: self.kind,
            epoch: self.epoch,
            height: self.height,
            started_ms: self.started.trusted_ms(now),
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            bytes: self.bytes,
            sha256: self.sha256.clone(),
            tail: self.tail,
            part: self.part.as_ref().map(PartFacts::of),
        }
    }
}
