//! The built agent as a child process: its configuration, log, status page and signals.

use std::{
    ffi::{CStr, CString},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use care_protocol::{Mode, Policy, Position};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    issuer::FREE,
    media::MotionSocket,
    metrics::Metrics,
    old_kernel::OldKernel,
    pki::{ISSUER, Pki, ROOT_KID},
    process::{Lines, Process},
    status::{self, Status},
    wait::{PATIENCE, until},
};

/// The agent built without GStreamer.
const WITHOUT_GSTREAMER: &str = "kasa-care-agent-no-gstreamer";

/// Path of a built program beside the test binary; the environment variable (`CARE_AGENT`, `CARE_CLOUD`) overrides
/// it.
pub fn program(name: &str, variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || {
            let test = std::env::current_exe().expect("a test knows its own path");
            test.parent().and_then(Path::parent).expect("tests are built into target/<profile>/deps").join(name)
        },
        PathBuf::from,
    );
    let how = if name == WITHOUT_GSTREAMER { "scripts/no-gstreamer.sh" } else { "cargo build --workspace --bins" };
    assert!(path.exists(), "{} is not built: run `{how}` first, or set {variable}", path.display());
    path
}

/// The agent's configuration before it is written to disk. Each field holds a TOML value exactly as the file will.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// Device id.
    pub device: String,
    /// `state_dir`.
    pub state_dir: PathBuf,
    /// Broker URL.
    pub broker: String,
    /// `[broker] alpn`.
    pub broker_alpn: Option<String>,
    /// Cloud URL.
    pub cloud: String,
    /// `ca` of the broker and the cloud.
    pub ca: PathBuf,
    /// `crl` of the broker, the cloud and the store.
    pub crl: Option<PathBuf>,
    /// `client_cert`.
    pub cert: PathBuf,
    /// `client_key`.
    pub key: PathBuf,
    /// The root key, base64url.
    pub root_key: String,
    /// `min_keyset_version`.
    pub min_keyset_version: u64,
    /// `[store] hosts` and `ca`.
    pub store: Option<(Vec<String>, PathBuf)>,
    /// `[free]`.
    pub free: Policy,
    /// `[media] source`.
    pub source: Option<String>,
    /// `[media] low_source`.
    pub low_source: Option<String>,
    /// `[media] motion`.
    pub motion: String,
    /// `[media] pre_roll_s`; the agent's own without.
    pub pre_roll_s: Option<u32>,
    /// Further lines of `[media]`.
    pub media: String,
    /// `[recording] dir`.
    pub recording: Option<PathBuf>,
    /// `[recording] allow_internal_storage`: tests record to a directory, not to an SD card.
    pub allow_internal_storage: bool,
    /// `[upload] uplink_kbps`.
    pub uplink_kbps: u32,
    /// `[upload] while_recording`.
    pub while_recording: bool,
    /// `[status] listen`, without `unix:`.
    pub status: PathBuf,
    /// `[process] user`: the tests run as root, mostly without the agent's user.
    pub user: String,
    /// Lines appended to the file.
    pub extra: String,
}

