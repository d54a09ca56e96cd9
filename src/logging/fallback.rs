//! Where a line goes that its destination does not take: to standard error. That is said once, and again only after the
//! destination has worked in between, so that a full disk costs the log nothing but its place.

use std::io::{self, Write};

/// Whether the destination works.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    failing: bool,
}

impl Fallback {
    /// Judges one line's way: `line` goes to `instead` if it `went` nowhere.
    pub(super) fn judge(&mut self, went: io::Result<()>, destination: &str, line: &[u8], instead: &mut dyn Write) {
        let Err(error) = went else {
            self.failing = false;
            return;
        };
        // Nothing is left to say a failure of this on.
        if !std::mem::replace(&mut self.failing, true) {
            let _ =
                writeln!(instead, "kasa-care-agent: cannot log to {destination}: {error}; logging to standard error until it works again");
        }
        let _ = instead.write_all(line);
        if !line.ends_with(b"\n") {
            let _ = instead.write_all(b"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_lost_and_the_failure_is_said_once() {
        let (mut fallback, mut instead) = (Fallback::default(), Vec::new());
        let full = || Err(io::Error::from_raw_os_error(libc::ENOSPC));
        for (went, line) in [(full(), "a"), (full(), "b\n"), (Ok(()), "c"), (full(), "d")] {
            fallback.judge(went, "/var/log/care", line.as_bytes(), &mut instead);
        }
        let lines: Vec<String> = String::from_utf8(instead).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[0].contains("cannot log to /var/log/care: No space left"), "{lines:?}");
        assert_eq!((&*lines[1], &*lines[2], &*lines[4]), ("a", "b", "d"));
        assert!(lines[3].contains("cannot log to"), "it failed anew: {lines:?}");
    }
}
