use proptest::prelude::*;

use super::*;

/// The example configuration that the packages install.
const EXAMPLE: &str = include_str!("../../systemd/config.toml");

const MINIMAL: &str = r#"[device]
id = "8006E5A1F0C2"
model = "KC420WS"
state_dir = "/var/lib/kasa-care-agent"
[broker]
url = "mqtts://care.example"
ca = "/ca.pem"
client_cert = "/device.pem"
client_key = "/device.key"
[cloud]
url = "https://care.example"
[trust]
issuer = "care"
root_keys = { "root-2026" = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" }
[free]
clips = true
history_h = 12
clip_max_s = 12
cooldown_s = 300
max_height = 720
snapshots = false
"#;

fn parse(text: &str) -> Result<Config, Vec<ConfigFault>> {
    Config::parse(text, Path::new("config.toml"))
}

fn minimal() -> Config {
    parse(MINIMAL).expect("the minimal configuration is valid")
}

/// The faults as `line key`, in the order of the file.
fn faults(text: &str) -> Vec<String> {
    let faults = parse(text).expect_err("has faults");
    for fault in &faults {
        assert!(!fault.wrong.is_empty() && !fault.right.is_empty(), "{fault}");
    }
    faults.iter().map(|fault| format!("{} {}", fault.line, fault.key)).collect()
}

#[test]
fn the_installed_example_has_the_documented_values() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.device.id.as_str(), "8006E5A1F0C2");
    assert_eq!(config.broker.endpoint, Endpoint { host: "care.example".into(), port: 8883, tls: true });
    assert_eq!(config.store.unwrap().hosts, BTreeSet::from([("clips.example".to_owned(), 443)]));
    assert_eq!(config.media.unwrap().low_source, Some(Source::Rtsp("rtsp://127.0.0.1/low".into())));
    assert_eq!(config.recording.unwrap().max_bytes, 8_000_000_000);
    assert_eq!(config.status, Some(Listen::Tcp("127.0.0.1:9180".parse().unwrap())));
}

#[test]
fn the_profile_for_32_mb_bounds_every_buffer() {
    let config = parse(include_str!("../../deploy/config-32mb.toml")).unwrap();
    let (media, recording) = (config.media.unwrap(), config.recording.unwrap());
    let held = config.spool.memory_bytes + (media.pre_roll_bytes + recording.memory_bytes) as u64;
    assert!(held <= 6_000_000, "{held} bytes");
    // A second of 1 Mbit/s is 125,000 bytes.
    assert!(media.pre_roll_bytes as u64 >= 2 * 125_000 * media.pre_roll.as_secs(), "the pre-roll fits, with a keyframe interval as long");
    assert!(config.spool.memory_bytes >= 2 * 125_000 * u64::from(config.free.clip_max_s), "half of it takes a whole clip");
    assert_eq!((media.low_source, config.spool.flash_bytes), (None, 0));
}

#[test]
fn missing_keys_have_their_defaults() {
    let config = minimal();
    assert_eq!(config.broker.topic_prefix, "care/v1");
    assert_eq!(config.broker.endpoint.port, 8883);
    assert_eq!(config.cloud.endpoint.port, 443);
    assert_eq!(config.cloud.tls, config.broker.tls, "the cloud's files are the broker's unless given");
    assert_eq!(config.trust.min_keyset_version, 1);
    assert_eq!(config.spool, Spool { memory_bytes: 8_000_000, flash_bytes: 64_000_000, flash_bytes_per_day: 640_000_000 });
    assert_eq!(config.upload.uplink_kbps, 0);
    assert_eq!((config.media, config.recording, config.store, config.status), (None, None, None, None));
    assert_eq!(config.uploader, None);

    let media = parse(&format!("{MINIMAL}[media]\nsource = \"test\"\n")).unwrap().media.unwrap();
    let motion = if cfg!(feature = "gstreamer") { Motion::BuiltIn } else { Motion::Socket("/run/kasa-care-agent/motion.sock".into()) };
    let (rtsp_transport, pre_roll) = (RtspTransport::Auto, Duration::from_secs(5));
    assert_eq!(
        media,
        Media {
            source: Source::Test,
            low_source: None,
            rtsp_transport,
            snapshot_url: None,
            sound: true,
            pre_roll,
            pre_roll_bytes: 6_000_000,
            motion,
            detection: Detection::default()
        }
    );
    let card = parse(&format!("{MINIMAL}[recording]\ndir = \"/mnt/sd/recordings\"\nmax_bytes = 8_000_000_000\n")).unwrap().recording;
    let card = card.unwrap();
    assert_eq!((card.memory_bytes, card.keep_days), (4_000_000, None));
}

#[test]
fn the_api_may_use_other_files_than_the_broker() {
    let config = parse(&MINIMAL.replace("[trust]", "ca = \"/other.pem\"\n[trust]")).unwrap();
    let (broker, cloud) = (config.broker.tls.unwrap(), config.cloud.tls.unwrap());
    assert_eq!(cloud.ca, PathBuf::from("/other.pem"));
    assert_eq!(cloud.client_key, broker.client_key);
}

#[test]
fn revocation_lists_are_configured_like_authorities() {
    let config = parse(&MINIMAL.replace("client_key = \"/device.key\"", "client_key = \"/device.key\"\ncrl = \"/ca.crl\"")).unwrap();
    assert_eq!(config.broker.tls.unwrap().crl, Some(PathBuf::from("/ca.crl")));
    assert_eq!(config.cloud.tls.unwrap().crl, Some(PathBuf::from("/ca.crl")));
    let store = parse(&format!("{MINIMAL}[store]\nhosts = [\"clips.example\"]\nca = \"webpki\"\ncrl = \"/clips.crl\"\n")).unwrap().store;
    assert_eq!(store.unwrap().crl, Some(PathBuf::from("/clips.crl")));
}

