//! A fleet of light cameras: what a change of plan, of keys or of the broker costs, by the number of cameras, on one
//! Mosquitto and on a cluster of three NATS nodes that loses one. Writes `target/bench/fleet.json`; fails if a figure
//! misses its limit. `SIZES=100,1000 NATS_SIZES=100` gives a quick look.
//!
//! `bench-fleet mosquitto` and `bench-fleet nats` measure one of the two. `bench-fleet writers` measures what a document
//! costs to write, on SQLite and on PostgreSQL (`ACCOUNTS=50` gives a quick look). `bench-fleet cameras DIRECTORY COUNT [NODE…]`
//! is the process that the measurement starts for the cameras.

mod cameras;
mod cluster;
mod measure;
#[path = "../../cloud/tests/running/postgres.rs"]
#[allow(clippy::unwrap_used, reason = "shared with the tests, which fail by panicking")]
mod postgres;
mod stage;
#[path = "../stamp.rs"]
mod stamp;
mod writers;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// Sizes, unless `SIZES` says otherwise.
const SIZES: &str = "100,1000,2000,10000";
/// Sizes on the cluster, unless `NATS_SIZES` says otherwise. It writes every subscription to three disks, three for each
/// camera.
const NATS_SIZES: &str = "100,300,1000";
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
        ["cameras", directory, count, nodes @ ..] => cameras::run(Path::new(directory), count.parse().context("COUNT is a number")?, nodes),
        ["mosquitto"] => write(&json!({ "now": mosquitto()? })),
        ["writers"] => write_to("writers", &writers::measure()?),
        ["writer", arguments @ ..] => writers::write(arguments),
        ["nats"] => write(&json!({ "cluster": nats()? })),
        [] => {
            let now = mosquitto()?;
            // Kept, whatever becomes of the rest.
            write(&json!({ "now": now }))?;
            write(&json!({ "now": now, "cluster": nats()? }))
        }
        _ => anyhow::bail!("usage: bench-fleet [mosquitto | nats | writers], or bench-fleet cameras DIRECTORY COUNT [NODE...]"),
    }
}

fn mosquitto() -> anyhow::Result<Value> {
    let binding = measure::binding(BOUND)?;
    let (programs, runtime) = (programs()?, runtime()?);
    let mut fleets = Vec::new();
    for size in sizes("SIZES", SIZES)? {
        fleets.push(shown(&runtime.block_on(measure::fleet(&programs, size))?)?);
    }
    Ok(json!({
        "what": "a fleet of light cameras on one Mosquitto, one care-cloud and this machine: seconds until the last camera has done it, \
                 and CPU time of each side",
        "measured": stamp::stamp("scripts/bench-fleet.sh mosquitto", &["PROFILE", "SIZES"]),
        "cores": std::thread::available_parallelism()?.get(),
        "binding_to_one_account": binding,
        "fleets": fleets,
    }))
}

fn nats() -> anyhow::Result<Value> {
    let (programs, runtime) = (programs()?, runtime()?);
    let mut fleets = Vec::new();
    for size in sizes("NATS_SIZES", NATS_SIZES)? {
        fleets.push(shown(&runtime.block_on(measure::cluster(&programs, size))?)?);
    }
    Ok(json!({
        "what": "a fleet of light cameras on three NATS nodes, one care-cloud and this machine: seconds until the last camera has done \
                 it, and CPU time of each side",
        "measured": stamp::stamp("scripts/bench-fleet.sh nats", &["PROFILE", "NATS_SIZES"]),
        "cores": std::thread::available_parallelism()?.get(),
        "fleets": fleets,
    }))
}

fn write(document: &Value) -> anyhow::Result<()> {
    write_to("fleet", document)?;
    check(document)
}

fn write_to(name: &str, document: &Value) -> anyhow::Result<()> {
    std::fs::create_dir_all("target/bench")?;
    let path = PathBuf::from(format!("target/bench/{name}.json"));
    std::fs::write(&path, format!("{document:#}\n"))?;
    println!("{}", path.display());
    Ok(())
}

fn programs() -> anyhow::Result<stage::Programs> {
    let beside = std::env::current_exe().context("finding care-cloud")?;
    Ok(stage::Programs { cloud: beside.with_file_name("care-cloud"), cameras: beside })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// The sizes that the environment asks for, or else these.
fn sizes(variable: &str, usual: &str) -> anyhow::Result<Vec<usize>> {
    let sizes = std::env::var(variable).unwrap_or_else(|_| usual.into());
    sizes.split(',').map(|size| size.trim().parse()).collect::<Result<_, _>>().with_context(|| format!("{variable} is a list of numbers"))
}

fn shown(fleet: &measure::Measured) -> anyhow::Result<Value> {
    println!("{} cameras: {}", fleet.cameras, serde_json::to_string(fleet)?);
    Ok(serde_json::to_value(fleet)?)
}

fn check(document: &Value) -> anyhow::Result<()> {
    let fleets = document["now"]["fleets"].as_array();
    let of = |size: u64| fleets.into_iter().flatten().find(|fleet| fleet["cameras"] == size);
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
