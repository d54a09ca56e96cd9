//! What each section and key of the configuration means, and the form of what the table in `src/config/keys.rs` only calls
//! text or a list. In Markdown, as docs/configuration.md has it. The firmware does not carry these words.

use serde_json::{Value, json};

/// A section: what it is for, and what holds without it.
pub const SECTIONS: [(&str, &str); 15] = [
    ("device", "The camera."),
    ("broker", "The MQTT broker."),
    ("cloud", "The HTTPS API."),
    ("trust", "Whose documents the camera obeys."),
    ("store", "Other servers that clips may be uploaded to. Absent: grants may only name `cloud.url`'s origin."),
    ("free", "The model's Free policy, all six keys; the floor when a lease has ended."),
    ("media", "Where the picture comes from. Absent: the agent follows the plan without a camera."),
    (
        "motion",
        "How the agent's own detectors, `built-in` and `bitstream`, judge the picture: [motion.md](motion.md).\nNo other detector reads it: \
         `check-config` warns. Absent: the defaults.",
    ),
    ("recording", "Recording to the SD card. Absent: no recording."),
    ("uploader", "A vendor's own uploader: [vendor-uploader.md](vendor-uploader.md).\nAbsent: the agent films and uploads by itself."),
    ("spool", "Clips that wait for upload."),
    ("upload", "How clips leave."),
    ("status", "The status page. Absent: there is none."),
    (
        "local_mqtt",
        "A broker in the home, through which Home Assistant sees the camera.\n[home-assistant.md](home-assistant.md) leads through it. \
         Absent: nothing is told.",
    ),
    ("process", "What the agent gives up when it starts: [What the agent gives up](design/confinement.md)."),
];

/// A key: what it means, and its default in words where the table has none.
pub struct Meaning {
    pub key: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
}

const fn says(key: &'static str, meaning: &'static str) -> Meaning {
    Meaning { key, default: "", meaning }
}

const fn else_says(key: &'static str, default: &'static str, meaning: &'static str) -> Meaning {
    Meaning { key, default, meaning }
}

