//! Where a clip begins. Pure: the keyframes that the pre-roll holds and the moment of an event go in, a position comes out.
//! docs/design/clips.md derives the rules.

use std::time::Duration;

use crate::media::{
    frame::Format,
    ring::{Key, Overview},
};

/// A clip ends this long after its last event.
pub(super) const AFTER: Duration = Duration::from_secs(5);

/// What bounds a clip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How much of the past it should begin with.
    pub pre_roll: Duration,
    /// The plan's longest clip.
    pub max: Duration,
}

/// What of a stream the last clip has, on the stream's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footage {
    pub from: Duration,
    pub until: Duration,
}

impl Limits {
    /// How much follows an event if there is a choice.
    pub fn after(&self) -> Duration {
        AFTER.min(self.max / 2)
    }
}

/// Where a clip begins that has the moment: with the pre-roll and what follows the event, if a keyframe allows both; else with
/// what is left of the pre-roll; else with the newest keyframe that leaves room for the moment itself. It repeats no more of
/// the last clip than the GOP in which that ended.
pub(super) fn holding(overview: &Overview, limits: Limits, last: Option<Footage>) -> Option<u64> {
    let earliest = last.map_or(Duration::ZERO, |last| begin_of_gop(overview, last.until));
    let within = within(overview, overview.moment, limits, earliest);
    let age = |key: &&Key| overview.moment - key.pts;
    let budget = limits.max.saturating_sub(limits.after());
    let followed = || within.iter().copied().filter(|key| age(key) <= budget);
    let chosen = followed().rfind(|key| age(key) >= limits.pre_roll).or_else(|| followed().next());
    chosen.or_else(|| within.last().copied()).map(|key| key.position)
}

/// Where the next clip of a series begins: at the newest keyframe in the last one, so that no frame is missing between the two,
/// else as early as its length allows.
pub(super) fn going_on(overview: &Overview, limits: Limits, last: Footage) -> Option<u64> {
    let moment = overview.moment.max(last.until);
    let within = within(overview, moment, limits, begin_of_gop(overview, last.until));
    within.into_iter().find(|key| key.pts > last.from).map(|key| key.position)
}

/// The first keyframe after the moment, which is then missing in the clip.
pub(super) fn following(overview: &Overview, last: Option<Footage>) -> Option<u64> {
    let after = last.map_or(overview.moment, |last| overview.moment.max(last.from));
    overview.keys.iter().find(|key| key.pts > after).map(|key| key.position)
}

/// The newest keyframe until then; zero if none is held.
fn begin_of_gop(overview: &Overview, until: Duration) -> Duration {
    overview.keys.iter().rfind(|key| key.pts <= until).map_or(Duration::ZERO, |key| key.pts)
}

/// The keyframes, from `earliest` on, of clips that have the moment, the oldest first: not too old, and no change of picture
/// between.
fn within(overview: &Overview, moment: Duration, limits: Limits, earliest: Duration) -> Vec<&Key> {
    let mut keys: Vec<&Key> = overview.keys.iter().filter(|key| key.pts <= moment).collect();
    let Some(newest) = keys.last().copied() else { return keys };
    let change = keys.iter().rposition(|key| !same_picture(&key.format, &newest.format));
    keys.drain(..change.map_or(0, |at| at + 1));
    let step = overview.step.min(limits.max / 4);
    keys.retain(|key| key.pts >= earliest && moment - key.pts + step <= limits.max);
    keys
}

