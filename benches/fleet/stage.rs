//! The processes of a measurement: care-cloud, its Mosquitto or a cluster of NATS, and the cameras. Everything ends with
//! the [`Stage`].

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use care_cloud::{
    child::{die_with_parent, stop},
    clock::now_s,
    domain::{
        actions::{Action, ActionError, PaidPlan},
        catalogue::Catalogue,
        issuer::Issuer,
    },
    run::portal_of,
    storage::{
        data_dir::DataDir,
        db::{Db, Transaction},
        keys::Keys,
        pki::Pki,
    },
    transport::client::Portal,
};
use care_protocol::DeviceId;
use serde::Deserialize;

use crate::cluster::Cluster;

/// The model of every camera.
pub const MODEL: &str = "KC420WS";
/// Cameras of one account: as many as Premium has seats.
pub const ACCOUNT: usize = 10;
/// The lease of every document, seconds.
pub const LEASE_S: u64 = 172_800;
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(900);

/// Between cameras and cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// One Mosquitto, a child of care-cloud.
    Mosquitto,
    /// Three NATS nodes. A camera connects to one of them, and to the next when it has lost that; care-cloud to the first.
    Nats,
}

/// The built programs.
pub struct Programs {
    /// `care-cloud`.
    pub cloud: PathBuf,
    /// `bench-fleet`.
    pub cameras: PathBuf,
}

/// The id of a camera.
pub fn device(number: usize) -> DeviceId {
    format!("FLEET-{number:05}").parse().expect("capitals, digits and a dash")
}

/// The account of a camera.
pub fn account(number: usize) -> String {
    format!("acct-fleet-{:04}", number / ACCOUNT)
}

/// Lets this process, and those it starts, have as many open files as the system admits: each connection is one.
pub fn all_files() -> anyhow::Result<()> {
    care_cloud::child::raise_open_files().context("raising the limit of open files")?;
    Ok(())
}

/// What the cameras have done so far.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Seen {
    /// Cameras whose subscriptions are granted.
    pub online: usize,
    /// Answers to `get`.
    pub answers: u64,
}

/// CPU time of the three sides so far, milliseconds.
pub type Cpu = BTreeMap<&'static str, f64>;

/// A running fleet.
pub struct Stage {
    cloud: Child,
    cameras: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    cluster: Option<Cluster>,
    /// The database that the cloud runs on.
    pub db: Db,
    /// The portal.
    pub portal: Portal,
    /// Bytes of care-cloud's memory before any camera was connected.
    pub cloud_alone: u64,
    /// CPU time of brokers that have ended, milliseconds.
    broker_before: f64,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// Binds so many cameras, ten to an account, in the database; then starts the cloud and the process of the cameras,
    /// which are not connected yet.
    pub async fn start(programs: &Programs, cameras: usize, broker: Broker) -> anyhow::Result<Self> {
        all_files()?;
        let dir = tempfile::tempdir()?;
        let data = DataDir::open(dir.path())?;
        let db = Db::open(&data.path("care.db"))?;
        let issuer = Issuer { keys: Keys::open(&data, now_s())?, catalogue: Catalogue::built_in(), lease_s: LEASE_S };
        for first in (0..cameras).step_by(ACCOUNT) {
            db.transact(|tx| bind(tx, &issuer, first..(first + ACCOUNT).min(cameras)))?;
        }
        let cluster = match broker {
            Broker::Mosquitto => None,
            Broker::Nats => {
                Pki::open(&data, &[])?;
                Some(Cluster::start(&dir.path().join("nats"), &data.path("pki"), (0..cameras).map(device)).await?)
            }
        };
        let nodes = cluster.as_ref().map(Cluster::addresses).unwrap_or_default();
        let log = std::fs::File::create(dir.path().join("log"))?;
        let mut command = Command::new(&programs.cloud);
        command.args(["--listen", "127.0.0.1:0", "--portal", "127.0.0.1:0", "--lease", &LEASE_S.to_string()]);
        match nodes.first() {
            Some(node) => command.args(["--broker", node]),
            None => command.args(["--mqtt", "127.0.0.1:0"]),
        };
        command.arg("--data").arg(dir.path()).env("RUST_LOG", "warn,s3s=off").stdout(Stdio::null()).stderr(log);
        let mut cloud = die_with_parent(&mut command).spawn().with_context(|| format!("starting {}", programs.cloud.display()))?;
        let portal = async {
            let deadline = Instant::now() + PATIENCE;
            loop {
                if let Ok(portal) = portal_of(dir.path())
                    && portal.get("/portal/accounts/acct-fleet-0000").await.is_ok()
                {
                    return Ok(portal);
                }
                ensure!(matches!(cloud.try_wait(), Ok(None)) && Instant::now() < deadline, "care-cloud does not start");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let portal = portal.await.with_context(|| std::fs::read_to_string(dir.path().join("log")).unwrap_or_default())?;
        let mut command = Command::new(&programs.cameras);
        command.arg("cameras").arg(dir.path()).arg(cameras.to_string()).args(nodes).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cameras = die_with_parent(&mut command).spawn().context("starting the cameras")?;
        let (ask, answers) = (cameras.stdin.take().context("no pipe")?, cameras.stdout.take().context("no pipe")?);
        let cloud_alone = memory(cloud.id())?;
        let answers = BufReader::new(answers);
        Ok(Self { cloud, cameras, ask, answers, cluster, db, portal, cloud_alone, broker_before: 0.0, _dir: dir })
    }

    /// What the cameras have done so far; the first question connects them.
    pub fn seen(&mut self) -> anyhow::Result<Seen> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("the cameras have ended")
    }

    /// CPU time so far.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let broker = self.broker_before + self.brokers_cpu()?;
        Ok([("cloud", cpu_ms(self.cloud.id())?), ("broker", broker), ("cameras", cpu_ms(self.cameras.id())?)].into())
    }

