//! Hands formatted events to syslogd or to the log file, one event at a time, and to standard error where that fails.

use std::{
    io::{self, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::{bounded_file::BoundedFile, fallback::Fallback, syslog::Syslog};

/// Writes events to syslogd.
pub(super) struct ToSyslog {
    name: String,
    state: Mutex<(Syslog, Fallback)>,
}

impl ToSyslog {
    pub(super) fn new(syslog: Syslog) -> Self {
        Self { name: format!("syslogd at {}", syslog.path().display()), state: Mutex::new((syslog, Fallback::default())) }
    }
}

/// Writes events to the log file.
pub(super) struct ToFile {
    name: String,
    state: Mutex<(BoundedFile, Fallback)>,
}

impl ToFile {
    pub(super) fn new(file: BoundedFile, path: &Path) -> Self {
        Self { name: path.display().to_string(), state: Mutex::new((file, Fallback::default())) }
    }
}

/// One event for syslogd.
pub(super) struct SyslogEvent<'a>(&'a ToSyslog, Level);

/// One event for the file.
pub(super) struct FileEvent<'a>(&'a ToFile);

impl<'a> MakeWriter<'a> for ToSyslog {
    type Writer = SyslogEvent<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        SyslogEvent(self, Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        SyslogEvent(self, *metadata.level())
    }
}

impl<'a> MakeWriter<'a> for ToFile {
    type Writer = FileEvent<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        FileEvent(self)
    }
}

/// The formatter writes each event at once.
impl Write for SyslogEvent<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (syslog, fallback) = &mut *lock(&self.0.state);
        let sent = syslog.send(self.1, &String::from_utf8_lossy(event));
        fallback.judge(sent, &self.0.name, event, &mut io::stderr());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for FileEvent<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (file, fallback) = &mut *lock(&self.0.state);
        fallback.judge(file.append(event), &self.0.name, event, &mut io::stderr());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A thread that has panicked in here leaves nothing half done.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixDatagram};

    use tracing_subscriber::{field::MakeExt, fmt, fmt::format::debug_fn, layer::SubscriberExt};

    use super::*;
    use crate::logging::field_without_secrets;

    #[test]
    fn events_reach_syslogd_with_their_severity_and_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let fields = debug_fn(|writer: &mut fmt::format::Writer<'_>, field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            field_without_secrets(writer, field.name(), value)
        });
        let layer = fmt::layer().fmt_fields(fields.delimited(" ")).with_ansi(false).without_time().with_level(false);
        let layer = layer.with_writer(ToSyslog::new(Syslog::new(path)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(seq = 41, "no picture from rtsp://admin:hunter2@10.0.0.7/live");
            tracing::error!("the second");
        });
        let mut heard = [0; 300];
        let length = daemon.recv(&mut heard).unwrap();
        let message = String::from_utf8_lossy(&heard[..length]).into_owned();
        assert!(message.starts_with("<28>") && message.ends_with("10.0.0.7/live seq=41"), "{message}");
        assert!(!message.contains("hunter2") && message.contains("logging::writers"), "{message}");
        let length = daemon.recv(&mut heard).unwrap();
        assert!(heard[..length].starts_with(b"<27>"));
    }

    #[test]
    fn events_are_added_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = ToFile::new(BoundedFile::new(path.clone(), 10_000), &path);
        let layer = fmt::layer().with_ansi(false).with_writer(writer);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(seq = 41, "an event");
            tracing::info!("another");
        });
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("INFO") && lines[0].ends_with("an event seq=41") && lines[0].starts_with("20"), "{text}");
    }
}
