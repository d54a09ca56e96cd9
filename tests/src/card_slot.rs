//! A camera's SD card slot: a mount point in a mount namespace that stands for the camera's, and the namespace that
//! the systemd unit derives from it for the agent. Needs root. Dropping the slot removes everything.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::wait::until;

/// The unit file. Its `ReadWritePaths=` determines how the agent sees the slot.
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/kasa-care-agent.service");

/// The card slot. Its parent directory stands for `/mnt`.
pub struct Slot {
    above: PathBuf,
    camera: Child,
}

impl Slot {
    /// Creates an empty slot below `dir`. Its mount point contains a `recordings` directory, as firmware creates for
    /// the card; nothing may be written there while no card is mounted.
    pub fn new(dir: &Path) -> Self {
        let above = dir.join("mnt");
        std::fs::create_dir_all(above.join("sd/recordings")).unwrap();
        std::fs::create_dir(dir.join("cards")).unwrap();
        // The camera's mount namespace: private, with shared propagation to namespaces cloned from it, as under
        // systemd.
        let camera = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", "mount --make-rshared / && exec sleep 600"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let slot = Self { above, camera };
        let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let theirs = format!("/proc/{}/ns/mnt", slot.camera.id());
        let entered = || std::fs::read_link(&theirs).is_ok_and(|theirs| theirs != own) && slot.run("grep -q shared: /proc/self/mountinfo");
        let began = std::time::Instant::now();
        while !entered() {
            assert!(began.elapsed() < Duration::from_secs(20), "no mount namespace: is this root?");
            std::thread::sleep(Duration::from_millis(10));
        }
        slot
    }

    /// The recording directory.
    pub fn recordings(&self) -> PathBuf {
        self.above.join("sd/recordings")
    }

    /// The command to run the agent under: it enters the namespace that systemd would create for this unit.
    pub fn unit(&self, state_dir: &Path) -> Vec<String> {
        let unit = std::fs::read_to_string(UNIT).unwrap();
        let paths = unit.lines().filter_map(|line| line.strip_prefix("ReadWritePaths=")).flat_map(str::split_whitespace);
        let above = self.above.display().to_string();
        let mut script = String::from("set -e; ");
        let own = state_dir.parent().unwrap().display().to_string();
        for path in paths.map(|path| path.trim_start_matches('-').replacen("/mnt", &above, 1)).chain([own]) {
            script.push_str(&format!("mount --rbind '{path}' '{path}'; "));
        }
        // Like ProtectSystem=strict: mounts below it, now or later, keep their own flags.
        script.push_str("mount -o remount,bind,ro /; mount --make-rshared /; exec \"$@\"");
        let pid = self.camera.id().to_string();
        let words = ["nsenter", "-m", "-t", &pid, "unshare", "-m", "--propagation", "slave", "sh", "-c", &script, "unit"];
        words.map(str::to_owned).to_vec()
    }

    /// The command to run the agent under on a camera without systemd: in the camera's namespace, which has the slot's parent
    /// at `/mnt` itself.
    pub fn as_mnt(&self) -> Vec<String> {
        let script = format!("set -e; mount --rbind '{}' /mnt; exec \"$@\"", self.above.display());
        let pid = self.camera.id().to_string();
        let words = ["nsenter", "-m", "-t", &pid, "unshare", "-m", "--propagation", "slave", "sh", "-c", &script, "camera"];
        words.map(str::to_owned).to_vec()
    }

    /// Mounts a card, formatted on first use, with an empty `recordings` directory. Returns a path at which the card
    /// is readable whether or not it is in the slot.
    pub fn insert(&self, name: &str) -> PathBuf {
        self.insert_mounted(name, "rw")
    }

    /// The same with an option of mount(8), which counts on first use.
    pub fn insert_mounted(&self, name: &str, option: &str) -> PathBuf {
        let card = self.card(name);
        if std::fs::create_dir(&card).is_ok() {
            self.must(&format!("mount -t tmpfs -o size=50m,{option} '{name}' '{0}' && mkdir '{0}/recordings'", card.display()));
        }
        self.must(&format!("mount --bind '{}' '{}'", card.display(), self.above.join("sd").display()));
        PathBuf::from(format!("/proc/{}/root", self.camera.id())).join(card.strip_prefix("/").unwrap()).join("recordings")
    }

    /// Changes how a card is mounted, whether or not it is in the slot.
    pub fn remount(&self, name: &str, option: &str) {
        self.must(&format!("mount -o remount,{option} '{}'", self.card(name).display()));
    }

    /// Unmounts the card with a plain umount, as firmware does. Returns the number of attempts.
    pub async fn eject(&self) -> u32 {
        let mut tried = 0;
        let umount = format!("umount '{}'", self.above.join("sd").display());
        until("umount", Duration::from_secs(10), || {
            tried += 1;
            self.run(&umount).then_some(tried)
        })
        .await
    }

    /// Removes the card while the agent uses it.
    pub fn remove_in_use(&self) {
        self.must(&format!("umount -l '{}'", self.above.join("sd").display()));
    }

    /// The files below the mount point while no card is mounted.
    pub fn files_below_mount(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.recordings()).unwrap();
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Where a card is mounted for itself, in the slot or not.
    fn card(&self, name: &str) -> PathBuf {
        self.above.parent().unwrap().join("cards").join(name)
    }

    fn run(&self, script: &str) -> bool {
        self.sh(script).status.success()
    }

    fn must(&self, script: &str) {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sh(&self, script: &str) -> Output {
        let pid = self.camera.id().to_string();
        Command::new("nsenter").args(["-m", "-t", &pid, "sh", "-c", script]).output().expect("nsenter is installed")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The namespace ends with its last process.
        let _ = self.camera.kill();
        let _ = self.camera.wait();
    }
}
