//! A clip that outgrows memory while it is filmed: the flash thread writes it to a file of its own, fragment by fragment,
//! so that memory holds few of them and no clip is shorter than the plan allows. The file gets its header and its name
//! when the clip is over, with one sync; until then a restart removes it. A clip that fits memory is never written here.
//!
//! Where flash takes no more (full, broken, today's writes used up), what is written stays there and the rest stays in
//! memory: the clip ends when that is full, says why, and leaves from both.

use bytes::Bytes;
use care_engine::trusted_time::Now;
use uuid::Uuid;

use super::{
    Spool,
    clip::{Clip, OnFlash, State},
    spill::{Chore, Spilled},
    troubles::Diagnosis,
};
use crate::{
    media::{Progressive, Verdict},
    upload::flash::{Facts, HEADER_BYTES, Tail},
};

/// A clip goes on in a file before memory has no room for this many more of its fragments, so that flash has their time
/// to begin.
const AHEAD: u64 = 4;

/// What is in a clip's file alone: all of the clip, or its beginning, without a header that is in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::upload) struct Head {
    pub(in crate::upload) bytes: u64,
    /// Lowercase hex.
    pub(in crate::upload) sha256: String,
    /// Where these bytes are in the file.
    pub(in crate::upload) tail: Tail,
}

/// The next bytes of a clip's file.
#[derive(Debug)]
pub(in crate::upload) struct Piece {
    pub(in crate::upload) id: Uuid,
    /// How much of the clip is in the file.
    pub(in crate::upload) offset: u64,
    pub(in crate::upload) fragment: Bytes,
}

/// A clip all of which is in its file.
#[derive(Debug)]
pub(in crate::upload) struct Completion {
    pub(in crate::upload) id: Uuid,
    /// As it was filmed.
    pub(in crate::upload) facts: Facts,
    /// The header of a progressive file, which it is to get.
    pub(in crate::upload) offered: Option<Progressive>,
}

/// Why flash takes no more of a clip that is being recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Clips wait in memory only.
    NoFlash,
    /// Memory is too small to hold one fragment while another is written.
    Memory,
    Fault,
    /// No more may be written today.
    Budget,
    /// Its quota is used by clips of at least this one's worth.
    Quota,
    /// It is written more slowly than the clip is filmed.
    Slow,
}

impl Spool {
    /// After a fragment of `size`: a clip that will not fit memory begins to go to flash; one that has no room left, ends.
    pub(super) fn make_way(&mut self, id: Uuid, size: u64, now: Now) {
        let Some(index) = self.recorded(id) else { return };
        let (fixed, quota) = (self.ledger.fixed_memory(), self.memory_quota);
        // A short fragment, such as one before a keyframe that was asked for, says little about the next ones.
        let largest = self.ledger.clips[index].fragments.iter().map(|fragment| fragment.len() as u64).max().unwrap_or(size);
        let ahead = (AHEAD * largest).min(quota / 4).max(2 * largest);
        if fixed.saturating_add(ahead) <= quota {
            self.ledger.clips[index].full = None;
            return;
        }
        let grows = self.may_grow(index, size, now);
        let clip = &mut self.ledger.clips[index];
        // The next fragment is about as large. Ending a clip early is better than losing its last second.
        let next = if grows.is_ok() { size } else { 2 * size };
        if grows.is_ok() {
            clip.flash = OnFlash::Growing;
        }
        clip.full = (fixed.saturating_add(next) > quota).then(|| grows.err().unwrap_or(Shortage::Slow));
    }

    /// Whether a clip that is being recorded has room for its next fragment, once others have given way. The first one
    /// always has, as far as this can tell.
    pub(in crate::upload) fn has_room_for(&self, id: Uuid, size: u64) -> bool {
        let begun = self.recorded(id).is_some_and(|index| self.ledger.clips[index].bytes > 0);
        !begun || self.ledger.fixed_memory().saturating_add(size) <= self.memory_quota
    }

    /// Ends a clip before a fragment of `size`, for which there is no room.
    pub(in crate::upload) fn end_before(&mut self, id: Uuid, size: u64, now: Now) -> Verdict {
        if let Some(index) = self.recorded(id) {
            let why = self.may_grow(index, size, now).err().unwrap_or(Shortage::Slow);
            self.ledger.clips[index].full = Some(why);
        }
        self.limit(id)
    }

