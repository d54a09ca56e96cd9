//! Sends log events to the journal under systemd, with their fields, to syslogd or a bounded file where `CARE_LOG_TO` says so,
//! and to standard error otherwise, coloured on a terminal. `CARE_LOG` sets the level: `debug`, or by module,
//! `info,kasa_care_agent::link=trace`. A destination that does not work is no failure: standard error takes its place.

mod bounded_file;
mod destination;
mod fallback;
mod filter;
mod recent;
mod syslog;
mod writers;

use std::{
    io::{self, IsTerminal},
    panic,
};

pub use destination::{BYTES, BadDestination, DESTINATION, Destination};
pub use filter::{BadFilter, FILTER, from_env};
pub use recent::{Line, forget, recent};

use tracing_subscriber::{
    field::MakeExt,
    filter::Targets,
    fmt,
    fmt::format::{Writer, debug_fn},
    fmt::time::FormatTime,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{clock, redact};
use bounded_file::BoundedFile;
use syslog::Syslog;
use writers::{ToFile, ToSyslog};

/// Starts logging events that pass `filter`. Call it once per process.
pub fn start(filter: Targets, destination: &Destination) {
    let registry = tracing_subscriber::registry().with(filter).with(recent::Keeper);
    let fields = debug_fn(|writer: &mut Writer<'_>, field, value| field_without_secrets(writer, field.name(), value)).delimited(" ");
    let lines = fmt::layer().with_timer(SystemClock).fmt_fields(fields);
    let started = match destination {
        Destination::Syslog(path) => {
            // syslogd adds time and level.
            let writer = ToSyslog::new(Syslog::new(path.clone()));
            registry.with(lines.with_ansi(false).without_time().with_level(false).with_writer(writer)).try_init()
        }
        Destination::File { path, most_bytes } => {
            let writer = ToFile::new(BoundedFile::new(path.clone(), *most_bytes), path);
            registry.with(lines.with_ansi(false).with_writer(writer)).try_init()
        }
        Destination::Standard => match journal() {
            Some(journal) => registry.with(journal).try_init(),
            None => registry.with(lines.with_writer(io::stderr).with_ansi(io::stderr().is_terminal())).try_init(),
        },
    };
    if let Err(error) = started {
        eprintln!("kasa-care-agent: events are logged already: {error}");
    }
    if *destination != Destination::Standard {
        // Nobody reads standard error there.
        panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
}

/// Begins a line with the agent's reading of the system clock, which is right after 2038 too.
struct SystemClock;

impl FormatTime for SystemClock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:.6}", clock::timestamp())
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

/// The journal, if standard error leads there: written to directly, it keeps the fields.
#[cfg(feature = "journald")]
fn journal() -> Option<tracing_journald::Layer> {
    let journal = if under_journal() { tracing_journald::layer().ok() } else { None };
    journal.map(|journal| journal.with_syslog_identifier("kasa-care-agent".to_owned()))
}

/// Without the journal's crate there is none.
#[cfg(not(feature = "journald"))]
fn journal() -> Option<tracing_subscriber::layer::Identity> {
    None
}

/// Whether standard error is the journal's stream. systemd names the device and inode of that stream.
#[cfg(feature = "journald")]
fn under_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    stream.to_str() == Some(format!("{}:{}", stat.st_dev, stat.st_ino).as_str())
}
