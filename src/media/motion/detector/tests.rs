//! The detector's rules one by one, on pictures of noise and blocks. `motion/tests` measures it on whole scenes.

use super::*;

/// What a test shows the detector, a picture a second unless it says otherwise.
struct Shown {
    detector: Detector,
    random: fastrand::Rng,
    at: Duration,
    step: Duration,
    noise: f32,
}

/// Left upper corner, width and height of a block, and its grey.
type Block = (usize, usize, usize, usize, u8);

const PERSON: Block = (20, 10, 4, 12, 150);

impl Shown {
    fn new(sensitivity: u8, watched: Option<Vec<bool>>) -> Self {
        let detector = Detector::new(Tuning::of(sensitivity), watched);
        let mut shown =
            Self { detector, random: fastrand::Rng::with_seed(7), at: Duration::ZERO, step: Duration::from_secs(1), noise: 1.0 };
        assert_eq!(shown.times(30, &[]), 0, "noise is no motion");
        shown
    }

    fn default() -> Self {
        Self::new(50, None)
    }

    /// Whether a picture with these blocks shows motion.
    fn moves(&mut self, blocks: &[Block]) -> bool {
        self.moves_in_light(blocks, 1.0)
    }

    fn moves_in_light(&mut self, blocks: &[Block], gain: f32) -> bool {
        // A wall, and a brighter one.
        let mut picture: Vec<u8> = (0..CELLS).map(|cell| if cell % WIDTH < 40 { 90 } else { 120 }).collect();
        for &(left, top, wide, tall, grey) in blocks {
            (top..top + tall).for_each(|row| picture[row * WIDTH + left..][..wide].fill(grey));
        }
        // Of the standard deviation that is asked for.
        let (random, noise) = (&mut self.random, self.noise);
        let lit: Vec<u8> = picture
            .iter()
            .map(|grey| (f32::from(*grey) * gain + (random.f32() + random.f32() - 1.0) * 2.5 * noise).clamp(0.0, 255.0) as u8)
            .collect();
        self.at += self.step;
        self.detector.see(&lit, self.at).is_some()
    }

    /// How many of so many pictures show motion.
    fn times(&mut self, pictures: usize, blocks: &[Block]) -> usize {
        (0..pictures).filter(|_| self.moves(blocks)).count()
    }
}

#[test]
fn one_appearance_of_a_person_counts_where_pictures_are_rare() {
    assert!(Shown::default().moves(&[PERSON]));
}

#[test]
fn something_small_must_be_seen_twice() {
    let mut shown = Shown::default();
    let mouse = |left| (left, 20, 2, 2, 140);
    assert!(!shown.moves(&[mouse(20)]));
    assert!(shown.moves(&[mouse(24)]));
    assert_eq!(shown.times(5, &[]), 0);
}

#[test]
fn at_five_pictures_a_second_what_flashes_up_once_is_no_motion() {
    let mut shown = Shown::default();
    shown.step = Duration::from_millis(200);
    for corner in [5, 40, 12, 50, 25, 33] {
        assert!(!shown.moves(&[(corner, corner / 3, 4, 4, 200)]));
        assert_eq!(shown.times(5, &[]), 0);
    }
    assert!((0..6).any(|step| shown.moves(&[(10 + step, 10, 4, 12, 150)])), "what goes on is");
}

#[test]
fn who_stands_still_is_background_within_twenty_seconds_and_may_leave() {
    let mut shown = Shown::default();
    let seen = shown.times(40, &[PERSON]);
    assert!((3..=22).contains(&seen), "{seen} s");
    assert_eq!(shown.times(20, &[PERSON]), 0);
    assert_eq!(shown.times(20, &[]), 0, "what was there before is known");
    assert!(shown.moves(&[(30, 10, 4, 12, 150)]), "another place is not");
}

#[test]
fn what_always_stood_there_and_leaves_is_motion_for_twenty_seconds_at_most() {
    let mut shown = Shown { detector: Detector::new(Tuning::of(50), None), ..Shown::default() };
    assert_eq!(shown.times(60, &[PERSON]), 0);
    let seen = shown.times(60, &[]);
    assert!((3..=22).contains(&seen), "{seen} s");
    assert_eq!(shown.times(20, &[]), 0);
}

#[test]
fn what_stays_is_background_in_a_noisy_picture_too() {
    for step in [Duration::from_secs(1), Duration::from_millis(200)] {
        for sensitivity in [50, 100] {
            let mut shown = Shown::new(sensitivity, None);
            (shown.step, shown.noise) = (step, 5.0);
            let pictures = |seconds: u64| (seconds * 1000 / step.as_millis() as u64) as usize;
            shown.times(pictures(90), &[]);
            assert!(shown.times(pictures(40), &[PERSON]) > 0, "sensitivity {sensitivity}, every {step:?}");
            assert_eq!(shown.times(pictures(60), &[PERSON]), 0, "sensitivity {sensitivity}, every {step:?}");
        }
    }
}

#[test]
fn another_light_is_no_motion() {
    let mut shown = Shown::default();
    for gain in [1.3, 0.7, 0.75, 1.5, 0.2, 0.9] {
        assert!(!(0..5).any(|_| shown.moves_in_light(&[], gain)), "{gain}");
    }
}

#[test]
fn a_person_is_seen_although_the_light_changes() {
    let mut shown = Shown::default();
    assert!(shown.moves_in_light(&[PERSON], 1.1));
    assert!(shown.moves_in_light(&[(26, 10, 4, 12, 150)], 0.95));
}

#[test]
fn motion_outside_the_watched_cells_does_not_count() {
    let left_half = (0..CELLS).map(|cell| cell % WIDTH < 32).collect();
    let mut shown = Shown::new(50, Some(left_half));
    assert_eq!((0..20).filter(|step| shown.moves(&[(40 + step, 10, 4, 12, 170)])).count(), 0);
    assert!(shown.moves(&[PERSON]));
}

#[test]
fn sensitivity_decides_how_faint_and_how_small() {
    let faint = (20, 10, 4, 12, 100);
    let small = |left| [(left, 20, 2, 2, 170)];
    for (sensitivity, sees_faint, sees_small) in [(1, false, false), (50, false, true), (100, true, true)] {
        assert_eq!(Shown::new(sensitivity, None).moves(&[faint]), sees_faint, "{sensitivity}");
        let mut shown = Shown::new(sensitivity, None);
        assert_eq!((0..6).any(|step| shown.moves(&small(20 + 2 * step))), sees_small, "{sensitivity}");
    }
    let (low, high) = (Tuning::of(30), Tuning::of(70));
    assert!(low.contrast > high.contrast && low.least > high.least);
}

#[test]
fn what_changed_while_the_stream_was_away_is_no_motion() {
    let mut shown = Shown::default();
    shown.step = Duration::from_secs(600);
    assert!(!shown.moves(&[PERSON]));
    shown.step = Duration::from_secs(1);
    assert_eq!(shown.times(10, &[PERSON]), 0);
}

#[test]
fn a_picture_of_another_size_is_passed_over() {
    assert_eq!(Shown::default().detector.see(&[0; 10], Duration::from_secs(100)), None);
}
