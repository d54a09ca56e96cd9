//! What the agent reads from H.264 NAL units: parameter sets for a file's header and for messages, slice headers to tell pictures
//! apart. `h264-reader` reads the bits; its own parameter sets are not used, because they refuse a set whose optional end (VUI) is
//! damaged, as some cameras send it. Called by `rtp`, and by whoever describes a stream.

use bytes::Bytes;
use h264_reader::{
    nal::sps::{ChromaFormat, ChromaInfo},
    rbsp::{BitRead, BitReader, ByteReader},
};

use super::usability::Usability;

/// No slice header is longer than this up to its last field that is read.
const SLICE_HEADER: usize = 64;

/// The codec as browsers name it (RFC 6381, 3.3): `avc1.64001F`.
pub(super) fn codecs(avcc: &[u8]) -> String {
    let [_, profile, constraints, level, ..] = *avcc else { return "avc1".into() };
    format!("avc1.{profile:02X}{constraints:02X}{level:02X}")
}

/// How a stream is coded, in the terms of the standard: `H.264 High 4:2:2, interlaced`. `avcc` is an
/// AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1).
pub(super) fn describe(avcc: &[u8]) -> String {
    let Some(&profile) = avcc.get(1) else { return "H.264".into() };
    let name = match profile {
        66 => "Baseline",
        77 => "Main",
        88 => "Extended",
        100 => "High",
        110 => "High 10",
        122 => "High 4:2:2",
        244 => "High 4:4:4 Predictive",
        _ => return format!("H.264 profile {profile}"),
    };
    let interlaced = if first_sps(avcc).is_some_and(|sps| !sps.frame_mbs_only) { ", interlaced" } else { "" };
    format!("H.264 {name}{interlaced}")
}

fn first_sps(avcc: &[u8]) -> Option<Sps> {
    Sps::parse(parameter_sets(avcc).first()?)
}

/// The NAL units in an AVCDecoderConfigurationRecord, SPS first, up to where it is cut off.
pub(super) fn parameter_sets(avcc: &[u8]) -> Vec<&[u8]> {
    let mut sets = Vec::new();
    let Some((&[_, _, _, _, _, count], mut rest)) = avcc.split_first_chunk() else { return sets };
    for of_kind in [Some(count & 31), None] {
        let Some(count) = of_kind.or_else(|| rest.split_off_first().copied()) else { return sets };
        for _ in 0..count {
            let Some(set) = length_prefixed(&mut rest) else { return sets };
            sets.push(set);
        }
    }
    sets
}

/// Takes what is behind its length in two bytes.
pub(super) fn length_prefixed<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&length, after) = rest.split_first_chunk()?;
    let (set, after) = after.split_at_checked(u16::from_be_bytes(length).into())?;
    *rest = after;
    Some(set)
}

/// The AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1) of these parameter sets, of which there are 255 at most.
pub(super) fn configuration(sps: &[u8], pps: &[&Bytes]) -> Option<Bytes> {
    // Version 1, profile, compatibility and level, lengths of four bytes, one SPS.
    let mut record = vec![1, *sps.get(1)?, *sps.get(2)?, *sps.get(3)?, 0xFF, 0xE1];
    record.extend_from_slice(&u16::try_from(sps.len()).ok()?.to_be_bytes());
    record.extend_from_slice(sps);
    record.push(u8::try_from(pps.len()).ok()?);
    for pps in pps {
        record.extend_from_slice(&u16::try_from(pps.len()).ok()?.to_be_bytes());
        record.extend_from_slice(pps);
    }
    Some(record.into())
}

fn bits(nal: &[u8]) -> BitReader<ByteReader<&[u8]>> {
    BitReader::new(ByteReader::skipping_h264_header(nal))
}

/// A sequence parameter set (ITU-T H.264, 7.3.2.1.1), up to its optional end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sps {
    pub id: u8,
    /// Pixels shown.
    pub width: u16,
    /// Pixels shown.
    pub height: u16,
    pub frame_mbs_only: bool,
    separate_colour_planes: bool,
    frame_num_bits: u32,
    order: Order,
}

/// `pic_order_cnt_type` and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Lsb { bits: u32 },
    Deltas { always_zero: bool },
    Decoding,
}

