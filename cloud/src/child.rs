//! Child processes: started so that they end with this program, even after `kill -9`, and stopped with SIGTERM first.
//! The embedded broker, the demo and the tests use it.
#![allow(unsafe_code)]

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    time::{Duration, Instant},
};

/// The kernel sends SIGTERM to the child when the *thread* that spawned it ends: spawn from a thread that stays.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let guard = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours; this runs between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(io::Error::last_os_error());
            }
            // If the parent died before prctl, the signal will never be sent.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock (`from_raw_os_error` and `last_os_error` do neither).
    unsafe { command.pre_exec(guard) }
}

/// Raises the soft limit of open files of this process, and of the children that it starts afterwards, to the hard one:
/// each connection of a broker is one. Returns the limit.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write only `limit`, which outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// SIGKILL to ourselves: nothing is cleaned up, as after a power cut or the OOM killer.
#[cfg(debug_assertions)]
pub(crate) fn kill_self() -> ! {
    // SAFETY: no memory is touched; a process may always kill itself.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

/// Sends SIGTERM, so that the child can shut down cleanly (Mosquitto saves its retained messages), and SIGKILL if it
/// has not ended within `patience`. Returns once it has ended.
pub fn stop(child: &mut Child, patience: Duration) -> std::io::Result<()> {
    // Once it is waited for, its pid may be another's.
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    signal(child, libc::SIGTERM);
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait().map(drop)
}

/// Sends SIGHUP: the child reads its configuration again.
pub fn reload(child: &Child) {
    signal(child, libc::SIGHUP);
}

/// Nothing happens if the child has ended already: its pid is ours until it is waited for.
fn signal(child: &Child, signal: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(child.id()) else { return };
    // SAFETY: no memory is touched. The caller holds the child and has not waited for it, so the pid is not another's.
    unsafe { libc::kill(pid, signal) };
}
