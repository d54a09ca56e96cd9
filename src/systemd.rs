//! Readiness and watchdog over systemd's notify protocol (sd_notify(3)), towards systemd or `supervise`. The control loop calls
//! this on each iteration, so a loop that stalls misses the watchdog, and a camera that is only offline does not. Nothing here
//! blocks, and without either nothing happens.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

/// The connection to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
    last_alive: Option<Instant>,
    last_status: String,
}

impl Notifier {
    /// Connects to the socket in the environment, if there is one.
    pub fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(socket = %name.to_string_lossy(), %error, "cannot connect to the service manager's notify socket");
                None
            }
        });
        Self::new(socket, sd_notify::watchdog_enabled())
    }

    fn new(socket: Option<UnixDatagram>, watchdog: Option<Duration>) -> Self {
        Self { socket, watchdog, last_alive: None, last_status: String::new() }
    }

    /// How often the control loop must call [`Notifier::alive`]; `None` without a watchdog.
    pub fn tick_interval(&self) -> Option<Duration> {
        self.watchdog.map(|timeout| timeout / 4)
    }

    /// Reports that the agent is up: the gate follows the record, and the control loop runs.
    pub fn ready(&mut self) {
        self.send(&[NotifyState::Ready]);
    }

    /// Reports that the control loop is running. Call it from there only, as often as you like.
    pub fn alive(&mut self) {
        let Some(every) = self.tick_interval() else { return };
        if self.last_alive.is_none_or(|last| last.elapsed() >= every / 2) {
            self.last_alive = Some(Instant::now());
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// Sets the line of `systemctl status`, or of `supervise`'s status file. It is sent only when it changes.
    pub fn status(&mut self, line: &str) {
        if line != self.last_status {
            line.clone_into(&mut self.last_status);
            let line = line.replace(['\n', '\r'], " ");
            self.send(&[NotifyState::Status(&line)]);
        }
    }

    /// Reports that a reload has begun. Call [`Notifier::ready`] when it is done.
    pub fn reloading(&mut self) {
        // sd-notify's own function multiplies in time_t, which overflows after 36 minutes of uptime where that has 32 bits.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&[NotifyState::Reloading, NotifyState::MonotonicUsec(microseconds)]);
    }

    /// Reports that the agent is stopping.
    pub fn stopping(&mut self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// Sends without waiting: a full socket means that systemd is not reading, and the agent must not stall with it.
    fn send(&self, states: &[NotifyState]) {
        let Some(socket) = &self.socket else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::debug!(%error, message = message.trim_end(), "the service manager did not accept a message");
        }
    }
}

/// Connects to a path, or with `@` to a name in the abstract namespace.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(watchdog: Option<Duration>) -> (Notifier, UnixDatagram) {
        let (ours, systemd) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        systemd.set_nonblocking(true).unwrap();
        (Notifier::new(Some(ours), watchdog), systemd)
    }

    fn heard(systemd: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 256];
        systemd.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    #[test]
    fn states_are_sent_to_systemd() {
        let (mut notifier, systemd) = pair(None);
        notifier.ready();
        assert_eq!(heard(&systemd).as_deref(), Some("READY=1\n"));
        notifier.status("free\nonline");
        notifier.status("free\nonline");
        assert_eq!(heard(&systemd).as_deref(), Some("STATUS=free online\n"));
        assert_eq!(heard(&systemd), None, "an unchanged status is not repeated");
        notifier.reloading();
        assert!(heard(&systemd).is_some_and(|text| text.starts_with("RELOADING=1\nMONOTONIC_USEC=")));
        notifier.stopping();
        assert_eq!(heard(&systemd).as_deref(), Some("STOPPING=1\n"));
    }

    #[test]
    fn the_watchdog_message_is_sent_for_alive_only_and_not_each_time() {
        let (mut notifier, systemd) = pair(Some(Duration::from_secs(30)));
        assert_eq!(heard(&systemd), None);
        notifier.alive();
        notifier.alive();
        assert_eq!(heard(&systemd).as_deref(), Some("WATCHDOG=1\n"));
        assert_eq!(heard(&systemd), None);
        assert_eq!(notifier.tick_interval(), Some(Duration::from_millis(7500)));
    }

    #[test]
    fn without_a_watchdog_no_watchdog_message_is_sent() {
        let (mut notifier, systemd) = pair(None);
        notifier.alive();
        assert_eq!(heard(&systemd), None);
    }

    #[test]
    fn a_systemd_that_does_not_read_does_not_block_the_agent() {
        let (mut notifier, _systemd) = pair(None);
        for turn in 0..10_000 {
            notifier.status(&turn.to_string());
        }
    }

    #[test]
    fn path_and_abstract_addresses_both_work() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        connect(path.as_os_str()).unwrap().send(b"x").unwrap();
        assert_eq!(systemd.recv(&mut [0; 8]).unwrap(), 1);

        let name = format!("care-notify-{}", std::process::id());
        let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        connect(OsStr::new(&format!("@{name}"))).unwrap().send(b"x").unwrap();
        assert_eq!(systemd.recv(&mut [0; 8]).unwrap(), 1);
    }
}
