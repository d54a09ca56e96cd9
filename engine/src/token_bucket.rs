//! A token bucket: a burst at once, then one token per interval. It is the only rate limiter: for reports, the store's
//! writes and the pieces of an upload's body. It does not sleep: the caller reads when the next token is available.
//!
//! Kept as the moment at which the bucket will be full again (GCRA, ITU-T I.371), so it is two numbers and needs no
//! timer. The caller supplies the time: any clock that starts at zero and never goes back. (`governor` does the same
//! with atomics, its own clock and a cell per key, none of which is needed here.)

use std::time::Duration;

/// A bucket that refills over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// The overdraft: the time in which all tokens but one refill.
    tolerance: Duration,
    /// When it is full.
    full_at: Duration,
}

impl TokenBucket {
    /// A full bucket: `burst` tokens, each of which refills in `every`.
    pub const fn full(burst: u32, every: Duration) -> Self {
        Self { tolerance: every.saturating_mul(burst.saturating_sub(1)), full_at: Duration::ZERO }
    }

    /// A bucket that allows one spending at `now`, and makes up for pauses no longer than `tolerance`.
    pub fn drained(tolerance: Duration, now: Duration) -> Self {
        Self { tolerance, full_at: now + tolerance }
    }

    /// Makes up for pauses no longer than `tolerance` from now on. When the next token may be taken stays as it is.
    pub fn tolerate(&mut self, tolerance: Duration) {
        self.full_at = self.ready_at() + tolerance;
        self.tolerance = tolerance;
    }

    /// When the next token may be taken; a time in the past means now.
    pub fn ready_at(&self) -> Duration {
        self.full_at.saturating_sub(self.tolerance)
    }

    /// Takes a token now, which refills in `cost`. Does not check [`Self::ready_at`].
    pub fn spend(&mut self, cost: Duration, now: Duration) {
        self.full_at = self.full_at.max(now) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(25);
    const BURST: u32 = 10;

    #[test]
    fn a_burst_passes_and_a_flood_is_spaced() {
        let mut bucket = TokenBucket::full(BURST, EVERY);
        for start in [Duration::from_secs(5), Duration::from_secs(5) + 100 * EVERY] {
            for _ in 0..BURST {
                assert!(bucket.ready_at() <= start);
                bucket.spend(EVERY, start);
            }
            assert_eq!(bucket.ready_at(), start + EVERY);
            bucket.spend(EVERY, start + EVERY);
            assert_eq!(bucket.ready_at(), start + 2 * EVERY);
        }
    }

    #[test]
    fn a_token_comes_back_at_its_own_time_however_late_the_last_one_went() {
        let mut bucket = TokenBucket::full(2, EVERY);
        bucket.spend(EVERY, Duration::ZERO);
        bucket.spend(EVERY, EVERY / 2);
        assert_eq!(bucket.ready_at(), EVERY);
    }

    #[test]
    fn a_drained_bucket_lets_one_go_and_makes_up_for_a_short_pause_only() {
        let (tolerance, start) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut bucket = TokenBucket::drained(tolerance, start);
        assert_eq!(bucket.ready_at(), start);
        bucket.spend(EVERY, start);
        assert_eq!(bucket.ready_at(), start + EVERY);
        // Four milliseconds late: what follows is due as if it had not been.
        bucket.spend(EVERY, start + EVERY + Duration::from_millis(4));
        assert_eq!(bucket.ready_at(), start + 2 * EVERY);
        // A second late: only the tolerance is made up for.
        let late = start + Duration::from_secs(1);
        bucket.spend(EVERY, late);
        assert_eq!(bucket.ready_at(), late + EVERY - tolerance);
        // With less tolerance the next is due at the same time, and less is made up for.
        bucket.tolerate(Duration::from_millis(4));
        assert_eq!(bucket.ready_at(), late + EVERY - tolerance);
        let later = late + Duration::from_secs(1);
        bucket.spend(EVERY, later);
        assert_eq!(bucket.ready_at(), later + EVERY - Duration::from_millis(4));
    }
}