pub const MEANINGS: &[Meaning] = &[
    says("device.id", "1 to 64 letters, digits, `.`, `_`, `-`. Also the MQTT client id and the CN of the client certificate"),
    says("device.model", "shown to people"),
    says("device.state_dir", "the agent's own directory; `/var/lib/kasa-care-agent` with the unit and the init script"),
    says("broker.url", "`mqtts://host[:8883]`; `mqtt://host[:1883]` only to a loopback host"),
    says(
        "broker.ca",
        "PEM: the authorities that the broker's certificate must chain to. The agent refuses a broker or API that asks for no client \
         certificate",
    ),
    says("broker.client_cert", "PEM: the device's certificate, then its intermediates"),
    says("broker.client_key", "PEM: its private key, mode 0600"),
    says(
        "broker.crl",
        "PEM: revocation lists of those authorities, for servers' certificates. A certificate on a list is refused; an authority without a \
         list, and a list past its `nextUpdate`, change nothing",
    ),
    says(
        "broker.alpn",
        "the application protocol to offer in the TLS handshake (ALPN), for a broker that shares its port: `mqtt`, or `x-amzn-mqtt-ca` for \
         port 443 of AWS IoT Core. Only with `mqtts://`",
    ),
    says("broker.topic_prefix", "topic levels without `+` and `#`"),
    says("cloud.url", "`https://host[:443]`; `http://host[:80]` only to a loopback host; no path"),
    else_says("cloud.ca", "`broker.ca`", "as there"),
    else_says("cloud.client_cert", "`broker.client_cert`", "as there"),
    else_says("cloud.client_key", "`broker.client_key`", "as there"),
    else_says("cloud.crl", "`broker.crl`", "as there"),
    says("trust.issuer", "the `iss` of every document"),
    says(
        "trust.root_keys",
        "at least one: name = Ed25519 public key, base64url of 32 bytes. A key that you remove verifies nothing new; the document that it \
         once verified stays in force until its lease ends",
    ),
    says("trust.min_keyset_version", "the agent refuses lower keyset versions"),
    says("store.hosts", "list of `host[:port]`, port 443"),
    says("store.ca", "a PEM file, or `webpki` for the public roots"),
    says("store.crl", "as `broker.crl`"),
    says("free.clips", "whether clips may be uploaded"),
    says("free.history_h", "how old a clip may be, hours"),
    says("free.clip_max_s", "how long a clip may be, seconds"),
    says("free.cooldown_s", "the pause between clips, seconds"),
    says("free.max_height", "how tall the picture may be, pixels"),
    says("free.snapshots", "whether snapshots may be uploaded"),
    says("media.source", "the stream; see *Sources*"),
    says("media.low_source", "a smaller stream, for policies with a lower `max_height`"),
    says("media.pre_roll_s", "how much of the past a clip begins with, seconds"),
    says(
        "media.pre_roll_bytes",
        "the most memory that the pre-roll of one stream takes, bytes. It must hold more than one keyframe interval: see *Memory*",
    ),
    says(
        "media.rtsp_transport",
        "how RTP comes from `rtsp://` sources: `tcp` within the connection, `udp`, or `auto`: TCP, and UDP from a server that refuses it (461)",
    ),
    else_says(
        "media.snapshot_url",
        "none: snapshots are made of the stream",
        "where the camera's firmware gives a JPEG: `http://[user:password@]host[:port]/path` on a loopback host; see *Snapshots*",
    ),
    says(
        "media.sound",
        "whether sound is recorded in clips and on the card, where a source has some: [media.md](media.md#sound). `false`: a camera is not \
         asked for it",
    ),
    else_says(
        "media.motion",
        "`built-in`; `socket:/run/kasa-care-agent/motion.sock` in a build without GStreamer",
        "what starts a clip; the values are below",
    ),
    says("motion.sensitivity", "1, for what is large or stands out, to 100"),
    else_says(
        "motion.zones",
        "the whole picture",
        "list of `{ include = … }` and `{ exclude = … }`, each a rectangle `[left, top, right, bottom]` or a polygon `[[x, y], …]` in percent of \
         the picture. Motion counts within some `include`, if there is any, and outside every `exclude`. `bitstream` does not see where \
         something moves: `check-config` warns",
    ),
    else_says(
        "motion.schedule",
        "always",
        "list of windows in which motion counts, as `\"mon-fri 22:00-06:00\"`, `\"sat,sun 00:00-24:00\"` or `\"22:00-06:00\"` for every day, in \
         the camera's local time: that of `TZ` or `/etc/localtime`, without either UTC. A window that ends before it begins ends on the day \
         after. While the clock is not set, motion always counts",
    ),
    says(
        "recording.dir",
        "where, on the SD card. While that is on the file system of `/` or of `state_dir`, the agent records nothing and raises the condition \
         `recording`: without its card a camera would fill its own flash. On a new card the agent makes the directory. `auto`: `recordings` \
         on the first card that is mounted at one of the usual places; see *The card*",
    ),
    says("recording.max_bytes", "how much, bytes; the agent deletes the oldest recordings first"),
    else_says(
        "recording.keep_days",
        "as long as there is room",
        "how old recordings may become, days. Counted only while the cloud has confirmed the time",
    ),
    says("recording.memory_bytes", "how much may wait in memory for a slow card, bytes"),
    says("recording.allow_internal_storage", "whether recordings may go to those file systems nevertheless"),
    says("uploader.socket", "`unix:` and an absolute path: where the uploader connects, mode 0660. Not beside `[media]`"),
    says("spool.memory_bytes", "how much may wait for upload in memory, bytes; see *The spool*"),
    says(
        "spool.flash_bytes",
        "how much may wait on flash, in `state_dir/spool`, bytes; 0: clips wait in memory only, and do not survive a restart",
    ),
    else_says(
        "spool.flash_bytes_per_day",
        "ten times `flash_bytes`",
        "how much the spool may write to flash in a day, bytes; beyond it clips wait in memory; see *The spool*",
    ),
    says(
        "upload.uplink_kbps",
        "the uplink's rate, kbit/s; 0: estimated. The agent paces transfers to 80–85 % of it, so that the device's queue is empty when a \
         plan ends",
    ),
    says(
        "upload.while_recording",
        "clips leave in [parts](protocol.md#parts) while they are being filmed, at most about four seconds behind; the cloud must know parts",
    ),
    says("status.listen", "a loopback address and port, or `unix:/path`"),
    says(
        "local_mqtt.url",
        "`mqtt://host[:1883]`, to an address in the home only, or `mqtts://host[:8883]`. Never the broker of `[broker]`",
    ),
    says("local_mqtt.ca", "PEM: the authorities that the broker's certificate must chain to; or `webpki`: the public ones"),
    says("local_mqtt.username", "the camera's user at that broker; together with `password_file`"),
    says(
        "local_mqtt.password_file",
        "the path, from `/` on, of a file that holds the user's password on one line, mode 0600, readable for the agent's user",
    ),
    says("local_mqtt.discovery_prefix", "where Home Assistant looks for devices; at most 128 characters"),
    says("local_mqtt.base_topic", "the camera's own topics begin with it and the device id; at most 128 characters"),
    says(
        "local_mqtt.page_url",
        "where browsers in the home, and Home Assistant, open the camera's page, `http://` or `https://`, without user, password and query; \
         see [The picture](home-assistant.md#the-picture)",
    ),
    says(
        "process.user",
        "the user that the agent becomes when root starts it. If `/etc/passwd` does not have it, the agent stays root without capabilities: \
         condition `runs_as_root`. `root`: so it is meant",
    ),
    says(
        "process.restrict_files",
        "whether Landlock, where the kernel has it, bounds the files that the agent may use to those of its configuration",
    ),
];

