//! The benchmark of a fleet, with a small one: every step of it, and that each camera is told once and in order. So the
//! benchmark cannot rot, and what it checks at ten thousand cameras is checked with every change.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the benchmark's own program uses the rest")]

#[path = "../../benches/fleet/measure.rs"]
mod measure;
#[path = "../../benches/fleet/stage.rs"]
mod stage;

/// Five accounts of ten.
const CAMERAS: usize = 50;

#[tokio::test]
async fn a_small_fleet_is_told_of_every_change_once_and_in_order() {
    let programs = stage::Programs { cloud: env!("CARGO_BIN_EXE_care-cloud").into(), cameras: env!("CARGO_BIN_EXE_bench-fleet").into() };
    let fleet = measure::fleet(&programs, CAMERAS).await.unwrap();
    for step in ["first_publication", "connect", "cancel", "subscribe", "rotate_key", "renew", "broker_restart", "cancel_after_restart"] {
        let step = &fleet.steps[step];
        assert_eq!((step.missed, step.twice), (0, 0), "{step:?}");
    }
}
