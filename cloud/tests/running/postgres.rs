//! A PostgreSQL of the test's own, by Debian's programs, on a socket in a directory of the test's, and with TLS on a
//! loopback port if a test asks for it.

use std::{
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// PostgreSQL refuses root: then it is this user's.
const NOBODY: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(60);

/// In the name of the socket, if nothing listens there.
const USUAL_PORT: u16 = 5432;

pub struct Postgres {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Postgres {
    /// Makes a cluster, with its writes synchronised as in production, and starts it.
    pub fn start() -> Self {
        Self::start_with(USUAL_PORT, |_| Vec::new())
    }

    /// The same, under this port, with settings (`name=value`) whose files may lie in its directory.
    pub fn start_with(port: u16, settings: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = dir.path().join("data");
        let mut make = program("initdb");
        // What is made here need not survive a power cut; what is written later is tested for it.
        make.args(["--no-sync", "--no-instructions", "--auth=trust", "--username=care", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data);
        let made = make.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut serve = program("postgres");
        serve.arg("-D").arg(&data).arg("-k").arg(dir.path()).args(["-c", "listen_addresses=", "-c", "fsync=on", "-p", &port.to_string()]);
        for setting in settings(dir.path()) {
            serve.arg("-c").arg(setting);
        }
        let child = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let server = Self { dir, port, child };
        let deadline = Instant::now() + PATIENCE;
        while !program("pg_isready").args(["-q", "-p", &port.to_string(), "-h"]).arg(server.dir.path()).status().unwrap().success() {
            let log = || std::fs::read_to_string(server.dir.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "PostgreSQL does not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// The URL of an empty part of it.
    pub fn fresh(&self, name: &str) -> String {
        let made = program("psql")
            .args(["-q", "-U", "care", "-d", "postgres", "-p", &self.port.to_string(), "-c", &format!("CREATE DATABASE {name}"), "-h"])
            .arg(self.dir.path())
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://care@/{name}?host={}&port={}", self.dir.path().display(), self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its "immediate" shutdown, which waits for no client.
        let stop = program("pg_ctl").args(["stop", "-s", "-m", "immediate", "-D"]).arg(self.dir.path().join("data")).status();
        if !stop.is_ok_and(|stopped| stopped.success()) {
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// One of Debian's programs, as an unprivileged user, in a directory that the user may enter. It ends with this thread.
fn program(name: &str) -> Command {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .collect();
    versions.retain(|path| path.exists());
    versions.sort();
    let path = versions.pop().expect("Debian's postgresql (scripts/deps.sh installs it)");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        let user = NOBODY.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    }
    command.arg(path).current_dir(Path::new("/")).env("LC_ALL", "C.UTF-8");
    command
}
