//! Sends lines to syslogd as RFC 3164 has them, over its unix socket. It never waits for it. BusyBox's syslogd reads at most
//! 255 bytes a message unless it was built otherwise, so a longer line becomes several.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use tracing::Level;

use crate::clock::local_time::LocalTime;

/// The longest message, header included: `FEATURE_SYSLOGD_READ_BUFFER_SIZE` is 256 by default.
const LONGEST: usize = 255;
/// RFC 3164, 4.1.1: system daemons.
const DAEMON: u8 = 3;
const TAG: &str = "kasa-care-agent";
/// Begins every message of a line but the first.
const GOES_ON: &str = "... ";
/// As RFC 3164, 4.1.2 has them, whatever the locale.
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A connection to syslogd.
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, socket: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sends a line.
    ///
    /// # Errors
    /// Nobody listens, or syslogd does not keep up.
    pub(super) fn send(&mut self, level: Level, line: &str) -> io::Result<()> {
        let head = head(level, LocalTime::now(), std::process::id());
        messages(&head, line).try_for_each(|message| self.send_one(message.as_bytes()))
    }

    fn send_one(&mut self, message: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(message) {
                Ok(_) => return Ok(()),
                // It is there, and busy.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // It was started again, on another socket of that name.
                Err(_) => self.socket = None,
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        socket.send(message)?;
        self.socket = Some(socket);
        Ok(())
    }
}

/// Priority, time, tag and process id (RFC 3164, 4.1), without the host's name, as every local program sends them.
fn head(level: Level, time: LocalTime, pid: u32) -> String {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let LocalTime { month, day, hour, minute, second, .. } = time;
    let month = MONTHS[usize::from(month) % MONTHS.len()];
    format!("<{}>{month} {day:>2} {hour:02}:{minute:02}:{second:02} {TAG}[{pid}]: ", DAEMON * 8 + severity)
}

/// The messages of one line, broken between words where possible, and never within a character.
fn messages<'a>(head: &'a str, line: &'a str) -> impl Iterator<Item = String> + 'a {
    let mut rest = Some(line.trim());
    let mut first = true;
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let go_on = if std::mem::take(&mut first) { "" } else { GOES_ON };
        let room = LONGEST - head.len() - go_on.len();
        let (part, left) = split(text, room);
        rest = (!left.is_empty()).then_some(left);
        // A control character would let a quoted name forge a line.
        let part = part.replace(|c: char| c.is_control(), " ");
        Some(format!("{head}{go_on}{part}"))
    })
}

fn split(text: &str, room: usize) -> (&str, &str) {
    if text.len() <= room {
        return (text, "");
    }
    let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    // A word of half a message is broken.
    let space = text[..end].rfind(' ').filter(|at| *at > room / 2);
    let (part, left) = text.split_at(space.unwrap_or(end));
    (part, left.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: LocalTime = LocalTime { month: 1, day: 3, weekday: 0, hour: 4, minute: 5, second: 6 };

    #[test]
    fn the_head_is_that_of_rfc_3164() {
        assert_eq!(head(Level::INFO, TIME, 42), "<30>Feb  3 04:05:06 kasa-care-agent[42]: ");
        let late = LocalTime { month: 11, day: 30, weekday: 0, hour: 23, minute: 59, second: 60 };
        assert_eq!(head(Level::ERROR, late, 1), "<27>Dec 30 23:59:60 kasa-care-agent[1]: ");
        assert!(head(Level::WARN, TIME, 1).starts_with("<28>") && head(Level::TRACE, TIME, 1).starts_with("<31>"));
        // The characters by which BusyBox's syslogd recognizes a time: see timestamp_and_log() in its sysklogd/syslogd.c.
        let time = head(Level::INFO, TIME, 42).into_bytes().split_off("<30>".len());
        assert_eq!([time[3], time[6], time[9], time[12], time[15]], [b' ', b' ', b':', b':', b' ']);
    }

    #[test]
    fn a_long_line_becomes_several_messages_that_busybox_takes_whole() {
        let head = head(Level::INFO, TIME, 4_194_304);
        let line: String = (0..200).map(|number| format!("word{number} ")).collect();
        let all: Vec<String> = messages(&head, &line).collect();
        assert!(all.len() > 4 && all.iter().all(|message| message.len() <= LONGEST), "{all:#?}");
        let told: Vec<&str> = all.iter().map(|message| message[head.len()..].trim_start_matches(GOES_ON)).collect();
        assert_eq!(told.join(" "), line.trim(), "nothing is lost, and no word is broken");
        assert!(all[1].contains(&format!("]: {GOES_ON}")));

        let umlauts = "é".repeat(600);
        let told: String = messages(&head, &umlauts).map(|message| message[head.len()..].trim_start_matches(GOES_ON).to_owned()).collect();
        assert_eq!(told, umlauts);
        assert_eq!(messages(&head, "one\n").collect::<Vec<_>>(), [format!("{head}one")]);
        assert_eq!(messages(&head, "").count(), 1);
    }

    #[test]
    fn a_line_cannot_forge_another() {
        let message = messages("<30>", "name\n<27>Jan  1 00:00:00 sshd: \u{7}root").next().unwrap();
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }

    #[test]
    fn a_syslogd_that_is_missing_restarted_or_slow_is_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut syslog = Syslog::new(path.clone());
        assert!(syslog.send(Level::INFO, "nobody listens").is_err());
        for round in 0..2 {
            let daemon = UnixDatagram::bind(&path).unwrap();
            syslog.send(Level::INFO, &format!("round {round}")).unwrap();
            let mut heard = [0; 300];
            let length = daemon.recv(&mut heard).unwrap();
            assert!(
                String::from_utf8_lossy(&heard[..length]).ends_with(&format!("kasa-care-agent[{}]: round {round}", std::process::id()))
            );
            drop(daemon);
            std::fs::remove_file(&path).unwrap();
        }
        let _silent = UnixDatagram::bind(&path).unwrap();
        let refused = (0..10_000).find_map(|_| syslog.send(Level::INFO, "a line").err()).expect("a full queue");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
