//! The files of `deploy/nats`, as a server on this machine runs them: what is measured and tested is what operators get.

use std::{net::SocketAddr, path::Path};

use anyhow::Context as _;

const CONFIG: &str = include_str!("../../deploy/nats/nats.conf");
const USERS: &str = include_str!("../../deploy/nats/users.conf");
/// The camera of the deployed users.
const EXAMPLE: &str = "8006E5A1F0C2";

/// Writes into `home` the users, with these cameras in place of the deployed one, and the authorities of cameras and cloud: a server
/// has its own file of them, which no other's preparation writes while it starts. Returns the deployed configuration with these
/// paths and those of `pki`, for cameras that connect to this address.
pub fn prepare<'a>(home: &Path, pki: &Path, address: SocketAddr, cameras: impl IntoIterator<Item = &'a str>) -> anyhow::Result<String> {
    let text = |file: &str| std::fs::read_to_string(pki.join(file)).with_context(|| format!("reading {file}"));
    let authorities = home.join("authorities.pem");
    std::fs::write(&authorities, text("ca.pem")? + &text("cloud-ca.pem")?)?;
    let begin = USERS.find(&format!("  {{ user: \"CN={EXAMPLE}\"")).context("users.conf has no camera")?;
    let end = USERS.rfind(']').context("users.conf has no end")?;
    let all: String = cameras.into_iter().map(|camera| USERS[begin..end].replace(EXAMPLE, camera)).collect();
    std::fs::write(home.join("users.conf"), format!("{}{all}{}", &USERS[..begin], &USERS[end..]))?;
    Ok(CONFIG
        .replace("/etc/nats/care/authorities.pem", &authorities.display().to_string())
        .replace("/etc/nats/care", &pki.display().to_string())
        .replace("/var/lib/nats", &home.display().to_string())
        .replace("0.0.0.0:8883", &address.to_string())
        .replace("127.0.0.1:4222", "127.0.0.1:-1"))
}
