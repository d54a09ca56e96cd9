//! The built care-cloud as a child process, and the cameras that it provisioned: for tests that need the cloud's own
//! rules.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    time::Duration,
};

use care_protocol::Report;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command};

use crate::{
    agent::program,
    metrics::Metrics,
    process::{Lines, Process},
    status,
    wait::{PATIENCE, until},
};

/// A running care-cloud with everything embedded; stopped on drop.
pub struct CareCloud {
    // Declared first, so that the cameras are dropped before the servers they use.
    cameras: Vec<(String, Process)>,
    process: Process,
    log: Lines,
    dir: TempDir,
}

impl CareCloud {
    /// Starts a care-cloud on its own ports.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a care-cloud that cameras reach at this host.
    pub async fn reached_at(host: &str) -> Self {
        Self::start_with(&["--host", host]).await
    }

    /// Starts a care-cloud with a listener for metrics.
    pub async fn with_metrics() -> Self {
        let cloud = Self::start_with(&["--metrics", "127.0.0.1:0"]).await;
        cloud.metrics_address().await;
        cloud
    }

    /// Its metrics, if it was started [`CareCloud::with_metrics`].
    pub async fn metrics(&self) -> Metrics {
        let stream = TcpStream::connect(self.metrics_address().await).await.expect("the metrics' listener");
        let body = tokio::time::timeout(PATIENCE, status::get(stream, "/metrics")).await.expect("care-cloud answers");
        Metrics::new(String::from_utf8(body.expect("an answer").into()).expect("the metrics are UTF-8"))
    }

    async fn metrics_address(&self) -> String {
        let line =
            until("care-cloud to print the metrics' address", PATIENCE, || self.log.find(0, |line| line.starts_with("metrics "))).await;
        line.trim_start_matches("metrics http://").trim_end_matches("/metrics").to_owned()
    }

