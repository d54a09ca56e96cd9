//! AAC in ADTS form (ISO/IEC 14496-3, 1.A.3): a header before each access unit. Pure. Called by `branch`.

use bytes::Bytes;

use crate::media::sound::SoundFormat;

/// Gives each access unit and how it is coded. False: not all of it can be read.
pub(super) fn units(data: &Bytes, out: &mut dyn FnMut(SoundFormat, Bytes)) -> bool {
    let mut rest = data.clone();
    while let [0xFF, second, third, fourth, fifth, sixth, _, ..] = rest[..] {
        let header = if second & 1 == 0 { 9 } else { 7 };
        let length = usize::from(fourth & 3) << 11 | usize::from(fifth) << 3 | usize::from(sixth >> 5);
        let (kind, rate, channels) = ((third >> 6) + 1, third >> 2 & 15, (third & 1) << 2 | fourth >> 6);
        let format = SoundFormat::read(&(u16::from(kind) << 11 | u16::from(rate) << 7 | u16::from(channels) << 3).to_be_bytes());
        let Some(format) = format.filter(|_| second & 0xF6 == 0xF0 && (header..=rest.len()).contains(&length)) else {
            return false;
        };
        out(format, rest.split_to(length).slice(header..));
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A unit of 16 kHz mono, with a checksum or without.
    fn unit(bytes: &[u8], checksum: bool) -> Vec<u8> {
        let header = if checksum { 9 } else { 7 };
        let length = header + bytes.len();
        let mut unit = vec![0xFF, if checksum { 0xF0 } else { 0xF1 }, 0x60, 0x40 | (length >> 11) as u8, (length >> 3) as u8];
        unit.extend([(length << 5) as u8 | 0x1F, 0xFC]);
        unit.resize(header, 0);
        [&unit, bytes].concat()
    }

    fn read(data: &[u8]) -> (Vec<(String, Vec<u8>)>, bool) {
        let mut read = Vec::new();
        let whole = units(&Bytes::copy_from_slice(data), &mut |format, unit| read.push((format.to_string(), unit.to_vec())));
        (read, whole)
    }

    #[test]
    fn units_are_taken_out_of_their_headers() {
        let two = [unit(&[1, 2, 3], false), unit(&[4], true)].concat();
        let expected = |bytes: &[u8]| ("AAC 16 kHz mono".to_owned(), bytes.to_vec());
        assert_eq!(read(&two), (vec![expected(&[1, 2, 3]), expected(&[4])], true));
        assert_eq!(read(&two[..two.len() - 1]), (vec![expected(&[1, 2, 3])], false), "cut off");
        assert_eq!(read(&two[1..]), (vec![], false), "no beginning");
        let main = [&two[..2], &[0x20], &two[3..]].concat();
        assert_eq!(read(&main), (vec![], false), "AAC Main");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..40), cut in any::<bool>()) {
            if cut && bytes.len() > 1 {
                (bytes[0], bytes[1]) = (0xFF, 0xF1);
            }
            read(&bytes);
        }
    }
}
