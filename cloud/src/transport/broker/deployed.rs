//! The embedded broker's files: those of `deploy/mosquitto`, which operators copy, with this machine's paths, ports
//! and prefix instead. So the demo and the tests run the configuration that operators get.

use super::Listeners;
use crate::{
    storage::data_dir::{DataDir, DataError, write_private},
    transport::held_port::HeldPort,
};

const CONFIGURATION: &str = include_str!("../../../../deploy/mosquitto/mosquitto.conf");
const CAMERAS: &str = include_str!("../../../../deploy/mosquitto/cameras.acl");
const CLOUD: &str = include_str!("../../../../deploy/mosquitto/cloud.acl");

/// The places in the files to copy.
const FILES: &str = "/etc/mosquitto/care/";
const PERSISTENCE: &str = "/var/lib/mosquitto/";
const CAMERAS_LISTENER: &str = "listener 8883\n";
const CLOUD_LISTENER: &str = "listener 8884 127.0.0.1\n";
const PREFIX: &str = " care/v1/";

/// Writes the configuration and both ACLs below the data directory.
pub(super) fn write(data: &DataDir, listeners: &Listeners, prefix: &str) -> Result<(), DataError> {
    write_private(&data.path("broker/cameras.acl"), acl(CAMERAS, prefix).as_bytes())?;
    write_private(&data.path("broker/cloud.acl"), acl(CLOUD, prefix).as_bytes())?;
    write_private(&data.path("broker/mosquitto.conf"), configuration(data, listeners).as_bytes())
}

fn configuration(data: &DataDir, Listeners { cameras, cloud }: &Listeners) -> String {
    let dir = |below: &str| format!("{}/", data.path(below).display());
    let listener = |port: &HeldPort| format!("listener {} {}\n", port.address().port(), port.address().ip());
    let text = CONFIGURATION
        .replace(&format!("{FILES}cameras.acl"), &format!("{}cameras.acl", dir("broker")))
        .replace(&format!("{FILES}cloud.acl"), &format!("{}cloud.acl", dir("broker")))
        .replace(&format!("file {FILES}"), &format!("file {}", dir("pki")))
        .replace(PERSISTENCE, &dir("broker"))
        .replace(CAMERAS_LISTENER, &listener(cameras))
        .replace(CLOUD_LISTENER, &listener(cloud));
    // `user root` only counts when started by root: then Mosquitto stays able to read keys that only root may read.
    format!("# Written by care-cloud at every start, from deploy/mosquitto/mosquitto.conf.\nuser root\n{text}")
}

fn acl(text: &str, prefix: &str) -> String {
    text.replace(PREFIX, &format!(" {prefix}/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_operator_s_places_is_left_and_nothing_else_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let listeners = Listeners { cameras: HeldPort::on_loopback().unwrap(), cloud: HeldPort::on_loopback().unwrap() };
        write(&data, &listeners, "prefix/v9").unwrap();
        let read = |name: &str| std::fs::read_to_string(data.path(name)).unwrap();
        let settings = |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        let written = settings(&read("broker/mosquitto.conf"));
        for place in ["/etc/", "/var/lib", "8883", "8884"] {
            assert!(written.iter().all(|line| !line.contains(place)), "{place}: {written:#?}");
        }
        let key = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
        let copied: Vec<_> = settings(CONFIGURATION).iter().map(key).collect();
        assert_eq!(written.iter().map(key).skip(1).collect::<Vec<_>>(), copied);
        for path in written.iter().filter_map(|line| line.strip_prefix("acl_file ")) {
            let acl = std::fs::read_to_string(path).unwrap();
            assert!(acl.contains(" prefix/v9/") && !acl.contains("care/v1"), "{acl}");
        }
    }
}
