//! The configuration file: TOML in, typed values out (`docs/protocol.md#configuration-rules`). Every fault is reported at once,
//! with its line and key. Nothing here starts a pipeline, opens a socket or writes a file.

mod address;
mod detection;
mod fault;
mod files;
pub mod keys;
mod local_mqtt;
mod parsed;
mod print;
mod read;
mod section;
mod snapshot;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use care_protocol::{DeviceId, Policy, RootKeys};

pub use crate::tls::{StoreCa, TlsFiles};
pub use detection::{Detection, Schedule, Zone};
pub use fault::ConfigFault;
pub(crate) use fault::nearest;
pub use files::{FileKind, NamedFile};
pub use local_mqtt::LocalMqtt;
pub use parsed::Parsed;
pub use snapshot::SnapshotUrl;

use crate::redact::Secret;

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/kasa-care-agent/config.toml";

/// A valid configuration.
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
    /// `[free]`: the model's Free policy. It also applies once a lease has ended.
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
    /// `[local_mqtt]`; absent: Home Assistant is told nothing.
    pub local_mqtt: Option<LocalMqtt>,
    /// `[process]`
    pub process: Process,
}

impl Config {
    /// Reads a configuration's text; `path` is only named in faults.
    ///
    /// # Errors
    /// Every fault of the text.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<ConfigFault>> {
        read::read(text, path).into_result()
    }

    /// Reads a configuration file, but none of the files it names; see [`Config::load_with_files`].
    ///
    /// # Errors
    /// Every fault of the text, or why the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, Vec<ConfigFault>> {
        Parsed::read(path).into_result()
    }

    /// Reads a configuration file and checks who may change it and the keys and certificates it names. The agent does this
    /// when it starts and on SIGHUP.
    ///
    /// A state directory that cannot be written is no fault here: the agent obeys the state it can read.
    ///
    /// # Errors
    /// Every fault of the text and of the named files.
    pub fn load_with_files(path: &Path) -> Result<Self, Vec<ConfigFault>> {
        Parsed::read_with_files(path).into_result()
    }
}

/// The camera's identity.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// The device id, which is also the client certificate's CN.
    pub id: DeviceId,
    /// The model's name, shown to people.
    pub model: String,
    /// Where the agent keeps its state.
    pub state_dir: PathBuf,
}

/// A host and port to connect to, with or without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name or an address (IPv6 without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
    /// False for plaintext, which is allowed for loopback hosts only.
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

/// The keys and issuer that the device trusts.
#[derive(Debug, Clone, PartialEq)]
pub struct Trust {
    /// The `iss` of every document.
    pub issuer: String,
    /// The offline root keys, by name.
    pub root_keys: RootKeys,
    /// Keysets below this version are refused.
    pub min_keyset_version: u64,
}

/// The hosts besides the cloud's own that a grant may name.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipStore {
    /// Host (lowercase) and port; 443 unless given.
    pub hosts: BTreeSet<(String, u16)>,
    /// The authorities that these hosts' certificates must chain to.
    pub ca: StoreCa,
    /// Revocation lists of those authorities, PEM.
    pub crl: Option<PathBuf>,
}

impl ClipStore {
    /// The certificate files that it names.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let Self { hosts: _, ca, crl } = self;
        let ca = match ca {
            StoreCa::File(path) => Some(path),
            StoreCa::Webpki => None,
        };
        ca.into_iter().chain(crl).map(PathBuf::as_path)
    }
}

/// Where frames and motion events come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Media {
    /// The stream.
    pub source: Source,
    /// A smaller stream, for policies with a lower `max_height`.
    pub low_source: Option<Source>,
    /// How RTP comes from `rtsp://` sources.
    pub rtsp_transport: RtspTransport,
    /// Whether sound is recorded with the picture, where a camera sends sound that can be; true unless given.
    pub sound: bool,
    /// How long before its event a clip begins; 5 s unless given.
    pub pre_roll: Duration,
    /// The most memory that the pre-roll of one stream takes, bytes; 6 MB unless given.
    pub pre_roll_bytes: usize,
    /// Where the camera's firmware gives a JPEG, for snapshots; `None`: they are frames of the stream.
    pub snapshot_url: Option<SnapshotUrl>,
    /// What starts a clip.
    pub motion: Motion,
    /// `[motion]`: how the agent's own detectors judge the picture.
    pub detection: Detection,
}

