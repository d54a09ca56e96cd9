//! Steps of a day that the tests of emulated cameras share, seen from the cloud.

use std::time::Duration;

use care_protocol::{Cause, Mode, Outcome, Report};

use crate::{
    cloud::{Document as Body, Put},
    guest::PATIENCE,
    issuer::{Document, FREE, Issuer},
    wait::holds,
    world::World,
};

/// After so many bytes an upload is in progress and most of it is still in the camera.
const BEGUN: usize = 16_000;
/// Maximum clip length of Free, in milliseconds.
const FREE_MS: u64 = FREE.clip_max_s as u64 * 1000;

/// Cancels in mid-upload: the cut is reported, and the store sees an incomplete upload.
pub async fn a_cancel_cuts(world: &mut World) {
    let put = in_flight(world).await;
    let mark = world.issuer.mark();
    let free = world.free();
    let free = world.issue(free).await;
    let report = judged(&world.issuer, mark, &free).await;
    assert_eq!((report.mode, report.persisted), (Mode::Free, true), "{report:?}");
    assert!(report.cut.transfers >= 1, "{report:?}");
    eprintln!("cut of {} transfers in {} µs", report.cut.transfers, report.cut.micros);
    ends_incomplete(world, &put).await;
}

/// Waits until the newest report names this document and this mode.
pub async fn in_force(issuer: &Issuer, mark: usize, document: &Document, mode: Mode) -> Report {
    let what = format!("{} in force as {mode}", document.position);
    issuer.report_within(mark, PATIENCE, what, |report| document.in_force(report) && report.mode == mode).await
}

/// Waits for the report of a boot that holds paid media; returns the index after it. Earlier reports may date from
/// before the boot.
pub async fn held(issuer: &Issuer, mark: usize) -> usize {
    let is_held = |report: &Report| (report.mode, report.cause) == (Mode::Held, Cause::Boot);
    issuer.report_within(mark, PATIENCE, "a boot that holds", is_held).await;
    mark + issuer.reports(mark).iter().position(is_held).expect("it was just received") + 1
}

/// Waits for the report that applies this document.
pub async fn judged(issuer: &Issuer, mark: usize, document: &Document) -> Report {
    let what = format!("{} applied", document.position);
    issuer.report_within(mark, PATIENCE, what, |report| document.judged(report, Outcome::Applied)).await
}

/// Waits for an upload of which most is still in the camera.
pub async fn in_flight(world: &World) -> Put {
    world
        .cloud
        .wait_for("an upload on its way", PATIENCE, |seen| {
            seen.puts.iter().find(|put| put.complete.is_none() && put.body.len() >= BEGUN).cloned()
        })
        .await
}

/// Waits until the store sees that an upload has stopped.
pub async fn ends_incomplete(world: &World, put: &Put) {
    let what = format!("the end of {}", put.path);
    let complete =
        world.cloud.wait_for(&what, PATIENCE, |seen| seen.puts.iter().find(|p| p.path == put.path).and_then(|p| p.complete)).await;
    assert!(!complete, "a cut upload was completed");
}

/// Checks that the cloud answers nothing that would confirm a plan and that the broker retains nothing.
pub async fn silence(world: &World) {
    world.cloud.lock().entitlement = Body::Silence;
    world.issuer.heard().answer = None;
    world.issuer.publish(&world.issuer.topics().entitlement(), true, Vec::new()).await;
}

/// Confirms this document again.
pub async fn speak(world: &World, document: &Document) {
    world.hand_out(document).await;
}

/// Checks that no Premium clip leaves while the plan is unconfirmed, with motion every two seconds. A clip that Free
/// allows may leave.
pub async fn closed(world: &World) {
    let before = world.cloud.lock().puts.len();
    holds("nothing of a paid plan leaves while held", Duration::from_secs(6), || {
        let seen = world.cloud.lock();
        let paid = |put: &&Put| seen.asked.iter().any(|(_, asked)| asked.clip == put.clip && asked.duration_ms > FREE_MS);
        seen.puts[before..].iter().find(paid).map(|put| format!("{} came", put.path))
    })
    .await;
}

/// Whether this console line comes from the agent and contains this text.
pub fn agent_says(line: &str, what: &str) -> bool {
    line.split_once("kasa-care-agent[").is_some_and(|(_, said)| said.contains(what))
}
