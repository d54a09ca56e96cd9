//! Reads an H.264 or H.265 file in Annex B form into access units. For recorded test files, not for what a network
//! sends.

use std::{io, ops::Range, path::Path, sync::Arc};

/// A video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// H.264 (ITU-T H.264, RFC 6184).
    H264,
    /// H.265 (ITU-T H.265, RFC 7798).
    H265,
}

/// What a NAL unit holds, as far as the camera treats it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A slice of a picture.
    Slice,
    /// A video, sequence or picture parameter set.
    ParameterSet,
    /// Supplemental enhancement information before the picture.
    Sei,
    /// Anything else.
    Other,
}

impl Codec {
    /// Length of a NAL unit's header in bytes.
    pub fn header_len(self) -> usize {
        match self {
            Self::H264 => 1,
            Self::H265 => 2,
        }
    }

    /// The type field of a NAL unit's header.
    pub fn nal_type(self, nal: &[u8]) -> u8 {
        match self {
            Self::H264 => nal[0] & 0x1f,
            Self::H265 => (nal[0] >> 1) & 0x3f,
        }
    }

    /// What a NAL unit holds.
    pub fn kind(self, nal: &[u8]) -> Kind {
        match (self, self.nal_type(nal)) {
            (Self::H264, 1..=5) | (Self::H265, 0..=31) => Kind::Slice,
            (Self::H264, 7 | 8) | (Self::H265, 32..=34) => Kind::ParameterSet,
            (Self::H264, 6) | (Self::H265, 39) => Kind::Sei,
            _ => Kind::Other,
        }
    }

    /// Whether a NAL unit is the first slice of a picture.
    fn begins_picture(self, nal: &[u8]) -> bool {
        // first_mb_in_slice = 0 and first_slice_segment_in_pic_flag are both a leading one bit.
        self.kind(nal) == Kind::Slice && nal.get(self.header_len()).is_some_and(|byte| byte & 0x80 != 0)
    }

    /// Whether a NAL unit can only stand before the first slice of its access unit.
    fn precedes_picture(self, nal: &[u8]) -> bool {
        match self {
            Self::H264 => matches!(self.nal_type(nal), 6..=9),
            Self::H265 => matches!(self.nal_type(nal), 32..=35 | 39),
        }
    }

    /// Whether the slice is a B slice. Understands the streams of x264 and x265 without extra slice header bits.
    fn is_b_slice(self, nal: &[u8]) -> bool {
        let mut bits = Bits { bytes: nal, at: self.header_len() * 8 };
        match self {
            Self::H264 => {
                bits.exp_golomb(); // first_mb_in_slice
                bits.exp_golomb() % 5 == 1
            }
            Self::H265 => {
                bits.skip(1); // first_slice_segment_in_pic_flag
                if (16..=23).contains(&self.nal_type(nal)) {
                    bits.skip(1); // no_output_of_prior_pics_flag
                }
                bits.exp_golomb(); // slice_pic_parameter_set_id
                bits.exp_golomb() == 0
            }
        }
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn next(&mut self) -> u32 {
        let bit = self.bytes.get(self.at / 8).map_or(1, |byte| (byte >> (7 - self.at % 8)) & 1);
        self.at += 1;
        u32::from(bit)
    }

    fn skip(&mut self, bits: usize) {
        self.at += bits;
    }

    fn exp_golomb(&mut self) -> u32 {
        let zeros = (0..31).take_while(|_| self.next() == 0).count();
        (0..zeros).fold(1, |value, _| value << 1 | self.next()) - 1
    }
}

/// An access unit of a [`Video`]: the NAL units of one picture.
#[derive(Debug, Clone)]
struct Unit {
    nals: Vec<Range<usize>>,
    /// How many pictures later, in presentation order, than the unit's place in the file.
    shift: i32,
}

/// A video file in memory.
#[derive(Debug, Clone)]
pub struct Video {
    /// The codec.
    pub codec: Codec,
    data: Arc<[u8]>,
    units: Arc<[Unit]>,
}

impl Video {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no picture.
    pub fn read(path: &Path, codec: Codec) -> io::Result<Self> {
        let name = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        Self::parse(std::fs::read(path).map_err(name)?.into(), codec)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no picture in Annex B form", path.display())))
    }

