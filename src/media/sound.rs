//! Sound as plain data: AAC access units as the camera codes them, and the queue in which they wait for the frame that they travel
//! with. Sound has no way of its own through the house: whatever happens to a frame in a ring, a clip or on the card happens to the
//! sound beside it.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use bytes::Bytes;

/// Sampling rates by their index (ISO/IEC 14496-3, table 1.18), Hz.
const RATES: [u32; 13] = [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Audio object types: AAC LC, and what extends it by bands and by a second channel (HE-AAC, versions 1 and 2).
const LC: u8 = 2;
const SBR: u8 = 5;
const PS: u8 = 29;
/// No AudioSpecificConfig of these types is longer, bytes.
const LONGEST_CONFIGURATION: usize = 32;
/// So much sound may wait for a frame, bytes, and so many access units.
const MOST_WAITING: usize = 256 << 10;
const MOST_UNITS: usize = 1024;

/// What a decoder must know before the first access unit.
#[derive(Debug, PartialEq, Eq)]
pub struct SoundFormat {
    /// Samples a second of one channel in an access unit, Hz. HE-AAC plays twice as many.
    pub rate: u32,
    /// Channels, 1 to 8.
    pub channels: u8,
    /// Samples of one channel in an access unit: 1024 or 960.
    pub samples: u16,
    /// An AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1), at most 32 bytes.
    pub configuration: Bytes,
}

impl SoundFormat {
    /// Reads an AudioSpecificConfig. `None`: it is none, or of a kind of AAC other than LC and HE.
    pub(super) fn read(configuration: &[u8]) -> Option<Self> {
        if configuration.len() > LONGEST_CONFIGURATION {
            return None;
        }
        let mut bits = Bits { bytes: configuration, at: 0 };
        let kind = bits.take(5)? as u8;
        let rate = bits.rate()?;
        let channels = match bits.take(4)? {
            channels @ 1..=6 => channels as u8,
            7 => 8,
            _ => return None,
        };
        if matches!(kind, SBR | PS) {
            bits.rate()?;
        }
        let core = if matches!(kind, SBR | PS) { bits.take(5)? as u8 } else { kind };
        let samples = if bits.take(1)? == 0 { 1024 } else { 960 };
        (core == LC).then(|| Self { rate, channels, samples, configuration: Bytes::copy_from_slice(configuration) })
    }

    /// The audio object type: 2 is AAC LC, 5 and 29 are HE-AAC.
    pub(super) fn kind(&self) -> u8 {
        self.configuration.first().map_or(0, |first| first >> 3)
    }

    /// How long an access unit is heard.
    #[cfg(feature = "gstreamer")]
    pub(super) fn lasts(&self) -> Duration {
        Duration::from_secs(1) * u32::from(self.samples) / self.rate.max(1)
    }

    /// AAC LC at this rate, for a camera that describes no more. `None`: no such AAC.
    pub(super) fn plain(rate: u32, channels: u8) -> Option<Self> {
        let index = RATES.iter().position(|known| *known == rate)? as u16;
        let code = match channels {
            1..=6 => u16::from(channels),
            8 => 7,
            _ => return None,
        };
        Self::read(&(u16::from(LC) << 11 | index << 7 | code << 3).to_be_bytes())
    }
}

/// `AAC 16 kHz mono`, `HE-AAC 48 kHz stereo`.
impl fmt::Display for SoundFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extended = matches!(self.kind(), SBR | PS);
        let (name, rate) = if extended { ("HE-AAC", 2 * self.rate) } else { ("AAC", self.rate) };
        write!(f, "{name} {} kHz ", f64::from(rate) / 1000.0)?;
        match self.channels {
            1 => f.write_str("mono"),
            2 => f.write_str("stereo"),
            channels => write!(f, "{channels} channels"),
        }
    }
}

/// The bits of a configuration.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for at in self.at..self.at + count {
            value = value << 1 | u32::from(self.bytes.get(at / 8)? >> (7 - at % 8) & 1);
        }
        self.at += count;
        Some(value)
    }

    fn rate(&mut self) -> Option<u32> {
        match self.take(4)? as usize {
            15 => self.take(24).filter(|rate| (RATES[12]..=RATES[0]).contains(rate)),
            index => RATES.get(index).copied(),
        }
    }
}

/// One AAC access unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// When its first sample is heard, on the timeline of the frames.
    pub pts: Duration,
    /// Without any header.
    pub data: Bytes,
}

/// The sound that travels with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soundtrack {
    /// The same for all frames until the camera changes it.
    pub format: Arc<SoundFormat>,
    /// What came since the frame before and begins before this one is shown. There may be none.
    pub units: Vec<Sound>,
}

impl Soundtrack {
    /// How much memory its sound takes, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.units.iter().map(|unit| unit.data.len()).sum()
    }
}

/// Sound that waits for a frame shown after it.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    format: Option<Arc<SoundFormat>>,
    units: VecDeque<Sound>,
    bytes: usize,
}