/// What the SPS in an AVCDecoderConfigurationRecord says about showing its pictures.
pub(super) fn usability(avcc: &[u8]) -> Usability {
    let mut found = Usability::default();
    if let Some(sps) = parameter_sets(avcc).first() {
        // Damaged, it ends where it is damaged.
        let _ = read_usability(&mut bits(sps), &mut found);
    }
    found
}

fn read_usability(r: &mut impl BitRead, found: &mut Usability) -> Option<()> {
    if Sps::read(r)?.order == Order::Decoding {
        found.reordered = Some(0);
    }
    if !r.read_bool("").ok()? {
        return None;
    }
    found.read_shared(r)?;
    if r.read_bool("").ok()? {
        // The clock of the stream.
        r.skip(65, "").ok()?;
    }
    let mut buffered = false;
    for _ in 0..2 {
        if r.read_bool("").ok()? {
            skip_hrd(r)?;
            buffered = true;
        }
    }
    // low_delay_hrd_flag, pic_struct_present_flag.
    r.skip(if buffered { 2 } else { 1 }, "").ok()?;
    if r.read_bool("").ok()? {
        r.skip(1, "").ok()?;
        for _ in 0..4 {
            r.read_ue("").ok()?;
        }
        let (reordered, held) = (r.read_ue("").ok()?, r.read_ue("").ok()?);
        found.reordered = found.reordered.or(usize::try_from(reordered).ok().filter(|_| reordered <= held && held <= 16));
    }
    Some(())
}

/// `hrd_parameters()` (E.1.2).
fn skip_hrd(r: &mut impl BitRead) -> Option<()> {
    let schedules = r.read_ue("").ok().filter(|&n| n < 32)? + 1;
    r.skip(8, "").ok()?;
    for _ in 0..schedules {
        r.read_ue("").ok()?;
        r.read_ue("").ok()?;
        r.skip(1, "").ok()?;
    }
    r.skip(20, "").ok()
}

impl Sps {
    pub fn parse(nal: &[u8]) -> Option<Self> {
        Self::read(&mut bits(nal))
    }

    /// Leaves the reader at vui_parameters_present_flag.
    fn read(r: &mut impl BitRead) -> Option<Self> {
        let profile: u8 = r.read(8, "").ok()?;
        r.skip(16, "").ok()?;
        let id = u8::try_from(r.read_ue("").ok()?).ok().filter(|&id| id < 32)?;
        let chroma = ChromaInfo::read(r, profile.into()).ok()?;
        let frame_num_bits = r.read_ue("").ok().filter(|&n| n <= 12)? + 4;
        let order = match r.read_ue("").ok()? {
            0 => Order::Lsb { bits: r.read_ue("").ok().filter(|&n| n <= 12)? + 4 },
            1 => {
                let always_zero = r.read_bool("").ok()?;
                for _ in 0..2 {
                    r.read_se("").ok()?;
                }
                for _ in 0..r.read_ue("").ok().filter(|&n| n <= 255)? {
                    r.read_se("").ok()?;
                }
                Order::Deltas { always_zero }
            }
            2 => Order::Decoding,
            _ => return None,
        };
        r.read_ue("").ok()?;
        r.skip(1, "").ok()?;
        let mut side = || r.read_ue("").ok().filter(|&n| n < 4096).map(|n| (n + 1) * 16);
        let (width, height) = (side()?, side()?);
        let frame_mbs_only = r.read_bool("").ok()?;
        r.skip(if frame_mbs_only { 1 } else { 2 }, "").ok()?;
        let fields = if frame_mbs_only { 1 } else { 2 };
        let (unit_x, unit_y) = match chroma.chroma_format {
            _ if chroma.separate_colour_plane_flag => (1, 1),
            ChromaFormat::YUV420 => (2, 2),
            ChromaFormat::YUV422 => (2, 1),
            _ => (1, 1),
        };
        let mut cropped = (0, 0);
        if r.read_bool("").ok()? {
            let mut pair = |unit| Some(r.read_ue("").ok()?.saturating_add(r.read_ue("").ok()?).saturating_mul(unit));
            cropped = (pair(unit_x)?, pair(unit_y * fields)?);
        }
        let shown = |whole: u32, cropped| whole.checked_sub(cropped).and_then(|n| u16::try_from(n).ok()).filter(|&n| n > 0);
        Some(Self {
            id,
            width: shown(width, cropped.0)?,
            height: shown(height * fields, cropped.1)?,
            frame_mbs_only,
            separate_colour_planes: chroma.separate_colour_plane_flag,
            frame_num_bits,
            order,
        })
    }
}

