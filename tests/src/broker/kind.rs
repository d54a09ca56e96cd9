//! The brokers that a camera may meet: how to configure each for mutual TLS on one loopback port, start it, and
//! delete its data. Mosquitto and RabbitMQ run on the files of `deploy/`; only Mosquitto's log shows each PUBACK.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use crate::wait::free_port;

/// The supported brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Eclipse Mosquitto 2 from Debian.
    Mosquitto,
    /// NATS with JetStream, Debian's `nats-server`.
    Nats,
    /// RabbitMQ with its MQTT plugin, from Debian.
    RabbitMq,
    /// aedes on Node.js.
    Aedes,
    /// rumqttd, from the authors of the agent's MQTT client.
    Rumqttd,
}

impl Kind {
    /// All brokers.
    pub const ALL: [Self; 5] = [Self::Mosquitto, Self::Nats, Self::RabbitMq, Self::Aedes, Self::Rumqttd];

    /// Writes the configuration into `dir`, which already holds `server.pem`, `server.key` and `ca.pem`. Returns the
    /// commands to run, the broker last. Only Mosquitto listens elsewhere than on loopback.
    pub(super) fn commands(self, dir: &Path, addr: SocketAddr, issuer_port: u16, extra: &str) -> Vec<Command> {
        let port = addr.port();
        match self {
            Self::Mosquitto => vec![mosquitto(dir, addr, issuer_port, extra)],
            Self::Nats => vec![nats(dir, port, extra)],
            Self::RabbitMq => rabbitmq(dir, port),
            Self::Aedes => vec![aedes(dir, port)],
            Self::Rumqttd => vec![rumqttd(dir, port)],
        }
    }

    /// Deletes the broker's data on disk.
    pub(super) fn delete_data(self, dir: &Path) {
        match self {
            Self::Mosquitto => drop(std::fs::remove_file(dir.join("mosquitto.db"))),
            Self::Nats => drop(std::fs::remove_dir_all(dir.join("jetstream"))),
            Self::RabbitMq => drop(std::fs::remove_dir_all(dir.join("mnesia"))),
            // These brokers keep everything in memory.
            Self::Aedes | Self::Rumqttd => {}
        }
    }

    /// Whether sessions and retained messages survive a restart of the broker.
    pub fn keeps_data(self) -> bool {
        matches!(self, Self::Mosquitto | Self::Nats | Self::RabbitMq)
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Uses the files in `deploy/` that operators copy. `extra` overrides their settings for the cameras' listener,
/// because some tests send more than a broker should accept.
fn mosquitto(dir: &Path, addr: SocketAddr, issuer_port: u16, extra: &str) -> Command {
    write(&dir.join("cameras.acl"), include_str!("../../../deploy/mosquitto/cameras.acl"));
    write(&dir.join("cloud.acl"), include_str!("../../../deploy/mosquitto/cloud.acl"));
    let config = dir.join("mosquitto.conf");
    let at = dir.display().to_string();
    let deployed = include_str!("../../../deploy/mosquitto/mosquitto.conf")
        .replace("/etc/mosquitto/care", &at)
        .replace("/var/lib/mosquitto", &at)
        .replace("listener 8883\n", &format!("listener {} {}\n{extra}\n", addr.port(), addr.ip()))
        .replace("listener 8884 ", &format!("listener {issuer_port} "))
        .replace("autosave_interval 10", "autosave_interval 0")
        .replace("message_size_limit 262144", "message_size_limit 0")
        .replace("log_type notice", "log_type all");
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let replaced = |line: &&str| !extra.contains(line) && extra.lines().any(|extra| name(extra) == name(line));
    let kept: Vec<_> = deployed.lines().filter(|line| line.is_empty() || !replaced(line)).collect();
    write(&config, &format!("user root\nmax_queued_messages 0\n{}\n", kept.join("\n")));
    let known = Path::new("/usr/sbin/mosquitto");
    let mut command = Command::new(if known.exists() { known } else { Path::new("mosquitto") });
    command.arg("-c").arg(&config).arg("-v");
    command
}

fn nats(dir: &Path, port: u16, extra: &str) -> Command {
    let config = dir.join("nats.conf");
    let at = dir.display();
    write(
        &config,
        &format!(
            "host: 127.0.0.1\nport: -1\nserver_name: care-{port}\njetstream {{ store_dir: \"{at}/jetstream\" }}\n\
             mqtt {{\n  host: 127.0.0.1\n  port: {port}\n  max_ack_pending: 1000\n\
             tls {{ cert_file: \"{at}/server.pem\", key_file: \"{at}/server.key\", ca_file: \"{at}/ca.pem\", verify: true }}\n}}\n{extra}\n"
        ),
    );
    let mut command = Command::new("nats-server");
    command.arg("-c").arg(&config);
    command
}

/// Uses the files of `deploy/rabbitmq`. Runs its own node and its own `epmd`, separate from any on this machine.
fn rabbitmq(dir: &Path, port: u16) -> Vec<Command> {
    let deployed = include_str!("../../../deploy/rabbitmq/rabbitmq.conf")
        .replace("/etc/rabbitmq/care", &dir.display().to_string())
        .replace("0.0.0.0:8883", &format!("127.0.0.1:{port}"));
    write(&dir.join("rabbitmq.conf"), &deployed);
    write(&dir.join("enabled_plugins"), include_str!("../../../deploy/rabbitmq/enabled_plugins"));
    let epmd_port = free_port().to_string();
    let mut epmd = Command::new("epmd");
    epmd.args(["-port", &epmd_port, "-address", "127.0.0.1"]);
    let mut server = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    server
        // The data directory is named after the node, so the node name must be the same after a restart.
        .env("RABBITMQ_NODENAME", format!("care{port}@localhost"))
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("ERL_EPMD_PORT", &epmd_port)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_PID_FILE", dir.join("pid"))
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none")
        // Runs erl without the wrapping shell, which would outlive a killed test.
        .env("RUNNING_UNDER_SYSTEMD", "true")
        .env("HOME", dir);
    vec![epmd, server]
}

/// Where `scripts/brokers.sh` installs the brokers that Debian does not package.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("kasa-care-agent/brokers")
}

fn aedes(dir: &Path, port: u16) -> Command {
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/brokers/aedes/broker.js")).arg(port.to_string()).arg(dir);
    command.env("NODE_PATH", cache().join("aedes/node_modules"));
    command
}

fn rumqttd(dir: &Path, port: u16) -> Command {
    let config = dir.join("rumqttd.toml");
    let at = dir.display();
    write(
        &config,
        &format!(
            "id = 0\n[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200\nmax_segment_size = 104857600\n\
             max_segment_count = 10\n[v4.1]\nname = \"care\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 1\n\
             [v4.1.tls]\ncapath = \"{at}/ca.pem\"\ncertpath = \"{at}/server.pem\"\nkeypath = \"{at}/server.key\"\n\
             [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 4194304\nmax_inflight_count = 100\n\
             dynamic_filters = true\n"
        ),
    );
    let mut command = Command::new(cache().join("rumqttd/care-rumqttd"));
    command.arg(&config);
    command
}
