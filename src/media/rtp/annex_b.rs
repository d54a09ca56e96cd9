//! Cameras put byte streams (ITU-T H.264 and H.265, annex B) where RTP wants one NAL unit: several with start codes between them,
//! a start code before the first, zeros behind the last. Called with every NAL unit as it came, and by `media::gstreamer`.

/// Gives each NAL unit in `bytes` to `out`, without start codes and trailing zeros, and leaves out empty ones.
pub(in crate::media) fn nal_units(mut bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
    loop {
        let (nal, rest) = match start_code(bytes) {
            Some(at) => (&bytes[..at], Some(&bytes[at + 3..])),
            None => (bytes, None),
        };
        let end = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if end > 0 {
            out(&nal[..end]);
        }
        let Some(rest) = rest else { return };
        bytes = rest;
    }
}

/// Where the next `00 00 01` is. A whole NAL unit has none (emulation prevention).
fn start_code(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(&[first, second, third]) = bytes.get(at..at + 3) {
        match third {
            0 => at += 1,
            1 if first == 0 && second == 0 => return Some(at),
            _ => at += 3,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        nal_units(bytes, &mut |nal| found.push(nal.to_vec()));
        found
    }

    #[test]
    fn byte_streams_and_zeros_are_taken_apart() {
        let one = vec![vec![0x65, 1, 2]];
        assert_eq!(split(&[0x65, 1, 2]), one);
        assert_eq!(split(&[0x65, 1, 2, 0, 0, 0]), one);
        assert_eq!(split(&[0, 0, 1, 0x65, 1, 2]), one);
        assert_eq!(split(&[0, 0, 0, 1, 0x65, 1, 2, 0, 0, 1]), one);
        assert_eq!(split(&[0, 0, 0, 0, 0, 1, 0x65, 1, 2]), one);
        assert_eq!(split(&[0x67, 5, 0, 0, 0, 1, 0x68, 6, 0, 0, 1, 0x65, 7]), [vec![0x67, 5], vec![0x68, 6], vec![0x65, 7]]);
        assert_eq!(split(&[0x65, 0, 0, 3, 1, 1, 0, 1]), [vec![0x65, 0, 0, 3, 1, 1, 0, 1]]);
        assert_eq!(split(&[0, 0, 0, 0]), Vec::<Vec<u8>>::new());
        assert_eq!(split(&[]), Vec::<Vec<u8>>::new());
    }
}
