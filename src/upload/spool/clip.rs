//! One clip in the spool: its state, its place in memory and on flash, and the results of its uploads.
//! [`super::schedule`] and [`super::quota`] decide what happens to it next.

use std::time::Duration;

use bytes::Bytes;
use care_engine::{ClipFacts, Generation, Judge, trusted_time::Now};
use care_protocol::{ClipKind, Policy};
use uuid::Uuid;

use super::{
    failures::Trouble,
    start::{Start, trusted_ms},
};
use crate::{
    media::Beginning,
    upload::flash::{Facts, HEADER_BYTES},
};

/// One clip. Once removed from the spool, only its memory remains to be freed.
#[derive(Debug)]
pub(in crate::upload) struct Clip {
    pub(super) id: Uuid,
    pub(super) kind: ClipKind,
    pub(super) epoch: u64,
    pub(super) height: u32,
    pub(super) started: Start,
    pub(super) duration: Duration,
    /// Empty where its bytes are on flash alone.
    pub(super) fragments: Vec<Bytes>,
    pub(super) flash: OnFlash,
    /// BOOTTIME at which it was complete.
    pub(super) since: Duration,
    pub(super) bytes: u64,
    /// Lowercase hex, once it is complete.
    pub(super) sha256: String,
    pub(super) state: State,
    /// Being recorded, and the spool has no room for more of it.
    pub(super) full: bool,
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
            kind: beginning.kind,
            epoch,
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
        }
    }

    /// A clip that an earlier run left on flash; `None` if its id is not in the agent's form.
    pub(super) fn found(facts: Facts, now: Now) -> Option<Self> {
        let duration = Duration::from_millis(facts.duration_ms);
        Some(Self {
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
        if self.fragments.is_empty() { 0 } else { self.bytes }
    }

    pub(super) fn as_dropped(&self, now: Now) -> Dropped {
        Dropped { clip: self.facts(now), bytes: self.bytes }
    }

    /// Bytes of flash that it uses or is about to use.
    pub(super) fn on_flash(&self) -> u64 {
        if matches!(self.flash, OnFlash::Writing | OnFlash::Yes) { self.bytes + HEADER_BYTES } else { 0 }
    }

    /// Whether dropping it frees memory at once.
    pub(super) fn may_be_dropped(&self) -> bool {
        self.state == State::Waiting && !self.fragments.is_empty() && matches!(self.flash, OnFlash::No | OnFlash::Doubtful)
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
pub(super) fn allows(policy: Policy, epoch: u64, now_ms: u64, passed: &[(Start, Duration)], clip: &Clip, now: Now) -> bool {
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
