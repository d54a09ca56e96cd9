//! What the agent reads from H.265 NAL units: parameter sets for a file's header and for messages, slice headers for the order of
//! pictures. The bits are `h264-reader`'s, whose rules for emulation prevention and Exp-Golomb codes are the same. Called by `rtp`,
//! and by whoever describes a stream.

use std::num::NonZeroUsize;

use bytes::Bytes;
use h264_reader::rbsp::{BitRead, BitReader, ByteReader};

use super::{
    h264::{length_prefixed, message},
    usability::Usability,
};

/// The NAL header.
const HEADER: NonZeroUsize = NonZeroUsize::new(2).expect("two bytes");
/// No slice segment header is longer than this up to its last field that is read.
const SLICE_HEADER: usize = 64;
/// Where an HEVCDecoderConfigurationRecord says how many arrays of NAL units follow.
const ARRAYS: usize = 22;

/// The codec as browsers name it (ISO/IEC 14496-15, annex E.3): `hvc1.1.6.L93.B0`.
pub(super) fn codecs(hvcc: &[u8]) -> String {
    let [_, profile, c0, c1, c2, c3, constraints @ ..] = hvcc else { return "hvc1".into() };
    let (Some(level), Some(constraints)) = (hvcc.get(12), constraints.get(..6)) else { return "hvc1".into() };
    let space = ["", "A", "B", "C"][usize::from(profile >> 6)];
    let tier = if profile & 0x20 == 0 { 'L' } else { 'H' };
    let compatible = u32::from_be_bytes([*c0, *c1, *c2, *c3]).reverse_bits();
    let mut codecs = format!("hvc1.{space}{}.{compatible:X}.{tier}{level}", profile & 31);
    let used = constraints.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..used] {
        codecs += &format!(".{byte:X}");
    }
    codecs
}

/// How a stream is coded: `H.265 Main 10`. `hvcc` is an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1).
pub(super) fn describe(hvcc: &[u8]) -> String {
    match hvcc.get(1).map(|byte| byte & 31) {
        None => "H.265".into(),
        Some(1) => "H.265 Main".into(),
        Some(2) => "H.265 Main 10".into(),
        Some(3) => "H.265 Main Still Picture".into(),
        Some(4) => "H.265 Range Extensions".into(),
        Some(profile) => format!("H.265 profile {profile}"),
    }
}

/// The NAL units in an HEVCDecoderConfigurationRecord, in its order, up to where it is cut off.
pub(super) fn parameter_sets(hvcc: &[u8]) -> Vec<&[u8]> {
    let mut sets = Vec::new();
    let Some((&arrays, mut rest)) = hvcc.get(ARRAYS..).and_then(<[u8]>::split_first) else { return sets };
    for _ in 0..arrays {
        let Some((&[_, high, low], after)) = rest.split_first_chunk() else { return sets };
        rest = after;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let Some(set) = length_prefixed(&mut rest) else { return sets };
            sets.push(set);
        }
    }
    sets
}

/// The type of a NAL unit, if it belongs to the base layer (ITU-T H.265, 7.3.1.2).
pub(super) fn nal_type(nal: &[u8]) -> Option<u8> {
    let (&first, &second) = (nal.first()?, nal.get(1)?);
    let layer = (first & 1) << 5 | second >> 3;
    (layer == 0).then_some(first >> 1 & 63)
}

fn bits(nal: &[u8]) -> BitReader<ByteReader<&[u8]>> {
    BitReader::new(ByteReader::skipping_bytes(nal, HEADER))
}

/// The id of a video parameter set (7.3.2.1).
pub(super) fn vps_id(nal: &[u8]) -> Option<u8> {
    nal.get(2).map(|byte| byte >> 4)
}

/// A sequence parameter set (ITU-T H.265, 7.3.2.2.1), up to the bit depths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sps {
    pub id: u8,
    pub vps: u8,
    /// Pixels shown.
    pub width: u16,
    /// Pixels shown.
    pub height: u16,
    /// general_profile_space to general_level_idc.
    profile: [u8; 12],
    temporal_layers: u8,
    temporal_id_nesting: bool,
    chroma_format: u8,
    luma_depth_minus8: u8,
    chroma_depth_minus8: u8,
}

/// What the SPS in an HEVCDecoderConfigurationRecord says about showing its pictures.
pub(super) fn usability(hvcc: &[u8]) -> Usability {
    let mut found = Usability::default();
    if let Some(sps) = parameter_sets(hvcc).into_iter().find(|nal| nal_type(nal) == Some(33)) {
        // Damaged, it ends where it is damaged.
        let _ = read_usability(&mut bits(sps), &mut found);
    }
    found
}