#[test]
fn plaintext_to_loopback_needs_no_files() {
    let files = "ca = \"/ca.pem\"\nclient_cert = \"/device.pem\"\nclient_key = \"/device.key\"\n";
    let text =
        MINIMAL.replace(files, "").replace("mqtts://care.example", "mqtt://127.0.0.1").replace("https://care.example", "http://[::1]:80");
    let config = parse(&text).unwrap();
    assert_eq!((config.broker.tls, config.cloud.tls), (None, None));
    assert_eq!(config.cloud.endpoint, Endpoint { host: "::1".into(), port: 80, tls: false });
}

#[test]
fn every_kind_of_source_and_motion_is_read() {
    let media = |lines: &str| parse(&format!("{MINIMAL}[media]\n{lines}\n")).unwrap().media.unwrap();
    assert_eq!(media("source = \"v4l2:/dev/video0\"").source, Source::V4l2("/dev/video0".into()));
    assert_eq!(media("source = \"file:/clip.mp4\"").source, Source::File("/clip.mp4".into()));
    assert_eq!(media("source = \"launch:videotestsrc ! x264enc\"").source, Source::Launch("videotestsrc ! x264enc".into()));
    assert_eq!(media("source = \"test\"\nmotion = \"socket:/run/m.sock\"").motion, Motion::Socket("/run/m.sock".into()));
    assert_eq!(media("source = \"test\"\nmotion = \"bitstream\"").motion, Motion::Bitstream);
    assert_eq!(media("source = \"test\"\nmotion = \"every:30s\"").motion, Motion::Every(Duration::from_secs(30)));
    assert_eq!(media("source = \"rtsp://127.0.0.1/live\"\nmotion = \"onvif\"").motion, Motion::Onvif);
    assert_eq!(media("source = \"test\"\nmotion = \"every:250ms\"").motion, Motion::Every(Duration::from_millis(250)));
    assert_eq!(media("source = \"test\"\npre_roll_s = 0").pre_roll, Duration::ZERO);
    assert_eq!(media("source = \"test\"\nrtsp_transport = \"tcp\"").rtsp_transport, RtspTransport::Tcp);
    assert_eq!(media("source = \"test\"\nrtsp_transport = \"udp\"").rtsp_transport, RtspTransport::Udp);
    assert_eq!(media("source = \"test\"\nrtsp_transport = \"auto\"").rtsp_transport, RtspTransport::Auto);
    assert!(!media("source = \"test\"\nsound = false").sound && media("source = \"test\"").sound);
}

#[test]
fn motion_has_a_sensitivity_zones_and_a_schedule() {
    let media = |lines: &str| parse(&format!("{MINIMAL}[media]\nsource = \"test\"\n{lines}\n")).unwrap().media.unwrap();
    assert_eq!(media("").detection, Detection::default());
    assert_eq!(media("[motion]").detection, Detection { sensitivity: 50, zones: Vec::new(), schedule: Schedule::default() });
    let zones = "zones = [{ include = [0, 50, 100.0, 100] }, { exclude = [[0, 50], [20, 50], [0, 100]] }]";
    let read = media(&format!("[motion]\nsensitivity = 80\n{zones}\nschedule = [\"mon-fri 22:00-06:00\"]")).detection;
    let lower = Zone { counts: true, corners: vec![(0.0, 50.0), (100.0, 50.0), (100.0, 100.0), (0.0, 100.0)] };
    let corner = Zone { counts: false, corners: vec![(0.0, 50.0), (20.0, 50.0), (0.0, 100.0)] };
    assert_eq!((read.sensitivity, &read.zones[..]), (80, &[lower, corner][..]));
    assert!(read.counts_at(50.0, 60.0) && !read.counts_at(50.0, 40.0) && !read.counts_at(5.0, 60.0));
    assert!(read.schedule.covers(1, 5 * 60) && !read.schedule.covers(1, 12 * 60));
}

#[test]
fn a_fault_of_motion_names_its_key_its_item_and_the_remedy() {
    let cases = [
        ("sensitivity = 0", "motion.sensitivity: is 0; write a whole number from 1 to 100"),
        ("sensitivity = \"high\"", "motion.sensitivity: is a string; write a whole number from 1 to 100"),
        ("zones = []", "motion.zones: is empty; write { include = [left"),
        ("zones = [{ include = [0, 0, 10, 10] }, { exclude = [10, 0, 10, 9] }]", "motion.zones: item 2 has the rectangle [10, 0, 10, 9]"),
        ("zones = [{ include = [0, 0, 10, 110] }]", "motion.zones: item 1 holds what is no number from 0 to 100; write"),
        ("zones = [{ include = [[0, 0], [9, 9]] }]", "motion.zones: item 1 has 2 corners; write 3 to 64"),
        ("zones = [{ include = [[0, 0], [9, 9], [3]] }]", "motion.zones: item 1 has a corner that is no [x, y]; write"),
        ("zones = [{ include = [1, 2] }]", "motion.zones: item 1 is neither a rectangle of four numbers nor a polygon; write"),
        ("zones = [{ inside = [0, 0, 1, 1] }]", "motion.zones: item 1 has the key \"inside\"; write { include"),
        ("zones = [[0, 0, 1, 1]]", "motion.zones: item 1 is not one of include and exclude; write"),
        ("zones = [{ exclude = [0, 0, 100, 100] }]", "motion.zones: leaves no part of the picture in which motion counts; include more"),
        ("schedule = \"22:00-06:00\"", "motion.schedule: is a string; write windows of local time"),
        ("schedule = [\"mon 6:00-7:00\"]", "motion.schedule: item 1 is \"mon 6:00-7:00\", which is no window of time; write"),
        ("schedule = [\"00:00-24:00\", \"mo 06:00-07:00\"]", "motion.schedule: item 2 is \"mo 06:00-07:00\""),
        ("schedule = [\"06:00-06:00\"]", "motion.schedule: item 1 is \"06:00-06:00\", which holds nothing; write 00:00-24:00"),
        ("schedule = [\"00:00-24:01\"]", "motion.schedule: item 1 is \"00:00-24:01\""),
        ("zone = 3", "motion.zone: is not a known key; did you mean zones?"),
    ];
    for (line, expected) in cases {
        let faults = parse(&format!("{MINIMAL}[media]\nsource = \"test\"\n[motion]\n{line}\n")).expect_err(line);
        let said = faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(said.len() == 1 && said[0].starts_with(&format!("config.toml:25: {expected}")), "{line}: {said:?}");
    }
}