    fn parse(data: Arc<[u8]>, codec: Codec) -> Option<Self> {
        let mut units = Vec::new();
        let mut current = Unit { nals: Vec::new(), shift: 0 };
        let mut has_picture = false;
        for range in nal_units(&data) {
            let nal = &data[range.clone()];
            if nal.len() <= codec.header_len() {
                continue;
            }
            if has_picture && (codec.begins_picture(nal) || codec.precedes_picture(nal)) {
                units.push(std::mem::replace(&mut current, Unit { nals: Vec::new(), shift: 0 }));
                has_picture = false;
            }
            has_picture |= codec.kind(nal) == Kind::Slice;
            current.nals.push(range);
        }
        if has_picture {
            units.push(current);
        }
        reorder(&mut units, &data, codec);
        (!units.is_empty()).then(|| Self { codec, data, units: units.into() })
    }

    /// Number of access units.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there are no access units. Never true for a video that was read.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The NAL units of an access unit, without start codes.
    pub fn unit(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        self.units[index].nals.iter().map(|range| &self.data[range.clone()])
    }

    /// How many pictures later than its place in the file an access unit is shown: negative for B pictures, positive
    /// for the pictures that they refer to. Assumes B pictures that nothing refers to.
    pub fn shift(&self, index: usize) -> i32 {
        self.units[index].shift
    }

    /// The first parameter set of this NAL unit type.
    pub fn parameter_set(&self, nal_type: u8) -> Option<&[u8]> {
        (0..self.len()).flat_map(|index| self.unit(index)).find(|nal| self.codec.nal_type(nal) == nal_type)
    }
}

/// Fills in [`Unit::shift`]: a run of B pictures is shown before the picture that precedes it in the file.
fn reorder(units: &mut [Unit], data: &[u8], codec: Codec) {
    let is_b = |unit: &Unit| {
        let mut nals = unit.nals.iter().map(|range| &data[range.clone()]);
        nals.find(|nal| codec.kind(nal) == Kind::Slice).is_some_and(|nal| codec.is_b_slice(nal))
    };
    let mut reference = None;
    for index in 0..units.len() {
        if !is_b(&units[index]) {
            reference = Some(index);
        } else if let Some(reference) = reference {
            units[index].shift = -1;
            units[reference].shift += 1;
        }
    }
}

/// The NAL units between start codes.
fn nal_units(data: &[u8]) -> Vec<Range<usize>> {
    let starts: Vec<usize> = data.windows(3).enumerate().filter(|(_, code)| *code == [0, 0, 1]).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([data.len()]);
    let ranges = starts.iter().zip(ends).map(|(start, mut end)| {
        // A start code may have four bytes, and zeros may trail; a NAL unit never ends in a zero.
        while end > start + 3 && data[end - 1] == 0 {
            end -= 1;
        }
        start + 3..end
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS: [u8; 3] = [0x67, 1, 2];
    const PPS: [u8; 3] = [0x68, 1, 2];
    /// first_mb_in_slice 0, slice_type 7 (I).
    const IDR: [u8; 3] = [0x65, 0b1000_1000, 9];
    /// first_mb_in_slice 0, slice_type 5 (P).
    const P: [u8; 3] = [0x41, 0b1001_1000, 9];
    /// first_mb_in_slice 1: a second slice.
    const P_SECOND: [u8; 3] = [0x41, 0b0101_0000, 9];
    /// first_mb_in_slice 0, slice_type 6 (B).
    const B: [u8; 3] = [0x01, 0b1001_1101, 9];

    fn video(nals: &[&[u8]]) -> Video {
        let data: Vec<u8> = nals.iter().flat_map(|nal| [&[0, 0, 0, 1][..], nal].concat()).collect();
        Video::parse(data.into(), Codec::H264).unwrap()
    }

    #[test]
    fn access_units_are_divided_before_parameter_sets_and_first_slices() {
        let video = video(&[&SPS, &PPS, &IDR, &P, &P_SECOND, &SPS, &PPS, &IDR]);
        let sizes: Vec<_> = (0..video.len()).map(|index| video.unit(index).count()).collect();
        assert_eq!(sizes, [3, 2, 3]);
        assert_eq!(video.parameter_set(8), Some(&PPS[..]));
    }

    #[test]
    fn b_pictures_are_shown_before_the_picture_they_follow() {
        let video = video(&[&IDR, &P, &B, &B, &P, &B, &P]);
        let shifts: Vec<_> = (0..video.len()).map(|index| video.shift(index)).collect();
        assert_eq!(shifts, [0, 2, -1, -1, 1, -1, 0]);
    }

    #[test]
    fn a_file_without_a_picture_is_refused() {
        assert!(Video::parse([0, 0, 1, 0x67, 1, 2][..].into(), Codec::H264).is_none());
        assert!(Video::parse([7; 100][..].into(), Codec::H264).is_none());
    }
}
