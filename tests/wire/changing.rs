//! An uplink whose rate collapses, doubles, or collapses and recovers in the middle of a clip: how much of it the camera uses
//! afterwards, and what a cut then finds in the device's queue. The fixed pace is the one that was right for the first rate.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Camera, Capture, Case, Link, ONE_RECORD, Sink, capture, publish, stamp, turn};

/// The rate of an uplink one after the other, kbit/s.
struct Changes {
    name: &'static str,
    kbps: &'static [u32],
}

const CHANGES: [Changes; 3] = [
    Changes { name: "collapses", kbps: &[6_000, 1_500] },
    Changes { name: "doubles", kbps: &[1_500, 3_000] },
    Changes { name: "recovers", kbps: &[4_000, 1_000, 4_000] },
];

/// How long each rate lasts.
const LASTS: Duration = Duration::from_secs(8);
/// The last of it is looked at.
const WATCHED: Duration = Duration::from_secs(2);
/// Longer than the link is used.
const LARGE_CLIP: u64 = 7_800_000;

/// Each change is made so often.
const ROUNDS: usize = 3;

struct Seen {
    /// The part of the uplink that payload took while the last rate was watched.
    used: f64,
    /// Payload on the wire after the cut at the end.
    after_cut: u64,
}

/// What was seen of a pace in all rounds.
struct Pace(Vec<Seen>);

impl Pace {
    fn used(&self) -> f64 {
        self.0.iter().map(|seen| seen.used).sum::<f64>() / self.0.len() as f64
    }

    fn after_cut_most(&self) -> u64 {
        self.0.iter().map(|seen| seen.after_cut).max().unwrap_or(0)
    }

    fn figures(&self) -> Value {
        json!({ "used": (self.used() * 1000.0).round() / 1000.0, "after_cut_max": self.after_cut_most() })
    }
}

fn film(changes: &Changes, uplink_kbps: u32) -> Seen {
    let link = Link::shaped(changes.kbps[0]);
    let (sink, capture) = (Sink::start(&link), Capture::start(&link));
    let mut camera = Camera::start(&link, Case { name: changes.name, mode: "cut", uplink_kbps, kernel: None }, &sink, LARGE_CLIP);
    camera.go();
    capture.until_busy(Duration::from_secs(20));
    for kbps in &changes.kbps[1..] {
        thread::sleep(LASTS);
        link.change(*kbps);
    }
    thread::sleep(LASTS - WATCHED);
    let (begun, from) = (Instant::now(), capture::now_ns());
    thread::sleep(WATCHED);
    let (watched, payload) = (begun.elapsed(), capture.since(from).0);
    let said = camera.cut();
    assert_eq!((said.transfers, sink.whole()), (1, 0), "{}: the clip must be under way: {:?}", changes.name, said.fault);
    capture.until_quiet(Duration::from_millis(400), Duration::from_secs(15));
    let capacity = f64::from(changes.kbps[changes.kbps.len() - 1]) * 1000.0 / 8.0 * watched.as_secs_f64();
    Seen { used: payload as f64 / capacity, after_cut: capture.since(said.at_ns).0 }
}

#[test]
#[ignore = "a benchmark of 90 seconds, for a machine that does nothing else"]
fn an_uplink_that_changes_is_followed_as_a_fixed_pace_cannot() {
    let _turn = turn();
    let mut seen = CHANGES.each_ref().map(|changes| (changes, Pace(Vec::new()), Pace(Vec::new())));
    for _ in 0..ROUNDS {
        thread::scope(|scope| {
            let running: Vec<_> =
                CHANGES.iter().map(|changes| (scope.spawn(|| film(changes, 0)), scope.spawn(|| film(changes, changes.kbps[0])))).collect();
            for ((_, estimated, fixed), (one, other)) in seen.iter_mut().zip(running) {
                estimated.0.push(one.join().unwrap());
                fixed.0.push(other.join().unwrap());
            }
        });
    }
    let mut figures = serde_json::Map::new();
    for (changes, estimated, fixed) in &seen {
        let said = |pace: &Pace| format!("{:.0} % used, at most {} bytes after a cut", pace.used() * 100.0, pace.after_cut_most());
        println!("{} {:?} kbit/s | estimated: {} | fixed: {}", changes.name, changes.kbps, said(estimated), said(fixed));
        figures.insert(changes.name.into(), json!({ "kbps": changes.kbps, "estimated": estimated.figures(), "fixed": fixed.figures() }));
    }
    for (name, figure) in [("rounds", ROUNDS as u64), ("lasts_s", LASTS.as_secs()), ("watched_s", WATCHED.as_secs())] {
        figures.insert(name.into(), figure.into());
    }
    figures.insert("measured".into(), stamp::stamp("cargo test --workspace --test wire -- --ignored", &[]));
    publish("wire-changing.json", &Value::Object(figures));

    let [(_, collapsed, too_fast), (_, doubled, too_slow), (_, recovered, _)] = &seen;
    assert!(collapsed.after_cut_most() <= ONE_RECORD && collapsed.after_cut_most() < too_fast.after_cut_most());
    assert!(collapsed.used() > 0.5 && recovered.used() > 0.5, "{} and {}", collapsed.used(), recovered.used());
    assert!(doubled.used() > 1.5 * too_slow.used(), "{} and {}", doubled.used(), too_slow.used());
}
