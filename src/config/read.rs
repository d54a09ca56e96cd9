//! Reads each section: its keys, which are required, their defaults and their rules
//! (`docs/protocol.md#configuration-rules`).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use care_protocol::{DeviceId, Policy, PublicKey, RootKeys};
use toml::{Spanned, de::DeTable};

use super::{
    Broker, ClipStore, Cloud, Config, ConfigFault, Detection, Device, Endpoint, FileKind, Listen, Media, Motion, NamedFile, Parsed,
    Process, Recording, RecordingDir, RtspTransport, SnapshotUrl, Source, Spool, StoreCa, TlsFiles, Trust, Upload, Uploader,
    address::{self, Schemes},
    detection,
    fault::Wrong,
    keys::{self, FLASH_A_DAY},
    local_mqtt,
    section::{Findings, Lines, Placed, Section, Value, boolean, integer, path, some_text, text},
};

/// Reads a file's text. Syntax errors are reported beside the faults of whatever could be parsed.
pub(super) fn read(text: &str, file: &Path) -> Parsed {
    let (document, errors) = DeTable::parse_recoverable(text);
    let findings = Findings::new(file, text);
    let mut files = Vec::new();
    let root = Section::root(&findings, document.get_ref(), !errors.is_empty());
    let mut parts = (None, None, None);
    let config = config(root, &mut files, &mut parts, &findings);
    let lines = Lines::read(document.get_ref(), &findings);

    let syntax = Findings::new(file, text);
    for error in &errors {
        syntax.add(error.span().map(|span| span.start), "", Wrong::new(error.message().replace('\n', ", "), "correct the TOML"));
    }
    let mut faults: Vec<ConfigFault> = syntax.into_faults();
    let broken: BTreeSet<usize> = faults.iter().map(|fault| fault.line).collect();
    faults.extend(findings.into_faults().into_iter().filter(|fault| !broken.contains(&fault.line)));
    faults.sort_by_key(|fault| if fault.line == 0 { usize::MAX } else { fault.line });
    let (media, recording, status) = parts;
    let config = config.filter(|_| faults.is_empty());
    Parsed { path: file.to_owned(), config, media, recording, status, files, faults, lines }
}

/// Reads every section, even if others have faults.
fn config(
    root: Section,
    files: &mut Vec<NamedFile>,
    parts: &mut (Option<Media>, Option<Recording>, Option<Listen>),
    findings: &Findings,
) -> Option<Config> {
    let mut named = |section: &str, key: &str, kind: FileKind, path: &Placed<PathBuf>| {
        files.push(NamedFile { key: format!("{section}.{key}"), line: findings.line(Some(path.at)), kind, path: path.value.clone() });
    };
    let device = root.required_section("device", "id, model and state_dir").and_then(|section| device(section, &mut named));
    let mut broker_files = GivenFiles::default();
    let broker = root
        .required_section("broker", "url, ca, client_cert and client_key")
        .and_then(|section| broker(section, &mut broker_files, &mut named));
    let cloud = root.required_section("cloud", "url").and_then(|section| cloud(section, &broker_files, &mut named));
    let trust = root.required_section("trust", "issuer and root_keys").and_then(trust);
    let store = absent_or(&root, "store", |section| clip_store(section, &mut named));
    let free = root.required_section("free", "the model's Free policy: it is the floor when a lease ends").and_then(free);
    let media = absent_or(&root, "media", media);
    let detection = absent_or(&root, "motion", detection::read);
    let media = detection.zip(media).map(|(detection, media)| Some(Media { detection: detection.unwrap_or_default(), ..media? }));
    let recording = absent_or(&root, "recording", |section| recording(section, device.as_ref()));
    let films = root.has("media");
    let uploader = absent_or(&root, "uploader", |section| uploader(section, films));
    let spool = root.section("spool").map_or(Some(Spool::default()), spool);
    let upload = root.section("upload").map_or_else(|| Some(Upload::default()), upload);
    let status = absent_or(&root, "status", |section| {
        let listen = section.required("listen", "write \"127.0.0.1:9180\" or \"unix:/run/kasa-care-agent/status.sock\"", |value| {
            address::listen(text(value)?)
        });
        section.finish();
        Some(listen?.value)
    });
    let local_mqtt = absent_or(&root, "local_mqtt", |section| local_mqtt::read(section, broker.as_ref(), &mut named));
    *parts = (media.clone().flatten(), recording.clone().flatten(), status.clone().flatten());
    let process = root.section("process").map_or(Some(Process::default()), process);
    root.finish();
    Some(Config {
        device: device?,
        broker: broker?,
        cloud: cloud?,
        trust: trust?,
        store: store?,
        free: free?,
        media: media?,
        recording: recording?,
        uploader: uploader?,
        spool: spool?,
        upload: upload?,
        status: status?,
        local_mqtt: local_mqtt?,
        process: process?,
    })
}

