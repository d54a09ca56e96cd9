//! Runs whole command lines against a camera's directory, and checks exit code and output.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use care_engine::Record;
use care_protocol::{Channel, Entitlement, Key, Keyset, Lease, Mode, Next, Order, Policy, Position, Reason, Refund, RefundKind, Signer};

use super::*;
use crate::{
    conditions::Conditions,
    config::Listen,
    status::{Server, SharedStatus, StatusDocument},
    store::{Restored, Store},
    test_pki::Authority,
};

const DEVICE: &str = "8006E5A1F0C2";
/// A validity around every time used here, Unix seconds; within the range of a UTCTime.
const VALID: Range<i64> = 1_700_000_000..2_500_000_000;
const POLICY: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };

/// A camera's directory with configuration, key, certificates and state, and the cloud's signing keys.
struct Camera {
    dir: tempfile::TempDir,
    root: Signer,
    key: Signer,
}

impl Camera {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let signer = |kid| Signer::from_pkcs8(kid, &Signer::generate()).unwrap();
        let camera = Self { dir, root: signer("root-2026"), key: signer("2026-11") };

        let authority = Authority::root("camera authority", VALID);
        let leaf = authority.leaf(DEVICE, VALID);
        camera.write("ca.pem", authority.pem().as_bytes());
        camera.write("device.pem", leaf.pem().as_bytes());
        camera.write("device.key", leaf.key_pem().as_bytes());
        camera.chmod("device.key", 0o600);
        fs::create_dir(camera.path("state")).unwrap();
        camera.configure(|text| text);
        camera
    }

    /// Writes the configuration with a change.
    fn configure(&self, change: impl FnOnce(String) -> String) {
        let at = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "[device]\nid = \"{DEVICE}\"\nmodel = \"KC420WS\"\nstate_dir = \"{state}\"\n\
             [broker]\nurl = \"mqtts://127.0.0.1:1\"\nca = \"{ca}\"\nclient_cert = \"{cert}\"\nclient_key = \"{key}\"\n\
             [cloud]\nurl = \"https://127.0.0.1:1\"\n\
             [trust]\nissuer = \"care\"\nroot_keys = {{ \"root-2026\" = \"{root}\" }}\n\
             [free]\nclips = true\nhistory_h = 12\nclip_max_s = 12\ncooldown_s = 300\nmax_height = 720\nsnapshots = false\n\
             [status]\nlisten = \"unix:{socket}\"\n",
            state = at("state"),
            ca = at("ca.pem"),
            cert = at("device.pem"),
            key = at("device.key"),
            root = self.root.public_key().to_base64url(),
            socket = at("status.sock"),
        );
        self.write("config.toml", change(text).as_bytes());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a command line with this camera's configuration.
    fn run(&self, line: &str) -> (Exit, String, String) {
        let config = self.path("config.toml");
        typed(line.split_whitespace().chain(["--config", config.to_str().unwrap()]))
    }

    fn config(&self) -> Config {
        Config::load(&self.path("config.toml")).unwrap()
    }

    fn keyset(&self, version: u64, revoked: &[&str]) -> String {
        let key = Key { public: self.key.public_key(), not_before: 1_767_000_000 };
        let keyset = Keyset {
            iss: "care".into(),
            version,
            iat: 1_767_225_600,
            keys: [(self.key.kid().to_owned(), key)].into(),
            revoked: revoked.iter().map(|kid| (*kid).to_owned()).collect(),
            resets: Vec::new(),
        };
        keyset.sign(&self.root)
    }

    fn entitlement(&self) -> Entitlement {
        Entitlement {
            iss: "care".into(),
            aud: DEVICE.parse().unwrap(),
            account: "acct-canary".into(),
            epoch: 3.try_into().unwrap(),
            seq: 41.try_into().unwrap(),
            plan: "premium".parse().unwrap(),
            reason: Reason::Subscribed,
            channel: Channel::Portal,
            iat: 1_767_225_600,
            lease: Lease { max_age_s: 172_800, not_after: 1_767_398_400 },
            policy: POLICY,
            next: Some(Next { plan: "free".parse().unwrap(), effective_at: 1_769_817_600, reason: Reason::Cancelled, policy: POLICY }),
            order: Some(Order {
                id: "KC-2026-000123".into(),
                refund: Refund { kind: RefundKind::Credit, amount_minor: 412, currency: "USD".into() },
            }),
            crit: Vec::new(),
        }
    }

    /// Writes a state as the agent could have left it: bound, with a document in force.
    fn bind(&self) -> Record {
        let token = self.entitlement().sign(&self.key);
        let config = self.config();
        let keyset = Keyset::verify(self.keyset(7, &[]).as_bytes(), &config.trust.root_keys, "care").unwrap();
        let verified = Entitlement::verify(token.as_bytes(), Some(&keyset.keyset), "care", &config.device.id).unwrap();
        let record = Record {
            format: Record::FORMAT,
            ratchet: Position { epoch: 3, seq: 41 },
            ratchet_digest: Some(verified.digest),
            entitlement: Some(token),
            keyset: Some(keyset.token),
            verified_by: None,
            lease_used_s: 60,
            lease_late_s: 0,
            next_performed: false,
            trusted_s: 1_767_225_700,
            reset_id: 4,
            factory_reset: None,
            roots: std::collections::BTreeMap::new(),
            report: None,
            history: Vec::new(),
        };
        let (mut store, _) = Store::open(&self.path("state")).unwrap();
        store.write_now(&record.to_bytes()).unwrap();
        record
    }
}