/// What JSON Schema can say of a key beyond its kind.
pub fn form(key: &str) -> Value {
    let corner = json!({ "type": "array", "items": { "type": "number", "minimum": 0, "maximum": 100 }, "minItems": 2, "maxItems": 2 });
    let shape = json!({ "anyOf": [
        { "type": "array", "items": corner, "minItems": 3, "maxItems": 64 },
        { "type": "array", "items": { "type": "number", "minimum": 0, "maximum": 100 }, "minItems": 4, "maxItems": 4 },
    ] });
    let zone =
        |counts: &str| json!({ "type": "object", "properties": { counts: shape }, "required": [counts], "additionalProperties": false });
    match key {
        "device.id" => json!({ "pattern": "^[A-Za-z0-9._-]{1,64}$" }),
        "device.model" | "trust.issuer" => json!({ "pattern": "\\S" }),
        "broker.url" => json!({ "pattern": url("mqtt") }),
        "cloud.url" => json!({ "pattern": url("http") }),
        "broker.alpn" => json!({ "pattern": "^[!-~]{1,255}$" }),
        "broker.topic_prefix" => json!({ "pattern": "^[^$+#/][^+#/]*(/[^+#/]+)*$" }),
        "trust.root_keys" => json!({
            "minProperties": 1, "additionalProperties": { "type": "string", "pattern": "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$" }
        }),
        "store.hosts" => json!({
            "minItems": 1, "items": { "type": "string", "pattern": "^(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$" }
        }),
        "media.source" | "media.low_source" => json!({ "pattern": "^(test|(v4l2|file|launch):.*\\S.*|rtsps?://[^/].*)$" }),
        "media.snapshot_url" => json!({ "pattern": "^http://" }),
        "media.motion" => json!({ "pattern": "^(built-in|bitstream|onvif|socket:.+|every:[0-9]+(ms|s|m|h))$" }),
        "motion.zones" => json!({ "minItems": 1, "maxItems": 32, "items": { "anyOf": [zone("include"), zone("exclude")] } }),
        "motion.schedule" => json!({ "minItems": 1, "maxItems": 168, "items": {
            "type": "string", "pattern": "^([A-Za-z]{3}([-,][A-Za-z]{3})* )?[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$"
        } }),
        "uploader.socket" => json!({ "pattern": "^unix:/" }),
        "status.listen" => json!({ "pattern": "^(unix:.+|127(\\.[0-9]{1,3}){3}:[0-9]{1,5}|\\[::1\\]:[0-9]{1,5})$" }),
        "local_mqtt.url" => json!({ "pattern": "^mqtts?://[^/?#@\\s]+/?$" }),
        "local_mqtt.username" => json!({ "pattern": "\\S" }),
        "local_mqtt.password_file" => json!({ "pattern": "^/" }),
        "local_mqtt.discovery_prefix" | "local_mqtt.base_topic" => {
            const LEVEL: &str = "[^+#/\\u0000-\\u001f\\u007f-\\u009f]";
            json!({ "pattern": format!("^(?!\\$){LEVEL}+(/{LEVEL}+)*$"), "maxLength": 128 })
        }
        "local_mqtt.page_url" => json!({ "pattern": "^https?://[^/?#@]+(/[^?#]*)?$" }),
        "process.user" => json!({ "pattern": "^[^\\s:/,]+$" }),
        _ => json!({}),
    }
}

/// Plaintext to this device only.
fn url(scheme: &str) -> String {
    format!(
        "^({scheme}s://[^/?#@\\s]+|{scheme}://([Ll][Oo][Cc][Aa][Ll][Hh][Oo][Ss][Tt]|127(\\.[0-9]{{1,3}}){{3}}|\\[::1\\])(:[0-9]{{1,5}})?)/?$"
    )
}