/// Each key that a section may have is explained, and each explained key may be there.
#[test]
fn the_reference_explains_every_key_of_motion() {
    let reference = include_str!("../../docs/configuration.md");
    let fault = parse(&format!("{MINIMAL}[motion]\nxyzzy = 1\n")).expect_err("an unknown key").remove(0);
    let known = fault.right.split_once("known here: ").unwrap().1.split(", ");
    let mut explained: Vec<&str> =
        reference.lines().filter_map(|line| line.strip_prefix("| `motion.")?.split_once('`').map(|(key, _)| key)).collect();
    explained.sort_unstable();
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    assert_eq!(explained, known);
}

#[test]
fn a_vendors_uploader_excludes_media() {
    let with = |lines: &str| format!("{MINIMAL}{lines}\n");
    let uploader = parse(&with("[uploader]\nsocket = \"unix:/run/kasa-care-agent/uploader.sock\"")).unwrap().uploader;
    assert_eq!(uploader, Some(Uploader { socket: "/run/kasa-care-agent/uploader.sock".into() }));
    assert_eq!(faults(&with("[uploader]")), ["22 uploader.socket"]);
    for wrong in ["127.0.0.1:9181", "unix:", "unix:uploader.sock", "/run/uploader.sock"] {
        assert_eq!(faults(&with(&format!("[uploader]\nsocket = {wrong:?}"))), ["23 uploader.socket"], "{wrong}");
    }
    assert_eq!(faults(&with("[uploader]\nsocket = \"unix:/run/u.sock\"\nsockets = 2")), ["24 uploader.sockets"]);
    assert_eq!(faults(&with("[uploader]\nsocket = \"unix:/run/u.sock\"\n[media]\nsource = \"test\"")), ["23 uploader.socket"]);
}

#[test]
fn alpn_is_allowed_over_tls_only() {
    let alpn = "client_key = \"/device.key\"\nalpn = \"x-amzn-mqtt-ca\"";
    let text = MINIMAL.replacen("client_key = \"/device.key\"", alpn, 1);
    let config = Config::parse(&text, Path::new("config.toml")).unwrap();
    assert_eq!(config.broker.alpn.as_deref(), Some("x-amzn-mqtt-ca"));
    assert_eq!(faults(&text.replacen("mqtts://care.example", "mqtt://127.0.0.1", 1)), ["10 broker.alpn"]);
}

