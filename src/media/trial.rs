//! Tries a source before the service depends on it: waits for its first picture, and looks whether motion can be seen in it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use gstreamer as gst;

use super::{
    MediaError,
    frame::Frame,
    h264,
    losses::Losses,
    motion::built_in::Sight,
    ring::{Next, Ring},
    stop::Stop,
    trunk::{Taps, Trunk, Which},
};
use crate::{conditions::Conditions, config::Source};

/// What may wait until it is looked at, bytes.
const WAITING_BYTES: usize = 6_000_000;

/// The first picture of a source. Its [`fmt::Display`] says what it is: `1920x1080, H.264 High`.
pub struct FirstPicture(Frame);

impl fmt::Debug for FirstPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FirstPicture({self})")
    }
}

impl fmt::Display for FirstPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = &self.0.format;
        write!(f, "{}x{}, {}", format.width, format.height, h264::describe(&format.avcc))
    }
}

impl FirstPicture {
    /// Whether `motion = "built-in"` can see this picture: the decoder that can.
    ///
    /// # Errors
    /// None can; what each of them says.
    pub fn try_motion(&self) -> Result<&'static str, String> {
        let mut sight = Sight::new(Stop::default());
        let looked = sight.look(&self.0).map(|(decoder, _)| decoder);
        sight.put_away();
        looked
    }
}

/// Waits for the first picture of a source, for `within` at most.
///
/// # Errors
/// No picture came; what the source said.
pub fn try_source(source: &Source, within: Duration) -> Result<FirstPicture, String> {
    gst::init().map_err(|error| MediaError::Gstreamer { reason: error.to_string() }.to_string())?;
    let ring = Arc::new(Ring::new(Duration::ZERO, WAITING_BYTES));
    let conditions = Conditions::default();
    let taps = Taps { rings: vec![ring.clone()], grey: None };
    let trunk = Trunk::start(Which::Main, source.clone(), taps, conditions.clone(), Losses::new(conditions));
    let trunk = trunk.map_err(|error| error.to_string())?;
    let (began, mut position) = (Instant::now(), 0);
    let picture = loop {
        if let Next::Frame { frame, .. } = ring.next(&mut position, Duration::from_millis(50)) {
            break Ok(FirstPicture(frame));
        }
        let fault = trunk.status().fault;
        // It is tried again meanwhile: a source that comes a moment later is as good.
        if began.elapsed() >= within {
            break Err(fault.unwrap_or_else(|| format!("no picture within {} s", within.as_secs())));
        }
    };
    drop(trunk.stop());
    picture
}
