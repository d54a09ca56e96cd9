//! A clip every so often: for demonstrations, tests and time-lapse.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use care_protocol::ClipKind;

use super::Events;
use crate::media::{MediaError, stop::Stop};

pub(super) fn start(period: Duration, events: Events, stop: Stop) -> Result<JoinHandle<()>, MediaError> {
    let ticks = move || {
        while !stop.within(period) {
            events.raise(ClipKind::Motion);
        }
    };
    thread::Builder::new().name("media-every".into()).spawn(ticks).map_err(MediaError::Thread)
}
