//! strace around the agent's system calls on its state: it kills the agent at a call, makes the call fail, or fakes
//! its success, and records all of them. Killing a process proves the order of its calls, not that they are durable:
//! the simulated disk proves that.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    agent::Agent,
    wait::{PATIENCE, until},
};

/// The system calls that write the state to flash.
pub const CALLS: [&str; 5] = ["openat", "pwrite64", "fdatasync", "fsync", "renameat"];

/// The strace arguments and the trace file.
#[derive(Debug)]
pub struct Strace {
    log: PathBuf,
    command: Vec<String>,
}

impl Strace {
    /// Traces the calls on `state_dir` and its state file; `inject` as in strace(1), such as
    /// `fdatasync:error=EIO:when=2`.
    pub fn on(state_dir: &Path, inject: Option<&str>) -> Self {
        let log = state_dir.with_extension("strace");
        // Keeps the agent as the child process; strace ends with it.
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

    /// The command to run the agent under.
    pub fn command(&self) -> Vec<String> {
        self.command.clone()
    }

    /// All completed calls so far, one per line.
    pub fn calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let call = |line: &str| line.split_once(' ').map(|(_, call)| call.trim_start().to_owned());
        log.lines().filter(|line| !line.contains(" resumed>")).filter_map(call).collect()
    }

    /// The most times that a single thread made this call: strace counts `when=` per thread.
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

    /// Whether strace made a call fail.
    pub fn has_injected(&self) -> bool {
        self.calls().iter().any(|call| call.contains("(INJECTED)"))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

/// strace on one thread of the agent, to delay or fail what it asks of the card.
pub struct Traced {
    /// What the kernel says of the thread.
    status: PathBuf,
    file: PathBuf,
    strace: tokio::process::Child,
}

impl Traced {
    /// Attaches to the agent's thread of this name.
    pub fn start(agent: &Agent, thread: &str, calls: &str, inject: &str) -> Self {
        let file = agent.dir().join(format!("{thread}.strace"));
        let thread_id = agent.thread(thread);
        let strace = tokio::process::Command::new("strace")
            .args(["-p", &thread_id.to_string(), "-e", &format!("trace={calls}"), "-e", &format!("inject={inject}"), "-o"])
            .arg(&file)
            .kill_on_drop(true)
            .spawn()
            .expect("strace is installed");
        let status = format!("/proc/{}/task/{thread_id}/status", agent.pid()).into();
        Self { status, file, strace }
    }

    /// Waits until strace has the thread.
    pub async fn attached(&self) {
        let untraced = || std::fs::read_to_string(&self.status).is_ok_and(|status| status.contains("TracerPid:\t0\n"));
        until("strace to attach", PATIENCE, || (!untraced()).then_some(())).await;
    }

    /// The calls so far, as strace writes them.
    pub fn calls(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// Waits until strace has marked so many calls.
    pub async fn injected(&self, mark: &str, least: usize) {
        until(mark, PATIENCE, || (self.calls().matches(mark).count() >= least).then_some(())).await;
    }

    /// Leaves the thread alone.
    pub async fn stop(mut self) {
        let id = self.strace.id().expect("it runs").to_string();
        tokio::process::Command::new("kill").args(["-INT", &id]).status().await.unwrap();
        self.strace.wait().await.unwrap();
    }
}
