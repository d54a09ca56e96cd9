//! `init.d/S95kasa-care-agent`: the agent under BusyBox alone. The script runs in BusyBox's shell with BusyBox's programs, in a
//! mount namespace where `/etc/default` is the test's.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use care_protocol::Mode;
use care_tests::{
    agent::program,
    wait::{PATIENCE, until},
    world::World,
};
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../init.d/S95kasa-care-agent");
/// A user that every Debian has, in place of the agent's own.
const USER: &str = "daemon";

/// A camera whose programs are all BusyBox's.
struct Camera {
    dir: TempDir,
}

impl Camera {
    /// `defaults` is added to `/etc/default/kasa-care-agent`.
    fn new(defaults: &str) -> Self {
        let camera = Self { dir: tempfile::tempdir().unwrap() };
        let bin = camera.path("bin");
        fs::create_dir(&bin).unwrap();
        for applet in ["sh", "cat", "chmod", "chown", "grep", "kill", "mkdir", "readlink", "sleep", "start-stop-daemon"] {
            symlink("/bin/busybox", bin.join(applet)).unwrap();
        }
        fs::create_dir(camera.path("default")).unwrap();
        let text = format!(
            "DAEMON={}\nRUN_DIR={}\nSTATE_DIR={}\nAGENT_USER={USER}\nCARE_LOG_TO=file:{}\n{defaults}\n",
            program("kasa-care-agent", "CARE_AGENT").display(),
            camera.path("run/care").display(),
            camera.path("state").display(),
            camera.path("log").display(),
        );
        fs::write(camera.path("default/kasa-care-agent"), text).unwrap();
        camera
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the script with this argument.
    fn script(&self, argument: &str) -> Output {
        let inside = format!(
            "mount --bind '{}' /etc/default && PATH='{}' exec /bin/busybox sh {SCRIPT} \"$@\"",
            self.path("default").display(),
            self.path("bin").display()
        );
        // The background process keeps no pipe of ours open.
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &inside, "script", argument]);
        command.output().unwrap()
    }

    fn run(&self, argument: &str) -> String {
        let out = self.script(argument);
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(0), "{argument}: {text}\n{}", self.log());
        text
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn supervisor(&self) -> Option<i32> {
        fs::read_to_string(self.path("run/care.pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        if let Some(pid) = self.supervisor() {
            // SAFETY: kill accesses no memory; the process holds the pid file of this test's own directory.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
    }
}

fn runs(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok()
}

#[tokio::test]
async fn the_script_starts_reloads_restarts_and_stops_the_agent() {
    let world = World::new().await;
    world.agent.write_config();
    let camera = Camera::new(&format!("CONFIG={}", world.agent.config_path().display()));
    assert_eq!(camera.script("status").status.code(), Some(3));
    assert_eq!(camera.run("stop"), "kasa-care-agent: does not run\n");
    camera.run("start");
    let first = camera.supervisor().unwrap();
    assert!(camera.run("start").contains("runs already"));
    assert_eq!(camera.supervisor(), Some(first));
    world.agent.mode(Mode::Unbound).await;
    until("the agent's own status", PATIENCE, || camera.run("status").contains("unbound").then_some(())).await;
    assert!(camera.run("status").contains("restarts: 0"), "{}", camera.run("status"));

    // The directory is the agent's; what root acts on is root's.
    let made = fs::metadata(camera.path("run/care")).unwrap();
    let user = fs::read_to_string("/etc/passwd").unwrap();
    let uid: u32 = user.lines().find_map(|line| line.strip_prefix("daemon:x:")?.split(':').next()?.parse().ok()).unwrap();
    assert_eq!((made.uid(), made.permissions().mode() & 0o777), (uid, 0o750));
    assert_ne!(fs::metadata(camera.path("run/care.pid")).unwrap().uid(), uid);
    assert_eq!(fs::metadata(camera.path("state")).unwrap().uid(), uid);

    camera.run("reload");
    until("the reload", PATIENCE, || camera.log().contains("configuration read again").then_some(())).await;
    camera.run("restart");
    let second = camera.supervisor().unwrap();
    assert!(second != first && !runs(first) && runs(second));
    world.agent.mode(Mode::Unbound).await;
    camera.run("stop");
    assert!(!runs(second) && camera.supervisor().is_none());
    assert_eq!(camera.script("status").status.code(), Some(3));
    assert!(camera.log().contains("stopping"), "{}", camera.log());
}

#[tokio::test]
async fn a_wrong_configuration_is_said_in_the_status_and_corrected_by_a_reload() {
    let world = World::new().await;
    world.agent.write_config();
    let config = world.agent.config_path();
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, good.replace("[free]", "[fre]")).unwrap();
    let camera = Camera::new(&format!("CONFIG={}", config.display()));
    // Where nobody waits for its exit code, as under an init, it stays and says why.
    camera.run("start");
    let said = until("the reason", PATIENCE, || Some(camera.script("status")).filter(|out| !out.stdout.starts_with(b"running"))).await;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let orphans_go_to_init = fs::read_to_string(format!("/proc/{}/stat", camera.supervisor().unwrap_or(0)))
        .is_ok_and(|stat| stat.rsplit(") ").next().unwrap().split(' ').nth(1) == Some("1"));
    // The fault is in the log, although nobody reads standard error.
    until("the fault", PATIENCE, || camera.log().contains("fre").then_some(())).await;
    if orphans_go_to_init {
        assert!(said.contains("configuration is wrong (exit code 78)"), "{said}");
        fs::write(&config, good).unwrap();
        camera.run("reload");
        world.agent.mode(Mode::Unbound).await;
    }
    camera.run("stop");
}

#[test]
fn wrong_usage_and_a_missing_program_are_said() {
    let camera = Camera::new("");
    assert_eq!(camera.script("begin").status.code(), Some(64));
    assert_eq!(camera.script("reload").status.code(), Some(1));
    let camera = Camera::new("DAEMON=/nowhere/kasa-care-agent");
    let out = camera.script("start");
    assert!(out.status.code() == Some(1) && String::from_utf8_lossy(&out.stderr).contains("is missing"), "{out:?}");
    assert_eq!(out.status.signal(), None);
}

/// `sh -n` of the shell that cameras have.
#[test]
fn busybox_understands_the_script() {
    assert!(Command::new("busybox").args(["sh", "-n", SCRIPT]).status().unwrap().success());
}