impl Waiting {
    /// Adds an access unit, and gives how many had to give way: what waits is bounded, and of one format.
    pub fn push(&mut self, format: &Arc<SoundFormat>, unit: Sound) -> u64 {
        let mut lost = 0;
        if self.format.as_ref() != Some(format) {
            lost += self.units.len() as u64;
            (self.units, self.bytes, self.format) = (VecDeque::new(), 0, Some(format.clone()));
        }
        self.bytes += unit.data.len();
        self.units.push_back(unit);
        while self.bytes > MOST_WAITING || self.units.len() > MOST_UNITS {
            let Some(oldest) = self.units.pop_front() else { break };
            self.bytes -= oldest.data.len();
            lost += 1;
        }
        lost
    }

    /// What travels with the frame that is shown then. `None` until sound has come.
    pub fn until(&mut self, pts: Duration) -> Option<Soundtrack> {
        let format = self.format.clone()?;
        let due = self.units.iter().take_while(|unit| unit.pts < pts).count();
        let track = Soundtrack { format, units: self.units.drain(..due).collect() };
        self.bytes -= track.bytes();
        Some(track)
    }

    /// How what comes is coded. `None` until sound has come.
    pub fn format(&self) -> Option<&SoundFormat> {
        self.format.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lc_and_he_aac_are_told_and_nothing_else_is_read() {
        for (configuration, told, rate, samples) in [
            (&[0x14, 0x08][..], "AAC 16 kHz mono", 16_000, 1024),
            (&[0x11, 0x90], "AAC 48 kHz stereo", 48_000, 1024),
            (&[0x15, 0x88], "AAC 8 kHz mono", 8000, 1024),
            (&[0x13, 0x8C], "AAC 22.05 kHz mono", 22_050, 960),
            // Behind it the extension that ffmpeg writes.
            (&[0x14, 0x08, 0x56, 0xE5, 0x00], "AAC 16 kHz mono", 16_000, 1024),
            (&[0x2B, 0x11, 0x88, 0x00], "HE-AAC 48 kHz stereo", 24_000, 1024),
            // The rate in 24 bits: 16000.
            (&[0x17, 0x80, 0x1F, 0x40, 0x08], "AAC 16 kHz mono", 16_000, 1024),
        ] {
            let format = SoundFormat::read(configuration).unwrap_or_else(|| panic!("{told}"));
            assert_eq!((format.to_string().as_str(), format.rate, format.samples), (told, rate, samples));
            assert_eq!(&format.configuration[..], configuration);
        }
        // Main, LD, no channels, a rate without a meaning, cut off, none at all, too long.
        for other in [&[0x0C, 0x08][..], &[0xBC, 0x08], &[0x14, 0x00], &[0x16, 0x88], &[0x14], &[], &[0x14; 33]] {
            assert_eq!(SoundFormat::read(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_camera_that_describes_no_more_than_a_rate_is_taken_to_send_plain_aac() {
        assert_eq!(SoundFormat::plain(16_000, 1).unwrap(), SoundFormat::read(&[0x14, 0x08]).unwrap());
        assert_eq!(SoundFormat::plain(48_000, 2).unwrap(), SoundFormat::read(&[0x11, 0x90]).unwrap());
        assert_eq!([SoundFormat::plain(16_001, 1), SoundFormat::plain(16_000, 0), SoundFormat::plain(16_000, 200)], [None, None, None]);
    }

    fn sound(ms: u64, bytes: usize) -> Sound {
        Sound { pts: Duration::from_millis(ms), data: vec![7; bytes].into() }
    }

    fn times(track: Option<Soundtrack>) -> Vec<u128> {
        track.unwrap().units.iter().map(|unit| unit.pts.as_millis()).collect()
    }

    #[test]
    fn sound_waits_for_the_first_frame_that_is_shown_after_it() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.until(Duration::ZERO), None, "no sound has come");
        let format = Arc::new(SoundFormat::plain(16_000, 1).unwrap());
        [0, 64, 128].into_iter().for_each(|ms| assert_eq!(waiting.push(&format, sound(ms, 9)), 0));
        assert_eq!(times(waiting.until(Duration::ZERO)), []);
        assert_eq!(times(waiting.until(Duration::from_millis(66))), [0, 64]);
        assert_eq!(times(waiting.until(Duration::from_millis(133))), [128]);
        assert_eq!(waiting.bytes, 0);
    }

    #[test]
    fn what_waits_is_bounded_and_what_gives_way_is_counted() {
        let (mut waiting, format) = (Waiting::default(), Arc::new(SoundFormat::plain(16_000, 1).unwrap()));
        let lost: u64 = (0..MOST_UNITS as u64 + 5).map(|ms| waiting.push(&format, sound(ms, 9))).sum();
        assert_eq!(lost, 5);
        assert_eq!(waiting.push(&format, sound(5000, MOST_WAITING)), MOST_UNITS as u64, "only the newest is left");
        assert_eq!(waiting.push(&Arc::new(SoundFormat::plain(8000, 1).unwrap()), sound(5001, 1)), 1, "another format");
        assert_eq!(times(waiting.until(Duration::MAX)), [5001]);
    }

    proptest! {
        #[test]
        fn no_configuration_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(format) = SoundFormat::read(&bytes) {
                prop_assert!((1..=8).contains(&format.channels) && (7350..=96_000).contains(&format.rate));
                prop_assert!(!format.to_string().is_empty());
            }
        }
    }
}
