//! How the paho agent is started: two benchmarks measure it.

use std::{path::Path, process::Command};

use care_tests::world::{DEVICE, World};

/// Where the rivals' scripts are.
pub(crate) const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/rivals");

/// The Python agent, which verifies nothing and stores nothing unless it is given more arguments.
pub(crate) fn paho(world: &World) -> Command {
    let config = &world.agent.config;
    // Debian's own Python, because Debian's paho belongs to it.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(Path::new(SCRIPTS).join("paho_agent.py")).args(["--device", DEVICE, "--prefix", "care/v1"]);
    command.args(["--broker", &world.broker.addr.to_string(), "--store", &world.cloud.addr.to_string()]);
    command.arg("--ca").arg(&config.ca).arg("--cert").arg(&config.cert).arg("--key").arg(&config.key);
    command
}
