//! `check-config --print`: the configuration that is in effect, as TOML, with the origin of each value beside it. Secrets are
//! hidden; otherwise the text gives an equal configuration when it is read again.

use std::fmt::{Display, Write as _};

use super::{
    Config, Endpoint, Listen, LocalMqtt, Media, Motion, Recording, RecordingDir, RtspTransport, Source, StoreCa, TlsFiles, Zone,
    keys::{self, KEYS, Preset, SECTIONS},
    parsed::Parsed,
};

/// A value as TOML, and whether a secret was taken out of it.
struct Shown {
    toml: String,
    hidden: bool,
}

impl Parsed {
    /// The configuration in effect; `None` if the text has faults.
    pub fn print(&self) -> Option<String> {
        let config = self.config.as_ref()?;
        let mut text = String::new();
        for (section, _) in SECTIONS {
            let keys: Vec<_> = KEYS.iter().filter(|key| key.section == section).collect();
            let shown: Vec<_> = keys.iter().map(|key| value(config, section, key.name)).collect();
            // Writing to a string cannot fail.
            if shown.iter().all(Option::is_none) {
                let _ = writeln!(text, "# [{section}] is not set\n");
                continue;
            }
            let _ = writeln!(text, "[{section}]");
            for (key, shown) in keys.iter().zip(shown) {
                let name = key.name;
                let Some(Shown { toml, hidden }) = shown else {
                    let _ = writeln!(text, "# {name} is not set");
                    continue;
                };
                let hidden = if hidden { ", its secret hidden" } else { "" };
                let _ = writeln!(text, "{name} = {toml}  # {}{hidden}", self.origin(key));
            }
            text.push('\n');
        }
        text.truncate(text.trim_end().len() + 1);
        Some(text)
    }

    /// Where a value comes from.
    fn origin(&self, key: &keys::Key) -> String {
        let keys::Key { section, name, default, .. } = *key;
        if let Some(line) = self.lines.given(&format!("{section}.{name}")) {
            return format!("line {line}");
        }
        match (section, name, default) {
            ("cloud", ..) => match self.lines.given(&format!("broker.{name}")) {
                Some(line) => format!("broker.{name}, line {line}"),
                None => "default".to_owned(),
            },
            ("spool", "flash_bytes_per_day", _) => format!("default, {} times flash_bytes", keys::FLASH_A_DAY),
            ("media", "motion", Preset::Derived) => "default of this build".to_owned(),
            _ => "default".to_owned(),
        }
    }
}

/// The value of a key in effect; `None` where nothing is set.
fn value(config: &Config, section: &str, name: &str) -> Option<Shown> {
    let Config { device, broker, cloud, trust, store, free, media, recording, uploader, spool, upload, status, local_mqtt, process } =
        config;
    let toml = match (section, name) {
        ("device", "id") => text(&device.id),
        ("device", "model") => text(&device.model),
        ("device", "state_dir") => text(device.state_dir.display()),
        ("broker", "url") => endpoint(&broker.endpoint, "mqtt"),
        ("broker", "alpn") => text(broker.alpn.as_ref()?),
        ("broker", "topic_prefix") => text(&broker.topic_prefix),
        ("broker", file) => tls_file(broker.tls.as_ref()?, file)?,
        ("cloud", "url") => endpoint(&cloud.endpoint, "http"),
        ("cloud", file) => tls_file(cloud.tls.as_ref()?, file)?,
        ("trust", "issuer") => text(&trust.issuer),
        ("trust", "root_keys") => {
            let keys = trust.root_keys.iter().map(|(name, key)| format!("{} = {}", text(name), text(key.to_base64url())));
            format!("{{ {} }}", joined(keys))
        }
        ("trust", _) => trust.min_keyset_version.to_string(),
        ("store", "hosts") => {
            let authority = |(host, port): &(String, u16)| Endpoint { host: host.clone(), port: *port, tls: true }.authority();
            format!("[{}]", joined(store.as_ref()?.hosts.iter().map(|host| text(authority(host)))))
        }
        ("store", "ca") => store_ca(&store.as_ref()?.ca),
        ("store", _) => text(store.as_ref()?.crl.as_ref()?.display()),
        ("free", "clips") => free.clips.to_string(),
        ("free", "history_h") => free.history_h.to_string(),
        ("free", "clip_max_s") => free.clip_max_s.to_string(),
        ("free", "cooldown_s") => free.cooldown_s.to_string(),
        ("free", "max_height") => free.max_height.to_string(),
        ("free", _) => free.snapshots.to_string(),
        ("media" | "motion", _) => return of_media(media.as_ref()?, section, name),
        ("recording", _) => of_recording(recording.as_ref()?, name)?,
        ("uploader", _) => text(format!("unix:{}", uploader.as_ref()?.socket.display())),
        ("spool", "memory_bytes") => spool.memory_bytes.to_string(),
        ("spool", "flash_bytes") => spool.flash_bytes.to_string(),
        ("spool", _) => spool.flash_bytes_per_day.to_string(),
        ("upload", "uplink_kbps") => upload.uplink_kbps.to_string(),
        ("upload", _) => upload.while_recording.to_string(),
        ("status", _) => match status.as_ref()? {
            Listen::Tcp(address) => text(address),
            Listen::Unix(path) => text(format!("unix:{}", path.display())),
        },
        ("local_mqtt", _) => of_local_mqtt(local_mqtt.as_ref()?, name)?,
        ("process", "user") => text(&process.user),
        ("process", _) => process.restrict_files.to_string(),
        _ => return None,
    };
    Some(Shown { toml, hidden: false })
}