/// The rest of a sequence parameter set (7.3.2.2.1), behind the bit depths.
fn read_usability(r: &mut impl BitRead, found: &mut Usability) -> Option<()> {
    let layers = Sps::read(r)?.temporal_layers;
    let order_bits = r.read_ue("").ok().filter(|&n| n <= 12)? + 4;
    let for_each_layer = r.read_bool("").ok()?;
    for _ in 0..if for_each_layer { layers } else { 1 } {
        let (held_minus1, reordered) = (r.read_ue("").ok()?, r.read_ue("").ok()?);
        r.read_ue("").ok()?;
        // That of the highest layer is the last.
        found.reordered = usize::try_from(reordered).ok().filter(|_| reordered <= held_minus1 && held_minus1 < 16);
    }
    // Sizes and depths of coding and transform blocks.
    for _ in 0..6 {
        r.read_ue("").ok()?;
    }
    if r.read_bool("").ok()? && r.read_bool("").ok()? {
        skip_scaling_lists(r)?;
    }
    r.skip(2, "").ok()?;
    if r.read_bool("").ok()? {
        // PCM samples.
        r.skip(8, "").ok()?;
        r.read_ue("").ok()?;
        r.read_ue("").ok()?;
        r.skip(1, "").ok()?;
    }
    skip_short_term_sets(r)?;
    if r.read_bool("").ok()? {
        for _ in 0..r.read_ue("").ok().filter(|&n| n <= 32)? {
            r.skip(order_bits + 1, "").ok()?;
        }
    }
    r.skip(2, "").ok()?;
    if r.read_bool("").ok()? {
        found.read_shared(r)?;
    }
    Some(())
}

/// `scaling_list_data()` (7.3.4).
fn skip_scaling_lists(r: &mut impl BitRead) -> Option<()> {
    for size in 0..4 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !r.read_bool("").ok()? {
                r.read_ue("").ok()?;
                continue;
            }
            let coefficients = (16 << (2 * size)).min(64);
            for _ in 0..coefficients + u32::from(size > 1) {
                r.read_se("").ok()?;
            }
        }
    }
    Some(())
}

/// The sets of reference pictures that slices may choose from (7.3.7).
fn skip_short_term_sets(r: &mut impl BitRead) -> Option<()> {
    let mut pictures = 0;
    for set in 0..r.read_ue("").ok().filter(|&n| n <= 64)? {
        if set > 0 && r.read_bool("").ok()? {
            // Made from the set before.
            r.skip(1, "").ok()?;
            r.read_ue("").ok()?;
            let mut kept = 0;
            for _ in 0..=pictures {
                kept += u32::from(r.read_bool("").ok()? || r.read_bool("").ok()?);
            }
            pictures = kept;
        } else {
            let mut count = || r.read_ue("").ok().filter(|&n| n <= 16);
            pictures = count()? + count()?;
            for _ in 0..pictures {
                r.read_ue("").ok()?;
                r.skip(1, "").ok()?;
            }
        }
    }
    Some(())
}

impl Sps {
    pub fn parse(nal: &[u8]) -> Option<Self> {
        Self::read(&mut bits(nal))
    }

    /// Leaves the reader behind the bit depths.
    fn read(r: &mut impl BitRead) -> Option<Self> {
        let vps: u8 = r.read(4, "").ok()?;
        let sub_layers_minus1: u8 = r.read(3, "").ok().filter(|&n| n < 7)?;
        let temporal_id_nesting = r.read_bool("").ok()?;
        let mut profile = [0; 12];
        for byte in &mut profile {
            *byte = r.read(8, "").ok()?;
        }
        if sub_layers_minus1 > 0 {
            let mut present: [(bool, bool); 8] = Default::default();
            for flags in &mut present {
                *flags = (r.read_bool("").ok()?, r.read_bool("").ok()?);
            }
            for &(has_profile, has_level) in &present[..usize::from(sub_layers_minus1)] {
                r.skip(if has_profile { 88 } else { 0 } + if has_level { 8 } else { 0 }, "").ok()?;
            }
        }
        let mut ue = |most: u32| r.read_ue("").ok().filter(|&n| n <= most);
        let id = ue(15)? as u8;
        let chroma_format = ue(3)? as u8;
        if chroma_format == 3 {
            r.skip(1, "").ok()?;
        }
        let mut ue = |most: u32| r.read_ue("").ok().filter(|&n| n <= most);
        let (width, height) = (ue(0xFFFF)?, ue(0xFFFF)?);
        let (unit_x, unit_y) = match chroma_format {
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let mut cropped = (0, 0);
        if r.read_bool("").ok()? {
            let mut pair = |unit| Some(r.read_ue("").ok()?.saturating_add(r.read_ue("").ok()?).saturating_mul(unit));
            cropped = (pair(unit_x)?, pair(unit_y)?);
        }
        let mut ue = |most: u32| r.read_ue("").ok().filter(|&n| n <= most);
        let (luma_depth_minus8, chroma_depth_minus8) = (ue(7)? as u8, ue(7)? as u8);
        let shown = |whole: u32, cropped| whole.checked_sub(cropped).and_then(|n| u16::try_from(n).ok()).filter(|&n| n > 0);
        Some(Self {
            id,
            vps,
            width: shown(width, cropped.0)?,
            height: shown(height, cropped.1)?,
            profile,
            temporal_layers: sub_layers_minus1 + 1,
            temporal_id_nesting,
            chroma_format,
            luma_depth_minus8,
            chroma_depth_minus8,
        })
    }
}

/// A picture parameter set (ITU-T H.265, 7.3.2.3.1): what slice segment headers depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pps {
    pub id: u8,
    pub sps: u8,
    extra_slice_header_bits: u32,
}

