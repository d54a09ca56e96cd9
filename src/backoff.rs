//! How long to wait between attempts: a delay that doubles up to a bound, with or without jitter. The firmware's only
//! backoff; link, uploads, store and media use it. It does not sleep and performs no attempts. (The engine's retries
//! of refused grants are the contract's, and stay in the engine.)
//!
//! This is our own because the maintained crates differ: `backon` adds its jitter on top of the bound,
//! `exponential-backoff` varies around it, and neither draws evenly from zero, which keeps ten thousand cameras from
//! reconnecting at once.

use std::time::Duration;

/// How a delay is drawn under its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// The bound itself: for retries that only this camera makes, against its own hardware.
    None,
    /// Evenly from half the bound to the bound, so that each delay is at least as long as the one before.
    Equal,
    /// Evenly from zero to the bound: for a server that a whole fleet may have lost at the same moment.
    Full,
}

/// The delays between attempts: after each failure the bound doubles, from `first` up to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    first: Duration,
    most: Duration,
    jitter: Jitter,
}

impl Delays {
    /// Delays under a bound that starts at `first` and doubles up to `most`.
    pub const fn new(first: Duration, most: Duration, jitter: Jitter) -> Self {
        Self { first, most, jitter }
    }

    /// The delay after one more failure, where `failures` came before it in a row.
    pub fn after(&self, failures: u32) -> Duration {
        self.draw(failures, fastrand::f64())
    }

    /// The same with a given number from 0 to 1 instead of a random one.
    fn draw(&self, failures: u32, random: f64) -> Duration {
        let bound = self.first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.most);
        match self.jitter {
            Jitter::None => bound,
            Jitter::Equal => bound.mul_f64(0.5 + 0.5 * random),
            Jitter::Full => bound.mul_f64(random),
        }
    }
}

/// Counts consecutive failures of one operation, and returns how long to wait after each.
#[derive(Debug, Clone)]
pub struct Backoff {
    delays: Delays,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// No failure yet.
    pub fn new(delays: Delays) -> Self {
        Self { delays, failures: 0, random: fastrand::Rng::new() }
    }

    /// Counts a failure, and returns the delay before the next attempt. There is always a next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.delays.draw(self.failures, self.random.f64());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The attempt succeeded: the next delay is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u64) -> Backoff {
        let delays = Delays::new(Duration::from_secs(1), Duration::from_secs(120), Jitter::Full);
        Backoff { random: fastrand::Rng::with_seed(seed), ..Backoff::new(delays) }
    }

    #[test]
    fn the_bound_doubles_from_one_second_to_two_minutes_and_stays() {
        let mut longest = [Duration::ZERO; 12];
        for seed in 0..2000 {
            let mut backoff = backoff(seed);
            for longest in &mut longest {
                *longest = backoff.next_delay().max(*longest);
            }
        }
        for (attempt, longest) in longest.into_iter().enumerate() {
            let bound = Duration::from_secs(120.min(1 << attempt));
            assert!(longest <= bound && longest > bound.mul_f64(0.98), "attempt {attempt}: {longest:?}");
        }
    }

    #[test]
    fn delays_fill_the_whole_span_evenly() {
        let mut tenths = [0; 10];
        for seed in 0..10_000 {
            let mut backoff = backoff(seed);
            let last = (0..9).map(|_| backoff.next_delay()).last().unwrap();
            tenths[(last.as_secs_f64() / 12.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|&count| (800..1200).contains(&count)), "{tenths:?}");
    }

    #[test]
    fn it_never_gives_up_and_begins_anew_once_stable() {
        let mut backoff = backoff(1);
        for _ in 0..100_000 {
            backoff.next_delay();
        }
        assert_eq!(backoff.failures(), 100_000);
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }

    #[test]
    fn without_jitter_delays_double_to_the_bound_and_with_equal_jitter_they_never_shrink() {
        let seconds = |jitter, failures| Delays::new(Duration::from_secs(1), Duration::from_secs(10), jitter).after(failures);
        let plain: Vec<u64> = (0..6).map(|failures| seconds(Jitter::None, failures).as_secs()).collect();
        assert_eq!(plain, [1, 2, 4, 8, 10, 10]);
        assert_eq!(seconds(Jitter::None, u32::MAX).as_secs(), 10);
        for _ in 0..1000 {
            let delays: Vec<Duration> = (0..4).map(|failures| seconds(Jitter::Equal, failures)).collect();
            assert!(delays.is_sorted() && delays[0] >= Duration::from_millis(500), "{delays:?}");
            assert!(delays.iter().zip(plain.iter()).all(|(delay, bound)| *delay <= Duration::from_secs(*bound)), "{delays:?}");
        }
    }

    /// Ten thousand cameras lose the same broker at once; it returns after `away` seconds. Returns how many cameras
    /// reconnect in each second from then on. Time is virtual, the delays are those of `delays`.
    fn herd<D: FnMut() -> Duration>(away: f64, mut delays: impl FnMut(u64) -> D) -> Vec<u32> {
        let mut seconds = Vec::new();
        for camera in 0..10_000 {
            let mut delay = delays(camera);
            let mut at = 0.0;
            while at < away {
                at += delay().as_secs_f64();
            }
            let second = (at - away) as usize;
            if seconds.len() <= second {
                seconds.resize(second + 1, 0);
            }
            seconds[second] += 1;
        }
        seconds
    }

    /// How many times the mean the busiest second has.
    fn busiest(seconds: &[u32]) -> f64 {
        let all: u32 = seconds.iter().sum();
        let most = seconds.iter().max().copied().unwrap_or_default();
        f64::from(most) * seconds.len() as f64 / f64::from(all)
    }

    #[test]
    fn s56_ten_thousand_cameras_do_not_come_back_as_one() {
        for away in [120.0, 300.0, 3600.0] {
            let seconds = herd(away, |camera| {
                let mut backoff = backoff(camera);
                move || backoff.next_delay()
            });
            assert_eq!(seconds.iter().sum::<u32>(), 10_000);
            assert!(busiest(&seconds) <= 3.0, "away {away} s: the busiest second has {:.1} times the mean", busiest(&seconds));
        }
    }

    /// After a short outage most cameras reconnect within seconds, as their owners want, but not all at once.
    #[test]
    fn s56_after_a_quarter_of_a_minute_no_second_has_a_tenth_of_them() {
        let seconds = herd(15.0, |camera| {
            let mut backoff = backoff(camera);
            move || backoff.next_delay()
        });
        assert!(seconds.iter().all(|&count| count < 1000), "{seconds:?}");
    }

    /// The tests above must detect a delay without jitter, and one that varies by a tenth only.
    #[test]
    fn s56_without_full_jitter_they_would() {
        for spread in [0.0, 0.1] {
            let seconds = herd(300.0, |camera| {
                let mut random = fastrand::Rng::with_seed(camera);
                let mut bound = 1.0_f64;
                move || {
                    let delay = bound.min(120.0) * (1.0 - spread * random.f64());
                    bound *= 2.0;
                    Duration::from_secs_f64(delay)
                }
            });
            let padded = [seconds, vec![0; 120]].concat();
            assert!(busiest(&padded[..120]) > 3.0, "{padded:?}");
        }
    }
}