fn of_media(media: &Media, section: &str, name: &str) -> Option<Shown> {
    let Media { source, low_source, rtsp_transport, sound, pre_roll, pre_roll_bytes, snapshot_url, motion, detection } = media;
    let toml = match (section, name) {
        ("media", "source") => return Some(self::source(source)),
        ("media", "low_source") => return low_source.as_ref().map(self::source),
        ("media", "rtsp_transport") => text(match rtsp_transport {
            RtspTransport::Auto => "auto",
            RtspTransport::Tcp => "tcp",
            RtspTransport::Udp => "udp",
        }),
        ("media", "sound") => sound.to_string(),
        ("media", "pre_roll_s") => pre_roll.as_secs().to_string(),
        ("media", "pre_roll_bytes") => pre_roll_bytes.to_string(),
        ("media", "snapshot_url") => {
            let url = snapshot_url.as_ref()?;
            return Some(Shown { toml: text(url), hidden: url.is_shown_in_part() });
        }
        ("media", _) => text(match motion {
            Motion::BuiltIn => "built-in".to_owned(),
            Motion::Bitstream => "bitstream".to_owned(),
            Motion::Socket(path) => format!("socket:{}", path.display()),
            Motion::Onvif => "onvif".to_owned(),
            Motion::Every(pause) => format!("every:{}ms", pause.as_millis()),
        }),
        ("motion", "sensitivity") => detection.sensitivity.to_string(),
        ("motion", "zones") if !detection.zones.is_empty() => format!("[{}]", joined(detection.zones.iter().map(zone))),
        ("motion", "schedule") if detection.schedule.is_limited() => format!("[{}]", joined(detection.schedule.windows().map(text))),
        _ => return None,
    };
    Some(Shown { toml, hidden: false })
}

fn of_recording(recording: &Recording, name: &str) -> Option<String> {
    let Recording { dir, max_bytes, memory_bytes, keep_days, kept_off } = recording;
    Some(match (name, dir) {
        ("dir", RecordingDir::Auto) => text("auto"),
        ("dir", RecordingDir::At(dir)) => text(dir.display()),
        ("max_bytes", _) => max_bytes.to_string(),
        ("memory_bytes", _) => memory_bytes.to_string(),
        ("keep_days", _) => (*keep_days)?.to_string(),
        _ => kept_off.is_empty().to_string(),
    })
}

fn of_local_mqtt(local: &LocalMqtt, name: &str) -> Option<String> {
    let LocalMqtt { endpoint, ca, login, discovery_prefix, base_topic, page_url } = local;
    if !cfg!(feature = "local-mqtt") && name != "url" {
        return None;
    }
    Some(match name {
        "url" => self::endpoint(endpoint, "mqtt"),
        "ca" => store_ca(ca.as_ref()?),
        "username" => text(&login.as_ref()?.0),
        "password_file" => text(login.as_ref()?.1.display()),
        "discovery_prefix" => text(discovery_prefix),
        "base_topic" => text(base_topic),
        _ => text(page_url.as_ref()?),
    })
}

fn store_ca(ca: &StoreCa) -> String {
    match ca {
        StoreCa::File(path) => text(path.display()),
        StoreCa::Webpki => text("webpki"),
    }
}

/// As the configuration writes it, without what may be secret.
fn source(source: &Source) -> Shown {
    match source {
        Source::Launch(description) => Shown { toml: text(format!("launch:{description}")), hidden: true },
        Source::Rtsp(url) => Shown { toml: text(url), hidden: url.to_string() != url.expose() },
        Source::Test | Source::V4l2(_) | Source::File(_) => Shown { toml: text(source), hidden: false },
    }
}

fn tls_file(files: &TlsFiles, name: &str) -> Option<String> {
    let TlsFiles { ca, client_cert, client_key, crl } = files;
    let path = match name {
        "ca" => ca,
        "client_cert" => client_cert,
        "client_key" => client_key,
        _ => crl.as_ref()?,
    };
    Some(text(path.display()))
}

fn endpoint(endpoint: &Endpoint, scheme: &str) -> String {
    let secure = if endpoint.tls { "s" } else { "" };
    text(format!("{scheme}{secure}://{}", endpoint.authority()))
}

/// A polygon, as the reader keeps rectangles too.
fn zone(zone: &Zone) -> String {
    let counts = if zone.counts { "include" } else { "exclude" };
    // The reader takes four decimals.
    let number = |number: f32| format!("{number:.4}").trim_end_matches('0').trim_end_matches('.').to_owned();
    format!("{{ {counts} = [{}] }}", joined(zone.corners.iter().map(|(x, y)| format!("[{}, {}]", number(*x), number(*y)))))
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// A string of TOML.
fn text(text: impl Display) -> String {
    let mut quoted = String::from("\"");
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
