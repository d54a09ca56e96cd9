//! What is measured with a fleet, step by step, and what every step checks: each camera was told once, in order.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_cloud::{
    clock::now_s,
    domain::{catalogue::Catalogue, issuer::Issuer},
    storage::{
        data_dir::DataDir,
        db::{Db, DbError},
        keys::Keys,
    },
};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde_json::{Value, json};

use crate::stage::{ACCOUNT, Broker, LEASE_S, MODEL, PATIENCE, Programs, Stage, device};

/// Requests to the portal at the same time.
const CLICKS: usize = 8;
/// Times that one account is cancelled.
const ACCOUNT_CANCELS: usize = 5;
/// Bindings at each end of [`binding`].
const BINDINGS: usize = 100;

/// One step.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Until the last camera had done it.
    pub seconds: f64,
    /// Cameras a second.
    pub throughput: f64,
    /// CPU time of each side, milliseconds a camera.
    pub cpu_ms_a_camera: BTreeMap<&'static str, f64>,
    /// Cameras that were not told, and that were told twice; both are 0.
    pub missed: u64,
    /// See `missed`.
    pub twice: u64,
}

/// One fleet.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// How many.
    pub cameras: usize,
    /// By name.
    pub steps: BTreeMap<&'static str, Step>,
    /// Cancelling one account of ten, beside all others: seconds to its last report, sorted.
    pub account_cancels: Vec<f64>,
    /// With all of them connected.
    pub memory: Value,
    /// Reports that reached the cloud after a newer one of their camera. Mosquitto has none.
    pub out_of_order: u64,
}

