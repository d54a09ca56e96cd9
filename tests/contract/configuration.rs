//! `config.schema.json`, which editors use, and the agent's reader judge the same configurations.

use std::path::Path;

use kasa_care_agent::config::Config;
use serde_json::{Value, json};

use super::{
    documents::{Reader, compare},
    schema::{Judge, folder},
};

const SCHEMA: &str = "config.schema";

/// JSON as TOML: every section as an inline table, which TOML 1.0 has on one line.
fn written(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Option<Vec<_>>>()?.join(", ")),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| Some(format!("{} = {}", json!(name), written(value)?));
            format!("{{ {} }}", fields.iter().map(field).collect::<Option<Vec<_>>>()?.join(", "))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    })
}

fn accepts(document: &[u8]) -> bool {
    let document: Value = serde_json::from_slice(document).unwrap();
    let Some(sections) = document.as_object() else { return false };
    let lines: Option<String> = sections.iter().map(|(name, section)| Some(format!("{} = {}\n", json!(name), written(section)?))).collect();
    lines.is_some_and(|text| Config::parse(&text, Path::new("config.toml")).is_ok())
}

fn configuration() -> Value {
    json!({
        "device": { "id": "8006E5A1F0C2", "model": "KC420WS", "state_dir": "/var/lib/kasa-care-agent" },
        "broker": {
            "url": "mqtts://care.example", "ca": "/ca.pem", "client_cert": "/device.pem", "client_key": "/device.key", "crl": "/ca.crl",
            "alpn": "mqtt", "topic_prefix": "care/v1"
        },
        "cloud": { "url": "https://care.example:8443", "ca": "/ca.pem", "client_cert": "/d.pem", "client_key": "/d.key", "crl": "/ca.crl" },
        "trust": {
            "issuer": "care", "root_keys": { "root-2026": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" }, "min_keyset_version": 1
        },
        "store": { "hosts": ["clips.example", "[fd00::2]:9000"], "ca": "webpki", "crl": "/clips.crl" },
        "free": { "clips": true, "history_h": 12, "clip_max_s": 12, "cooldown_s": 300, "max_height": 720, "snapshots": false },
        "media": {
            "source": "rtsp://127.0.0.1/live", "low_source": "v4l2:/dev/video1", "pre_roll_s": 5, "pre_roll_bytes": 6_000_000,
            "rtsp_transport": "auto", "snapshot_url": "http://127.0.0.1/snapshot.jpg", "sound": true, "motion": "every:30s"
        },
        "motion": {
            "sensitivity": 50, "zones": [{ "include": [[0, 0], [100, 0], [100, 100], [0, 100]] }, { "exclude": [10, 10, 20, 20] }],
            "schedule": ["mon-fri 22:00-06:00", "12:30-13:00"]
        },
        "recording": { "dir": "/mnt/sd", "max_bytes": 9, "keep_days": 30, "memory_bytes": 4_000_000, "allow_internal_storage": false },
        "spool": { "memory_bytes": 8_000_000, "flash_bytes": 64_000_000, "flash_bytes_per_day": 640_000_000 },
        "upload": { "uplink_kbps": 0, "while_recording": false },
        "status": { "listen": "127.0.0.1:9180" },
        "local_mqtt": {
            "url": "mqtt://192.168.1.2:1883", "ca": "/home.pem", "username": "camera", "password_file": "/local.password",
            "discovery_prefix": "homeassistant", "base_topic": "kasa-care", "page_url": "http://camera.lan:8080"
        },
        "process": { "user": "kasa-care-agent", "restrict_files": true }
    })
}

#[test]
fn a_configuration_is_judged_alike() {
    let (admitted, refused) = compare(SCHEMA, Reader::Same, &configuration(), accepts);
    assert!(admitted > 80 && refused > 250, "{admitted} admitted, {refused} refused");
}

#[test]
fn values_that_the_reader_refuses_for_their_form_are_refused_by_the_schema() {
    let mut judge = Judge::start();
    let mut judged = |section: &str, key: &str, value: Value| {
        let mut document = configuration();
        // It stands only beside mqtts://, which the schema does not say.
        document["broker"].as_object_mut().unwrap().remove("alpn");
        document[section][key] = value;
        (judge.validate(SCHEMA, &document).0, accepts(document.to_string().as_bytes()))
    };
    for (section, key, good, wrong) in [
        ("device", "id", vec!["a.b_c-1"], vec!["a b", "é", "a/b"]),
        (
            "broker",
            "url",
            vec!["mqtts://h:1", "mqtts://[fd00::1]", "mqtt://127.0.0.1", "mqtt://localhost:1883", "mqtt://[::1]:9"],
            vec!["mqtt://care.example", "https://h", "h:1", "mqtts://u:p@h", "mqtts://h/path", "mqtt://10.0.0.1"],
        ),
        ("cloud", "url", vec!["https://h/", "http://127.9.9.9:80"], vec!["http://h", "https://h/x", "ftp://h", "https://"]),
        ("broker", "topic_prefix", vec!["care", "a/b/c"], vec!["care/+", "/care", "care/", "$SYS", "a//b"]),
        (
            "media",
            "source",
            vec!["test", "file:/x", "launch:videotestsrc ! x264enc", "rtsp://u:p@h/x"],
            vec!["webcam", "file:", "rtsp://", "v4l2: "],
        ),
        ("media", "motion", vec!["built-in", "bitstream", "onvif", "socket:/x", "every:250ms"], vec!["pir", "every:30", "socket:"]),
        ("status", "listen", vec!["unix:/x", "[::1]:80"], vec!["0.0.0.0:80", "unix:", "9180"]),
        ("process", "user", vec!["root"], vec!["a b", "a:b", "/a"]),
        ("recording", "dir", vec!["auto"], vec![""]),
    ] {
        for value in good {
            assert_eq!(judged(section, key, json!(value)), (true, true), "{section}.{key} = {value}");
        }
        for value in wrong {
            assert_eq!(judged(section, key, json!(value)), (false, false), "{section}.{key} = {value}");
        }
    }
    for (key, value) in [
        ("zones", json!([])),
        ("zones", json!([{ "include": [0, 0, 50] }])),
        ("zones", json!([{ "include": [[0, 0], [50, 0]] }])),
        ("zones", json!([{ "within": [0, 0, 50, 50] }])),
        ("schedule", json!(["22:00"])),
        ("schedule", json!(["monday 22:00-23:00"])),
    ] {
        assert_eq!(judged("motion", key, value.clone()), (false, false), "motion.{key} = {value}");
    }
}

#[test]
fn a_vendor_s_uploader_stands_in_the_place_of_the_media() {
    let mut judge = Judge::start();
    let mut document = configuration();
    document["uploader"] = json!({ "socket": "unix:/run/uploader.sock" });
    assert!(!judge.validate(SCHEMA, &document).0 && !accepts(document.to_string().as_bytes()));
    for section in ["media", "motion"] {
        document.as_object_mut().unwrap().remove(section);
    }
    let (valid, why) = judge.validate(SCHEMA, &document);
    assert!(valid && accepts(document.to_string().as_bytes()), "{why}");
}

#[test]
fn the_configurations_of_this_repository_are_valid() {
    let mut judge = Judge::start();
    let deploy = std::fs::read_dir(folder().join("../deploy")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        deploy.filter(|path| path.extension().is_some_and(|ext| ext == "toml")).chain([folder().join("../systemd/config.toml")]).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let document: Value = toml::from_str(&text).unwrap();
        let (valid, why) = judge.validate(SCHEMA, &document);
        assert!(valid && Config::parse(&text, &file).is_ok(), "{}: {why}", file.display());
    }
}
