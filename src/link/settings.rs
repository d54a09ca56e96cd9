//! The settings of a link, with its timings.

use std::time::Duration;

use care_protocol::DeviceId;

use crate::{conditions::Conditions, config, tls};

/// The settings of a link. The timings follow `docs/protocol.md#mqtt`; tests shorten them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the broker is, and the topics' prefix.
    pub broker: config::Broker,
    /// TLS towards the broker ([`tls::device_client`]); `None` exactly when the endpoint is plaintext.
    pub tls: Option<tls::Client>,
    /// The device id, which is the client id.
    pub device: DeviceId,
    /// The conditions that faults raise.
    pub conditions: Conditions,
    /// Keep-alive, whole seconds, at least one: 30 s.
    pub keep_alive: Duration,
    /// How long DNS may take, and after it TCP, TLS and CONNACK together: 20 s. A single write may take as long.
    pub connect_timeout: Duration,
    /// How long the broker may take for SUBACK: 20 s.
    pub suback_timeout: Duration,
    /// The longest time without any event, not even our own ping: two keep-alives and 20 s.
    pub watchdog: Duration,
    /// The bound of the first delay between attempts: 1 s. It doubles.
    pub backoff_first: Duration,
    /// The bound of any delay: 120 s.
    pub backoff_most: Duration,
    /// A connection that lasts this long is stable: 30 s. Closed sooner, three times in a row, means a clone.
    pub stable_after: Duration,
    /// How long to stay disconnected after a clone was detected, at most: 120 s. At least half of it.
    pub clone_backoff: Duration,
    /// How long not to subscribe after two packets that were too large: ten minutes. Checked once a keep-alive.
    pub defer_subscribe: Duration,
    /// After this many failures in a row the link drops the publications in flight and rebuilds the MQTT client: 8.
    pub rebuild_after: u32,
}

impl Settings {
    /// The timings of `docs/protocol.md#mqtt`.
    pub fn new(broker: config::Broker, tls: Option<tls::Client>, device: DeviceId, conditions: Conditions) -> Self {
        let keep_alive = Duration::from_secs(30);
        Self {
            broker,
            tls,
            device,
            conditions,
            keep_alive,
            connect_timeout: Duration::from_secs(20),
            suback_timeout: Duration::from_secs(20),
            watchdog: 2 * keep_alive + Duration::from_secs(20),
            backoff_first: Duration::from_secs(1),
            backoff_most: Duration::from_secs(120),
            stable_after: Duration::from_secs(30),
            clone_backoff: Duration::from_secs(120),
            defer_subscribe: Duration::from_secs(600),
            rebuild_after: 8,
        }
    }
}
