//! The clips: being recorded, waiting, leaving. A plain value without clock, lock or I/O; the gate holds it under its
//! lock and nothing slow is done there: what is erased is only moved aside, the uploads' thread lets go of its memory, the
//! flash thread of its file. Clips live in memory within a quota, and on flash when they must ([`spilling`]); which of them
//! leaves next, and what a failure means for it and for the others, is in [`leaving`]. Time inside is BOOTTIME, so that a corrected clock ages no clip; only a clip of an earlier boot stands on trusted time.

mod leaving;
mod spilling;
mod start;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, mem, time::Duration};

use bytes::Bytes;
use care_engine::{Admission, ClipFacts, Generation, Judge, trusted_time::Now};
use care_protocol::{ClipKind, Erased, Policy, Position};
use uuid::Uuid;

use crate::media::{Beginning, Verdict};
use leaving::Leaving;
pub(super) use leaving::{Blame, Content, End, Job, Next, Trouble, Words};
pub(super) use spilling::{Chore, Spilled};
use spilling::{Flash, OnFlash};
use start::{Start, trusted_ms};

/// How many clips that have left are remembered for the cooldown.
const LEFT: usize = 64;

#[derive(Debug)]
pub(super) struct Spool {
    /// Of memory, in bytes.
    quota: u64,
    flash: Flash,
    /// Whether what was found on flash has been judged by a document.
    judged: bool,
    /// Oldest first.
    clips: Vec<Clip>,
    admission: Admission,
    /// The generation under which clips may be taken; set together with `admission`.
    generation: Generation,
    /// Starts and lengths of the newest clips that left.
    left: VecDeque<(Start, Duration)>,
    /// Tombstones: no way leads from here to the network; the uploads' thread drops them.
    doomed: Vec<Clip>,
    dropped: Vec<Loss>,
    /// What is known of the way out.
    leaving: Leaving,
    tally: Tally,
}

/// What became of clips since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) stored: Erased,
    pub(super) erased: Erased,
    pub(super) dropped: Erased,
}

/// A clip that gave way to newer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) clip: ClipFacts,
    pub(super) bytes: u64,
}

/// One clip; outside the spool only something to let go of.
#[derive(Debug)]
pub(super) struct Clip {
    id: Uuid,
    kind: ClipKind,
    epoch: u64,
    height: u32,
    started: Start,
    duration: Duration,
    /// Empty where its bytes are on flash alone.
    fragments: Vec<Bytes>,
    flash: OnFlash,
    /// BOOTTIME at which it was whole.
    since: Duration,
    bytes: u64,
    /// Lowercase hex, once it is whole.
    sha256: String,
    state: State,
    /// Being recorded, and the spool has no room for more of it.
    full: bool,
    /// Not tried before this.
    not_before: Duration,
    /// How often it has failed, itself or with others.
    failures: u32,
    /// How often its file could not be read.
    unreadable: u32,
    refused: bool,
    /// Others have left since it failed, or the server has said that it is about this clip.
    singled_out: bool,
    /// Why it failed the last time.
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Recording,
    Waiting,
    Leaving(Generation),
}

impl Clip {
    /// What it is judged by.
    fn facts(&self, now: Now) -> ClipFacts {
        ClipFacts {
            kind: self.kind,
            epoch: self.epoch,
            started_ms: self.started.trusted_ms(now),
            duration: self.duration,
            height: self.height,
        }
    }

    fn ended_ms(&self, now: Now) -> u64 {
        self.started.end_ms(self.duration, now)
    }

    fn age(&self, now: Now) -> Duration {
        Duration::from_millis(trusted_ms(now.boot, now).saturating_sub(self.started.trusted_ms(now)))
    }

    /// Bytes of memory that it takes.
    fn in_memory(&self) -> u64 {
        if self.fragments.is_empty() { 0 } else { self.bytes }
    }

    fn loss(&self, now: Now) -> Loss {
        Loss { clip: self.facts(now), bytes: self.bytes }
    }
}

/// Lower classes give way first.
fn class(kind: ClipKind) -> u8 {
    match kind {
        ClipKind::Snapshot => 0,
        ClipKind::Motion => 1,
        ClipKind::Manual => 2,
    }
}

