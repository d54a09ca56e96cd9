//! How sockets are opened. Control traffic opens them directly ([`Direct`]); transfers of media open them through the
//! gate, which registers every socket and opens none under an old generation. Otherwise connections are the same for
//! both.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::Stale;
use crate::path_mtu::{PATHS, Watch};

/// Opens the sockets of one call.
pub trait Dialer: Sync {
    /// The guard that lives as long as the connection.
    type Guard: Guard + Send;

    /// Opens a socket and begins to connect it, without blocking.
    fn dial(&self, address: SocketAddr) -> io::Result<(TcpStream, Self::Guard)>;

    /// Whether the call may continue; checked between any two stages.
    fn check(&self) -> Result<(), Stale>;
}

/// Belongs to one connection and is dropped with it. A guard of the gate ends the connection with a RST unless the
/// exchange is [`finished`](Self::finished).
pub trait Guard {
    /// Request and answer are complete: the connection may close with a FIN. The dialer can still reach it until the
    /// guard is dropped.
    fn finished(&self);

    /// Another request begins on a connection whose exchange was finished.
    fn begun(&self);
}

/// Opens sockets without the gate: for control traffic, which carries no media.
#[derive(Debug, Clone, Copy)]
pub struct Direct;

impl Dialer for Direct {
    type Guard = DirectGuard;

    fn dial(&self, address: SocketAddr) -> io::Result<(TcpStream, DirectGuard)> {
        let socket = new_socket(address)?;
        PATHS.limit(&socket, address)?;
        let guard = DirectGuard(Watch::of(&socket, address));
        begin_connect(&socket, address)?;
        Ok((TcpStream::from_std(socket.into())?, guard))
    }

    fn check(&self) -> Result<(), Stale> {
        Ok(())
    }
}

/// The guard of a [`Direct`] connection: checks for a path MTU black hole when the connection ends.
#[derive(Debug)]
#[expect(dead_code, reason = "its drop reads TCP_INFO")]
pub struct DirectGuard(Option<Watch>);

impl Guard for DirectGuard {
    fn finished(&self) {}

    fn begun(&self) {}
}

#[cfg(test)]
impl DirectGuard {
    /// For a connection without a socket.
    pub(super) fn unwatched() -> Self {
        Self(None)
    }
}

/// A TCP socket that never blocks, with Nagle's algorithm off.
pub(crate) fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Sends the SYN and returns.
pub(crate) fn begin_connect(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}
