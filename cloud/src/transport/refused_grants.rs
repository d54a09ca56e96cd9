//! Cameras whose requests for a grant are refused for a while, whatever their plan: an experiment of the engineers
//! sets them, the API asks.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use care_protocol::DeviceId;

/// Which cameras get no grant, and until when (Unix seconds); `None` stands for all cameras.
#[derive(Debug, Default)]
pub struct RefusedGrants {
    until: Mutex<HashMap<Option<DeviceId>, u64>>,
}

impl RefusedGrants {
    /// Whether this camera gets no grant at `now` (Unix seconds).
    pub fn includes(&self, device: &DeviceId, now: u64) -> bool {
        let refused = self.lock();
        [&None, &Some(device.clone())].into_iter().any(|camera| refused.get(camera).is_some_and(|until| now < *until))
    }

    /// Refuses one camera's requests, or all cameras', until then (Unix seconds).
    pub fn refuse(&self, camera: Option<DeviceId>, until: u64) {
        self.lock().insert(camera, until);
    }

    /// The refusals that hold at `now` (Unix seconds).
    pub fn at(&self, now: u64) -> Vec<(Option<DeviceId>, u64)> {
        self.lock().iter().filter(|(_, until)| now < **until).map(|(camera, until)| (camera.clone(), *until)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<DeviceId>, u64>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
