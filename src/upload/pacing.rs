//! How fast a transfer may hand payload to the network device. Below the uplink's rate the device's queue stays empty,
//! so after a cut nothing is left in it. The rate is the configured one, or estimated: it grows while all that is sent
//! arrives and the round trip does not grow, and falls to 85 % of the rate of arrival otherwise.

use std::time::{Duration, Instant};

use super::kernel::TcpInfo;

/// The share of the uplink that TCP's payload may take. A body takes a little less ([`super::body`]); with the headers
/// of TCP and IP it is 86 % on the wire.
const SHARE: f64 = 0.85;
/// The first estimate: 1.6 Mbit/s of payload, which most uplinks carry. Where one does not, a queue shows it as it does after a
/// step of the pace; a lower estimate would cost the first event after a start a second.
const FIRST: f64 = 200_000.0;
/// The lowest pace of a transfer, bytes a second.
const LEAST: f64 = 8_000.0;
/// The highest pace that the kernel accepts.
const MOST: f64 = 2e9;
/// A window of observation is at least this long, and long enough for [`WINDOW_BYTES`].
const WINDOW: Duration = Duration::from_millis(100);
/// Thirty-two full packets: with fewer the measurement is too coarse.
const WINDOW_BYTES: f64 = 32.0 * 1448.0;
/// If less than this part of the pace arrives, the link is the limit.
const ARRIVES: f64 = 0.85;
/// A round trip that has grown by more than this and the duration of four segments means that a queue is building up. A
/// body that runs late sends as much at once.
const QUEUE: Duration = Duration::from_millis(10);
const QUEUE_BYTES: f64 = 6_000.0;
/// A round trip that is shorter than this hardly matters in a window.
const PROMPT: Duration = Duration::from_millis(10);
/// A queue ends a window early, but not before this.
const EARLY: Duration = Duration::from_millis(40);
/// What a late body sends at once is no queue: as much as it makes up for, at most.
const LATE: Duration = Duration::from_millis(20);
const LATE_BYTES: f64 = 15_360.0;
/// The step in which the pace reaches the limit that was last measured goes this far beyond it.
const BEYOND: f64 = 1.03;
/// One window with little or no data may be a short loss of the radio link: a single step lowers the pace to no less
/// than this part of itself.
const FALL: f64 = 0.25;
/// Growth per window: this much until the link's limit has been reached; after that it starts small and increases each
/// time.
const FAST: f64 = 0.5;
const CAUTIOUS: f64 = 0.02;

/// The pace and the estimate of the uplink; both outlive single transfers.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: f64,
    configured: bool,
    /// The rate of arrival, bytes a second, when the link was last the limit.
    uplink: Option<f64>,
    /// The same where a queue showed it, until the pace has passed it.
    limit: Option<f64>,
    /// The next window's growth.
    growth: f64,
    /// Whether the pace is a guess: the first one, or the last window's result was to speed up.
    grown: bool,
    window: Option<Window>,
}

/// What is measured at one pace.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// The pace began.
    paced: Mark,
    /// The window began: a round trip later, because what is acknowledged until then was sent at the pace before.
    begun: Option<Mark>,
}

impl Window {
    /// The pace changes now.
    fn at_another_pace(mark: Mark, info: &TcpInfo) -> Self {
        Self { paced: mark, begun: (info.min_rtt < PROMPT).then_some(mark) }
    }
}

/// A moment, and the bytes that had arrived by then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    acked: u64,
}

impl Mark {
    fn of(info: &TcpInfo, now: Instant) -> Self {
        Self { at: now, acked: info.bytes_acked }
    }

    /// The time since, and the bytes a second that have arrived in it.
    fn until(self, now: Self) -> (Duration, f64) {
        let span = now.at.saturating_duration_since(self.at);
        (span, now.acked.saturating_sub(self.acked) as f64 / span.as_secs_f64())
    }
}

impl Pacer {
    /// A pacer for an uplink of `uplink_kbps`, 0 if it is not known.
    pub(super) fn new(uplink_kbps: u32) -> Self {
        let configured = uplink_kbps > 0;
        let rate = if configured { f64::from(uplink_kbps) * 1000.0 / 8.0 * SHARE } else { FIRST };
        Self { rate, configured, uplink: None, limit: None, growth: FAST, grown: true, window: None }
    }

    /// Bytes of payload a second.
    pub(super) fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// A new transfer: its counters start anew.
    pub(super) fn restart(&mut self) {
        self.window = None;
    }

