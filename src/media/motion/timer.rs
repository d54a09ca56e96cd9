//! An event at a fixed interval: for demonstrations, tests and time-lapse.

use std::{thread::JoinHandle, time::Duration};

use care_protocol::ClipKind;

use super::Events;
use crate::media::{MediaError, stop_signal::StopSignal};

pub(super) fn start(period: Duration, events: Events, stop: StopSignal) -> Result<JoinHandle<()>, MediaError> {
    let ticks = move || {
        while !stop.wait(period) {
            events.raise(ClipKind::Motion);
        }
    };
    crate::threads::named("media-timer").spawn(ticks).map_err(MediaError::Thread)
}
