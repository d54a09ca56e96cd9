//! What a process costs: memory, threads, wakeups and processor time. Reads only the process's directory in `/proc`,
//! so it measures any program, on this machine or from a copy of another machine's `/proc`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Counters of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, kB.
    pub rss_kb: u64,
    /// Proportional set size, kB: shared pages are divided among the processes that share them.
    pub pss_kb: u64,
    /// Threads.
    pub threads: u64,
    /// Context switches of all threads since they started: each is a wakeup or the end of a time slice.
    pub switches: u64,
    /// User and system time, in ticks of [`TICKS`] a second.
    pub ticks: u64,
}

/// Ticks per second in `/proc/PID/stat`, fixed at 100 on every architecture that cameras use.
pub const TICKS: u64 = 100;

impl Usage {
    /// Reads `/proc/PID`.
    ///
    /// # Errors
    /// `/proc/PID` cannot be read or has an unknown format.
    pub fn read(process: &Path) -> io::Result<Self> {
        let status = fs::read_to_string(process.join("status"))?;
        let memory = fs::read_to_string(process.join("smaps_rollup"))?;
        let stat = fs::read_to_string(process.join("stat"))?;
        let mut switches = 0;
        for thread in fs::read_dir(process.join("task"))? {
            // A thread that has just ended has no further wakeups.
            let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
            switches += number(&status, "voluntary_ctxt_switches:")? + number(&status, "nonvoluntary_ctxt_switches:")?;
        }
        // The name is in parentheses and may contain anything; fields after it are numbered from 3.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| unexpected("stat"));
        Ok(Self {
            rss_kb: number(&memory, "Rss:")?,
            pss_kb: number(&memory, "Pss:")?,
            threads: number(&status, "Threads:")?,
            switches,
            ticks: ticks(14)? + ticks(15)?,
        })
    }
}

/// Separates the files when one command prints several.
const FILE: &str = "=== ";

impl Usage {
    /// A shell command that prints the files of `/proc` that [`Usage::of_copy`] needs.
    pub fn copying(pid: u32) -> String {
        format!("cd /proc/{pid} && for f in status smaps_rollup stat task/*/status; do echo \"{FILE}$f\"; cat $f; done")
    }

    /// Reads what that command printed on another machine.
    ///
    /// # Errors
    /// The process has ended, or a file has an unknown format.
    pub fn of_copy(copy: &str) -> io::Result<Self> {
        let process = tempfile::tempdir()?;
        for file in copy.split(FILE).skip(1) {
            let (name, text) = file.split_once('\n').ok_or_else(|| unexpected("a file's name"))?;
            let path = process.path().join(name);
            fs::create_dir_all(path.parent().expect("the file is in the directory"))?;
            fs::write(path, text)?;
        }
        Self::read(process.path())
    }
}

/// Resident memory of a process without its program text, kB. A debug build's text is many times a release's.
///
/// # Errors
/// `/proc/PID` cannot be read.
pub fn rss_without_program_kb(process: &Path) -> io::Result<u64> {
    let program = fs::read_link(process.join("exe"))?;
    let (mut own, mut sum) = (false, 0);
    for line in fs::read_to_string(process.join("smaps"))?.lines() {
        // A mapping begins with its addresses; the file name, if any, is the sixth column.
        if line.split_whitespace().next().is_some_and(|first| first.contains('-')) {
            own = line.splitn(6, ' ').nth(5).is_some_and(|file| Path::new(file.trim()) == program);
        } else if line.starts_with("Rss:") && !own {
            sum += number(line, "Rss:")?;
        }
    }
    Ok(sum)
}

fn number(text: &str, name: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse().ok()).ok_or_else(|| unexpected(name))
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc does not say {what}"))
}

/// Resources that a process used over a time span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Counters at the end.
    pub usage: Usage,
    /// Context switches per second.
    pub wakeups_per_s: f64,
    /// CPU seconds per minute.
    pub cpu_s_per_min: f64,
}

impl Cost {
    /// Measures a local process for `span`.
    ///
    /// # Errors
    /// The process exits during the measurement.
    pub async fn of(pid: i32, span: Duration) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let (before, started) = (Usage::read(&process)?, Instant::now());
        tokio::time::sleep(span).await;
        Ok(Self::between(before, Usage::read(&process)?, started.elapsed()))
    }

    /// Computes the usage from two readings.
    pub fn between(before: Usage, after: Usage, span: Duration) -> Self {
        let per_s = |before: u64, after: u64| after.saturating_sub(before) as f64 / span.as_secs_f64();
        Self {
            usage: after,
            wakeups_per_s: per_s(before.switches, after.switches),
            cpu_s_per_min: per_s(before.ticks, after.ticks) * 60.0 / TICKS as f64,
        }
    }

    /// The figures by name.
    pub fn json(&self) -> Value {
        let round = |figure: f64| (figure * 100.0).round() / 100.0;
        json!({
            "rss_kb": self.usage.rss_kb, "pss_kb": self.usage.pss_kb, "threads": self.usage.threads,
            "wakeups_per_s": round(self.wakeups_per_s), "cpu_s_per_min": round(self.cpu_s_per_min),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_does_shows() {
        let own = Path::new("/proc/self");
        let before = Usage::read(own).unwrap();
        let mut memory = vec![0_u8; 32 << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        let sleeper = std::thread::spawn(|| (0..50).for_each(|_| std::thread::sleep(Duration::from_millis(1))));
        let started = Instant::now();
        let mut after = Usage::read(own).unwrap();
        while (after.ticks < before.ticks + 5 || after.switches < before.switches + 20) && started.elapsed() < Duration::from_secs(60) {
            after = Usage::read(own).unwrap();
        }
        assert!(after.rss_kb >= before.rss_kb + 20_000 && after.pss_kb >= before.pss_kb + 20_000, "{before:?}, then {after:?}");
        assert!(after.ticks >= before.ticks + 5 && after.switches >= before.switches + 20, "{before:?}, then {after:?}");
        sleeper.join().unwrap();
        assert_eq!(memory.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>(), 8192);
    }

    #[test]
    fn a_program_s_own_code_can_be_left_out() {
        let own = Path::new("/proc/self");
        let memory = vec![1_u8; 8 << 20];
        // Other tests in this process allocate and free memory concurrently.
        let all = || Usage::read(own).unwrap().rss_kb;
        let left_out = || {
            let (before, rest, after) = (all(), rss_without_program_kb(own).unwrap(), all());
            rest >= 8 * 1024 && rest + 200 < before.min(after)
        };
        assert!((0..10_000).any(|_| left_out()), "the program's own text is not counted");
        assert_eq!(memory.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 8 << 20);
    }

    #[test]
    fn figures_are_rates() {
        let usage = Usage { rss_kb: 9000, pss_kb: 8000, threads: 4, switches: 100, ticks: 10 };
        let cost = Cost::between(usage, Usage { switches: 150, ticks: 20, ..usage }, Duration::from_secs(10));
        assert_eq!((cost.wakeups_per_s, cost.cpu_s_per_min), (5.0, 0.6));
    }
}