/// Measures a fleet of so many cameras on one Mosquitto, which is restarted in the end.
pub async fn fleet(programs: &Programs, cameras: usize) -> anyhow::Result<Measured> {
    let mut stage = Stage::start(programs, cameras, Broker::Mosquitto).await?;
    let mut measured = changes(&mut stage, cameras).await?;

    let answers = stage.seen()?.answers;
    let began = (Instant::now(), stage.cpu()?);
    stage.broker_runs(false).await?;
    while stage.seen()?.online > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.broker_runs(true).await?;
    while stage.seen()?.online < cameras || stage.seen()?.answers < answers + cameras as u64 {
        ensure!(began.0.elapsed() < PATIENCE, "the cameras do not come back: {:?}", stage.seen());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    measured.steps.insert("broker_restart", step(&stage, began, cameras, (0, 0))?);
    settle(&stage).await?;
    // A change after it reaches all of them.
    measured.steps.insert("cancel_after_restart", change(&stage, &accounts(cameras), "cancel", cameras).await?);

    measured.out_of_order = out_of_order(&stage)?;
    ensure!(measured.out_of_order == 0, "{} reports are older than the one before them", measured.out_of_order);
    measured.memory = memory(&stage, cameras)?;
    Ok(measured)
}

/// Measures a fleet of so many cameras on three NATS nodes, one of which dies in the end, in the middle of a cancel of all.
pub async fn cluster(programs: &Programs, cameras: usize) -> anyhow::Result<Measured> {
    let mut stage = Stage::start(programs, cameras, Broker::Nats).await?;
    let mut measured = changes(&mut stage, cameras).await?;
    // Of all three.
    measured.memory = memory(&stage, cameras)?;
    measured.steps.insert("cancel_node_lost", cancel_and_lose_a_node(&mut stage, cameras).await?);
    // A session that moves to another node brings what the dead one had not delivered, after what is newer: the cloud
    // knows each report by its place.
    measured.out_of_order = out_of_order(&stage)?;
    eprintln!("{} reports came after a newer one", measured.out_of_order);
    Ok(measured)
}

/// What is the same on every broker: the first documents, the first connections, and every kind of change.
async fn changes(stage: &mut Stage, cameras: usize) -> anyhow::Result<Measured> {
    let mut steps = BTreeMap::new();

    // The documents of all of them, and the broker that has them.
    let began = (Instant::now(), stage.cpu()?);
    until(stage, |stage| stage.db.read(|c| Ok(c.query_row("SELECT NOT EXISTS (SELECT 1 FROM outbox WHERE due = 1)", [], |r| r.get(0))?)))
        .await?;
    steps.insert("first_publication", step(stage, began, cameras, (0, 0))?);

    let began = (Instant::now(), stage.cpu()?);
    while stage.seen()?.online < cameras {
        ensure!(began.0.elapsed() < PATIENCE, "the cameras do not connect: {:?}", stage.seen());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Two documents were bound and subscribed; each camera is told the newer one.
    until(stage, |stage| Ok(Mark::now(stage)?.report >= cameras as i64 && told_all(stage, 0)?)).await?;
    steps.insert("connect", step(stage, began, cameras, told(stage, 0)?)?);
    settle(stage).await?;

    let mut account_cancels = Vec::new();
    for _ in 0..ACCOUNT_CANCELS {
        account_cancels.push(change(stage, &[0], "cancel", cameras.min(ACCOUNT)).await?.seconds);
        change(stage, &[0], "subscribe", cameras.min(ACCOUNT)).await?;
    }
    account_cancels.sort_by(f64::total_cmp);

    let accounts = accounts(cameras);
    steps.insert("cancel", change(stage, &accounts, "cancel", cameras).await?);
    steps.insert("subscribe", change(stage, &accounts, "subscribe", cameras).await?);

    let mark = Mark::now(stage)?;
    let began = (Instant::now(), stage.cpu()?);
    stage.portal.post("/portal/experiment", &json!({ "experiment": "rotate_key" })).await?;
    until(stage, |stage| issued_and_told(stage, mark, cameras)).await?;
    steps.insert("rotate_key", step(stage, began, cameras, told(stage, mark.document)?)?);
    settle(stage).await?;

    let mark = Mark::now(stage)?;
    let began = (Instant::now(), stage.cpu()?);
    age(stage)?;
    until(stage, |stage| issued_and_told(stage, mark, cameras)).await?;
    steps.insert("renew", step(stage, began, cameras, told(stage, mark.document)?)?);
    settle(stage).await?;

    Ok(Measured { cameras, steps, account_cancels, memory: Value::Null, out_of_order: 0 })
}

/// The first camera of each account.
fn accounts(cameras: usize) -> Vec<usize> {
    (0..cameras).step_by(ACCOUNT).collect()
}

fn memory(stage: &Stage, cameras: usize) -> anyhow::Result<Value> {
    let [cloud, broker, light] = stage.memory()?;
    let each = |bytes: u64| bytes as f64 / cameras as f64;
    Ok(json!({
        "cloud_bytes": cloud.1, "broker_bytes": broker.1, "cameras_bytes": light.1, "cloud_alone_bytes": stage.cloud_alone,
        "cloud_bytes_a_camera": each(cloud.1), "broker_bytes_a_camera": each(broker.1), "cameras_bytes_a_camera": each(light.1),
    }))
}

/// Binds cameras to one account, one transaction each: microseconds for each of the first hundred and of the last,
/// without waiting for the disk, which costs the same for each.
pub fn binding(cameras: usize) -> anyhow::Result<Value> {
    let dir = tempfile::tempdir()?;
    let data = DataDir::open(dir.path())?;
    let db = Db::open(&data.path("care.db"))?;
    let issuer = Issuer { keys: Keys::open(&data, now_s())?, catalogue: Catalogue::built_in(), lease_s: LEASE_S };
    db.read(|c| Ok(c.execute_batch("PRAGMA synchronous = off")?))?;
    let mut times = Vec::new();
    for number in 0..cameras {
        let began = Instant::now();
        db.transact(|tx| issuer.add_camera(tx, &device(number), MODEL, "acct-one", now_s()))?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let median = |times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    let end = BINDINGS.min(times.len());
    Ok(json!({ "cameras": cameras, "first_us": median(&times[..end]), "last_us": median(&times[times.len() - end..]) }))
}

/// Cancels or subscribes the accounts of these cameras, and waits for the reports of all.
async fn change(stage: &Stage, accounts: &[usize], action: &'static str, cameras: usize) -> anyhow::Result<Step> {
    let mark = Mark::now(stage)?;
    let began = (Instant::now(), stage.cpu()?);
    clicks(stage, accounts, action).try_collect::<Vec<()>>().await?;
    until(stage, |stage| issued_and_told(stage, mark, cameras)).await?;
    let step = step(stage, began, cameras, told(stage, mark.document)?)?;
    settle(stage).await?;
    Ok(step)
}

/// Cancels every account. When a third of the cameras has reported it, and the documents of the others are being issued, a
/// node of the cluster dies.
async fn cancel_and_lose_a_node(stage: &mut Stage, cameras: usize) -> anyhow::Result<Step> {
    let accounts = accounts(cameras);
    let (first, rest) = accounts.split_at(accounts.len() / 3);
    let mark = Mark::now(stage)?;
    let began = (Instant::now(), stage.cpu()?);
    clicks(stage, first, "cancel").try_collect::<Vec<()>>().await?;
    until(stage, |stage| issued_and_told(stage, mark, first.len() * ACCOUNT)).await?;
    let mut others = Box::pin(clicks(stage, rest, "cancel"));
    others.try_next().await?;
    stage.lose_node()?;
    others.try_collect::<Vec<()>>().await?;
    until(stage, |stage| issued_and_told(stage, mark, cameras)).await?;
    let step = step(stage, began, cameras, told(stage, mark.document)?)?;
    settle(stage).await?;
    Ok(step)
}

/// Clicks for the accounts of these cameras, eight at a time.
fn clicks(stage: &Stage, accounts: &[usize], action: &'static str) -> impl Stream<Item = anyhow::Result<()>> + use<> {
    let portal = stage.portal.clone();
    let clicks = stream::iter(accounts.to_vec()).map(move |first| {
        let portal = portal.clone();
        async move {
            let body = json!({ "action": action, "camera": device(first), "plan": "premium" });
            portal.post("/portal/act", &body).await?;
            Ok(())
        }
    });
    clicks.buffer_unordered(CLICKS)
}

/// Ends a step.
fn step(stage: &Stage, began: (Instant, crate::stage::Cpu), cameras: usize, (missed, twice): (u64, u64)) -> anyhow::Result<Step> {
    let seconds = began.0.elapsed().as_secs_f64();
    let cpu_ms_a_camera = stage.cpu()?.into_iter().map(|(side, now)| (side, (now - began.1[side]) / cameras as f64)).collect();
    ensure!((missed, twice) == (0, 0), "{missed} cameras were not told and {twice} were told twice");
    eprintln!("{cameras} cameras: {seconds:.2} s");
    Ok(Step { seconds, throughput: cameras as f64 / seconds, cpu_ms_a_camera, missed, twice })
}

/// The newest rows, before a step.
#[derive(Debug, Clone, Copy)]
struct Mark {
    document: i64,
    report: i64,
}

impl Mark {
    fn now(stage: &Stage) -> Result<Self, DbError> {
        let sql = "SELECT (SELECT coalesce(max(id), 0) FROM documents), (SELECT coalesce(max(id), 0) FROM reports)";
        stage.db.read(|c| Ok(c.prepare_cached(sql)?.query_row([], |row| Ok(Self { document: row.get(0)?, report: row.get(1)? }))?))
    }
}

/// Whether so many documents were issued after `mark` and all of them are reported. The rows are only read once there are
/// as many reports.
fn issued_and_told(stage: &Stage, mark: Mark, cameras: usize) -> Result<bool, DbError> {
    let (now, more) = (Mark::now(stage)?, cameras as i64);
    Ok(now.document >= mark.document + more && now.report >= mark.report + more && told_all(stage, mark.document)?)
}

fn told_all(stage: &Stage, mark: i64) -> Result<bool, DbError> {
    let sql = "SELECT NOT EXISTS (SELECT 1 FROM documents WHERE id > ?1 AND reported_at IS NULL)";
    stage.db.read(|c| Ok(c.prepare_cached(sql)?.query_row([mark], |row| row.get(0))?))
}

/// Cameras that never reported the newest of their documents after `mark` as in force, and that reported twice that they
/// had applied it.
fn told(stage: &Stage, mark: i64) -> anyhow::Result<(u64, u64)> {
    let sql = "SELECT count(*) FILTER (WHERE has = 0), count(*) FILTER (WHERE times > 1) FROM (
                   SELECT (SELECT count(*) FROM reports r WHERE r.device = n.device
                           AND r.body ->> 'epoch' = n.epoch AND r.body ->> 'seq' = n.seq) AS has,
                          (SELECT count(*) FROM reports r WHERE r.device = n.device AND r.body ->> 'outcome' = 'applied'
                           AND r.body -> 'judged' ->> 'epoch' = n.epoch AND r.body -> 'judged' ->> 'seq' = n.seq) AS times
                   FROM (SELECT device, max(epoch) AS epoch, max(seq) AS seq FROM documents WHERE id > ?1 GROUP BY device) n)";
    Ok(stage.db.read(|c| Ok(c.query_row(sql, [mark], |row| Ok((row.get(0)?, row.get(1)?)))?))?)
}

/// Reports that are older than the one before them.
fn out_of_order(stage: &Stage) -> anyhow::Result<u64> {
    let sql = "SELECT count(*) FROM (SELECT body ->> 'seq' AS seq, lag(body ->> 'seq') OVER (PARTITION BY device ORDER BY id) AS before
                                     FROM reports) WHERE seq < before";
    Ok(stage.db.read(|c| Ok(c.query_row(sql, [], |row| row.get(0))?))?)
}

/// Waits until the cloud has written that the broker has everything: the next step begins in silence.
async fn settle(stage: &Stage) -> anyhow::Result<()> {
    until(stage, |stage| stage.db.read(|c| Ok(c.query_row("SELECT NOT EXISTS (SELECT 1 FROM outbox WHERE due = 1)", [], |r| r.get(0))?)))
        .await
}

async fn until(stage: &Stage, done: impl Fn(&Stage) -> Result<bool, DbError>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !done(stage)? {
        ensure!(began.elapsed() < PATIENCE, "not done within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Makes every document as old as half its lease.
fn age(stage: &Stage) -> anyhow::Result<()> {
    let sql = "UPDATE cameras SET issued_at = issued_at - ?1";
    stage.db.read(|c| Ok(c.execute(sql, [LEASE_S])?)).context("making the documents older")?;
    Ok(())
}
