//! Frames of NAL units that come whole and without RTP, as out of GStreamer's buffers: the same access units, entry points and
//! times as for RTP (`access_unit`, `delivery`, `times`), so that both kinds of source decide alike. Called by `media::gstreamer`.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::{
    Output, QUIET, QUIET_AFTER_MARK,
    access_unit::{AccessUnits, At},
    delivery::Delivery,
    parameter_sets::ParameterSets,
    times::Times,
};
use crate::media::frame::Codec;

/// Ticks a second of the times that are handed on, as in MP4 files.
const TICKS: NonZeroU32 = NonZeroU32::new(90_000).expect("not zero");

/// What is known of the moment of a NAL unit.
#[derive(Debug, Clone, Copy)]
pub(in crate::media) struct Moment {
    /// When its picture is shown, nanoseconds by the source's clock, if the source says so.
    pub shown: Option<i64>,
    /// When it came.
    pub received: Instant,
}

/// Makes frames of the NAL units of one video stream.
pub(in crate::media) struct Framer {
    units: AccessUnits,
    delivery: Delivery,
    /// The latest time that the source gave, in ticks.
    ticks: u32,
    /// Whether it gave one for what came last.
    timed: bool,
    last: Option<Instant>,
}

impl Framer {
    pub fn new(codec: Codec) -> Self {
        let units = AccessUnits::new(ParameterSets::new(codec));
        Self { units, delivery: Delivery::new(Times::trusting(TICKS)), ticks: 0, timed: false, last: None }
    }

    /// Takes the next NAL unit, or a parameter set from elsewhere.
    pub fn nal(&mut self, nal: &[u8], moment: Moment, out: &mut dyn FnMut(Output)) {
        let at = self.at(moment);
        let Self { units, delivery, .. } = self;
        units.nal(nal, at, &mut |piece| delivery.take(piece, out));
    }

    /// The source says that the access unit under way is complete. It may be wrong.
    pub fn mark(&mut self) {
        self.units.mark();
    }

    /// The access unit of this moment is damaged; `reason` completes the sentence "frames were lost: 3 …".
    pub fn damage(&mut self, moment: Moment, reason: &'static str) {
        let at = self.at(moment);
        self.units.damage(at.timestamp, reason);
    }

    /// The access unit under way is incomplete, although the source said otherwise.
    pub fn cut_off(&mut self, reason: &'static str) {
        self.units.cut_off(reason);
    }

    /// Something is missing before the next NAL unit.
    pub fn missing(&mut self, out: &mut dyn FnMut(Output)) {
        let Self { units, delivery, .. } = self;
        units.lost_packets(&mut |piece| delivery.take(piece, out));
    }

    /// Gives out a finished access unit that would otherwise wait for the next one. Call it a few times a second.
    pub fn quiet(&mut self, now: Instant, out: &mut dyn FnMut(Output)) {
        let Self { units, delivery, last, .. } = self;
        let silence = last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let patience = if units.is_marked() { QUIET_AFTER_MARK } else { QUIET };
        if silence >= patience {
            units.finish(&mut |piece| delivery.take(piece, out));
        }
    }

    /// When sound of this moment is heard, on the timeline of the pictures: by the clock that both have, or else by arrival. `None`: it
    /// is from before the first picture.
    pub fn heard(&self, moment: Moment) -> Option<Duration> {
        let times = self.delivery.times();
        let by_clock = moment.shown.filter(|_| self.timed).and_then(|shown| times.shown_at(ticks(shown)));
        let nanoseconds = match by_clock {
            Some(heard) => u64::try_from(heard).ok()?,
            None => u64::try_from(moment.received.checked_duration_since(times.began()?)?.as_nanos()).ok()?,
        };
        Some(Duration::from_nanos(nanoseconds))
    }

    /// The stream has ended.
    pub fn end(&mut self, out: &mut dyn FnMut(Output)) {
        let Self { units, delivery, .. } = self;
        units.end(&mut |piece| delivery.take(piece, out));
        delivery.end(out);
    }

    /// A picture without a time repeats the one before, which `times` replaces by the time of arrival.
    fn at(&mut self, moment: Moment) -> At {
        if let Some(nanoseconds) = moment.shown {
            self.ticks = ticks(nanoseconds);
        }
        self.timed = moment.shown.is_some();
        self.last = Some(moment.received);
        At { timestamp: self.ticks, received: moment.received }
    }
}

/// Rounded, and wrapped as RTP time is.
fn ticks(nanoseconds: i64) -> u32 {
    let halves = (i128::from(nanoseconds) * i128::from(TICKS.get())).div_euclid(500_000_000);
    (halves + 1).div_euclid(2) as u32
}
