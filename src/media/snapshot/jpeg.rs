//! Tells a whole JPEG from anything else, and how large its picture is (ITU-T T.81, annex B). It decodes nothing. Pure; the
//! fuzz target `jpeg` feeds it.

/// How large a picture is, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// From left to right.
    pub width: u16,
    /// From top to bottom.
    pub height: u16,
}

const START: [u8; 2] = [0xFF, 0xD8];
const END: [u8; 2] = [0xFF, 0xD9];

/// What is in the header of the first frame.
///
/// # Errors
/// These bytes are no whole JPEG: completes the sentence "the camera's answer …".
pub(super) fn dimensions(bytes: &[u8]) -> Result<Dimensions, &'static str> {
    let mut rest = bytes.strip_prefix(&START).ok_or("is no JPEG")?;
    let mut found = None;
    loop {
        // Any number of fill bytes may stand before a marker.
        let (marker, after) = match rest {
            [0xFF, 0xFF, ..] => {
                rest = &rest[1..];
                continue;
            }
            [0xFF, marker, after @ ..] => (*marker, after),
            _ => return Err("is a damaged JPEG"),
        };
        // Without a length: restarts and the temporary marker.
        if matches!(marker, 0x01 | 0xD0..=0xD7) {
            rest = after;
            continue;
        }
        let [high, low, ..] = after else { return Err("is a JPEG that is cut short") };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let segment = after.get(2..length).ok_or("is a JPEG that is cut short")?;
        match (marker, segment) {
            // A frame of any process; the three others of this range are tables.
            (0xC0..=0xCF, [_, h1, h0, w1, w0, ..]) if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                found = Some(Dimensions { width: u16::from_be_bytes([*w1, *w0]), height: u16::from_be_bytes([*h1, *h0]) });
            }
            // The scan: what follows is the picture.
            (0xDA, _) => break,
            (0xD8 | 0xD9, _) => return Err("is a damaged JPEG"),
            _ => {}
        }
        rest = &after[length..];
    }
    // Some cameras fill the answer up behind the end.
    if !rest.windows(2).any(|pair| pair == END) {
        return Err("is a JPEG that is cut short");
    }
    // A height of zero is told behind the first scan, which no camera does.
    found.filter(|found| found.width > 0 && found.height > 0).ok_or("is a JPEG of no size")
}

/// The fuzz target `jpeg`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn snapshot_jpeg(input: &[u8]) -> crate::fuzzing::Verdict {
    let found = dimensions(input);
    assert!(found.is_err() || input.starts_with(&START) && input.windows(2).any(|pair| pair == END), "no whole JPEG is taken for one");
    crate::fuzzing::Verdict::of(found.is_ok())
}

#[cfg(test)]
pub(in crate::media) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A JPEG as far as its size goes, of this height.
    pub(in crate::media) fn jpeg(height: u16) -> Vec<u8> {
        let [h1, h0] = height.to_be_bytes();
        let app: &[u8] = &[0xFF, 0xD8, 0xFF, 0xE0, 0, 6, b'J', b'F', b'I', b'F', 0xFF, 0xFF, 0xC4, 0, 3, 0];
        let frame: &[u8] = &[0xFF, 0xC0, 0, 17, 8, h1, h0, 2, 0x80, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1];
        let scan: &[u8] = &[0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 0x3F, 0, 1, 2, 0xFF, 0, 3, 0xFF, 0xD0, 4, 0xFF, 0xD9];
        [app, frame, scan].concat()
    }

    #[test]
    fn the_size_is_that_of_the_frame_behind_tables_and_fill_bytes() {
        assert_eq!(dimensions(&jpeg(360)), Ok(Dimensions { width: 640, height: 360 }));
        assert_eq!(dimensions(&[jpeg(1080), vec![0; 9]].concat()).unwrap().height, 1080);
        let progressive: Vec<u8> = jpeg(360).iter().map(|byte| if *byte == 0xC0 { 0xC2 } else { *byte }).collect();
        assert!(dimensions(&progressive).is_ok());
    }

    #[test]
    fn what_is_no_whole_jpeg_is_named() {
        assert_eq!(dimensions(b"<html>401</html>"), Err("is no JPEG"));
        assert_eq!(dimensions(b""), Err("is no JPEG"));
        assert_eq!(dimensions(&jpeg(0)), Err("is a JPEG of no size"));
        let whole = jpeg(360);
        for length in 2..whole.len() - 1 {
            assert!(dimensions(&whole[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(dimensions(&[0xFF, 0xD8, 0xFF, 0xD8, 0, 2]), Err("is a damaged JPEG"));
        assert_eq!(dimensions(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 0, 0]), Err("is a JPEG that is cut short"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![Just(0xFF), Just(0xD8), Just(0), any::<u8>()], 0..80), at in 0_usize..50) {
            let _ = dimensions(&bytes);
            let mut damaged = jpeg(360);
            damaged.splice(at..at, bytes);
            let _ = dimensions(&damaged);
        }
    }
}
