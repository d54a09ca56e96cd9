//! Cancels with an upload in flight, one after another, on a camera that is paid and films: how long each takes to its report.
//! Every benchmark of an emulated camera calls this.

use std::time::{Duration, Instant};

use anyhow::ensure;
use care_protocol::{Mode, Outcome, Policy, Report};
use care_tests::{
    cloud::{Document as Body, Put},
    guest::PATIENCE,
    issuer::{Document, PREMIUM},
    wait::until,
    world::World,
};

/// An upload is in flight once this many bytes have arrived; most of it is then still in the camera.
const BEGUN: usize = 8_000;
/// Paid clips are short, so that filming many of them is quick.
pub(crate) const PAID: Policy = Policy { clip_max_s: 2, ..PREMIUM };

/// Cancels so often, and subscribes to [`PAID`] after each: sorted milliseconds to the report, sorted microseconds of the cut.
pub(crate) async fn switches(world: &mut World, cancels: usize) -> anyhow::Result<(Vec<f64>, Vec<u64>)> {
    let (mut millis, mut micros) = (Vec::new(), Vec::new());
    for turn in 1..=cancels {
        let on_its_way = |put: &Put| put.complete.is_none() && put.body.len() >= BEGUN;
        world.cloud.wait_for("an upload on its way", PATIENCE, |seen| seen.puts.iter().any(on_its_way).then_some(())).await;
        let free = world.free();
        let free = world.sign(&free);
        let (took, report) = measure(world, &free).await;
        ensure!(report.mode == Mode::Free && report.cut.transfers >= 1, "{report:?}");
        millis.push(took.as_secs_f64() * 1000.0);
        micros.push(report.cut.micros);
        let ended = |put: &Put| put.complete.is_some();
        world.cloud.wait_for("the end of the upload", PATIENCE, |seen| seen.puts.iter().all(ended).then_some(())).await;
        let premium = world.premium().limited(PAID);
        let premium = world.sign(&premium);
        measure(world, &premium).await;
        if turn % 20 == 0 {
            eprintln!("{turn} of {cancels} cancels");
        }
    }
    millis.sort_by(f64::total_cmp);
    micros.sort_unstable();
    Ok((millis, micros))
}

/// Publishes a document, as the cloud does, and waits for its report.
async fn measure(world: &World, document: &Document) -> (Duration, Report) {
    let issuer = &world.issuer;
    issuer.heard().answer = Some(document.token.clone());
    world.cloud.lock().entitlement = Body::Token(document.token.clone());
    let mark = issuer.mark();
    let published = Instant::now();
    issuer.post(&issuer.topics().entitlement(), true, document.token.as_str());
    let (heard, report) = until(format!("the report of {}", document.position), PATIENCE, || {
        let heard = issuer.heard();
        heard.reports.iter().skip(mark).find(|(_, report)| document.judged(report, Outcome::Applied)).cloned()
    })
    .await;
    (heard - published, report)
}
