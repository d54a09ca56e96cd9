//! What the agent costs a camera: memory, threads, wakeups and processor time in Free idle, Paid idle and Paid uploading,
//! and how long it takes from its start to being confirmed; with GStreamer on a live 640×360 H.264 source, and without, with
//! a vendor's uploader. Writes `target/bench/footprint.json`. `FOOTPRINT_SECONDS=10` for a quick look.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    cloud::Sink,
    footprint::Cost,
    issuer::PREMIUM,
    media,
    wait::{PATIENCE, until},
    world::World,
};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

/// How long each state is watched, unless `FOOTPRINT_SECONDS` says otherwise.
const SECONDS: u64 = 30;
/// What is passed before, so that the start's own work is over.
const SETTLE: Duration = Duration::from_secs(5);
/// Starts that are timed.
const STARTS: usize = 9;
/// What is promised of the one with GStreamer in Free idle, on amd64.
const RSS_MOST_KB: u64 = 24 * 1024;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seconds = match std::env::var("FOOTPRINT_SECONDS") {
        Ok(number) => number.parse().context("FOOTPRINT_SECONDS is a number of seconds")?,
        Err(_) => SECONDS,
    };
    ensure!(seconds > 0, "FOOTPRINT_SECONDS is at least 1");
    let span = Duration::from_secs(seconds);
    let with = with_gstreamer(span).await?;
    let without = without_gstreamer(span).await?;
    let document = json!({
        "what": "a live 640x360 H.264 file at 15 fps and 1 Mbit/s; wakeups are context switches; start in milliseconds from exec",
        "arch": std::env::consts::ARCH,
        "seconds": seconds,
        "debug": cfg!(debug_assertions),
        "gstreamer": with,
        "no_gstreamer": without,
    });
    std::fs::create_dir_all("target/bench")?;
    let path = Path::new("target/bench/footprint.json");
    std::fs::write(path, format!("{document:#}\n"))?;
    println!("{:<14} {:<16} {:>8} {:>8} {:>8} {:>10} {:>12}", "", "", "RSS kB", "PSS kB", "threads", "wakeups/s", "CPU s/min");
    for build in ["gstreamer", "no_gstreamer"] {
        for (state, cost) in document[build]["states"].as_object().into_iter().flatten() {
            println!(
                "{build:<14} {state:<16} {:>8} {:>8} {:>8} {:>10} {:>12}",
                cost["rss_kb"], cost["pss_kb"], cost["threads"], cost["wakeups_per_s"], cost["cpu_s_per_min"]
            );
        }
        println!("{build:<14} start            {}", document[build]["start_ms"]);
    }
    println!("{}", path.display());
    let idle = document["gstreamer"]["states"]["free_idle"]["rss_kb"].as_u64().context("a figure")?;
    ensure!(idle <= RSS_MOST_KB, "idle in Free it holds {idle} kB: at most {RSS_MOST_KB} are promised");
    Ok(())
}

/// A camera of its own.
async fn with_gstreamer(span: Duration) -> anyhow::Result<Value> {
    let mut world = World::new().await;
    world.agent.config.source = Some(format!("file:{}", media::recorded_360().display()));
    world.agent.config.motion = "built-in".into();
    world.cloud.lock().sink = Sink::Swallow;
    let mut states = Map::new();

    let free = world.free();
    world.start_with(free, Mode::Free).await;
    // The picture moves: the one clip that Free allows in five minutes is soon filmed and gone.
    world.cloud.wait("a clip", |seen| seen.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    states.insert("free_idle".into(), cost(&world.agent, span).await?);

    // Paid and nothing moving: a socket that nobody writes to.
    world.agent.stop().await;
    world.agent.config.motion = format!("socket:{}", world.agent.dir().join("motion.sock").display());
    world.start_premium().await;
    let mut motion = world.agent.motion().await;
    states.insert("paid_idle".into(), cost(&world.agent, span).await?);

    let moving = tokio::spawn(async move {
        loop {
            motion.moved().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let stored = world.cloud.lock().puts.len();
    states.insert("paid_uploading".into(), cost(&world.agent, span).await?);
    ensure!(world.cloud.lock().puts.len() > stored, "nothing was uploaded meanwhile");
    moving.abort();
    world.agent.stop().await;
    let start = starts(&mut world).await?;
    Ok(json!({ "states": states, "start_ms": start, "program_bytes": std::fs::metadata(&world.agent.program)?.len() }))
}

/// A vendor's uploader beside it: the agent carries no clip, it governs.
async fn without_gstreamer(span: Duration) -> anyhow::Result<Value> {
    let mut world = World::new().await;
    world.agent.without_gstreamer();
    let socket = world.agent.dir().join("uploader.sock");
    world.agent.config.extra = format!("\n[uploader]\nsocket = \"unix:{}\"\n", socket.display());
    let mut states = Map::new();
    let free = world.free();
    world.start_with(free, Mode::Free).await;
    states.insert("free_idle".into(), cost(&world.agent, span).await?);
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    states.insert("paid_idle".into(), cost(&world.agent, span).await?);
    let uploader = tokio::spawn(async move { upload(&socket).await.expect("the agent governs") });
    world.agent.status("it is open", |status| status.0["uploader"]["open"] == true).await;
    states.insert("paid_uploading".into(), cost(&world.agent, span).await?);
    uploader.abort();
    world.agent.stop().await;
    let start = starts(&mut world).await?;
    Ok(json!({ "states": states, "start_ms": start, "program_bytes": std::fs::metadata(&world.agent.program)?.len() }))
}

/// An uploader that obeys, and says every second that a clip is stored.
async fn upload(socket: &Path) -> std::io::Result<()> {
    let (read, mut write) = UnixStream::connect(socket).await?.into_split();
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

async fn cost(agent: &Agent, span: Duration) -> anyhow::Result<Value> {
    tokio::time::sleep(SETTLE).await;
    Ok(Cost::of(agent.pid(), span).await?.json())
}

/// From exec to ready, connected and confirmed, on a Premium plan that is on record: the median and the longest of
/// [`STARTS`].
async fn starts(world: &mut World) -> anyhow::Result<Value> {
    // On flash first: what is timed is a start that finds its plan and has it confirmed.
    let draft = world.premium().limited(PREMIUM);
    world.start_with(draft, Mode::Paid).await;
    world.agent.stop().await;
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..STARTS {
        let from = world.agent.log().len();
        let exec = jiff::Timestamp::now();
        world.agent.start();
        for (which, what) in ["ready device=", "connected connection=", "cause=confirmed"].into_iter().enumerate() {
            let line =
                until(format!("a log line with {what}"), PATIENCE, || world.agent.log().find(from, |line| line.contains(what))).await;
            let stamp: jiff::Timestamp = line.split_whitespace().next().unwrap_or_default().parse().context("a log line has its time")?;
            times[which].push((stamp - exec).as_secs_f64() * 1000.0);
        }
        world.agent.stop().await;
    }
    let [ready, connected, confirmed] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        json!({ "p50": times[times.len() / 2].round(), "max": times[times.len() - 1].round() })
    });
    Ok(json!({ "ready": ready, "connected": connected, "confirmed": confirmed }))
}
