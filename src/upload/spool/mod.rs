//! The clips that wait for upload: being recorded, waiting, in flight. A plain value without clock, lock or I/O; the
//! gate holds it under its lock, so nothing here may be slow: a removed clip only moves to another list, the uploads'
//! thread frees its memory and the flash thread erases its file.
//!
//! - [`ledger`]: the clips, and the results for removed ones
//! - [`recording`]: a clip while it is being recorded; [`header`]: the one that it gets when it is over
//! - [`schedule`]: which clip is uploaded next; [`failures`]: what a failure means; [`troubles`]: the sentences that
//!   describe it
//! - [`quota`]: the limits of memory and flash; [`spill`]: the chores of the flash thread; [`growth`]: clips that
//!   outgrow memory while they are filmed
//!
//! Time inside is BOOTTIME, so that a correction of the clock changes no clip's age; only a clip of an earlier boot
//! uses trusted time.

mod clip;
mod failures;
mod growth;
mod header;
mod ledger;
mod quota;
mod recording;
mod schedule;
mod spill;
mod start;
#[cfg(test)]
mod tests;
mod troubles;

use std::time::Duration;

use bytes::Bytes;
use care_engine::{Admission, Generation, trusted_time::Now};
use care_protocol::{ClipKind, Erased, Policy, Position};

use self::{
    clip::{Clip, Passed, State, allows},
    failures::Schedule,
    ledger::{Ledger, Tally},
    quota::Flash,
    start::trusted_ms,
    troubles::Shortened,
};
pub(super) use self::{
    clip::{Dropped, Part},
    failures::{Blame, Trouble},
    growth::{Completion, Head, Piece},
    header::Reading,
    schedule::{Content, Job, Next, Outcome},
    spill::{Chore, Spill, Spilled},
    troubles::Diagnosis,
};

/// The spool.
#[derive(Debug)]
pub(super) struct Spool {
    ledger: Ledger,
    schedule: Schedule,
    /// Bytes of memory.
    memory_quota: u64,
    flash: Flash,
    /// Whether a document has judged the clips found on flash.
    judged: bool,
    /// Clips that ended early because there was no room for more of them.
    shortened: Option<Shortened>,
    admission: Admission,
    /// The generation under which clips may be uploaded; set together with `admission`.
    generation: Generation,
}

impl Spool {
    /// An empty spool with limits for memory, for flash, and for the bytes written to flash a day.
    pub(super) fn new(memory_quota: u64, flash_quota: u64, flash_per_day: u64) -> Self {
        Self {
            ledger: Ledger::default(),
            schedule: Schedule::default(),
            memory_quota,
            flash: Flash::new(flash_quota, flash_per_day),
            judged: false,
            shortened: None,
            admission: Admission::CLOSED,
            generation: Generation::default(),
        }
    }

    pub(super) fn admission(&self) -> Admission {
        self.admission
    }

    /// Clips and bytes held, in memory and on flash.
    pub(super) fn held(&self) -> Erased {
        self.ledger.held()
    }

    /// Bytes of memory that clips use.
    pub(super) fn memory(&self) -> u64 {
        self.ledger.memory()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.ledger.in_flight()
    }

    pub(super) fn tally(&self) -> Tally {
        self.ledger.tally
    }

    /// Sets what is recorded and what may leave from now on, under the current generation. The first document of this
    /// run also judges the clips found on flash; returns those that are erased.
    pub(in crate::upload) fn admit(&mut self, admission: Admission, now: Now) -> Erased {
        self.apply_admission(admission);
        if self.judged || admission.position == Position::NONE {
            return Erased::default();
        }
        self.judge(now)
    }

    fn apply_admission(&mut self, admission: Admission) {
        if admission.position != self.admission.position {
            // A new document: grants refused under the last one may be requested again.
            self.retry_refused();
        }
        self.admission = admission;
    }

    /// Records a cut: nothing leaves, every clip in flight waits again, and no retry is pending. Returns how many were
    /// in flight.
    pub(in crate::upload) fn recall(&mut self, generation: Generation) -> u32 {
        let transfers = self.ledger.in_flight();
        self.generation = generation;
        self.admission.leave = Policy::CLOSED;
        for clip in &mut self.ledger.clips {
            if clip.state != State::Recording {
                clip.state = State::Waiting;
            }
            if !clip.refused {
                clip.not_before = Duration::ZERO;
            }
        }
        self.schedule.clear_pauses();
        transfers
    }

    /// Judges every clip, oldest first, by what may be kept from now on, and erases the others.
    pub(in crate::upload) fn keep(&mut self, policy: Policy, position: Position, now: Now) -> Erased {
        self.apply_admission(Admission::after_cut(policy, position, &self.admission));
        self.flash.erase_what_is_not_known();
        self.judge(now)
    }

    fn judge(&mut self, now: Now) -> Erased {
        self.judged = true;
        let Admission { keep, position, .. } = self.admission;
        let now_ms = trusted_ms(now.boot, now);
        let mut passed: Vec<_> = self.ledger.uploaded.iter().copied().collect();
        self.ledger.erase(|clip| {
            let allowed = allows(keep, position.epoch, now_ms, &passed, clip, now);
            if allowed && clip.kind != ClipKind::Snapshot {
                passed.push(Passed::of(clip));
            }
            !allowed
        })
    }

    /// Erases clips that are older than the plan keeps.
    pub(in crate::upload) fn expire(&mut self, now: Now) -> Erased {
        let history = Duration::from_secs(u64::from(self.admission.keep.history_h) * 3600);
        let known = self.admission.position != Position::NONE;
        self.ledger.erase(|clip| known && clip.state == State::Waiting && clip.age(now) > history)
    }

    /// The clips that the uploads' thread has to free, and those dropped because there was no room.
    pub(super) fn sweep(&mut self) -> (Vec<Clip>, Vec<Dropped>) {
        self.ledger.sweep()
    }

    /// Memory of clips that are on flash and not in flight: to be freed outside the lock.
    pub(super) fn take_spilled(&mut self) -> Vec<Bytes> {
        self.ledger.take_spilled()
    }

    #[cfg(test)]
    pub(in crate::upload) fn ids(&self) -> impl Iterator<Item = uuid::Uuid> + '_ {
        self.ledger.clips.iter().map(|clip| clip.id)
    }

    #[cfg(test)]
    pub(in crate::upload) fn ids_on_flash(&self) -> impl Iterator<Item = uuid::Uuid> + '_ {
        self.ledger.clips.iter().filter(|clip| clip.flash == clip::OnFlash::Yes).map(|clip| clip.id)
    }
}
