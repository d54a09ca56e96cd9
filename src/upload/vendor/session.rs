//! The socket of a vendor's uploader: one connection at a time, from this user or group, a line at a time. If an
//! uploader sends a malformed or too long line, the agent ends its connection and its permission.

use std::{io, os::fd::AsFd, path::Path, sync::Arc, time::Duration};

use rustix::process::{getegid, geteuid};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream},
    select,
    time::sleep,
};

use super::{
    Vendor,
    lines::{Cutter, Order},
};
use crate::{
    clock::Clock,
    unix_socket::{self, SocketPath},
    upload::Event,
};

/// How much is read at once, bytes.
pub(super) const PIECE: usize = 1024;

/// The listening socket; dropping it removes its path.
pub(in crate::upload) struct Listener {
    vendor: Arc<Vendor>,
    socket: UnixListener,
    _name: SocketPath,
}

impl Listener {
    /// Listens at `path`. Call it inside a runtime.
    pub(in crate::upload) fn open(path: &Path, clock: Clock, events: impl Fn(Event) + Send + Sync + 'static) -> io::Result<Self> {
        let listen = || {
            let (socket, name) = unix_socket::listen(path, 0o660)?;
            Ok((UnixListener::from_std(socket)?, name))
        };
        let (socket, name) = listen().map_err(|error: io::Error| {
            let why = format!("cannot listen on {} for the vendor's uploader: {error}; free it, or change uploader.socket", path.display());
            io::Error::new(error.kind(), why)
        })?;
        Ok(Self { vendor: Arc::new(Vendor::new(clock, Box::new(events))), socket, _name: name })
    }

    pub(in crate::upload) fn vendor(&self) -> Arc<Vendor> {
        self.vendor.clone()
    }

    /// Serves one uploader after the other, for ever.
    pub(in crate::upload) async fn serve(self) {
        loop {
            let Some(stream) = self.accept().await else { continue };
            if let Err(error) = self.converse(stream).await {
                tracing::warn!(%error, "the connection to the vendor's uploader failed");
            }
        }
    }

    /// The next connection of a process with access.
    async fn accept(&self) -> Option<UnixStream> {
        match self.socket.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream))) {
            Ok((peer, stream)) if may_speak((peer.uid(), peer.gid()), (geteuid().as_raw(), getegid().as_raw())) => Some(stream),
            Ok((peer, _)) => {
                tracing::warn!(
                    uid = peer.uid(),
                    gid = peer.gid(),
                    pid = peer.pid(),
                    "a process of another user was refused at the uploader's socket"
                );
                None
            }
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only waste the processor.
                tracing::warn!(%error, "the uploader's socket cannot take a connection");
                sleep(Duration::from_millis(200)).await;
                None
            }
        }
    }

    /// Serves one uploader until it disconnects. Others are turned away meanwhile.
    async fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        let pid = stream.peer_cred()?.pid();
        if !self.vendor.connect(stream.as_fd().try_clone_to_owned()?, pid) {
            return Ok(());
        }
        let mut lines = Cutter::default();
        let mut piece = [0; PIECE];
        loop {
            let read = select! {
                read = stream.read(&mut piece) => read,
                other = self.accept() => {
                    if let Some(other) = other {
                        // If there is no room for the line, the end of the connection has the same meaning.
                        let _ = other.try_write(&Order::Busy.line());
                    }
                    continue;
                }
            };
            let length = match read {
                Ok(0) | Err(_) => {
                    self.vendor.gone();
                    return Ok(());
                }
                Ok(length) => length,
            };
            if let Err(why) = lines.take(&piece[..length], |line| self.vendor.receive(line)) {
                self.vendor.refuse(why);
                return Ok(());
            }
        }
    }
}

/// The second check behind the socket's mode: root, or a process of the agent's own user or group.
fn may_speak((peer_uid, peer_gid): (u32, u32), (uid, gid): (u32, u32)) -> bool {
    peer_uid == 0 || peer_uid == uid || peer_gid == gid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_our_own_user_and_group_may_speak() {
        let us = (970, 971);
        assert!(may_speak((0, 0), us) && may_speak((970, 100), us) && may_speak((100, 971), us));
        assert!(!may_speak((971, 970), us) && !may_speak((65534, 65534), us) && !may_speak((1000, 0), us), "root's group is not root");
    }
}
