//! When each frame is decoded. Frames come in decoding order with presentation times only.
//!
//! The rule: a frame is decoded when the frame *depth* places before it in the order of presentation is shown. *depth* is how
//! many frames at most are decoded before a frame that is shown before them (`max_num_reorder_frames`). Then no frame is decoded
//! after it is shown, decoding times rise, and both hold in open GOPs and at any frame rate. At a constant rate they are evenly
//! spaced. No frame before the first has been shown, so the first *depth* frames are decoded early, one usual step apart: the
//! presentation begins that much later in the file, and an edit list says so.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::TIMESCALE;

/// A picture buffer holds no more (ITU-T H.264, A.3.1; H.265, A.4.2).
const DEEPEST: usize = 16;

/// Gives each frame its decoding time. All times are ticks; those of presentation count from the first frame.
#[derive(Debug)]
pub(super) struct DecodingTimes {
    depth: usize,
    step: u64,
    /// Presentation times that are no decoding time yet.
    shown: BinaryHeap<Reverse<u64>>,
    given: usize,
    last: Option<u64>,
}

impl DecodingTimes {
    /// For frames whose first presentation times, in decoding order, are `first`. `signalled` is the depth that the parameter
    /// sets promise, if they do; what the frames show counts too, because cameras promise too little. `step` is the usual one.
    pub fn new(signalled: Option<usize>, first: &[u64], step: u64) -> Self {
        let later = |(n, shown): (usize, &u64)| first[..n].iter().filter(|before| *before > shown).count();
        let seen = first.iter().enumerate().map(later).max().unwrap_or(0);
        let depth = signalled.unwrap_or(0).max(seen).min(DEEPEST);
        Self { depth, step, shown: BinaryHeap::new(), given: 0, last: None }
    }

    /// How much later than it is shown the first frame stands in the file: decoding begins at zero.
    pub fn lead(&self) -> u64 {
        self.depth as u64 * self.step
    }

    /// The decoding time of the next frame.
    pub fn next(&mut self, shown: u64) -> u64 {
        let time = self.peek(shown);
        self.shown.push(Reverse(shown));
        if self.given >= self.depth {
            self.shown.pop();
        }
        self.given += 1;
        self.last = Some(time);
        time
    }

    /// What [`Self::next`] would give.
    pub fn peek(&self, shown: u64) -> u64 {
        let time = if self.given < self.depth {
            self.given as u64 * self.step
        } else {
            self.shown.peek().map_or(shown, |Reverse(earliest)| shown.min(*earliest)) + self.lead()
        };
        // Only a stream that reorders more than it promised and showed at its beginning needs this. Its presentation stays exact.
        self.last.map_or(time, |last| time.max(last + 1))
    }
}

/// The usual step from one frame to the next: the median. `None` if there are no two.
pub(super) fn usual_step(shown: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut shown: Vec<u64> = shown.into_iter().collect();
    shown.sort_unstable();
    let mut steps: Vec<u64> = shown.windows(2).map(|pair| pair[1] - pair[0]).filter(|&step| step > 0).collect();
    steps.sort_unstable();
    steps.get(steps.len() / 2).map(|&step| step.min(TIMESCALE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(signalled: Option<usize>, seen: usize, shown: &[u64]) -> (Vec<u64>, u64) {
        let mut times = DecodingTimes::new(signalled, &shown[..seen], 10);
        (shown.iter().map(|&shown| times.next(shown)).collect(), times.lead())
    }

    #[test]
    fn without_reordering_decoding_is_presentation() {
        assert_eq!(decoded(None, 2, &[0, 7, 30, 31]), (vec![0, 7, 30, 31], 0));
    }

    #[test]
    fn at_a_constant_rate_decoding_is_evenly_spaced_also_in_open_gops() {
        // I P B B, and again with an open GOP: the I picture's leading B pictures come after it.
        let shown = [0, 30, 10, 20, 60, 40, 50, 90, 70, 80];
        assert_eq!(decoded(None, 4, &shown), ((0..10).map(|n| n * 10).collect(), 10));
        // A pyramid: I P B b b.
        let shown = [0, 40, 20, 10, 30, 80, 60, 50, 70];
        assert_eq!(decoded(None, 5, &shown), ((0..9).map(|n| n * 10).collect(), 20));
    }

    #[test]
    fn a_stream_that_reorders_more_than_it_promised_keeps_rising() {
        let (times, _) = decoded(Some(0), 2, &[0, 10, 40, 20, 30, 50]);
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
        assert_eq!(times[5], 50, "and it is no later for it afterwards");
    }

    proptest! {
        /// Any steps, any order that a picture buffer of this depth can have.
        #[test]
        fn no_frame_is_decoded_after_it_is_shown(
            steps in prop::collection::vec(1_u64..9000, 3..80),
            picks in prop::collection::vec(0_usize..5, 80),
            depth in 0_usize..5,
        ) {
            let mut at = 0;
            let mut waiting: Vec<(u64, usize)> = steps.iter().map(|step| { at += step; (at, 0) }).collect();
            let mut shown = vec![0];
            while let Some(&(_, overtaken)) = waiting.first() {
                // The first to be shown has been overtaken most.
                let pick = if overtaken < depth { picks[shown.len()].min(waiting.len() - 1) } else { 0 };
                for (_, overtaken) in &mut waiting[..pick] {
                    *overtaken += 1;
                }
                shown.push(waiting.remove(pick).0);
            }
            let (times, lead) = decoded(Some(depth), 1, &shown);
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", times);
            prop_assert!(times.iter().zip(&shown).all(|(&decoded, &shown)| decoded <= shown + lead), "{:?} {:?}", times, shown);
        }
    }
}
