//! When to connect again: full jitter under a bound that doubles (scenario 56), so that ten thousand cameras that lost
//! the same broker do not come back as one.

use std::time::Duration;

/// The delays between attempts. Each is drawn evenly from zero to a bound that starts at `first` and doubles up to `most`.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration, random: fastrand::Rng) -> Self {
        Self { first, most, failures: 0, random }
    }

    /// The delay before the next attempt. There is always a next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(30)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(self.random.f64())
    }

    /// How often in a row it went wrong.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The connection was stable: begin anew.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u64) -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(120), fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn the_bound_doubles_from_one_second_to_two_minutes_and_stays() {
        let mut longest = [Duration::ZERO; 12];
        for seed in 0..2000 {
            let mut backoff = backoff(seed);
            for longest in &mut longest {
                *longest = backoff.next().max(*longest);
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
            let last = (0..9).map(|_| backoff.next()).last().unwrap();
            tenths[(last.as_secs_f64() / 12.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|&count| (800..1200).contains(&count)), "{tenths:?}");
    }

    #[test]
    fn it_never_gives_up_and_begins_anew_once_stable() {
        let mut backoff = backoff(1);
        for _ in 0..100_000 {
            backoff.next();
        }
        assert_eq!(backoff.failures(), 100_000);
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }

    /// Ten thousand cameras lose the same broker at once, which comes back after `away` seconds: how many come back in each
    /// second from then on. Time is virtual, the delays are those of `delays`.
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
                move || backoff.next()
            });
            assert_eq!(seconds.iter().sum::<u32>(), 10_000);
            assert!(busiest(&seconds) <= 3.0, "away {away} s: the busiest second has {:.1} times the mean", busiest(&seconds));
        }
    }

    /// After a short outage most come back within seconds, which is what their owners want; still not all at once.
    #[test]
    fn s56_after_a_quarter_of_a_minute_no_second_has_a_tenth_of_them() {
        let seconds = herd(15.0, |camera| {
            let mut backoff = backoff(camera);
            move || backoff.next()
        });
        assert!(seconds.iter().all(|&count| count < 1000), "{seconds:?}");
    }

    /// What these tests must find: a delay that doubles and is not drawn, and one that varies by a tenth only.
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
