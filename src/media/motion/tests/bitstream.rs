//! How often motion by the sizes of coded pictures misses and is wrong, scene by scene, beside the built-in detector. The long run makes
//! the second table of `docs/motion.md`; the short one holds what the page promises to bounds.

use std::{fmt::Write, ops::Range, time::Duration};

use super::{
    encoded::{ENCODERS, Film, RATE},
    figures::{Tally, published, tally},
    scenes::{SCENES, Scene},
};
use crate::media::motion::bitstream::Judge;

/// What becomes of one run of a scene with each of these encoders.
fn runs(scene: &Scene, seed: u64, length: f32, encoders: &[(&str, &[&str])], tallies: &mut [Tally]) {
    let film = Film::of(scene, seed, length);
    for ((_, options), tally) in encoders.iter().zip(tallies) {
        let mut judge = Judge::new(50);
        let coded = film.coded(options);
        assert_eq!(coded.len(), (length * RATE) as usize);
        let events: Vec<f32> = (0..)
            .zip(coded)
            .filter_map(|(number, (key, bytes))| judge.see(key, bytes, Duration::from_millis(100) * number).then_some(number as f32 / RATE))
            .collect();
        tally.add(&events, &film.world.passages, length);
    }
}

/// How its table begins.
pub(super) const HEADING: &str = "| scene | built-in";

/// The least recall in percent and the most false alarms in the run, of an encoder with a variable bit rate.
const BOUNDS: [(&str, f32, u32); 9] = [
    ("day", 0.0, 0),
    ("lamp on and off", 0.0, 0),
    ("switch to infrared and back", 0.0, 0),
    ("steps of exposure", 0.0, 0),
    ("clock in the picture", 0.0, 0),
    ("person", 75.0, 0),
    ("person near", 99.0, 0),
    ("person running", 99.0, 0),
    ("car", 99.0, 0),
];

#[test]
fn large_motion_is_seen_and_another_light_is_not() {
    let mut outside = String::new();
    for (name, recall, alarms) in BOUNDS {
        let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
        let mut tallies = [Tally::default()];
        runs(scene, 3, 110.0, &ENCODERS[..1], &mut tallies);
        let [tally] = tallies;
        if tally.passages > 0 && tally.recall() < recall || tally.alarms > alarms {
            writeln!(outside, "{name}: {}", tally.shown()).unwrap();
        }
    }
    assert!(outside.is_empty(), "{outside}");
}

fn row(scene: &Scene, seeds: Range<u64>, length: f32) -> String {
    let [_, built_in] = tally(scene, 1, seeds.clone(), length, 50);
    let mut tallies: [Tally; ENCODERS.len()] = Default::default();
    seeds.for_each(|seed| runs(scene, seed, length, &ENCODERS, &mut tallies));
    let [vbr, limited, cbr] = tallies.map(|tally| tally.shown());
    format!("| {} | {} | {vbr} | {limited} | {cbr} |", scene.name, built_in.shown())
}

#[test]
#[ignore = "takes minutes: makes the second table of docs/motion.md, and compares it"]
fn bitstream_figures() {
    let mut table = vec![format!("| scene | built-in, 1/s | {} |", ENCODERS.map(|(name, _)| name).join(" | "))];
    table.push("|---|---|---|---|---|".to_owned());
    let (first, second) = SCENES.split_at(SCENES.len() / 2);
    let rows =
        |scenes: &'static [Scene]| std::thread::spawn(move || scenes.iter().map(|scene| row(scene, 200..202, 340.0)).collect::<Vec<_>>());
    for rows in [rows(first), rows(second)] {
        table.extend(rows.join().unwrap());
    }
    println!("{}", table.join("\n"));
    assert_eq!(table, published(HEADING));
}

/// An upper bound that holds in a build that is not optimized and on a busy machine: the time of this thread alone.
#[test]
fn a_picture_costs_next_to_nothing() {
    use rustix::time::{ClockId, clock_gettime};
    let spent = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let mut judge = Judge::new(50);
    let before = spent();
    let pictures = 100_000;
    let moved = (0..pictures)
        .filter(|number| judge.see(number % 20 == 0, 1000 + *number as usize % 100, Duration::from_millis(100) * *number))
        .count();
    let each = (spent() - before) / pictures;
    println!("for one picture: {each:?}");
    assert!(moved == 0 && each < Duration::from_micros(100), "{each:?}");
}