/// `Some(None)` where the section is absent, `None` where it has faults.
fn absent_or<'a, 't, 'i, T>(
    root: &Section<'a, 't, 'i>,
    name: &'static str,
    read: impl FnOnce(Section<'a, 't, 'i>) -> Option<T>,
) -> Option<Option<T>> {
    match root.section(name) {
        Some(section) => read(section).map(Some),
        None if root.has(name) => None,
        None => Some(None),
    }
}

fn device(section: Section, named: &mut impl FnMut(&str, &str, FileKind, &Placed<PathBuf>)) -> Option<Device> {
    let id = section.required("id", "write the device id, which is also the CN of its certificate", |value| {
        let id = text(value)?;
        id.parse::<DeviceId>()
            .map_err(|_| Wrong::new(format!("{id:?} is not a device id"), "write 1 to 64 letters, digits, '.', '_' or '-'"))
    });
    let model = section.required("model", "write the model's name, as in \"KC420WS\"", some_text);
    let state_dir = section.required("state_dir", "write \"/var/lib/kasa-care-agent\"", path);
    if let Some(dir) = &state_dir {
        named("device", "state_dir", FileKind::WritableDir, dir);
    }
    section.finish();
    Some(Device { id: id?.value, model: model?.value, state_dir: state_dir?.value })
}

/// The files that one section names itself.
#[derive(Default)]
struct GivenFiles {
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    crl: Option<PathBuf>,
    /// Whether the missing files have been reported already.
    reported: bool,
}

impl GivenFiles {
    fn read(section: &Section, name: &str, named: &mut impl FnMut(&str, &str, FileKind, &Placed<PathBuf>)) -> Self {
        let mut file = |key: &'static str, kind| {
            let path = section.optional(key, path)?;
            named(name, key, kind, &path);
            Some(path.value)
        };
        Self {
            ca: file("ca", FileKind::Authorities),
            client_cert: file("client_cert", FileKind::Certificate),
            client_key: file("client_key", FileKind::PrivateKey),
            crl: file("crl", FileKind::Revocations),
            reported: false,
        }
    }

    /// The files of a TLS endpoint. Those not given here come from `other`; a file that neither has is a fault.
    fn complete(&self, section: &Section, other: &Self, right: &str) -> Option<TlsFiles> {
        let reported = other.reported;
        let pick = |key: &str, own: &Option<PathBuf>, other: &Option<PathBuf>| {
            let file = own.as_ref().or(other.as_ref()).cloned();
            if file.is_none() && !section.has(key) && !reported {
                section.missing(key, right.to_owned());
            }
            file
        };
        let ca = pick("ca", &self.ca, &other.ca);
        let client_cert = pick("client_cert", &self.client_cert, &other.client_cert);
        let client_key = pick("client_key", &self.client_key, &other.client_key);
        let crl = self.crl.as_ref().or(other.crl.as_ref()).cloned();
        Some(TlsFiles { ca: ca?, client_cert: client_cert?, client_key: client_key?, crl })
    }
}