/// How RTP comes from an RTSP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RtspTransport {
    /// Within the TCP connection, and by UDP from a server that refuses that.
    #[default]
    Auto,
    /// Within the TCP connection only.
    Tcp,
    /// By UDP only.
    Udp,
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
    /// A GStreamer description that ends in H.264 or H.265.
    Launch(Secret),
}

impl fmt::Display for Source {
    /// Shows no password.
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
    /// Removes this source's secrets from a message about it.
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
    /// What moves in small grey pictures.
    BuiltIn,
    /// What the sizes of coded pictures tell, in every build.
    Bitstream,
    /// One JSON object a line on a unix socket.
    Socket(PathBuf),
    /// The camera's own ONVIF metadata, beside the picture of an `rtsp://` source.
    Onvif,
    /// One event per interval.
    Every(Duration),
}

impl Default for Motion {
    /// Built-in where this build can decode pictures; otherwise the socket at which `kasa-care-agent motion` and the camera's
    /// software report.
    fn default() -> Self {
        if cfg!(feature = "gstreamer") { Self::BuiltIn } else { Self::Socket("/run/kasa-care-agent/motion.sock".into()) }
    }
}

/// Recording to the SD card.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Where.
    pub dir: RecordingDir,
    /// How much, in bytes.
    pub max_bytes: u64,
    /// How many bytes of frames may wait in memory for a slow card; 4 MB unless given.
    pub memory_bytes: usize,
    /// How many days recordings are kept, if the card has room; `None`: until it has not.
    pub keep_days: Option<u32>,
    /// Directories on the camera's internal file systems. Recordings never go to those file systems: when the card is missing,
    /// `dir` is on one of them. Empty with `allow_internal_storage`.
    pub kept_off: Vec<PathBuf>,
}

/// Where recordings go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordingDir {
    /// This directory.
    At(PathBuf),
    /// `recordings` on the first card that is mounted at one of [`CARD_MOUNTS`].
    Auto,
}

/// Where firmware mounts SD cards, in the order in which `[recording] dir = "auto"` tries them. None is directly below `/`:
/// the agent's own confinement covers a card from the directory above its mount point.
pub const CARD_MOUNTS: [&str; 10] = [
    "/mnt/mmcblk0p1",
    "/mnt/mmcblk0",
    "/media/mmcblk0p1",
    "/media/mmcblk0",
    "/mnt/mmcblk1p1",
    "/media/mmcblk1p1",
    "/mnt/sd",
    "/mnt/sdcard",
    "/media/sd",
    "/media/sdcard",
];

impl RecordingDir {
    /// The directories to try, in order.
    pub fn candidates(&self) -> Vec<PathBuf> {
        match self {
            Self::At(dir) => vec![dir.clone()],
            Self::Auto => CARD_MOUNTS.iter().map(|mount| Path::new(mount).join("recordings")).collect(),
        }
    }
}

impl<P: AsRef<Path>> From<P> for RecordingDir {
    fn from(dir: P) -> Self {
        Self::At(dir.as_ref().to_owned())
    }
}

/// A vendor's own uploader, which records and uploads instead of the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Uploader {
    /// The unix socket it connects to.
    pub socket: PathBuf,
}

/// How much may wait for upload, and how much flash may be worn for it.
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
    /// Whether clips leave in parts while they are being filmed (`docs/protocol.md#parts`). False unless given: the cloud
    /// must know parts.
    pub while_recording: bool,
}

/// What the agent gives up when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The user that it becomes if root starts it; `kasa-care-agent` unless given.
    pub user: String,
    /// Whether Landlock bounds the files that it may use; true unless given.
    pub restrict_files: bool,
}

/// Where the status page listens.
#[derive(Debug, Clone, PartialEq)]
pub enum Listen {
    /// A loopback address and port.
    Tcp(std::net::SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}