    pub(super) fn recorded(&self, id: Uuid) -> Option<usize> {
        self.ledger.clips.iter().position(|clip| clip.clip() == id && clip.state == State::Recording)
    }

    /// Whether the clip may go on in a file: all of it so far must have room there.
    fn may_grow(&self, index: usize, size: u64, now: Now) -> Result<(), Shortage> {
        let clip = &self.ledger.clips[index];
        match clip.flash {
            OnFlash::Growing => return Ok(()),
            OnFlash::Stuck(why) => return Err(why),
            // Not while it is filmed.
            OnFlash::Doubtful => return Err(Shortage::Fault),
            OnFlash::No | OnFlash::Writing | OnFlash::Yes => {}
        }
        let so_far = clip.bytes + HEADER_BYTES;
        if self.flash.quota == 0 {
            Err(Shortage::NoFlash)
        } else if self.memory_quota < 2 * size {
            Err(Shortage::Memory)
        } else if self.flash.not_before > now.boot {
            Err(Shortage::Fault)
        } else if !self.flash.budget.has_room_for(so_far) {
            Err(Shortage::Budget)
        } else if self.what_gives_way(index, so_far).is_none() {
            Err(Shortage::Quota)
        } else if self.ledger.follows_memory(index) {
            // The parts before this one are still to be written.
            Err(Shortage::Slow)
        } else {
            Ok(())
        }
    }

    /// What the flash thread does next for clips that grow. Where it may write no more of one, that one stops growing.
    pub(super) fn growth(&mut self, now: Now) -> Option<Chore> {
        // One that is being sent, because flash took too long, goes on afterwards: its transfer holds what is in memory.
        let grows = |clip: &&Clip| clip.flash == OnFlash::Growing && matches!(clip.state, State::Recording | State::Waiting);
        let growing: Vec<Uuid> = self.ledger.clips.iter().filter(grows).map(|clip| clip.id).collect();
        for id in growing {
            let Some(index) = self.ledger.clips.iter().position(|clip| clip.id == id) else { continue };
            let clip = &self.ledger.clips[index];
            let Some(fragment) = clip.fragments.first().cloned() else {
                if clip.state == State::Waiting {
                    return self.completion(index, now);
                }
                continue;
            };
            let (offset, size) = (clip.head.bytes, fragment.len() as u64);
            let more = if clip.handed == 0 { size + HEADER_BYTES } else { size };
            if !self.flash.budget.has_room_for(size + HEADER_BYTES) {
                self.stop_growing(index, Shortage::Budget);
                continue;
            }
            if self.make_room_on_flash(index, more, now).is_none() {
                self.stop_growing(index, Shortage::Quota);
                continue;
            }
            if !self.ledger.unerased.is_empty() {
                // Erasures run first, so that the quota holds at every moment.
                return self.chore(now).ok();
            }
            self.flash.budget.charge(size);
            if let Some(clip) = self.ledger.clips.iter_mut().find(|clip| clip.id == id) {
                clip.handed = offset + size;
                return Some(Chore::Grow(Piece { id, offset, fragment }));
            }
        }
        None
    }

    /// Completes the file of the clip at `index`, with the header that was offered for it if flash has room for that.
    fn completion(&mut self, index: usize, now: Now) -> Option<Chore> {
        let clip = &self.ledger.clips[index];
        let (id, header) = (clip.id, clip.offered.as_ref().map_or(0, |offered| offered.header.len() as u64));
        let more = header.saturating_sub(clip.beside);
        let has_room = self.flash.budget.has_room_for(header + HEADER_BYTES) && self.make_room_on_flash(index, more, now).is_some();
        if !self.ledger.unerased.is_empty() {
            // Erasures run first, so that the quota holds at every moment.
            return self.chore(now).ok();
        }
        let clip = self.ledger.clips.iter_mut().find(|clip| clip.id == id)?;
        if !has_room {
            clip.offered = None;
        }
        clip.beside = if has_room { header } else { 0 };
        self.flash.budget.charge(HEADER_BYTES + clip.beside);
        Some(Chore::Complete(Completion { id, facts: clip.for_header(now), offered: clip.offered.clone() }))
    }

    /// Every clip that grows stops: flash takes nothing for a while.
    pub(super) fn stop_growth(&mut self, why: Shortage) {
        for index in 0..self.ledger.clips.len() {
            if self.ledger.clips[index].flash == OnFlash::Growing {
                self.stop_growing(index, why);
            }
        }
    }