fn url(section: &Section, schemes: &Schemes, right: &str) -> Option<Endpoint> {
    section.required("url", right, |value| address::endpoint(text(value)?, schemes)).map(|url| url.value)
}

fn broker(section: Section, given: &mut GivenFiles, named: &mut impl FnMut(&str, &str, FileKind, &Placed<PathBuf>)) -> Option<Broker> {
    let endpoint = url(&section, &address::MQTT, "write mqtts://host:8883");
    *given = GivenFiles::read(&section, "broker", named);
    let tls = match &endpoint {
        Some(endpoint) if endpoint.tls => given
            .complete(&section, &GivenFiles::default(), "name a PEM file; an mqtts:// broker needs ca, client_cert and client_key")
            .map(Some),
        _ => Some(None),
    };
    given.reported = endpoint.as_ref().is_some_and(|endpoint| endpoint.tls);
    let plaintext = endpoint.as_ref().is_some_and(|endpoint| !endpoint.tls);
    let alpn = match section.optional("alpn", |value| alpn(value, plaintext)) {
        Some(alpn) => Some(Some(alpn.value)),
        None if section.has("alpn") => None,
        None => Some(None),
    };
    let topic_prefix = section.or("topic_prefix", keys::text("broker", "topic_prefix"), topic_prefix);
    section.finish();
    Some(Broker { endpoint: endpoint?, tls: tls?, alpn: alpn?, topic_prefix: topic_prefix? })
}

/// The first levels of topics.
pub(super) fn topic_prefix(value: &Value<'_>) -> Result<String, Wrong> {
    let prefix = text(value)?;
    let level = |level: &str| !level.is_empty() && !level.contains(['+', '#', '\0']);
    if prefix.len() <= 256 && !prefix.starts_with('$') && prefix.split('/').all(level) {
        Ok(prefix.to_owned())
    } else {
        Err(Wrong::new(format!("{prefix:?} is not a topic prefix"), "write levels between slashes without + or #, as in \"care/v1\""))
    }
}

/// The name of an application protocol (RFC 7301: 1 to 255 bytes).
fn alpn(value: &Value<'_>, plaintext: bool) -> Result<String, Wrong> {
    let right = "write \"mqtt\", or \"x-amzn-mqtt-ca\" for port 443 of AWS IoT Core";
    match text(value)? {
        _ if plaintext => Err(Wrong::new("stands beside an mqtt:// broker, and only TLS has ALPN", "remove it, or write mqtts:// in url")),
        name if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(name.to_owned()),
        name => Err(Wrong::new(format!("{name:?} is not the name of an application protocol"), right)),
    }
}

fn cloud(section: Section, broker: &GivenFiles, named: &mut impl FnMut(&str, &str, FileKind, &Placed<PathBuf>)) -> Option<Cloud> {
    let endpoint = url(&section, &address::HTTP, "write https://host:8443");
    let given = GivenFiles::read(&section, "cloud", named);
    let tls = match &endpoint {
        Some(endpoint) if endpoint.tls => {
            given.complete(&section, broker, "name a PEM file; it is taken from [broker] where that has one").map(Some)
        }
        _ => Some(None),
    };
    section.finish();
    Some(Cloud { endpoint: endpoint?, tls: tls? })
}

fn trust(section: Section) -> Option<Trust> {
    let issuer = section.required("issuer", "write the issuer of the documents, as in \"care\"", some_text);
    let example = "write { \"root-2026\" = \"<base64url of 32 bytes>\" }";
    let table = section.required("root_keys", example, |value| match value.as_table() {
        Some(table) if table.is_empty() => Err(Wrong::new("holds no key: no keyset could ever be verified", example)),
        Some(table) => Ok(table),
        None => Err(Wrong::new(format!("is a {}", value.type_str()), example)),
    });
    let root_keys = table.and_then(|table| {
        // Check every key before failing on the first bad one.
        let keys: Vec<_> = table.value.iter().map(|(name, key)| root_key(&section, name.get_ref(), key)).collect();
        keys.into_iter().collect::<Option<RootKeys>>()
    });
    let min_keyset_version = section.number("min_keyset_version");
    section.finish();
    Some(Trust { issuer: issuer?.value, root_keys: root_keys?, min_keyset_version: min_keyset_version? })
}

