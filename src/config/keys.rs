//! The table of keys: their types, ranges and defaults, and when a change takes effect. The parser takes ranges and defaults
//! from here, `check-config --print` its order. What each key means is written where only the documentation is made
//! (`tests/reference/meanings.rs`), so that the firmware does not carry it: docs/configuration.md, the manual page and
//! schemas/config.schema.json come from both.

use std::ops::RangeInclusive;

use care_protocol::MAX_INTEGER;

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its section.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What a value is.
    pub kind: Kind,
    /// What holds where it is not given.
    pub default: Preset,
    /// When a change takes effect.
    pub takes: Takes,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string; its form is the reader's to judge.
    Text,
    /// A string, one of these.
    Choice(&'static [&'static str]),
    /// The path of a file or directory.
    Path,
    /// True or false.
    Boolean,
    /// A whole number, from and to.
    Integer(u64, u64),
    /// A list.
    List,
    /// A table.
    Table,
}

/// What holds where a key is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// It must be given, if its section is.
    Required,
    /// It must be given if `url` is one of TLS.
    RequiredForTls,
    /// Nothing.
    Absent,
    /// This number.
    Number(u64),
    /// This.
    Truth(bool),
    /// This string.
    Text(&'static str),
    /// What follows from another key, or from the build.
    Derived,
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// With a reload.
    AtOnce,
    /// When the agent starts next.
    NextStart,
}

