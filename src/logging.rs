//! Where log events go: to the journal under systemd, with their fields; to standard error otherwise, coloured on a terminal.
//! `CARE_LOG` says how much: `debug`, or by module, `info,kasa_care_agent::link=trace`.

mod recent;

use std::{
    env,
    io::{self, IsTerminal},
};

pub use recent::{Trouble, recent};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    field::MakeExt,
    filter::Targets,
    fmt,
    fmt::format::{Writer, debug_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::redact;

/// The environment variable with the filter.
pub const FILTER: &str = "CARE_LOG";

/// Sends log events on their way, once per process. A filter that cannot be read is said so and left aside.
pub fn start() {
    let (filter, fault) = match env::var(FILTER) {
        Ok(text) => filter(&text),
        Err(_) => filter(""),
    };
    let registry = tracing_subscriber::registry().with(filter).with(recent::Keeper);
    let journal = if under_journal() { tracing_journald::layer().ok() } else { None };
    let started = match journal {
        Some(journal) => registry.with(journal.with_syslog_identifier("kasa-care-agent".to_owned())).try_init(),
        None => {
            let fields = debug_fn(|writer, field, value| field_without_secrets(writer, field.name(), value)).delimited(" ");
            registry.with(fmt::layer().fmt_fields(fields).with_writer(io::stderr).with_ansi(io::stderr().is_terminal())).try_init()
        }
    };
    if let Err(error) = started {
        eprintln!("kasa-care-agent: events are logged already: {error}");
    }
    if let Some(fault) = fault {
        tracing::warn!(fault, "{FILTER} cannot be read; logging at info");
    }
}

/// One field of a line. Libraries may log addresses that the agent has never seen as a text.
fn field_without_secrets(writer: &mut Writer<'_>, name: &str, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    let value = redact::text(&format!("{value:?}"));
    match name {
        "message" => write!(writer, "{value}"),
        name => write!(writer, "{name}={value}"),
    }
}

/// What to log, `info` for an empty text. Libraries speak at `warn` unless asked.
fn filter(text: &str) -> (Targets, Option<String>) {
    let default = || {
        let quiet = ["rumqttc", "rustls", "hyper", "hyper_util", "tokio_rustls"];
        Targets::new().with_default(LevelFilter::INFO).with_targets(quiet.map(|target| (target, LevelFilter::WARN)))
    };
    match text.trim() {
        "" => (default(), None),
        text => match text.parse() {
            Ok(targets) => (targets, None),
            Err(error) => (default(), Some(format!("{text:?}: {error}"))),
        },
    }
}

/// systemd names the device and inode of the journal's stream. Only if standard error is still that stream does the journal
/// hear us anyway, and better directly.
fn under_journal() -> bool {
    let Some(stream) = env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    stream.to_str() == Some(format!("{}:{}", stat.st_dev, stat.st_ino).as_str())
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn info_of_ours_and_warnings_of_others_by_default() {
        let (filter, fault) = filter("");
        assert_eq!(fault, None);
        assert!(filter.would_enable("kasa_care_agent::link", &Level::INFO));
        assert!(!filter.would_enable("kasa_care_agent::link", &Level::DEBUG));
        assert!(!filter.would_enable("rumqttc::state", &Level::INFO));
        assert!(filter.would_enable("rumqttc::state", &Level::WARN));
    }

    #[test]
    fn one_module_can_speak_up() {
        let (filter, fault) = filter("warn,kasa_care_agent::link=trace");
        assert_eq!(fault, None);
        assert!(filter.would_enable("kasa_care_agent::link::session", &Level::TRACE));
        assert!(!filter.would_enable("kasa_care_agent::upload", &Level::INFO));
    }

    #[test]
    fn a_filter_that_cannot_be_read_falls_back_and_says_so() {
        let (filter, fault) = filter("kasa_care_agent=loud");
        assert!(fault.is_some_and(|fault| fault.contains("loud")));
        assert!(filter.would_enable("kasa_care_agent", &Level::INFO));
    }
}