fn root_key(section: &Section, name: &str, key: &Spanned<Value<'_>>) -> Option<(String, PublicKey)> {
    let right = "write the key as 43 base64url characters (32 bytes) without padding";
    let public = text(key.get_ref()).and_then(|text| text.parse().map_err(|_| Wrong::new("is not an Ed25519 public key", right)));
    let public = public.map_err(|wrong| section.wrong(&format!("root_keys.{name}"), key.span().start, wrong)).ok()?;
    Some((name.to_owned(), public))
}

fn clip_store(section: Section, named: &mut impl FnMut(&str, &str, FileKind, &Placed<PathBuf>)) -> Option<ClipStore> {
    let list = "write a list of hosts, [\"clips.example\"]";
    let array = section.required("hosts", list, |value| match value.as_array() {
        Some(array) if array.is_empty() => Err(Wrong::new("names no host", format!("{list}, or remove [store]"))),
        Some(array) => Ok(array),
        None => Err(Wrong::new(format!("is a {}", value.type_str()), list)),
    });
    let hosts = array.and_then(|array| {
        let hosts: Vec<_> = array.value.iter().map(|host| store_host(&section, host)).collect();
        hosts.into_iter().collect::<Option<BTreeSet<_>>>()
    });
    let ca = section.required("ca", "write \"webpki\" for the public roots, or a PEM file", path);
    if let Some(ca) = ca.as_ref().filter(|ca| ca.value.as_os_str() != "webpki") {
        named("store", "ca", FileKind::Authorities, ca);
    }
    let crl = section.optional("crl", path);
    if let Some(crl) = &crl {
        named("store", "crl", FileKind::Revocations, crl);
    }
    section.finish();
    let ca = ca?.value;
    let ca = if ca.as_os_str() == "webpki" { StoreCa::Webpki } else { StoreCa::File(ca) };
    Some(ClipStore { hosts: hosts?, ca, crl: crl.map(|crl| crl.value) })
}

fn store_host(section: &Section, host: &Spanned<Value<'_>>) -> Option<(String, u16)> {
    let host_and_port = text(host.get_ref()).and_then(address::store_host);
    host_and_port.map_err(|wrong| section.wrong("hosts", host.span().start, wrong)).ok()
}

fn free(section: Section) -> Option<Policy> {
    let limit = |key, what| section.required(key, what, integer(section.range(key))).map(|limit| limit.value as u32);
    let clips = section.required("clips", "write true or false: whether Free uploads clips", boolean);
    let history_h = limit("history_h", "write how many hours old a clip may be");
    let clip_max_s = limit("clip_max_s", "write how many seconds long a clip may be");
    let cooldown_s = limit("cooldown_s", "write how many seconds pass between clips");
    let max_height = limit("max_height", "write how many pixels tall the picture may be");
    let snapshots = section.required("snapshots", "write true or false: whether Free uploads snapshots", boolean);
    section.finish();
    Some(Policy {
        clips: clips?.value,
        history_h: history_h?,
        clip_max_s: clip_max_s?,
        cooldown_s: cooldown_s?,
        max_height: max_height?,
        snapshots: snapshots?.value,
    })
}

