//! Every socket that carries media, with the generation under which it was opened. A duplicate of each descriptor is
//! kept here, so that a cut can kill the connection from the control thread without the help of the uploads' thread.
//! The generation is compared under the lock that also guards opening, so no socket can open after a cut under the old
//! generation.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use care_engine::Generation;
use portable_atomic::AtomicU64;
use rustix::net::{Shutdown, connect_unspec, shutdown};
use socket2::SockRef;
use tokio::{net::TcpStream, task::AbortHandle};

use super::kernel::{Kernel, TcpInfo};
use crate::{
    http::{self, Dialer, Stale},
    path_mtu::PATHS,
};

/// The most unsent payload in a socket before it accepts more. Payload that the agent still holds cannot leave.
const NOT_SENT_LOWAT: u32 = 16 * 1024;

/// The segment size of Ethernet, even where the path allows more: loopback's 64 KiB segments are so rare at a camera's
/// pace that whole observation windows of the pacer pass without one, and it would slow down for no reason.
const LARGEST_SEGMENT: u32 = 1460;

/// The gate's generation and the sockets that were opened under it. One transfer runs at a time, races at most the
/// addresses of one name, and leaves at most two connections to the next part, which bounds their number.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    generation: AtomicU64,
    open: Mutex<Open>,
    kernel: Kernel,
    /// Why the kernel does not pace sockets, if it does not.
    unpaced: OnceLock<String>,
    /// What the kernel does not count of a connection, if there is anything.
    uncounted: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    duplicates: Vec<(u64, OwnedFd)>,
    task: Option<AbortHandle>,
}

