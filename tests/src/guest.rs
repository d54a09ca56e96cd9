//! A whole emulated camera: QEMU with the image of `scripts/arm/camera.sh`, a disk for its state and a disk for its
//! identity. A failing test prints the journal from the guest's console.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command as Blocking,
    time::{Duration, Instant},
};

use socket2::Socket;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    agent::ConfigFile,
    broker::reserve_port,
    footprint::{Cost, Usage},
    media,
    process::{Lines, Process},
    wait::until,
    world::World,
};

/// The address at which a guest on QEMU's user network reaches this machine's loopback.
pub const HOST: &str = "10.0.2.2";
/// Timeout for anything in a guest: emulation on a loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Directory of the agent's files in the guest, as in its package and unit.
pub const IDENTITY: &str = "/etc/kasa-care-agent";
/// The state directory.
pub const STATE: &str = "/var/lib/kasa-care-agent";
/// The socket directory.
pub const RUNTIME: &str = "/run/kasa-care-agent";

/// The guest port that forwards to a unix socket in the guest.
const RELAY: u16 = 2324;

/// A camera model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Memory, MB.
    pub memory: u32,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Whether the clock starts in 1970.
    pub without_clock: bool,
    /// Size of the state disk, KiB.
    pub state_disk: u32,
    /// Whether every write to the state disk is logged.
    pub writes_logged: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self { memory: 256, read_only: false, without_clock: false, state_disk: 8 * 1024, writes_logged: false }
    }
}

/// An emulated camera; killed on drop.
pub struct Guest {
    dir: TempDir,
    model: Model,
    door: SocketAddr,
    relay: SocketAddr,
    _ports: [Socket; 2],
    console: Lines,
    qemu: Option<Process>,
}

impl Guest {
    /// Creates a camera for this world and does not boot it. The configuration of the world's agent is copied to the
    /// guest's disk, with addresses translated for the guest; the agent itself must not be started.
    pub fn new(world: &mut World, model: Model) -> Self {
        Self::with(world, model, &[])
    }

