//! A camera behind a router with a smaller MTU that sends no ICMP: three network namespaces, removed on drop.
//! Needs root and iproute2.
//!
//! ```text
//! camera ──1500── router ──1400── cloud
//! ```
//!
//! The cloud announces the MSS of an Ethernet, as servers do; its own packets are small enough.

use std::{
    net::Ipv4Addr,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::isolated_network::{join, run};

/// The cloud's address, which the tests' server certificates include.
pub const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const CAMERA: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 1);

/// The three network namespaces.
pub struct NarrowPath {
    camera: String,
    router: String,
    cloud: String,
}

impl NarrowPath {
    /// A path with this MTU. If it is below the camera's own, larger packets are dropped silently.
    pub fn of(mtu: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("care-path-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Self { camera: format!("{name}-camera"), router: format!("{name}-router"), cloud: format!("{name}-cloud") };
        let (camera, router, cloud) = (&path.camera, &path.router, &path.cloud);
        for command in [
            format!("ip netns add {camera}"),
            format!("ip netns add {router}"),
            format!("ip netns add {cloud}"),
            format!("ip -n {camera} link add up0 type veth peer name down0 netns {router}"),
            format!("ip -n {router} link add up1 type veth peer name down1 netns {cloud}"),
            format!("ip -n {camera} address add {CAMERA}/24 dev up0"),
            format!("ip -n {router} address add 10.0.3.2/24 dev down0"),
            format!("ip -n {router} address add 10.0.2.1/24 dev up1"),
            format!("ip -n {cloud} address add {CLOUD}/24 dev down1"),
            format!("ip -n {router} link set up1 mtu {mtu}"),
            format!("ip -n {cloud} link set down1 mtu {mtu}"),
            format!("ip -n {camera} link set up0 up"),
            format!("ip -n {router} link set down0 up"),
            format!("ip -n {router} link set up1 up"),
            format!("ip -n {cloud} link set down1 up"),
            format!("ip -n {camera} link set lo up"),
            format!("ip -n {cloud} link set lo up"),
            format!("ip -n {camera} route add default via 10.0.3.2"),
            format!("ip -n {cloud} route add 10.0.3.0/24 via 10.0.2.1 advmss 1460"),
            format!("ip netns exec {router} sysctl -q -w net.ipv4.ip_forward=1"),
            // Drops the router's own ICMP, so that the sender never learns of the drop.
            format!("ip -n {router} rule add iif lo lookup 100"),
            format!("ip -n {router} route add blackhole default table 100"),
        ] {
            run(&command);
        }
        path
    }

    /// From now on the cloud's own packets may be larger than this MTU, too, and are dropped silently.
    pub fn narrow_down(&self, mtu: u32) {
        run(&format!("ip -n {} link set down0 mtu {mtu}", self.router));
        run(&format!("ip -n {} link set down1 mtu 1500", self.cloud));
    }

    /// The command to run a program under in the camera's namespace.
    pub fn camera(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.camera].map(str::to_owned).to_vec()
    }

    /// Moves the calling thread and everything it starts afterwards into the cloud's namespace.
    pub fn enter_cloud(&self) {
        join(&self.cloud);
    }
}

impl Drop for NarrowPath {
    fn drop(&mut self) {
        for name in [&self.camera, &self.router, &self.cloud] {
            // A namespace that was never created cannot be deleted, and need not be.
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}
