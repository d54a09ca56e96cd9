//! Reads text files that people and other systems write: configuration, PEM, tokens. It skips a byte order mark, and reports
//! UTF-16 and binary files as such instead of as empty.

use std::str;

/// The byte order mark that some programs put before UTF-8 text.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// What these bytes are, if they are certainly not UTF-8 or ASCII text.
pub fn not_text(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        // With a byte order mark, or ASCII without one.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=0x7f, 0, 1..=0x7f, ..] | [1..=0x7f, 0, 1..=0x7f, 0, ..] => {
            Some("it is UTF-16: save it as UTF-8")
        }
        _ if bytes.contains(&0) => Some("it is binary, not text"),
        _ => None,
    }
}

/// The text without its byte order mark.
///
/// # Errors
/// What the bytes are instead, or the line that is not UTF-8.
pub fn read(bytes: &[u8]) -> Result<&str, String> {
    if let Some(what) = not_text(bytes) {
        return Err(what.to_owned());
    }
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)),
        Err(error) => {
            let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
            Err(format!("line {line} is not UTF-8: save the file as UTF-8"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped_and_other_encodings_are_named() {
        assert_eq!(read("\u{feff}[device]".as_bytes()), Ok("[device]"));
        assert_eq!(read(b""), Ok(""));
        let wide: Vec<u8> = "[device]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(read(&wide).is_err_and(|why| why.contains("UTF-16")));
        assert!(read(&[&[0xff, 0xfe], &wide[..]].concat()).is_err_and(|why| why.contains("UTF-16")));
        assert!(read(b"a\nb\nr\xe9").is_err_and(|why| why.contains("line 3")));
        assert!(read(b"\x30\x82\x00").is_err_and(|why| why.contains("binary")));
    }
}