impl Sockets {
    #[cfg(test)]
    pub(super) fn under(kernel: Kernel) -> Self {
        Self { kernel, ..Self::default() }
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// Closes the gate: from here on no socket opens and no body continues under the previous generation.
    pub(super) fn advance(&self) -> Generation {
        Generation(self.generation.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Kills every connection at once, then the task that used it. Call it after [`Self::advance`].
    ///
    /// Returns the payload that the kernel handed to the network device since the call; `None` if it does not count it.
    pub(super) fn abort(&self) -> Option<u64> {
        let mut open = self.lock();
        // Connecting to AF_UNSPEC zeroes the counters, so they are read first (`docs/design/cut.md`).
        let at_close: Vec<_> = open.duplicates.iter().map(|(_, socket)| self.bytes_sent(socket)).collect();
        let mut bytes_after = Some(0);
        for ((_, socket), at_close) in open.duplicates.iter().zip(at_close) {
            let since = self.bytes_sent(socket).zip(at_close).map(|(sent, at_close)| sent.saturating_sub(at_close));
            bytes_after = bytes_after.zip(since).map(|(others, since)| others + since);
            kill(socket);
        }
        if let Some(task) = open.task.take() {
            task.abort();
        }
        open.duplicates.clear();
        bytes_after
    }

    /// Remembers the task that transfers under `generation`, to be aborted by a cut; aborts it if one has just been
    /// made.
    pub(super) fn adopt(&self, generation: Generation, task: AbortHandle) {
        let mut open = self.lock();
        if self.generation() == generation {
            open.task = Some(task);
        } else {
            task.abort();
        }
    }

    /// The message for the status document if the kernel lacks what an upload's pace rests on.
    pub(super) fn pace_fault(&self) -> Option<String> {
        let unpaced = self.unpaced.get().map(|why| format!("does not pace a socket ({why}): the agent's own timer spaces uploads"));
        let faults: Vec<_> = unpaced.iter().chain(self.uncounted.get()).map(String::as_str).collect();
        (!faults.is_empty()).then(|| format!("this kernel {}", faults.join("; it ")))
    }

    /// Paces a socket as far as the kernel can. The body spaces its pieces in any case, so that a burst stays within one
    /// TLS record; without the kernel's pace uploads run all the same.
    fn pace(&self, socket: BorrowedFd<'_>, bytes_per_s: u64) {
        if let Err(error) = (self.kernel.set_max_pacing_rate)(socket, bytes_per_s) {
            self.unpaced.get_or_init(|| error.to_string());
        }
    }

    /// Notes what this kernel does not count.
    fn look_for_counters(&self, socket: BorrowedFd<'_>) {
        match (self.kernel.tcp_info)(socket) {
            Err(error) => {
                let lacking = "has no TCP_INFO";
                let costs = "the uplink's rate is not estimated, and a cut's bytes_after is not counted";
                self.uncounted.get_or_init(|| format!("{lacking} ({error}): {costs}"));
            }
            Ok(TcpInfo { bytes_sent: None, .. }) => {
                self.uncounted.get_or_init(|| "does not count the bytes sent: a cut's bytes_after is not counted".to_owned());
            }
            Ok(_) => {}
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open_count() == 0
    }

    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.lock().duplicates.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, id: u64) {
        self.lock().duplicates.retain(|(other, _)| *other != id);
    }

    /// Payload handed to the network device so far; `None` where the kernel does not count it.
    fn bytes_sent(&self, socket: &OwnedFd) -> Option<u64> {
        (self.kernel.tcp_info)(socket.as_fd()).ok()?.bytes_sent
    }
}

/// Makes the kernel discard the connection and everything it had queued; the peer gets a RST.
fn kill(socket: &OwnedFd) {
    if let Err(error) = connect_unspec(socket) {
        // Not known to happen on a non-blocking TCP socket. Linger 0 still discards the queue when it closes.
        tracing::error!(%error, "a socket could not be disconnected");
        let _ = shutdown(socket, Shutdown::Both);
    }
}

/// One transfer's right to open sockets: it holds for the generation under which the transfer began.
#[derive(Debug, Clone)]
pub(super) struct Permit {
    sockets: Arc<Sockets>,
    generation: Generation,
    bytes_per_s: u64,
}

impl Permit {
    /// A permit for `generation`, whose sockets are paced to `bytes_per_s`.
    pub(super) fn new(sockets: Arc<Sockets>, generation: Generation, bytes_per_s: u64) -> Self {
        Self { sockets, generation, bytes_per_s }
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }
}

impl Dialer for Permit {
    type Guard = SocketGuard;

    fn dial(&self, address: SocketAddr) -> io::Result<(TcpStream, SocketGuard)> {
        let socket = http::new_socket(address)?;
        // Linger 0 also works when the agent is killed: the kernel discards the queue.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_notsent_lowat(NOT_SENT_LOWAT)?;
        socket.set_tcp_mss(PATHS.segment(address).unwrap_or(LARGEST_SEGMENT))?;
        self.sockets.pace(socket.as_fd(), self.bytes_per_s);
        self.sockets.look_for_counters(socket.as_fd());
        let duplicate = OwnedFd::from(socket.try_clone()?);

        let mut open = self.sockets.lock();
        self.check().map_err(io::Error::other)?;
        http::begin_connect(&socket, address)?;
        let id = open.next_id;
        open.next_id += 1;
        open.duplicates.push((id, duplicate));
        drop(open);

        let guard = SocketGuard { sockets: self.sockets.clone(), id, peer: address };
        Ok((TcpStream::from_std(socket.into())?, guard))
    }

    fn check(&self) -> Result<(), Stale> {
        if self.sockets.generation() == self.generation { Ok(()) } else { Err(Stale) }
    }
}

/// Registers a connection with the gate. When it is dropped the socket closes with a RST and its queue is discarded.
#[derive(Debug)]
pub(super) struct SocketGuard {
    sockets: Arc<Sockets>,
    id: u64,
    peer: SocketAddr,
}

impl SocketGuard {
    /// How the connection ends when it closes: within this time, or in the background.
    fn linger(&self, time: Option<Duration>) {
        let open = self.sockets.lock();
        if let Some((_, socket)) = open.duplicates.iter().find(|(id, _)| *id == self.id)
            && let Err(error) = SockRef::from(socket).set_linger(time)
        {
            tracing::debug!(%error, "a connection's linger cannot be set");
        }
    }

    /// A handle that reads and sets the pace of the connection while it is in use.
    pub(super) fn gauge(&self) -> Gauge {
        Gauge { sockets: self.sockets.clone(), id: self.id }
    }
}

impl http::Guard for SocketGuard {
    // Close with a FIN.
    fn finished(&self) {
        self.linger(None);
    }

    // Close with a RST again.
    fn begun(&self) {
        self.linger(Some(Duration::ZERO));
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        // After a cut the kernel has discarded its counters, and nothing is learned.
        if let Some(info) = self.gauge().read() {
            PATHS.learn(self.peer, &info);
        }
        self.sockets.remove(self.id);
    }
}

/// Reads and sets the pace of a connection that is in use.
#[derive(Debug)]
pub(super) struct Gauge {
    sockets: Arc<Sockets>,
    id: u64,
}

impl Gauge {
    /// Its TCP_INFO; `None` once it is closed or where the kernel does not report it.
    pub(super) fn read(&self) -> Option<TcpInfo> {
        let open = self.sockets.lock();
        let (_, socket) = open.duplicates.iter().find(|(id, _)| *id == self.id)?;
        (self.sockets.kernel.tcp_info)(socket.as_fd()).ok()
    }

    /// Paces it to `bytes_per_s` from now on.
    pub(super) fn pace(&self, bytes_per_s: u64) {
        let open = self.sockets.lock();
        if let Some((_, socket)) = open.duplicates.iter().find(|(id, _)| *id == self.id) {
            self.sockets.pace(socket.as_fd(), bytes_per_s);
        }
    }
}
