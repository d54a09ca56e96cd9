//! Two network namespaces joined by a shaped pair of interfaces, removed when dropped.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use care_tests::isolated_network::run;

/// The camera's namespace, the cloud's, and the uplink between.
pub struct Link {
    near: String,
    far: String,
}

/// The cloud's address on every link; each link is alone in its namespaces.
pub const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 117, 0, 2);
/// The camera's.
pub const CAMERA: Ipv4Addr = Ipv4Addr::new(10, 117, 0, 1);
/// The cloud's end of the link.
pub const FAR_END: &str = "uplink1";

impl Link {
    /// Creates a link on which the camera sends at most `kbps`.
    pub fn shaped(kbps: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("care-wire-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let link = Self { near: format!("{name}-near"), far: format!("{name}-far") };
        let (near, far) = (&link.near, &link.far);
        for command in [
            format!("ip netns add {near}"),
            format!("ip netns add {far}"),
            format!("ip -n {near} link add uplink0 type veth peer name {FAR_END} netns {far}"),
            format!("ip -n {near} address add {CAMERA}/24 dev uplink0"),
            format!("ip -n {far} address add {CLOUD}/24 dev {FAR_END}"),
            format!("ip -n {near} link set uplink0 up"),
            format!("ip -n {far} link set {FAR_END} up"),
        ] {
            run(&command);
        }
        link.shape("add", kbps);
        link
    }

    /// From now on the camera sends at most `kbps`.
    pub fn change(&self, kbps: u32) {
        self.shape("change", kbps);
    }

    /// A queue of 300 ms, as in routers, with almost no burst, so that the rate is steady.
    fn shape(&self, verb: &str, kbps: u32) {
        run(&format!("tc -n {} qdisc {verb} dev uplink0 root tbf rate {kbps}kbit burst 3028 latency 300ms", self.near));
    }

    /// The camera's namespace.
    pub fn near(&self) -> &str {
        &self.near
    }

    /// Moves the calling thread into the cloud's namespace for the rest of its life.
    pub fn enter_far(&self) {
        let file = File::open(format!("/var/run/netns/{}", self.far)).unwrap();
        // SAFETY: the descriptor is open; setns changes only the network namespace of the calling thread.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            // A namespace that was never created cannot be deleted, and need not be.
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}