impl ConfigFile {
    /// The text of the file.
    pub fn text(&self) -> String {
        let quoted = |path: &Path| toml_string(&path.display().to_string());
        let crl = self.crl.as_ref().map_or_else(String::new, |crl| format!("crl = {}\n", quoted(crl)));
        let alpn = self.broker_alpn.as_ref().map_or_else(String::new, |alpn| format!("alpn = {}\n", toml_string(alpn)));
        let mut text = format!(
            "[device]\nid = {}\nmodel = \"KC420WS\"\nstate_dir = {}\n\n\
             [broker]\nurl = {}\nca = {}\nclient_cert = {}\nclient_key = {}\n{crl}{alpn}\n\
             [cloud]\nurl = {}\n\n\
             [trust]\nissuer = \"{ISSUER}\"\nroot_keys = {{ \"{ROOT_KID}\" = {} }}\nmin_keyset_version = {}\n\n",
            toml_string(&self.device),
            quoted(&self.state_dir),
            toml_string(&self.broker),
            quoted(&self.ca),
            quoted(&self.cert),
            quoted(&self.key),
            toml_string(&self.cloud),
            toml_string(&self.root_key),
            self.min_keyset_version
        );
        if let Some((hosts, ca)) = &self.store {
            let hosts: Vec<_> = hosts.iter().map(|host| toml_string(host)).collect();
            let _ = write!(text, "[store]\nhosts = [{}]\nca = {}\n{crl}\n", hosts.join(", "), quoted(ca));
        }
        let Policy { clips, history_h, clip_max_s, cooldown_s, max_height, snapshots } = self.free;
        let _ = write!(
            text,
            "[free]\nclips = {clips}\nhistory_h = {history_h}\nclip_max_s = {clip_max_s}\ncooldown_s = {cooldown_s}\n\
             max_height = {max_height}\nsnapshots = {snapshots}\n\n"
        );
        if let Some(source) = &self.source {
            let _ = write!(text, "[media]\nsource = {}\nmotion = {}\n", toml_string(source), toml_string(&self.motion));
            if let Some(seconds) = self.pre_roll_s {
                let _ = writeln!(text, "pre_roll_s = {seconds}");
            }
            if let Some(low) = &self.low_source {
                let _ = writeln!(text, "low_source = {}", toml_string(low));
            }
            text.push_str(&self.media);
        }
        if let Some(dir) = &self.recording {
            let _ = write!(text, "\n[recording]\ndir = {}\nmax_bytes = 100_000_000\n", quoted(dir));
            if self.allow_internal_storage {
                text.push_str("allow_internal_storage = true\n");
            }
        }
        let _ = write!(text, "\n[process]\nuser = {}\n", toml_string(&self.user));
        let _ = write!(text, "\n[upload]\nuplink_kbps = {}\nwhile_recording = {}\n", self.uplink_kbps, self.while_recording);
        let _ = write!(text, "\n[status]\nlisten = \"unix:{}\"\n{}", self.status.display(), self.extra);
        text
    }
}

fn toml_string(value: &str) -> String {
    // For every string that the tests write, JSON and TOML basic strings are the same.
    serde_json::Value::from(value).to_string()
}

