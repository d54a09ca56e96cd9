//! The configuration file (section 3.7): TOML in, checked values out. Every fault is found at once and names its line and key.

mod address;
mod fault;
mod files;
mod read;
mod section;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    fs::{File, Metadata},
    io::{self, Read},
    iter,
    path::{Path, PathBuf},
    time::Duration,
};

use care_protocol::{DeviceId, Policy, RootKeys};

pub use crate::tls::{StoreCa, TlsFiles};
pub use fault::ConfigFault;
pub use files::{FileKind, NamedFile};

use crate::{
    ownership,
    redact::{self, Secret},
    text_file, tls,
};
use section::Lines;

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/kasa-care-agent/config.toml";

/// What a configuration file says, with everything that is wrong with it.
struct Reading {
    /// The configuration, if it has no fault.
    config: Option<Config>,
    /// Every fault, in the order of the file.
    faults: Vec<ConfigFault>,
    /// Every file it names, also where the rest has faults.
    files: Vec<NamedFile>,
    /// What it says of the camera, also where the rest has faults.
    media: Option<Media>,
    recording: Option<Recording>,
    lines: Lines,
}

impl Reading {
    /// Reads a file; if that fails, this is its only fault.
    fn of(path: &Path) -> Self {
        Self::of_checked(path, |_| None)
    }

    /// The same, with what `look` finds wrong with the open file.
    fn of_checked(path: &Path, look: impl Fn(&Metadata) -> Option<(String, String)>) -> Self {
        let fault = |(wrong, right)| ConfigFault { file: path.to_owned(), line: 0, key: String::new(), wrong, right };
        let unreadable =
            |error: io::Error| (format!("cannot be read: {error}"), "create it, or name another one with --config FILE".to_owned());
        let read = || {
            let mut file = File::open(path).map_err(unreadable)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(unreadable)?;
            let text = text_file::read(&bytes).map_err(|what| ("is no text".to_owned(), what))?;
            let mut reading = read::read(text, path);
            reading.faults.extend(file.metadata().ok().and_then(|metadata| look(&metadata)).map(fault));
            Ok(reading)
        };
        read().unwrap_or_else(|wrong| Self {
            config: None,
            faults: vec![fault(wrong)],
            files: Vec::new(),
            media: None,
            recording: None,
            lines: Lines::default(),
        })
    }

    /// Reads a file that says whom the device believes: nobody else may change it.
    fn of_owned(path: &Path) -> Self {
        Self::of_checked(path, |metadata| ownership::fault(path, metadata))
    }

    /// Looks at the named files too, whatever faults the text has.
    fn look_at_files(&mut self, path: &Path, which: impl Fn(FileKind) -> bool) {
        let alone = self.files.iter().filter(|file| which(file.kind)).filter_map(|file| file.fault(path));
        self.faults.extend(alone.collect::<Vec<_>>());
        if let Some(config) = &self.config {
            if self.faults.iter().all(|fault| fault.key == "device.state_dir") {
                self.faults.extend(files::pair_faults(config, &self.files, path));
            }
        }
    }

    fn ended(self) -> Result<Config, Vec<ConfigFault>> {
        self.config.filter(|_| self.faults.is_empty()).ok_or(self.faults)
    }
}

/// Everything that can be said of a configuration file without trying what it describes. Whoever tries adds what he finds.
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// The configuration, if its text has no fault.
    pub config: Option<Config>,
    /// `[media]`, if that has no fault.
    pub media: Option<Media>,
    /// `[recording]`, if that has no fault.
    pub recording: Option<Recording>,
    /// The files it names.
    pub files: Vec<NamedFile>,
    /// What does not work.
    pub faults: Vec<ConfigFault>,
    /// What works, and somebody should look at.
    pub warnings: Vec<ConfigFault>,
    lines: Lines,
}

impl Checked {
    /// Something does not work that this key describes.
    pub fn fault(&mut self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.faults.push(self.at(key, wrong.into(), right.into()));
    }

    /// Something works that this key describes, and somebody should look at it.
    pub fn warn(&mut self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.warnings.push(self.at(key, format!("warning: {}", wrong.into()), right.into()));
    }

    fn at(&self, key: &str, wrong: String, right: String) -> ConfigFault {
        ConfigFault {
            file: self.path.clone(),
            line: self.lines.of(key),
            key: key.to_owned(),
            wrong: redact::text(&wrong),
            right: redact::text(&right),
        }
    }

