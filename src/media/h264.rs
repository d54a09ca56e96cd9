//! Reads from the parameter sets of an H.264 stream what a decoder must support, so that a message about a decoder that fails can
//! say what it was asked to decode.

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
    let interlaced = if sps(avcc).and_then(is_interlaced) == Some(true) { ", interlaced" } else { "" };
    format!("H.264 {name}{interlaced}")
}

/// The first sequence parameter set, without its NAL header and emulation prevention bytes.
fn sps(avcc: &[u8]) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*avcc.get(6)?, *avcc.get(7)?]));
    let nal = avcc.get(9..8 + length)?;
    let mut bytes = Vec::with_capacity(nal.len());
    for &byte in nal {
        if byte != 3 || !bytes.ends_with(&[0, 0]) {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

/// Whether pictures may be coded as fields: `frame_mbs_only_flag` (ITU-T H.264, 7.3.2.1.1) is 0.
fn is_interlaced(sps: Vec<u8>) -> Option<bool> {
    let profile = *sps.first()?;
    let mut bits = Bits { bytes: sps, at: 24 };
    bits.exp_golomb()?;
    if [100, 110, 122, 244, 44, 83, 86, 118, 128].contains(&profile) {
        let chroma = bits.exp_golomb()?;
        if chroma == 3 {
            bits.take(1)?;
        }
        bits.exp_golomb()?;
        bits.exp_golomb()?;
        bits.take(1)?;
        if bits.take(1)? == 1 {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.take(1)? == 1 {
                    bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.exp_golomb()?;
    match bits.exp_golomb()? {
        0 => drop(bits.exp_golomb()?),
        1 => {
            bits.take(1)?;
            bits.exp_golomb()?;
            bits.exp_golomb()?;
            for _ in 0..bits.exp_golomb()?.min(255) {
                bits.exp_golomb()?;
            }
        }
        _ => {}
    }
    bits.exp_golomb()?;
    bits.take(1)?;
    bits.exp_golomb()?;
    bits.exp_golomb()?;
    Some(bits.take(1)? == 0)
}

struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    /// At most 32 bits.
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.take(zeros)?)
    }

    fn skip_scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8_i64, 8_i64);
        for _ in 0..size {
            if next != 0 {
                let coded = i64::from(self.exp_golomb()?);
                let delta = if coded % 2 == 1 { (coded + 1) / 2 } else { -(coded / 2) };
                next = (last + delta).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
        Some(())
    }
}

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
    fn nonsense_is_no_panic() {
        for length in 0..40_u8 {
            for byte in [0, 1, 3, 100, 255] {
                describe(&vec![byte; length.into()]);
            }
            describe(&[&[1, 100, 0, 30, 255, 225, 0, length][..], &vec![0; length.into()]].concat());
        }
    }
}