/// One wrong line each; the fault must name that line and key.
#[test]
fn a_wrong_value_is_reported_with_its_line_and_key() {
    let cases = [
        ("id = \"8006E5A1F0C2\"", "id = \"a/b\"", "2 device.id"),
        ("id = \"8006E5A1F0C2\"", "id = 8006", "2 device.id"),
        ("id = \"8006E5A1F0C2\"", "id = \"..\"", "2 device.id"),
        ("model = \"KC420WS\"", "model = \" \"", "3 device.model"),
        ("state_dir = \"/var/lib/kasa-care-agent\"", "state_dir = \"\"", "4 device.state_dir"),
        ("mqtts://care.example", "mqtt://care.example", "6 broker.url"),
        ("mqtts://care.example", "mqtt://10.0.0.2:1883", "6 broker.url"),
        ("mqtts://care.example", "tcp://care.example", "6 broker.url"),
        ("mqtts://care.example", "care.example", "6 broker.url"),
        ("mqtts://care.example", "mqtts://user:secret@care.example", "6 broker.url"),
        ("mqtts://care.example", "mqtts://care.example:99999", "6 broker.url"),
        ("https://care.example", "http://care.example", "11 cloud.url"),
        ("https://care.example", "https://care.example/base", "11 cloud.url"),
        ("https://care.example", "mqtts://care.example", "11 cloud.url"),
        ("issuer = \"care\"", "issuer = true", "13 trust.issuer"),
        ("issuer = \"care\"", "issuer = \"care\"\nmin_keyset_version = 0", "14 trust.min_keyset_version"),
        ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"", "AAEC\"", "14 trust.root_keys.root-2026"),
        ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"", "14 trust.root_keys.root-2026"),
        ("{ \"root-2026\" = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\" }", "{}", "14 trust.root_keys"),
        ("{ \"root-2026\" = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\" }", "\"AA\"", "14 trust.root_keys"),
        ("clips = true", "clips = \"true\"", "16 free.clips"),
        ("history_h = 12", "history_h = -1", "17 free.history_h"),
        ("history_h = 12", "history_h = 12.0", "17 free.history_h"),
        ("clip_max_s = 12", "clip_max_s = 2147483648", "18 free.clip_max_s"),
        ("snapshots = false", "snapshots = false\n[spool]\nmemory_bytes = 0", "23 spool.memory_bytes"),
        ("snapshots = false", "snapshots = false\n[upload]\nuplink_kbps = 4294967296", "23 upload.uplink_kbps"),
        ("snapshots = false", "snapshots = false\n[status]\nlisten = \"0.0.0.0:9180\"", "23 status.listen"),
        ("snapshots = false", "snapshots = false\n[status]\nlisten = \"unix:\"", "23 status.listen"),
        ("snapshots = false", "snapshots = false\n[recording]\ndir = \"/mnt\"\nmax_bytes = 0", "24 recording.max_bytes"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"webcam\"", "23 media.source"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"rtsp://\"", "23 media.source"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"file:\"", "23 media.source"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\nlow_source = 3", "24 media.low_source"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\nsound = 1", "24 media.sound"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\npre_roll_s = 61", "24 media.pre_roll_s"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\npre_roll_bytes = 99_999", "24 media.pre_roll_bytes"),
        ("snapshots = false", "snapshots = false\n[recording]\ndir = \"/mnt\"\nmax_bytes = 9\nkeep_days = 0", "25 recording.keep_days"),
        ("snapshots = false", "snapshots = false\n[recording]\ndir = \"/mnt\"\nmax_bytes = 9\nkeep_days = 3651", "25 recording.keep_days"),
        (
            "snapshots = false",
            "snapshots = false\n[recording]\ndir = \"/sd\"\nmax_bytes = 9\nmemory_bytes = 2_000_000_000",
            "25 recording.memory_bytes",
        ),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\nmotion = \"every:0s\"", "24 media.motion"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\nmotion = \"every:30\"", "24 media.motion"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\nmotion = \"pir\"", "24 media.motion"),
        ("snapshots = false", "snapshots = false\n[media]\nsource = \"test\"\nmotion = \"onvif\"", "24 media.motion"),
        ("snapshots = false", "snapshots = false\n[store]\nca = \"webpki\"\nhosts = [\"https://clips.example\"]", "24 store.hosts"),
        ("snapshots = false", "snapshots = false\n[store]\nca = \"webpki\"\nhosts = []", "24 store.hosts"),
        ("client_key = \"/device.key\"", "client_key = \"/device.key\"\ntopic_prefix = \"care/+\"", "10 broker.topic_prefix"),
        ("client_key = \"/device.key\"", "client_key = \"/device.key\"\ntopic_prefix = \"/care\"", "10 broker.topic_prefix"),
        ("client_key = \"/device.key\"", "client_key = \"/device.key\"\nalpn = \"\"", "10 broker.alpn"),
        ("client_key = \"/device.key\"", "client_key = \"/device.key\"\nalpn = \"mqtt, http/1.1\"", "10 broker.alpn"),
        ("client_key = \"/device.key\"", "client_key = \"/device.key\"\nalpn = [\"mqtt\"]", "10 broker.alpn"),
    ];
    for (good, bad, expected) in cases {
        let text = MINIMAL.replacen(good, bad, 1);
        assert_ne!(text, MINIMAL, "{good} stands in the file");
        assert_eq!(faults(&text), [expected], "{bad}");
    }
}

#[test]
fn a_missing_key_is_reported_with_its_section() {
    let without = |line: &str| faults(&MINIMAL.replacen(line, "", 1));
    assert_eq!(without("model = \"KC420WS\"\n"), ["1 device.model"]);
    assert_eq!(without("client_key = \"/device.key\"\n"), ["5 broker.client_key"]);
    assert_eq!(without("url = \"https://care.example\"\n"), ["10 cloud.url"]);
    assert_eq!(without("cooldown_s = 300\n"), ["15 free.cooldown_s"]);
    assert_eq!(
        faults(&format!("{MINIMAL}[media]\n[store]\n[recording]\n[status]\n")),
        ["22 media.source", "23 store.hosts", "23 store.ca", "24 recording.dir", "24 recording.max_bytes", "25 status.listen"]
    );
    assert_eq!(faults(""), ["0 device", "0 broker", "0 cloud", "0 trust", "0 free"]);
}

#[test]
fn an_unknown_key_is_a_fault_that_suggests_the_closest_key() {
    let fault = |text: String| parse(&text).expect_err("has faults").remove(0).to_string();
    let slip = fault(MINIMAL.replace("state_dir", "satte_dir"));
    assert!(slip.contains("is missing") || slip.contains("did you mean state_dir?"), "{slip}");
    assert_eq!(faults(&MINIMAL.replace("state_dir", "satte_dir")), ["1 device.state_dir", "4 device.satte_dir"]);
    let section = fault(format!("{MINIMAL}[stauts]\nlisten = \"127.0.0.1:1\"\n"));
    assert_eq!(section, "config.toml:22: stauts: is not a known section; did you mean status?");
    let stray = fault(format!("{MINIMAL}colour = \"blue\"\n"));
    assert!(stray.starts_with("config.toml:22: free.colour: is not a known key; remove it; known here: clips, "), "{stray}");
    assert_eq!(faults(&format!("upload = 3\n{MINIMAL}")), ["1 upload"]);
}

