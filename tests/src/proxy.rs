//! A TCP proxy between the agent and a server. A test can cut it, restore it, redirect it, and inject twelve faults.
//!
//! It forwards bytes without parsing them: a test that wants a fault at a certain packet uses
//! [`crate::packet_proxy`]. It counts what it did to the bytes, so that a fault that never took effect does not pass
//! for one that was survived.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

use crate::{
    broker::reserve_port,
    wait::{PATIENCE, until},
};

/// The network faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// All data is delayed by a second and a half.
    Latency,
    /// About one kilobyte per second.
    Bandwidth,
    /// No more data arrives; FIN follows two seconds later and the connection stays half closed.
    SlowClose,
    /// The connection closes with FIN, and so does each new one.
    Close,
    /// RST, also for each new connection.
    Reset,
    /// The peer loses the connection without notice: it stays open and sent data is lost. New connections work.
    HalfOpen,
    /// Packets are dropped: open connections go silent, new ones are never accepted.
    Blackhole,
    /// Each byte is sent in its own segment.
    Slicing,
    /// One bit of each chunk is flipped.
    Corruption,
    /// Data stops until the fault is lifted; then everything held back is delivered.
    Stall,
    /// Half of the next chunk, then the connection closes.
    Truncation,
    /// Nothing listens; open connections are reset.
    Refused,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 12] = [
        Self::Latency,
        Self::Bandwidth,
        Self::SlowClose,
        Self::Close,
        Self::Reset,
        Self::HalfOpen,
        Self::Blackhole,
        Self::Slicing,
        Self::Corruption,
        Self::Stall,
        Self::Truncation,
        Self::Refused,
    ];
}

/// Delay of [`Fault::Latency`].
const LATE: Duration = Duration::from_millis(1500);
/// [`Fault::Bandwidth`]: chunk size and the pause after it.
const SIP: (usize, Duration) = (64, Duration::from_millis(60));
/// Delay of the FIN in [`Fault::SlowClose`].
const SLOW: Duration = Duration::from_secs(2);
/// The proxy's own buffer: small, so that a sender notices early when nothing is read.
const BUFFER: usize = 16 * 1024;

/// Fault state as one connection sees it.
#[derive(Debug, Clone, Copy)]
struct State {
    up: bool,
    target: SocketAddr,
    fault: Option<Fault>,
    /// Whether data from the client is corrupted instead of data from the server.
    upward: bool,
    /// The fault starts with the first bytes that a client sends on a new connection.
    after_hello: Option<Fault>,
}

/// Injects and lifts a proxy's faults; can be cloned.
#[derive(Debug, Clone)]
pub struct Control {
    state: watch::Sender<State>,
    hits: Arc<AtomicUsize>,
}

impl Control {
    /// Applies this fault from now on.
    pub fn inject(&self, fault: Fault) {
        self.state.send_modify(|state| (state.fault, state.upward) = (Some(fault), false));
    }

    /// The same, but corrupting faults affect data from the client: an upload.
    pub fn inject_upstream(&self, fault: Fault) {
        self.state.send_modify(|state| (state.fault, state.upward) = (Some(fault), true));
    }

    /// Applies the fault when the next client has sent its first bytes: in the middle of the TLS handshake.
    pub fn inject_after_hello(&self, fault: Fault) {
        self.state.send_modify(|state| state.after_hello = Some(fault));
    }

    /// Lifts the fault. Connections that it broke stay broken.
    pub fn lift(&self) {
        self.state.send_modify(|state| (state.fault, state.after_hello) = (None, None));
    }

    /// How often a fault has affected a connection or a chunk of data.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::SeqCst);
    }
}

/// A TCP proxy to one address.
pub struct Proxy {
    /// The listening address.
    pub addr: SocketAddr,
    /// The fault controls.
    pub control: Control,
    accepted: Arc<AtomicUsize>,
    standing: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
    // Reserves the port while nothing listens.
    _port: Socket,
}

impl Proxy {
    /// A proxy to `target`, up and without faults.
    pub async fn to(target: SocketAddr) -> Self {
        let (port, addr) = reserve_port();
        let (state, _) = watch::channel(State { up: true, target, fault: None, upward: false, after_hello: None });
        let control = Control { state, hits: Arc::default() };
        let (accepted, standing) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let listener = listen(addr, 128).await;
        let task = tokio::spawn(serve(listener, addr, control.clone(), accepted.clone(), standing.clone()));
        Self { addr, control, accepted, standing, task, _port: port }
    }