    /// The same with additional files or directories in [`IDENTITY`], each under a name, replacing what is there.
    pub fn with(world: &mut World, model: Model, more: &[(&str, &Path)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [door, relay] = std::array::from_fn(|_| reserve_port());
        let config = configuration(world);
        world.agent.config = config;
        let guest = Self { dir, model, door: door.1, relay: relay.1, _ports: [door.0, relay.0], console: Lines::default(), qemu: None };
        guest.make_disks(world, more);
        guest
    }

    /// Boots the camera.
    pub fn start(&mut self) {
        assert!(self.qemu.is_none(), "the guest is running");
        let mut command = Command::new(emulator());
        let forward = |from: SocketAddr, to: u16| format!(",hostfwd=tcp:{from}-:{to}");
        let network = format!("user,id=n0{}{}", forward(self.door, 2323), forward(self.relay, RELAY));
        command.args(machine()).arg("-m").arg(self.model.memory.to_string());
        command.arg("-kernel").arg(image().join("kernel")).arg("-initrd").arg(image().join("initrd"));
        command.arg("-append").arg(self.command_line());
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio"]);
        command.args(["-netdev", &network, "-device", "virtio-net-device,netdev=n0", "-device", "virtio-rng-device"]);
        // Writes to the root are discarded at power-off; writes to the other disks persist.
        let mut disks = vec![("root", image().join("root.ext4"), false), ("identity", self.dir.path().join("identity.ext4"), true)];
        if self.model.writes_logged {
            command.args(self.state_with_log());
        } else {
            disks.push(("state", self.state_disk(), true));
        }
        for (id, file, lasting) in disks {
            let snapshot = if lasting { "off" } else { "on" };
            command.arg("-drive").arg(format!("if=none,format=raw,id={id},file={},snapshot={snapshot}", file.display()));
        }
        // QEMU assigns virtio slots from the last to the first.
        for id in ["identity", "state", "root"] {
            // QEMU before 9.0 logs zero writes and discards wrongly when other writes come in between.
            let only_writes = if id == "state" { ",discard=off,write-zeroes=off" } else { "" };
            command.args(["-device", &format!("virtio-blk-device,drive={id}{only_writes}")]);
        }
        self.qemu = Some(Process::spawn("qemu", command, self.console.clone()));
    }

    /// Cuts the power.
    pub async fn cut_power(&mut self) {
        let mut qemu = self.qemu.take().expect("the guest is running");
        qemu.signal(libc::SIGKILL);
        qemu.exited(PATIENCE).await;
    }

    /// The state disk.
    pub fn state_disk(&self) -> PathBuf {
        self.dir.path().join("state.ext4")
    }

    /// The write log of the state disk since boot, if the model logs writes (see [`crate::write_log`]).
    pub fn write_log(&self) -> PathBuf {
        self.dir.path().join("state.log")
    }

    /// Creates the state disk with an empty log. The host does not lose power, so flushes to its own disk are
    /// skipped.
    fn state_with_log(&self) -> [String; 6] {
        fs::File::create(self.write_log()).unwrap();
        let file = |name, path: PathBuf| format!("driver=file,node-name={name},filename={},cache.no-flush=on", path.display());
        let blockdev = || "-blockdev".to_owned();
        [
            blockdev(),
            file("state-file", self.state_disk()),
            blockdev(),
            file("state-log", self.write_log()),
            blockdev(),
            "driver=blklogwrites,node-name=state,file=state-file,log=state-log".to_owned(),
        ]
    }

    /// The console, which includes the journal, over all boots.
    pub fn console(&self) -> &Lines {
        &self.console
    }

    /// Waits for a matching console line at or after `from`.
    pub async fn logged(&self, from: usize, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        until(format!("the guest to log {what}"), PATIENCE, || self.console.find(from, &wanted)).await
    }

    /// Runs a script in the guest as root; returns its output.
    pub async fn run(&self, script: &str) -> String {
        let (door, script) = (self.door, script.to_owned());
        tokio::task::spawn_blocking(move || through(door, &script, PATIENCE))
            .await
            .unwrap()
            .unwrap_or_else(|e| panic!("no answer from the guest: {e}"))
    }

    /// Writes this configuration and restarts the agent with it.
    pub async fn configure(&self, config: &str) {
        let said = self
            .run(&format!("cat >{IDENTITY}/config.toml <<'END' && sync && systemctl restart kasa-care-agent 2>&1\n{config}\nEND"))
            .await;
        assert_eq!(said, "", "the agent does not start with\n{config}");
    }

    /// Forwards connections to a unix socket in the guest; returns the local address.
    pub async fn relay(&self, socket: &Path) -> SocketAddr {
        let listen = format!("--socket-property=ListenStream={RELAY} /usr/lib/systemd/systemd-socket-proxyd");
        let said = self.run(&format!("systemd-run --quiet {listen} {} 2>&1", socket.display())).await;
        assert_eq!(said, "", "no relay");
        self.relay
    }

    /// Measures the agent's resource use over `span`.
    pub async fn cost(&self, span: Duration) -> Cost {
        let (before, started) = (self.usage().await, Instant::now());
        tokio::time::sleep(span).await;
        Cost::between(before, self.usage().await, started.elapsed())
    }

    async fn usage(&self) -> Usage {
        let copy = self.run(&Usage::copying(self.service().await.pid)).await;
        Usage::of_copy(&copy).unwrap_or_else(|e| panic!("{e}:\n{copy}"))
    }

    /// The agent's process id and the number of restarts by systemd.
    pub async fn service(&self) -> Service {
        let shown = self.run("systemctl show -p MainPID -p NRestarts -p Result kasa-care-agent").await;
        let field = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned();
        Service { pid: field("MainPID").parse().unwrap_or(0), restarts: field("NRestarts").parse().unwrap_or(0) }
    }

    fn command_line(&self) -> String {
        let mut line = String::from("console=ttyAMA0 quiet panic=-1 systemd.show_status=false systemd.journald.forward_to_console=1");
        if self.model.read_only {
            line += " camera.root=ro";
        }
        if self.model.without_clock {
            // Sets the clock to ten seconds after the epoch, as without a battery; arm64's kernel would read an RTC.
            line += " systemd.clock_usec=10000000 module_blacklist=rtc_pl031";
        }
        line
    }

    fn make_disks(&self, world: &World, more: &[(&str, &Path)]) {
        let identity = self.dir.path().join("identity");
        fs::create_dir(&identity).unwrap();
        fs::write(identity.join("ca.pem"), world.pki.ca.pem()).unwrap();
        world.pki.ca.client(&world.agent.config.device).write(&identity, "device");
        fs::write(identity.join("config.toml"), world.agent.config.text()).unwrap();
        fs::copy(media::recorded(), identity.join("picture.mp4")).unwrap();
        for (name, path) in more {
            run_here("cp", |cp| cp.args(["-r", "--no-target-directory"]).arg(path).arg(identity.join(name)));
        }
        // The files belong to root; the agent runs as another user.
        run_here("chmod", |chmod| chmod.args(["-R", "a+rX"]).arg(&identity));
        make_disk(&identity, &self.dir.path().join("identity.ext4"), 16 * 1024);
        let state = self.dir.path().join("state");
        fs::create_dir(&state).unwrap();
        make_disk(&state, &self.state_disk(), self.model.state_disk);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if self.qemu.is_none() {
            eprintln!("--- the guest is off; the end of its console:");
            let lines = self.console.all();
            lines[lines.len().saturating_sub(150)..].iter().for_each(|line| eprintln!("    {line}"));
            return;
        }
        // The console shows only the messages; the agent's fields are needed too.
        let journal = "journalctl -b -u kasa-care-agent -o verbose --no-pager -n 60 | grep -E '^ +([A-Z]|F_)|^[A-Z]'";
        match through(self.door, journal, Duration::from_secs(20)) {
            Ok(lines) => eprintln!("--- the agent's journal in the guest:\n{lines}"),
            Err(error) => eprintln!("--- the guest does not give its journal any more: {error}"),
        }
    }
}

/// The agent as systemd reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Process id, 0 if it is not running.
    pub pid: u32,
    /// Automatic restarts by systemd.
    pub restarts: u32,
}

