//! Tries a source or the recording directory for `check-config`, before the service depends on them. Called by `cli`.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    MediaError, backend, card,
    drops::DropCounters,
    frame::Frame,
    motion::onvif::{self, Blind, MetadataSink},
    ring::{Next, Ring},
    source::Stream,
    stop_signal::StopSignal,
    supervisor::{Machine, Role, Supervisor},
};
use crate::{
    conditions::Conditions,
    config::{self, Source},
};

/// How many bytes of frames may wait to be looked at.
const WAITING_BYTES: usize = 6_000_000;
/// How long sound that is announced may take to show what becomes of it, once there is a picture.
const SOUND: Duration = Duration::from_secs(3);

/// The first picture of a source. Its [`fmt::Display`] says what it is: `1920x1080, H.264 High`, and what its sound is.
pub struct FirstPicture {
    frame: Frame,
    sound: Option<String>,
}

impl fmt::Debug for FirstPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FirstPicture({self})")
    }
}

impl fmt::Display for FirstPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = &self.frame.format;
        write!(f, "{}x{}, {}", format.width, format.height, format.coding())?;
        self.sound.iter().try_for_each(|sound| write!(f, " (sound: {sound})"))
    }
}

impl FirstPicture {
    /// Whether `motion = "built-in"` can see this picture: the decoder that can.
    ///
    /// # Errors
    /// No decoder can: what each of them says.
    pub fn try_motion(&self) -> Result<&'static str, String> {
        let mut decoder = backend::decoder(StopSignal::default());
        let decoded = decoder.decode(&self.frame).map(|(name, _)| name);
        decoder.release();
        decoded
    }
}

/// Waits for the first picture of a source, which `config` names, for `within` at most.
///
/// # Errors
/// No picture came: what the source says.
pub fn try_source(source: &Source, config: &config::Media, within: Duration) -> Result<FirstPicture, String> {
    first_picture(source, config, within, None, || {}).unwrap_or_else(|error| Err(error.to_string()))
}

/// The same, and whether the camera sends ONVIF metadata beside its picture.
///
/// # Errors
/// No picture came: what the source says.
pub fn try_source_with_metadata(
    source: &Source,
    config: &config::Media,
    within: Duration,
) -> Result<(FirstPicture, Result<(), Blind>), String> {
    let (sink, mut reported) = onvif::trial();
    let mut sends = None;
    let picture = first_picture(source, config, within, Some(sink), || sends = reported().or(sends.take()));
    let picture = picture.unwrap_or_else(|error| Err(error.to_string()))?;
    Ok((picture, sends.unwrap_or(Err(Blind::NotOffered))))
}

/// `tend` is called several times a second.
fn first_picture(
    source: &Source,
    config: &config::Media,
    within: Duration,
    metadata: Option<MetadataSink>,
    mut tend: impl FnMut(),
) -> Result<Result<FirstPicture, String>, MediaError> {
    let ring = Arc::new(Ring::new(Duration::ZERO, WAITING_BYTES));
    let (conditions, stop) = (Conditions::default(), StopSignal::default());
    let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(conditions.clone())).with_metadata(metadata));
    let supervisor = Supervisor {
        role: Role::Main,
        described: source.clone(),
        source: super::open(source, config)?,
        stream: stream.clone(),
        conditions,
        stop: stop.clone(),
        time: Machine,
    };
    let (supervised, _) = supervisor.start()?;
    let (began, mut position) = (Instant::now(), 0);
    let picture = loop {
        let next = ring.next(&mut position, Duration::from_millis(50));
        tend();
        if let Next::Frame { frame, .. } = next {
            let shown = Instant::now();
            while stream.counters.awaits_sound() && shown.elapsed() < SOUND {
                // The frames that bring it are not looked at.
                ring.next(&mut position, Duration::from_millis(50));
                tend();
            }
            break Ok(FirstPicture { frame, sound: supervised.status().sound });
        }
        // It is tried again meanwhile: a source that comes a moment later is as good.
        if began.elapsed() >= within {
            let fault = supervised.status().fault;
            break Err(fault.unwrap_or_else(|| format!("no picture within {} s", within.as_secs())));
        }
    };
    stop.raise();
    Ok(picture)
}

/// Whether `motion = "built-in"` can see this source: raw pictures, or a decoder for its keyframes.
///
/// # Errors
/// What is missing.
pub fn built_in_available(source: &Source) -> Result<(), String> {
    backend::built_in_available(source)
}

/// The directory in which recordings can be made now.
///
/// # Errors
/// What stands in the way, and what to do about it.
pub fn try_recording(config: &config::Recording) -> Result<PathBuf, (String, String)> {
    card::try_recording(config).map_err(|fault| (fault.to_string(), fault.advice()))
}