#[test]
fn all_faults_are_reported_at_once() {
    let text = MINIMAL
        .replace("8006E5A1F0C2", "a b")
        .replace("mqtts://", "mqtt://")
        .replace("clips = true", "clips = 1")
        .replace("root_keys = {", "root_keys = { \"second\" = \"short\", \"third\" = 3, ")
        + "[store]\nhosts = [\n  \"good.example\",\n  \"bad host\",\n  7,\n]\nca = \"webpki\"\n";
    assert_eq!(
        faults(&text),
        [
            "2 device.id",
            "6 broker.url",
            "14 trust.root_keys.second",
            "14 trust.root_keys.third",
            "16 free.clips",
            "25 store.hosts",
            "26 store.hosts"
        ]
    );
}

#[test]
fn syntax_errors_are_reported_beside_other_faults() {
    let text = MINIMAL.replace("model = \"KC420WS\"", "model = \"KC420WS").replace("clips = true", "clips = 1");
    assert_eq!(faults(&text), ["3 ", "16 free.clips"]);
    assert_eq!(faults(&format!("{MINIMAL}snapshots = true\n")), ["22 "], "a key twice");
}

#[test]
fn faults_do_not_quote_secrets() {
    let text = MINIMAL.replace("mqtts://", "mqtts://user:canary@") + "[media]\nsource = \"rtsp:/user:canary@camera\"\n";
    for fault in parse(&text).expect_err("has faults") {
        assert!(!fault.to_string().contains("canary"), "{fault}");
    }
    // In any key, with or without other faults.
    let secret = "rtsp://admin:can/ary@camera/live?token=canary";
    for value in [secret, "admin:canary@camera/live", "https://u:canary@h"] {
        for line in [
            format!("[media]\nsource = \"test\"\nmotion = \"{value}\""),
            format!("[media]\nsource = \"x{value}\""),
            format!("[media]\nsource = {value}"),
            format!("[media]\nsource = \"{value}"),
            format!("[status]\nlisten = \"{value}\""),
            format!("[store]\nca = \"webpki\"\nhosts = [\"{value}\"]"),
            format!("[uploader]\nsocket = \"{value}\""),
            format!("[\"{value}\"]"),
        ] {
            for fault in parse(&format!("{MINIMAL}{line}\n")).expect_err("has faults") {
                let fault = fault.to_string();
                assert!(!fault.contains("canary") && !fault.contains("ary@"), "{line}: {fault}");
            }
        }
    }
    let media = parse(&format!("{MINIMAL}[media]\nsource = \"{secret}\"\n")).unwrap().media;
    assert!(!format!("{media:?}").contains("ary"), "{media:?}");
}

/// Every section and key, with values that are not the defaults.
const WHOLE: &str = r#"[device]
id = "8006E5A1F0C2"
model = "KC \"420\" \\"
state_dir = "/var/lib/kasa-care-agent"
[broker]
url = "mqtts://care.example:443"
ca = "/ca.pem"
client_cert = "/device.pem"
client_key = "/device.key"
crl = "/ca.crl"
alpn = "mqtt"
topic_prefix = "care/v2"
[cloud]
url = "https://[fd00::1]:8443"
ca = "/other.pem"
[trust]
issuer = "care"
root_keys = { "root-2026" = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", root2 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" }
min_keyset_version = 7
[store]
hosts = ["clips.example", "[fd00::2]:9000"]
ca = "webpki"
crl = "/clips.crl"
[free]
clips = false
history_h = 1
clip_max_s = 2
cooldown_s = 3
max_height = 4
snapshots = true
[media]
source = "rtsp://camera/live"
low_source = "v4l2:/dev/video1"
pre_roll_s = 4
pre_roll_bytes = 1_200_000
rtsp_transport = "udp"
snapshot_url = "http://127.0.0.1:8080/snapshot.jpg"
sound = false
motion = "every:90s"
[motion]
sensitivity = 70
zones = [{ include = [0, 33.3333, 100, 99.9999] }, { exclude = [[70.5, 30], [100, 30.25], [100, 60]] }]
schedule = ["mon-fri 22:00-06:00", "sat,sun 00:00-24:00", "12:30-13:00"]
[recording]
dir = "/mnt/sd"
max_bytes = 9
keep_days = 30
memory_bytes = 200_000
allow_internal_storage = true
[spool]
memory_bytes = 1
flash_bytes = 0x10
flash_bytes_per_day = 17
[upload]
uplink_kbps = 800
while_recording = true
[status]
listen = "unix:/run/status.sock"
[local_mqtt]
url = "mqtts://broker.lan:8884"
ca = "/home.pem"
username = "camera \" 1"
password_file = "/local.password"
discovery_prefix = "ha"
base_topic = "cameras/care"
page_url = "https://camera.lan/care/"
[process]
user = "root"
restrict_files = false
"#;

fn printed(text: &str) -> String {
    read::read(text, Path::new("config.toml")).print().unwrap_or_else(|| panic!("{:?}", parse(text)))
}

// Builds without the feature read no more of [local_mqtt] than its address.
#[cfg(feature = "local-mqtt")]
#[test]
fn what_is_printed_gives_an_equal_configuration() {
    let plaintext = MINIMAL.replace("mqtts://care.example", "mqtt://127.0.0.1");
    let uploader = format!("{MINIMAL}[uploader]\nsocket = \"unix:/run/u.sock\"\n");
    let defaults = format!("{MINIMAL}[media]\nsource = \"test\"\n[recording]\ndir = \"auto\"\nmax_bytes = 5\n[motion]\n");
    for text in [EXAMPLE, include_str!("../../deploy/config-32mb.toml"), MINIMAL, WHOLE, &plaintext, &uploader, &defaults] {
        let printed = printed(text);
        assert_eq!(parse(&printed), parse(text), "{printed}");
        let again = self::printed(&printed);
        let values = |text: &str| text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&printed));
    }
}

