//! The checksum of everything that must survive a power cut: CRC-32 as in Ethernet and zip.

use crc::{CRC_32_ISO_HDLC, Crc, Table};

/// Tables that are used side by side: one is 1 KB, which no compression makes smaller. Cameras with 32 bits have few
/// megabytes of flash and write little.
const TABLES: usize = if cfg!(target_pointer_width = "32") { 1 } else { 16 };
static CRC: Crc<u32, Table<TABLES>> = Crc::<u32, Table<TABLES>>::new(&CRC_32_ISO_HDLC);

/// The CRC-32 of these parts, one after the other.
pub fn crc32(parts: &[&[u8]]) -> u32 {
    let mut digest = CRC.digest();
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}

/// A line of a file that grows by whole lines: the checksum of its text in eight hexadecimal digits, a blank, the text.
///
/// Valid text has no newline.
pub fn line(text: &[u8]) -> Vec<u8> {
    let mut line = format!("{:08x} ", crc32(&[text])).into_bytes();
    line.extend(text);
    line.push(b'\n');
    line
}

/// The text of a line. `None` if the line is damaged, or has lost its end in a power cut.
pub fn text_of(line: &[u8]) -> Option<&[u8]> {
    let (checksum, text) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    (format!("{:08x} ", crc32(&[text])).as_bytes() == checksum).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_files_on_flash_have_it_and_each_damage_to_it_is_seen() {
        let whole = line(b"123456789");
        assert_eq!(whole, b"cbf43926 123456789\n");
        assert_eq!(text_of(&whole), Some(&b"123456789"[..]));
        assert_eq!(text_of(&line(b"")), Some(&b""[..]));
        for at in 0..whole.len() {
            assert_eq!(text_of(&whole[..at]), None, "{at} bytes of it");
            let mut rotten = whole.clone();
            rotten[at] ^= 1;
            assert_eq!(text_of(&rotten), None, "byte {at}");
        }
    }

    /// The check value of the catalogue of parametrised CRC algorithms, CRC-32/ISO-HDLC.
    #[test]
    fn it_is_the_crc_of_files_that_are_on_flash_already() {
        assert_eq!(crc32(&[b"123456789"]), 0xCBF4_3926);
        assert_eq!(crc32(&[b"1234", b"", b"56789"]), 0xCBF4_3926);
    }
}
