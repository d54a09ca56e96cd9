//! A free port for a program that is given its port when it starts, and must find it free whenever it is started again.
//! Whoever looks for a port and lets go of it may see another process take it first.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Socket, Type};

/// A TCP port that the system gives to nobody who asks for any port. A server that asks for this one and sets
/// `SO_REUSEADDR`, as servers do, gets it while it is held.
#[derive(Debug)]
pub struct HeldPort {
    /// Bound, and never listening.
    _socket: Socket,
    address: SocketAddr,
}

impl HeldPort {
    /// Holds this address; any port of its host if it has port 0. Fails while a server listens there.
    pub fn at(wanted: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(wanted), Type::STREAM, None)?;
        // Of any port, only one that nobody holds. Of a given one, also where connections have not ended yet.
        socket.set_reuse_address(wanted.port() != 0)?;
        socket.bind(&wanted.into())?;
        socket.set_reuse_address(true)?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { _socket: socket, address })
    }

    /// Any port on loopback.
    pub fn on_loopback() -> io::Result<Self> {
        Self::at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
    }

    /// Where the server is to listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_server_that_asks_for_it_gets_the_port_and_gets_it_again() {
        let held = HeldPort::on_loopback().unwrap();
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let error = other.bind(&held.address().into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "without SO_REUSEADDR nobody gets it");
        for _ in 0..2 {
            let server = TcpListener::bind(held.address()).unwrap();
            assert_eq!(HeldPort::at(held.address()).unwrap_err().kind(), io::ErrorKind::AddrInUse, "a server listens");
            drop(server);
        }
        let again = HeldPort::at(held.address()).unwrap();
        assert_eq!(again.address(), held.address());
    }
}
