//! A camera of 4 Mbit/s behind an uplink of 6 Mbit/s: when is what it filmed in the store? In parts, with the uplink's rate
//! configured and estimated, and as whole clips.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_protocol::{ClipKind, GrantRequest, Mode, Policy};
use care_tests::{footprint::Cost, isolated_network::run, issuer::PREMIUM, media, wait::PATIENCE, world::World};
use jiff::Timestamp;
use rtsp_camera::{Camera, Codec, Options};
use serde_json::{Value, json};

use crate::quantile::quantile;

pub(crate) const FPS: u32 = 15;
pub(crate) const STREAM_MBIT: u32 = 4;
const UPLINK_KBIT: u32 = 6_000;
/// How often the store is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(5);
/// The agent's own pre-roll, which the benchmark leaves, seconds.
const PRE_ROLL_S: u32 = 5;
/// The length of a clip, seconds: an event that goes on fills several.
const CLIP_MAX_S: u32 = 30;
/// How long an event goes on before the camera is unplugged.
const UNPLUGGED_AFTER: Duration = Duration::from_secs(12);

pub(crate) async fn measure(span: Duration) -> anyhow::Result<Value> {
    // Segments as on Ethernet: a queue is shorter than loopback's own.
    run("ip link set lo mtu 1500");
    let parts = event(Leaving::IN_PARTS, span).await?;
    let estimated = event(Leaving { uplink_kbps: 0, ..Leaving::IN_PARTS }, span).await?;
    let whole = event(Leaving { in_parts: false, ..Leaving::IN_PARTS }, span).await?;
    Ok(json!({
        "stream_mbit": STREAM_MBIT, "uplink_kbit": UPLINK_KBIT, "pre_roll_s": PRE_ROLL_S,
        "parts": parts, "parts_estimated": estimated, "whole": whole, "unplugged": unplugged().await?,
    }))
}

/// How clips leave.
#[derive(Clone, Copy)]
struct Leaving {
    in_parts: bool,
    /// The rate of the uplink that the agent is told; 0: it estimates.
    uplink_kbps: u32,
}

impl Leaving {
    const IN_PARTS: Self = Self { in_parts: true, uplink_kbps: UPLINK_KBIT };
}

