//! Two network namespaces joined by a shaped pair of interfaces, or by a long way, removed when dropped: a camera behind an
//! uplink of its own. Needs root, `ip` and `tc`.

use std::{
    net::Ipv4Addr,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    isolated_network::{join, run},
    relay::Relay,
};

/// The camera's namespace, the cloud's, and the uplink between.
pub struct Link {
    near: String,
    far: String,
    /// Joins them, if it takes its time.
    _relay: Option<Relay>,
}

/// The cloud's address on every link, which the tests' server certificates include; each link is alone in its namespaces.
pub const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The camera's.
pub const CAMERA: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// The cloud's end of the link.
pub const FAR_END: &str = "uplink1";
const NEAR_END: &str = "uplink0";

impl Link {
    /// Creates a link on which the camera sends at most `kbps`.
    pub fn shaped(kbps: u32) -> Self {
        let link = Self::unjoined();
        run(&format!("ip -n {} link add {NEAR_END} type veth peer name {FAR_END} netns {}", link.near, link.far));
        link.set_up(kbps);
        link
    }

    /// The same, and what the cloud sends takes `delay` to the camera.
    pub fn long(kbps: u32, delay: Duration) -> Self {
        let mut link = Self::unjoined();
        link._relay = Some(Relay::between([&link.near, NEAR_END], [&link.far, FAR_END], delay));
        link.set_up(kbps);
        link
    }

    fn unjoined() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("care-wire-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let link = Self { near: format!("{name}-near"), far: format!("{name}-far"), _relay: None };
        for namespace in [&link.near, &link.far] {
            run(&format!("ip netns add {namespace}"));
        }
        link
    }

    fn set_up(&self, kbps: u32) {
        let Self { near, far, .. } = self;
        for command in [
            format!("ip -n {near} address add {CAMERA}/24 dev {NEAR_END}"),
            format!("ip -n {far} address add {CLOUD}/24 dev {FAR_END}"),
            format!("ip -n {near} link set lo up"),
            format!("ip -n {far} link set lo up"),
            format!("ip -n {near} link set {NEAR_END} up"),
            format!("ip -n {far} link set {FAR_END} up"),
        ] {
            run(&command);
        }
        self.shape("add", kbps);
    }

    /// From now on the camera sends at most `kbps`.
    pub fn change(&self, kbps: u32) {
        self.shape("change", kbps);
    }

    /// A queue of 300 ms, as in routers, with almost no burst, so that the rate is steady.
    fn shape(&self, verb: &str, kbps: u32) {
        run(&format!("tc -n {} qdisc {verb} dev {NEAR_END} root tbf rate {kbps}kbit burst 3028 latency 300ms", self.near));
    }

    /// The camera's namespace.
    pub fn near(&self) -> &str {
        &self.near
    }

    /// Moves the calling thread and everything it starts afterwards into the cloud's namespace.
    pub fn enter_far(&self) {
        join(&self.far);
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
