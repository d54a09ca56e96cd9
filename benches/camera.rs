//! From the publication of a cancel to its report, on an emulated camera with an upload in flight. `CARE_CAMERA` names its
//! image. Writes `target/bench/camera.json`; fails if the agent exceeds its limits.

mod stamp;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_protocol::{Mode, Outcome, Policy, Report};
use care_tests::{
    cloud::{Document as Body, Put},
    guest::{Guest, Model, PATIENCE},
    issuer::{Document, PREMIUM},
    wait::until,
    world::World,
};
use serde_json::json;

/// Cancels, unless `CANCELS` says otherwise.
const CANCELS: usize = 100;
/// The limits, in milliseconds.
const P50_MOST: f64 = 25.0;
const P99_MOST: f64 = 100.0;
/// An upload is in flight once this many bytes have arrived; most of it is then still in the camera.
const BEGUN: usize = 8_000;
/// Paid clips are short, so that filming many of them is quick.
const PAID: Policy = Policy { clip_max_s: 2, ..PREMIUM };

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cancels = match std::env::var("CANCELS") {
        Ok(number) => number.parse().context("CANCELS is a number of cancels")?,
        Err(_) => CANCELS,
    };
    ensure!(cancels > 0, "CANCELS is at least 1");
    let mut world = World::new().await;
    let premium = world.premium().limited(PAID);
    let premium = world.issue(premium).await;
    let mut camera = Guest::new(&mut world, Model::default());
    camera.start();
    world.issuer.report_within(0, PATIENCE, "paid", |report| premium.in_force(report) && report.mode == Mode::Paid).await;

    let (mut millis, mut micros) = (Vec::new(), Vec::new());
    for turn in 1..=cancels {
        let on_its_way = |put: &Put| put.complete.is_none() && put.body.len() >= BEGUN;
        world.cloud.wait_for("an upload on its way", PATIENCE, |seen| seen.puts.iter().any(on_its_way).then_some(())).await;
        let free = world.free();
        let free = world.sign(&free);
        let (took, report) = measure(&world, &free).await;
        ensure!(report.mode == Mode::Free && report.cut.transfers >= 1, "{report:?}");
        millis.push(took.as_secs_f64() * 1000.0);
        micros.push(report.cut.micros);

        let ended = |put: &Put| put.complete.is_some();
        world.cloud.wait_for("the end of the upload", PATIENCE, |seen| seen.puts.iter().all(ended).then_some(())).await;
        let premium = world.premium().limited(PAID);
        let premium = world.sign(&premium);
        measure(&world, &premium).await;
        if turn % 20 == 0 {
            eprintln!("{turn} of {cancels} cancels");
        }
    }
    millis.sort_by(f64::total_cmp);
    micros.sort_unstable();
    let [p50, p99, max] = [50, 99, 100].map(|percent| quantile(&millis, percent));
    let document = json!({
        "what": "publication of a cancel to its report, milliseconds, on an emulated camera, an upload in flight",
        "cancels": cancels,
        "measured": stamp::stamp("scripts/bench-camera.sh camera", &["CANCELS"]),
        "p50_ms": p50, "p99_ms": p99, "max_ms": max,
        "cut_micros": { "p50": quantile(&micros, 50), "p99": quantile(&micros, 99), "max": quantile(&micros, 100) },
    });
    std::fs::create_dir_all("target/bench")?;
    let path = Path::new("target/bench/camera.json");
    std::fs::write(path, format!("{document:#}\n"))?;
    println!("emulated camera, {cancels} cancels: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms; {}", path.display());
    ensure!(p50 <= P50_MOST && p99 <= P99_MOST, "asked for are p50 {P50_MOST} ms and p99 {P99_MOST} ms");
    Ok(())
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

/// The smallest value that `percent` percent of the sorted, non-empty values do not exceed.
fn quantile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1]
}
