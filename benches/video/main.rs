//! What the owner gets, and what it costs: how long after an event its snapshot and each second of its video are in the
//! store, beside a camera that always sends everything; what is there of a camera that is unplugged in mid-event; and what
//! recording and clips cost beside a plain GStreamer pipeline that does the same. Writes `target/bench/video.json`. Needs root,
//! `ip` and `tc`: it runs in a network namespace of its own, in which the way to the cloud is slow. `VIDEO_SECONDS=10` gives a
//! quick look.

mod continuous;
mod evidence;
mod plain;
#[path = "../quantile.rs"]
mod quantile;
#[path = "../setting.rs"]
mod setting;
#[path = "../stamp.rs"]
mod stamp;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use care_tests::isolated_network;
use serde_json::{Value, json};

/// How long each state is measured, unless `VIDEO_SECONDS` says otherwise.
const SECONDS: u64 = 30;
/// The most from an event to its snapshot in the store, seconds.
const SNAPSHOT_MOST_S: f64 = 2.0;
/// The most from what happens to its video in the store, seconds.
const VIDEO_MOST_S: f64 = 5.0;
/// The most processor time, as a multiple of the plain pipeline's.
const PLAIN_MOST: f64 = 1.2;

fn main() -> anyhow::Result<()> {
    // Before there are threads: the namespace is this thread's and its children's.
    isolated_network::enter();
    let seconds = setting::number("VIDEO_SECONDS", SECONDS)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(Duration::from_secs(seconds)))
}

async fn run(span: Duration) -> anyhow::Result<()> {
    let evidence = evidence::measure(span).await?;
    let continuous = continuous::measure(span).await?;
    let plain = plain::measure(span).await?;
    let document = json!({
        "measured": stamp::stamp("scripts/bench.sh video", &["VIDEO_SECONDS"]), "seconds": span.as_secs(),
        "evidence": evidence, "continuous": continuous, "plain": plain,
    });
    std::fs::create_dir_all("target/bench")?;
    let path = "target/bench/video.json";
    std::fs::write(path, format!("{document:#}\n")).with_context(|| format!("writing {path}"))?;
    println!("{document:#}\n{path}");

    let (parts, estimated) = (&document["evidence"]["parts"], &document["evidence"]["parts_estimated"]);
    let figure = |of: &Value, key: &str| of[key].as_f64().with_context(|| format!("{key} was not measured"));
    let mut over = Vec::new();
    for (what, figure, most) in [
        ("event to snapshot, s", figure(parts, "snapshot_s")?, SNAPSHOT_MOST_S),
        ("the same, uplink estimated", figure(estimated, "snapshot_s")?, SNAPSHOT_MOST_S),
        ("a second of video to store, s", figure(parts, "second_max_s")?, VIDEO_MOST_S),
        ("the same, uplink estimated", figure(estimated, "second_max_s")?, VIDEO_MOST_S),
        ("processor time beside a plain pipeline", figure(&document["plain"]["ratio"], "gstreamer")?, PLAIN_MOST),
        ("the same without GStreamer", figure(&document["plain"]["ratio"], "no_gstreamer")?, PLAIN_MOST),
    ] {
        if figure > most {
            over.push(format!("{what}: {figure:.2}, at most {most} is promised"));
        }
    }
    ensure!(over.is_empty(), "{}", over.join("; "));
    Ok(())
}
