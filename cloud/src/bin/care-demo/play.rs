//! The setup of the demo: a temporary directory, care-cloud and kasa-care-agent as child processes, and their HTTP
//! interfaces.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use care_cloud::{
    child::die_with_parent,
    run::{SIGN_IN_FILE, SignIn, portal_of},
    transport::{
        client::{self, Portal},
        held_port::HeldPort,
    },
};
use serde_json::Value;

/// The demo's only camera.
pub const CAMERA: &str = "8006E5A1F0C2";
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How the camera is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The whole story in less than a minute.
    Story,
    /// The demo is being watched, so a clip is nearly always in flight.
    Person,
}

/// Both programs, running. Dropping it stops them and removes the directory.
pub struct Play {
    /// The portal's origin.
    pub portal: String,
    /// The camera's own page.
    pub status: String,
    _status_port: HeldPort,
    /// How a person signs in there.
    pub sign_in: SignIn,
    cloud_portal: Portal,
    // Stopped in this order, the directory last.
    agent: Running,
    cloud: Running,
    dir: tempfile::TempDir,
}

impl Play {
    /// Starts the cloud, adds the camera, starts the agent.
    pub async fn start(pace: Pace) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("care-demo-").tempdir().context("making a temporary directory")?;
        let data = dir.path().join("cloud");
        let camera = dir.path().join("camera");
        let care_cloud = program("CARE_CLOUD", "care-cloud")?;
        let agent = program("KASA_CARE_AGENT", "kasa-care-agent")?;

        let mut command = Command::new(&care_cloud);
        command.arg("--demo").arg("--data").arg(&data);
        for flag in ["--listen", "--portal", "--mqtt"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        let cloud = Running::start("care-cloud", &mut command, dir.path())?;
        wait_for_file(&data.join("endpoints.json"), &cloud).await?;
        let cloud_portal = portal_of(&data)?;
        wait_for_portal(&cloud_portal, &cloud).await?;
        let sign_in: SignIn = serde_json::from_value(wait_for_file(&data.join(SIGN_IN_FILE), &cloud).await?)?;

        let mut add = Command::new(&care_cloud);
        add.args(["camera", "add", "--id", CAMERA, "--model", "KC420WS", "--account", &sign_in.account, "--out"]).arg(&camera);
        let added = add.arg("--data").arg(&data).output().context("running care-cloud camera add")?;
        ensure!(added.status.success(), "care-cloud camera add: {}", String::from_utf8_lossy(&added.stderr));
        let status_port = set_up(&camera.join("config.toml"), pace, &super::camera::start()?)?;

        let mut command = Command::new(&agent);
        command.args(["run", "--config"]).arg(camera.join("config.toml"));
        let agent = Running::start("kasa-care-agent", &mut command, dir.path())?;
        let (portal, status) = (cloud_portal.origin.clone(), format!("http://{}", status_port.address()));
        Ok(Self { portal, status, _status_port: status_port, sign_in, cloud_portal, agent, cloud, dir })
    }

    /// Asks the portal for something, as its buttons do.
    pub async fn act(&self, action: Value) -> Result<Value> {
        Ok(self.cloud_portal.post("/portal/act", &action).await?)
    }

    /// Stops or starts the broker.
    pub async fn broker(&self, run: bool) -> Result<Value> {
        Ok(self.cloud_portal.post("/portal/broker", &serde_json::json!({ "run": run })).await?)
    }

    /// The portal's state; fails if one of the programs has ended.
    pub async fn state(&self) -> Result<Value> {
        self.agent.check()?;
        self.cloud.check()?;
        Ok(self.cloud_portal.get("/portal/state").await?)
    }

    /// The agent's status document.
    pub async fn agent_status(&self) -> Result<Value> {
        self.agent.check()?;
        Ok(client::get(&self.status, "/status.json").await?)
    }