/// A Premium camera that films, with its pre-roll full, behind the slow way.
async fn filming(leaving: Leaving) -> anyhow::Result<(World, Camera)> {
    let mut options = Options::new(media::noisy(FPS, 20, FPS, STREAM_MBIT), Codec::H264);
    options.fps = FPS.into();
    let camera = Camera::start(options)?;
    let mut world = World::new().await;
    slow_down(world.cloud.addr);
    world.agent.config.source = Some(camera.url());
    world.agent.config.pre_roll_s = None;
    world.agent.config.while_recording = leaving.in_parts;
    world.agent.config.uplink_kbps = leaving.uplink_kbps;
    let premium = world.premium().limited(Policy { clip_max_s: CLIP_MAX_S, snapshots: true, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    let full = u64::from(FPS * (PRE_ROLL_S + 2));
    world.agent.status("a full pre-roll", |status| status.0["media"]["frames"].as_u64() >= Some(full)).await;
    Ok((world, camera))
}

/// What is sent to this address shares [`UPLINK_KBIT`].
pub(crate) fn slow_down(cloud: SocketAddr) {
    let _ = std::process::Command::new("tc").args(["qdisc", "delete", "dev", "lo", "root"]).output();
    run("tc qdisc add dev lo root handle 1: htb default 1");
    run("tc class add dev lo parent 1: classid 1:1 htb rate 10gbit");
    run(&format!("tc class add dev lo parent 1: classid 1:3 htb rate {UPLINK_KBIT}kbit burst 3028 cburst 3028"));
    // 300 ms, as in routers.
    run(&format!("tc qdisc add dev lo parent 1:3 pfifo limit {}", UPLINK_KBIT * 300 / 8 / 1500));
    run(&format!("tc filter add dev lo parent 1: protocol ip u32 match ip dport {} 0xffff flowid 1:3", cloud.port()));
}

/// When the store had each object whole, by its path.
#[derive(Default)]
struct Arrivals(HashMap<String, Timestamp>);

/// A stretch of video in the store.
struct Stretch {
    stored: Timestamp,
    from: Timestamp,
    until: Timestamp,
}

impl Arrivals {
    fn look(&mut self, world: &World) {
        let now = Timestamp::now();
        for put in world.cloud.lock().puts.iter().filter(|put| put.complete == Some(true)) {
            self.0.entry(put.path.clone()).or_insert(now);
        }
    }

    /// When an object of this clip and size was first there.
    fn of(&self, world: &World, asked: &GrantRequest) -> Option<Timestamp> {
        let seen = world.cloud.lock();
        let puts = seen.puts.iter().filter(|put| put.clip == asked.clip && put.announced == Some(asked.bytes));
        puts.filter_map(|put| self.0.get(&put.path)).min().copied()
    }

    /// The video in the store.
    fn video(&self, world: &World) -> Vec<Stretch> {
        let mut asked: Vec<GrantRequest> = world.cloud.lock().asked.iter().map(|(_, asked)| asked.clone()).collect();
        // A grant may be asked for twice.
        let place = |asked: &GrantRequest| (asked.clip.clone(), asked.part.map(|part| part.index));
        asked.sort_by_key(place);
        asked.dedup_by_key(|asked| place(asked));
        let mut ends: HashMap<String, Timestamp> = HashMap::new();
        let mut video = Vec::new();
        for asked in asked.iter().filter(|asked| asked.kind != ClipKind::Snapshot) {
            let from = ends.get(&asked.clip).copied().unwrap_or(asked.started_at);
            let until = from + Duration::from_millis(asked.duration_ms);
            ends.insert(asked.clip.clone(), until);
            if let Some(stored) = self.of(world, asked) {
                video.push(Stretch { stored, from, until });
            }
        }
        video
    }
}

/// An event that goes on for `span`.
async fn event(leaving: Leaving, span: Duration) -> anyhow::Result<Value> {
    let (world, _camera) = filming(leaving).await?;
    let mut arrivals = Arrivals::default();
    let motion = world.agent.motion().await;
    let (begun, began) = (Timestamp::now(), Instant::now());
    let moving = motion.goes_on();
    let cost = Cost::of(world.agent.pid(), span);
    tokio::pin!(cost);
    let cost = loop {
        tokio::select! {
            cost = &mut cost => break cost?,
            () = tokio::time::sleep(LOOK) => arrivals.look(&world),
        }
    };
    moving.abort();
    // What was filmed until then must come, too.
    let ended = begun + began.elapsed();
    while arrivals.video(&world).iter().all(|stretch| stretch.until < ended) {
        ensure!(began.elapsed() < span + PATIENCE, "the end of the event does not come into the store");
        tokio::time::sleep(LOOK).await;
        arrivals.look(&world);
    }
    let seconds = |from: Timestamp, until: Timestamp| until.duration_since(from).as_secs_f64();
    let snapshots: Vec<GrantRequest> = {
        let seen = world.cloud.lock();
        seen.asked.iter().map(|(_, asked)| asked.clone()).filter(|asked| asked.kind == ClipKind::Snapshot).collect()
    };
    let snapshot = snapshots.iter().filter_map(|asked| arrivals.of(&world, asked)).min().context("no snapshot came")?;
    // A second before the event is late from the event on; of a stretch its first frame waits longest.
    let video = arrivals.video(&world);
    let mut late: Vec<f64> = video.iter().map(|stretch| seconds(stretch.from.max(begun), stretch.stored)).collect();
    late.sort_by(f64::total_cmp);
    let whole = whole_seconds(&video, begun, span).context("a second of the event is not in the store")?;
    Ok(json!({
        "snapshot_s": rounded(seconds(begun, snapshot)),
        "second_max_s": rounded(whole.into_iter().fold(0.0, f64::max)),
        "video_p50_s": rounded(quantile(&late, 50)), "video_max_s": rounded(quantile(&late, 100)),
        "objects": late.len(), "cost": cost.json(),
    }))
}

/// How long after each second of the event was over the store had all of it. `None` if it never had.
fn whole_seconds(video: &[Stretch], begun: Timestamp, span: Duration) -> Option<Vec<f64>> {
    let of = |second: u64| {
        let (from, until) = (begun + Duration::from_secs(second), begun + Duration::from_secs(second + 1));
        let holding = video.iter().filter(|stretch| stretch.from < until && stretch.until > from);
        let stored = holding.map(|stretch| stretch.stored).max()?;
        Some(stored.duration_since(until).as_secs_f64())
    };
    (0..span.as_secs()).map(of).collect()
}

/// The camera loses power in mid-event: how much of what happened, up to when, is in the store?
async fn unplugged() -> anyhow::Result<Value> {
    let (mut world, _camera) = filming(Leaving::IN_PARTS).await?;
    let mut arrivals = Arrivals::default();
    let motion = world.agent.motion().await;
    let begun = Instant::now();
    let moving = motion.goes_on();
    while begun.elapsed() < UNPLUGGED_AFTER {
        tokio::time::sleep(LOOK).await;
        arrivals.look(&world);
    }
    world.agent.kill().await;
    let killed = Timestamp::now();
    moving.abort();
    // What was on its way has arrived, or never does.
    arrivals.look(&world);
    let video = arrivals.video(&world);
    let last = video.iter().map(|stretch| stretch.until).max().context("nothing came")?;
    let length: f64 = video.iter().map(|stretch| stretch.until.duration_since(stretch.from).as_secs_f64()).sum();
    Ok(json!({
        "after_s": UNPLUGGED_AFTER.as_secs(), "missing_s": rounded(killed.duration_since(last).as_secs_f64()),
        "stored_s": rounded(length),
    }))
}

pub(crate) fn rounded(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}
