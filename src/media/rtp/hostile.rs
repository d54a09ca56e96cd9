//! The fuzz target `rtp`: any packets, as those of a picture and as those of sound beside it. The first byte of an input chooses the codec; then each packet has a byte of flags, two of
//! RTP time, one of waiting (in 10 ms), one of length (in 8 bytes) and its payload.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{AuHeaders, Depayloader, Heard, LARGEST, Output, Packet, Report, SoundCoding, SoundDepayloader};
use crate::{
    fuzzing::Verdict,
    media::{
        frame::{Codec, Frame},
        samples::{Law, Samples},
        sound::SoundFormat,
    },
};

const MARK: u8 = 1;
const LOST: u8 = 2;
const QUIET: u8 = 4;
/// The RTP time leaps.
const LEAP: u8 = 8;
/// The length is exact, and not a multiple of 8.
const SHORT: u8 = 16;
/// Presentation is at most this far from arrival.
const FURTHEST: Duration = Duration::from_secs(21);

/// Accepted: at least one frame came of it.
pub(crate) fn packets(input: &[u8]) -> Verdict {
    let Some((&first, mut rest)) = input.split_first() else { return Verdict::Refused };
    let codec = if first & 1 == 0 { Codec::H264 } else { Codec::H265 };
    let mut depayloader = Depayloader::new(codec, NonZeroU32::new(90_000).expect("not zero"), Vec::new());
    let (mut sound, mut samples) = (sound(), samples());
    let began = Instant::now();
    let mut received = began;
    let mut seen = Seen { began, received, incomplete: true, frames: 0, counted: 0, latest: Duration::ZERO };
    let (mut timestamp, mut bytes) = (0_u32, 0_u64);
    while let [flags, high, low, wait, length, after @ ..] = rest {
        let length = usize::from(*length) * if flags & SHORT == 0 { 8 } else { 1 };
        let (payload, after) = after.split_at(length.min(after.len()));
        rest = after;
        received += Duration::from_millis(10) * u32::from(*wait);
        seen.received = received;
        let step = u32::from(u16::from_be_bytes([*high, *low]));
        timestamp = timestamp.wrapping_add(if flags & LEAP == 0 { step } else { step << 16 });
        bytes += payload.len() as u64;
        if flags & QUIET != 0 {
            depayloader.quiet(received, &mut |output| seen.take(output));
        }
        let (mark, lost) = (flags & MARK != 0, u16::from(flags & LOST != 0));
        let packet = Packet { payload: Bytes::copy_from_slice(payload), timestamp, mark, lost, received };
        // Reports of any times, as wrong as what they report on.
        sound.sound_reported(Report { ntp: u64::from(timestamp) << 13, rtp: timestamp ^ step });
        sound.picture_reported(Report { ntp: u64::from(step) << 24 | bytes, rtp: timestamp });
        sound.push(&packet, &depayloader, &mut |heard| seen.hear(&heard, &packet));
        samples.push(&packet, &depayloader, &mut |heard| seen.hear(&heard, &packet));
        depayloader.push(packet, &mut |output| seen.take(output));
    }
    depayloader.end(&mut |output| seen.take(output));
    assert!(seen.frames + seen.counted <= bytes, "{} frames and {} lost in {bytes} bytes", seen.frames, seen.counted);
    Verdict::of(seen.frames > 0)
}

fn sound() -> SoundDepayloader {
    let format = SoundFormat::plain(16_000, 1).expect("a rate that AAC has");
    let coding = SoundCoding::Aac(AuHeaders::HIGH_RATE, Arc::new(format));
    SoundDepayloader::new(&coding, NonZeroU32::new(16_000).expect("not zero"))
}

fn samples() -> SoundDepayloader {
    let samples = Samples { law: Law::Mu, rate: 8000, channels: 1 };
    SoundDepayloader::new(&SoundCoding::Samples(samples), NonZeroU32::new(8000).expect("not zero"))
}

struct Seen {
    began: Instant,
    received: Instant,
    incomplete: bool,
    frames: u64,
    counted: u64,
    latest: Duration,
}

impl Seen {
    fn hear(&self, heard: &Heard, packet: &Packet) {
        match heard {
            Heard::Unit(_, unit) => {
                assert!(!unit.data.is_empty() && unit.data.len() < 1 << 13);
                // A packet may be full of units, of a byte each.
                let within = Duration::from_millis(64) * packet.payload.len() as u32;
                assert!(unit.pts <= self.received.duration_since(self.began) + FURTHEST * 2 + within, "{:?} is far ahead", unit.pts);
            }
            Heard::Samples(_, sound) => {
                assert_eq!(sound.data, packet.payload);
                assert!(sound.pts <= self.received.duration_since(self.began) + FURTHEST * 2, "{:?} is far ahead", sound.pts);
            }
            Heard::Lost(units) => assert!(*units > 0),
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Frame(frame) => self.frame(&frame),
            Output::Lost { frames, reason } => {
                assert!(frames > 0 && !reason.is_empty());
                self.counted += frames;
                self.incomplete = true;
            }
            Output::Gap => self.incomplete = true,
        }
    }

    fn frame(&mut self, frame: &Frame) {
        assert!(frame.key || !self.incomplete, "what follows a loss is a keyframe");
        self.incomplete = false;
        self.frames += 1;
        assert!(frame.data.len() <= LARGEST && frame.format.width > 0 && frame.format.height > 0);
        assert!(frame.pts <= self.received.duration_since(self.began) + FURTHEST, "{:?} is far ahead of arrival", frame.pts);
        self.latest = self.latest.max(frame.pts);
        assert!(self.latest <= frame.pts + 2 * FURTHEST, "{:?} goes far back", frame.pts);
        let mut rest = &frame.data[..];
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>().expect("a length");
            let length = u32::from_be_bytes(*length) as usize;
            assert!(length > 0, "an empty NAL unit");
            rest = after.get(length..).expect("a whole NAL unit");
        }
    }
}
