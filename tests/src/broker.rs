//! A real broker on a port of its own with mutual TLS: Mosquitto, or another [`Kind`]. A test may stop it and start
//! it again, with its data or without.

mod kind;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::net::TcpStream;

pub use self::kind::Kind;

use crate::{
    pki::{Identity, Pki},
    process::{Lines, Process},
    wait::until,
};

/// The CN of the client certificate under which a test publishes. The brokers' configurations grant it the cloud's
/// rights.
pub const ISSUER_CN: &str = "care-cloud";

/// How long a broker may take to start listening on a loaded machine. RabbitMQ takes many seconds.
const LISTENS_WITHIN: Duration = Duration::from_secs(120);
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// A running broker; killed on drop.
pub struct Broker {
    dir: TempDir,
    /// Address of the cameras' listener.
    pub addr: SocketAddr,
    /// Address of the cloud's listener. It differs from the cameras' for a Mosquitto configured from `deploy/`.
    pub issuer_addr: SocketAddr,
    // Bound but not listening: reserves the ports while the broker is down.
    _ports: [Socket; 2],
    kind: Kind,
    // The broker itself is the last entry.
    processes: Vec<Process>,
    extra: String,
    log: Lines,
}

impl Broker {
    /// Starts a Mosquitto with a fresh server certificate.
    pub async fn start(pki: &Pki) -> Self {
        Self::start_with(pki, &pki.ca.server(), "").await
    }

    /// Starts a Mosquitto with this certificate and additional lines of configuration.
    pub async fn start_with(pki: &Pki, server: &Identity, extra: &str) -> Self {
        Self::start_kind(Kind::Mosquitto, pki, server, extra).await
    }

    /// Starts a broker of this kind.
    pub async fn start_kind(kind: Kind, pki: &Pki, server: &Identity, extra: &str) -> Self {
        Self::listening(kind, Ipv4Addr::LOCALHOST, pki, server, extra).await
    }

    /// Starts a Mosquitto whose cameras connect to another address of this machine or of the test's network.
    pub async fn start_at(address: Ipv4Addr, pki: &Pki, server: &Identity, extra: &str) -> Self {
        Self::listening(Kind::Mosquitto, address, pki, server, extra).await
    }

    async fn listening(kind: Kind, address: Ipv4Addr, pki: &Pki, server: &Identity, extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), pki.ca.pem()).unwrap();
        std::fs::write(dir.path().join("cloud-ca.pem"), pki.cloud_ca.pem()).unwrap();
        server.write(dir.path(), "server");
        let ((port, addr), (own_port, own_addr)) = (reserve_port_at(address), reserve_port());
        let issuer_addr = if kind == Kind::Mosquitto { own_addr } else { addr };
        let (processes, log) = (Vec::new(), Lines::default());
        let mut broker = Self { dir, addr, issuer_addr, _ports: [port, own_port], kind, processes, extra: extra.to_owned(), log };
        broker.resume().await;
        broker
    }

    /// Stops the broker cleanly; sessions and retained messages are saved to disk.
    pub async fn stop(&mut self) {
        if let Some(mut broker) = self.processes.pop() {
            broker.terminate();
            broker.exited(STOPS_WITHIN).await;
        }
        self.processes.clear();
    }

    /// Kills the broker.
    pub async fn kill(&mut self) {
        if let Some(mut broker) = self.processes.pop() {
            broker.signal(libc::SIGKILL);
            broker.exited(STOPS_WITHIN).await;
        }
        self.processes.clear();
    }

    /// Starts the broker again with its data on disk.
    pub async fn resume(&mut self) {
        assert!(self.processes.is_empty(), "the broker is running");
        let commands = self.kind.commands(self.dir.path(), self.addr, self.issuer_addr.port(), &self.extra);
        let seen = self.log.len();
        let name = format!("{:?}", self.kind);
        self.processes = commands.into_iter().map(|command| Process::spawn(&name, command, self.log.clone())).collect();
        if self.kind == Kind::Mosquitto {
            let log = self.log.clone();
            until("mosquitto to listen", LISTENS_WITHIN, || log.since(seen).iter().any(|l| l.contains(" running")).then_some(())).await;
            return;
        }
        let started = std::time::Instant::now();
        while TcpStream::connect(self.addr).await.is_err() {
            assert!(started.elapsed() < LISTENS_WITHIN, "{name} does not listen");
            let ended = self.processes.last_mut().and_then(Process::ended);
            assert!(ended.is_none(), "{name} ended with {ended:?}: {:#?}", self.log.since(seen));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Restarts the broker and keeps its sessions.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.resume().await;
    }

    /// Restarts the broker without its data: no sessions, no retained messages.
    pub async fn restart_empty(&mut self) {
        self.stop().await;
        self.kind.delete_data(self.dir.path());
        self.resume().await;
    }

    /// The broker's log so far.
    pub fn log(&self) -> &Lines {
        &self.log
    }

    /// Which broker this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of PUBLISH packets sent to this client. Mosquitto only, like the methods below.
    pub fn sent_to(&self, client: &str) -> usize {
        self.log.count(&format!("Sending PUBLISH to {client} "))
    }

    /// Number of PUBACK packets received from this client.
    pub fn acknowledged_by(&self, client: &str) -> usize {
        self.log.count(&format!("Received PUBACK from {client} "))
    }

    /// Whether, from line `from` of the log on, this client acknowledged a PUBLISH on a topic that `on` accepts.
    pub fn has_puback_of(&self, client: &str, from: usize, on: impl Fn(&str) -> bool) -> bool {
        let mut open = Vec::new();
        for line in self.log.since(from) {
            if let Some((_, rest)) = line.split_once(&format!("Sending PUBLISH to {client} (")) {
                let parts: Vec<&str> = rest.split(", ").collect();
                if let [_, _, _, mid, topic, ..] = parts[..] {
                    open.retain(|known| known != &mid[1..]);
                    if on(topic.trim_matches('\'')) {
                        open.push(mid[1..].to_owned());
                    }
                }
            } else if let Some((_, rest)) = line.split_once(&format!("Received PUBACK from {client} (Mid: ")) {
                let mid = rest.split(',').next().unwrap_or_default();
                if open.iter().any(|known| known == mid) {
                    return true;
                }
            }
        }
        false
    }

    /// Number of connections that this client has made.
    pub fn connects_of(&self, client: &str) -> usize {
        self.log.count(&format!(" as {client} ("))
    }
}

/// A reserved loopback port. Its socket is bound with SO_REUSEADDR and does not listen, so that only a server that
/// also sets SO_REUSEADDR can take the port.
pub fn reserve_port() -> (Socket, SocketAddr) {
    reserve_port_at(Ipv4Addr::LOCALHOST)
}

fn reserve_port_at(address: Ipv4Addr) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.set_reuse_address(true).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}