fn typed<'a>(args: impl IntoIterator<Item = &'a str>) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = run(args.into_iter().map(OsString::from), &mut out, &mut err, Screen::None);
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// All bytes of a file, or of the files below a directory.
fn bytes_below(path: &Path) -> Vec<u8> {
    if path.is_dir() {
        fs::read_dir(path).unwrap().flat_map(|entry| bytes_below(&entry.unwrap().path())).collect()
    } else {
        fs::read(path).unwrap()
    }
}

fn holds(path: &Path, word: &str) -> bool {
    bytes_below(path).windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn help_and_version_are_results() {
    let (exit, out, err) = typed(["--help"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    for command in commands::COMMANDS {
        assert!(out.contains(&format!("\n  {} ", command.name)), "{out}");
        let (exit, of_it, _) = typed(["help", command.name]);
        assert_eq!((exit, &of_it), (Exit::Done, &typed([command.name, "--help"]).1));
        for part in [command.purpose, &command.synopsis(), "\nExamples:\n", "\nExit codes:\n"] {
            assert!(of_it.contains(part), "{part} is missing in\n{of_it}");
        }
        assert!(command.options.iter().all(|option| of_it.contains(&format!("--{}", option.long))), "{of_it}");
    }
    assert!(out.lines().count() < 20 && out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert_eq!(typed(["--version"]).1, format!("kasa-care-agent {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_64() {
    for line in [&["dance"][..], &[], &["status", "--xml"], &["verify"]] {
        let (exit, out, err) = typed(line.iter().copied());
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{line:?}");
        assert!(err.contains("--help"), "{err}");
    }
    assert_eq!([Exit::Done, Exit::Usage, Exit::Internal, Exit::Config].map(|exit| exit as u8), [0, 64, 70, 78]);
}

#[test]
fn a_good_configuration_is_ok() {
    let camera = Camera::new();
    let (exit, out, err) = camera.run("check-config");
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert!(out.ends_with("config.toml: ok\n"), "{out}");
}

#[test]
fn check_config_finds_a_state_directory_that_cannot_be_written() {
    let camera = Camera::new();
    fs::remove_dir(camera.path("state")).unwrap();
    let (exit, _, err) = camera.run("check-config");
    assert_eq!((exit, err.lines().count()), (Exit::Config, 1), "{err}");
    assert!(err.contains("config.toml:4: device.state_dir: ") && err.contains("install -d"), "{err}");
}

#[test]
#[cfg(not(feature = "gstreamer"))]
fn check_config_finds_that_this_build_has_no_built_in_motion() {
    let camera = Camera::new();
    camera.configure(|text| text + "[media]\nsource = \"test\"\nmotion = \"built-in\"\n");
    let (exit, _, err) = camera.run("check-config");
    assert_eq!(exit, Exit::Config, "{err}");
    assert!(err.lines().any(|line| line.contains(": media.motion: ")), "{err}");
}

#[test]
fn check_config_refuses_a_configuration_that_others_may_change() {
    let camera = Camera::new();
    camera.chmod("config.toml", 0o666);
    let (exit, _, err) = camera.run("check-config");
    assert_eq!((exit, err.lines().count()), (Exit::Config, 1), "{err}");
    assert!(err.contains("; chmod 644"), "{err}");
}

#[test]
fn check_config_warns_of_an_authority_that_cannot_be_read() {
    let camera = Camera::new();
    let root = fs::read_to_string(camera.path("ca.pem")).unwrap();
    let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bundle in [format!("{odd}{root}"), format!("{root}{odd}"), format!("\u{feff}{root}{odd}")] {
        camera.write("ca.pem", bundle.as_bytes());
        let (exit, _, err) = camera.run("check-config");
        assert_eq!((exit, err.lines().count()), (Exit::Done, 1), "{err}");
        assert!(err.contains("config.toml:7: broker.ca: warning: ") && err.contains("certificate"), "{err}");
    }
}

#[test]
fn every_command_refuses_a_wrong_configuration_with_78() {
    let camera = Camera::new();
    camera.configure(|text| text.replace("clips = true", "clips = 1").replace("mqtts://127.0.0.1", "mqtt://care.example"));
    camera.write("token", b"x");
    let token = camera.path("token").display().to_string();
    for line in ["run", "check-config", "check-config --connect", "status", &format!("verify {token}"), "factory-reset"] {
        let (exit, out, err) = camera.run(line);
        assert_eq!((exit, out.as_str()), (Exit::Config, ""), "{line}");
        assert!(err.contains("config.toml:6: broker.url:") && err.contains("free.clips"), "{line}: {err}");
    }
}

#[test]
fn the_service_refuses_a_loose_or_missing_key_and_names_it() {
    let camera = Camera::new();
    camera.chmod("device.key", 0o644);
    for line in ["run", "check-config"] {
        let (exit, _, err) = camera.run(line);
        assert_eq!(exit, Exit::Config, "{line}");
        assert!(err.contains("broker.client_key") && err.contains("device.key") && err.contains("chmod 600"), "{err}");
    }
    fs::remove_file(camera.path("device.key")).unwrap();
    let (exit, _, err) = camera.run("run");
    assert_eq!(exit, Exit::Config);
    assert!(err.contains("device.key"), "{err}");
}

#[test]
fn a_token_file_may_begin_with_a_byte_order_mark_and_utf_16_is_named() {
    let camera = Camera::new();
    camera.bind();
    let token = camera.entitlement().sign(&camera.key);
    let line = format!("verify {}", camera.path("token").display());
    camera.write("token", token.as_bytes());
    let plain = camera.run(&line);
    camera.write("token", format!("\u{feff}{token}").as_bytes());
    assert_eq!(camera.run(&line), plain, "judged alike");
    let wide: Vec<u8> = token.encode_utf16().flat_map(u16::to_le_bytes).collect();
    camera.write("token", &wide);
    let (exit, _, err) = camera.run(&line);
    assert!(exit == Exit::Internal && err.contains("UTF-16"), "{err}");
}

#[test]
fn a_good_token_is_printed_whole() {
    let camera = Camera::new();
    camera.bind();
    camera.write("token", camera.entitlement().sign(&camera.key).as_bytes());
    let (exit, out, err) = camera.run(&format!("verify {}", camera.path("token").display()));
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    for word in [
        "\"2026-11\" of keyset 7",
        "sha256:",
        DEVICE,
        "acct-canary",
        "(3, 41)",
        "premium",
        "subscribed",
        "portal",
        "1767225600",
        "172800 s",
        "1767398400",
        "history_h 12",
        "effective_at 1769817600",
        "KC-2026-000123",
        "refund.amount_minor 412",
    ] {
        assert!(out.contains(word), "{word} is missing in\n{out}");
    }
}

#[test]
fn a_token_is_judged_as_the_device_would_judge_it_at_this_moment() {
    let camera = Camera::new();
    let judged = |token: String| {
        camera.write("token", token.as_bytes());
        let (exit, out, err) = camera.run(&format!("verify {}", camera.path("token").display()));
        (exit, out + &err)
    };
    let changed = |change: &dyn Fn(&mut Entitlement)| {
        let mut document = camera.entitlement();
        change(&mut document);
        document.sign(&camera.key)
    };
    camera.bind();
    let at = |seq: u64| move |document: &mut Entitlement| document.seq = seq.try_into().unwrap();
    let now = i64::try_from(crate::clock::system_time().as_secs()).unwrap() as u64;
    let lasts = move |document: &mut Entitlement| {
        document.seq = 42.try_into().unwrap();
        document.iat = now;
        document.lease = Lease { max_age_s: 172_800, not_after: now + 172_800 };
    };
    let good = changed(&lasts);
    for (token, exit, words) in [
        (changed(&|_| ()), Exit::Done, &["verdict duplicate", "172800 s after receipt", ": over", "system clock says"][..]),
        (good.clone(), Exit::Done, &["verdict applied", "ok      epoch, seq    above (3, 41)", "s left"]),
        (changed(&at(40)), Exit::Internal, &["refused, stale", "failed  epoch, seq    above (3, 41)", "explain stale"]),
        (changed(&|document| document.account = "thief".into()), Exit::Internal, &["refused, conflict"]),
        (
            changed(&|document| (at(42)(document), document.account = "thief".into()).1),
            Exit::Internal,
            &["account_changed", "failed  account       acct-canary, of this epoch", "thief"],
        ),
        (changed(&|document| (at(42)(document), document.iat *= 1000).1), Exit::Internal, &["refused, out_of_range", "milliseconds"]),
        (good.clone() + "\n", Exit::Internal, &["refused, bad_form", "failed  form ", "blanks or a line break", "over MQTT"]),
        (format!(" {good}"), Exit::Internal, &["refused, bad_form"]),
    ] {
        let (ended, said) = judged(token);
        assert_eq!(ended, exit, "{said}");
        for words in words {
            assert!(said.contains(words), "{words} is missing in\n{said}");
        }
    }
}

#[test]
fn check_config_names_both_clocks() {
    let camera = Camera::new();
    let (_, out, _) = camera.run("check-config");
    assert!(
        out.contains("clock: trusted time is 20") && out.contains("nothing is on record") && out.contains("the system clock says 20"),
        "{out}"
    );
    camera.bind();
    let (_, out, _) = camera.run("check-config");
    assert!(out.contains("(on record)"), "{out}");
}

#[test]
fn a_token_that_the_device_would_refuse_is_70_with_its_code() {
    let camera = Camera::new();
    let verify = |token: String, keyset: String| {
        camera.write("token", token.as_bytes());
        camera.write("keyset", keyset.as_bytes());
        let (token, keyset) = (camera.path("token"), camera.path("keyset"));
        let (exit, out, err) = camera.run(&format!("verify {} --keyset {}", token.display(), keyset.display()));
        (exit, out + &err)
    };
    let good = camera.entitlement();
    let signed = |change: fn(&mut Entitlement)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed.sign(&camera.key)
    };
    let stranger = Signer::from_pkcs8("2026-11", &Signer::generate()).unwrap();
    let cases = [
        ("nonsense".to_owned(), camera.keyset(7, &[]), "bad_form"),
        (good.sign(&stranger), camera.keyset(7, &[]), "bad_signature"),
        (good.sign(&camera.key), camera.keyset(7, &["2026-11"]), "revoked_key"),
        (signed(|document| document.aud = "another".parse().unwrap()), camera.keyset(7, &[]), "wrong_audience"),
        (signed(|document| document.crit = vec!["lens_cap".into()]), camera.keyset(7, &[]), "unsupported"),
        ("x".repeat(9000), camera.keyset(7, &[]), "too_large"),
        (good.sign(&camera.key), "nonsense".to_owned(), "bad_form"),
    ];
    assert_eq!(verify(good.sign(&camera.key), camera.keyset(7, &[])).0, Exit::Done);
    // A pipe that nobody writes to is read as empty.
    rustix::fs::mknodat(rustix::fs::CWD, camera.path("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let (exit, _, err) = camera.run(&format!("verify {} --keyset {}", camera.path("pipe").display(), camera.path("keyset").display()));
    assert_eq!(exit, Exit::Internal);
    assert!(err.contains("bad_form"), "{err}");
    for (token, keyset, code) in cases {
        let (exit, said) = verify(token, keyset);
        assert_eq!(exit, Exit::Internal, "{code}");
        assert!(said.contains(code), "{code}: {said}");
    }
}

#[test]
fn each_field_of_a_refused_token_has_what_was_expected_and_what_came() {
    let camera = Camera::new();
    camera.bind();
    let table = |token: String| {
        camera.write("token", token.as_bytes());
        let (exit, out, err) = camera.run(&format!("verify {}", camera.path("token").display()));
        assert_eq!(exit, Exit::Internal, "{out}{err}");
        let rows: Vec<_> = out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(rows[0], "field expected got");
        rows
    };
    let has =
        |rows: &[String], row: &str| assert!(rows.iter().any(|line| line.starts_with(row)), "{row} is missing in\n{}", rows.join("\n"));
    let signed = |change: fn(&mut Entitlement)| {
        let mut changed = camera.entitlement();
        change(&mut changed);
        changed
    };
    // Two faults: the camera names the first, the table shows both.
    let other = signed(|document| (document.iss, document.aud) = ("prod".into(), "another".parse().unwrap()));
    let rows = table(other.sign(&camera.key));
    has(&rows, "ok signature good under that key good");
    has(&rows, "failed issuer care prod");
    has(&rows, &format!("failed device {DEVICE} another"));
    has(&rows, "verdict refused, wrong_issuer: ");
    has(&rows, "kasa-care-agent explain wrong_issuer says");

    let stranger = Signer::from_pkcs8("2025-01", &Signer::generate()).unwrap();
    let rows = table(camera.entitlement().sign(&stranger));
    has(&rows, "failed kid \"2026-11\" of keyset 7 \"2025-01\"");
    has(&rows, "signature good under that key not judged");
    has(&rows, "ok issuer care care");

    let stranger = Signer::from_pkcs8("2026-11", &Signer::generate()).unwrap();
    has(&table(camera.entitlement().sign(&stranger)), "failed signature good under that key of another key");
    has(&table(signed(|document| document.iat = 1).sign(&camera.key)), "failed issued 2025-12-");
    has(&table(signed(|document| document.crit = vec!["lens_cap".into()]).sign(&camera.key)), "failed crit ");
    has(&table("nonsense".into()), "failed form a compact JWS alone none");
    has(&table("x".repeat(9000)), "failed size at most 8192 bytes 9");
    let unnamed = camera.key.sign("care-keyset+jws", b"{}");
    has(&table(unnamed), "failed alg, typ EdDSA or Ed25519, care-entitlement+jws EdDSA, care-keyset+jws");
    let no_policy =
        camera.key.sign("care-entitlement+jws", format!(r#"{{"iss":"care","aud":"{DEVICE}","account":"\u001b[2J"}}"#).as_bytes());
    let rows = table(no_policy);
    has(&rows, "failed fields what docs/protocol.md lists malformed: lease is missing");
    has(&rows, "account \\u{1b}[2J");
}

#[test]
fn a_keyset_older_than_the_configuration_trusts_verifies_nothing() {
    let camera = Camera::new();
    camera.configure(|text| text.replace("[trust]", "[trust]\nmin_keyset_version = 8"));
    camera.write("token", camera.entitlement().sign(&camera.key).as_bytes());
    let verdict = |version| {
        camera.write("keyset", camera.keyset(version, &[]).as_bytes());
        camera.run(&format!("verify {} --keyset {}", camera.path("token").display(), camera.path("keyset").display()))
    };
    assert_eq!(verdict(8).0, Exit::Done);
    let (exit, _, err) = verdict(7);
    assert_eq!(exit, Exit::Internal);
    assert!(err.contains("old_keyset"), "{err}");
}

#[test]
fn a_state_directory_that_cannot_be_one_is_a_wrong_configuration() {
    let camera = Camera::new();
    camera.write("a-file", b"");
    let state_dir = camera.path("a-file").display().to_string();
    camera.configure(|text| {
        let state = text.lines().find(|line| line.starts_with("state_dir")).unwrap().to_owned();
        text.replace(&state, &format!("state_dir = {state_dir:?}"))
    });
    let (exit, _, err) = camera.run("factory-reset");
    assert_eq!(exit, Exit::Config, "{err}");
    assert!(err.contains("a-file"), "{err}");
}

#[test]
fn without_a_keyset_nothing_can_be_verified() {
    let camera = Camera::new();
    camera.write("token", camera.entitlement().sign(&camera.key).as_bytes());
    let (exit, _, err) = camera.run(&format!("verify {}", camera.path("token").display()));
    assert_eq!(exit, Exit::Internal);
    assert!(err.contains("--keyset"), "{err}");
}

#[test]
fn a_factory_reset_forgets_the_owner_and_keeps_the_ratchet() {
    let camera = Camera::new();
    let before = camera.bind();
    fs::create_dir(camera.path("state/spool")).unwrap();
    camera.write("state/spool/0b9e57aa-0000-4000-8000-000000000000.clip", &[7; 5000]);
    camera.write("state/spool/0b9e57aa-0000-4000-8000-000000000001.part", &[7; 100]);
    camera.write("state/spool/journal", b"kasa-care-agent spool 1\n");
    camera.write("state/spool/holiday.clip", b"somebody else's");
    let account = before.entitlement.clone().unwrap();
    assert!(holds(&camera.path("state"), &account));

    let (exit, out, err) = camera.run("factory-reset");
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert!(out.contains("erased 1 clips, 5000 bytes") && out.contains("(3, 41)"), "{out}");
    assert!(!holds(&camera.path("state"), &account), "no slot holds the old document");
    let left: Vec<_> = fs::read_dir(camera.path("state/spool")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["holiday.clip"], "what is not the agent's stays");

    let Restored::Record(bytes) = Store::peek(&camera.path("state")).unwrap() else { panic!("a record is left") };
    let after = Record::read(&bytes).unwrap();
    assert_eq!(after.entitlement, None);
    assert_eq!((after.ratchet, after.ratchet_digest), (before.ratchet, before.ratchet_digest));
    assert_eq!((after.keyset, after.reset_id, after.trusted_s), (before.keyset, before.reset_id, before.trusted_s));
    assert_eq!(camera.run("factory-reset").0, Exit::Done, "again is no harm");
}

/// A command that root runs before the agent's first start must leave the state to the agent's user.
#[test]
fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    use std::os::unix::fs::{MetadataExt, chown};
    let camera = Camera::new();
    fs::create_dir_all(camera.path("state")).unwrap();
    if chown(camera.path("state"), Some(12_345), Some(12_346)).is_err() {
        return eprintln!("not root: there is nothing to take over");
    }
    assert_eq!(camera.run("factory-reset").0, Exit::Done);
    drop(Store::open(&camera.path("state")).unwrap());
    let entries: Vec<_> = fs::read_dir(camera.path("state")).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(!entries.is_empty());
    for entry in entries {
        let made = entry.metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (12_345, 12_346), "{:?}", entry.path());
    }
    fs::remove_dir_all(camera.path("state")).unwrap();
    assert_eq!(camera.run("factory-reset").0, Exit::Done);
    assert!(!camera.path("state").exists(), "root makes no directory for the agent");
}

#[test]
fn a_factory_reset_of_a_running_agent_is_refused_and_changes_nothing() {
    let camera = Camera::new();
    let record = camera.bind();
    let agent = Store::open(&camera.path("state")).unwrap();
    let (exit, _, err) = camera.run("factory-reset");
    assert_eq!(exit, Exit::Internal);
    assert!(err.contains("stop it first"), "{err}");
    assert_eq!(Store::peek(&camera.path("state")).unwrap(), Restored::Record(record.to_bytes()));
    drop(agent);
}

#[test]
fn a_factory_reset_never_makes_an_unreadable_state_a_new_one() {
    let camera = Camera::new();
    camera.write("state/state", &[0x55; 4096]);
    let (exit, _, err) = camera.run("factory-reset");
    assert_eq!(exit, Exit::Internal);
    assert!(err.contains("ratchet cannot be kept"), "{err}");
    assert_eq!(Store::peek(&camera.path("state")).unwrap(), Restored::Unreadable);

    let fresh = Camera::new();
    let (exit, out, _) = fresh.run("factory-reset");
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("never bound"), "{out}");
}

#[test]
fn status_is_the_agent_s_own_document() {
    let camera = Camera::new();
    let (exit, _, err) = camera.run("status");
    assert_eq!(exit, Exit::Internal);
    assert!(err.contains("is it running?"), "{err}");

    let mut document = StatusDocument::new(&camera.config());
    (document.mode, document.plan) = (Mode::Paid, Some("premium".parse().unwrap()));
    document.lease_left_s = Some(7200);
    let status = Arc::new(SharedStatus::new(document));
    let _server = Server::start(&Listen::Unix(camera.path("status.sock")), status.clone(), Conditions::default());
    let (exit, out, _) = camera.run("status --json");
    assert_eq!(exit, Exit::Done);
    assert_eq!(out, serde_json::to_string_pretty(&status.read()).unwrap() + "\n");

    let (exit, out, _) = camera.run("status");
    assert_eq!(exit, Exit::Done);
    for word in ["premium", "paid", "2 h left", "transfers", "spool", "last switch", "not connected to 127.0.0.1:1"] {
        assert!(out.contains(word), "{word} is missing in\n{out}");
    }
}

#[test]
fn status_is_watched_until_nobody_reads_it() {
    /// A pipe, until its reader has left.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<(Vec<u8>, bool)>>);
    impl Pipe {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }

        /// Waits for words, as long as somebody may write them.
        fn await_text(&self, words: &str, writer: &JoinHandle<Exit>) {
            let started = Instant::now();
            while !self.text().contains(words) {
                assert!(!writer.is_finished() && started.elapsed() < Duration::from_secs(120), "{words} does not come: {}", self.text());
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, closed) = &mut *self.0.lock().unwrap();
            if *closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            text.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let camera = Camera::new();
    let status = Arc::new(SharedStatus::new(StatusDocument::new(&camera.config())));
    let _server = Server::start(&Listen::Unix(camera.path("status.sock")), status.clone(), Conditions::default());
    let config = camera.path("config.toml").display().to_string();
    let line = ["status", "--watch", "--config", &config].map(OsString::from);
    let pipe = Pipe::default();
    let mut out = pipe.clone();
    let watching = thread::spawn(move || run(line, &mut out, &mut io::sink(), Screen::None));
    for mode in [Mode::Unbound, Mode::Paid, Mode::Free] {
        status.update(|document| document.mode = mode);
        pipe.await_text(&format!("mode         {mode}\n"), &watching);
    }
    assert_eq!(pipe.text().matches("\nmode ").count(), 3, "{}", pipe.text());
    pipe.0.lock().unwrap().1 = true;
    status.update(|document| document.mode = Mode::Held);
    assert_eq!(watching.join().unwrap(), Exit::Done);
}

#[test]
fn connect_says_which_step_failed() {
    let camera = Camera::new();
    // A port that was just closed, so that no other server answers there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    camera.configure(|text| text.replace("127.0.0.1:1\"", &format!("127.0.0.1:{port}\"")));
    let (exit, out, _) = camera.run("check-config --connect");
    assert_eq!(exit, Exit::Internal);
    assert!(out.contains("ok      broker DNS: 127.0.0.1 is 127.0.0.1\n"), "{out}");
    assert!(out.contains("failed  broker TCP: ") && out.contains("failed  cloud TCP: "), "{out}");
    assert!(!out.contains("API"), "what depends on a failed step is not tried: {out}");
}

/// A broker that answers CONNECT, and SUBSCRIBE with this code for the first filter. Also returns the client ids that connect.
fn broker(first: u8) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, seen) = channel();
    thread::spawn(move || {
        // The receiver is gone when the test has ended.
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut packet = [0; 512];
            let Ok(length @ 12..) = stream.read(&mut packet) else { continue };
            let id = String::from_utf8_lossy(&packet[14..length]).into_owned();
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            stream.read_exact(&mut packet[..2]).unwrap();
            let body = usize::from(packet[1]);
            stream.read_exact(&mut packet[..body]).unwrap();
            stream.write_all(&[0x90, 5, packet[0], packet[1], first, 1, 1]).unwrap();
            // Answer no publish, and stay connected until the client leaves.
            while matches!(stream.read(&mut packet), Ok(1..)) {}
            if tell.send(id).is_err() {
                break;
            }
        }
    });
    (port, seen)
}

/// An API that answers every request with this status line and the current date.
fn cloud(status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 2048];
            if matches!(stream.read(&mut head), Ok(1..)) {
                let date = httpdate::fmt_http_date(std::time::SystemTime::now());
                let _ = write!(stream, "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    port
}

fn connected(camera: &Camera, broker: u16, cloud: u16) -> (Exit, String) {
    camera.configure(|text| {
        text.replace("mqtts://127.0.0.1:1", &format!("mqtt://127.0.0.1:{broker}"))
            .replace("https://127.0.0.1:1", &format!("http://127.0.0.1:{cloud}"))
    });
    let (exit, out, err) = camera.run("check-config --connect");
    assert_eq!(err, "");
    (exit, out)
}

#[test]
fn connect_goes_through_every_step() {
    let camera = Camera::new();
    let (broker, clients) = broker(1);
    let (exit, out) = connected(&camera, broker, cloud("404 Not Found"));
    assert_eq!(exit, Exit::Done, "{out}");
    assert_eq!(clients.recv().unwrap(), DEVICE);
    let steps = ["broker DNS", "broker TCP", "broker MQTT: connected as 8006E5A1F0C2", "cloud DNS", "cloud TCP", "API", "clock"];
    for step in steps.into_iter().chain(["broker round trip: nothing came back, and the cloud has no entitlement that could"]) {
        assert!(out.contains(&format!("ok      {step}")), "{step} is missing in\n{out}");
    }
}

#[test]
fn connect_leaves_the_connection_of_a_running_agent_alone() {
    let camera = Camera::new();
    let (broker, clients) = broker(1);
    let agent = Store::open(&camera.path("state")).unwrap();
    let (exit, out) = connected(&camera, broker, cloud("200 OK"));
    assert_eq!(clients.recv().unwrap(), format!("{DEVICE}-check"));
    // A granted subscription is not enough: the cloud has an entitlement, and this broker delivers nothing.
    assert_eq!(exit, Exit::Internal);
    assert!(out.contains("ok      broker MQTT: ") && out.contains("failed  broker round trip: ") && out.contains("/get"), "{out}");
    drop(agent);
}

#[test]
fn connect_says_what_the_broker_and_the_api_refuse() {
    let camera = Camera::new();
    let (exit, out) = connected(&camera, broker(0x80).0, cloud("403 Forbidden"));
    assert_eq!(exit, Exit::Internal);
    assert!(out.contains("failed  broker MQTT: ") && out.contains("refuses the subscription to care/v1/8006E5A1F0C2/entitlement"), "{out}");
    assert!(out.contains("failed  API: ") && out.contains("403"), "{out}");
}