    /// Measures a transfer that has begun its body and has more to send. Returns the new pace, if it changes.
    pub(super) fn observe(&mut self, info: &TcpInfo, now: Instant) -> Option<u64> {
        if self.configured {
            return None;
        }
        let mark = Mark::of(info, now);
        let window = self.window.get_or_insert(Window::at_another_pace(mark, info));
        if window.begun.is_none() && now.saturating_duration_since(window.paced.at) >= info.min_rtt {
            window.begun = Some(mark);
        }
        let window = *window;
        let (span, arrived) = window.begun.unwrap_or(mark).until(mark);
        let tolerated = QUEUE.max(Duration::from_secs_f64(QUEUE_BYTES / self.rate));
        if span < WINDOW || span.as_secs_f64() * self.rate < WINDOW_BYTES {
            let (span, arrived) = window.paced.until(mark);
            // More under way than the pace puts there shows a queue before the smoothed round trip does.
            let under_way = info.under_way as f64;
            let burst = (self.rate * LATE.as_secs_f64()).clamp(QUEUE_BYTES, LATE_BYTES);
            let too_fast = under_way > self.rate * info.min_rtt.as_secs_f64() + burst;
            if !self.grown || !too_fast || span < EARLY {
                return None;
            }
            // Too short to measure the link by: take the last step back, once, and measure at that pace.
            self.grown = false;
            let known = self.uplink.unwrap_or(0.0).max(arrived) * SHARE;
            let back = known.max(self.rate / (1.0 + FAST));
            if back >= self.rate {
                return None;
            }
            (self.rate, self.limit, self.growth, self.window) = (back, self.uplink, CAUTIOUS, Some(Window::at_another_pace(mark, info)));
            return Some(self.rate());
        }
        self.window = Some(Window { paced: mark, begun: Some(mark) });
        let before = self.rate();
        self.grown = false;
        let queued = info.rtt > info.min_rtt + tolerated;
        let short = arrived < self.rate * ARRIVES;
        if short && info.notsent_bytes == 0 && !queued {
            // The agent was slow to send, not the link: nothing can be learned. (A kernel that does not pace holds
            // nothing back either where the link is the limit, but then a queue builds up behind the socket.)
            return None;
        }
        if short || (queued && self.uplink.is_none()) {
            self.uplink = Some(arrived);
            self.rate = (arrived * SHARE).max(self.rate * FALL);
            // Without a queue it may have been a short loss of the radio link.
            (self.limit, self.growth) = (queued.then_some(arrived), CAUTIOUS);
        } else if queued {
            // A queue, or only an unstable link: do not speed up, and do not go below the limit that was last
            // measured.
            self.rate = self.uplink.map_or(self.rate, |uplink| self.rate.min(uplink.max(arrived) * SHARE));
            (self.limit, self.growth) = (self.uplink, CAUTIOUS);
        } else {
            let faster = self.rate * (1.0 + self.growth);
            // The limit is approached, not jumped over; beyond it the link has become faster.
            match self.limit.take_if(|limit| *limit * BEYOND < faster) {
                Some(limit) if self.rate < limit * BEYOND => (self.rate, self.growth) = (limit * BEYOND, CAUTIOUS),
                _ => (self.rate, self.growth) = (faster, (self.growth * 2.0).min(FAST)),
            }
            self.grown = true;
            self.uplink = self.uplink.map(|uplink| uplink.max(arrived));
        }
        self.rate = self.rate.clamp(LEAST, MOST);
        if self.rate() == before {
            return None;
        }
        self.window = Some(Window::at_another_pace(mark, info));
        Some(self.rate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of `capacity` bytes a second with a queue in front, measured every 50 ms.
    struct Link {
        capacity: f64,
        queue: f64,
        /// Bytes that have left the queue by each look; the sender hears of them a round trip later.
        left: Vec<f64>,
        round_trip: Duration,
        now: Instant,
        jitter: Duration,
        /// Whether the kernel paces: then unsent payload waits in the socket.
        paced: bool,
    }

    impl Link {
        fn new(capacity: f64) -> Self {
            let (round_trip, jitter) = (Duration::from_millis(20), Duration::ZERO);
            Self { capacity, queue: 0.0, left: vec![1.0], round_trip, now: Instant::now(), jitter, paced: true }
        }

        /// What the sender has heard of.
        fn acked(&self, step: Duration) -> f64 {
            let looks_ago = self.round_trip.as_secs_f64() / step.as_secs_f64();
            let at = |ago: usize| self.left[(self.left.len() - 1).saturating_sub(ago)];
            let (newer, older) = (at(looks_ago as usize), at(looks_ago as usize + 1));
            newer + (older - newer) * looks_ago.fract()
        }

        fn run(&mut self, pacer: &mut Pacer, looks: u32) {
            let step = Duration::from_millis(50);
            for _ in 0..looks {
                self.now += step;
                let arriving = pacer.rate() as f64 * step.as_secs_f64() + self.queue;
                let leaving = arriving.min(self.capacity * step.as_secs_f64());
                self.queue = arriving - leaving;
                self.left.push(self.left[self.left.len() - 1] + leaving);
                let base = self.round_trip;
                let under_way = self.queue + leaving / step.as_secs_f64() * (base + self.jitter).as_secs_f64();
                let rtt = base + self.jitter + Duration::from_secs_f64(self.queue / self.capacity);
                pacer.observe(
                    &TcpInfo {
                        bytes_acked: self.acked(step) as u64,
                        notsent_bytes: u32::from(self.paced),
                        under_way: under_way as u64,
                        rtt,
                        min_rtt: base,
                        ..TcpInfo::default()
                    },
                    self.now,
                );
            }
        }
    }

    #[test]
    fn a_configured_uplink_is_kept_whatever_arrives() {
        let mut pacer = Pacer::new(2000);
        assert_eq!(pacer.rate(), 212_500);
        Link::new(50_000.0).run(&mut pacer, 200);
        assert_eq!(pacer.rate(), 212_500);
    }

    #[test]
    fn a_fast_link_is_not_crawled_on() {
        let mut pacer = Pacer::new(0);
        Link::new(10e6).run(&mut pacer, 40);
        assert!(pacer.rate() > 1_000_000, "{} bytes/s after two seconds", pacer.rate());
    }

    #[test]
    fn a_long_round_trip_is_not_taken_for_a_slow_link() {
        for (round_trip_ms, paced) in [1, 40, 80, 200, 500].into_iter().flat_map(|trip| [(trip, true), (trip, false)]) {
            let mut pacer = Pacer::new(0);
            let mut link = Link { paced, round_trip: Duration::from_millis(round_trip_ms), ..Link::new(2.5e6) };
            let mut paces = Vec::new();
            while pacer.rate() < 2_000_000 {
                link.run(&mut pacer, 1);
                paces.push(pacer.rate());
                assert!(paces.len() < 200, "{} bytes/s after ten seconds, {round_trip_ms} ms, paced: {paced}", pacer.rate());
            }
            assert!(paces.is_sorted(), "below the link's rate it only grows, {round_trip_ms} ms, paced: {paced}: {paces:?}");
        }
    }

    #[test]
    fn a_slow_link_is_found_and_its_queue_stays_short() {
        let capacities = [30_000.0, 60_000.0, 250_000.0, 1e6];
        for (capacity, paced) in capacities.into_iter().flat_map(|capacity| [(capacity, true), (capacity, false)]) {
            let mut pacer = Pacer::new(0);
            let mut link = Link { paced, ..Link::new(capacity) };
            link.run(&mut pacer, 400);
            let mut worst: f64 = 0.0;
            for _ in 0..400 {
                link.run(&mut pacer, 1);
                worst = worst.max(link.queue);
                assert!(pacer.rate() as f64 > capacity * 0.7, "crawls: {} of {capacity}, paced: {paced}", pacer.rate());
            }
            assert!(worst < 8_000.0_f64.max(capacity * 0.02), "{worst} bytes queued before {capacity} bytes/s, paced: {paced}");
        }
    }

    #[test]
    fn a_link_that_collapses_is_followed_down_and_up_again() {
        let mut pacer = Pacer::new(0);
        let mut link = Link::new(1e6);
        link.run(&mut pacer, 200);
        link.capacity = 100_000.0;
        link.run(&mut pacer, 400);
        let paces: Vec<u64> = std::iter::repeat_with(|| (link.run(&mut pacer, 1), pacer.rate()).1).take(200).collect();
        let (least, most) = (paces.iter().min().unwrap(), paces.iter().max().unwrap());
        assert!(*least <= 100_000 && *most < 200_000, "{least} to {most}");
        link.capacity = 1e6;
        link.run(&mut pacer, 800);
        assert!(pacer.rate() > 500_000, "{}", pacer.rate());
    }

    #[test]
    fn a_moment_in_which_nothing_arrives_is_not_the_link() {
        let mut pacer = Pacer::new(0);
        let mut link = Link::new(1e6);
        link.run(&mut pacer, 200);
        let before = pacer.rate();
        link.capacity = 0.001;
        link.run(&mut pacer, 4);
        link.capacity = 1e6;
        link.queue = 0.0;
        link.run(&mut pacer, 80);
        assert!(pacer.rate() > before / 2, "{} after {before}", pacer.rate());
    }

    #[test]
    fn a_transfer_that_has_nothing_to_send_says_nothing_of_the_link() {
        let mut pacer = Pacer::new(0);
        let begun = Instant::now();
        let info = TcpInfo { bytes_acked: 1, rtt: WINDOW, min_rtt: WINDOW, ..TcpInfo::default() };
        for seconds in 0..20 {
            assert_eq!(pacer.observe(&info, begun + Duration::from_secs(seconds)), None);
        }
    }

    #[test]
    fn a_nervous_round_trip_alone_slows_nothing_down() {
        let mut pacer = Pacer::new(0);
        let mut link = Link::new(1e6);
        link.run(&mut pacer, 200);
        link.jitter = Duration::from_millis(60);
        link.run(&mut pacer, 400);
        assert!(pacer.rate() >= 700_000, "{}", pacer.rate());
    }
}
