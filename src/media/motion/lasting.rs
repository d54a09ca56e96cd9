//! Motion that a detector says begins and ends. Between the two it is raised again and again, so that the clip goes on; it ends
//! by itself if the end is never told. Used by the detectors that are told: the socket and ONVIF metadata.

use std::time::{Duration, Instant};

use care_protocol::ClipKind;

use super::Events;

/// How often motion that lasts is raised again: well within the time after which a quiet clip ends.
const GOES_ON_EVERY: Duration = Duration::from_secs(1);
/// Motion that began is over after this long even if its end is not told: the detector may have died.
const LONGEST_MOTION: Duration = Duration::from_secs(600);

/// What one detector has said.
pub(super) struct Motion {
    pub events: Events,
    /// Motion has begun and not ended.
    lasting: Option<Lasting>,
}

struct Lasting {
    until: Instant,
    raise_at: Instant,
}

impl Motion {
    pub fn new(events: Events) -> Self {
        Self { events, lasting: None }
    }

    /// Something moved, and nobody says for how long.
    pub fn moment(&self) {
        self.events.raise(ClipKind::Motion);
    }

    /// Motion begins at `now`.
    pub fn begin(&mut self, now: Instant) {
        self.events.raise(ClipKind::Motion);
        self.lasting = Some(Lasting { until: now + LONGEST_MOTION, raise_at: now + GOES_ON_EVERY });
    }

    /// The detector says at `now` that the motion goes on: it may last as long again.
    pub fn renew(&mut self, now: Instant) {
        if let Some(lasting) = &mut self.lasting {
            lasting.until = now + LONGEST_MOTION;
        }
    }

    pub fn end(&mut self) {
        self.lasting = None;
    }

    pub fn lasts(&self) -> bool {
        self.lasting.is_some()
    }

    /// Prolongs the motion that lasts; to be called several times a second.
    pub fn go_on(&mut self, now: Instant) {
        let Some(lasting) = &mut self.lasting else { return };
        if now >= lasting.until {
            tracing::info!(after_s = LONGEST_MOTION.as_secs(), "the detector did not tell the end of a motion; it is taken as over");
            self.lasting = None;
        } else if now >= lasting.raise_at {
            lasting.raise_at = now + GOES_ON_EVERY;
            self.events.prolong(ClipKind::Motion);
        }
    }
}
