//! Rate limits for signing in and for actions: token buckets in memory. A full bucket is forgotten, so that invented
//! names do not fill the memory.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many buckets at most; beyond that, names that are not known yet have to wait.
const BUCKETS: usize = 10_000;

/// A bucket for each name.
#[derive(Debug)]
pub struct RateLimit {
    burst: u32,
    every: Duration,
    // When each name's bucket is full again.
    full_at: Mutex<HashMap<String, Instant>>,
}

impl RateLimit {
    /// So many at once, then one every so often.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, full_at: Mutex::new(HashMap::new()) }
    }

    /// Takes one for this name at `now`, or returns how long to wait.
    pub fn take(&self, name: &str, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if full_at.len() >= BUCKETS {
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= BUCKETS && !full_at.contains_key(name) {
                return Err(self.every);
            }
        }
        let full = full_at.get(name).copied().unwrap_or(now).max(now) + self.every;
        let most = now + self.every * self.burst;
        if full > most {
            return Err(full - most);
        }
        full_at.insert(name.to_owned(), full);
        Ok(())
    }

    /// Resets the count of this name.
    pub fn reset(&self, name: &str) {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_at_a_time_and_nobody_pays_for_another() {
        let limit = RateLimit::new(3, Duration::from_secs(10));
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take("a", start), Ok(()));
        }
        assert_eq!(limit.take("a", start), Err(Duration::from_secs(10)));
        assert_eq!(limit.take("b", start), Ok(()));
        let later = start + Duration::from_secs(10);
        assert_eq!(limit.take("a", later), Ok(()));
        assert!(limit.take("a", later).is_err());
        limit.reset("a");
        assert_eq!(limit.take("a", later), Ok(()));
    }

    #[test]
    fn invented_names_do_not_fill_the_memory() {
        let limit = RateLimit::new(1, Duration::from_secs(10));
        let start = Instant::now();
        for i in 0..2 * BUCKETS {
            // Some of these are refused: that is the point.
            let _ = limit.take(&i.to_string(), start);
        }
        assert!(limit.full_at.lock().unwrap().len() <= BUCKETS);
        assert_eq!(limit.take("later", start + Duration::from_secs(11)), Ok(()));
    }
}
