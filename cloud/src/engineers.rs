//! What the engineers' page has set up and what still runs of it; how it comes about stands in [`crate::experiments`].

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use care_protocol::DeviceId;

use crate::simulated::Fleet;

/// What is set up at the moment.
#[derive(Debug, Default)]
pub struct Engineers {
    refusing: Mutex<HashMap<Option<DeviceId>, u64>>,
    pub(crate) fleet: Fleet,
}

impl Engineers {
    /// Whether this camera gets no grant at `now` (Unix seconds), whatever its plan.
    pub fn refuses_grants(&self, device: &DeviceId, now: u64) -> bool {
        let refusing = self.refusing();
        [&None, &Some(device.clone())].into_iter().any(|whose| refusing.get(whose).is_some_and(|until| now < *until))
    }

    pub(crate) fn refuse_grants(&self, camera: Option<DeviceId>, until: u64) {
        self.refusing().insert(camera, until);
    }

    pub(crate) fn refusing(&self) -> MutexGuard<'_, HashMap<Option<DeviceId>, u64>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
