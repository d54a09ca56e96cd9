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

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the catalogue of parametrised CRC algorithms, CRC-32/ISO-HDLC.
    #[test]
    fn it_is_the_crc_of_files_that_are_on_flash_already() {
        assert_eq!(crc32(&[b"123456789"]), 0xCBF4_3926);
        assert_eq!(crc32(&[b"1234", b"", b"56789"]), 0xCBF4_3926);
    }
}
