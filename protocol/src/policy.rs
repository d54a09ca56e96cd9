//! The limits in an entitlement: what may be uploaded and how long it is kept (`docs/protocol.md#policy`). The engine
//! compares policies here; whether one clip is allowed is judged elsewhere, at the gate.

use serde::{Deserialize, Serialize};

use crate::{Reject, json::Object};

/// The largest policy limit: 2^31 − 1.
const MAX_LIMIT: u64 = (1 << 31) - 1;

/// What may leave the camera. The camera enforces this and ignores plan names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether clips may be uploaded at all.
    pub clips: bool,
    /// How old a clip may be, in hours; 0 allows none.
    pub history_h: u32,
    /// How long a clip may be, in seconds.
    pub clip_max_s: u32,
    /// The pause between the end of one clip and the start of the next, in seconds.
    pub cooldown_s: u32,
    /// How tall a clip's picture may be, in pixels.
    pub max_height: u32,
    /// Whether snapshots may be uploaded.
    pub snapshots: bool,
}

impl Policy {
    /// Nothing may leave.
    pub const CLOSED: Self =
        Self { clips: false, history_h: 0, clip_max_s: 0, cooldown_s: MAX_LIMIT as u32, max_height: 0, snapshots: false };

    /// Whether going from `before` to `self` takes something away: any limit is stricter, even if another is looser
    /// (`docs/protocol.md#policy`).
    pub fn is_less_than(&self, before: &Self) -> bool {
        (before.clips && !self.clips)
            || (before.snapshots && !self.snapshots)
            || self.history_h < before.history_h
            || self.clip_max_s < before.clip_max_s
            || self.max_height < before.max_height
            || self.cooldown_s > before.cooldown_s
    }

    /// The stricter value of each field: the minimum, for `cooldown_s` the maximum (`docs/protocol.md#policy`).
    pub fn floor(&self, other: &Self) -> Self {
        Self {
            clips: self.clips && other.clips,
            history_h: self.history_h.min(other.history_h),
            clip_max_s: self.clip_max_s.min(other.clip_max_s),
            cooldown_s: self.cooldown_s.max(other.cooldown_s),
            max_height: self.max_height.min(other.max_height),
            snapshots: self.snapshots && other.snapshots,
        }
    }

    pub(crate) fn read(object: &Object) -> Result<Self, Reject> {
        let limit = |name| object.integer(name, 0..=MAX_LIMIT).map(|value| value as u32);
        Ok(Self {
            clips: object.boolean("clips")?,
            history_h: limit("history_h")?,
            clip_max_s: limit("clip_max_s")?,
            cooldown_s: limit("cooldown_s")?,
            max_height: limit("max_height")?,
            snapshots: object.boolean("snapshots")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_policy() -> impl Strategy<Value = Policy> {
        (any::<bool>(), 0..4u32, 0..4u32, 0..4u32, 0..4u32, any::<bool>()).prop_map(
            |(clips, history_h, clip_max_s, cooldown_s, max_height, snapshots)| Policy {
                clips,
                history_h,
                clip_max_s,
                cooldown_s,
                max_height,
                snapshots,
            },
        )
    }

    proptest! {
        #[test]
        fn the_floor_is_no_more_than_either_and_going_up_from_it_is_not_less(a in any_policy(), b in any_policy()) {
            let floor = a.floor(&b);
            prop_assert!(!a.is_less_than(&floor) && !b.is_less_than(&floor));
            prop_assert_eq!(floor == a, !floor.is_less_than(&a));
        }
    }
}
