//! A whole emulated camera: QEMU with the image that `scripts/arm/camera.sh` makes, its own state on a disk, its identity on
//! another. Its journal comes out of its console and is shown when a test fails, so that a guest that died tells why too.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command as Blocking,
    time::Duration,
};

use socket2::Socket;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    agent::ConfigFile,
    broker::reserve_port,
    media,
    process::{Lines, Process},
    wait::until,
    world::World,
};

/// Under which address a guest of QEMU's user network reaches this machine's loopback.
pub const HOST: &str = "10.0.2.2";
/// How long a guest may take for anything: emulation on a loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Where the agent's files are in the guest, as its package and its unit have them.
const IDENTITY: &str = "/etc/kasa-care-agent";
const STATE: &str = "/var/lib/kasa-care-agent";
const RUNTIME: &str = "/run/kasa-care-agent";

/// What kind of camera is switched on.
#[derive(Debug, Clone)]
pub struct Model {
    /// Memory, MB.
    pub memory: u32,
    /// Whether the root is read-only.
    pub read_only: bool,
    /// Whether its clock begins in 1970.
    pub without_clock: bool,
    /// Size of the disk for the state, KiB.
    pub state_disk: u32,
    /// Whether every write to that disk is logged.
    pub writes_logged: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self { memory: 256, read_only: false, without_clock: false, state_disk: 8 * 1024, writes_logged: false }
    }
}

/// An emulated camera; killed when dropped.
pub struct Guest {
    dir: TempDir,
    model: Model,
    door: SocketAddr,
    _port: Socket,
    console: Lines,
    qemu: Option<Process>,
}

impl Guest {
    /// A camera of this world that is off. The world's agent is described, not started: its configuration goes onto the guest's
    /// disk, with addresses as the guest sees them.
    pub fn new(world: &mut World, model: Model) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, door) = reserve_port();
        let config = configuration(world);
        world.agent.config = config;
        let guest = Self { dir, model, door, _port: port, console: Lines::default(), qemu: None };
        guest.make_disks(world);
        guest
    }

    /// Switches it on.
    pub fn start(&mut self) {
        assert!(self.qemu.is_none(), "the guest is running");
        let mut command = Command::new(emulator());
        let forward = format!("user,id=n0,hostfwd=tcp:127.0.0.1:{}-:2323", self.door.port());
        command.args(machine()).arg("-m").arg(self.model.memory.to_string());
        command.arg("-kernel").arg(image().join("kernel")).arg("-initrd").arg(image().join("initrd"));
        command.arg("-append").arg(self.command_line());
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio"]);
        command.args(["-netdev", &forward, "-device", "virtio-net-device,netdev=n0", "-device", "virtio-rng-device"]);
        // What is written to the root is gone with the power; what is written to the others is theirs.
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
        // Of virtio's slots QEMU gives out the last one first.
        for id in ["identity", "state", "root"] {
            // Writes of zeros and discards are logged wrongly by QEMU before 9.0 if others come in between.
            let only_writes = if id == "state" { ",discard=off,write-zeroes=off" } else { "" };
            command.args(["-device", &format!("virtio-blk-device,drive={id}{only_writes}")]);
        }
        self.qemu = Some(Process::spawn("qemu", command, self.console.clone()));
    }

    /// Cuts its power.
    pub async fn cut_power(&mut self) {
        let mut qemu = self.qemu.take().expect("the guest is running");
        qemu.signal(libc::SIGKILL);
        qemu.exited(PATIENCE).await;
    }

    /// The disk with its state.
    pub fn state_disk(&self) -> PathBuf {
        self.dir.path().join("state.ext4")
    }

    /// The log of what was written there since it was switched on, where the model has one (see [`crate::write_log`]).
    pub fn write_log(&self) -> PathBuf {
        self.dir.path().join("state.log")
    }

    /// The disk for the state, with a new log beside it. The machine under QEMU keeps its power: there the flushes are spared.
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

    /// Its console, which carries its journal, over all its boots.
    pub fn console(&self) -> &Lines {
        &self.console
    }

    /// Waits for a line of its console from `from` on.
    pub async fn logged(&self, from: usize, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        until(format!("the guest to log {what}"), PATIENCE, || self.console.find(from, &wanted)).await
    }

    /// Runs a script in the guest as root; what it prints.
    pub async fn run(&self, script: &str) -> String {
        let (door, script) = (self.door, script.to_owned());
        tokio::task::spawn_blocking(move || through(door, &script, PATIENCE))
            .await
            .unwrap()
            .unwrap_or_else(|e| panic!("no answer from the guest: {e}"))
    }

    /// The process that is the agent, and how often systemd has restarted it.
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
            // Ten seconds into 1970, as where nothing keeps the time.
            line += " systemd.clock_usec=10000000";
        }
        line
    }

    fn make_disks(&self, world: &World) {
        let identity = self.dir.path().join("identity");
        fs::create_dir(&identity).unwrap();
        fs::write(identity.join("ca.pem"), world.pki.ca.pem()).unwrap();
        world.pki.ca.client(&world.agent.config.device).write(&identity, "device");
        fs::write(identity.join("config.toml"), world.agent.config.text()).unwrap();
        let picture = identity.join("picture.mp4");
        fs::copy(media::recorded(), &picture).unwrap();
        fs::set_permissions(&picture, fs::Permissions::from_mode(0o644)).unwrap();
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
        // The console has the messages alone; the fields of the agent's tell more.
        let journal = "journalctl -b -u kasa-care-agent -o verbose --no-pager -n 60 | grep -E '^ +([A-Z]|F_)|^[A-Z]'";
        match through(self.door, journal, Duration::from_secs(20)) {
            Ok(lines) => eprintln!("--- the agent's journal in the guest:\n{lines}"),
            Err(error) => eprintln!("--- the guest does not give its journal any more: {error}"),
        }
    }
}

/// The agent as systemd sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Process id, 0 while there is none.
    pub pid: u32,
    /// Restarts that systemd made by itself.
    pub restarts: u32,
}

/// The world's configuration as it stands in the guest.
fn configuration(world: &World) -> ConfigFile {
    let mut config = world.agent.config.clone();
    config.state_dir = STATE.into();
    // Straight to the broker: a camera that is switched off takes its connections with it.
    config.broker = format!("mqtts://{HOST}:{}", world.broker.addr.port());
    config.cloud = format!("https://{HOST}:{}", world.cloud.addr.port());
    config.ca = Path::new(IDENTITY).join("ca.pem");
    config.cert = Path::new(IDENTITY).join("device.pem");
    config.key = Path::new(IDENTITY).join("device.key");
    config.source = Some(format!("file:{IDENTITY}/picture.mp4"));
    config.motion = "every:2s".into();
    config.status = Path::new(RUNTIME).join("status.sock");
    // Slow, for QEMU's network takes hundreds of kilobytes at once: what is in flight must still be in the guest to be cut.
    config.uplink_kbps = 200;
    world.cloud.lock().origin = config.cloud.clone();
    config
}

/// The image: `CARE_CAMERA` names its folder.
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
    let mut command = Blocking::new("/sbin/mke2fs");
    command.args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(from).arg(to).arg(format!("{kib}k"));
    let output = command.output().expect("e2fsprogs is installed");
    assert!(output.status.success(), "mke2fs: {}", String::from_utf8_lossy(&output.stderr));
}

fn through(door: SocketAddr, script: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&door, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(script.as_bytes())?;
    stream.write_all(b"\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}