    /// Closes all connections, and each new one immediately; returns when none is open.
    pub async fn cut(&self) {
        self.control.state.send_modify(|state| state.up = false);
        until("all connections to be closed", PATIENCE, || (self.standing.load(Ordering::SeqCst) == 0).then_some(())).await;
    }

    /// Accepts new connections again.
    pub fn restore(&self) {
        self.control.state.send_modify(|state| state.up = true);
    }

    /// Directs new connections to this address.
    pub fn redirect_to(&self, target: SocketAddr) {
        self.control.state.send_modify(|state| state.target = target);
    }

    /// Number of connection attempts.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.state.send_modify(|state| state.up = false);
        self.task.abort();
    }
}

async fn listen(addr: SocketAddr, backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_recv_buffer_size(BUFFER).unwrap();
    // A child between fork and exec still holds the listener before this one.
    until("the address to be free", PATIENCE, || match socket.bind(&addr.into()) {
        Err(why) if why.kind() == io::ErrorKind::AddrInUse => None,
        bound => Some(bound),
    })
    .await
    .unwrap();
    socket.listen(backlog).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

async fn serve(mut listener: TcpListener, addr: SocketAddr, control: Control, accepted: Arc<AtomicUsize>, standing: Arc<AtomicUsize>) {
    let mut state = control.state.subscribe();
    loop {
        let fault = state.borrow_and_update().fault;
        match fault {
            Some(Fault::Refused) => {
                drop(listener);
                if state.wait_for(|state| state.fault != Some(Fault::Refused)).await.is_err() {
                    return;
                }
                listener = listen(addr, 128).await;
            }
            Some(Fault::Blackhole) => {
                drop(listener);
                let full = listen(addr, 0).await;
                // Linux drops the SYN of a client when the accept queue is full.
                let mut fillers = Vec::new();
                while let Ok(filler) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
                    fillers.push(filler);
                }
                let lifted = state.wait_for(|state| state.fault != Some(Fault::Blackhole)).await.is_ok();
                drop((fillers, full));
                if !lifted {
                    return;
                }
                listener = listen(addr, 128).await;
            }
            _ => tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                near = listener.accept() => {
                    let Ok((near, _)) = near else { continue };
                    accepted.fetch_add(1, Ordering::SeqCst);
                    standing.fetch_add(1, Ordering::SeqCst);
                    let (control, standing) = (control.clone(), standing.clone());
                    tokio::spawn(async move {
                        carry(near, control).await;
                        standing.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            },
        }
    }
}

/// How a connection continues after a chunk.
enum Next {
    /// Unchanged.
    Piece,
    /// Closed in both directions.
    End,
    /// Closed with RST.
    Reset,
    /// Further data is discarded.
    Dead,
    /// The client sees the end with a delay.
    SlowEnd,
}

async fn carry(near: TcpStream, control: Control) {
    let mut state = control.state.subscribe();
    let State { up, target, fault, .. } = *state.borrow();
    if !up {
        return;
    }
    if matches!(fault, Some(Fault::Reset | Fault::Close)) {
        control.hit();
        if fault == Some(Fault::Reset) {
            let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
        }
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let _ = SockRef::from(&far).set_send_buffer_size(BUFFER);
    let to_reset = SockRef::from(&near).try_clone().expect("a descriptor to spare");
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let ended = AtomicUsize::new(0);
    let next = tokio::select! {
        next = pump(&mut near_read, &mut far_write, Direction::Up, &control, &ended) => next,
        next = pump(&mut far_read, &mut near_write, Direction::Down, &control, &ended) => next,
        next = struck(&mut state) => { control.hit(); next }
        () = cut(control.state.subscribe()) => Next::End,
    };
    match next {
        Next::Piece | Next::End => {}
        Next::Reset => {
            let _ = to_reset.set_linger(Some(Duration::ZERO));
            // Dropping it here would send FIN before the RST.
            near_write.forget();
        }
        Next::Dead => {
            drop((far_read, far_write));
            tokio::select! {
                () = discard(&mut near_read) => {}
                () = cut(control.state.subscribe()) => {}
            }
        }
        Next::SlowEnd => {
            drop((far_read, far_write));
            let end = async {
                sleep(SLOW).await;
                let _ = near_write.shutdown().await;
                discard(&mut near_read).await;
            };
            tokio::select! {
                () = end => {}
                () = cut(control.state.subscribe()) => {}
            }
        }
    }
}

/// Waits for a fault that ends idle connections too.
async fn struck(state: &mut watch::Receiver<State>) -> Next {
    let ending = |fault| matches!(fault, Some(Fault::Close | Fault::Reset | Fault::Refused));
    match state.wait_for(|state| ending(state.fault)).await.map(|state| state.fault) {
        Ok(Some(Fault::Close)) | Err(_) => Next::End,
        Ok(_) => Next::Reset,
    }
}

async fn cut(mut state: watch::Receiver<State>) {
    // All senders are gone, and the proxy with them.
    let _ = state.wait_for(|state| !state.up).await;
}

async fn lifted(control: &Control) {
    let _ = control.state.subscribe().wait_for(|state| state.fault.is_none()).await;
}

async fn discard(stream: &mut OwnedReadHalf) {
    let mut bin = [0; 4096];
    while matches!(stream.read(&mut bin).await, Ok(read) if read > 0) {}
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Up,
    Down,
}

async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, direction: Direction, control: &Control, ended: &AtomicUsize) -> Next {
    let mut piece = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut piece).await {
            Ok(0) => {
                // The directions may end separately; the second one to end closes the connection.
                if to.shutdown().await.is_err() || ended.fetch_add(1, Ordering::SeqCst) == 1 {
                    return Next::End;
                }
                return std::future::pending().await;
            }
            Ok(read) => read,
            Err(_) => return Next::End,
        };
        if direction == Direction::Up {
            control.state.send_if_modified(|state| {
                let fault = state.after_hello.take();
                state.fault = fault.or(state.fault);
                fault.is_some()
            });
        }
        match deliver(&mut piece[..read], to, direction, control).await {
            Ok(Next::Piece) => {}
            Ok(next) => return next,
            Err(_) => return Next::End,
        }
    }
}