    /// The directories of the files that say whom the device believes, and what of those files is skipped.
    fn look_at_trust(&mut self) {
        let authorities: Vec<_> = self.files.iter().filter(|file| file.kind == FileKind::Authorities).cloned().collect();
        let mut directories = BTreeSet::new();
        for (key, file) in iter::once(("", self.path.clone())).chain(authorities.iter().map(|file| (file.key.as_str(), file.path.clone())))
        {
            if directories.insert(file.parent().map(Path::to_owned)) {
                if let Some((wrong, right)) = ownership::directory_fault(&file) {
                    self.warn(key, wrong, right);
                }
            }
        }
        for file in authorities {
            // A file that cannot be read at all is a fault, and was found already.
            for skipped in tls::skipped(&file.path).unwrap_or_default() {
                let wrong = format!("{} is read without its {skipped}", file.path.display());
                self.warn(&file.key, wrong, "remove that part from the file, or replace it");
            }
        }
    }

    /// Looks whether this camera's GStreamer has what the built-in motion needs. The agent starts without it too: it follows
    /// the plan, and its status says what is missing.
    fn look_at_motion(&mut self) {
        let Some(media) = self.media.as_ref().filter(|media| media.motion == Motion::BuiltIn) else { return };
        if let Err(wrong) = crate::media::built_in_available(&media.source) {
            self.fault("media.motion", wrong, "install it, or write motion = \"socket:/run/kasa-care-agent/motion.sock\" or \"every:30s\"");
        }
    }
}

/// A configuration without faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[device]`
    pub device: Device,
    /// `[broker]`
    pub broker: Broker,
    /// `[cloud]`
    pub cloud: Cloud,
    /// `[trust]`
    pub trust: Trust,
    /// `[store]`: where grants may send clips besides the cloud's own origin.
    pub store: Option<ClipStore>,
    /// `[free]`: the model's Free policy, and the floor when a lease ends.
    pub free: Policy,
    /// `[media]`; absent: no camera, the agent only follows the plan.
    pub media: Option<Media>,
    /// `[recording]`
    pub recording: Option<Recording>,
    /// `[uploader]`; absent: the agent uploads by itself.
    pub uploader: Option<Uploader>,
    /// `[spool]`
    pub spool: Spool,
    /// `[upload]`
    pub upload: Upload,
    /// `[status]`; absent: no status page.
    pub status: Option<Listen>,
}

impl Config {
    /// Reads a configuration's text; `path` is only named in faults. Every fault is found at once.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<ConfigFault>> {
        read::read(text, path).ended()
    }

    /// Reads a configuration file. The files it names are not looked at; see [`Config::load_with_files`].
    pub fn load(path: &Path) -> Result<Self, Vec<ConfigFault>> {
        Reading::of(path).ended()
    }

    /// Reads a configuration file and looks at who may change it and at the keys and certificates it names: what the agent
    /// starts with, and what it takes over on SIGHUP. A state directory that cannot be written is no fault here: the agent
    /// obeys what it can read.
    pub fn load_with_files(path: &Path) -> Result<Self, Vec<ConfigFault>> {
        let mut reading = Reading::of_owned(path);
        reading.look_at_files(path, |kind| kind != FileKind::WritableDir);
        reading.ended()
    }

    /// Reads a configuration file and looks at everything it names or needs, by writing to the state directory too.
    pub fn check(path: &Path) -> Checked {
        let mut reading = Reading::of_owned(path);
        reading.look_at_files(path, |_| true);
        let Reading { config, faults, files, media, recording, lines } = reading;
        let mut checked = Checked { path: path.to_owned(), config, media, recording, files, faults, warnings: Vec::new(), lines };
        checked.look_at_trust();
        checked.look_at_motion();
        checked
    }
}

/// Which camera this is.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// The device id, which is also the client certificate's CN.
    pub id: DeviceId,
    /// The model's name, shown to people.
    pub model: String,
    /// Where the agent keeps its state.
    pub state_dir: PathBuf,
}

/// A host and port to connect to, and whether over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name or an address (IPv6 without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
    /// False for plaintext, which only a loopback host may have.
    pub tls: bool,
}