    /// Stops the broker; its CPU time stays in [`Stage::cpu`].
    pub async fn broker_runs(&mut self, run: bool) -> anyhow::Result<()> {
        if !run {
            self.broker_before += self.brokers_cpu()?;
        }
        self.portal.post("/portal/broker", &serde_json::json!({ "run": run })).await?;
        Ok(())
    }

    /// Kills a node of the cluster, not care-cloud's; its CPU time stays in [`Stage::cpu`].
    pub fn lose_node(&mut self) -> anyhow::Result<()> {
        let all = self.brokers_cpu()?;
        self.cluster.as_mut().context("there is no cluster")?.lose_node()?;
        self.broker_before += all - self.brokers_cpu()?;
        Ok(())
    }

    /// Memory of the three sides, bytes (PSS).
    pub fn memory(&self) -> anyhow::Result<[(&'static str, u64); 3]> {
        let brokers = self.brokers()?;
        ensure!(!brokers.is_empty(), "the broker does not run");
        let broker = brokers.into_iter().map(memory).sum::<anyhow::Result<u64>>()?;
        Ok([("cloud", memory(self.cloud.id())?), ("broker", broker), ("cameras", memory(self.cameras.id())?)])
    }

    fn brokers_cpu(&self) -> anyhow::Result<f64> {
        self.brokers()?.into_iter().map(cpu_ms).sum()
    }

    /// The broker's processes.
    fn brokers(&self) -> anyhow::Result<Vec<u32>> {
        if let Some(cluster) = &self.cluster {
            return Ok(cluster.pids());
        }
        for task in std::fs::read_dir(format!("/proc/{}/task", self.cloud.id()))? {
            let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            if let Some(child) = children.split_whitespace().next() {
                return Ok(vec![child.parse()?]);
            }
        }
        Ok(Vec::new())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in [&mut self.cameras, &mut self.cloud] {
            if let Err(e) = stop(child, Duration::from_secs(10)) {
                eprintln!("stopping: {e}");
            }
        }
    }
}

/// Binds these cameras to their account and subscribes it to Premium.
pub fn bind(tx: &Transaction<'_>, issuer: &Issuer, cameras: std::ops::Range<usize>) -> Result<(), ActionError> {
    let first = cameras.start;
    for number in cameras {
        issuer.add_camera(tx, &device(number), MODEL, &account(number), now_s())?;
    }
    let plan = PaidPlan::Premium;
    issuer.act(tx, &Action::Subscribe { camera: device(first), plan, cycle: None, channel: None, zone: None }, now_s())?;
    Ok(())
}

fn cpu_ms(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("reading /proc")?;
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    // The kernel counts in hundredths of a second.
    Ok(ticks * 10.0)
}

fn memory(pid: u32) -> anyhow::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let Some(kib) = rollup.lines().find_map(|line| line.strip_prefix("Pss:")) else { bail!("no Pss in /proc") };
    Ok(kib.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