impl Spool {
    /// A spool with nothing in it, for so many bytes of memory and of flash, of which so many may be written a day.
    pub(super) fn new(quota: u64, flash_quota: u64, flash_per_day: u64) -> Self {
        Self {
            quota,
            flash: Flash::new(flash_quota, flash_per_day),
            judged: false,
            clips: Vec::new(),
            admission: Admission::CLOSED,
            generation: Generation::default(),
            left: VecDeque::new(),
            doomed: Vec::new(),
            dropped: Vec::new(),
            leaving: Leaving::default(),
            tally: Tally::default(),
        }
    }

    pub(super) fn admission(&self) -> Admission {
        self.admission
    }

    /// Clips and bytes held, in memory and on flash.
    pub(super) fn held(&self) -> Erased {
        sum(&self.clips)
    }

    /// Bytes of memory that clips take.
    pub(super) fn memory(&self) -> u64 {
        self.clips.iter().map(Clip::in_memory).sum()
    }

    pub(super) fn leaving(&self) -> u32 {
        self.clips.iter().filter(|clip| matches!(clip.state, State::Leaving(_))).count() as u32
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    // --- the gate ---

    /// What is recorded and what may leave from now on, under the generation that stands. The first document of this run also
    /// judges what was found on flash; returns what of it is erased.
    pub(super) fn admit(&mut self, admission: Admission, now: Now) -> Erased {
        self.obey(admission);
        if self.judged || admission.position == Position::NONE {
            return Erased::default();
        }
        self.judge(now)
    }

    fn obey(&mut self, admission: Admission) {
        if admission.position != self.admission.position {
            // Another document: what was refused under the last one may be asked again.
            self.retry_refused();
        }
        self.admission = admission;
    }

    /// After a cut: nothing leaves, every transfer is a waiting clip again, and no retry is pending. Returns how many were
    /// leaving.
    pub(super) fn recall(&mut self, generation: Generation) -> u32 {
        let transfers = self.leaving();
        self.generation = generation;
        self.admission.leave = Policy::CLOSED;
        for clip in &mut self.clips {
            if clip.state != State::Recording {
                clip.state = State::Waiting;
            }
            if !clip.refused {
                clip.not_before = Duration::ZERO;
            }
        }
        self.leaving.hurry();
        transfers
    }

    /// Judges every clip, oldest first, under what may be kept from now on; the others get their tombstone.
    pub(super) fn keep(&mut self, policy: Policy, position: Position, now: Now) -> Erased {
        self.obey(Admission::after_cut(policy, position, &self.admission));
        self.flash.erase_what_is_not_known();
        self.judge(now)
    }

    fn judge(&mut self, now: Now) -> Erased {
        self.judged = true;
        let Admission { keep, position, .. } = self.admission;
        let now_ms = trusted_ms(now.boot, now);
        let mut passed: Vec<_> = self.left.iter().copied().collect();
        self.doom(|clip| {
            let allowed = allows(keep, position.epoch, now_ms, &passed, clip, now);
            if allowed && clip.kind != ClipKind::Snapshot {
                passed.push((clip.started, clip.duration));
            }
            !allowed
        })
    }

    /// Erases what is older than the plan keeps.
    pub(super) fn expire(&mut self, now: Now) -> Erased {
        let history = Duration::from_secs(u64::from(self.admission.keep.history_h) * 3600);
        let known = self.admission.position != Position::NONE;
        self.doom(|clip| known && clip.state == State::Waiting && clip.age(now) > history)
    }

    fn doom(&mut self, condemned: impl FnMut(&mut Clip) -> bool) -> Erased {
        let (doomed, kept) = split(mem::take(&mut self.clips), condemned);
        self.clips = kept;
        let erased = sum(&doomed);
        doomed.iter().for_each(|clip| self.flash.condemn(clip));
        self.doomed.extend(doomed);
        self.tally.erased = add(self.tally.erased, erased);
        erased
    }

    pub(super) fn retry_refused(&mut self) {
        for clip in self.clips.iter_mut().filter(|clip| clip.refused) {
            clip.refused = false;
            clip.not_before = Duration::ZERO;
        }
    }

    // --- recording ---

    /// Whether a clip may begin, and how long it may get.
    pub(super) fn begin(&mut self, id: Uuid, beginning: Beginning, now: Now) -> Option<Duration> {
        let Admission { record, position, .. } = self.admission;
        let clip = Clip {
            id,
            kind: beginning.kind,
            epoch: position.epoch,
            height: beginning.height,
            started: Start::ThisBoot(now.boot.saturating_sub(beginning.ago)),
            duration: Duration::ZERO,
            fragments: Vec::new(),
            flash: OnFlash::No,
            since: now.boot,
            bytes: 0,
            sha256: String::new(),
            state: State::Recording,
            full: false,
            not_before: Duration::ZERO,
            failures: 0,
            unreadable: 0,
            refused: false,
            singled_out: false,
            trouble: None,
        };
        let now_ms = trusted_ms(now.boot, now);
        let held = self.clips.iter().filter(|clip| clip.kind != ClipKind::Snapshot).map(|clip| match clip.state {
            // It has not ended yet.
            State::Recording => clip.ended_ms(now).max(now_ms),
            State::Waiting | State::Leaving(_) => clip.ended_ms(now),
        });
        let left = self.left.iter().map(|(start, duration)| start.end_ms(*duration, now));
        // Trusted time may stand before the end of a clip of an earlier boot: that says nothing about now.
        let newest = left.chain(held).filter(|end| *end <= now_ms).max();
        let mut judge = Judge::new(record, position.epoch, now_ms, newest);
        let bound = position != Position::NONE;
        if !bound || !judge.allows(&clip.facts(now)) {
            return None;
        }
        let place = self.clips.partition_point(|other| other.started <= clip.started);
        self.clips.insert(place, clip);
        Some(Duration::from_secs(record.clip_max_s.into()))
    }

    /// Takes more of a clip; [`Verdict::Erased`] if it is here no more.
    pub(super) fn append(&mut self, id: Uuid, fragment: Bytes, duration: Duration, now: Now) -> Verdict {
        let size = fragment.len() as u64;
        let Some(clip) = self.recording(id) else { return Verdict::Erased };
        clip.duration = clip.duration.max(duration);
        clip.bytes += size;
        clip.fragments.push(fragment);
        if !self.make_room(id, now) {
            return Verdict::Erased;
        }
        // What comes next is about as large. A clip that ends early is worth more than one that is dropped for its last second.
        let fixed: u64 = self.clips.iter().filter(|clip| !clip.may_be_dropped()).map(Clip::in_memory).sum();
        let full = fixed.saturating_add(2 * size) > self.quota;
        if let Some(clip) = self.recording(id) {
            clip.full = full;
        }
        self.limit(id)
    }

    /// How long a clip that is being recorded may get; [`Verdict::Erased`] if it is here no more.
    pub(super) fn limit(&self, id: Uuid) -> Verdict {
        let longest = Duration::from_secs(self.admission.record.clip_max_s.into());
        match self.clips.iter().find(|clip| clip.id == id && clip.state == State::Recording) {
            Some(clip) if clip.full => Verdict::Continue { max: longest.min(clip.duration) },
            Some(_) => Verdict::Continue { max: longest },
            None => Verdict::Erased,
        }
    }

    /// The clip is whole and waits. What is longer than the plan allows is erased.
    pub(super) fn finish(&mut self, id: Uuid, duration: Duration, sha256: String, now: Now) {
        let longest = Duration::from_secs(self.admission.keep.clip_max_s.into());
        let Some(clip) = self.recording(id) else { return };
        clip.duration = clip.duration.max(duration);
        clip.sha256 = sha256;
        clip.since = now.boot;
        clip.state = State::Waiting;
        if clip.kind != ClipKind::Snapshot && clip.duration > longest {
            self.doom(|clip| clip.id == id);
        }
    }

    /// The clip will not be finished.
    pub(super) fn abandon(&mut self, id: Uuid) {
        if self.recording(id).is_some() {
            let (doomed, kept) = split(mem::take(&mut self.clips), |clip| clip.id == id);
            self.clips = kept;
            self.doomed.extend(doomed);
        }
    }

    fn recording(&mut self, id: Uuid) -> Option<&mut Clip> {
        self.clips.iter_mut().find(|clip| clip.id == id && clip.state == State::Recording)
    }

    /// Drops the oldest of the lowest class until all fits: never the clip that is being written, unless it alone is too
    /// much. Whether that clip is still here.
    fn make_room(&mut self, writing: Uuid, now: Now) -> bool {
        while self.memory() > self.quota {
            let droppable = self.clips.iter().enumerate().filter(|(_, clip)| clip.may_be_dropped());
            let first = droppable.min_by_key(|(index, clip)| (class(clip.kind), *index)).map(|(index, _)| index);
            // Only clips being sent, recorded and written are left: the newest must go.
            let index = first.or_else(|| self.clips.iter().position(|clip| clip.id == writing));
            let Some(index) = index else { return false };
            if self.drop_clip(index, now) == writing {
                return false;
            }
        }
        true
    }

    /// Takes a clip away for want of room, or because it cannot be read; which one it was.
    fn drop_clip(&mut self, index: usize, now: Now) -> Uuid {
        let clip = self.clips.remove(index);
        let (id, loss) = (clip.id, clip.loss(now));
        self.tally.dropped = add(self.tally.dropped, Erased { clips: 1, bytes: loss.bytes });
        self.dropped.push(loss);
        self.flash.condemn(&clip);
        self.doomed.push(clip);
        id
    }

    // --- the uploads' thread ---

    /// What is to be let go of, and what was lost for want of room.
    pub(super) fn sweep(&mut self) -> (Vec<Clip>, Vec<Loss>) {
        (mem::take(&mut self.doomed), mem::take(&mut self.dropped))
    }

    /// What memory holds of clips that are on flash and not on their way from there: to be let go of outside the lock.
    pub(super) fn shed(&mut self) -> Vec<Bytes> {
        let shelved = self.clips.iter_mut().filter(|clip| clip.flash == OnFlash::Yes && clip.state == State::Waiting);
        shelved.flat_map(|clip| mem::take(&mut clip.fragments)).collect()
    }
}

/// Whether the policy allows this clip among those that have left or are to leave before it. The oldest are asked about first,
/// but a clip that waits for a retry may be overtaken: then the cooldown holds before the later one as it does after the
/// earlier one.
fn allows(policy: Policy, epoch: u64, now_ms: u64, passed: &[(Start, Duration)], clip: &Clip, now: Now) -> bool {
    let earlier = passed.iter().filter(|(start, _)| *start <= clip.started).map(|(start, long)| start.end_ms(*long, now));
    let facts = clip.facts(now);
    if !Judge::new(policy, epoch, now_ms, earlier.max()).allows(&facts) {
        return false;
    }
    let cooldown_ms = u64::from(policy.cooldown_s) * 1000;
    let free_until = facts.ended_ms().saturating_add(cooldown_ms);
    let mut later = passed.iter().filter(|(start, _)| *start > clip.started);
    clip.kind == ClipKind::Snapshot || cooldown_ms == 0 || later.all(|(start, _)| start.trusted_ms(now) >= free_until)
}

fn split(clips: Vec<Clip>, condemned: impl FnMut(&mut Clip) -> bool) -> (Vec<Clip>, Vec<Clip>) {
    let mut condemned = condemned;
    let mut doomed = Vec::new();
    let mut kept = Vec::with_capacity(clips.len());
    for mut clip in clips {
        if condemned(&mut clip) { doomed.push(clip) } else { kept.push(clip) }
    }
    (doomed, kept)
}

fn sum(clips: &[Clip]) -> Erased {
    Erased { clips: clips.len() as u32, bytes: clips.iter().map(|clip| clip.bytes).sum() }
}

fn add(a: Erased, b: Erased) -> Erased {
    Erased { clips: a.clips + b.clips, bytes: a.bytes + b.bytes }
}
