//! Starts media in the background: the first search for plugins can take seconds, and the agent follows the plan meanwhile. What
//! keeps media from starting is named in a condition and tried again. Called once by the agent.

use std::{sync::Arc, thread};

use super::{Media, MediaError, Outlet, Sources, retry};
use crate::{
    backoff::Backoff,
    conditions::{Conditions, Kind},
    config,
};

/// Starts the camera and hands it to `deliver`, as long as it is `wanted`.
pub fn start_in_background(
    config: config::Media,
    recording: Option<config::Recording>,
    outlet: Arc<dyn Outlet>,
    conditions: Conditions,
    wanted: impl Fn() -> bool + Send + 'static,
    deliver: impl FnOnce(Media) + Send + 'static,
) {
    let for_the_thread = conditions.clone();
    let start = move || {
        let conditions = for_the_thread;
        let mut backoff = Backoff::new(retry::UNUSABLE);
        while wanted() {
            let started = Sources::open(&config)
                .and_then(|sources| Media::start(sources, &config, recording.as_ref(), outlet.clone(), conditions.clone()));
            match started {
                Ok(media) => {
                    conditions.clear(Kind::MediaNotStarted);
                    return deliver(media);
                }
                Err(error @ MediaError::NotBuilt) => {
                    let advice = "Set [media] source to an rtsp:// address, or install a build of the agent with GStreamer.";
                    return conditions.raise_advising(Kind::MediaNotStarted, error.to_string(), advice);
                }
                Err(error) => conditions.raise(Kind::MediaNotStarted, error.to_string()),
            }
            thread::sleep(backoff.next_delay());
        }
    };
    if let Err(error) = crate::threads::named("media-start").spawn(start) {
        conditions.raise(Kind::MediaNotStarted, MediaError::Thread(error).to_string());
    }
}