fn media(section: Section) -> Option<Media> {
    let source = section.required("source", SOURCES, source);
    let low_source = match section.optional("low_source", self::source) {
        Some(low) => Some(Some(low.value)),
        None if section.has("low_source") => None,
        None => Some(None),
    };
    let pre_roll_s = section.number("pre_roll_s");
    let pre_roll_bytes = section.number("pre_roll_bytes");
    let sound = section.truth("sound");
    let camera = source.as_ref().is_none_or(|source| matches!(source.value, Source::Rtsp(_)));
    let motion = section.or("motion", Motion::default(), |value| match motion(value)? {
        Motion::Onvif if !camera => {
            let right = "name the camera's rtsp:// address in source, or another motion";
            Err(Wrong::new("is \"onvif\", and only an rtsp:// source has ONVIF metadata", right))
        }
        motion => Ok(motion),
    });
    let snapshot_url = section.or("snapshot_url", None, |value| SnapshotUrl::read(text(value)?).map(Some));
    let rtsp_transport = section.or("rtsp_transport", RtspTransport::Auto, rtsp_transport);
    section.finish();
    Some(Media {
        source: source?.value,
        low_source: low_source?,
        rtsp_transport: rtsp_transport?,
        sound: sound?,
        pre_roll: Duration::from_secs(pre_roll_s?),
        pre_roll_bytes: pre_roll_bytes? as usize,
        snapshot_url: snapshot_url?,
        motion: motion?,
        // A section of its own.
        detection: Detection::default(),
    })
}

const SOURCES: &str =
    "write test, v4l2:/dev/video0, rtsp://127.0.0.1/stream, file:/clip.mp4 or launch:<gst-launch description ending in H.264 or H.265>";

/// A fault does not quote the value, because an RTSP URL may carry a password.
fn source(value: &Value<'_>) -> Result<Source, Wrong> {
    let text = text(value)?;
    let rest = |prefix: &str| text.strip_prefix(prefix).map(str::trim);
    let names_nothing = |kind: &str| Err(Wrong::new(format!("{kind} names nothing"), SOURCES));
    match text {
        "test" => Ok(Source::Test),
        _ if rest("rtsp://").is_some() || rest("rtsps://").is_some() => match text.split_once("://") {
            Some((_, address)) if !address.is_empty() && !address.starts_with('/') => Ok(Source::Rtsp(text.into())),
            _ => names_nothing("rtsp://"),
        },
        _ => match (rest("v4l2:"), rest("file:"), rest("launch:")) {
            (Some(""), ..) => names_nothing("v4l2:"),
            (_, Some(""), _) => names_nothing("file:"),
            (.., Some("")) => names_nothing("launch:"),
            (Some(device), ..) => Ok(Source::V4l2(device.into())),
            (_, Some(file), _) => Ok(Source::File(file.into())),
            (.., Some(description)) => Ok(Source::Launch(description.into())),
            _ => Err(Wrong::new("is not a source", SOURCES)),
        },
    }
}

fn rtsp_transport(value: &Value<'_>) -> Result<RtspTransport, Wrong> {
    match text(value)? {
        "auto" => Ok(RtspTransport::Auto),
        "tcp" => Ok(RtspTransport::Tcp),
        "udp" => Ok(RtspTransport::Udp),
        other => Err(Wrong::new(format!("{other:?} is no transport of RTP"), "write auto, tcp or udp")),
    }
}

