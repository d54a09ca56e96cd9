//! Reads AAC from a file in ADTS form (ISO/IEC 14496-3, 1.A.3): access units behind headers of seven bytes. For recorded test files,
//! not for what a network sends.

use std::{io, path::Path};

/// Samples of one channel in an access unit.
pub(crate) const SAMPLES: u32 = 1024;

/// Sound in memory.
#[derive(Debug, Clone)]
pub(crate) struct Sound {
    /// Samples a second.
    pub rate: u32,
    pub channels: u8,
    pub units: Vec<Vec<u8>>,
    /// What the headers repeat, as an AudioSpecificConfig.
    pub configuration: [u8; 2],
}

impl Sound {
    /// Reads a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no AAC in ADTS form", path.display()));
        Self::parse(&std::fs::read(path)?).ok_or_else(invalid)
    }

    fn parse(mut rest: &[u8]) -> Option<Self> {
        const RATES: [u32; 12] = [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000];
        let (second, third) = (*rest.get(2)?, *rest.get(3)?);
        let (kind, index, channels) = ((second >> 6) + 1, second >> 2 & 15, (second & 1) << 2 | third >> 6);
        let mut units = Vec::new();
        while let [0xff, 0xf1, _, high, middle, low, _, ..] = rest {
            let length = usize::from(high & 3) << 11 | usize::from(*middle) << 3 | usize::from(low >> 5);
            units.push(rest.get(7..length)?.to_vec());
            rest = &rest[length..];
        }
        let configuration = [kind << 3 | index >> 1, index << 7 | channels << 3];
        (!units.is_empty()).then_some(Self { rate: *RATES.get(usize::from(index))?, channels, units, configuration })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_their_configuration_are_read() {
        let header = |length: u8| [0xff, 0xf1, 0x60, 0x40, 0, length << 5, 0xfc];
        let bytes = [&header(0)[..5], &[1 << 5 | 0x1f, 0xfc, 7], &header(0)[..4], &[1, 0x1f, 0xfc, 8]].concat();
        assert!(Sound::parse(&bytes).is_none(), "a length below that of the header");
        let bytes = [&[0xff, 0xf1, 0x60, 0x40, 1, 0x1f, 0xfc, 7][..], &[0xff, 0xf1, 0x60, 0x40, 1, 0x3f, 0xfc, 8, 9]].concat();
        let sound = Sound::parse(&bytes).unwrap();
        assert_eq!((sound.rate, sound.channels, sound.configuration), (16_000, 1, [0x14, 0x08]));
        assert_eq!(sound.units, [vec![7], vec![8, 9]]);
        assert!(Sound::parse(&[7; 20]).is_none());
    }
}
