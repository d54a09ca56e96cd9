//! Frames that were lost on their way to the card or into a clip: each place tells of its own, and one condition names them
//! all, until none has been lost for a while.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::conditions::{Conditions, Kind};

/// The condition is over when no frame has been lost for this long.
const OVER_AFTER: Duration = Duration::from_secs(60);

/// Shared by everything that can lose a frame.
#[derive(Clone)]
pub(super) struct Losses {
    conditions: Conditions,
    held: Arc<Mutex<BTreeMap<&'static str, Lost>>>,
}

struct Lost {
    frames: u64,
    last: Instant,
}

impl Losses {
    pub fn new(conditions: Conditions) -> Self {
        Self { conditions, held: Arc::default() }
    }

    /// `frames` more were lost; `place` completes "frames were lost …".
    pub fn add(&self, place: &'static str, frames: u64) {
        if frames == 0 {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = held.entry(place).or_insert(Lost { frames: 0, last: Instant::now() });
        lost.frames += frames;
        lost.last = Instant::now();
        self.conditions.raise(Kind::FramesLost, sentence(&held));
    }

    /// Looks whether it is over. To be called every few seconds, by anybody.
    pub fn look(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held.len();
        held.retain(|_, lost| lost.last.elapsed() < OVER_AFTER);
        if held.len() < before {
            self.conditions.set(Kind::FramesLost, (!held.is_empty()).then(|| sentence(&held)));
        }
    }
}

fn sentence(held: &BTreeMap<&'static str, Lost>) -> String {
    let places: Vec<String> = held.iter().map(|(place, lost)| format!("{} {place}", lost.frames)).collect();
    format!("frames were lost: {}", places.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use care_engine::trusted_time::Now;

    const NOW: Now = Now {
        boot: Duration::from_secs(60),
        trusted: Duration::from_secs(1_767_225_600),
        confirmed: true,
        disputed: None,
        corrected: None,
    };

    #[test]
    fn one_condition_names_every_place_and_ends_with_the_last() {
        let conditions = Conditions::default();
        let losses = Losses::new(conditions.clone());
        losses.add("into a clip", 0);
        assert_eq!(conditions.list(NOW), []);
        losses.add("into a clip", 2);
        losses.add("on the way to the card", 7);
        losses.add("into a clip", 3);
        assert_eq!(conditions.list(NOW)[0].sentence, "frames were lost: 5 into a clip, 7 on the way to the card");
        losses.look();
        assert_eq!(conditions.list(NOW).len(), 1, "it has only just happened");
        for lost in losses.held.lock().unwrap().values_mut() {
            lost.last = lost.last.checked_sub(OVER_AFTER).unwrap();
        }
        losses.look();
        assert_eq!(conditions.list(NOW), []);
    }
}