    fn stop_growing(&mut self, index: usize, why: Shortage) {
        let clip = &mut self.ledger.clips[index];
        clip.flash = if clip.handed == 0 { OnFlash::No } else { OnFlash::Stuck(why) };
    }

    /// The flash thread has written a piece, and its file now holds a beginning of the clip with this digest; or it has
    /// failed to. Returns memory to be freed outside the lock.
    pub(in crate::upload) fn piece_written(&mut self, id: Uuid, written: Result<String, Diagnosis>, now: Now) -> Option<Bytes> {
        let clip = self.ledger.clips.iter_mut().find(|clip| clip.id == id);
        match written {
            Ok(sha256) => {
                let clip = clip.filter(|clip| !clip.fragments.is_empty())?;
                clip.head = Head { bytes: clip.handed, sha256, tail: Tail::default() };
                Some(clip.fragments.remove(0))
            }
            Err(why) => {
                if let Some(clip) = clip {
                    // What is in memory alone is written anew once the clip is complete.
                    clip.flash = if clip.head.bytes == 0 { OnFlash::Doubtful } else { OnFlash::Stuck(Shortage::Fault) };
                    clip.handed = clip.head.bytes;
                }
                self.flash.failed(why, now);
                None
            }
        }
    }

    /// The flash thread has completed the file of a clip that grew, of which these are the facts now, or has not. Returns
    /// memory to be freed outside the lock.
    pub(in crate::upload) fn completed(
        &mut self,
        id: Uuid,
        spilled: Spilled,
        facts: &Facts,
        why: Option<Diagnosis>,
        now: Now,
    ) -> Option<Progressive> {
        match why {
            Some(why) => self.flash.failed(why, now),
            None if spilled == Spilled::Durable => self.flash.succeeded(),
            None => {}
        }
        let clip = self.ledger.clips.iter_mut().find(|clip| clip.id == id)?;
        match spilled {
            Spilled::Durable => {
                (clip.flash, clip.head, clip.handed) = (OnFlash::Yes, Head::default(), 0);
                let offered = clip.offered.take();
                if facts.tail.is_nothing() {
                    clip.beside = 0;
                } else if offered.is_some() {
                    (clip.bytes, clip.sha256, clip.tail) = (facts.bytes, facts.sha256.clone(), facts.tail);
                    clip.beside = facts.tail.replaces;
                }
                // Otherwise flash took so long that it has begun to leave as it was filmed, all of which is in the file.
                offered
            }
            // An erasure runs first.
            Spilled::Interrupted => None,
            // What is in the file can still be read.
            Spilled::Failed => {
                clip.flash = OnFlash::Stuck(Shortage::Fault);
                None
            }
        }
    }

    /// Completes "memory was full, and …".
    pub(super) fn in_words(&self, shortage: Shortage) -> Diagnosis {
        const MEMORY: &str = "Enlarge [spool] memory_bytes, or set [upload] while_recording = true.";
        const FLASH: &str = "Enlarge [spool] flash_bytes or memory_bytes, or set [upload] while_recording = true.";
        const BUDGET: &str = "Raise [spool] flash_bytes_per_day if the flash can bear it, or set [upload] while_recording = true.";
        let (sentence, advice) = match shortage {
            Shortage::NoFlash => ("[spool] flash_bytes is 0".to_owned(), FLASH),
            Shortage::Memory => ("it does not hold two seconds of the stream".to_owned(), MEMORY),
            Shortage::Fault => match self.flash.current_fault() {
                Some(fault) => (format!("flash took no more ({})", fault.sentence), fault.advice),
                None => ("flash took no more".to_owned(), "Check the state directory's file system."),
            },
            Shortage::Budget => ("[spool] flash_bytes_per_day was used up".to_owned(), BUDGET),
            Shortage::Quota => (format!("[spool] flash_bytes ({}) was full of clips that do not give way to it", self.flash.quota), FLASH),
            Shortage::Slow => ("flash was written more slowly than the clip was filmed".to_owned(), MEMORY),
        };
        Diagnosis { sentence, advice }
    }
}

#[cfg(test)]
impl Spool {
    pub(in crate::upload) fn is_growing(&self) -> bool {
        self.ledger.clips.iter().any(|clip| clip.flash == OnFlash::Growing)
    }
}
