//! The receiving end of the notify protocol (sd_notify(3)) for `supervise`: what the command reports about itself. The socket's
//! name is abstract, so it needs no writable directory and no file's mode; whoever may not speak is told by the sender's process
//! id, which the kernel vouches for.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{self, SocketAddr},
    },
};

use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred},
    process::{Pid, getpgid},
};
use tokio::{io::Interest, net::UnixDatagram};

/// A longer message is cut off: the agent's own have at most a few hundred bytes.
const LONGEST: usize = 2048;
/// How often a name that is taken is replaced by another.
const NAMES: usize = 8;

/// What the command has reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// It is up.
    Ready,
    /// It makes progress.
    Alive,
    /// It asks to be killed.
    Trigger,
    /// One line about what it does.
    Status(String),
}

/// The socket that the command writes to.
pub(super) struct Notices {
    socket: UnixDatagram,
    name: String,
}

impl Notices {
    /// # Errors
    /// The socket could not be made.
    pub(super) fn open() -> io::Result<Self> {
        let mut names = (0..NAMES).map(|_| format!("kasa-care-agent/{}/{:08x}", std::process::id(), fastrand::u32(..)));
        let mut outcome = Err(io::ErrorKind::AddrInUse.into());
        while let (Err(_), Some(name)) = (&outcome, names.next()) {
            outcome = net::UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?).map(|socket| (socket, name));
        }
        let (socket, name) = outcome?;
        set_socket_passcred(&socket, true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)?, name })
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(super) fn address(&self) -> String {
        format!("@{}", self.name)
    }

    /// The next message of the process group of `of`. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// The socket is broken.
    pub(super) async fn next(&self, of: Option<Pid>) -> io::Result<Vec<Notice>> {
        loop {
            if let Some(notices) = self.socket.async_io(Interest::READABLE, || receive(&self.socket, of)).await? {
                return Ok(notices);
            }
        }
    }
}

/// One message; `None` if it comes from another process.
fn receive(socket: &UnixDatagram, of: Option<Pid>) -> io::Result<Option<Vec<Notice>>> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    // Whatever the command has started itself may speak for it.
    let ours = matches!((sender, of), (Some(sender), Some(of)) if sender == of || getpgid(Some(sender)).is_ok_and(|group| group == of));
    Ok(ours.then(|| parse(&String::from_utf8_lossy(&text[..got.bytes]))))
}

fn parse(text: &str) -> Vec<Notice> {
    let notice = |line: &str| match line.split_once('=')? {
        ("READY", "1") => Some(Notice::Ready),
        ("WATCHDOG", "1") => Some(Notice::Alive),
        ("WATCHDOG", "trigger") => Some(Notice::Trigger),
        ("STATUS", status) => Some(Notice::Status(status.to_owned())),
        _ => None,
    };
    text.lines().filter_map(notice).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn send(notices: &Notices, text: &str) {
        let socket = net::UnixDatagram::unbound().unwrap();
        let name = notices.address();
        socket.connect_addr(&SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap()).unwrap();
        socket.send(text.as_bytes()).unwrap();
    }

    #[test]
    fn messages_of_the_command_are_heard_in_order() {
        runtime().block_on(async {
            let notices = Notices::open().unwrap();
            let own = Some(rustix::process::getpid());
            send(&notices, "READY=1\n");
            send(&notices, "MONOTONIC_USEC=7\nWATCHDOG=1\nSTATUS=free, online\nMAINPID=1\n");
            assert_eq!(notices.next(own).await.unwrap(), [Notice::Ready]);
            assert_eq!(notices.next(own).await.unwrap(), [Notice::Alive, Notice::Status("free, online".into())]);
            send(&notices, "WATCHDOG=trigger");
            assert_eq!(notices.next(own).await.unwrap(), [Notice::Trigger]);
            // Nonsense is a message without a notice.
            send(&notices, "\u{1}WATCHDOG\nREADY=0\n=\n");
            assert_eq!(notices.next(own).await.unwrap(), []);
        });
    }

    #[test]
    fn nobody_but_the_commands_process_group_is_heard() {
        runtime().block_on(async {
            let notices = Notices::open().unwrap();
            // This test's process is not the command.
            let mut command = Command::new("sleep");
            let mut other = std::os::unix::process::CommandExt::process_group(command.arg("60"), 0).spawn().unwrap();
            let pid = Pid::from_child(&other);
            send(&notices, "WATCHDOG=1");
            let heard = tokio::time::timeout(std::time::Duration::from_millis(200), notices.next(Some(pid))).await;
            assert!(heard.is_err(), "{heard:?}");
            send(&notices, "WATCHDOG=1");
            let own_group = getpgid(None).unwrap();
            assert_eq!(notices.next(Some(own_group)).await.unwrap(), [Notice::Alive]);
            other.kill().unwrap();
            other.wait().unwrap();
        });
    }
}
