//! The supervised process: started in a process group of its own, so that nothing it has started outlives it, and bound to the
//! supervisor, so that an init which restarts a killed supervisor never meets two agents.
#![allow(unsafe_code)]

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use rustix::process::{Pid, Signal, getppid, kill_process, kill_process_group, set_parent_process_death_signal};

use super::SUPERVISOR;

/// What the command is told.
pub(super) struct Environment {
    /// `NOTIFY_SOCKET`.
    pub notify: String,
    /// `WATCHDOG_USEC`.
    pub hang_after: Option<Duration>,
}

/// A started command.
pub(super) struct Running {
    child: Child,
    pid: Pid,
}

impl Running {
    /// # Errors
    /// It could not be started.
    pub(super) fn start(command: &[OsString], environment: &Environment) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .process_group(0)
            .env("NOTIFY_SOCKET", &environment.notify)
            .env(SUPERVISOR, std::process::id().to_string())
            // Another supervisor's, if this one runs under one.
            .env_remove("WATCHDOG_PID")
            .env_remove("WATCHDOG_USEC");
        if let Some(limit) = environment.hang_after {
            command.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        // SAFETY: between fork and exec the closure makes one system call; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends the command itself a signal. One that has ended needs none.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(self.pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(signal = signal.as_raw(), %error, "the command cannot be signalled");
        }
    }

    /// Kills the command and everything in its process group.
    pub(super) fn kill(&self) {
        if let Err(error) = kill_process_group(self.pid, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(%error, "the command cannot be killed");
        }
    }
}

/// Ends this process with its supervisor, if it has one. Call it after any change of user, which makes the kernel forget it.
/// False: the supervisor has gone already, and this process should stop.
pub fn follow_supervisor() -> bool {
    let Some(supervisor) = env::var_os(SUPERVISOR).and_then(|pid| pid.to_str()?.parse().ok()).and_then(Pid::from_raw) else {
        return true;
    };
    if getppid() != Some(supervisor) {
        // A wrapper between the two decides for itself.
        return rustix::process::test_kill_process(supervisor) != Err(rustix::io::Errno::SRCH);
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::warn!(%error, "if the supervisor is killed, this process goes on without it");
    }
    // It may have ended in between.
    getppid() == Some(supervisor)
}
