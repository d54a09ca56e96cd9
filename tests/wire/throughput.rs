//! How much of a fast uplink clips use: the agent, paced and estimating, whole and in parts, beside plain hyper without a pace
//! and with the kernel's. Each has an uplink of its own.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, json};

use super::{Camera, Capture, Case, Link, Sink, capture, publish, stamp, turn};

const KBPS: u32 = 20_000;
/// The time from a segment to its acknowledgement is at least this long.
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Longer than it is looked at.
const CLIP: u64 = 15_000_000;
/// Parts are filmed a little faster than they can leave.
const FRAGMENT: u64 = KBPS as u64 * 1000 / 8 / 4 * 11 / 10;
/// The first seconds, in which TCP finds its speed, and an agent that was just started its pace, are told apart.
const STARTS: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

/// The parts of the uplink that payload took, in the first seconds and afterwards.
#[derive(Debug, Clone, Copy)]
struct Used {
    first: f64,
    then: f64,
}

fn upload(case: Case, bytes: u64) -> Used {
    let link = Link::long(KBPS, ROUND_TRIP);
    let (sink, capture) = (Sink::start(&link), Capture::start(&link));
    let mut camera = Camera::start(&link, case, &sink, bytes);
    camera.go();
    capture.until_busy(Duration::from_secs(20));
    let (begun, from) = (Instant::now(), capture::now_ns());
    let share = |payload: u64, took: Duration| payload as f64 / (f64::from(KBPS) * 1000.0 / 8.0 * took.as_secs_f64());
    thread::sleep(STARTS);
    let (first, started, then) = (capture.since(from).0, begun.elapsed(), capture::now_ns());
    thread::sleep(WATCHED);
    let used = Used { first: share(first, started), then: share(capture.since(then).0, begun.elapsed() - started) };
    let said = camera.cut();
    assert!(case.mode == "parts" || (said.transfers, sink.whole()) == (1, 0), "{}: the clip ended too early: {:?}", case.name, said.fault);
    used
}

#[test]
#[ignore = "a benchmark of two minutes, for a machine that does nothing else"]
fn a_fast_uplink_is_used_as_plain_hyper_uses_it() {
    let _turn = turn();
    let plain = Case { name: "plain hyper, no pace", mode: "drop", uplink_kbps: KBPS, kernel: None };
    let cases = [
        ("unpaced", plain, CLIP),
        ("paced", Case { name: "plain hyper, the kernel's pace", mode: "paced", ..plain }, CLIP),
        ("configured", Case { name: "agent, uplink configured", mode: "cut", ..plain }, CLIP),
        ("estimated", Case { name: "agent, uplink estimated", mode: "cut", uplink_kbps: 0, ..plain }, CLIP),
        ("parts", Case { name: "agent, parts, uplink configured", mode: "parts", ..plain }, FRAGMENT),
        ("parts_estimated", Case { name: "agent, parts, uplink estimated", mode: "parts", uplink_kbps: 0, ..plain }, FRAGMENT),
    ];
    let mut seen = cases.map(|(key, case, _)| (key, case, Vec::new()));
    // In turns, so that other load on the machine meets all of them.
    for _ in 0..ROUNDS {
        for ((_, case, used), (_, _, bytes)) in seen.iter_mut().zip(cases) {
            used.push(upload(*case, bytes));
        }
    }
    let median = |used: &[Used], of: fn(&Used) -> f64| {
        let mut shares: Vec<f64> = used.iter().map(of).collect();
        shares.sort_by(f64::total_cmp);
        shares[shares.len() / 2]
    };
    let mut figures = Map::new();
    for (key, case, used) in &seen {
        let (first, then) = (median(used, |used| used.first), median(used, |used| used.then));
        println!(
            "{:<32} | first {} s: {:>3.0} % | then: {:>3.0} % of {KBPS} kbit/s",
            case.name,
            STARTS.as_secs(),
            first * 100.0,
            then * 100.0
        );
        let rounded = |share: f64| (share * 1000.0).round() / 1000.0;
        figures.insert((*key).into(), json!({ "name": case.name, "first": rounded(first), "then": rounded(then) }));
    }
    let then = |key: &str| figures[key]["then"].as_f64().unwrap();
    let (unpaced, agent) = (then("unpaced"), ["configured", "estimated", "parts", "parts_estimated"].map(|key| (key, then(key))));
    for (name, figure) in [
        ("kbps", KBPS.into()),
        ("round_trip_ms", json!(ROUND_TRIP.as_millis())),
        ("rounds", json!(ROUNDS)),
        ("starts_s", json!(STARTS.as_secs())),
    ] {
        figures.insert(name.into(), figure);
    }
    figures.insert("measured".into(), stamp::stamp("cargo test --workspace --test wire -- --ignored", &[]));
    publish("wire-throughput.json", &figures.into());
    assert!(unpaced > 0.8, "plain hyper uses {unpaced} of the uplink: the link does not behave as this test assumes");
    for (key, used) in agent {
        assert!(used > 0.6 * unpaced, "{key}: {used} of the uplink, plain hyper {unpaced}");
    }
}