/// The world's configuration as the guest sees it.
pub(crate) fn configuration(world: &World) -> ConfigFile {
    let mut config = world.agent.config.clone();
    config.state_dir = STATE.into();
    // Connects straight to the broker, without the proxy: when the guest is killed, its connections close too.
    config.broker = format!("mqtts://{HOST}:{}", world.broker.addr.port());
    config.cloud = format!("https://{HOST}:{}", world.cloud.addr.port());
    config.ca = Path::new(IDENTITY).join("ca.pem");
    config.cert = Path::new(IDENTITY).join("device.pem");
    config.key = Path::new(IDENTITY).join("device.key");
    config.source = Some(format!("file:{IDENTITY}/picture.mp4"));
    config.motion = "every:2s".into();
    config.status = Path::new(RUNTIME).join("status.sock");
    // Slow, because QEMU's network buffers hundreds of kilobytes: data in flight must still be in the guest when it
    // is cut.
    config.uplink_kbps = 200;
    world.cloud.lock().origin = config.cloud.clone();
    config
}

/// The image directory, from `CARE_CAMERA`.
fn image() -> PathBuf {
    let dir = std::env::var_os("CARE_CAMERA").expect("CARE_CAMERA names the folder that scripts/arm/camera.sh has made");
    fs::canonicalize(&dir).unwrap_or_else(|e| panic!("CARE_CAMERA={}: {e}", dir.display()))
}

fn is_64_bit() -> bool {
    image().ends_with("camera-arm64")
}

fn emulator() -> &'static str {
    if is_64_bit() { "qemu-system-aarch64" } else { "qemu-system-arm" }
}

fn machine() -> [&'static str; 6] {
    ["-M", "virt", "-cpu", if is_64_bit() { "cortex-a53" } else { "cortex-a15" }, "-smp", "2"]
}

fn make_disk(from: &Path, to: &Path, kib: u32) {
    run_here("/sbin/mke2fs", |mke2fs| {
        mke2fs.args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(from).arg(to).arg(format!("{kib}k"))
    });
}

pub(crate) fn run_here(program: &str, arguments: impl FnOnce(&mut Blocking) -> &mut Blocking) {
    let mut command = Blocking::new(program);
    let output = arguments(&mut command).output().unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a script through a guest's shell port; returns its output.
pub(crate) fn through(door: SocketAddr, script: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&door, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(script.as_bytes())?;
    stream.write_all(b"\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}