#[test]
fn each_printed_value_has_its_origin() {
    let printed = printed(&format!("{MINIMAL}[media]\nsource = \"test\"\n"));
    for line in [
        "id = \"8006E5A1F0C2\"  # line 2",
        "url = \"mqtts://care.example:8883\"  # line 6",
        "topic_prefix = \"care/v1\"  # default",
        "ca = \"/ca.pem\"  # broker.ca, line 7",
        "# alpn is not set",
        "flash_bytes_per_day = 640000000  # default, 10 times flash_bytes",
        "source = \"test\"  # line 23",
        "pre_roll_s = 5  # default",
        "# [store] is not set",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing in\n{printed}");
    }
    let motion = printed.lines().find(|line| line.starts_with("motion = ")).unwrap();
    assert!(motion.ends_with("  # default of this build"), "{motion}");
}

// Builds without the feature read no more of [local_mqtt] than its address.
#[cfg(feature = "local-mqtt")]
#[test]
fn every_key_of_the_table_is_printed() {
    let printed = printed(WHOLE);
    let mut lines = printed.lines();
    for (section, _) in keys::SECTIONS {
        for key in keys::KEYS.iter().filter(|key| key.section == section && section != "uploader") {
            let line = lines.find(|line| line.starts_with(&format!("{} = ", key.name)));
            assert!(line.is_some(), "{section}.{} is missing or out of order in\n{printed}", key.name);
        }
    }
}

#[test]
fn no_secret_is_printed() {
    let media = |lines: &str| printed(&format!("{MINIMAL}[media]\n{lines}\n"));
    for (lines, shown) in [
        ("source = \"rtsp://admin:canary@camera/live?token=canary\"", "source = \"rtsp://…@camera/live?…\"  # line 23, its secret hidden"),
        ("source = \"launch:rtspsrc location=rtsp://u:canary@c/ ! x\"", "source = \"launch:…\"  # line 23, its secret hidden"),
        (
            "source = \"test\"\nsnapshot_url = \"http://admin:canary@127.0.0.1/x.jpg\"",
            "snapshot_url = \"http://…@127.0.0.1/x.jpg\"  # line 24, its secret hidden",
        ),
    ] {
        let printed = media(lines);
        assert!(!printed.contains("canary") && printed.lines().any(|line| line == shown), "{printed}");
        assert!(parse(&printed).is_ok(), "it can be read all the same: {:?}", parse(&printed));
    }
}

/// [`WHOLE`] with this value of a key, in place of the one that it may have there.
fn with(key: &keys::Key, value: &str) -> String {
    let mut section = "";
    let mut text = String::new();
    for line in WHOLE.lines() {
        let header = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
        section = header.unwrap_or(section);
        if section != key.section || !line.strip_prefix(key.name).is_some_and(|rest| rest.starts_with(" = ")) {
            text += &format!("{line}\n");
        }
        if header == Some(key.section) {
            text += &format!("{} = {value}\n", key.name);
        }
    }
    text
}

// Builds without the feature read no more of [local_mqtt] than its address.
#[cfg(feature = "local-mqtt")]
#[test]
fn the_table_and_the_parser_know_the_same_keys() {
    for (section, required) in keys::SECTIONS {
        let text = if section == "uploader" { format!("{MINIMAL}[uploader]\n") } else { WHOLE.to_owned() };
        let text = text.replace(&format!("[{section}]\n"), &format!("[{section}]\nzzzzzzzzzz = 1\n"));
        let faults = parse(&text).expect_err("has an unknown key");
        let fault = faults.iter().find(|fault| fault.key.ends_with("zzzzzzzzzz")).unwrap();
        let known: BTreeSet<_> = fault.right.strip_prefix("remove it; known here: ").unwrap().split(", ").collect();
        let listed: BTreeSet<_> = keys::KEYS.iter().filter(|key| key.section == section).map(|key| key.name).collect();
        assert_eq!(known, listed, "[{section}]");
        let without = parse("").expect_err("has faults");
        assert_eq!(without.iter().any(|fault| fault.key == section), required, "[{section}]");
    }
    let unknown = parse(&format!("{MINIMAL}[zzzzzzzzzz]\n")).expect_err("has an unknown section");
    let known: BTreeSet<_> = unknown[0].right.strip_prefix("remove it; known here: ").unwrap().split(", ").collect();
    assert_eq!(known, keys::SECTIONS.map(|(section, _)| section).into());
    assert!(keys::KEYS.iter().all(|key| keys::SECTIONS.iter().any(|(section, _)| *section == key.section)));
}

