//! When, where and on what a benchmark ran: each result file carries this, and docs/benchmarks.md shows it.

use std::process::Command;

use serde_json::{Value, json};

/// The time, the commit, the machine with its load, and the command line that repeats the run. `settings` names the environment
/// variables that shorten a run; those that are set become part of the command.
pub(crate) fn stamp(command: &str, settings: &[&str]) -> Value {
    let set = settings.iter().filter_map(|name| Some(format!("{name}={} ", std::env::var(name).ok()?)));
    json!({
        "at": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "commit": commit(),
        "machine": machine(),
        "load": load(),
        "command": set.chain([command.to_owned()]).collect::<String>(),
        "debug": cfg!(debug_assertions),
    })
}

/// The commit that was built, with a mark where files differ from it.
fn commit() -> Value {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=9", "HEAD"]) else { return Value::Null };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|files| !files.is_empty());
    if changed { format!("{commit} with changes").into() } else { commit.into() }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown processor", |(_, model)| model);
    format!("{cores} {} cores, {model}", std::env::consts::ARCH)
}

/// The load average of the last minute when the run ended: well above one per core means that others used the machine too.
fn load() -> Value {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse::<f64>().ok()).map_or(Value::Null, Value::from)
}
