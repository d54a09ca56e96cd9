//! What an idle connection costs: the agent that governs a vendor's uploader, beside two programs that only hold the same
//! connection: a bare loop of rumqttc, and the paho agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use care_protocol::Mode;
use care_tests::{
    footprint::Cost,
    process::{Lines, Process},
    wait::PATIENCE,
    world::{DEVICE, World},
};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::{SETTLE, paho::paho};

/// Starts that are timed.
const STARTS: usize = 9;
/// How often the broker's log is looked at while a start is timed.
const LOOK: Duration = Duration::from_micros(200);

/// Free and idle, one after the other, each on a Mosquitto of its own.
pub(crate) async fn measure(span: Duration) -> anyhow::Result<Value> {
    let mut contenders = Map::new();
    contenders.insert("agent".into(), agent(span).await?);
    contenders.insert("bare_loop".into(), rival("bare loop", bare_loop, span).await?);
    contenders.insert("paho".into(), rival("paho", |world| paho(world).into(), span).await?);
    Ok(contenders.into())
}

async fn agent(span: Duration) -> anyhow::Result<Value> {
    let mut world = World::new().await;
    world.agent.without_gstreamer();
    // Past the harness's proxy, because the others have none.
    world.agent.config.broker = format!("mqtts://{}", world.broker.addr);
    world.agent.config.extra = format!("\n[uploader]\nsocket = \"unix:{}\"\n", world.agent.dir().join("uploader.sock").display());
    let free = world.free();
    world.start_with(free, Mode::Free).await;
    let cost = cost(world.agent.pid(), span).await?;
    world.agent.stop().await;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let before = subscriptions(&world);
        let exec = Instant::now();
        world.agent.start();
        times.push(subscribed(&world, before, exec).await?);
        world.agent.stop().await;
    }
    Ok(json!({ "cost": cost, "subscribed_ms": median(times) }))
}

async fn rival(name: &str, command: fn(&World) -> Command, span: Duration) -> anyhow::Result<Value> {
    let mut world = World::new().await;
    let draft = world.free();
    world.issue(draft).await;
    let (mut times, mut running) = (Vec::new(), None);
    for _ in 0..STARTS {
        // The last one has ended before the next one takes its client id.
        drop(running.take());
        let before = subscriptions(&world);
        let exec = Instant::now();
        running = Some(Process::spawn(name, command(&world), Lines::default()));
        times.push(subscribed(&world, before, exec).await?);
    }
    let process = running.context("it runs")?;
    let cost = cost(process.pid(), span).await?;
    Ok(json!({ "cost": cost, "subscribed_ms": median(times) }))
}

fn bare_loop(world: &World) -> Command {
    let config = &world.agent.config;
    // Built beside this program, for speed as it is.
    let own = std::env::current_exe().expect("a program knows its own path");
    let mut command = Command::new(own.with_file_name("rival-bare-loop"));
    command.arg(world.broker.addr.to_string()).arg(&config.ca).arg(&config.cert).arg(&config.key).args([DEVICE, "care/v1"]);
    command
}

async fn cost(pid: i32, span: Duration) -> anyhow::Result<Value> {
    tokio::time::sleep(SETTLE).await;
    Ok(Cost::of(pid, span).await?.json())
}

fn subscriptions(world: &World) -> usize {
    world.broker.log().count(&format!("Received SUBSCRIBE from {DEVICE}"))
}

/// Milliseconds until the broker has one more subscription of the camera.
async fn subscribed(world: &World, before: usize, exec: Instant) -> anyhow::Result<f64> {
    while subscriptions(world) == before {
        ensure!(exec.elapsed() < PATIENCE, "no subscription comes");
        tokio::time::sleep(LOOK).await;
    }
    Ok(exec.elapsed().as_secs_f64() * 1000.0)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2] * 10.0).round() / 10.0
}