    /// From now on the camera's clips leave in parts, while they are filmed.
    pub fn upload_while_recording(&self) -> Result<()> {
        self.agent.check()?;
        change(&self.dir.path().join("camera/config.toml"), &[("[upload]\n", "[upload]\nwhile_recording = true\n".to_owned())])?;
        self.agent.reload();
        Ok(())
    }

    /// The end of both programs' logs.
    pub fn logs(&self) -> String {
        format!("{}\n{}", self.cloud.log_tail(), self.agent.log_tail())
    }

    /// Stops both programs and removes the directory.
    pub fn stop(self) {
        let Self { agent, cloud, dir, .. } = self;
        drop((agent, cloud));
        if let Err(e) = dir.close() {
            eprintln!("care-demo: removing the temporary directory: {e}");
        }
    }
}

/// A child with its log; dropping it stops it.
struct Running {
    name: &'static str,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Running {
    fn start(name: &'static str, command: &mut Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).env_remove("NOTIFY_SOCKET");
        // Its own process group: Ctrl-C reaches the demo alone, which stops the programs in order.
        let child = die_with_parent(command.process_group(0)).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name, child: Mutex::new(child), log })
    }

    fn check(&self) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(status) = child.try_wait().with_context(|| format!("looking after {}", self.name))? {
            bail!("{} ended by itself ({status}); {}", self.name, self.log_tail());
        }
        Ok(())
    }

    fn reload(&self) {
        let child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        care_cloud::child::reload(&child);
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_else(|e| format!("(its log cannot be read: {e})"));
        let lines: Vec<_> = log.lines().rev().take(30).collect();
        let tail: Vec<_> = lines.into_iter().rev().collect();
        format!("{} said:\n{}", self.name, tail.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(e) = care_cloud::child::stop(child, Duration::from_secs(8)) {
            eprintln!("care-demo: stopping {}: {e}", self.name);
        }
    }
}

/// The program beside this one, or the one that the environment names.
fn program(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let beside = std::env::current_exe().context("finding this program")?.with_file_name(name);
    ensure!(beside.is_file(), "there is no {}: build it (cargo build --workspace), or set {variable}", beside.display());
    Ok(beside)
}

async fn wait_for_file(path: &Path, cloud: &Running) -> Result<Value> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        cloud.check()?;
        if let Ok(text) = fs::read(path) {
            return serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()));
        }
        ensure!(Instant::now() < deadline, "care-cloud is not ready after {READY_WITHIN:?}; {}", cloud.log_tail());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for_portal(portal: &Portal, cloud: &Running) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    while let Err(e) = portal.get("/portal/state").await {
        cloud.check()?;
        ensure!(Instant::now() < deadline, "the portal does not answer after {READY_WITHIN:?}: {e}; {}", cloud.log_tail());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Makes the provisioned configuration the demo's: its own camera, frequent short clips, a slow uplink. The status page's port.
fn set_up(config: &Path, pace: Pace, source: &str) -> Result<HeldPort> {
    let port = HeldPort::on_loopback().context("finding a free port")?;
    let status = port.address();
    let (motion, uplink) = match pace {
        Pace::Story => ("every:6s", 2000),
        Pace::Person => ("every:12s", 1000),
    };
    let changes = [
        ("source = \"test\"", format!("source = \"{source}\"")),
        ("pre_roll_s = 5", "pre_roll_s = 1".to_owned()),
        ("motion = \"every:30s\"", format!("motion = \"{motion}\"")),
        ("uplink_kbps = 0", format!("uplink_kbps = {uplink}")),
        ("listen = \"127.0.0.1:9180\"", format!("listen = \"{status}\"")),
    ];
    change(config, &changes)?;
    Ok(port)
}

/// Replaces texts of a configuration, each of which must be there.
fn change(config: &Path, changes: &[(&str, String)]) -> Result<()> {
    let mut text = fs::read_to_string(config).with_context(|| format!("reading {}", config.display()))?;
    for (from, to) in changes {
        ensure!(text.contains(from), "the provisioned configuration has no line {from}");
        text = text.replace(from, to);
    }
    fs::write(config, text).with_context(|| format!("writing {}", config.display()))
}
