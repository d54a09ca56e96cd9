//! The same face without GStreamer: media never starts.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use super::{MediaError, MediaStatus, Outlet};
use crate::{conditions::Conditions, config};

/// There is none in this build.
#[derive(Debug)]
pub struct Media(Infallible);

impl Media {
    /// Always [`MediaError::NotBuilt`].
    pub fn start(_: &config::Media, _: Option<&config::Recording>, _: Arc<dyn Outlet>, _: Conditions) -> Result<Self, MediaError> {
        Err(MediaError::NotBuilt)
    }

    /// Cannot be called.
    pub fn status(&self) -> MediaStatus {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn forget(&self) {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn record(&self) {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn stop(&self, _: Duration) -> bool {
        match self.0 {}
    }
}

/// Nothing is built in here.
pub fn built_in_available(_: &config::Source) -> Result<(), String> {
    Err(MediaError::NotBuilt.to_string())
}

/// There is none in this build.
#[derive(Debug)]
pub struct FirstPicture(Infallible);

impl FirstPicture {
    /// Cannot be called.
    pub fn try_motion(&self) -> Result<&'static str, String> {
        match self.0 {}
    }
}

impl fmt::Display for FirstPicture {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

/// Nothing is built in here.
pub fn try_source(_: &config::Source, _: Duration) -> Result<FirstPicture, String> {
    Err(MediaError::NotBuilt.to_string())
}

/// Nothing is recorded in here.
pub fn try_recording(_: &config::Recording) -> Result<(), (String, String)> {
    Err((MediaError::NotBuilt.to_string(), "remove [recording]".to_owned()))
}
