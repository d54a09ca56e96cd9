//! Where the log goes: parses `CARE_LOG_TO` and `CARE_LOG_BYTES`. It opens nothing.

use std::{
    env,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use thiserror::Error;

/// The environment variable with the destination.
pub const DESTINATION: &str = "CARE_LOG_TO";
/// The environment variable with the bound of a log file.
pub const BYTES: &str = "CARE_LOG_BYTES";

/// Where syslogd listens.
const SYSLOG: &str = "/dev/log";
/// How large a log file may become. There are two of them.
const FILE_BYTES: u64 = 256 * 1024;
/// A smaller file would be renamed at every other line.
const LEAST_BYTES: u64 = 4096;

/// Where events are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The journal, if standard error leads there, otherwise standard error.
    Standard,
    /// A syslogd that listens on this socket.
    Syslog(PathBuf),
    /// A file, and the one before it.
    File {
        /// The newer one; the older one's name is this with `.1` at its end.
        path: PathBuf,
        /// How large each may become.
        most_bytes: u64,
    },
}

/// Why `CARE_LOG_TO` or `CARE_LOG_BYTES` is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadDestination {
    /// There is no such destination.
    #[error("{DESTINATION}: {0:?} is no destination; write stderr, syslog, syslog:SOCKET or file:/PATH")]
    Destination(OsString),
    /// Not a number of bytes, or too small a number.
    #[error("{BYTES}: {0:?} is no size of a log file; write a number of bytes, {LEAST_BYTES} at least")]
    Bytes(OsString),
}

impl Destination {
    /// Reads the destination from the environment.
    ///
    /// # Errors
    /// What is written there is no destination, or no size.
    pub fn from_env() -> Result<Self, BadDestination> {
        Self::read(env::var_os(DESTINATION), env::var_os(BYTES))
    }

    /// The directory that the agent writes its log to, if it writes files.
    pub fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::File { path, .. } => path.parent().map(PathBuf::from),
            Self::Standard | Self::Syslog(_) => None,
        }
    }

    fn read(to: Option<OsString>, bytes: Option<OsString>) -> Result<Self, BadDestination> {
        let to = to.unwrap_or_default();
        let most_bytes = match bytes.filter(|bytes| !bytes.is_empty()) {
            None => FILE_BYTES,
            Some(text) => {
                let bytes = text.to_str().and_then(|text| text.trim().parse().ok());
                bytes.filter(|bytes| *bytes >= LEAST_BYTES).ok_or(BadDestination::Bytes(text))?
            }
        };
        let after = |prefix: &str| to.as_bytes().strip_prefix(prefix.as_bytes()).filter(|path| path.starts_with(b"/"));
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        match (to.as_bytes(), after("syslog:"), after("file:")) {
            (b"" | b"stderr", ..) => Ok(Self::Standard),
            (b"syslog", ..) => Ok(Self::Syslog(SYSLOG.into())),
            (_, Some(socket), _) => Ok(Self::Syslog(path(socket))),
            (_, _, Some(file)) if !file.ends_with(b"/") => Ok(Self::File { path: path(file), most_bytes }),
            _ => Err(BadDestination::Destination(to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(to: &str, bytes: &str) -> Result<Destination, BadDestination> {
        Destination::read(Some(to.into()), Some(bytes.into()))
    }

    #[test]
    fn every_destination_is_read() {
        assert_eq!(Destination::read(None, None), Ok(Destination::Standard));
        assert_eq!(read("", ""), Ok(Destination::Standard));
        assert_eq!(read("stderr", ""), Ok(Destination::Standard));
        assert_eq!(read("syslog", ""), Ok(Destination::Syslog("/dev/log".into())));
        assert_eq!(read("syslog:/run/log", ""), Ok(Destination::Syslog("/run/log".into())));
        let file = read("file:/var/log/care/log", "").unwrap();
        assert_eq!(file, Destination::File { path: "/var/log/care/log".into(), most_bytes: 262_144 });
        assert_eq!(file.directory(), Some("/var/log/care".into()));
        assert_eq!(read("file:/l", "8192"), Ok(Destination::File { path: "/l".into(), most_bytes: 8192 }));
    }

    #[test]
    fn anything_else_is_refused_with_what_is_right() {
        for to in ["journal", "Syslog", "file", "file:", "file:log", "file:/var/log/", "/var/log/x", "syslog:log", "syslog "] {
            let said = read(to, "").unwrap_err().to_string();
            assert!(said.contains("stderr, syslog, syslog:SOCKET or file:/PATH") && said.contains(to), "{said}");
        }
        for bytes in ["256K", "0", "-1", "4095", "1e6"] {
            assert!(read("file:/l", bytes).unwrap_err().to_string().contains("4096 at least"), "{bytes}");
        }
    }
}
