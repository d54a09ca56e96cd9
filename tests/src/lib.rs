//! Black-box tests of the built programs: the agent and care-cloud as child processes, against a real Mosquitto, on
//! loopback.
//!
//! This library is the harness; `scenarios/` has the numbered scenarios. Each test has a [`world::World`] of its own
//! (PKI, broker, cloud, camera), so all may run at once, and waits for conditions with a deadline.

pub mod agent;
pub mod bare_camera;
pub mod broker;
pub mod build;
pub mod capture;
pub mod card_slot;
pub mod care_cloud;
pub mod cloud;
pub mod filmed_events;
pub mod filming;
pub mod footprint;
pub mod gstreamer_plugins;
pub mod guest;
pub mod home;
pub mod impostor;
pub mod isolated_network;
pub mod issuer;
pub mod media;
pub mod metrics;
pub mod narrow_path;
pub mod old_kernel;
pub mod packet_proxy;
pub mod pki;
pub mod process;
pub mod proxy;
mod relay;
pub mod resolver;
pub mod scripted_broker;
pub mod shaped_link;
pub mod snapshot_service;
pub mod status;
pub mod steps;
pub mod strace;
pub mod systemd_camera;
pub mod wait;
pub mod world;
pub mod write_log;

use std::time::{SystemTime, UNIX_EPOCH};

/// This machine's time in Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("this machine's clock is past 1970").as_secs()
}

/// An HTTP date (RFC 9110 section 5.6.7).
pub fn http_date(unix: i64) -> String {
    jiff::Timestamp::from_second(unix).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
