//! The signal that ends the threads of media. It is raised once and stays raised. Not for anything outside media: the agent has
//! its own shutdown.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Clones are the same signal.
#[derive(Debug, Clone, Default)]
pub(super) struct StopSignal(Arc<(Mutex<bool>, Condvar)>);

impl StopSignal {
    pub fn raise(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    pub fn is_raised(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the signal, for `patience` at most. True: it is raised.
    pub fn wait(&self, patience: Duration) -> bool {
        let raised = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (raised, _) = self.0.1.wait_timeout_while(raised, patience, |raised| !*raised).unwrap_or_else(PoisonError::into_inner);
        *raised
    }
}
