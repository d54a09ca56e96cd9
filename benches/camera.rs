//! From the publication of a cancel to its report, on an emulated camera with an upload in flight. `CARE_CAMERA` names its
//! image. Writes `target/bench/camera.json`; fails if the agent exceeds its limits.

mod cancels;
mod quantile;
mod setting;
mod stamp;

use std::path::Path;

use anyhow::ensure;
use care_protocol::Mode;
use care_tests::{
    guest::{Guest, Model, PATIENCE},
    world::World,
};
use quantile::quantile;
use serde_json::json;

/// Cancels, unless `CANCELS` says otherwise.
const CANCELS: usize = 100;
/// The limits, in milliseconds.
const P50_MOST: f64 = 25.0;
const P99_MOST: f64 = 100.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cancels = setting::number("CANCELS", CANCELS)?;
    let mut world = World::new().await;
    let premium = world.premium().limited(cancels::PAID);
    let premium = world.issue(premium).await;
    let mut camera = Guest::new(&mut world, Model::default());
    camera.start();
    world.issuer.report_within(0, PATIENCE, "paid", |report| premium.in_force(report) && report.mode == Mode::Paid).await;

    let (millis, micros) = cancels::switches(&mut world, cancels).await?;
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
