//! The benchmark of a fleet, with a small one: every step of it, and that each camera is told once and in order. So the
//! benchmark cannot rot, and what it checks at ten thousand cameras is checked with every change.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the benchmark's own program uses the rest")]

#[path = "../../benches/fleet/cluster.rs"]
mod cluster;
#[path = "../../benches/fleet/measure.rs"]
mod measure;
#[path = "../../benches/fleet/stage.rs"]
mod stage;

/// Five accounts of ten.
const CAMERAS: usize = 50;
/// Three, on the cluster: it needs longer for each.
const CLUSTERED: usize = 30;

fn programs() -> stage::Programs {
    stage::Programs { cloud: env!("CARGO_BIN_EXE_care-cloud").into(), cameras: env!("CARGO_BIN_EXE_bench-fleet").into() }
}

fn told_once(fleet: &measure::Measured, steps: &[&str]) {
    for step in steps {
        let step = &fleet.steps[*step];
        assert_eq!((step.missed, step.twice), (0, 0), "{step:?}");
    }
}

#[tokio::test]
async fn s105_a_small_fleet_is_told_of_every_change_once_and_in_order() {
    let fleet = measure::fleet(&programs(), CAMERAS).await.unwrap();
    told_once(&fleet, &["first_publication", "connect", "cancel", "subscribe", "rotate_key", "renew"]);
    told_once(&fleet, &["broker_restart", "cancel_after_restart"]);
}

#[tokio::test]
async fn s105_a_cluster_that_loses_a_node_during_a_cancel_of_all_misses_no_camera_and_tells_none_twice() {
    let fleet = measure::cluster(&programs(), CLUSTERED).await.unwrap();
    told_once(&fleet, &["first_publication", "connect", "cancel", "subscribe", "rotate_key", "renew", "cancel_node_lost"]);
}
