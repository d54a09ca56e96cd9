//! RTP packets of sound in, access units or samples on the timeline of the pictures out. Steps from one unit to the next are those of the RTP
//! time, judged like those of pictures. Where sound is beside the pictures is told by arrival at first, and by the camera's sender
//! reports (RFC 3550, section 6.4.1) once both streams have one. Pure. The RTSP source feeds it.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Depayloader, Packet,
    aac::{AacPayload, AuHeaders, Units, Unusable},
    access_unit::At,
    times::{SECOND, Times},
};
use crate::media::{
    samples::Samples,
    sound::{Sound, SoundFormat},
};

/// Sound is moved if reports say that it is off by more than this.
const NOTICEABLE: i64 = SECOND / 50;
/// Reports that would move it further from arrival are wrong: some cameras keep two clocks.
const FURTHEST: i64 = 3 * SECOND;

/// What a sender report says: when, by the camera's clock, an RTP time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::media) struct Report {
    /// Seconds since 1900, and a fraction, 32 bits each.
    pub ntp: u64,
    pub rtp: u32,
}

/// How the packets of a stream are coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::media) enum SoundCoding {
    /// As a file can have it.
    Aac(AuHeaders, Arc<SoundFormat>),
    /// To be encoded first.
    Samples(Samples),
}

impl SoundCoding {
    /// Its name in the status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Aac(..) => "AAC",
            Self::Samples(samples) => samples.name(),
        }
    }
}

/// What becomes of the packets.
#[derive(Debug)]
pub(in crate::media) enum Heard {
    /// The next access unit.
    Unit(Arc<SoundFormat>, Sound),
    /// The next samples, and when the first of them is heard.
    Samples(Samples, Sound),
    /// So many access units came, or should have, and cannot be used.
    Lost(u64),
}

#[derive(Debug)]
enum Payload {
    Aac(AacPayload, Arc<SoundFormat>),
    Samples(Samples),
}

/// Makes access units, or samples, of the packets of one stream of sound.
#[derive(Debug)]
pub(in crate::media) struct SoundDepayloader {
    payload: Payload,
    clock_rate: NonZeroU32,
    times: Times,
    /// When the first packet came.
    began: Option<Instant>,
    picture: Option<Report>,
    sound: Option<Report>,
    /// Reports have come that have not been looked at.
    reported: bool,
    /// By how much sound is heard later than its arrival says, nanoseconds.
    shift: i64,
}

impl SoundDepayloader {
    /// `clock_rate` is that of the RTP time.
    pub fn new(coding: &SoundCoding, clock_rate: NonZeroU32) -> Self {
        Self {
            payload: match coding {
                SoundCoding::Aac(headers, format) => Payload::Aac(AacPayload::new(*headers), format.clone()),
                SoundCoding::Samples(samples) => Payload::Samples(*samples),
            },
            clock_rate,
            times: Times::new(clock_rate),
            began: None,
            picture: None,
            sound: None,
            reported: false,
            shift: 0,
        }
    }

    /// The camera has reported on the stream of pictures.
    pub fn picture_reported(&mut self, report: Report) {
        (self.picture, self.reported) = (Some(report), true);
    }

    /// The camera has reported on this stream.
    pub fn sound_reported(&mut self, report: Report) {
        (self.sound, self.reported) = (Some(report), true);
    }

    /// Takes the next packet. Sound from before the first of the `pictures` is left out.
    pub fn push(&mut self, packet: &Packet, pictures: &Depayloader, out: &mut dyn FnMut(Heard)) {
        let (units, unusable) = match &mut self.payload {
            Payload::Aac(payload, _) => payload.push(packet),
            Payload::Samples(_) => whole(packet),
        };
        if let Some(unusable) = unusable {
            out(Heard::Lost(unusable.0));
        }
        let (Some(Units { at, units }), Some(pictures_began)) = (units, pictures.began()) else { return };
        let began = *self.began.get_or_insert(at.received);
        let shown = self.times.next(at.timestamp, at.received, false);
        let by_arrival = shown + apart(pictures_began, began);
        self.align(by_arrival, at.timestamp, pictures);
        for (n, data) in (0..).zip(units) {
            let after = match &self.payload {
                Payload::Aac(_, format) => n * i64::from(format.samples) * SECOND / i64::from(format.rate.max(1)),
                Payload::Samples(_) => 0,
            };
            let Ok(heard) = u64::try_from(by_arrival + self.shift + after) else { continue };
            let sound = Sound { pts: Duration::from_nanos(heard), data };
            out(match &self.payload {
                Payload::Aac(_, format) => Heard::Unit(format.clone(), sound),
                Payload::Samples(samples) => Heard::Samples(*samples, sound),
            });
        }
    }

    /// Looks at new reports: where this RTP time, which belongs there by arrival, is beside the pictures.
    fn align(&mut self, by_arrival: i64, timestamp: u32, pictures: &Depayloader) {
        let (true, Some(picture), Some(sound)) = (self.reported, self.picture, self.sound) else { return };
        let Some(shown) = pictures.shown_at(picture.rtp) else { return };
        self.reported = false;
        let between = (i128::from(sound.ntp.wrapping_sub(picture.ntp) as i64) * i128::from(SECOND)) >> 32;
        let since = i64::from(timestamp.wrapping_sub(sound.rtp) as i32) * SECOND / i64::from(self.clock_rate.get());
        let shift = i128::from(shown) + between + i128::from(since) - i128::from(by_arrival);
        let Some(shift) = i64::try_from(shift).ok().filter(|shift| shift.abs() <= FURTHEST) else { return };
        if (shift - self.shift).abs() > NOTICEABLE {
            self.shift = shift;
        }
    }
}

/// A packet of samples, and how many are missing before it.
fn whole(packet: &Packet) -> (Option<Units>, Option<Unusable>) {
    let at = At { timestamp: packet.timestamp, received: packet.received };
    let units = Units { at, units: vec![packet.payload.clone()] };
    let missing = Some(u64::from(packet.lost)).filter(|lost| *lost > 0).map(Unusable);
    (Some(units).filter(|_| !packet.payload.is_empty()), missing)
}

/// From one moment to another, nanoseconds.
fn apart(from: Instant, to: Instant) -> i64 {
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX / 4);
    nanos(to.saturating_duration_since(from)) - nanos(from.saturating_duration_since(to))
}
