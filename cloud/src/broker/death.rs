//! A child that dies with us: also after kill -9 of care-cloud no broker is left behind holding its port.
#![allow(unsafe_code)]

use std::{io, os::unix::process::CommandExt as _, process::Command};

/// The kernel sends SIGTERM to the child when the *thread* that spawned it ends: spawn from a thread that stays.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let guard = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours; this runs between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(io::Error::last_os_error());
            }
            // If the parent died before prctl, nobody will send the signal.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock (`from_raw_os_error` and `last_os_error` do neither).
    unsafe { command.pre_exec(guard) }
}
