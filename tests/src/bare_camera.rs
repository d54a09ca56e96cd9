//! A bare camera: QEMU with the image of `scripts/bare/image.sh`. BusyBox is its init, its root is a squashfs, its flash
//! an overlay over that, and Linux has 26 to 46 MB. A failing test prints the console, which has the system log.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use socket2::Socket;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    broker::reserve_port,
    footprint::{Cost, Usage},
    guest::{self, IDENTITY, PATIENCE, RUNTIME, STATE},
    process::{Lines, Process},
    unix_now,
    wait::until,
    world::World,
};

/// The address of the streamer in the camera.
pub const STREAM: &str = "rtsp://127.0.0.1:554/stream";
/// Where the firmware mounts the SD card.
pub const CARD: &str = "/mnt/mmcblk0p1";
/// Size of the flash's file system, KiB: what a camera with 16 MB has left beside its firmware.
const FLASH_KIB: u32 = 4 * 1024;
/// Size of an SD card, MB.
const CARD_MB: u32 = 40;

/// What the camera is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// QEMU's `virt` with one Cortex-A7 and virtio disks; the flash is ext4 without a journal.
    Virt,
    /// An AST2600 with two Cortex-A7, Ethernet and two SPI NOR flashes of 64 KiB blocks; the flash is JFFS2. It has no
    /// SD card, and always [`Memory::Small`].
    Nor,
}

/// What Linux has of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// 64 MB less the kernel: 46 MB.
    Whole,
    /// 44 MB less the kernel: 26 MB, as where the video pipeline takes the rest.
    Small,
}

/// The file system of its SD cards: FAT up to 32 GB, exFAT beyond that, as they are sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cards {
    /// FAT.
    Vfat,
    /// exFAT.
    Exfat,
}

impl Cards {
    /// As the kernel and the tools call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vfat => "vfat",
            Self::Exfat => "exfat",
        }
    }

    /// The command that mounts this disk where the firmware mounts its card, and as it does.
    pub fn mount(self, disk: &str) -> String {
        format!("mount -t {} -o sync,noatime,uid=$(id -u kasa-care-agent) {disk} {CARD}", self.name())
    }

    /// Checks the file system on this image, which is mounted nowhere; with `repair` as a firmware does at boot. Returns what
    /// the program says, and whether it has nothing to object to.
    pub fn fsck(self, image: &Path, repair: bool) -> (String, bool) {
        let how = match (self, repair) {
            (_, false) => "-n",
            (Self::Vfat, true) => "-a",
            (Self::Exfat, true) => "-y",
        };
        let checked = std::process::Command::new(format!("/sbin/fsck.{}", self.name())).arg(how).arg(image).output();
        let checked = checked.expect("dosfstools and exfatprogs are installed");
        let said = [checked.stdout, checked.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), checked.status.success())
    }
}

/// A camera model.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// The board.
    pub board: Board,
    /// The memory.
    pub memory: Memory,
    /// Whether the clock is right at boot; it is in 1970 otherwise, as without a battery.
    pub clock: bool,
    /// The SD cards; they are made once.
    pub cards: Cards,
}

impl Default for Model {
    fn default() -> Self {
        Self { board: Board::Virt, memory: Memory::Whole, clock: true, cards: Cards::Vfat }
    }
}

/// A bare camera; killed on drop.
pub struct BareCamera {
    dir: TempDir,
    /// What it is made of; a change counts from the next start on.
    pub model: Model,
    door: SocketAddr,
    _port: Socket,
    console: Lines,
    qemu: Option<Process>,
}

