//! How fast a transfer may hand payload to the network device. Below the uplink's rate the device's queue stays empty,
//! and after a cut nothing is left in it to leave. The rate is the configured one, or is felt for: faster while all that
//! is sent arrives and the round trip does not grow, back to 80 % of what arrived once it does not.

use std::time::{Duration, Instant};

use super::kernel::TcpInfo;

/// The share of the uplink that payload may take; headers come on top, which makes about 84 %.
const SHARE: f64 = 0.80;
/// Before anything is known: 0.8 Mbit/s of payload, which nearly every uplink carries.
const FIRST: f64 = 100_000.0;
/// The least a transfer is paced to, bytes a second.
const LEAST: f64 = 8_000.0;
/// The most that the kernel can be told.
const MOST: f64 = 2e9;
/// A window of observation is at least this long, and long enough for [`WINDOW_BYTES`].
const WINDOW: Duration = Duration::from_millis(100);
/// Sixteen full packets: fewer are all granularity.
const WINDOW_BYTES: f64 = 16.0 * 1448.0;
/// Less than this part of the pace arriving means that the link is the limit.
const ARRIVES: f64 = 0.9;
/// Growth per window until the link's limit has been met once, and after.
const FAST: f64 = 1.5;
const SLOW: f64 = 1.02;

/// The pace, and what was learned of the uplink; it outlives single transfers.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: f64,
    configured: bool,
    /// What arrived, bytes a second, when the link was last seen to be the limit.
    uplink: Option<f64>,
    window: Option<(Instant, u64)>,
}

impl Pacer {
    /// A pacer for an uplink of `uplink_kbps`, 0 if it is not known.
    pub(super) fn new(uplink_kbps: u32) -> Self {
        let configured = uplink_kbps > 0;
        let rate = if configured { f64::from(uplink_kbps) * 1000.0 / 8.0 * SHARE } else { FIRST };
        Self { rate, configured, uplink: None, window: None }
    }

    /// Bytes of payload a second.
    pub(super) fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// A new transfer: its counters start anew.
    pub(super) fn restart(&mut self) {
        self.window = None;
    }

    /// Looks at a transfer that has more to send; the new pace, if it changes.
    pub(super) fn observe(&mut self, info: &TcpInfo, now: Instant) -> Option<u64> {
        if self.configured || info.bytes_acked == 0 {
            return None;
        }
        let Some((since, acked)) = self.window else {
            self.window = Some((now, info.bytes_acked));
            return None;
        };
        let span = now.saturating_duration_since(since);
        if span < WINDOW || span.as_secs_f64() * self.rate < WINDOW_BYTES {
            return None;
        }
        self.window = Some((now, info.bytes_acked));
        let arrived = info.bytes_acked.saturating_sub(acked) as f64 / span.as_secs_f64();
        let before = self.rate();
        let queued = info.rtt > info.min_rtt + (info.min_rtt / 4).max(Duration::from_millis(10));
        if arrived < self.rate * ARRIVES {
            self.uplink = Some(arrived);
            self.rate = arrived * SHARE;
        } else if queued {
            // A queue, or only a nervous link: no faster, and no slower than the limit that was really met.
            self.rate = self.uplink.map_or(self.rate, |uplink| self.rate.min(uplink * SHARE));
        } else {
            self.rate *= if self.uplink.is_some() { SLOW } else { FAST };
            self.uplink = self.uplink.map(|uplink| uplink.max(arrived));
        }
        self.rate = self.rate.clamp(LEAST, MOST);
        (self.rate() != before).then(|| self.rate())
    }
}
