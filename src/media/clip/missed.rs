//! Counts the events that are in no clip although a clip was allowed, and says why in the condition `events_missed`. Also says,
//! in `pre_roll_too_small`, when that is about to happen.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use crate::{
    conditions::{Conditions, Kind},
    media::ring::{Gop, Ring},
};

/// The condition ends when no event has been missed for this long.
const OVER_AFTER: Duration = Duration::from_secs(600);

/// Why an event is in no clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// The keyframe before it is too old: a clip that begins with it would end before the event.
    Interval { max: Duration, interval: Duration },
    /// The bound of the pre-roll has dropped the keyframe before it.
    PreRoll { max_bytes: usize },
    /// The recorder came too late: the pre-roll had dropped it.
    Gone,
    /// There was no picture yet, or no longer.
    NoPicture,
}

impl Reason {
    /// The same reason, whatever the figures.
    fn sort(self) -> u8 {
        match self {
            Self::Interval { .. } => 0,
            Self::PreRoll { .. } => 1,
            Self::Gone => 2,
            Self::NoPicture => 3,
        }
    }
}

/// Completes "2 …".
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Interval { max, interval } => {
                write!(f, "because keyframes are {:.1} s apart and a clip may last {} s", interval.as_secs_f64(), max.as_secs_f64())
            }
            Self::PreRoll { max_bytes } => {
                write!(f, "because a keyframe interval is larger than [media] pre_roll_bytes ({:.1} MB)", max_bytes as f64 / 1e6)
            }
            Self::Gone => f.write_str("because the clip before took so long to write that the pre-roll was gone"),
            Self::NoPicture => f.write_str("because there was no picture"),
        }
    }
}

/// Only the recorder's thread has one.
pub(super) struct Missed {
    conditions: Conditions,
    /// By [`Reason::sort`].
    counts: BTreeMap<u8, (Reason, u64)>,
    last: Instant,
}

impl Missed {
    pub fn new(conditions: Conditions) -> Self {
        Self { conditions, counts: BTreeMap::new(), last: Instant::now() }
    }

    pub fn add(&mut self, events: u64, reason: Reason) {
        if events == 0 {
            return;
        }
        self.last = Instant::now();
        let (newest, count) = self.counts.entry(reason.sort()).or_insert((reason, 0));
        (*newest, *count) = (reason, *count + events);
        let told: Vec<String> = self.counts.values().map(|(reason, count)| format!("{count} {reason}")).collect();
        self.conditions.raise(Kind::EventsMissed, format!("events are in no clip: {}", told.join(", ")));
    }

    /// Ends the condition when its time has come, and looks at the pre-roll of each stream. Call it about once a second.
    pub fn tend<'a>(&mut self, mut rings: impl Iterator<Item = &'a Ring>) {
        if !self.counts.is_empty() && self.last.elapsed() >= OVER_AFTER {
            self.counts.clear();
            self.conditions.clear(Kind::EventsMissed);
        }
        let overflow = rings.find_map(|ring| ring.overflow().map(|gop| too_small(gop, ring.max_bytes())));
        self.conditions.set(Kind::PreRollTooSmall, overflow);
    }
}

fn too_small(gop: Gop, max_bytes: usize) -> String {
    let (bytes, max, lasts) = (gop.bytes as f64 / 1e6, max_bytes as f64 / 1e6, gop.lasts.as_secs_f64());
    format!(
        "a keyframe interval is larger than the pre-roll may be ({bytes:.1} MB in {lasts:.1} s; {max:.1} MB are allowed): events near its \
         end are in no clip"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::named;

    #[test]
    fn one_condition_names_every_reason_and_ends_when_nothing_is_missed_any_more() {
        let conditions = Conditions::default();
        let mut missed = Missed::new(conditions.clone());
        let named = || named(&conditions, "events_missed");
        missed.add(0, Reason::NoPicture);
        assert_eq!(named(), None);
        let interval = |seconds| Reason::Interval { max: Duration::from_secs(12), interval: Duration::from_secs(seconds) };
        missed.add(1, interval(13));
        assert_eq!(named().unwrap(), "events are in no clip: 1 because keyframes are 13.0 s apart and a clip may last 12 s");
        missed.add(2, interval(20));
        missed.add(1, Reason::PreRoll { max_bytes: 6_000_000 });
        assert_eq!(
            named().unwrap(),
            "events are in no clip: 3 because keyframes are 20.0 s apart and a clip may last 12 s, 1 because a keyframe interval is \
             larger than [media] pre_roll_bytes (6.0 MB)"
        );
        missed.tend(std::iter::empty());
        assert!(named().is_some());
        missed.last = missed.last.checked_sub(OVER_AFTER).unwrap();
        missed.tend(std::iter::empty());
        assert_eq!(named(), None);
    }
}