/// A section, and whether the agent does not start without it.
pub type SectionEntry = (&'static str, bool);

/// Every section, in the order of the documentation.
pub const SECTIONS: [SectionEntry; 15] = [
    ("device", true),
    ("broker", true),
    ("cloud", true),
    ("trust", true),
    ("store", false),
    ("free", true),
    ("media", false),
    ("motion", false),
    ("recording", false),
    ("uploader", false),
    ("spool", false),
    ("upload", false),
    ("status", false),
    ("local_mqtt", false),
    ("process", false),
];

/// The largest policy limit (`docs/protocol.md#policy`).
const MAX_LIMIT: u64 = (1 << 31) - 1;
/// More than any camera's flash or memory, and small enough that sums of sizes do not overflow.
const MAX_BYTES: u64 = 1 << 50;
/// How often per day `flash_bytes` may be written unless the file says otherwise.
pub(super) const FLASH_A_DAY: u64 = 10;
/// Frames in memory: at least a second of a small stream, at most what 32-bit arithmetic holds with room to spare.
const FRAMES_BYTES: Kind = Kind::Integer(100_000, 1_000_000_000);
const LIMIT: Kind = Kind::Integer(0, MAX_LIMIT);

const fn key(section: &'static str, name: &'static str, kind: Kind, default: Preset, takes: Takes) -> Key {
    Key { section, name, kind, default, takes }
}

use Preset::{Absent, Derived, Number, Required, RequiredForTls, Truth};
use Takes::{AtOnce, NextStart};

/// Every key, by section.
pub const KEYS: &[Key] = &[
    key("device", "id", Kind::Text, Required, NextStart),
    key("device", "model", Kind::Text, Required, NextStart),
    key("device", "state_dir", Kind::Path, Required, NextStart),
    key("broker", "url", Kind::Text, Required, AtOnce),
    key("broker", "ca", Kind::Path, RequiredForTls, AtOnce),
    key("broker", "client_cert", Kind::Path, RequiredForTls, AtOnce),
    key("broker", "client_key", Kind::Path, RequiredForTls, AtOnce),
    key("broker", "crl", Kind::Path, Absent, AtOnce),
    key("broker", "alpn", Kind::Text, Absent, AtOnce),
    key("broker", "topic_prefix", Kind::Text, Preset::Text("care/v1"), NextStart),
    key("cloud", "url", Kind::Text, Required, AtOnce),
    key("cloud", "ca", Kind::Path, Derived, AtOnce),
    key("cloud", "client_cert", Kind::Path, Derived, AtOnce),
    key("cloud", "client_key", Kind::Path, Derived, AtOnce),
    key("cloud", "crl", Kind::Path, Derived, AtOnce),
    key("trust", "issuer", Kind::Text, Required, NextStart),
    key("trust", "root_keys", Kind::Table, Required, NextStart),
    key("trust", "min_keyset_version", Kind::Integer(1, MAX_INTEGER), Number(1), NextStart),
    key("store", "hosts", Kind::List, Required, AtOnce),
    key("store", "ca", Kind::Path, Required, AtOnce),
    key("store", "crl", Kind::Path, Absent, AtOnce),
    key("free", "clips", Kind::Boolean, Required, AtOnce),
    key("free", "history_h", LIMIT, Required, AtOnce),
    key("free", "clip_max_s", LIMIT, Required, AtOnce),
    key("free", "cooldown_s", LIMIT, Required, AtOnce),
    key("free", "max_height", LIMIT, Required, AtOnce),
    key("free", "snapshots", Kind::Boolean, Required, AtOnce),
    key("media", "source", Kind::Text, Required, NextStart),
    key("media", "low_source", Kind::Text, Absent, NextStart),
    // It is held in memory.
    key("media", "pre_roll_s", Kind::Integer(0, 60), Number(5), NextStart),
    // About 5 s of 8 Mbit/s.
    key("media", "pre_roll_bytes", FRAMES_BYTES, Number(6_000_000), NextStart),
    key("media", "rtsp_transport", Kind::Choice(&["auto", "tcp", "udp"]), Preset::Text("auto"), NextStart),
    key("media", "snapshot_url", Kind::Text, Absent, NextStart),
    key("media", "sound", Kind::Boolean, Truth(true), NextStart),
    key("media", "motion", Kind::Text, Derived, NextStart),
    key("motion", "sensitivity", Kind::Integer(1, 100), Number(50), NextStart),
    key("motion", "zones", Kind::List, Absent, NextStart),
    key("motion", "schedule", Kind::List, Absent, NextStart),
    key("recording", "dir", Kind::Path, Required, NextStart),
    key("recording", "max_bytes", Kind::Integer(1, MAX_BYTES), Required, NextStart),
    // Ten years.
    key("recording", "keep_days", Kind::Integer(1, 3650), Absent, NextStart),
    // 4 s of 8 Mbit/s.
    key("recording", "memory_bytes", FRAMES_BYTES, Number(4_000_000), NextStart),
    key("recording", "allow_internal_storage", Kind::Boolean, Truth(false), NextStart),
    key("uploader", "socket", Kind::Text, Required, NextStart),
    key("spool", "memory_bytes", Kind::Integer(1, MAX_BYTES), Number(8_000_000), NextStart),
    key("spool", "flash_bytes", Kind::Integer(0, MAX_BYTES), Number(64_000_000), NextStart),
    key("spool", "flash_bytes_per_day", Kind::Integer(0, FLASH_A_DAY * MAX_BYTES), Derived, NextStart),
    key("upload", "uplink_kbps", Kind::Integer(0, u32::MAX as u64), Number(0), AtOnce),
    key("upload", "while_recording", Kind::Boolean, Truth(false), AtOnce),
    key("status", "listen", Kind::Text, Required, NextStart),
    key("local_mqtt", "url", Kind::Text, Required, NextStart),
    key("local_mqtt", "ca", Kind::Path, RequiredForTls, NextStart),
    key("local_mqtt", "username", Kind::Text, Absent, NextStart),
    key("local_mqtt", "password_file", Kind::Path, Absent, NextStart),
    // Home Assistant's own.
    key("local_mqtt", "discovery_prefix", Kind::Text, Preset::Text("homeassistant"), NextStart),
    key("local_mqtt", "base_topic", Kind::Text, Preset::Text("kasa-care"), NextStart),
    key("local_mqtt", "page_url", Kind::Text, Absent, NextStart),
    // The user that the packages make, and that firmware should.
    key("process", "user", Kind::Text, Preset::Text("kasa-care-agent"), NextStart),
    key("process", "restrict_files", Kind::Boolean, Truth(true), NextStart),
];

/// The entry of a key that the agent reads.
pub(super) fn entry(section: &str, name: &str) -> &'static Key {
    let found = KEYS.iter().find(|key| key.section == section && key.name == name);
    found.expect("the table has every key that is read; a test compares them")
}

/// The numbers that a key may have.
pub(super) fn range(section: &str, name: &str) -> RangeInclusive<u64> {
    match entry(section, name).kind {
        Kind::Integer(from, to) => from..=to,
        _ => 0..=0,
    }
}

/// The number that holds where a key is not given.
pub(super) fn number(section: &str, name: &str) -> u64 {
    match entry(section, name).default {
        Number(number) => number,
        _ => 0,
    }
}

/// What holds where a key of true or false is not given.
pub(super) fn truth(section: &str, name: &str) -> bool {
    entry(section, name).default == Truth(true)
}

/// The string that holds where a key is not given.
pub(super) fn text(section: &str, name: &str) -> String {
    match entry(section, name).default {
        Preset::Text(text) => text.to_owned(),
        _ => String::new(),
    }
}