impl Pps {
    pub fn parse(nal: &[u8]) -> Option<Self> {
        let mut r = bits(nal);
        let id = u8::try_from(r.read_ue("").ok()?).ok().filter(|&id| id < 64)?;
        let sps = u8::try_from(r.read_ue("").ok()?).ok().filter(|&id| id < 16)?;
        // dependent_slice_segments_enabled_flag, output_flag_present_flag.
        r.skip(2, "").ok()?;
        Some(Self { id, sps, extra_slice_header_bits: r.read(3, "").ok()? })
    }
}

/// The beginning of a slice segment header (ITU-T H.265, 7.3.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SliceStart {
    /// Whether it is the first of its picture.
    pub first: bool,
    pub pps: u8,
}

impl SliceStart {
    pub fn parse(nal: &[u8]) -> Option<Self> {
        Self::read(nal, &mut bits(nal.get(..SLICE_HEADER).unwrap_or(nal)))
    }

    fn read(nal: &[u8], r: &mut impl BitRead) -> Option<Self> {
        let first = r.read_bool("").ok()?;
        if (16..=23).contains(&nal_type(nal)?) {
            r.skip(1, "").ok()?;
        }
        Some(Self { first, pps: u8::try_from(r.read_ue("").ok()?).ok()? })
    }
}

/// Whether the first slice of a picture is a B slice, which may be shown before pictures that were decoded earlier.
pub(super) fn is_b(nal: &[u8], pps: &Pps) -> Option<bool> {
    let mut r = bits(nal.get(..SLICE_HEADER).unwrap_or(nal));
    SliceStart::read(nal, &mut r)?;
    r.skip(pps.extra_slice_header_bits, "").ok()?;
    Some(r.read_ue("").ok()? == 0)
}

/// How many pictures after the one of this SEI decoding is exact, if it has a recovery point (ITU-T H.265, D.2.8): in the order of
/// presentation, at most, and 0 if it is already.
pub(super) fn recovery_point(sei: &[u8]) -> Option<u32> {
    // The first byte of the header left out: what remains has one, as in H.264.
    let count = BitReader::new(&*message(sei.get(1..)?, 6)?).read_se("").ok()?;
    Some(u32::try_from(count).unwrap_or(0))
}

/// The HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1) of these parameter sets.
pub(super) fn configuration(vps: &Bytes, sps: (&Bytes, &Sps), pps: &[&Bytes]) -> Option<Bytes> {
    let (sps_nal, sps) = sps;
    let mut record = vec![1];
    record.extend_from_slice(&sps.profile);
    // No limit of segmentation, parallelism unknown.
    record.extend_from_slice(&[0xF0, 0, 0xFC]);
    record.extend_from_slice(&[0xFC | sps.chroma_format, 0xF8 | sps.luma_depth_minus8, 0xF8 | sps.chroma_depth_minus8]);
    // Frame rate unknown; lengths of four bytes; three arrays.
    record.extend_from_slice(&[0, 0, sps.temporal_layers << 3 | u8::from(sps.temporal_id_nesting) << 2 | 3, 3]);
    for (kind, sets) in [(32, &[vps][..]), (33, &[sps_nal][..]), (34, pps)] {
        // Complete: there are none in the samples.
        record.push(0x80 | kind);
        record.extend_from_slice(&u16::try_from(sets.len()).ok()?.to_be_bytes());
        for set in sets {
            record.extend_from_slice(&u16::try_from(set.len()).ok()?.to_be_bytes());
            record.extend_from_slice(set);
        }
    }
    Some(record.into())
}
