//! Black-box tests of the built programs: the agent and care-cloud as children, against a real Mosquitto, on loopback.
//!
//! Here is the harness; the scenarios, one test each by number, are in `scenarios/`. Each test has a [`world::World`] of
//! its own (PKI, broker, cloud, camera), so that all may run at once, and waits for conditions with a deadline.

pub mod agent;
pub mod broker;
pub mod card_slot;
pub mod cloud;
pub mod footprint;
pub mod gstreamer_plugins;
pub mod guest;
pub mod impostor;
pub mod issuer;
pub mod media;
pub mod narrow_path;
pub mod own_network;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod real_unit;
pub mod resolver;
pub mod scripted;
pub mod stand_in;
pub mod status;
pub mod strace;
pub mod tap;
pub mod wait;
pub mod world;
pub mod write_log;

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix seconds of this machine.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("this machine's clock is past 1970").as_secs()
}

/// An HTTP date (RFC 9110 section 5.6.7).
pub fn http_date(unix: i64) -> String {
    jiff::Timestamp::from_second(unix).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
