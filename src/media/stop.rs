//! The word that ends every thread of media at once.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Shared by the threads; cloned, not counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    pub fn now(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    pub fn is_now(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; true as soon as it is time to stop.
    pub fn within(&self, patience: Duration) -> bool {
        let stopped = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self.0.1.wait_timeout_while(stopped, patience, |stopped| !*stopped).unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}
