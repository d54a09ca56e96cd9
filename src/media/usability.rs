//! What an SPS says about showing its pictures (ITU-T H.264, E.1.1; H.265, E.2.1), for a file's header. Nothing of it is needed to
//! decode, and cameras send it damaged: what was read before the damage counts, the rest is unknown. Called by `h264`, `h265`.

use h264_reader::rbsp::BitRead;

/// What is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usability {
    /// Width and height of a sample, if it is not square.
    pub sample_aspect: Option<(u16, u16)>,
    pub colour: Option<Colour>,
    /// How many pictures at most are decoded before one that is shown before them.
    pub reordered: Option<usize>,
}

/// What the numbers of a sample mean, in the codes of ITU-T H.273.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour {
    pub primaries: u8,
    pub transfer: u8,
    pub matrix: u8,
    pub full_range: bool,
}

/// `aspect_ratio_idc`, from 1.
const ASPECTS: [(u16, u16); 16] = [
    (1, 1),
    (12, 11),
    (10, 11),
    (16, 11),
    (40, 33),
    (24, 11),
    (20, 11),
    (32, 11),
    (80, 33),
    (18, 11),
    (15, 11),
    (64, 33),
    (160, 99),
    (4, 3),
    (3, 2),
    (2, 1),
];
/// The sides are given as they are.
const EXTENDED_SAR: u8 = 255;
/// A sample that is stretched more than this is damage.
const MOST_STRETCHED: u16 = 8;
/// The code for "unspecified".
const UNSPECIFIED: u8 = 2;

impl Usability {
    /// Reads the beginning of `vui_parameters()`, which both codecs share, up to the positions of chroma samples.
    pub fn read_shared(&mut self, r: &mut impl BitRead) -> Option<()> {
        if r.read_bool("").ok()? {
            let (wide, high) = match r.read::<u8>(8, "").ok()? {
                EXTENDED_SAR => (r.read(16, "").ok()?, r.read(16, "").ok()?),
                code => ASPECTS.get(usize::from(code).wrapping_sub(1)).copied().unwrap_or((1, 1)),
            };
            let plausible = |a: u16, b: u16| a > 0 && a / MOST_STRETCHED <= b;
            if wide != high && plausible(wide, high) && plausible(high, wide) {
                self.sample_aspect = Some((wide, high));
            }
        }
        if r.read_bool("").ok()? {
            // overscan_appropriate_flag.
            r.skip(1, "").ok()?;
        }
        if r.read_bool("").ok()? {
            // video_format.
            r.skip(3, "").ok()?;
            let full_range = r.read_bool("").ok()?;
            let described = r.read_bool("").ok()?;
            let mut code = || if described { r.read(8, "").ok() } else { Some(UNSPECIFIED) };
            let colour = Colour { primaries: code()?, transfer: code()?, matrix: code()?, full_range };
            self.colour = (described || full_range).then_some(colour);
        }
        if r.read_bool("").ok()? {
            r.read_ue("").ok()?;
            r.read_ue("").ok()?;
        }
        Some(())
    }
}
