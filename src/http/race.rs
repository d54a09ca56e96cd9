//! Happy Eyeballs (RFC 8305): connects to the first of a server's addresses that answers. A name may have several, and
//! an unreachable one must not keep the camera from the others. They are tried in turn, IPv6 and IPv4 alternating. The
//! next one begins when one fails, or after 250 ms without an answer; the first whose TLS handshake is complete wins.
//! Broker, API and store are all reached this way.
//!
//! Every socket is opened through the caller's [`Dialer`], so a cut kills those that still race as well. The losers are
//! closed before anything is sent on the winner.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    select,
    time::{Instant, sleep_until},
};

use super::{
    Connection, Dialer, Fault, Origin, Stage, Stale,
    connect::{Secured, tls},
};
use crate::{config::Endpoint, tls::TlsFault};

/// How long to wait for an answer to a SYN before the next address is tried in parallel (RFC 8305, section 8).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// How much longer its TLS handshake may take: a path may carry a SYN and drop a certificate.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// No address of a server could be reached.
#[derive(Debug, Clone)]
pub struct Unreachable {
    /// `host:port`, as configured.
    pub server: String,
    /// Every address that was tried, and why it failed, in order.
    pub tried: Vec<Tried>,
}

/// An address that could not be reached.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub why: Why,
}

/// Why an address could not be reached.
#[derive(Debug, Clone)]
pub enum Why {
    /// No connection, in the kernel's words.
    Tcp(io::ErrorKind, String),
    /// No trust, or no TLS.
    Tls(TlsFault),
    /// No answer arrived in this stage before the time limit.
    Silent(Stage),
}

impl Why {
    fn tcp(error: &io::Error) -> Self {
        let kind = error.kind();
        // "connection refused", not "Connection refused (os error 111)"; if the kind has no text of its own, use the
        // kernel's message.
        let words = match kind {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut => kind.to_string(),
            _ => error.to_string(),
        };
        Self::Tcp(kind, words)
    }

    fn stage(&self) -> Stage {
        match self {
            Self::Tcp(..) => Stage::Tcp,
            Self::Tls(_) => Stage::Tls,
            Self::Silent(stage) => *stage,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, words) => f.write_str(words),
            Self::Tls(fault) => write!(f, "TLS: {fault}"),
            Self::Silent(Stage::Tls) => f.write_str("TLS: no answer to the handshake in time"),
            Self::Silent(_) => f.write_str("no answer in time"),
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tried.as_slice() {
            [Tried { address, why }] if self.server == address.to_string() => write!(f, "connecting to {}: {why}", self.server),
            [Tried { address, why }] => write!(f, "connecting to {} ({}): {why}", self.server, address.ip()),
            tried => {
                write!(f, "connecting to {}: ", self.server)?;
                for (i, Tried { address, why }) in tried.iter().enumerate() {
                    let between = if i == 0 { "" } else { "; " };
                    write!(f, "{between}({}) {why}", address.ip())?;
                }
                Ok(())
            }
        }
    }
}

impl Unreachable {
    /// The furthest stage that any address reached.
    pub fn stage(&self) -> Stage {
        if self.tried.iter().any(|tried| tried.why.stage() == Stage::Tls) { Stage::Tls } else { Stage::Tcp }
    }

    /// What to do about it: for the address that reached the furthest stage.
    pub fn advice(&self) -> &'static str {
        let furthest = self.tried.iter().find(|tried| tried.why.stage() == self.stage());
        match furthest.map(|tried| &tried.why) {
            Some(Why::Tls(fault)) => tls_advice(fault),
            Some(Why::Silent(Stage::Tls)) => {
                "Check that the port is right and that nothing on the way swallows large packets (path MTU) or inspects TLS."
            }
            Some(Why::Tcp(io::ErrorKind::ConnectionRefused, _)) => "Check that the server runs and listens on this port.",
            _ => "Check the camera's network and that no firewall stops this address and port.",
        }
    }
}

/// What to do about a failed handshake.
pub fn tls_advice(fault: &TlsFault) -> &'static str {
    match fault {
        TlsFault::Expired { .. } => "Renew the server's certificate; if it is valid today, check the camera's trusted time.",
        TlsFault::NotYetValid { .. } => "Correct the server's certificate, or the clock of its issuer.",
        TlsFault::OtherNames { .. } => "Configure a name that the server's certificate carries, or issue one for this name.",
        TlsFault::Revoked => "Replace the server's certificate.",
        TlsFault::UnknownAuthority | TlsFault::OtherAuthority => {
            "Add the authority that signed the server's certificate to ca, or let the server send its intermediates."
        }
        TlsFault::NoClientAuth => "Let the server require client certificates (mutual TLS).",
        TlsFault::DeviceRefused(_) => "Register this device's certificate with the server, or install one that it accepts.",
        TlsFault::NotTls => "Check the port: what listens there does not speak TLS.",
        TlsFault::OldTls => "Let the server offer TLS 1.2 or 1.3.",
        _ => "Check the server's TLS settings, and its broker.alpn where it wants one.",
    }
}

/// `host:port`, and the address where that is not the host itself.
pub(crate) fn peer_name(endpoint: &Endpoint, address: SocketAddr) -> String {
    match endpoint.host.parse::<IpAddr>() {
        Ok(_) => endpoint.authority(),
        Err(_) => format!("{} ({})", endpoint.authority(), address.ip()),
    }
}

