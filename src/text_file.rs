//! Reads text files that people and other systems write: configuration, PEM, tokens. It skips a byte order mark, and reports
//! UTF-16 and binary files as such instead of as empty.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    str,
};

use rustix::fs::OFlags;

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

/// Opens a file that somebody has named. Of a pipe, the end that nobody writes to is not waited for: it is empty.
///
/// # Errors
/// It is missing, or may not be read.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    // Whoever writes to it is waited for.
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
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
    fn a_pipe_is_read_while_somebody_writes_and_is_empty_after_that() {
        use std::{
            io::{Read, Write, pipe},
            os::fd::AsRawFd,
            sync::mpsc,
            thread,
            time::Duration,
        };

        // What a shell passes for `--config <(...)`.
        let (reader, mut writer) = pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let mut first = open(path.as_ref()).unwrap();
        let writes = thread::spawn(move || writer.write_all(b"[device]").unwrap());
        let mut text = String::new();
        first.read_to_string(&mut text).unwrap();
        writes.join().unwrap();
        assert_eq!(text, "[device]");
        drop(first);

        let (sender, opened) = mpsc::channel();
        thread::spawn(move || {
            let again = open(path.as_ref()).and_then(|mut file| file.read_to_end(&mut Vec::new()));
            sender.send(again.unwrap()).unwrap();
        });
        assert_eq!(opened.recv_timeout(Duration::from_secs(20)), Ok(0), "opening it waits for somebody to write");
    }

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
