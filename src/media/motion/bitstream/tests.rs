//! Frames in a ring, and the events that come of them.

use std::sync::atomic::Ordering;

use super::*;
use crate::media::{
    Frame,
    frame::Codec,
    tests::{eventually, named},
};

/// A ring that is watched, and what comes of it.
struct Watched {
    ring: Arc<Ring>,
    events: Events,
    conditions: Conditions,
    stop: StopSignal,
    format: Arc<Format>,
    frames: u32,
}

impl Watched {
    fn new() -> Self {
        let (events, _) = Events::new();
        let (conditions, stop) = (Conditions::default(), StopSignal::default());
        let ring = Arc::new(Ring::new(Duration::from_secs(600), 1 << 26));
        start(ring.clone(), events.clone(), &Detection::default(), conditions.clone(), stop.clone()).unwrap();
        Self { ring, events, conditions, stop, format: format(640), frames: 0 }
    }

    /// So many frames, ten a second, the first of every twenty a keyframe.
    fn film(&mut self, frames: u32, bytes: usize) {
        for _ in 0..frames {
            self.push(self.frames.is_multiple_of(20), bytes);
        }
    }

    fn push(&mut self, key: bool, bytes: usize) {
        let data = vec![0; if key { 20_000 } else { bytes }].into();
        let pts = Duration::from_millis(100) * self.frames;
        self.ring.push(Frame { pts, key, taken: Instant::now(), data, format: self.format.clone(), sound: None });
        self.frames += 1;
    }

    fn is_blind(&self) -> bool {
        named(&self.conditions, "motion_blind").is_some()
    }

    fn events(&self) -> u64 {
        self.events.counts.events.load(Ordering::Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

fn format(width: u16) -> Arc<Format> {
    Arc::new(Format { codec: Codec::H265, width, height: 360, configuration: bytes::Bytes::new() })
}

#[test]
fn frames_that_grow_are_an_event_and_those_of_another_format_are_not() {
    let mut watched = Watched::new();
    watched.film(300, 1000);
    watched.film(20, 3000);
    eventually("motion is told", || watched.events() > 0);
    let mut watched = Watched::new();
    watched.film(300, 1000);
    watched.format = format(1920);
    watched.film(300, 6000);
    // Once this is told, everything before has been looked at.
    (0..KEYFRAMES).for_each(|_| watched.push(true, 0));
    eventually("all of it is seen", || watched.is_blind());
    assert_eq!(watched.events(), 0);
}

#[test]
fn a_stream_of_keyframes_alone_is_told_while_it_lasts() {
    let mut watched = Watched::new();
    watched.film(40, 1000);
    (0..KEYFRAMES).for_each(|_| watched.push(true, 0));
    eventually("it is told", || watched.is_blind());
    watched.push(false, 1000);
    eventually("it is over", || !watched.is_blind());
    assert_eq!(watched.events(), 0);
}
