//! Linux' figures about this process, under the names that Prometheus' client libraries agree on. Only what costs
//! microseconds: the proportional share of memory (`smaps_rollup`) walks every page table.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

use crate::Exposition;

pub(crate) fn add(exposition: &mut Exposition) {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    // Nanoseconds are at most 999 999 999, and the time counts from zero.
    let seconds = spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9;
    exposition.counter("process_cpu_seconds_total", "Processor time of all threads, in user and system mode.").set(Some(seconds));
    exposition.gauge("process_resident_memory_bytes", "Memory in RAM, with shared pages in full.").set(resident());
    exposition.gauge("process_open_fds", "Open file descriptors.").set(open_files());
}

/// `None` where /proc is not mounted.
fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok().map(|kib| (kib * 1024) as f64)
}

/// Without the one that reads the directory.
fn open_files() -> Option<f64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open.saturating_sub(1) as f64)
}
