//! What else the machine does while a benchmark measures: nothing, computing on every core, or writing to the disk.

use std::{os::unix::process::CommandExt as _, path::Path};

use care_tests::process::{Lines, Process};
use tokio::process::Command;

/// A process with children of its own, which all end with it.
pub(crate) struct Group(Process);

impl Group {
    pub(crate) fn start(name: &str, mut command: std::process::Command) -> Self {
        command.process_group(0);
        Self(Process::spawn(name, Command::from(command), Lines::default()))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.pid()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.pid();
        // SAFETY: the leader has not been waited for, so its id still names its group and no other.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// A loop on each core.
pub(crate) fn every_core() -> Vec<Group> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (0..cores).map(|_| shell("a busy core", "while :; do :; done")).collect()
}

/// Writes 32 MB and waits for the disk, again and again, into `dir`.
pub(crate) fn disk(dir: &Path) -> Vec<Group> {
    let mut group = std::process::Command::new("sh");
    group.arg("-c").arg("while :; do dd if=/dev/zero of=\"$0\" bs=1M count=32 conv=fdatasync status=none; done");
    group.arg(dir.join("written"));
    vec![Group::start("a writer", group)]
}

fn shell(name: &str, script: &str) -> Group {
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(script);
    Group::start(name, command)
}
