//! Three NATS nodes on the files of `deploy/nats`: the broker that may lose a part of itself in the middle of a change.

#[path = "nats_server.rs"]
pub mod nats_server;

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_cloud::{child::die_with_parent, transport::held_port::HeldPort};
use care_protocol::DeviceId;

/// One more than half of them must live.
const NODES: usize = 3;
/// How long they may take to elect a leader.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The running nodes; dropping it kills them.
pub struct Cluster {
    nodes: Vec<Node>,
}

struct Node {
    child: Child,
    /// For cameras and the cloud, and for the other nodes.
    ports: [HeldPort; 2],
}

impl Cluster {
    /// Starts the nodes below `home` with the certificates in `pki`, each with a user for the cloud and for each camera.
    /// Returns once they have elected a leader.
    pub async fn start(home: &Path, pki: &Path, cameras: impl Iterator<Item = DeviceId>) -> anyhow::Result<Self> {
        let cameras: Vec<DeviceId> = cameras.collect();
        let held = (0..NODES).map(|_| HeldPort::on_loopback()).collect::<Result<Vec<_>, _>>().context("looking for a port")?;
        let routes: Vec<SocketAddr> = held.iter().map(HeldPort::address).collect();
        let mut cluster = Self { nodes: Vec::new() };
        for route in held {
            let (port, name) = (HeldPort::on_loopback()?, format!("care-{}", cluster.nodes.len() + 1));
            let home = home.join(&name);
            std::fs::create_dir_all(&home)?;
            let server = nats_server::prepare(&home, pki, port.address(), cameras.iter().map(DeviceId::as_str))?;
            std::fs::write(home.join("nats.conf"), in_cluster(&server, &name, route.address(), &routes)?)?;
            let log = std::fs::File::create(home.join("log"))?;
            let known = Path::new("/usr/sbin/nats-server");
            let mut command = Command::new(if known.exists() { known } else { Path::new("nats-server") });
            command.arg("-c").arg(home.join("nats.conf")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child = die_with_parent(&mut command).spawn().context("starting nats-server (scripts/deps.sh bench-fleet installs it)")?;
            cluster.nodes.push(Node { child, ports: [port, route] });
        }
        let began = Instant::now();
        while !cluster.leads(home) {
            let log = || std::fs::read_to_string(home.join("care-1/log")).unwrap_or_default();
            ensure!(began.elapsed() < READY_WITHIN, "the cluster elects no leader; its first node said:\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(cluster)
    }

    /// Whether every node listens and one says who leads.
    fn leads(&self, home: &Path) -> bool {
        let says = |number: usize| {
            std::fs::read_to_string(home.join(format!("care-{number}/log"))).is_ok_and(|log| log.contains("new metadata leader"))
        };
        self.nodes.iter().all(|node| TcpStream::connect(node.address()).is_ok()) && (1..=NODES).any(says)
    }

    /// Where each node that runs listens, as `--broker` wants it.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("mqtts://{}", node.address())).collect()
    }

    /// The process ids of the nodes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// Kills the last node, as a power cut would.
    pub fn lose_node(&mut self) -> anyhow::Result<()> {
        self.nodes.pop().context("no node is left")?.end().context("killing a node")
    }
}

impl Node {
    fn address(&self) -> SocketAddr {
        self.ports[0].address()
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Err(e) = node.end() {
                eprintln!("stopping a node: {e}");
            }
        }
    }
}

/// A server's configuration with a name of its own, and its line about a cluster in force.
fn in_cluster(server: &str, name: &str, route: SocketAddr, routes: &[SocketAddr]) -> anyhow::Result<String> {
    let all: Vec<String> = routes.iter().map(|route| format!("\"nats://{route}\"")).collect();
    let cluster = format!("cluster {{ name: care, listen: \"{route}\", routes: [{}] }}", all.join(", "));
    let deployed = server.lines().find(|line| line.starts_with("# cluster {")).context("nats.conf has no line about a cluster")?;
    Ok(server.replace(deployed, &cluster).replace("server_name: care-1", &format!("server_name: {name}")))
}
