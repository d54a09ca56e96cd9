//! The agent's footprint: memory, threads, wakeups and processor time in Free idle, Paid idle and Paid uploading, and the
//! time from its start to a confirmed plan. With GStreamer it films a live 640×360 H.264 source; without, it governs a vendor's
//! uploader; and here both film one camera over RTSP, also while one and four people watch the live view, and the agent's idle
//! connection stands beside two simpler ones. Runs on this machine, or with `CARE_CAMERA` (`scripts/bench-camera.sh`) on an emulated camera. Writes
//! `target/bench/footprint.json`, each machine under its own name. `FOOTPRINT_SECONDS=10` gives a quick look.

mod beside;
mod guest;
mod here;
#[path = "../rivals/paho.rs"]
mod paho;
#[path = "../setting.rs"]
mod setting;
#[path = "../stamp.rs"]
mod stamp;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

/// How long each state is measured, unless `FOOTPRINT_SECONDS` says otherwise.
const SECONDS: u64 = 30;
/// The pause before each measurement, so that the work of starting is over.
const SETTLE: Duration = Duration::from_secs(5);
/// The limit of PSS for each build in every state. A desktop's libraries are larger than a camera's, and so is code that is not
/// Thumb-2: without GStreamer the limit holds on armv7 only.
const PSS_MOST_KB: u64 = 24 * 1024;
const PSS_MOST_KB_WITHOUT: u64 = 8 * 1024;
/// The most wakeups a second of the agent while it is Free and idle, without motion of its own to look for.
const IDLE_WAKEUPS_MOST: f64 = 5.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seconds = setting::number("FOOTPRINT_SECONDS", SECONDS)?;
    let span = Duration::from_secs(seconds);
    let emulated = std::env::var_os("CARE_CAMERA").is_some();
    let (name, with, without, same, beside) = match emulated {
        true => ("emulated camera", guest::with_gstreamer(span).await?, guest::without_gstreamer(span).await?, Value::Null, Value::Null),
        false => {
            let beside = beside::measure(span).await?;
            let (with, without) = (here::with_gstreamer(span).await?, here::without_gstreamer(span).await?);
            (std::env::consts::ARCH, with, without, here::same_camera(span).await?, beside)
        }
    };
    let path = Path::new("target/bench/footprint.json");
    let mut document: Value = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_else(|| json!({}));
    document["what"] =
        "a live 640x360 H.264 file at 15 fps and 1 Mbit/s; wakeups are context switches; start in milliseconds from exec".into();
    let command = if emulated { "scripts/bench-camera.sh footprint" } else { "scripts/bench.sh" };
    let measured = stamp::stamp(command, &["FOOTPRINT_SECONDS"]);
    if emulated {
        // The programs that the camera ran are those of its firmware.
        let size = json!({
            "what": "bytes of the stripped program on flash, armv7",
            "measured": measured, "gstreamer": with["program_bytes"], "no_gstreamer": without["program_bytes"],
        });
        write("size", &size)?;
    }
    document[name] = json!({ "measured": measured, "seconds": seconds, "gstreamer": with, "no_gstreamer": without, "same_camera": same, "beside": beside });
    write("footprint", &document)?;

    println!("{name:<18} {:<16} {:>8} {:>8} {:>8} {:>10} {:>12}", "", "RSS kB", "PSS kB", "threads", "wakeups/s", "CPU s/min");
    let mut over = Vec::new();
    for (build, most) in [("gstreamer", PSS_MOST_KB), ("no_gstreamer", PSS_MOST_KB_WITHOUT)] {
        let measured = &document[name][build];
        for (state, cost) in measured["states"].as_object().into_iter().flatten() {
            print(build, state, cost);
            let pss = cost["pss_kb"].as_u64().context("a figure")?;
            if pss > most && (emulated || build == "gstreamer") {
                over.push(format!("{build} {state}: {pss} kB, at most {most} are promised"));
            }
        }
        println!("{build:<14} start            {}", measured["start_ms"]);
    }
    for (build, measured) in document[name]["same_camera"].as_object().into_iter().flatten() {
        for (state, cost) in measured["states"].as_object().into_iter().flatten() {
            print(&format!("{build}, same"), state, cost);
        }
    }
    for (contender, figures) in document[name]["beside"].as_object().into_iter().flatten() {
        print(contender, "connection, idle", &figures["cost"]);
        println!("{contender:<14} subscribed       {} ms", figures["subscribed_ms"]);
    }
    if let Some(wakeups) =
        document[name]["beside"]["agent"]["cost"]["wakeups_per_s"].as_f64().filter(|wakeups| *wakeups > IDLE_WAKEUPS_MOST)
    {
        over.push(format!("Free, idle: {wakeups} wakeups a second, at most {IDLE_WAKEUPS_MOST} are promised"));
    }
    println!("{}", path.display());
    ensure!(over.is_empty(), "{}", over.join("; "));
    Ok(())
}

fn print(build: &str, state: &str, cost: &Value) {
    println!(
        "{build:<18} {state:<16} {:>8} {:>8} {:>8} {:>10} {:>12}",
        cost["rss_kb"], cost["pss_kb"], cost["threads"], cost["wakeups_per_s"], cost["cpu_s_per_min"]
    );
}

fn write(name: &str, document: &Value) -> anyhow::Result<()> {
    std::fs::create_dir_all("target/bench")?;
    let path = format!("target/bench/{name}.json");
    std::fs::write(&path, format!("{document:#}\n")).with_context(|| format!("writing {path}"))
}

/// An uploader that obeys, and reports a stored clip every second.
async fn upload(agent: impl AsyncRead + AsyncWrite) -> std::io::Result<()> {
    let (read, mut write) = tokio::io::split(Box::pin(agent));
    let mut lines = BufReader::new(read).lines();
    let mut stored = tokio::time::interval(Duration::from_secs(1));
    loop {
        let said = tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let order: Value = serde_json::from_str(&line)?;
                if order["type"] != "close" {
                    continue;
                }
                json!({ "type": "closed", "generation": order["generation"] })
            }
            _ = stored.tick() => json!({ "type": "stored", "bytes": 400_000 }),
        };
        write.write_all(format!("{said}\n").as_bytes()).await?;
    }
}

/// One build's figures.
fn figures(states: Map<String, Value>, start: Value, program_bytes: u64) -> Value {
    json!({ "states": states, "start_ms": start, "program_bytes": program_bytes })
}

/// The median and the longest of each step, milliseconds.
fn start(times: [Vec<f64>; 3]) -> Value {
    let [ready, connected, confirmed] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        json!({ "p50": times[times.len() / 2].round(), "max": times[times.len() - 1].round() })
    });
    json!({ "ready": ready, "connected": connected, "confirmed": confirmed })
}
