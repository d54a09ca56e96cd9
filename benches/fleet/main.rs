//! A fleet of light cameras on one broker: what a change of plan, of keys or of the broker costs, by the number of
//! cameras. Writes `target/bench/fleet.json`; fails if a figure misses its limit. `SIZES=100,1000` gives a quick look.
//!
//! `bench-fleet cameras DIRECTORY COUNT` is the process that the measurement starts for the cameras.

mod cameras;
mod measure;
mod stage;
#[path = "../stamp.rs"]
mod stamp;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// Sizes, unless `SIZES` says otherwise.
const SIZES: &str = "100,1000,2000,10000";
/// Cameras that are bound to one account.
const BOUND: usize = 10_000;
/// The limits, for the largest fleet: seconds for a fleet-wide cancel, bytes of care-cloud's memory a camera.
const CANCEL_MOST_S: f64 = 20.0;
const CLOUD_MOST_BYTES: f64 = 20.0 * 1024.0;
/// How much more a camera may cost in a fleet of 10,000 than in one of 1,000.
const GROWS_MOST: f64 = 1.3;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cameras", directory, count] => cameras::run(Path::new(directory), count.parse().context("COUNT is a number")?),
        [] => measure_all(),
        _ => anyhow::bail!("usage: bench-fleet, or bench-fleet cameras DIRECTORY COUNT"),
    }
}

fn measure_all() -> anyhow::Result<()> {
    let sizes = std::env::var("SIZES").unwrap_or_else(|_| SIZES.into());
    let sizes: Vec<usize> =
        sizes.split(',').map(|size| size.trim().parse()).collect::<Result<_, _>>().context("SIZES is a list of numbers")?;
    let beside = std::env::current_exe().context("finding care-cloud")?;
    let programs = stage::Programs { cloud: beside.with_file_name("care-cloud"), cameras: beside };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let binding = measure::binding(BOUND)?;
    let mut fleets = Vec::new();
    for size in &sizes {
        let fleet = runtime.block_on(measure::fleet(&programs, *size))?;
        println!("{size} cameras: {}", serde_json::to_string(&fleet)?);
        fleets.push(serde_json::to_value(fleet)?);
    }
    let document = json!({ "now": {
        "what": "a fleet of light cameras on one Mosquitto, one care-cloud and this machine: seconds until the last camera has done it, \
                 and CPU time of each side",
        "measured": stamp::stamp("scripts/bench-fleet.sh", &["SIZES"]),
        "cores": std::thread::available_parallelism()?.get(),
        "binding_to_one_account": binding,
        "fleets": fleets,
    } });
    std::fs::create_dir_all("target/bench")?;
    let path = PathBuf::from("target/bench/fleet.json");
    std::fs::write(&path, format!("{document:#}\n"))?;
    println!("{}", path.display());
    check(&document)
}

fn check(document: &Value) -> anyhow::Result<()> {
    let fleets = document["now"]["fleets"].as_array().context("no fleets")?;
    let of = |size: u64| fleets.iter().find(|fleet| fleet["cameras"] == size);
    let Some(largest) = of(10_000) else { return Ok(()) };
    let number = |value: &Value| value.as_f64().unwrap_or(f64::INFINITY);
    let cancel = number(&largest["steps"]["cancel"]["seconds"]);
    ensure!(cancel <= CANCEL_MOST_S, "a fleet-wide cancel took {cancel:.1} s: asked for are {CANCEL_MOST_S} s");
    let bytes = number(&largest["memory"]["cloud_bytes_a_camera"]);
    ensure!(bytes <= CLOUD_MOST_BYTES, "care-cloud takes {bytes:.0} bytes a camera: asked for are {CLOUD_MOST_BYTES}");
    if let Some(smaller) = of(1000) {
        for step in ["cancel", "rotate_key", "renew"] {
            let cost = |fleet: &Value| number(&fleet["steps"][step]["cpu_ms_a_camera"]["cloud"]);
            let grown = cost(largest) / cost(smaller);
            ensure!(grown <= GROWS_MOST, "{step}: a camera costs {grown:.2} times as much as in a fleet of 1,000");
        }
    }
    Ok(())
}