// Builds without the feature read no more of [local_mqtt] than its address.
#[cfg(feature = "local-mqtt")]
#[test]
fn the_border_of_each_range_is_accepted_and_what_lies_beyond_refused() {
    let mut judged = 0;
    for key in keys::KEYS {
        let name = format!("{}.{}", key.section, key.name);
        let refused = |value: &str| match parse(&with(key, value)) {
            Ok(_) => false,
            Err(faults) => faults.iter().any(|fault| fault.key == name),
        };
        if key.section == "uploader" {
            continue;
        }
        match key.kind {
            keys::Kind::Integer(from, to) => {
                assert!(!refused(&from.to_string()) && !refused(&to.to_string()), "{name}: {from} to {to}");
                assert!(
                    refused(&(i128::from(from) - 1).to_string()) && refused(&(i128::from(to) + 1).to_string()),
                    "{name}: {from} to {to}"
                );
                assert!(refused("true") && refused("\"1\"") && refused("1.0"), "{name}");
            }
            keys::Kind::Boolean => assert!(!refused("true") && !refused("false") && refused("1") && refused("\"true\""), "{name}"),
            keys::Kind::Choice(choices) => {
                assert!(
                    choices.iter().all(|choice| !refused(&format!("\"{choice}\""))) && refused("\"neither\"") && refused("1"),
                    "{name}"
                );
            }
            keys::Kind::Text | keys::Kind::Path => assert!(refused("1") && refused("[]") && refused("\"\""), "{name}"),
            keys::Kind::List => assert!(refused("1") && refused("\"x\"") && refused("[]"), "{name}"),
            keys::Kind::Table => assert!(refused("1") && refused("[]"), "{name}"),
        }
        judged += 1;
    }
    assert_eq!(judged + 1, keys::KEYS.len());
}

// Builds without the feature read no more of [local_mqtt] than its address.
#[cfg(feature = "local-mqtt")]
#[test]
fn what_is_not_given_has_the_default_of_the_table() {
    let empty = format!(
        "{MINIMAL}[media]\nsource = \"test\"\n[motion]\n[recording]\ndir = \"/mnt\"\nmax_bytes = 9\n[spool]\n[upload]\n[process]\n\
         [local_mqtt]\nurl = \"mqtt://192.168.1.2\"\n"
    );
    let printed = printed(&empty);
    let mut section = "";
    for line in printed.lines() {
        section = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).unwrap_or(section);
        let Some((name, rest)) = line.split_once(" = ") else { continue };
        let (value, origin) = rest.rsplit_once("  # ").unwrap();
        let key = keys::entry(section, name);
        if !origin.starts_with("default") {
            assert!(
                matches!(key.default, keys::Preset::Required | keys::Preset::RequiredForTls | keys::Preset::Derived),
                "{section}.{name}"
            );
            continue;
        }
        match key.default {
            keys::Preset::Number(number) => assert_eq!(value, number.to_string(), "{section}.{name}"),
            keys::Preset::Truth(truth) => assert_eq!(value, truth.to_string(), "{section}.{name}"),
            keys::Preset::Text(text) => assert_eq!(value, format!("{text:?}"), "{section}.{name}"),
            keys::Preset::Derived => {}
            other => panic!("{section}.{name} is {value} although its default is {other:?}"),
        }
    }
    // What must be given is missed.
    for key in keys::KEYS.iter().filter(|key| key.default == keys::Preset::Required && key.section != "uploader") {
        let without = with(key, "0").lines().filter(|line| *line != format!("{} = 0", key.name)).collect::<Vec<_>>().join("\n");
        let faults = parse(&without).expect_err("a key is missing");
        assert!(
            faults.iter().any(|fault| fault.key == format!("{}.{}", key.section, key.name) && fault.wrong == "is missing"),
            "{faults:?}"
        );
    }
    // And absent is what is not printed.
    for key in keys::KEYS.iter().filter(|key| key.default == keys::Preset::Absent && key.section != "store") {
        assert!(printed.contains(&format!("# {} is not set\n", key.name)), "{}.{}", key.section, key.name);
    }
}

#[test]
fn a_key_waits_for_the_next_start_exactly_where_a_reload_says_so() {
    let reload = include_str!("../agent/reload.rs");
    for key in keys::KEYS {
        // Its section belongs to the media.
        let section = if key.section == "motion" { "media" } else { key.section };
        let named = [format!("(\"[{section}]\", "), format!("(\"[{section}] {}\", ", key.name)];
        let waits = named.iter().any(|name| reload.contains(name));
        assert_eq!(waits, key.takes == keys::Takes::NextStart, "{}.{}", key.section, key.name);
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_with_faults_inside_it(at in 0..2000usize, cut in 0..200usize, put in "[ -~\\n\\[\\]{}='\"#é\\x00]{0,20}") {
        let mut text = EXAMPLE.to_owned();
        let boundary = |text: &str, at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let (from, to) = (boundary(&text, at), boundary(&text, at + cut));
        text.replace_range(from..to, &put);
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(fault.line <= text.lines().count() + 1, "{fault}");
            }
        }
    }
}

mod files {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::test_pki::Issued;

    const DEVICE: &str = "8006E5A1F0C2";

    /// A certificate of `name` and its key.
    fn pair(name: &str) -> (String, String) {
        let issued = Issued::self_signed(name);
        (issued.pem(), issued.key_pem())
    }

    struct Camera(tempfile::TempDir);

    impl Camera {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let camera = Self(dir);
            let (cert, key) = pair(DEVICE);
            camera.write("ca.pem", &cert, 0o644);
            camera.write("device.pem", &cert, 0o644);
            camera.write("device.key", &key, 0o600);
            fs::create_dir(camera.0.path().join("state")).unwrap();
            let at = |name: &str| camera.0.path().join(name).display().to_string();
            let text = MINIMAL
                .replace("/ca.pem", &at("ca.pem"))
                .replace("/device.pem", &at("device.pem"))
                .replace("/device.key", &at("device.key"))
                .replace("/var/lib/kasa-care-agent", &at("state"));
            camera.write("config.toml", &text, 0o644);
            camera
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn config(&self) -> PathBuf {
            self.0.path().join("config.toml")
        }