impl BareCamera {
    /// Creates a camera for this world and does not boot it. The configuration of the world's agent is copied to its
    /// flash, with addresses translated for the guest; the agent itself must not be started. It films only if the
    /// configuration has a source ([`STREAM`]).
    pub fn new(world: &mut World, model: Model) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, door) = reserve_port();
        let source = world.agent.config.source.clone();
        let mut config = guest::configuration(world);
        config.source = source;
        config.user = "kasa-care-agent".into();
        config.uplink_kbps = 400;
        // The flash is small, and so is the memory.
        config.extra += "\n[spool]\nmemory_bytes = 2_000_000\nflash_bytes = 1_000_000\n";
        world.agent.config = config;
        let camera = Self { dir, model, door, _port: port, console: Lines::default(), qemu: None };
        camera.make_flash(world);
        for card in [0, 1] {
            let file = fs::File::create(camera.card(card)).unwrap();
            file.set_len(u64::from(CARD_MB) << 20).unwrap();
            guest::run_here(&format!("/sbin/mkfs.{}", model.cards.name()), |mkfs| mkfs.arg(camera.card(card)));
        }
        camera
    }

    /// Boots the camera.
    pub fn start(&mut self) {
        assert!(self.qemu.is_none(), "the camera is running");
        let mut command = Command::new("qemu-system-arm");
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio"]);
        // Without a clock of its own the board starts in 1970.
        command.args(["-rtc", "base=1970-01-01T00:00:00"]);
        command.arg("-kernel").arg(image().join("kernel")).arg("-append").arg(self.command_line());
        let drive = |interface: &str, file: &Path, more: &str| format!("if={interface},format=raw,file={}{more}", file.display());
        let forward = format!("user,hostfwd=tcp:{}-:2323", self.door);
        match self.model.board {
            Board::Virt => {
                command.args(["-M", "virt", "-cpu", "cortex-a7", "-m", "64"]).arg("-initrd").arg(image().join("virt.initrd"));
                command.args([
                    "-netdev",
                    &format!("{forward},id=n0"),
                    "-device",
                    "virtio-net-device,netdev=n0",
                    "-device",
                    "virtio-rng-device",
                ]);
                let disks = [
                    ("root", image().join("root.squashfs"), ",readonly=on"),
                    ("flash", self.flash(), ""),
                    ("card0", self.card(0), ""),
                    ("card1", self.card(1), ""),
                ];
                for (id, file, more) in &disks {
                    command.arg("-drive").arg(drive("none", file, &format!(",id={id}{more}")));
                }
                // QEMU assigns virtio slots from the last to the first.
                for (id, ..) in disks.iter().rev() {
                    command.args(["-device", &format!("virtio-blk-device,drive={id}")]);
                }
            }
            Board::Nor => {
                // 16 MB for the firmware, as a KC420WS has, and 4 MB.
                let firmware = self.dir.path().join("firmware.nor");
                fs::copy(image().join("root.squashfs"), &firmware).unwrap();
                fs::File::options().write(true).open(&firmware).unwrap().set_len(16 << 20).unwrap();
                command.args(["-M", "ast2600-evb,fmc-model=mx25l12805d,spi-model=m25p32"]);
                command.arg("-initrd").arg(image().join("nor.initrd")).arg("-dtb").arg(image().join("nor.dtb"));
                command.args(["-nic", &forward]);
                for file in [&firmware, &self.flash()] {
                    command.arg("-drive").arg(drive("mtd", file, ""));
                }
            }
        }
        self.qemu = Some(Process::spawn("qemu", command, self.console.clone()));
    }

    fn command_line(&self) -> String {
        let mut line = String::from("cma=0 apparmor=0 audit=0 quiet panic=-1");
        line += match self.model.board {
            Board::Virt => " console=ttyAMA0 camera.root=/dev/vda camera.flash=/dev/vdb camera.flash_type=ext4 camera.card=/dev/vdc",
            Board::Nor => " console=ttyS4,115200 camera.root=/dev/mtdblock0 camera.flash=/dev/mtdblock1 camera.flash_type=jffs2",
        };
        line += match (self.model.board, self.model.memory) {
            (Board::Virt, Memory::Whole) => "",
            (Board::Virt, Memory::Small) => " mem=44M",
            // QEMU puts the initrd at 128 MB.
            (Board::Nor, Memory::Small) => " mem=40M@0x80000000 mem=4M@0x88000000",
            (Board::Nor, Memory::Whole) => " mem=60M@0x80000000 mem=4M@0x88000000",
        };
        let _ = write!(line, " camera.card_type={}", self.model.cards.name());
        if self.model.clock {
            let _ = write!(line, " camera.date={}", unix_now());
        }
        line
    }

    /// Cuts the power.
    pub async fn cut_power(&mut self) {
        let mut qemu = self.qemu.take().expect("the camera is running");
        qemu.signal(libc::SIGKILL);
        qemu.exited(PATIENCE).await;
    }

    /// Keeps everything from the flash until the power is cut. `false` if this board's file system cannot do that.
    pub async fn stop_writes(&self) -> bool {
        let frozen = self.run("fsfreeze --freeze /overlay 2>/dev/null && echo yes").await.trim() == "yes";
        assert_eq!(frozen, self.model.board == Board::Virt, "JFFS2 cannot be frozen, ext4 can");
        frozen
    }

    /// The image of an SD card: 0 is mounted at boot, 1 is the second disk.
    pub fn card(&self, number: u8) -> PathBuf {
        self.dir.path().join(format!("card{number}"))
    }

    fn flash(&self) -> PathBuf {
        self.dir.path().join("flash")
    }

    /// The console, which includes the system log, over all boots.
    pub fn console(&self) -> &Lines {
        &self.console
    }

    /// Waits for a matching console line at or after `from`.
    pub async fn logged(&self, from: usize, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        until(format!("the camera to log {what}"), PATIENCE, || self.console.find(from, &wanted)).await
    }

    /// Runs a script in the camera as root; returns its output.
    pub async fn run(&self, script: &str) -> String {
        let (door, script) = (self.door, script.to_owned());
        tokio::task::spawn_blocking(move || guest::through(door, &script, PATIENCE))
            .await
            .unwrap()
            .unwrap_or_else(|e| panic!("no answer from the camera: {e}"))
    }

    /// Runs a script until it prints this text.
    pub async fn eventually_prints(&self, what: &str, script: &str, wanted: &str) {
        let began = Instant::now();
        loop {
            let said = self.run(&format!("({script}) 2>&1")).await;
            if said.trim() == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "still waiting for {what}: {said}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Writes this configuration and restarts the agent with it.
    pub async fn configure(&self, config: &str) {
        let said = self
            .run(&format!("cat >{IDENTITY}/config.toml <<'END' && sync && /etc/init.d/S95kasa-care-agent restart >/dev/null 2>&1 || echo failed\n{config}\nEND"))
            .await;
        assert_eq!(said, "", "the agent does not start with\n{config}");
    }

    /// The agent's process id, not its supervisor's; `None` while it is not running.
    pub async fn agent(&self) -> Option<u32> {
        let script = "for p in $(pidof kasa-care-agent); do echo \"$p $(tr '\\0' ' ' </proc/$p/cmdline)\"; done";
        let said = self.run(script).await;
        // The supervisor's arguments begin with its own command.
        let of_agent = |line: &&str| line.split_whitespace().nth(2) == Some("run");
        said.lines().find(of_agent).and_then(|line| line.split_whitespace().next()?.parse().ok())
    }

    /// Waits until another process is the agent; returns its id.
    pub async fn restarted(&self, before: u32) -> u32 {
        let began = Instant::now();
        loop {
            if let Some(pid) = self.agent().await.filter(|pid| *pid != before) {
                return pid;
            }
            assert!(began.elapsed() < PATIENCE, "the agent has not been restarted");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Measures the agent's resource use over `span`.
    pub async fn cost(&self, span: Duration) -> Cost {
        let (before, started) = (self.usage().await, Instant::now());
        tokio::time::sleep(span).await;
        Cost::between(before, self.usage().await, started.elapsed())
    }

    async fn usage(&self) -> Usage {
        let pid = self.agent().await.expect("the agent is running");
        let copy = self.run(&Usage::copying(pid)).await;
        Usage::of_copy(&copy).unwrap_or_else(|e| panic!("{e}:\n{copy}"))
    }

    /// The flash as the factory leaves it: the identity, and an empty directory for the state.
    fn make_flash(&self, world: &World) {
        let tree = self.dir.path().join("tree");
        let identity = tree.join("root").join(IDENTITY.trim_start_matches('/'));
        fs::create_dir_all(&identity).unwrap();
        fs::create_dir_all(tree.join("work")).unwrap();
        fs::create_dir_all(tree.join("root").join(STATE.trim_start_matches('/')).parent().expect("not the root")).unwrap();
        fs::write(identity.join("ca.pem"), world.pki.ca.pem()).unwrap();
        world.pki.ca.client(&world.agent.config.device).write(&identity, "device");
        fs::write(identity.join("config.toml"), world.agent.config.text()).unwrap();
        // Root starts the agent, which becomes this user: its files are the user's, and the key nobody else's.
        guest::run_here("chmod", |chmod| chmod.args(["-R", "u=rwX,go=rX"]).arg(&identity));
        guest::run_here("chmod", |chmod| chmod.arg("600").arg(identity.join("device.key")));
        guest::run_here("chown", |chown| chown.args(["-R", "200:200"]).arg(&identity));
        let flash = self.flash();
        match self.model.board {
            Board::Virt => guest::run_here("/sbin/mke2fs", |mke2fs| {
                mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d"]);
                mke2fs.arg(&tree).arg(&flash).arg(format!("{FLASH_KIB}k"))
            }),
            Board::Nor => guest::run_here("/usr/sbin/mkfs.jffs2", |mkfs| {
                let size = format!("--pad={}", FLASH_KIB * 1024);
                mkfs.args(["--little-endian", "--eraseblock=64KiB", &size]).arg("-r").arg(&tree).arg("-o").arg(&flash)
            }),
        }
        fs::remove_dir_all(&tree).unwrap();
    }
}

impl Drop for BareCamera {
    fn drop(&mut self) {
        if std::thread::panicking() && self.qemu.is_some() {
            let state = format!("free; ps; df; ls -la {STATE} {RUNTIME} {CARD}; kasa-care-agent status");
            match guest::through(self.door, &state, Duration::from_secs(20)) {
                Ok(lines) => eprintln!("--- the camera:\n{lines}"),
                Err(error) => eprintln!("--- the camera does not answer any more: {error}"),
            }
        }
    }
}

/// The image directory, from `CARE_BARE_CAMERA`.
fn image() -> PathBuf {
    let dir = std::env::var_os("CARE_BARE_CAMERA").expect("CARE_BARE_CAMERA names the folder that scripts/bare/image.sh has made");
    fs::canonicalize(&dir).unwrap_or_else(|e| panic!("CARE_BARE_CAMERA={}: {e}", dir.display()))
}
