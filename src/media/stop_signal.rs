//! The signal that ends the threads of media. It is raised once and stays raised. Not for anything outside media: the agent has
//! its own shutdown.

use std::{
    future::{Future, poll_fn},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

/// Clones are the same signal.
#[derive(Debug, Clone, Default)]
pub(super) struct StopSignal(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    raised: bool,
    /// Of the tasks that wait.
    wakers: Vec<Waker>,
}

impl StopSignal {
    pub fn raise(&self) {
        let mut state = self.state();
        state.raised = true;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.0.1.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub fn is_raised(&self) -> bool {
        self.state().raised
    }

    /// Waits for the signal, as a task.
    pub fn raised(&self) -> impl Future<Output = ()> + use<> {
        let signal = self.clone();
        poll_fn(move |context| {
            let mut state = signal.state();
            if state.raised {
                return Poll::Ready(());
            }
            if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                state.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the signal, for `patience` at most. True: it is raised.
    pub fn wait(&self, patience: Duration) -> bool {
        let (state, _) = self.0.1.wait_timeout_while(self.state(), patience, |state| !state.raised).unwrap_or_else(PoisonError::into_inner);
        state.raised
    }
}