enum Failure {
    Stale(Stale),
    Why(Why),
}

impl From<Stale> for Failure {
    fn from(stale: Stale) -> Self {
        Self::Stale(stale)
    }
}

type Run<'a, G> = Pin<Box<dyn Future<Output = Result<(Secured, G), Failure>> + Send + 'a>>;

/// One address while it is tried.
struct Attempt<'a, G> {
    address: SocketAddr,
    run: Run<'a, G>,
    /// Whether TCP is established.
    answered: Arc<AtomicBool>,
}

impl<G> Attempt<'_, G> {
    fn stage(&self) -> Stage {
        if self.answered.load(Ordering::Relaxed) { Stage::Tls } else { Stage::Tcp }
    }
}

/// Connects to the first of `addresses` that answers, TLS included where the endpoint asks for it.
///
/// # Errors
/// [`Fault::Unreachable`] with all of them, once every address has failed or `deadline` has passed.
pub(super) async fn race<D: Dialer>(
    dialer: &D,
    origin: &Origin,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<Connection<D::Guard>, Fault> {
    let mut waiting = in_turn(addresses);
    let mut running: Vec<Attempt<'_, D::Guard>> = Vec::new();
    let mut tried = Vec::new();
    let mut next_at = Instant::now();
    let mut handshake_waited_for = true;
    loop {
        if (running.is_empty() || next_at <= Instant::now())
            && let Some(address) = waiting.pop_front()
        {
            running.push(begin(dialer, origin, address));
            next_at = Instant::now() + NEXT_AFTER;
            handshake_waited_for = false;
        }
        if running.is_empty() {
            return Err(unreachable(origin, tried));
        }
        select! {
            biased;
            (address, ended) = first_done(&mut running) => match ended {
                Ok(((stream, valid_until), guard)) => {
                    // The losers are closed before the winner is used.
                    running.clear();
                    dialer.check()?;
                    return Ok(Connection { stream, guard, host: peer_name(&origin.endpoint, address), peer: address, valid_until });
                }
                Err(Failure::Stale(stale)) => return Err(stale.into()),
                Err(Failure::Why(why)) => {
                    tried.push(Tried { address, why });
                    next_at = Instant::now();
                }
            },
            () = sleep_until(deadline) => {
                dialer.check()?;
                let silent = |attempt: Attempt<'_, D::Guard>| Tried { address: attempt.address, why: Why::Silent(attempt.stage()) };
                tried.extend(running.drain(..).map(silent));
                return Err(unreachable(origin, tried));
            }
            () = sleep_until(next_at), if !waiting.is_empty() => {
                let shakes_hands = running.last().is_some_and(|newest| newest.stage() == Stage::Tls);
                if shakes_hands && !handshake_waited_for {
                    handshake_waited_for = true;
                    next_at = Instant::now() + HANDSHAKE;
                }
            }
        }
    }
}

fn unreachable(origin: &Origin, tried: Vec<Tried>) -> Fault {
    if tried.is_empty() {
        let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Fault::Dns { host: origin.endpoint.host.clone(), source };
    }
    Fault::Unreachable(Unreachable { server: origin.endpoint.authority(), tried })
}

/// Each address once; the families alternate, beginning with the one that the resolver prefers.
fn in_turn(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let mut seen = BTreeSet::new();
    let once = addresses.iter().copied().filter(|address| seen.insert(*address));
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (VecDeque<_>, VecDeque<_>) = once.partition(|address| address.is_ipv6() == first_is_ipv6);
    let mut order = VecDeque::new();
    while !preferred.is_empty() || !other.is_empty() {
        order.extend(preferred.pop_front());
        order.extend(other.pop_front());
    }
    order
}

fn begin<'a, D: Dialer>(dialer: &'a D, origin: &'a Origin, address: SocketAddr) -> Attempt<'a, D::Guard> {
    let answered = Arc::new(AtomicBool::new(false));
    let tell = answered.clone();
    let run = async move {
        dialer.check()?;
        let (stream, guard) = tcp(dialer, address).await?;
        tell.store(true, Ordering::Relaxed);
        dialer.check()?;
        let stream = tls(origin, stream).await.map_err(|fault| Failure::Why(Why::Tls(fault)))?;
        dialer.check()?;
        Ok((stream, guard))
    };
    Attempt { address, run: Box::pin(run), answered }
}

async fn tcp<D: Dialer>(dialer: &D, address: SocketAddr) -> Result<(TcpStream, D::Guard), Failure> {
    let attempt = async {
        let (stream, guard) = dialer.dial(address)?;
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        // A socket that was cut while connecting has no error left to show, and no peer.
        stream.peer_addr()?;
        Ok((stream, guard))
    };
    attempt.await.map_err(|error| match dialer.check() {
        Err(stale) => Failure::Stale(stale),
        Ok(()) => Failure::Why(Why::tcp(&error)),
    })
}

/// The first attempt to end, taken out of `running`.
async fn first_done<G>(running: &mut Vec<Attempt<'_, G>>) -> (SocketAddr, Result<(Secured, G), Failure>) {
    poll_fn(|context| {
        for (i, attempt) in running.iter_mut().enumerate() {
            if let Poll::Ready(ended) = attempt.run.as_mut().poll(context) {
                let address = attempt.address;
                drop(running.remove(i));
                return Poll::Ready((address, ended));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