/// Whether one file can have both.
fn same_picture(one: &Format, other: &Format) -> bool {
    (one.codec, one.width, one.height) == (other.codec, other.width, other.height)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::media::frame::Codec;

    fn seconds(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    fn format(height: u16) -> Arc<Format> {
        Arc::new(Format { codec: Codec::H264, width: 640, height, configuration: Bytes::new() })
    }

    /// Keyframes at these seconds, 15 frames a second.
    fn overview(keys: &[f64], moment: f64) -> Overview {
        let key = |(n, &at): (usize, &f64)| Key { position: n as u64, pts: seconds(at), format: format(360) };
        Overview {
            keys: keys.iter().enumerate().map(key).collect(),
            moment: seconds(moment),
            oldest: Duration::ZERO,
            newest: seconds(moment),
            has_dropped: false,
            step: seconds(1.0 / 15.0),
        }
    }

    fn limits(pre_roll: f64, max: f64) -> Limits {
        Limits { pre_roll: seconds(pre_roll), max: seconds(max) }
    }

    fn footage(from: f64, until: f64) -> Footage {
        Footage { from: seconds(from), until: seconds(until) }
    }

    #[test]
    fn a_clip_begins_with_the_pre_roll_if_what_follows_fits_too() {
        let each_second: Vec<f64> = (0..20).map(f64::from).collect();
        let at = overview(&each_second, 18.5);
        assert_eq!(holding(&at, limits(5.0, 60.0), None), Some(13), "the newest at least 5 s old");
        assert_eq!(holding(&at, limits(60.0, 12.0), None), Some(12), "7 s before, 5 s after");
        assert_eq!(holding(&at, limits(5.0, 3.0), None), Some(17), "half before, half after");
        assert_eq!(holding(&at, limits(0.0, 60.0), None), Some(18));
    }

    #[test]
    fn a_keyframe_older_than_the_pre_roll_is_better_than_a_clip_without_its_event() {
        // Intervals of 10, 20 and 30 s.
        for (keys, moment, max, chosen) in
            [(&[0.0, 10.0][..], 18.0, 60.0, 1), (&[0.0, 20.0], 29.5, 12.0, 1), (&[0.0, 20.0], 31.9, 12.0, 1), (&[30.0], 58.0, 60.0, 0)]
        {
            assert_eq!(holding(&overview(keys, moment), limits(5.0, max), None), Some(chosen), "{keys:?} at {moment}, {max} s");
        }
        assert_eq!(holding(&overview(&[0.0, 20.0], 32.0), limits(5.0, 12.0), None), None, "12 s after the keyframe");
        assert_eq!(following(&overview(&[0.0, 20.0], 32.0), None), None, "the next one has not come");
        assert_eq!(following(&overview(&[0.0, 20.0, 40.0], 32.0), None), Some(2));
    }

    #[test]
    fn a_clip_repeats_no_more_than_the_gop_in_which_the_last_one_ended() {
        let each_two: Vec<f64> = (0..20).map(|n| f64::from(n) * 2.0).collect();
        let at = overview(&each_two, 30.0);
        assert_eq!(holding(&at, limits(5.0, 60.0), Some(footage(4.0, 27.5))), Some(13));
        assert_eq!(holding(&at, limits(5.0, 60.0), Some(footage(4.0, 28.0))), Some(14));
        assert_eq!(holding(&at, limits(5.0, 60.0), Some(footage(4.0, 10.0))), Some(12));
        let long = overview(&[0.0, 20.0], 28.0);
        assert_eq!(holding(&long, limits(5.0, 12.0), Some(footage(20.0, 26.0))), Some(1), "the whole clip again, but with its event");
    }

    #[test]
    fn a_series_goes_on_without_a_hole_and_never_from_the_same_keyframe() {
        let each_two: Vec<f64> = (0..20).map(|n| f64::from(n) * 2.0).collect();
        assert_eq!(going_on(&overview(&each_two, 13.0), limits(5.0, 12.0), footage(0.0, 12.0)), Some(6));
        assert_eq!(going_on(&overview(&each_two, 13.0), limits(5.0, 12.0), footage(0.0, 11.9)), Some(5));
        assert_eq!(going_on(&overview(&each_two, 3.0), limits(5.0, 12.0), footage(0.0, 12.0)), Some(6), "only what follows is missing");
        assert_eq!(going_on(&overview(&[0.0], 13.0), limits(5.0, 12.0), footage(0.0, 12.0)), None);
        assert_eq!(going_on(&overview(&[0.0, 20.0], 20.5), limits(5.0, 12.0), footage(0.0, 12.0)), Some(1));
        assert_eq!(following(&overview(&[0.0, 20.0], 13.0), Some(footage(0.0, 12.0))), Some(1));
    }

    #[test]
    fn a_clip_has_one_picture_size() {
        let mut at = overview(&[0.0, 2.0, 4.0, 6.0, 8.0], 9.0);
        for key in &mut at.keys[..2] {
            key.format = format(720);
        }
        assert_eq!(holding(&at, limits(8.0, 60.0), None), Some(2), "the first of the size that the event has");
        at.moment = seconds(3.0);
        assert_eq!(holding(&at, limits(8.0, 60.0), None), Some(0), "the change came after the event");
        let change = footage(0.0, 4.0);
        assert_eq!(going_on(&at, limits(5.0, 60.0), change), Some(2), "with the very frame of the change");
    }

    proptest! {
        /// For every keyframe interval and every longest clip: a clip has its event if any clip can.
        #[test]
        fn a_clip_has_its_event_if_any_clip_can(
            gaps in prop::collection::vec(0.04_f64..40.0, 1..12),
            into in 0.0_f64..1.0,
            pre_roll in 0.0_f64..60.0,
            max in 1.0_f64..120.0,
        ) {
            let mut keys = vec![0.0];
            for gap in gaps {
                keys.push(keys[keys.len() - 1] + gap);
            }
            let moment = into * (keys[keys.len() - 1] + 40.0);
            let (at, limits) = (overview(&keys, moment), limits(pre_roll, max));
            let newest = keys.iter().rfind(|key| **key <= moment).unwrap();
            let possible = moment - newest + 1.0 / 15.0 < max - 1e-6;
            let impossible = moment - newest + 1.0 / 15.0 > max + 1e-6;
            match holding(&at, limits, None) {
                Some(chosen) => {
                    prop_assert!(!impossible);
                    let age = moment - keys[chosen as usize];
                    prop_assert!(age >= 0.0 && age < max);
                    // What follows the event gives way only to the event itself.
                    let half = (max / 2.0).min(5.0);
                    prop_assert!(age <= max - half + 1e-6 || keys[chosen as usize] == *newest);
                }
                None => prop_assert!(!possible),
            }
        }
    }
}
