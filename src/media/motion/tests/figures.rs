//! How often the detector misses and how often it is wrong, scene by scene, beside the detector of earlier versions. The long run
//! makes the table of `docs/motion.md`; the short one holds every scene to its bounds.

use std::{fmt::Write, ops::Range, time::Duration};

use super::{
    difference::Difference,
    scenes::{Passage, SCENES, SETTLE_S, Scene, World},
};
use crate::media::motion::detector::{Detector, Tuning};

/// Pictures a second: keyframes that are decoded, and what a source of raw pictures delivers, rounded up.
const RATES: [u32; 2] = [1, 5];
/// A clip goes on for this long after its last event, so events closer than that are one alarm.
const ONE_ALARM_S: f32 = 5.0;
/// An event this long after something has left still belongs to it.
const LEAVING_S: f32 = 2.0;

/// How the table of this page begins.
const HEADING: &str = "| scene | before";

/// Events of one detector on some runs of a scene.
#[derive(Default)]
pub(super) struct Tally {
    seen: u32,
    pub passages: u32,
    pub alarms: u32,
    hours: f32,
}

impl Tally {
    pub fn add(&mut self, events: &[f32], passages: &[Passage], length: f32) {
        let during = |passage: &Passage, late: f32| passage.begins..passage.ends + late;
        self.passages += passages.len() as u32;
        self.seen += passages.iter().filter(|passage| events.iter().any(|at| during(passage, 0.5).contains(at))).count() as u32;
        let mut last = f32::NEG_INFINITY;
        for &at in events.iter().filter(|at| **at >= SETTLE_S) {
            let own = passages.iter().any(|passage| during(passage, LEAVING_S).contains(&at));
            if !own && at - last > ONE_ALARM_S {
                self.alarms += 1;
            }
            last = at;
        }
        self.hours += (length - SETTLE_S) / 3600.0;
    }

    /// Percent of passages.
    pub fn recall(&self) -> f32 {
        100.0 * self.seen as f32 / self.passages as f32
    }

    fn alarms_an_hour(&self) -> f32 {
        self.alarms as f32 / self.hours
    }

    pub fn shown(&self) -> String {
        let recall = if self.passages == 0 { "–".to_owned() } else { format!("{:.0} %", self.recall()) };
        format!("{recall}, {:.0}", self.alarms_an_hour())
    }
}

/// The old detector and the new one on some runs of a scene, `length` seconds each.
pub(super) fn tally(scene: &Scene, rate: u32, seeds: Range<u64>, length: f32, sensitivity: u8) -> [Tally; 2] {
    let mut tallies = [Tally::default(), Tally::default()];
    for seed in seeds {
        let mut world = World::new(scene, seed, length);
        let (mut old, mut new) = (Difference::default(), Detector::new(Tuning::of(sensitivity), None));
        let mut events = [Vec::new(), Vec::new()];
        for number in 0..(length * rate as f32) as u32 {
            let at = number as f32 / rate as f32;
            let picture = world.picture(at);
            let seen = [old.see(&picture), new.see(&picture, Duration::from_secs_f32(at)).is_some()];
            for (events, _) in events.iter_mut().zip(seen).filter(|(_, seen)| *seen) {
                events.push(at);
            }
        }
        for (tally, events) in tallies.iter_mut().zip(&events) {
            tally.add(events, &world.passages, length);
        }
    }
    tallies
}

/// The least recall in percent and the most false alarms an hour, one picture a second and five.
fn bounds(scene: &Scene) -> [(f32, f32); 2] {
    match scene.name {
        "snow" | "rain at night, lit by infrared" => [(0.0, 40.0), (0.0, 10.0)],
        "tree in gusts" => [(0.0, 50.0), (0.0, 40.0)],
        "person at dusk" => [(50.0, 0.0), (50.0, 0.0)],
        "clouds" => [(0.0, 60.0), (0.0, 30.0)],
        _ if scene.visitor.is_some() => [(99.0, 20.0), (99.0, 20.0)],
        _ => [(0.0, 0.0), (0.0, 0.0)],
    }
}

#[test]
fn every_scene_stays_within_its_bounds() {
    let mut outside = String::new();
    for scene in &SCENES {
        for (rate, (recall, alarms)) in RATES.into_iter().zip(bounds(scene)) {
            let length = if rate == 1 { 220.0 } else { 90.0 };
            let [_, new] = tally(scene, rate, 0..1, length, 50);
            if new.passages > 0 && new.recall() < recall || new.alarms > (alarms * new.hours).ceil() as u32 {
                writeln!(outside, "{}, {rate} a second: {}", scene.name, new.shown()).unwrap();
            }
        }
    }
    assert!(outside.is_empty(), "{outside}");
}

/// A table of the page, from the row that begins like this to the next empty line.
pub(super) fn published(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/motion.md")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with(heading));
    rows.take_while(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn table(seeds: Range<u64>, length: f32) -> String {
    let mut table = String::from("| scene | before, 1/s | now, 1/s | before, 5/s | now, 5/s |\n|---|---|---|---|---|\n");
    for scene in &SCENES {
        write!(table, "| {} |", scene.name).unwrap();
        for [old, new] in RATES.map(|rate| tally(scene, rate, seeds.clone(), length, 50)) {
            write!(table, " {} | {} |", old.shown(), new.shown()).unwrap();
        }
        table.push('\n');
    }
    table
}

#[test]
fn the_page_has_every_scene() {
    for heading in [HEADING, super::bitstream::HEADING] {
        let published = published(heading);
        let scenes: Vec<&str> = published.iter().skip(2).map(|row| row[2..].split(" |").next().unwrap()).collect();
        assert_eq!(scenes, SCENES.map(|scene| scene.name));
    }
}

#[test]
#[ignore = "takes minutes: makes the table of docs/motion.md, and compares it"]
fn motion_figures() {
    let table = table(200..204, 340.0);
    println!("{table}");
    assert_eq!(table.lines().collect::<Vec<_>>(), published(HEADING));
}
