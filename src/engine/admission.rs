//! What may leave: the engine's word to the gate, and the rule by which one clip is judged. Pure; the gate asks it at every door.

use std::time::Duration;

use care_protocol::{ClipKind, Policy, Position};

/// The gate's generation: whatever started under another one must stop. Only a cut advances it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// What the engine tells the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// What may be recorded and kept for upload: the document's policy. What exceeds it is erased.
    pub keep: Policy,
    /// What may leave now: `keep`, or less while held or after the lease. What exceeds it waits.
    pub leave: Policy,
    /// The document in force; grants are asked under it, and clips belong to its epoch.
    pub position: Position,
}

impl Admission {
    /// Nothing may be recorded, nothing may leave.
    pub const CLOSED: Self = Self { keep: Policy::CLOSED, leave: Policy::CLOSED, position: Position::NONE };
}

/// What a clip is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipFacts {
    /// What it is.
    pub kind: ClipKind,
    /// The epoch it was recorded in.
    pub epoch: u64,
    /// Trusted time of its first frame, milliseconds since 1970.
    pub started_ms: u64,
    /// How long it is, or is so far.
    pub duration: Duration,
    /// The picture's height in pixels.
    pub height: u32,
}

impl ClipFacts {
    /// Trusted time of its end, milliseconds since 1970.
    pub fn ended_ms(&self) -> u64 {
        self.started_ms.saturating_add(u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Judges clips, oldest first, under one policy: the cooldown counts from the last one it allowed.
#[derive(Debug, Clone)]
pub struct Judge {
    policy: Policy,
    epoch: u64,
    now_ms: u64,
    last_end_ms: Option<u64>,
}

impl Judge {
    /// A judge at `now_ms` of trusted time; `last_end_ms` is the end of the newest clip that has left already.
    pub fn new(policy: Policy, epoch: u64, now_ms: u64, last_end_ms: Option<u64>) -> Self {
        Self { policy, epoch, now_ms, last_end_ms }
    }

    /// Whether the policy allows this clip; if so the cooldown runs from its end.
    pub fn allows(&mut self, clip: &ClipFacts) -> bool {
        let policy = &self.policy;
        let age_ms = self.now_ms.saturating_sub(clip.started_ms);
        let of_this_owner = clip.epoch == self.epoch;
        let young = age_ms <= u64::from(policy.history_h) * 3_600_000 && policy.history_h > 0;
        let small = clip.height <= policy.max_height;
        let allowed = of_this_owner
            && young
            && small
            && match clip.kind {
                ClipKind::Snapshot => policy.snapshots,
                ClipKind::Motion | ClipKind::Manual => policy.clips && self.short(clip) && self.cooled(clip),
            };
        if allowed && clip.kind != ClipKind::Snapshot {
            self.last_end_ms = Some(clip.ended_ms().max(self.last_end_ms.unwrap_or(0)));
        }
        allowed
    }

    fn short(&self, clip: &ClipFacts) -> bool {
        clip.duration <= Duration::from_secs(self.policy.clip_max_s.into())
    }

    fn cooled(&self, clip: &ClipFacts) -> bool {
        let pause_ms = u64::from(self.policy.cooldown_s) * 1000;
        self.last_end_ms.is_none_or(|end| pause_ms == 0 || clip.started_ms >= end.saturating_add(pause_ms))
    }
}
