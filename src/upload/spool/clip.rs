//! One entry of the spool: a clip, or a part of one that leaves while it is being filmed. Its state, its place in memory
//! and on flash, and the results of its uploads. [`super::schedule`] and [`super::quota`] decide what happens to it next.

use std::time::Duration;

use bytes::Bytes;
use care_engine::{ClipFacts, Generation, Judge, trusted_time::Now};
use care_protocol::{ClipKind, Policy};
use uuid::Uuid;

use super::{
    failures::Trouble,
    growth::{Head, Shortage},
    start::{Start, trusted_ms},
};
use crate::{
    media::{Beginning, Progressive},
    upload::flash::{Facts, HEADER_BYTES, Tail},
};

/// A clip, or a part of one. Once removed from the spool, only its memory remains to be freed.
#[derive(Debug)]
pub(in crate::upload) struct Clip {
    /// Names its file. The clip's own id, except in parts after the first.
    pub(super) id: Uuid,
    /// Its place in a clip that leaves in parts; `None` for a whole clip.
    pub(super) part: Option<Part>,
    pub(super) kind: ClipKind,
    pub(super) epoch: u64,
    pub(super) height: u32,
    pub(super) started: Start,
    /// Of the whole clip, as far as it is filmed: what a policy judges.
    pub(super) duration: Duration,
    /// What is in memory, behind `head`. Empty where its bytes are on flash alone.
    pub(super) fragments: Vec<Bytes>,
    pub(super) flash: OnFlash,
    /// Its beginning, as far as it is in an unfinished file alone.
    pub(super) head: Head,
    /// Bytes for that file that the flash thread has got.
    pub(super) handed: u64,
    /// The header of a progressive file that it is to get once the flash thread has read `head`.
    pub(super) offered: Option<Progressive>,
    /// That header where it has it and `head` is in an unfinished file: it stands in front of that.
    pub(super) header: Bytes,
    /// Where its bytes are in its complete file.
    pub(super) tail: Tail,
    /// Bytes of its file that are not of the clip.
    pub(super) beside: u64,
    /// BOOTTIME at which it was complete, or at which a piece of its file was last read since.
    pub(super) since: Duration,
    pub(super) bytes: u64,
    /// Lowercase hex, once it is complete.
    pub(super) sha256: String,
    pub(super) state: State,
    /// Being recorded, and the spool has no room for more of it.
    pub(super) full: Option<Shortage>,
    /// Not tried before this.
    pub(super) not_before: Duration,
    /// How often its upload has failed, alone or together with others.
    pub(super) failures: u32,
    /// How often its file could not be read.
    pub(super) unreadable: u32,
    pub(super) refused: bool,
    /// Others were stored since it failed, or the server has reported that the fault lies in this clip.
    pub(super) singled_out: bool,
    /// Why it failed the last time.
    pub(super) trouble: Option<Trouble>,
}

/// The place of a part in its clip (`docs/protocol.md#parts`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upload) struct Part {
    pub(in crate::upload) clip: Uuid,
    /// From 0 on.
    pub(in crate::upload) index: u32,
    /// The clip ends with it.
    pub(in crate::upload) last: bool,
    /// Where in the clip it begins.
    pub(in crate::upload) from: Duration,
    /// Its own length.
    pub(in crate::upload) long: Duration,
}

/// The state of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Recording,
    Waiting,
    /// A transfer sends it, under this generation.
    InFlight(Generation),
}

/// Whether a clip is on flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFlash {
    No,
    /// The flash thread is writing it.
    Writing,
    Yes,
    /// Writing began and did not finish: the clip stays in memory, is written again, and its erasure is recorded.
    Doubtful,
    /// It outgrows memory: its file is written while it is filmed, and becomes a clip's when it is complete.
    Growing,
    /// The same, but nothing more is written: the rest stays in memory.
    Stuck(Shortage),
}

/// A clip that was dropped to make room for newer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upload) struct Dropped {
    pub(in crate::upload) clip: ClipFacts,
    pub(in crate::upload) bytes: u64,
}

impl Clip {
    /// A clip that begins now.
    pub(super) fn beginning(id: Uuid, beginning: &Beginning, epoch: u64, now: Now) -> Self {
        Self {
            id,
            part: None,
            kind: beginning.kind,
            epoch,
            height: beginning.height,
            started: Start::ThisBoot(now.boot.saturating_sub(beginning.ago)),
            duration: Duration::ZERO,
            fragments: Vec::new(),
            flash: OnFlash::No,
            head: Head::default(),
            handed: 0,
            offered: None,
            header: Bytes::new(),
            tail: Tail::default(),
            beside: 0,
            since: now.boot,
            bytes: 0,
            sha256: String::new(),
            state: State::Recording,
            full: None,
            not_before: Duration::ZERO,
            failures: 0,
            unreadable: 0,
            refused: false,
            singled_out: false,
            trouble: None,
        }
    }

    /// A clip, or a part of one, that an earlier run left on flash; `None` if an id is not in the agent's form.
    pub(super) fn found(facts: Facts, now: Now) -> Option<Self> {
        let duration = Duration::from_millis(facts.duration_ms);
        let beginning = Beginning { kind: facts.kind, ago: Duration::ZERO, height: facts.height };
        Some(Self {
            part: facts.part()?,
            started: Start::Earlier { stamped_ms: facts.started_ms, found: now.boot, lasted: duration },
            duration,
            flash: OnFlash::Yes,
            tail: facts.tail,
            beside: facts.tail.replaces,
            since: Duration::ZERO,
            bytes: facts.bytes,
            state: State::Waiting,
            sha256: facts.sha256.clone(),
            ..Self::beginning(facts.id()?, &beginning, facts.epoch, now)
        })
    }

