//! What may leave: the limits that the engine sets at the gate, and the rule that judges one clip. No I/O. The gate
//! applies the rule when a clip is recorded, kept and sent.

use std::time::Duration;

use care_protocol::{ClipKind, Policy, Position};

/// The gate's generation: transfers and recordings of an earlier one must stop. Only a cut advances it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// The limits that the engine sets at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The policy for recording new clips.
    pub record: Policy,
    /// The policy for keeping clips: that of the document. Clips beyond it are erased.
    pub keep: Policy,
    /// The policy for uploads now: `keep`, or less while held or after the lease. Clips beyond it wait.
    pub leave: Policy,
    /// The document in force; grant requests carry its position, and clips belong to its epoch.
    pub position: Position,
}

impl Admission {
    /// No clip may be recorded or leave.
    pub const CLOSED: Self = Self { record: Policy::CLOSED, keep: Policy::CLOSED, leave: Policy::CLOSED, position: Position::NONE };

    /// The part of `before` that a cut with `keep` leaves until the gate opens again. For another owner no clip may be
    /// recorded before the old owner's pre-roll is erased.
    pub fn after_cut(keep: Policy, position: Position, before: &Self) -> Self {
        let cut = Self { record: keep, keep, leave: Policy::CLOSED, position };
        if cut.changes_owner_of(before) { Self { record: Policy::CLOSED, ..cut } } else { cut }
    }

    /// Whether the change from `before` to `self` restricts anything, so that it needs a cut:
    /// docs/protocol.md#the-switch.
    pub fn is_less_than(&self, before: &Self) -> bool {
        self.leave.is_less_than(&before.leave) || self.erases_of(before)
    }

    /// Whether the change from `before` to `self` erases clips that `before` allowed to be kept.
    pub fn erases_of(&self, before: &Self) -> bool {
        self.keep.is_less_than(&before.keep) || self.changes_owner_of(before)
    }

    /// Whether the camera has moved to another account.
    pub fn changes_owner_of(&self, before: &Self) -> bool {
        before.position.epoch != 0 && self.position.epoch != before.position.epoch
    }
}

/// The facts by which a clip is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipFacts {
    /// Its kind.
    pub kind: ClipKind,
    /// The epoch it was recorded in.
    pub epoch: u64,
    /// Trusted time of its first frame, milliseconds since 1970.
    pub started_ms: u64,
    /// Its length so far.
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
    /// A judge of clips at `now_ms` of trusted time; `last_end_ms` is the end of the newest clip that has left
    /// already.
    pub fn new(policy: Policy, epoch: u64, now_ms: u64, last_end_ms: Option<u64>) -> Self {
        Self { policy, epoch, now_ms, last_end_ms }
    }

    /// Whether the policy allows this clip; if so the cooldown runs from its end.
    pub fn allows(&mut self, clip: &ClipFacts) -> bool {
        let policy = &self.policy;
        let age_ms = self.now_ms.saturating_sub(clip.started_ms);
        let of_this_owner = clip.epoch == self.epoch;
        let young = policy.history_h > 0 && age_ms <= u64::from(policy.history_h) * 3_600_000;
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

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
    const NOW_MS: u64 = 1_767_225_600_000;

    fn clip() -> ClipFacts {
        ClipFacts { kind: ClipKind::Motion, epoch: 3, started_ms: NOW_MS - 60_000, duration: Duration::from_secs(12), height: 720 }
    }

    fn allows(clip: ClipFacts) -> bool {
        Judge::new(FREE, 3, NOW_MS, None).allows(&clip)
    }

    #[test]
    fn a_clip_at_every_limit_is_allowed_and_beyond_any_one_is_not() {
        assert!(allows(clip()));
        assert!(allows(ClipFacts { started_ms: NOW_MS - 12 * 3_600_000, ..clip() }));
        assert!(!allows(ClipFacts { started_ms: NOW_MS - 12 * 3_600_000 - 1, ..clip() }));
        assert!(!allows(ClipFacts { duration: Duration::from_millis(12_001), ..clip() }));
        assert!(!allows(ClipFacts { height: 721, ..clip() }));
        assert!(!allows(ClipFacts { epoch: 2, ..clip() }));
        assert!(!allows(ClipFacts { epoch: 4, ..clip() }));
        assert!(!allows(ClipFacts { kind: ClipKind::Snapshot, ..clip() }));
        assert!(!Judge::new(Policy { clips: false, ..FREE }, 3, NOW_MS, None).allows(&clip()));
        assert!(!Judge::new(Policy { history_h: 0, ..FREE }, 3, NOW_MS, None).allows(&ClipFacts { started_ms: NOW_MS, ..clip() }));
    }

    #[test]
    fn the_cooldown_runs_from_the_end_of_the_last_allowed_clip() {
        let mut judge = Judge::new(FREE, 3, NOW_MS, None);
        let first = ClipFacts { started_ms: NOW_MS - 1_000_000, ..clip() };
        assert!(judge.allows(&first));
        assert!(!judge.allows(&ClipFacts { started_ms: first.ended_ms() + 299_999, ..clip() }));
        assert!(judge.allows(&ClipFacts { started_ms: first.ended_ms() + 300_000, ..clip() }));
        let mut judge = Judge::new(FREE, 3, NOW_MS, Some(clip().started_ms - 1000));
        assert!(!judge.allows(&clip()), "a clip that has left already counts too");
    }

    #[test]
    fn after_a_cut_nothing_leaves_and_for_another_owner_nothing_is_recorded() {
        let before = Admission { record: FREE, keep: FREE, leave: FREE, position: Position { epoch: 3, seq: 41 } };
        let position = Position { epoch: 3, seq: 42 };
        let cut = Admission { record: FREE, keep: FREE, leave: Policy::CLOSED, position };
        assert_eq!(Admission::after_cut(FREE, position, &before), cut);
        let position = Position { epoch: 4, seq: 1 };
        assert_eq!(Admission::after_cut(FREE, position, &before), Admission { record: Policy::CLOSED, position, ..cut });
    }
}