/// A picture parameter set (ITU-T H.264, 7.3.2.2): what slice headers depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pps {
    pub id: u8,
    pub sps: u8,
    bottom_order: bool,
    redundant: bool,
}

impl Pps {
    pub fn parse(nal: &[u8]) -> Option<Self> {
        let mut r = bits(nal);
        let id = u8::try_from(r.read_ue("").ok()?).ok()?;
        let sps = u8::try_from(r.read_ue("").ok()?).ok().filter(|&id| id < 32)?;
        r.skip(1, "").ok()?;
        let bottom_order = r.read_bool("").ok()?;
        // Slice groups come with redundant pictures in no camera: then the flag is not looked for.
        let redundant = r.read_ue("").ok()? == 0 && Self::has_redundant_pictures(&mut r).unwrap_or(false);
        Some(Self { id, sps, bottom_order, redundant })
    }

    fn has_redundant_pictures(r: &mut impl BitRead) -> Option<bool> {
        r.read_ue("").ok()?;
        r.read_ue("").ok()?;
        r.skip(3, "").ok()?;
        for _ in 0..3 {
            r.read_se("").ok()?;
        }
        r.skip(2, "").ok()?;
        r.read_bool("").ok()
    }
}

/// The beginning of a slice header (ITU-T H.264, 7.3.3) that needs no parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SliceStart {
    pub first_mb: u32,
    /// 0 P, 1 B, 2 I, 3 SP, 4 SI.
    pub kind: u32,
    pub pps: u8,
}

/// The fields of a slice header that differ from one picture to the next (7.4.1.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SliceHeader {
    pub idr: bool,
    pub redundant: bool,
    reference: bool,
    pps: u8,
    frame_num: u32,
    /// Whether it belongs to a field, and to the bottom one.
    field: Option<bool>,
    idr_pic_id: u32,
    order: (u32, i32, i32),
}

impl SliceStart {
    pub fn parse(nal: &[u8]) -> Option<Self> {
        Self::read(&mut bits(nal.get(..SLICE_HEADER).unwrap_or(nal)))
    }

    fn read(r: &mut impl BitRead) -> Option<Self> {
        let (first_mb, kind, pps) = (r.read_ue("").ok()?, r.read_ue("").ok()?, r.read_ue("").ok()?);
        (kind < 10).then_some(Self { first_mb, kind: kind % 5, pps: u8::try_from(pps).ok()? })
    }
}

impl SliceHeader {
    pub fn parse(nal: &[u8], sps: &Sps, pps: &Pps) -> Option<Self> {
        let mut r = bits(nal.get(..SLICE_HEADER).unwrap_or(nal));
        SliceStart::read(&mut r)?;
        let header = *nal.first()?;
        let idr = header & 31 == 5;
        if sps.separate_colour_planes {
            r.skip(2, "").ok()?;
        }
        let frame_num = r.read(sps.frame_num_bits, "").ok()?;
        let field = if !sps.frame_mbs_only && r.read_bool("").ok()? { Some(r.read_bool("").ok()?) } else { None };
        let idr_pic_id = if idr { r.read_ue("").ok()? } else { 0 };
        let bottom = pps.bottom_order && field.is_none();
        let mut order = (0, 0, 0);
        match sps.order {
            Order::Lsb { bits } => {
                order.0 = r.read(bits, "").ok()?;
                if bottom {
                    order.1 = r.read_se("").ok()?;
                }
            }
            Order::Deltas { always_zero: false } => {
                order.1 = r.read_se("").ok()?;
                if bottom {
                    order.2 = r.read_se("").ok()?;
                }
            }
            Order::Deltas { always_zero: true } | Order::Decoding => {}
        }
        let redundant = pps.redundant && r.read_ue("").ok()? > 0;
        Some(Self { idr, redundant, reference: header & 0x60 != 0, pps: pps.id, frame_num, field, idr_pic_id, order })
    }

    /// Whether both slices belong to one frame: to one picture, or to its two fields, which make one sample of a file.
    pub fn same_frame(&self, other: &Self) -> bool {
        match (self.field, other.field) {
            (Some(bottom), Some(other_bottom)) if bottom != other_bottom => self.frame_num == other.frame_num,
            _ => self == other,
        }
    }
}