        fn faults(&self) -> Vec<String> {
            match Config::load_with_files(&self.config()) {
                Ok(_) => Vec::new(),
                Err(faults) => faults.iter().map(|fault| format!("{} {}", fault.line, fault.key)).collect(),
            }
        }
    }

    #[test]
    fn good_files_have_no_fault() {
        assert_eq!(Camera::new().faults(), [""; 0]);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o666] {
            let camera = Camera::new();
            camera.write("device.key", &pair(DEVICE).1, mode);
            let faults = Config::load_with_files(&camera.config()).expect_err("refused");
            assert_eq!(faults.len(), 1);
            assert_eq!((faults[0].line, faults[0].key.as_str()), (9, "broker.client_key"));
            assert!(faults[0].wrong.contains("device.key") && faults[0].right.contains("chmod 600"), "{}", faults[0]);
        }
    }

    #[test]
    fn missing_and_swapped_files_are_reported_at_once() {
        let camera = Camera::new();
        fs::remove_file(camera.0.path().join("ca.pem")).unwrap();
        let (cert, key) = pair(DEVICE);
        camera.write("device.pem", &key, 0o644);
        camera.write("device.key", &cert, 0o600);
        assert_eq!(camera.faults(), ["7 broker.ca", "8 broker.client_cert", "9 broker.client_key"]);
    }

    #[test]
    fn a_certificate_of_another_key_or_device_is_reported() {
        let camera = Camera::new();
        camera.write("device.pem", &pair(DEVICE).0, 0o644);
        assert_eq!(camera.faults(), ["8 broker.client_cert"]);

        let (cert, key) = pair("another");
        camera.write("device.pem", &cert, 0o644);
        camera.write("device.key", &key, 0o600);
        let faults = Config::load_with_files(&camera.config()).expect_err("of another device");
        assert!(faults[0].wrong.contains("another") && faults[0].wrong.contains(DEVICE), "{}", faults[0]);
    }

    #[test]
    fn files_are_checked_even_if_the_text_has_faults() {
        let camera = Camera::new();
        camera.write("device.key", &pair(DEVICE).1, 0o644);
        let text = fs::read_to_string(camera.config()).unwrap().replace("clips = true", "clips = 1");
        camera.write("config.toml", &text, 0o644);
        assert_eq!(camera.faults(), ["16 free.clips", "9 broker.client_key"]);
    }

    #[test]
    fn a_state_directory_that_is_missing_does_not_stop_the_agent() {
        let camera = Camera::new();
        fs::remove_dir(camera.0.path().join("state")).unwrap();
        assert_eq!(camera.faults(), [""; 0]);
    }

    #[test]
    fn a_build_without_built_in_motion_starts_all_the_same() {
        let camera = Camera::new();
        let text = fs::read_to_string(camera.config()).unwrap();
        camera.write("config.toml", &(text + "[media]\nsource = \"test\"\nmotion = \"built-in\"\n"), 0o644);
        assert_eq!(camera.faults(), [""; 0]);
    }

    #[test]
    fn a_default_is_reported_at_its_section() {
        let line = |text: &str| read::read(text, Path::new("config.toml")).lines.of("media.motion");
        assert_eq!(line(&format!("{MINIMAL}[media]\nsource = \"test\"\nmotion = \"built-in\"\n")), 24);
        assert_eq!(line(&format!("{MINIMAL}[media]\nsource = \"test\"\n")), 22, "its default stands with the section");
    }

    #[test]
    fn a_configuration_that_others_may_change_is_refused_with_the_remedy() {
        let camera = Camera::new();
        let text = fs::read_to_string(camera.config()).unwrap();
        for (mode, remedy) in [(0o666, "chmod 644"), (0o660, "chmod 640")] {
            camera.write("config.toml", &text, mode);
            let faults = Config::load_with_files(&camera.config()).expect_err("loose");
            assert_eq!(faults.len(), 1);
            assert!(faults[0].right.starts_with(remedy) && faults[0].wrong.contains("change"), "{}", faults[0]);
        }
        camera.write("config.toml", &text, 0o640);
        assert_eq!(camera.faults(), [""; 0]);
    }

    #[test]
    fn a_byte_order_mark_is_ignored_and_another_encoding_is_named() {
        let camera = Camera::new();
        let text = fs::read_to_string(camera.config()).unwrap();
        camera.write("config.toml", &format!("\u{feff}{text}"), 0o644);
        assert_eq!(camera.faults(), [""; 0]);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(camera.config(), wide).unwrap();
        let faults = Config::load(&camera.config()).expect_err("not UTF-8");
        assert!(faults.len() == 1 && faults[0].to_string().contains("UTF-16"), "{faults:?}");
    }

    #[test]
    fn a_ca_file_needs_one_certificate_that_can_be_read() {
        let camera = Camera::new();
        let root = fs::read_to_string(camera.0.path().join("ca.pem")).unwrap();
        let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for bundle in [format!("{odd}{root}"), format!("{root}{odd}"), format!("\u{feff}{root}{odd}")] {
            camera.write("ca.pem", &bundle, 0o644);
            assert_eq!(camera.faults(), [""; 0]);
        }
        camera.write("ca.pem", odd, 0o644);
        assert_eq!(camera.faults(), ["7 broker.ca"]);
    }

    #[test]
    fn a_missing_configuration_file_is_the_only_fault() {
        let faults = Config::load(Path::new("/nonexistent/config.toml")).expect_err("not there");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().contains("--config FILE"));
    }
}