/// The MQTT broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Broker {
    /// `mqtts://host:8883`, or `mqtt://` to a loopback address.
    pub endpoint: Endpoint,
    /// Absent exactly when the endpoint is plaintext.
    pub tls: Option<TlsFiles>,
    /// The application protocol to offer (ALPN): `mqtt` on a shared port 443, `x-amzn-mqtt-ca` with AWS IoT Core.
    pub alpn: Option<String>,
    /// `care/v1` by default.
    pub topic_prefix: String,
}

/// The HTTPS API.
#[derive(Debug, Clone, PartialEq)]
pub struct Cloud {
    /// `https://host:8443`, or `http://` to a loopback address.
    pub endpoint: Endpoint,
    /// The broker's files unless given; absent exactly when the endpoint is plaintext.
    pub tls: Option<TlsFiles>,
}

/// Whom the device believes.
#[derive(Debug, Clone, PartialEq)]
pub struct Trust {
    /// The `iss` of every document.
    pub issuer: String,
    /// The offline root keys by name.
    pub root_keys: RootKeys,
    /// Keysets below this version are refused.
    pub min_keyset_version: u64,
}

/// Other hosts that a grant may name.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipStore {
    /// Host (lowercase) and port; 443 unless given.
    pub hosts: BTreeSet<(String, u16)>,
    /// Whom these hosts' certificates must chain to.
    pub ca: StoreCa,
    /// Revocation lists of those authorities, PEM.
    pub crl: Option<PathBuf>,
}

impl ClipStore {
    /// The files it names.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let Self { hosts: _, ca, crl } = self;
        let ca = match ca {
            StoreCa::File(path) => Some(path),
            StoreCa::Webpki => None,
        };
        ca.into_iter().chain(crl).map(PathBuf::as_path)
    }
}

/// Where frames come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Media {
    /// The stream.
    pub source: Source,
    /// A smaller stream, for policies with a lower `max_height`.
    pub low_source: Option<Source>,
    /// How much of the past a clip begins with; 5 s unless given.
    pub pre_roll: Duration,
    /// What starts a clip.
    pub motion: Motion,
}

/// One video source.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A moving picture, 640×360 at 15 fps.
    Test,
    /// A V4L2 device.
    V4l2(PathBuf),
    /// An RTSP URL.
    Rtsp(Secret),
    /// A recorded file, looped in real time.
    File(PathBuf),
    /// A GStreamer description that ends in H.264.
    Launch(Secret),
}

impl fmt::Display for Source {
    /// As people may see it: no password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test => f.write_str("test"),
            Self::V4l2(path) => write!(f, "v4l2:{}", path.display()),
            Self::Rtsp(url) => write!(f, "{url}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Launch(_) => f.write_str("launch"),
        }
    }
}

impl Source {
    /// GStreamer's words about this source, without any part of its secrets.
    pub fn hide_in(&self, words: &str) -> String {
        match self {
            Self::Rtsp(secret) | Self::Launch(secret) => secret.hide_in(words),
            Self::Test | Self::V4l2(_) | Self::File(_) => words.to_owned(),
        }
    }
}

/// Where motion events come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Motion {
    /// Frame difference on a small grey picture.
    BuiltIn,
    /// One JSON object a line on a unix socket.
    Socket(PathBuf),
    /// One event every so often.
    Every(Duration),
}

/// Recording to the SD card.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Where.
    pub dir: PathBuf,
    /// How much, in bytes.
    pub max_bytes: u64,
    /// The camera's own directories, whose file systems recordings never go to: without its card the directory is on one of
    /// them. Empty with `allow_internal_storage`.
    pub kept_off: Vec<PathBuf>,
}

/// A vendor's own uploader, which films and uploads in the agent's place.
#[derive(Debug, Clone, PartialEq)]
pub struct Uploader {
    /// The unix socket it connects to.
    pub socket: PathBuf,
}

/// How much may wait for upload.
#[derive(Debug, Clone, PartialEq)]
pub struct Spool {
    /// In memory, bytes.
    pub memory_bytes: u64,
    /// On flash, bytes.
    pub flash_bytes: u64,
    /// Bytes that may be written to flash a day.
    pub flash_bytes_per_day: u64,
}

/// How uploads use the link.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// The uplink's rate in kbit/s; 0: estimated.
    pub uplink_kbps: u32,
}

/// Where the status page listens.
#[derive(Debug, Clone, PartialEq)]
pub enum Listen {
    /// A loopback address and port.
    Tcp(std::net::SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}
