//! A care-cloud of the test's own, as a child process.

use std::{
    future::Future,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use care_cloud::{
    child::{die_with_parent, stop},
    run,
    storage::data_dir::Endpoints,
    transport::client::Portal,
};
use serde_json::{Value, json};

/// A loaded machine takes its time; what never comes is waited for as long, and then said.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cloud {
    pub dir: tempfile::TempDir,
    pub endpoints: Endpoints,
    child: Child,
    /// The PostgreSQL that it was told of.
    database: Option<String>,
}

impl Cloud {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(dir: tempfile::TempDir) -> Self {
        Self::start_with(dir, &[], &[]).await
    }

    /// With more on its command line, and in its environment.
    pub async fn start_with(dir: tempfile::TempDir, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let child = spawn(dir.path(), flags, environment);
        let endpoints = ready(dir.path()).await;
        let database = flags.iter().skip_while(|flag| **flag != "--database").nth(1).map(|url| (*url).to_owned());
        Self { dir, endpoints, child, database }
    }

    /// Another process on the same data and the same broker.
    pub async fn beside(first: &Self, name: &str) -> Self {
        let log = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(first.data(), log.path().join("data")).unwrap();
        let own = first.endpoints.broker_cloud.as_deref().expect("the embedded broker has a listener for the cloud");
        let child = spawn(log.path(), &["--instance", name, "--broker", &first.endpoints.broker, "--broker-cloud", own], &[]);
        let path = first.data().join("endpoints.json");
        let endpoints = until("the second process to say where it is", || async {
            let found: Endpoints = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            (found.portal != first.endpoints.portal).then_some(found)
        })
        .await;
        Self { dir: log, endpoints, child, database: None }
    }

    /// Waits until it has ended by itself; the data stays.
    pub async fn end(mut self) -> tempfile::TempDir {
        let child = std::sync::Mutex::new(&mut self.child);
        until("care-cloud to end", || async { child.lock().unwrap().try_wait().unwrap() }).await;
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// SIGKILL, as a crash or the OOM killer would do it; the data stays.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What is left of `self` has no child any more; its directory lives on.
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    pub async fn restart(dir: tempfile::TempDir) -> Self {
        Self::start_in(dir).await
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Provisions a camera as the factory would.
    pub fn add_camera(&self, id: &str) -> PathBuf {
        self.add_camera_to(id, "acct-1")
    }

    /// The same for a camera of another account.
    pub fn add_camera_to(&self, id: &str, account: &str) -> PathBuf {
        let out = self.dir.path().join(id);
        let mut command = Command::new(env!("CARGO_BIN_EXE_care-cloud"));
        command.args(["camera", "add", "--id", id, "--model", "KC420WS", "--account", account, "--out"]).arg(&out);
        command.arg("--data").arg(self.data()).args(self.database.iter().flat_map(|url| ["--database", url]));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        out
    }

    /// The portal, as the command line speaks to it.
    pub fn portal(&self) -> Portal {
        run::portal_of(&self.data()).unwrap()
    }

    pub async fn act(&self, action: Value) -> Value {
        self.portal().post("/portal/act", &action).await.unwrap()
    }

    pub async fn premium(&self, camera: &str) {
        self.act(json!({ "action": "subscribe", "camera": camera, "plan": "premium" })).await;
    }

    pub async fn experiment(&self, experiment: Value) -> Value {
        self.try_experiment(experiment).await.unwrap()
    }

    /// An experiment that may be refused; then why.
    pub async fn try_experiment(&self, experiment: Value) -> Result<Value, String> {
        self.portal().post("/portal/experiment", &experiment).await.map_err(|e| e.to_string())
    }

    pub async fn overview(&self) -> Value {
        self.portal().get("/portal/overview").await.unwrap()
    }

    pub async fn state(&self) -> Value {
        self.portal().get("/portal/state").await.unwrap()
    }

    pub async fn set_broker(&self, run: bool) {
        self.portal().post("/portal/broker", &json!({ "run": run })).await.unwrap();
    }

    /// Waits until `holds` for the portal's state.
    pub async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state().await;
            if holds(&state) {
                return state;
            }
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}; {state:#}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process id of its Mosquitto.
    pub fn mosquitto(&self) -> Option<u32> {
        children(self.child.id()).into_iter().find(|pid| name(*pid).as_deref() == Some("mosquitto"))
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        stop(&mut self.child, Duration::from_secs(10)).unwrap();
    }
}

fn spawn(dir: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_care-cloud"));
    command.arg("--data").arg(dir.join("data")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    for flag in ["--listen", "--portal", "--mqtt"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.args(flags).envs(environment.iter().copied());
    die_with_parent(&mut command).spawn().unwrap()
}

async fn ready(dir: &Path) -> Endpoints {
    let endpoints = dir.join("data/endpoints.json");
    until("care-cloud to answer where it says that it is", || async {
        let found: Endpoints = serde_json::from_slice(&std::fs::read(&endpoints).ok()?).ok()?;
        run::portal_of(&dir.join("data")).ok()?.get("/portal/state").await.ok().map(|_| found)
    })
    .await
}

/// Waits until `look` sees something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn name(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
}

pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.flatten().flat_map(|task| of(task).split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}