    async fn start_with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let any = ["--listen", "--portal", "--mqtt"].map(|flag| [flag, "127.0.0.1:0"]).concat();
        let (process, log) = spawn(&dir, &[&any, flags].concat()).await;
        Self { cameras: Vec::new(), process, log, dir }
    }

    /// Copies the database while it is used, as `docs/operations.md` says. Returns the copy.
    pub async fn back_up(&self) -> PathBuf {
        let copy = self.dir.path().join("copy.db");
        let database = data(&self.dir).join("care.db");
        let mut command = Command::new("sqlite3");
        let output = command.arg(database).arg(format!(".backup {}", text(&copy))).output().await.expect("sqlite3 is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        copy
    }

    /// Stops care-cloud, puts this copy in place of its database, and starts it where it was.
    pub async fn restore(&mut self, copy: &Path) {
        self.process.terminate();
        self.process.exited(PATIENCE).await;
        let data = data(&self.dir);
        std::fs::copy(copy, data.join("care.db")).unwrap();
        for journal in ["care.db-wal", "care.db-shm"] {
            match std::fs::remove_file(data.join(journal)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{journal}: {error}"),
                _ => {}
            }
        }
        let endpoints: Value = serde_json::from_slice(&std::fs::read(data.join("endpoints.json")).unwrap()).unwrap();
        let [listen, portal, mqtt] = ["api", "portal", "broker"].map(|name| {
            let url = endpoints[name].as_str().expect("an address");
            url.split_once("://").expect("a URL").1.trim_end_matches('/').to_owned()
        });
        let flags = ["--listen", &listen, "--portal", &portal, "--mqtt", &mqtt];
        (self.process, self.log) = spawn(&self.dir, &flags).await;
    }

    /// Runs a care-cloud command; returns its output if it exits with 0.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program("care-cloud", "CARE_CLOUD"));
        command.args(arguments).arg("--data").arg(data(&self.dir)).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "care-cloud {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Provisions a camera for this account. Returns the directory of its files.
    pub async fn provision(&self, id: &str, account: &str) -> PathBuf {
        let out = self.dir.path().join(id);
        self.command(&["camera", "add", "--id", id, "--model", "KC420WS", "--account", account, "--out", text(&out)]).await;
        out
    }

    /// Provisions a camera for this account and starts its agent without media.
    pub async fn camera(&mut self, id: &str, account: &str) {
        let out = self.provision(id, account).await;
        let config = out.join("config.toml");
        std::fs::write(&config, without_media(&std::fs::read_to_string(&config).unwrap(), &out)).unwrap();
        self.switch_on(id);
    }

    /// Starts the agent of a camera created by [`CareCloud::camera`].
    pub fn switch_on(&mut self, id: &str) {
        let mut command = Command::new(program("kasa-care-agent", "CARE_AGENT"));
        command.arg("run").arg("--config").arg(self.config_of(id)).env_remove("NOTIFY_SOCKET");
        self.cameras.push((id.to_owned(), Process::spawn(&format!("kasa-care-agent {id}"), command, Lines::default())));
    }

    /// Stops a camera's agent and waits until it has exited.
    pub async fn switch_off(&mut self, id: &str) {
        let at = self.cameras.iter().position(|(name, _)| name == id).expect("the camera is running");
        let (_, mut agent) = self.cameras.remove(at);
        agent.terminate();
        agent.exited(PATIENCE).await;
    }

    /// Factory-resets a camera whose agent is stopped.
    pub async fn factory_reset(&self, id: &str) {
        let mut command = Command::new(program("kasa-care-agent", "CARE_AGENT"));
        command.args(["factory-reset", "--config"]).arg(self.config_of(id)).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn config_of(&self, id: &str) -> PathBuf {
        self.dir.path().join(id).join("config.toml")
    }

    /// The portal's state.
    pub async fn state(&self) -> Value {
        serde_json::from_str(&self.command(&["state"]).await).expect("the state is JSON")
    }

    /// Waits until these cameras have reported `(id, plan, mode)`. Returns the portal's state.
    pub async fn reported(&self, wanted: &[(&str, &str, &str)]) -> Value {
        let what = format!("reports of {wanted:?}");
        self.until(what, PATIENCE, |state| wanted.iter().all(|(id, plan, mode)| reports(state, id, plan, mode))).await
    }

    /// Waits until the portal's state satisfies `wanted`. Returns it.
    pub async fn until(&self, what: impl Display, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let state = self.state().await;
            if wanted(&state) {
                return state;
            }
            assert!(tokio::time::Instant::now() < deadline, "after {patience:?} still waiting for {what}; {state:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Whether a camera has reported its newest document as in force, with this plan and mode.
pub fn reports(state: &Value, id: &str, plan: &str, mode: &str) -> bool {
    let camera = camera_of(state, id);
    let report: Option<Report> = serde_json::from_value(camera["report"].clone()).ok();
    report.is_some_and(|report| {
        let of_newest = (Some(report.epoch), Some(report.seq)) == (camera["epoch"].as_u64(), camera["seq"].as_u64());
        of_newest && report.plan.as_ref().is_some_and(|p| p.as_str() == plan) && report.mode.as_str() == mode
    })
}

/// Uploads in the store, oldest first.
pub fn transfers(state: &Value) -> &[Value] {
    state["transfers"].as_array().expect("the state lists transfers")
}

/// One camera in the portal's state.
pub fn camera_of<'a>(state: &'a Value, id: &str) -> &'a Value {
    let cameras = state["cameras"].as_array().expect("the state lists cameras");
    cameras.iter().find(|camera| camera["device"] == id).unwrap_or_else(|| panic!("no camera {id} in {state:#}"))
}

/// The newest change of one camera.
pub fn switch_of<'a>(state: &'a Value, id: &str) -> &'a Value {
    let switches = state["switches"].as_array().expect("the state lists switches");
    switches.iter().find(|switch| switch["device"] == id).unwrap_or_else(|| panic!("no switch of {id} in {state:#}"))
}

/// Starts a care-cloud and waits until it is ready.
async fn spawn(dir: &TempDir, flags: &[&str]) -> (Process, Lines) {
    let log = Lines::default();
    let mut command = Command::new(program("care-cloud", "CARE_CLOUD"));
    command.args(flags).arg("--data").arg(data(dir));
    let process = Process::spawn("care-cloud", command, log.clone());
    until("care-cloud to print its portal's address", PATIENCE, || log.find(0, |line| line.starts_with("portal "))).await;
    (process, log)
}

fn data(dir: &TempDir) -> PathBuf {
    dir.path().join("cloud")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// The same configuration without `[media]`, with a status socket of its own.
fn without_media(config: &str, dir: &Path) -> String {
    let mut section = "";
    let mut kept = String::new();
    for line in config.lines() {
        if line.starts_with('[') {
            section = line;
        }
        if section != "[media]" && section != "[status]" {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    format!("{kept}\n[status]\nlisten = \"unix:{}\"\n", dir.join("status.sock").display())
}
