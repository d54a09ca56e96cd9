//! strace around the agent's system calls on its state: it kills the agent at a call, makes the call fail, or fakes its success, and
//! records all of them. Killing a process proves the order of its calls, not that they are durable: the simulated disk proves that.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The calls by which a state reaches the flash.
pub const CALLS: [&str; 5] = ["openat", "pwrite64", "fdatasync", "fsync", "renameat"];

/// How the agent is started, and where its calls are written down.
#[derive(Debug)]
pub struct Strace {
    log: PathBuf,
    command: Vec<String>,
}

impl Strace {
    /// Watches the calls on `state_dir` and the state file in it; `inject` as in strace(1), such as `fdatasync:error=EIO:when=2`.
    pub fn on(state_dir: &Path, inject: Option<&str>) -> Self {
        let log = state_dir.with_extension("strace");
        // The agent stays the child, and strace ends with it.
        let mut command = ["strace", "-D", "-f", "-qq", "-y", "-o"].map(str::to_owned).to_vec();
        command.push(log.display().to_string());
        for path in ["", "state", "state.new"] {
            let path = if path.is_empty() { state_dir.to_owned() } else { state_dir.join(path) };
            command.extend(["-P".to_owned(), path.display().to_string()]);
        }
        command.extend(["-e".to_owned(), format!("trace={},close", CALLS.join(","))]);
        command.extend(inject.iter().flat_map(|inject| ["-e".to_owned(), format!("inject={inject}")]));
        Self { log, command }
    }

    /// What stands before the program.
    pub fn command(&self) -> Vec<String> {
        self.command.clone()
    }

    /// Every call so far, one a line, without those that were resumed.
    pub fn calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let call = |line: &str| line.split_once(' ').map(|(_, call)| call.trim_start().to_owned());
        log.lines().filter(|line| !line.contains(" resumed>")).filter_map(call).collect()
    }

    /// How often this call was made by the thread that made it most: strace counts `when=` for each thread.
    pub fn most(&self, call: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let made =
            log.lines().filter_map(|line| line.split_once(' ')).filter(|(_, rest)| rest.trim_start().starts_with(&format!("{call}(")));
        let mut counts = BTreeMap::new();
        made.for_each(|(thread, _)| *counts.entry(thread).or_insert(0) += 1);
        counts.into_values().max().unwrap_or(0)
    }

    /// How often this call has returned.
    pub fn returned(&self, call: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(call) && line.contains(" = ")).count()
    }

    /// Whether a call was made to fail.
    pub fn has_injected(&self) -> bool {
        self.calls().iter().any(|call| call.contains("(INJECTED)"))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}