fn motion(value: &Value<'_>) -> Result<Motion, Wrong> {
    let text = text(value)?;
    let right = "write built-in, bitstream, socket:/run/kasa-care-agent/motion.sock, onvif or every:30s";
    let wrong = || Wrong::new(format!("{text:?} is not a source of motion"), right);
    match text.split_once(':') {
        None if text == "built-in" => Ok(Motion::BuiltIn),
        None if text == "bitstream" => Ok(Motion::Bitstream),
        None if text == "onvif" => Ok(Motion::Onvif),
        Some(("socket", path)) if !path.is_empty() => Ok(Motion::Socket(path.into())),
        Some(("every", pause)) => pause_of(pause).map(Motion::Every).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// `250ms`, `30s`, `5m`, `1h`: greater than zero, at most a day.
fn pause_of(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let pause = number.checked_mul(millis)?;
    (1..=86_400_000).contains(&pause).then(|| Duration::from_millis(pause))
}

fn recording(section: Section, device: Option<&Device>) -> Option<Recording> {
    let dir = section.required("dir", "write where recordings go, as in \"/mnt/sd/recordings\", or \"auto\"", |value| {
        Ok(if text(value)? == "auto" { RecordingDir::Auto } else { RecordingDir::At(path(value)?) })
    });
    let max_bytes = section.required("max_bytes", "write how many bytes recordings may take", integer(section.range("max_bytes")));
    let memory_bytes = section.number("memory_bytes");
    let keep_days = section.or("keep_days", None, |value| Ok(u32::try_from(integer(section.range("keep_days"))(value)?).ok()));
    let is_auto = dir.as_ref().is_some_and(|dir| dir.value == RecordingDir::Auto);
    let allow_internal_storage =
        section.or("allow_internal_storage", keys::truth("recording", "allow_internal_storage"), |value| match boolean(value)? {
            true if is_auto => {
                Err(Wrong::new("stands beside dir = \"auto\", which looks for cards only", "remove it, or name a directory in dir"))
            }
            allowed => Ok(allowed),
        });
    section.finish();
    let own = [Some(PathBuf::from("/")), device.map(|device| device.state_dir.clone())];
    let kept_off = if allow_internal_storage? { Vec::new() } else { own.into_iter().flatten().collect() };
    Some(Recording { dir: dir?.value, max_bytes: max_bytes?.value, memory_bytes: memory_bytes? as usize, keep_days: keep_days?, kept_off })
}

/// Not together with `[media]`: two uploaders could not keep one cooldown between them.
fn uploader(section: Section, films: bool) -> Option<Uploader> {
    let socket = section.required("socket", "write \"unix:/run/kasa-care-agent/uploader.sock\"", |value| {
        if films {
            let right = "remove [media], or [uploader]: a vendor's uploader films and uploads in the agent's place";
            return Err(Wrong::new("stands beside [media]", right));
        }
        address::unix(text(value)?)
    });
    section.finish();
    Some(Uploader { socket: socket?.value })
}

impl Default for Spool {
    /// 8 MB in memory and 64 MB on flash, which may be written ten times a day.
    fn default() -> Self {
        let number = |name| keys::number("spool", name);
        let flash_bytes = number("flash_bytes");
        Self { memory_bytes: number("memory_bytes"), flash_bytes, flash_bytes_per_day: FLASH_A_DAY * flash_bytes }
    }
}

fn spool(section: Section) -> Option<Spool> {
    let memory_bytes = section.number("memory_bytes");
    let flash_bytes = section.number("flash_bytes");
    let a_day = FLASH_A_DAY * flash_bytes.unwrap_or_default();
    let flash_bytes_per_day = section.or("flash_bytes_per_day", a_day, integer(section.range("flash_bytes_per_day")));
    section.finish();
    Some(Spool { memory_bytes: memory_bytes?, flash_bytes: flash_bytes?, flash_bytes_per_day: flash_bytes_per_day? })
}

impl Default for Upload {
    fn default() -> Self {
        Self { uplink_kbps: keys::number("upload", "uplink_kbps") as u32, while_recording: keys::truth("upload", "while_recording") }
    }
}

fn upload(section: Section) -> Option<Upload> {
    let uplink_kbps = section.number("uplink_kbps");
    let while_recording = section.truth("while_recording");
    section.finish();
    Some(Upload { uplink_kbps: uplink_kbps? as u32, while_recording: while_recording? })
}

impl Default for Process {
    fn default() -> Self {
        Self { user: keys::text("process", "user"), restrict_files: keys::truth("process", "restrict_files") }
    }
}

fn process(section: Section) -> Option<Process> {
    let user = section.or("user", keys::text("process", "user"), |value| match some_text(value)? {
        name if name.contains([':', '/', ',']) || name.contains(char::is_whitespace) => {
            Err(Wrong::new(format!("{name:?} is not the name of a user"), "write a name of /etc/passwd"))
        }
        name => Ok(name),
    });
    let restrict_files = section.truth("restrict_files");
    section.finish();
    Some(Process { user: user?, restrict_files: restrict_files? })
}