    /// Ends the part that is being filmed. Returns the next one, which begins here.
    pub(super) fn end_part(&mut self, sha256: String, next: Uuid, now: Now) -> Self {
        let part = self.part.unwrap_or(Part { clip: self.id, index: 0, last: false, from: Duration::ZERO, long: Duration::ZERO });
        self.part = Some(Part { long: self.duration.saturating_sub(part.from), ..part });
        self.complete(sha256, now);
        let beginning = Beginning { kind: self.kind, ago: Duration::ZERO, height: self.height };
        Self {
            part: Some(Part { index: part.index.saturating_add(1), from: self.duration, ..part }),
            started: self.started,
            duration: self.duration,
            ..Self::beginning(next, &beginning, self.epoch, now)
        }
    }

    /// Ends the clip. Without parts it waits as a whole.
    pub(super) fn end(&mut self, sha256: String, now: Now) {
        self.part = self.part.map(|part| Part { last: true, long: self.duration.saturating_sub(part.from), ..part });
        self.complete(sha256, now);
    }

    fn complete(&mut self, sha256: String, now: Now) {
        self.sha256 = sha256;
        self.since = now.boot;
        self.state = State::Waiting;
        if self.flash == OnFlash::Growing && self.handed == 0 {
            // It fits memory after all.
            self.flash = OnFlash::No;
        }
    }

    /// The id of the clip that it is, or is part of.
    pub(super) fn clip(&self) -> Uuid {
        self.part.map_or(self.id, |part| part.clip)
    }

    /// The length of what it holds.
    pub(super) fn length(&self) -> Duration {
        self.part.map_or(self.duration, |part| part.long)
    }

    /// The facts by which a policy judges it.
    pub(super) fn facts(&self, now: Now) -> ClipFacts {
        ClipFacts {
            kind: self.kind,
            epoch: self.epoch,
            started_ms: self.started.trusted_ms(now),
            duration: self.duration,
            height: self.height,
        }
    }

    pub(super) fn ended_ms(&self, now: Now) -> u64 {
        self.started.end_ms(self.duration, now)
    }

    pub(super) fn age(&self, now: Now) -> Duration {
        Duration::from_millis(trusted_ms(now.boot, now).saturating_sub(self.started.trusted_ms(now)))
    }

    /// Bytes of memory that it uses.
    pub(super) fn in_memory(&self) -> u64 {
        let offered = self.offered.as_ref().map_or(0, |offered| offered.header.len());
        (self.fragments.iter().map(Bytes::len).sum::<usize>() + self.header.len() + offered) as u64
    }

    pub(super) fn as_dropped(&self, now: Now) -> Dropped {
        Dropped { clip: self.facts(now), bytes: self.bytes }
    }

    /// Bytes of flash that it uses or is about to use.
    pub(super) fn on_flash(&self) -> u64 {
        match self.flash {
            OnFlash::Writing | OnFlash::Yes => self.bytes + self.beside + HEADER_BYTES,
            OnFlash::Growing | OnFlash::Stuck(_) if self.handed > 0 => self.handed + self.beside + HEADER_BYTES,
            OnFlash::No | OnFlash::Doubtful | OnFlash::Growing | OnFlash::Stuck(_) => 0,
        }
    }

    /// Whether there may be a file of it, so that its erasure must be recorded.
    pub(super) fn may_have_file(&self) -> bool {
        self.flash != OnFlash::No && (self.flash != OnFlash::Growing || self.handed > 0)
    }

    /// Whether dropping it frees memory at once.
    pub(super) fn may_be_dropped(&self) -> bool {
        self.state == State::Waiting && self.in_memory() > 0 && matches!(self.flash, OnFlash::No | OnFlash::Doubtful | OnFlash::Stuck(_))
    }
}

/// A clip that has left, or is about to leave, as the cooldown counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) clip: Uuid,
    pub(super) started: Start,
    pub(super) duration: Duration,
}

impl Passed {
    pub(super) fn of(clip: &Clip) -> Self {
        Self { clip: clip.clip(), started: clip.started, duration: clip.duration }
    }
}

/// The spool drops lower classes first.
pub(super) fn class(kind: ClipKind) -> u8 {
    match kind {
        ClipKind::Snapshot => 0,
        ClipKind::Motion => 1,
        ClipKind::Manual => 2,
    }
}

/// Whether the policy allows this clip, given those that have left or are about to leave before it. The oldest are
/// judged first, but a later clip may overtake one that waits for a retry; the cooldown therefore holds in both
/// directions.
pub(super) fn allows(policy: Policy, epoch: u64, now_ms: u64, passed: &[Passed], clip: &Clip, now: Now) -> bool {
    let others = || passed.iter().filter(|other| other.clip != clip.clip());
    let earlier = others().filter(|other| other.started <= clip.started).map(|other| other.started.end_ms(other.duration, now));
    let facts = clip.facts(now);
    if !Judge::new(policy, epoch, now_ms, earlier.max()).allows(&facts) {
        return false;
    }
    let cooldown_ms = u64::from(policy.cooldown_s) * 1000;
    let free_until = facts.ended_ms().saturating_add(cooldown_ms);
    let mut later = others().filter(|other| other.started > clip.started);
    clip.kind == ClipKind::Snapshot || cooldown_ms == 0 || later.all(|other| other.started.trusted_ms(now) >= free_until)
}
