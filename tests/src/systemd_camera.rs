//! The service unit under a real systemd: this machine's own systemd as the init of namespaces whose files are this
//! machine's under an overlay in memory. Needs root, overlayfs and cgroup2; removed when dropped.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    agent::program,
    status::{self, Status},
    wait::{PATIENCE, until},
};

/// The unit file that the package installs.
const UNIT: &str = include_str!("../../systemd/kasa-care-agent.service");
/// Runs in the new namespaces with the directory of files as its argument, then execs systemd.
const BOOT: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1/tree"
mkdir "$1/tree/written" "$1/tree/work" "$1/tree/all"
root="$1/tree/all"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/tree/written",workdir="$1/tree/work" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
# Nothing of this machine's kernel is to be set from here.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
ip link set lo up
echo 'kasa-care-agent:x:970:970::/:/usr/sbin/nologin' >>"$root/etc/passwd"
echo 'kasa-care-agent:x:970:' >>"$root/etc/group"
mkdir -p "$root/run/systemd/system/kasa-care-agent.service.d" "$root/etc/kasa-care-agent" "$root/mnt/sd/recordings" "$root/cards"
chown 970:970 "$root/mnt/sd/recordings"
cp "$1/kasa-care-agent.service" "$1/only-it.target" "$root/run/systemd/system/"
cp "$1/here.conf" "$root/run/systemd/system/kasa-care-agent.service.d/"
cp "$1/config.toml" "$root/etc/kasa-care-agent/"
cp "$1/kasa-care-agent" "$root/usr/bin/"
chmod 755 "$root/usr/bin/kasa-care-agent"
chmod 644 "$root/etc/kasa-care-agent/config.toml"
cd "$root"
mkdir -p before
pivot_root . before
umount -l /before
mount --make-rshared /
export container=other
exec /lib/systemd/systemd --system --unit=only-it.target --log-target=console --log-level=warning --show-status=no
"#;

/// A booted system with the agent as its only service.
pub struct SystemdCamera {
    _dir: TempDir,
    unshare: Child,
    init: u32,
}

impl SystemdCamera {
    /// Boots it with this configuration of the agent.
    pub async fn boot(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        std::fs::create_dir(path.join("tree")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
        write("boot.sh", BOOT);
        write("kasa-care-agent.service", UNIT);
        write("only-it.target", "[Unit]\nWants=kasa-care-agent.service\nDefaultDependencies=no\nAllowIsolate=yes\n");
        // Uses this machine's GStreamer elements and no other unit.
        let plugins = Command::new("pkg-config").args(["--variable=pluginsdir", "gstreamer-1.0"]).output().unwrap();
        let plugins = String::from_utf8(plugins.stdout).unwrap();
        let here = format!("[Unit]\nDefaultDependencies=no\n[Service]\nEnvironment=GST_PLUGIN_SYSTEM_PATH_1_0={}\n", plugins.trim());
        write("here.conf", &here);
        write("config.toml", config);
        std::fs::copy(program("kasa-care-agent", "CARE_AGENT"), path.join("kasa-care-agent")).unwrap();
        let unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net", "--fork", "--kill-child", "sh"])
            .args([&path.join("boot.sh"), path])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let parent = unshare.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        let init = until("systemd", PATIENCE, || {
            let child: u32 = std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
            std::fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "systemd").then_some(child)
        })
        .await;
        let camera = Self { _dir: dir, unshare, init };
        until("the service", PATIENCE, || camera.runs("systemctl is-active --quiet kasa-care-agent").then_some(())).await;
        camera
    }

    /// The path on this machine of a path in the camera.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'))
    }

    /// Runs a script as root in the camera; returns its output.
    ///
    /// # Panics
    /// If the script fails.
    pub fn run(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether a script succeeds.
    pub fn runs(&self, script: &str) -> bool {
        self.sh(script).status.success()
    }

    fn sh(&self, script: &str) -> Output {
        let init = self.init.to_string();
        let namespaces = ["-t", &init, "-m", "-p", "-u", "-i", "-C", "-n", "sh", "-c", script];
        Command::new("nsenter").args(namespaces).output().expect("nsenter is installed")
    }

    /// Waits until the status document satisfies `wanted`. The agent must listen at the path that the unit
    /// documents.
    pub async fn status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let socket = self.path("/run/kasa-care-agent/status.sock");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = None;
        while tokio::time::Instant::now() < deadline {
            if let Some(status) = status::read(&socket).await {
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the status does not show {what}; its last value is {last:#?}");
    }
}

impl Drop for SystemdCamera {
    fn drop(&mut self) {
        // Killing init kills all other processes of the namespace.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}
