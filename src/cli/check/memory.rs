//! Compares the bounds of what the agent may hold in memory with what this camera has (`docs/configuration.md#memory`).
//! It warns only: bounds are rarely reached all at once, and the file may be for another camera.

use std::fs;

use super::findings::Findings;
use crate::config::{Config, Media, Recording, Spool};

/// What the agent takes beside the bounded buffers, bytes: its code and heap, TLS to three peers, the state.
const OWN: u64 = 4_000_000;

/// Warns if the bounds add up to more than this camera can give. `running`: an agent may already use its share.
pub(super) fn check(findings: &mut Findings, running: bool) {
    let Some(config) = &findings.parsed.config else { return };
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let Some((key, wrong, right)) = judge(config, &text, running) {
        findings.warn(key, wrong, right);
    }
}

/// The key of the largest bound, what is wrong, and what to do.
fn judge(config: &Config, meminfo: &str, running: bool) -> Option<(&'static str, String, String)> {
    let bounds = bounds(config.media.as_ref(), config.recording.as_ref(), &config.spool);
    let sum = OWN + bounds.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let total = field(meminfo, "MemTotal")?;
    // Beside a running agent the memory that is left says nothing about the memory that it may take.
    let given = if running { total / 2 } else { available(meminfo)? };
    if sum <= given {
        return None;
    }
    let (key, _) = bounds.iter().max_by_key(|(_, bytes)| *bytes)?;
    let parts = bounds.iter().map(|(key, bytes)| format!("{key} {}", mb(*bytes))).collect::<Vec<_>>().join(", ");
    let of = if running { "half of this camera's" } else { "available of this camera's" };
    let wrong = format!("the agent may take {} (its own {}, {parts}), and {} are {of} {}", mb(sum), mb(OWN), mb(given), mb(total));
    Some((key, wrong, "lower the largest, or the stream's bit rate; deploy/config-32mb.toml is an example".to_owned()))
}

/// Every bound with its key.
fn bounds(media: Option<&Media>, recording: Option<&Recording>, spool: &Spool) -> Vec<(&'static str, u64)> {
    let mut bounds = vec![("spool.memory_bytes", spool.memory_bytes)];
    if let Some(media) = media {
        let streams = 1 + u64::from(media.low_source.is_some());
        bounds.push(("media.pre_roll_bytes", streams * media.pre_roll_bytes as u64));
    }
    bounds.extend(recording.map(|recording| ("recording.memory_bytes", recording.memory_bytes as u64)));
    bounds
}

fn available(meminfo: &str) -> Option<u64> {
    // MemAvailable came with Linux 3.14.
    field(meminfo, "MemAvailable").or_else(|| Some(field(meminfo, "MemFree")? + field(meminfo, "Buffers")? + field(meminfo, "Cached")?))
}

/// A field of /proc/meminfo in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("config.toml")).unwrap()
    }

    /// Of a camera on which Linux has 26 MB.
    const SMALL: &str =
        "MemTotal:          26624 kB\nMemFree:            9000 kB\nMemAvailable:      15000 kB\nBuffers:             100 kB\n";
    /// The same before Linux 3.14.
    const OLD: &str =
        "MemTotal:          26624 kB\nMemFree:            9000 kB\nBuffers:             100 kB\nCached:             2000 kB\n";

    #[test]
    fn the_default_bounds_are_too_much_for_26_mb_and_the_profile_for_them_is_not() {
        let (key, wrong, _) = judge(&config(include_str!("../../../systemd/config.toml")), SMALL, false).unwrap();
        assert_eq!(key, "media.pre_roll_bytes", "two streams");
        assert!(wrong.contains("28.0 MB") && wrong.contains("15.4 MB"), "{wrong}");
        let profile = config(include_str!("../../../deploy/config-32mb.toml"));
        for (meminfo, running) in [(SMALL, false), (OLD, false), (SMALL, true)] {
            assert_eq!(judge(&profile, meminfo, running), None);
        }
    }

    #[test]
    fn without_meminfo_nothing_is_said() {
        assert_eq!(judge(&config(include_str!("../../../systemd/config.toml")), "", false), None);
    }
}
