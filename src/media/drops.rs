//! Counts the frames that were lost on their way to the card or into a clip. Each place reports its own drops. One condition
//! (`frames_lost`) names all places until none has lost a frame for a minute.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::rtp::reason;
use crate::conditions::{Conditions, Kind};

/// Advice where frames come whole and cannot be decoded: the network is not to blame.
pub(super) const SET_THE_ENCODER: &str =
    "Set the camera's encoder to IDR pictures every few seconds, with SPS and PPS (H.265: and VPS) before each of them.";

/// The condition ends when no frame has been lost for this long.
const OVER_AFTER: Duration = Duration::from_secs(60);

/// Shared by everything that can lose a frame; clones are the same counters.
#[derive(Clone)]
pub(super) struct DropCounters {
    conditions: Conditions,
    places: Arc<Mutex<BTreeMap<&'static str, Dropped>>>,
}

struct Dropped {
    frames: u64,
    last: Instant,
}

impl DropCounters {
    pub fn new(conditions: Conditions) -> Self {
        Self { conditions, places: Arc::default() }
    }

    /// Counts `frames` more; `place` completes the sentence "frames were lost: 3 …".
    pub fn add(&self, place: &'static str, frames: u64) {
        if frames == 0 {
            return;
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = places.entry(place).or_insert(Dropped { frames: 0, last: Instant::now() });
        dropped.frames += frames;
        dropped.last = Instant::now();
        self.tell(&places);
    }

    fn tell(&self, places: &BTreeMap<&'static str, Dropped>) {
        let encoders = places.keys().all(|place| reason::is_the_encoders(place));
        let advice = if encoders { SET_THE_ENCODER } else { Kind::FramesLost.advice() };
        self.conditions.raise_advising(Kind::FramesLost, sentence(places), advice);
    }

    /// Ends the condition when its time has come. Call it every few seconds.
    pub fn expire(&self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let before = places.len();
        places.retain(|_, dropped| dropped.last.elapsed() < OVER_AFTER);
        match places.len() {
            0 if before > 0 => self.conditions.clear(Kind::FramesLost),
            now if now < before => self.tell(&places),
            _ => {}
        }
    }
}

fn sentence(places: &BTreeMap<&'static str, Dropped>) -> String {
    let places: Vec<String> = places.iter().map(|(place, dropped)| format!("{} {place}", dropped.frames)).collect();
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
        let drops = DropCounters::new(conditions.clone());
        drops.add("into a clip", 0);
        assert_eq!(conditions.list(NOW), []);
        drops.add("into a clip", 2);
        drops.add("on the way to the card", 7);
        drops.add("into a clip", 3);
        assert_eq!(conditions.list(NOW)[0].sentence, "frames were lost: 5 into a clip, 7 on the way to the card");
        drops.expire();
        assert_eq!(conditions.list(NOW).len(), 1, "it has only just happened");
        for dropped in drops.places.lock().unwrap().values_mut() {
            dropped.last = dropped.last.checked_sub(OVER_AFTER).unwrap();
        }
        drops.expire();
        assert_eq!(conditions.list(NOW), []);
    }
}
