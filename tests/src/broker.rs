//! A real Mosquitto on a port of its own: mutual TLS, the ACL of section 3.4, a log that tells which PUBACK came.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::{
    pki::{Identity, Pki},
    process::{Lines, Process},
    wait::until,
};

/// The client certificate's CN under which a test publishes.
pub const ISSUER_CN: &str = "issuer";

/// One Mosquitto; killed when dropped.
pub struct Broker {
    dir: TempDir,
    /// Where it listens.
    pub addr: SocketAddr,
    // Bound but not listening: keeps the port ours while the broker is down.
    _port: Socket,
    process: Option<Process>,
    extra: String,
    log: Lines,
}

impl Broker {
    /// Starts one with a fresh server certificate.
    pub async fn start(pki: &Pki) -> Self {
        Self::start_with(pki, &pki.ca.server(), "").await
    }

    /// Starts one with this certificate and further lines of configuration.
    pub async fn start_with(pki: &Pki, server: &Identity, extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), pki.ca.pem()).unwrap();
        server.write(dir.path(), "server");
        std::fs::write(dir.path().join("acl"), acl()).unwrap();
        let (port, addr) = reserve_port();
        let mut broker = Self { dir, addr, _port: port, process: None, extra: extra.to_owned(), log: Lines::default() };
        broker.resume().await;
        broker
    }

    /// Stops it cleanly: sessions and retained messages are written to disk.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate();
            process.exited(Duration::from_secs(10)).await;
        }
    }

    /// Starts it again with what it had on disk.
    pub async fn resume(&mut self) {
        assert!(self.process.is_none(), "the broker is running");
        let config = self.dir.path().join("mosquitto.conf");
        std::fs::write(&config, self.configuration()).unwrap();
        let seen = self.log.len();
        let mut command = tokio::process::Command::new(mosquitto());
        command.arg("-c").arg(&config).arg("-v");
        self.process = Some(Process::spawn("mosquitto", command, self.log.clone()));
        let log = self.log.clone();
        until("mosquitto to listen", Duration::from_secs(10), || log.since(seen).iter().any(|l| l.contains(" running")).then_some(()))
            .await;
    }

    /// Stops it and starts it again, sessions kept.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.resume().await;
    }

    /// Stops it and starts it again without anything it knew: no session, nothing retained.
    pub async fn restart_empty(&mut self) {
        self.stop().await;
        let _ = std::fs::remove_file(self.dir.path().join("mosquitto.db"));
        self.resume().await;
    }

    /// Its log so far.
    pub fn log(&self) -> &Lines {
        &self.log
    }

    /// How many PUBLISHes it has sent to this client.
    pub fn sent_to(&self, client: &str) -> usize {
        self.log.count(&format!("Sending PUBLISH to {client} "))
    }

    /// How many PUBACKs it has had from this client.
    pub fn acknowledged_by(&self, client: &str) -> usize {
        self.log.count(&format!("Received PUBACK from {client} "))
    }

    /// How often this client has connected.
    pub fn connects_of(&self, client: &str) -> usize {
        self.log.count(&format!(" as {client} ("))
    }

    fn configuration(&self) -> String {
        let dir = self.dir.path().display();
        format!(
            "listener {} 127.0.0.1\n\
             cafile {dir}/ca.pem\ncertfile {dir}/server.pem\nkeyfile {dir}/server.key\n\
             require_certificate true\nuse_identity_as_username true\nacl_file {dir}/acl\nallow_anonymous false\n\
             persistence true\npersistence_location {dir}/\nautosave_interval 0\nset_tcp_nodelay true\nmax_queued_messages 0\nuser root\n\
             log_type all\nlog_dest stderr\n{}\n",
            self.addr.port(),
            self.extra
        )
    }
}

/// A device writes and reads only its own topics, and reads the keyset (section 3.4).
fn acl() -> String {
    format!(
        "pattern read care/v1/%u/entitlement\npattern read care/v1/%u/entitlement/answer\npattern read care/v1/keyset\n\
         pattern write care/v1/%u/get\npattern write care/v1/%u/report\npattern write care/v1/%u/status\n\n\
         user {ISSUER_CN}\ntopic readwrite #\n"
    )
}

/// A free loopback port that stays ours: bound with SO_REUSEADDR and not listening, so that only a server that also reuses may take it.
pub fn reserve_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.set_reuse_address(true).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

fn mosquitto() -> PathBuf {
    let known = Path::new("/usr/sbin/mosquitto");
    if known.exists() { known.into() } else { "mosquitto".into() }
}