/// Runs the child in its own mount namespace with `file` bind-mounted over `/etc/resolv.conf`. Needs root.
fn bind_resolv_conf(command: &mut Command, file: &Path) {
    let file = CString::new(file.as_os_str().as_bytes()).expect("a path without NUL");
    let mount = move |from: &CStr, to: &CStr, flags| {
        // SAFETY: all pointers are to strings that outlive the call; mount keeps none of them.
        match unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: unshare and mount are system calls that access no memory of this process; the closure does not
    // allocate.
    unsafe {
        command.pre_exec(move || {
            if libc::unshare(libc::CLONE_NEWNS) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            mount(&file, c"/etc/resolv.conf", libc::MS_BIND)
        });
    }
}

/// A camera: its files and its agent process. Both are removed on drop.
pub struct Agent {
    dir: TempDir,
    /// The agent binary.
    pub program: PathBuf,
    /// The configuration to write at the next start or reload.
    pub config: ConfigFile,
    /// A name server to use instead of the machine's.
    pub resolver: Option<IpAddr>,
    /// How long the C library waits for one of its answers, s.
    pub resolver_patience_s: u32,
    /// Additional environment variables, applied at the next start.
    pub environment: Vec<(String, String)>,
    /// A command to run the agent under, with arguments (strace, unshare, env). Empty for none.
    pub under: Vec<String>,
    /// A camera's kernel, where it is not this machine's.
    pub kernel: Option<OldKernel>,
    process: Option<Process>,
    log: Lines,
}

impl Agent {
    /// Creates a camera with certificates from this PKI, configured for this broker and cloud. Does not start the
    /// agent.
    pub fn new(pki: &Pki, device: &str, broker: SocketAddr, cloud: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let state_dir = path.join("state");
        std::fs::create_dir(&state_dir).unwrap();
        std::fs::write(path.join("ca.pem"), pki.ca.pem()).unwrap();
        let (cert, key) = pki.ca.client(device).write(path, "device");
        let config = ConfigFile {
            device: device.to_owned(),
            state_dir,
            broker: format!("mqtts://{broker}"),
            broker_alpn: None,
            cloud: cloud.to_owned(),
            ca: path.join("ca.pem"),
            crl: None,
            cert,
            key,
            root_key: pki.root.public_key().to_base64url(),
            min_keyset_version: 1,
            store: None,
            free: FREE,
            source: None,
            low_source: None,
            motion: format!("socket:{}", path.join("motion.sock").display()),
            pre_roll_s: Some(1),
            recording: None,
            allow_internal_storage: true,
            uplink_kbps: 0,
            while_recording: false,
            status: path.join("status.sock"),
            user: "root".into(),
            media: String::new(),
            extra: String::new(),
        };
        let program = program("kasa-care-agent", "CARE_AGENT");
        Self {
            dir,
            program,
            config,
            environment: Vec::new(),
            resolver: None,
            resolver_patience_s: 2,
            under: Vec::new(),
            kernel: None,
            process: None,
            log: Lines::default(),
        }
    }

    /// Selects the agent built without GStreamer.
    pub fn without_gstreamer(&mut self) {
        self.program = program(WITHOUT_GSTREAMER, "CARE_AGENT_NO_GSTREAMER");
    }

    /// The directory of the camera's files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Path of the configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Writes the configuration file.
    pub fn write_config(&self) {
        std::fs::write(self.config_path(), self.config.text()).unwrap();
    }

    /// Writes the configuration and starts the agent.
    pub fn start(&mut self) {
        self.write_config();
        self.start_as_configured();
    }

    /// Starts the agent with the configuration file that is on disk.
    pub fn start_as_configured(&mut self) {
        assert!(self.process.is_none(), "the agent is running");
        let mut command = self.command_line();
        command.arg("run").arg("--config").arg(self.config_path()).env_remove("NOTIFY_SOCKET").env("RUST_BACKTRACE", "1");
        if let Some(ip) = self.resolver {
            let file = self.dir.path().join("resolv.conf");
            std::fs::write(&file, format!("nameserver {ip}\noptions timeout:{} attempts:2\n", self.resolver_patience_s)).unwrap();
            bind_resolv_conf(&mut command, &file);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(kernel) = self.kernel {
            kernel.imitate(command.as_std_mut());
        }
        self.process = Some(Process::spawn("kasa-care-agent", command, self.log.clone()));
    }

    fn command_line(&self) -> Command {
        let Some((under, arguments)) = self.under.split_first() else { return Command::new(&self.program) };
        let mut command = Command::new(under);
        command.args(arguments).arg(&self.program);
        command
    }

    /// Stops the agent with SIGTERM. Panics unless it exits with 0 well within 5 s.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("the agent is running");
        process.terminate();
        let status = process.exited(Duration::from_secs(8)).await;
        assert!(status.success(), "the agent ended with {status}");
    }

    /// Kills the agent with SIGKILL, as a power cut would.
    pub async fn kill(&mut self) {
        let mut process = self.process.take().expect("the agent is running");
        process.signal(libc::SIGKILL);
        process.exited(PATIENCE).await;
    }

    /// Waits until the agent exits.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("the agent was started");
        process.exited(PATIENCE).await
    }

    /// The agent's exit status, if it has exited.
    pub fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Whether either slot of the state file contains this token.
    pub fn has_on_flash(&self, token: &str) -> bool {
        let state = std::fs::read(self.state_file()).unwrap_or_default();
        state.windows(token.len()).any(|window| window == token.as_bytes())
    }

    /// Path of the state file.
    pub fn state_file(&self) -> PathBuf {
        self.config.state_dir.join("state")
    }

    /// Sends a signal to the agent.
    pub fn signal(&self, signal: i32) {
        self.process.as_ref().expect("the agent is running").signal(signal);
    }

    /// Panics if the agent has exited.
    pub fn assert_running(&mut self) {
        let ended = self.process.as_mut().expect("the agent is running").ended();
        assert!(ended.is_none(), "the agent ended with {ended:?}");
    }

    /// The agent's log over all its starts.
    pub fn log(&self) -> &Lines {
        &self.log
    }

    /// Waits for a matching log line at or after `from`.
    pub async fn logged(&self, from: usize, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        until(format!("a log line about {what}"), PATIENCE, || self.log.find(from, &wanted)).await
    }

    /// The persisted ratchet position that the agent logged at a start after `from`; zeros if it had none.
    pub async fn ratchet_at_start(&self, from: usize) -> Position {
        let ready = self.logged(from, "being ready", |line| line.contains("agent: ready ")).await;
        let position = ready.split("position=(").nth(1).and_then(|rest| rest.split(')').next()).expect("the position on record");
        let (epoch, seq) = position.split_once(", ").expect("epoch and seq");
        Position { epoch: epoch.parse().expect("a number"), seq: seq.parse().expect("a number") }
    }

    /// The agent's process id.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("the agent is running").pid()
    }

    /// The id of the agent's thread of this name.
    pub fn thread(&self, name: &str) -> i32 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().map(|task| task.unwrap());
        let named = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        let task = tasks.into_iter().find(named).unwrap_or_else(|| panic!("no thread {name}"));
        task.file_name().to_str().unwrap().parse().unwrap()
    }

    /// Resident memory in bytes: current and peak.
    pub fn memory(&self) -> (u64, u64) {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Runs one of the agent's commands and waits until it exits.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = self.command_line();
        command.args(arguments).arg("--config").arg(self.config_path()).kill_on_drop(true);
        tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").unwrap()
    }

    /// The status document, or `None` if the agent does not answer.
    pub async fn try_status(&self) -> Option<Status> {
        status::read(&self.config.status).await
    }

    /// The metrics of the running agent.
    pub async fn metrics(&self) -> Metrics {
        Metrics::new(status::metrics(&self.config.status).await.expect("the agent listens"))
    }

    /// Waits until the metrics satisfy `wanted`: the status behind them may be a second old.
    pub async fn metrics_with(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics().await;
            if wanted(&metrics) {
                return metrics;
            }
            assert!(tokio::time::Instant::now() < deadline, "the metrics do not show {what}:\n{}", metrics.text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the named condition holds and returns its message.
    pub async fn condition(&self, name: &str) -> String {
        let status = self.status(&format!("the condition {name}"), |status| status.condition(name).is_some()).await;
        status.sentence(name).to_owned()
    }

    /// Waits until the named condition no longer holds.
    pub async fn condition_gone(&self, name: &str) {
        self.status(&format!("no condition {name}"), |status| status.condition(name).is_none()).await;
    }

    /// Waits until the status document satisfies `wanted`.
    pub async fn status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        self.status_within(what, PATIENCE, wanted).await
    }

    /// Like [`Agent::status`], with an explicit timeout.
    pub async fn status_within(&self, what: &str, patience: Duration, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = tokio::time::Instant::now() + patience;
        let mut last = None;
        while tokio::time::Instant::now() < deadline {
            if let Some(status) = self.try_status().await {
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("after {patience:?} the status does not show {what}; its last value is {last:#?}");
    }

    /// Waits until the status document reports this mode.
    pub async fn mode(&self, mode: Mode) -> Status {
        self.status(&format!("mode {mode}"), |status| status.mode() == mode.as_str()).await
    }

    /// Connects to the motion socket once media runs.
    pub async fn motion(&self) -> MotionSocket {
        let path = self.config.motion.strip_prefix("socket:").expect("the test's own motion socket");
        MotionSocket::open(Path::new(path)).await
    }
}
