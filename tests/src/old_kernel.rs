//! A camera's kernel (Linux 4.9, 100 ticks a second), as far as a newer one can be made to look like it, for a child
//! process of a test: system calls refused or without effect by a seccomp filter, late timers by the timer slack, one
//! processor. All of it is inherited, so a wrapper such as `ip netns exec` may come between. Needs root.

use std::{
    collections::BTreeMap,
    io,
    mem::{size_of, zeroed},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use libc::{c_int, c_ulong};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SeccompCondition, SeccompFilter, SeccompRule};

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It works.
    Works,
    /// It fails with this error.
    Refused(c_int),
    /// It reports success and does nothing, as Linux 4.9 does with a pace.
    Ignored,
}

/// What the child's kernel is like.
#[derive(Debug, Clone, Copy)]
pub struct OldKernel {
    /// Setting `SO_MAX_PACING_RATE`.
    pub pacing: Call,
    /// Reading `TCP_INFO`.
    pub tcp_info: Call,
    /// How late a timer may be. Ten milliseconds without high-resolution timers at 100 Hz.
    pub timers_late: Duration,
    /// The only processor.
    pub processor: Option<usize>,
}

impl OldKernel {
    /// Timers of 100 Hz, a pace without effect, no figures about a connection.
    pub const CAMERA: Self =
        Self { pacing: Call::Ignored, tcp_info: Call::Refused(libc::ENOPROTOOPT), timers_late: Duration::from_millis(10), processor: None };

    /// Gives `command` this kernel when it starts.
    pub fn imitate(self, command: &mut Command) {
        let pacing = filter(libc::SYS_setsockopt, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, self.pacing);
        let tcp_info = filter(libc::SYS_getsockopt, libc::IPPROTO_TCP, libc::TCP_INFO, self.tcp_info);
        let slack_ns = c_ulong::try_from(self.timers_late.as_nanos()).expect("less than four seconds");
        let start = move || {
            if let Some(processor) = self.processor {
                stay_on(processor)?;
            }
            // SAFETY: it takes no pointer; it changes the calling process alone, which is the child.
            if unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns) } != 0 {
                return Err(io::Error::last_os_error());
            }
            [&pacing, &tcp_info].into_iter().flatten().try_for_each(|filter| seccompiler::apply_filter(filter).map_err(io::Error::other))
        };
        // SAFETY: between fork and exec the closure makes system calls on values that were prepared before, and
        // allocates only when it fails.
        unsafe { command.pre_exec(start) };
    }
}

/// A filter for one option of a socket.
fn filter(call: i64, level: c_int, option: c_int, becomes: Call) -> Option<BpfProgram> {
    let action = match becomes {
        Call::Works => return None,
        Call::Refused(error) => SeccompAction::Errno(error.cast_unsigned()),
        Call::Ignored => SeccompAction::Errno(0),
    };
    let is = |argument, value: c_int| SeccompCondition::new(argument, Dword, Eq, u64::from(value.cast_unsigned())).unwrap();
    let rule = SeccompRule::new(vec![is(1, level), is(2, option)]).unwrap();
    let arch = std::env::consts::ARCH.try_into().expect("seccompiler knows this machine");
    let filter = SeccompFilter::new(BTreeMap::from([(call, vec![rule])]), SeccompAction::Allow, action, arch).unwrap();
    Some(filter.try_into().unwrap())
}

/// Keeps the calling thread, and what it starts, on one processor.
fn stay_on(processor: usize) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is plain integers, for which all zeroes is the empty set; the kernel reads it and keeps no
    // pointer.
    let result = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A camera's image processing: a thread of higher priority than all ordinary ones that takes 70 % of one processor
/// until it is dropped.
pub struct ImageProcessing {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ImageProcessing {
    const BUSY: Duration = Duration::from_millis(21);
    const IDLE: Duration = Duration::from_millis(9);

    /// Starts it on `processor`.
    pub fn start(processor: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            stay_on(processor).unwrap();
            let priority = libc::sched_param { sched_priority: 1 };
            // SAFETY: the kernel reads the live parameter and keeps no pointer; 0 is the calling thread.
            let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
            assert_eq!(set, 0, "a real-time thread: {}", io::Error::last_os_error());
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                while begun.elapsed() < Self::BUSY {
                    std::hint::spin_loop();
                }
                thread::sleep(Self::IDLE);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for ImageProcessing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the image processing did not run");
    }
}