async fn deliver(piece: &mut [u8], to: &mut OwnedWriteHalf, direction: Direction, control: &Control) -> std::io::Result<Next> {
    let State { fault, upward, .. } = *control.state.borrow();
    let Some(fault) = fault else {
        to.write_all(piece).await?;
        return Ok(Next::Piece);
    };
    match fault {
        // Only one direction is corrupted.
        Fault::Corruption | Fault::Truncation if (direction == Direction::Up) != upward => {
            to.write_all(piece).await?;
            return Ok(Next::Piece);
        }
        // Handled where connections are accepted: see `struck`.
        Fault::Close | Fault::Reset | Fault::Refused => std::future::pending::<()>().await,
        _ => control.hit(),
    }
    match fault {
        Fault::Latency => {
            sleep(LATE).await;
            to.write_all(piece).await?;
        }
        Fault::Bandwidth => {
            for sip in piece.chunks(SIP.0) {
                to.write_all(sip).await?;
                if control.state.borrow().fault.is_some() {
                    sleep(SIP.1).await;
                }
            }
        }
        Fault::Slicing => {
            for byte in piece.chunks(1) {
                to.write_all(byte).await?;
                tokio::task::yield_now().await;
            }
        }
        Fault::Corruption => {
            let middle = piece.len() / 2;
            piece[middle] ^= 0x10;
            to.write_all(piece).await?;
        }
        Fault::Stall => {
            lifted(control).await;
            to.write_all(piece).await?;
        }
        Fault::Truncation => {
            to.write_all(&piece[..piece.len() / 2]).await?;
            return Ok(Next::End);
        }
        Fault::SlowClose => return Ok(Next::SlowEnd),
        Fault::HalfOpen => {
            // New connections have a working peer.
            control.lift();
            return Ok(Next::Dead);
        }
        Fault::Blackhole => return Ok(Next::Dead),
        Fault::Close | Fault::Reset | Fault::Refused => {}
    }
    Ok(Next::Piece)
}
