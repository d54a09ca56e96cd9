//! A configuration file as far as it can be understood, with every fault of its text and of the files it names. Reading it
//! changes nothing on the camera and starts nothing: what has to be tried is tried by `check-config` (`cli/check`).

use std::{
    fs::Metadata,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Config, ConfigFault, FileKind, Listen, Media, NamedFile, Recording, files::pair_faults, read, section::Lines};
use crate::{confinement, ownership, redact, text_file};

/// The outcome of reading a configuration file. Parts without faults are there even where others have some, so that
/// `check-config` can try them.
#[derive(Debug)]
pub struct Parsed {
    /// The file.
    pub path: PathBuf,
    /// The configuration, if its text has no fault.
    pub config: Option<Config>,
    /// `[media]`, if that section has no fault.
    pub media: Option<Media>,
    /// `[recording]`, if that section has no fault.
    pub recording: Option<Recording>,
    /// Where the status is, if `[status]` has no fault: the running agent may have an older configuration in force.
    pub status: Option<Listen>,
    /// Every file it names.
    pub files: Vec<NamedFile>,
    /// Every fault, in the order of the file; those of named files come last.
    pub faults: Vec<ConfigFault>,
    pub(super) lines: Lines,
}

impl Parsed {
    /// Reads a configuration file; if that fails, this is its only fault.
    pub fn read(path: &Path) -> Self {
        Self::read_and_check(path, |_| None)
    }

    /// Reads a configuration file, and checks who may change it and the keys and certificates it names.
    pub fn read_with_files(path: &Path) -> Self {
        let mut parsed = Self::read_and_check(path, |metadata| ownership::fault(path, metadata));
        let faults: Vec<_> = parsed.files.iter().filter_map(|file| file.fault(path)).collect();
        parsed.faults.extend(faults);
        parsed.faults.extend(parsed.files_out_of_reach());
        // Certificates are compared with keys and the device id only once each is good by itself.
        if let Some(config) = parsed.config.as_ref().filter(|_| parsed.faults.is_empty()) {
            parsed.faults.extend(pair_faults(config, &parsed.files, path));
        }
        parsed
    }

    /// Reads a configuration file; `check` says what is wrong with the open file, and the remedy.
    fn read_and_check(path: &Path, check: impl Fn(&Metadata) -> Option<(String, String)>) -> Self {
        let fault = |(wrong, right)| ConfigFault { file: path.to_owned(), line: 0, key: String::new(), wrong, right };
        let unreadable =
            |error: io::Error| (format!("cannot be read: {error}"), "create it, or name another one with --config FILE".to_owned());
        let read = || {
            let mut file = text_file::open(path).map_err(unreadable)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(unreadable)?;
            let text = text_file::read(&bytes).map_err(|what| ("is no text".to_owned(), what))?;
            let mut parsed = read::read(text, path);
            parsed.faults.extend(file.metadata().ok().and_then(|metadata| check(&metadata)).map(fault));
            Ok(parsed)
        };
        read().unwrap_or_else(|wrong| Self {
            path: path.to_owned(),
            config: None,
            media: None,
            recording: None,
            status: None,
            files: Vec::new(),
            faults: vec![fault(wrong)],
            lines: Lines::default(),
        })
    }

    /// The files that root can read and the agent cannot, because it is another user by then.
    fn files_out_of_reach(&self) -> Vec<ConfigFault> {
        let Some(process) = self.config.as_ref().map(|config| &config.process).filter(|_| self.faults.is_empty()) else {
            return Vec::new();
        };
        let named =
            self.files.iter().filter(|file| file.kind != FileKind::WritableDir).map(|file| (file.line, file.key.clone(), &file.path));
        let files: Vec<_> = std::iter::once((0, String::new(), &self.path)).chain(named).collect();
        let opened = confinement::as_agent(process, || files.iter().map(|(.., path)| text_file::open(path).map(drop)).collect::<Vec<_>>());
        let refused = |((line, key, path), opened): ((usize, String, &PathBuf), io::Result<()>)| {
            let why = opened.err().filter(|error| error.kind() == io::ErrorKind::PermissionDenied)?;
            let (path, name) = (path.display(), confinement::agent_name(process));
            Some(ConfigFault {
                file: self.path.clone(),
                line,
                key,
                wrong: format!("the agent runs as the user {name}, who cannot read {path}: {why}"),
                right: format!("chown {name} {path}, and let {name} pass through its directories; or write [process] user = \"root\""),
            })
        };
        files.into_iter().zip(opened).filter_map(refused).collect()
    }

    /// Whether the file has this section.
    pub fn has(&self, section: &str) -> bool {
        self.lines.of(section) > 0
    }

    /// A fault at `key`, with that key's line. Secrets are taken out of the text.
    pub fn fault_at(&self, key: &str, wrong: &str, right: &str) -> ConfigFault {
        ConfigFault {
            file: self.path.clone(),
            line: self.lines.of(key),
            key: key.to_owned(),
            wrong: redact::text(wrong),
            right: redact::text(right),
        }
    }

    /// The configuration, or every fault.
    pub(super) fn into_result(self) -> Result<Config, Vec<ConfigFault>> {
        self.config.filter(|_| self.faults.is_empty()).ok_or(self.faults)
    }
}
