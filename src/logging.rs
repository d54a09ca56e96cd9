//! Sends log events to the journal under systemd, with their fields, and to standard error otherwise, coloured on a terminal.
//! `CARE_LOG` sets the level: `debug`, or by module, `info,kasa_care_agent::link=trace`.

mod filter;
mod recent;

use std::{
    env,
    io::{self, IsTerminal},
};

pub use filter::{BadFilter, FILTER, from_env};
pub use recent::{Line, forget, recent};

use tracing_subscriber::{
    field::MakeExt,
    filter::Targets,
    fmt,
    fmt::format::{Writer, debug_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::redact;

/// Starts logging events that pass `filter`. Call it once per process.
pub fn start(filter: Targets) {
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
}

/// Formats one field, redacted: a library may log an address that the agent has not redacted itself.
fn field_without_secrets(writer: &mut Writer<'_>, name: &str, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    let value = redact::text(&format!("{value:?}"));
    match name {
        "message" => write!(writer, "{value}"),
        name => write!(writer, "{name}={value}"),
    }
}

/// Whether standard error is the journal's stream. systemd names the device and inode of that stream; if it is, log to the
/// journal directly, which keeps the fields.
fn under_journal() -> bool {
    let Some(stream) = env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    stream.to_str() == Some(format!("{}:{}", stat.st_dev, stat.st_ino).as_str())
}