/// `recovery_frame_cnt` of the recovery point in this SEI (ITU-T H.264, D.1.8), if it has one.
pub(super) fn recovery_point(sei: &[u8]) -> Option<u32> {
    BitReader::new(&*message(sei, 6)?).read_ue("").ok()
}

/// The first message of this type in an SEI NAL unit (7.3.2.3), behind a header of one byte.
pub(super) fn message(sei: &[u8], wanted: usize) -> Option<Vec<u8>> {
    // `decode_nal` panics if there is nothing behind the header.
    let whole = (sei.len() > 2).then_some(sei)?;
    let rbsp = h264_reader::rbsp::decode_nal(whole.get(..SEI).unwrap_or(whole)).ok()?;
    let mut rest = &*rbsp;
    loop {
        let mut field = || {
            let mut sum = 0_usize;
            loop {
                let (&byte, after) = rest.split_first()?;
                rest = after;
                sum += usize::from(byte);
                if byte != 0xFF {
                    return Some(sum);
                }
            }
        };
        let (kind, length) = (field()?, field()?);
        let payload = rest.get(..length)?;
        if kind == wanted {
            return Some(payload.to_vec());
        }
        rest = &rest[length..];
    }
}

/// How far a recovery point is looked for in an SEI: cameras put kilobytes of their own into others.
const SEI: usize = 4096;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The configuration record of a stream that x264 makes with these options.
    fn avcc(options: &[&str]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.mp4");
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=640x360:rate=15", "-frames:v", "2", "-c:v", "libx264"])
            .args(options)
            .arg(&file)
            .status()
            .unwrap();
        assert!(made.success());
        let bytes = std::fs::read(file).unwrap();
        let at = bytes.windows(4).position(|window| window == b"avcC").unwrap() + 4;
        let size = u32::from_be_bytes(bytes[at - 8..at - 4].try_into().unwrap()) as usize;
        bytes[at..at - 8 + size].to_vec()
    }

    #[test]
    fn profile_and_interlacing_are_described() {
        for (options, said) in [
            (&["-pix_fmt", "yuv420p", "-profile:v", "baseline"][..], "H.264 Baseline"),
            (&["-pix_fmt", "yuv420p", "-profile:v", "main"], "H.264 Main"),
            (&["-pix_fmt", "yuv420p", "-profile:v", "high"], "H.264 High"),
            (&["-pix_fmt", "yuv420p", "-flags", "+ildct+ilme"], "H.264 High, interlaced"),
            (&["-pix_fmt", "yuv422p", "-x264-params", "cqm=jvt"], "H.264 High 4:2:2"),
            (&["-pix_fmt", "yuv422p10", "-flags", "+ildct+ilme"], "H.264 High 4:2:2, interlaced"),
        ] {
            assert_eq!(describe(&avcc(options)), said, "{options:?}");
        }
    }

    #[test]
    fn browsers_are_told_profile_constraints_and_level() {
        assert_eq!(codecs(&[1, 100, 0, 31, 255]), "avc1.64001F");
        assert_eq!(codecs(&[1, 66, 0xC0]), "avc1");
    }

    /// Some cameras send an SPS whose optional end (VUI) is cut off, or has bytes behind it.
    #[test]
    fn a_damaged_end_of_an_sps_does_not_matter() {
        let record = avcc(&["-pix_fmt", "yuv420p", "-s", "638x358"]);
        let sps = &record[8..8 + usize::from(record[7])];
        let whole = Sps::parse(sps).unwrap();
        assert_eq!((whole.width, whole.height), (638, 358));
        assert_eq!(Sps::parse(&sps[..sps.len() - 4]).as_ref(), Some(&whole));
        assert_eq!(Sps::parse(&[sps, &[0xAA, 0x55, 0x80]].concat()).as_ref(), Some(&whole));
        assert_eq!(Sps::parse(&sps[..6]), None);
    }

    #[test]
    fn nonsense_is_no_panic() {
        for length in 0..40_u8 {
            for byte in [0, 1, 3, 100, 255] {
                describe(&vec![byte; length.into()]);
            }
            describe(&[&[1, 100, 0, 30, 255, 225, 0, length][..], &vec![0; length.into()]].concat());
        }
    }
}
