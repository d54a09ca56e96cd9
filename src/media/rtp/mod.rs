//! RTP packets in, frames out: the payload formats of H.264 (RFC 6184) and H.265 (RFC 7798), access units, entry points and times.
//! Beside them the sound: AAC (RFC 3640), and samples (RFC 3551).
//! Pure: no I/O, no clock, no thread. The RTSP source feeds it.
//!
//! Other depacketizers end an access unit at the marker bit or a new RTP time, both of which cameras set wrongly, and forward
//! pictures that refer to lost ones.
//!
//! ```text
//! Packet ─ payload ─ annex_b ─ NAL units ─ access_unit ─ Unit ─ delivery ─ Output
//!                                 parameter_sets ┘         times ┤
//! Packet ─ aac ────────────────────────────────────────── sound ─┘
//! ```
//!
//! NAL units that come without RTP, from GStreamer, enter by `framer`.

mod aac;
mod access_unit;
mod annex_b;
mod delivery;
#[cfg(feature = "gstreamer")]
mod framer;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod hostile;
mod judge;
mod parameter_sets;
mod payload;
mod sound;
#[cfg(test)]
pub(super) mod tests;
mod times;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub(super) use self::{
    aac::AuHeaders,
    sound::{Heard, Report, SoundCoding, SoundDepayloader},
};
use self::{
    access_unit::{AccessUnits, At},
    delivery::Delivery,
    parameter_sets::ParameterSets,
    payload::{Fault, Payload},
    times::Times,
};
#[cfg(feature = "gstreamer")]
pub(super) use self::{
    annex_b::nal_units,
    framer::{Framer, Moment},
};
use super::frame::{Codec, Frame};

/// No access unit, and no NAL unit, may be larger, bytes.
const LARGEST: usize = 4 << 20;
/// An access unit whose last packet has the marker is complete after a silence this long.
const QUIET_AFTER_MARK: Duration = Duration::from_millis(300);
/// The same without a marker.
const QUIET: Duration = Duration::from_secs(1);

/// Why frames were not used. Each completes the sentence "frames were lost: 3 …".
pub(super) mod reason {
    pub const PACKETS_LOST: &str = "because RTP packets were lost";
    pub const MALFORMED: &str = "because an RTP packet was malformed";
    pub const HEADLESS: &str = "because the beginning of one was missing";
    pub const NO_PARAMETER_SETS: &str = "that came before their parameter sets";
    pub const NOT_BEGUN: &str = "that came before the first keyframe";
    pub const LEADING: &str = "that refer to pictures before the first keyframe";
    pub const TOO_LARGE: &str = "because one was larger than 4 MiB";
    pub const CUT_OFF: &str = "cut off by the end of the stream";

    /// Whether the settings of the encoder are the cause, and not the way from it.
    pub fn is_the_encoders(reason: &str) -> bool {
        [NO_PARAMETER_SETS, NOT_BEGUN, LEADING].contains(&reason)
    }
}

/// One RTP packet, in the order of sequence numbers.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    /// Without RTP header and padding.
    pub payload: Bytes,
    /// RTP time, which wraps.
    pub timestamp: u32,
    /// The marker bit.
    pub mark: bool,
    /// How many packets are missing before it.
    pub lost: u16,
    /// When it came.
    pub received: Instant,
}

/// What becomes of the packets.
#[derive(Debug)]
pub(super) enum Output {
    /// The next frame in decoding order. After [`Output::Lost`] or [`Output::Gap`] it is a keyframe.
    Frame(Frame),
    /// These frames came, but are not used. The reason is one of [`reason`].
    Lost { frames: u64, reason: &'static str },
    /// Frames are missing that cannot be counted.
    Gap,
}

/// Makes frames of the packets of one video stream.
pub(super) struct Depayloader {
    payload: Payload,
    units: AccessUnits,
    delivery: Delivery,
    last: Option<Instant>,
}

impl Depayloader {
    /// `clock_rate` is that of the RTP time, from the SDP. `parameter_sets` are the NAL units in the SDP; there may be none.
    pub fn new(codec: Codec, clock_rate: NonZeroU32, parameter_sets: Vec<Bytes>) -> Self {
        let mut sets = ParameterSets::new(codec);
        for set in &parameter_sets {
            annex_b::nal_units(set, &mut |nal| sets.store(nal));
        }
        Self { payload: Payload::new(codec), units: AccessUnits::new(sets), delivery: Delivery::new(Times::new(clock_rate)), last: None }
    }

    /// Whether each NAL unit of H.265 has a decoding order number.
    pub fn numbered(self, numbered: bool) -> Self {
        Self { payload: self.payload.numbered(numbered), ..self }
    }

    /// When the first picture came.
    pub fn began(&self) -> Option<Instant> {
        self.delivery.times().began()
    }

    /// When a picture of this RTP time is shown, nanoseconds from the first, if the camera's clock has been found right.
    pub fn shown_at(&self, rtp: u32) -> Option<i64> {
        self.delivery.times().shown_at(rtp)
    }

    /// Takes the next packet.
    pub fn push(&mut self, packet: Packet, out: &mut dyn FnMut(Output)) {
        let Self { payload, units, delivery, last } = self;
        *last = Some(packet.received);
        let at = At { timestamp: packet.timestamp, received: packet.received };
        let done = &mut |piece| delivery.take(piece, out);
        if packet.lost > 0 {
            if let Some(cut) = payload.discard() {
                units.damage(cut.timestamp, reason::PACKETS_LOST);
            }
            units.lost_packets(done);
        }
        let read = payload.push(&packet.payload, at, &mut |nal, at| units.nal(nal, at, done));
        if let Err(fault) = read {
            let reason = match fault {
                Fault::Malformed => reason::MALFORMED,
                Fault::Headless => reason::HEADLESS,
                Fault::TooLarge => reason::TOO_LARGE,
            };
            units.damage(at.timestamp, reason);
        }
        if packet.mark {
            units.mark();
        }
    }

    /// Nothing has come for a while (a time-lapse camera): a finished access unit need not wait for the next packet. Call it a few
    /// times a second while no packet comes.
    pub fn quiet(&mut self, now: Instant, out: &mut dyn FnMut(Output)) {
        let Self { payload, units, delivery, last } = self;
        let silence = last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let patience = if units.is_marked() { QUIET_AFTER_MARK } else { QUIET };
        if silence >= patience && !payload.is_within_nal_unit() {
            units.finish(&mut |piece| delivery.take(piece, out));
        }
    }

    /// The stream has ended.
    pub fn end(&mut self, out: &mut dyn FnMut(Output)) {
        let Self { payload, units, delivery, .. } = self;
        if let Some(at) = payload.discard() {
            units.damage(at.timestamp, reason::CUT_OFF);
        }
        units.end(&mut |piece| delivery.take(piece, out));
        delivery.end(out);
    }
}
