//! The files that say whom the camera trusts. The agent reads them as common tools write them, names each fault, and
//! refuses files that others may change.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use care_protocol::Mode;
use care_tests::{agent::Agent, pki::Authority, wait::PATIENCE, world::World};

const MARK: &str = "\u{feff}";
const ODD: &str = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmg\n-----END CERTIFICATE-----\n";

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The exit code and the output of `check-config`.
async fn checked(agent: &Agent) -> (Option<i32>, String) {
    let output = agent.command(&["check-config"]).await;
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn files_with_a_byte_order_mark_are_read() {
    let mut world = World::new().await;
    let another = Authority::root("another authority").pem();
    let config = world.agent.config.clone();
    // The servers need the first root of the bundle; the chain begins with the device's own certificate.
    fs::write(&config.ca, format!("{MARK}{}{MARK}{another}", world.pki.ca.pem())).unwrap();
    for file in [&config.cert, &config.key] {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, format!("{MARK}{text}")).unwrap();
    }
    let draft = world.premium();
    let document = world.issue(draft).await;
    fs::write(world.agent.config_path(), format!("{MARK}{}", world.agent.config.text())).unwrap();
    world.agent.start_as_configured();
    world.issuer.in_force(&document, Mode::Paid).await;
    let (code, said) = checked(&world.agent).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn an_unreadable_root_is_reported_and_the_others_are_used() {
    let mut world = World::new().await;
    let lines = world.pki.ca.pem().lines().count();
    fs::write(&world.agent.config.ca, format!("{}{ODD}{}", world.pki.ca.pem(), Authority::root("another authority").pem())).unwrap();
    world.start_premium().await;
    let place = format!("line {}", lines + 1);
    let status = world.agent.status("the root that is skipped", |status| status.condition("ca_skipped").is_some()).await;
    assert!(status.sentence("ca_skipped").contains(&place), "{:#}", status.0["conditions"]);
    let (code, told) = checked(&world.agent).await;
    assert_eq!(code, Some(0), "a warning is not an error: {told}");
    assert!(told.lines().any(|line| line.contains("broker.ca: warning") && line.contains(&place)), "{told}");

    // The condition ends with the next bundle; a bundle without a usable root is an error.
    fs::write(&world.agent.config.ca, world.pki.ca.pem()).unwrap();
    world.agent.status("a whole bundle", |status| status.condition("ca_skipped").is_none()).await;
    fs::write(&world.agent.config.ca, ODD).unwrap();
    let (code, told) = checked(&world.agent).await;
    assert!(code == Some(78) && told.contains("broker.ca") && told.contains("line 1"), "{told}");
    world.agent.status("the bundle that is refused", |status| status.condition("certificate_rejected").is_some()).await;
    world.agent.assert_running();
}

#[tokio::test]
async fn every_block_that_looks_like_a_certificate_is_read_or_reported() {
    let world = World::new().await;
    world.agent.write_config();
    let ca = world.pki.ca.pem();
    let other = Authority::root("another authority").pem();
    let label = |name: &str| other.replace("CERTIFICATE", name);
    let named = [
        ("a dash too few", other.replace("-----BEGIN", "----BEGIN")),
        ("dashes of a word processor", other.replace("-----", "\u{2014}\u{2014}")),
        ("no BEGIN line", other.lines().skip(1).map(|line| format!("{line}\n")).collect()),
        ("cut short", other[..other.len() / 2].to_owned()),
        ("no END line", other.replace("-----END CERTIFICATE-----\n", "")),
        ("OpenSSL's own form", label("TRUSTED CERTIFICATE")),
        ("a request", label("CERTIFICATE REQUEST")),
    ];
    for (what, text) in named {
        for bundle in [format!("{ca}{text}"), format!("{text}\n{ca}")] {
            fs::write(&world.agent.config.ca, bundle).unwrap();
            let (code, said) = checked(&world.agent).await;
            assert!(code == Some(0) && said.contains("broker.ca: warning") && said.contains("line "), "{what}: {said}");
        }
    }
    for (what, text) in [("an older label", label("X509 CERTIFICATE")), ("text before it", format!("root:{other}"))] {
        fs::write(&world.agent.config.ca, format!("{ca}{text}")).unwrap();
        let (code, said) = checked(&world.agent).await;
        assert!(code == Some(0) && !said.contains("warning"), "{what}: {said}");
    }
    let wide: Vec<u8> = format!("{MARK}{ca}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (what, bytes) in [("UTF-16", wide), ("DER", vec![0x30, 0x82, 1, 0, 2, 1, 0])] {
        fs::write(&world.agent.config.ca, bytes).unwrap();
        let (code, said) = checked(&world.agent).await;
        assert!(code == Some(78) && said.contains(what), "{said}");
    }
}

#[tokio::test]
async fn a_configuration_or_authority_writable_by_others_is_refused_with_the_remedy() {
    let mut world = World::new().await;
    world.agent.write_config();
    let files = [(world.agent.config_path(), "config.toml"), (world.agent.config.ca.clone(), "broker.ca")];
    for (file, named) in &files {
        for mode in [0o666, 0o664, 0o646] {
            chmod(file, mode);
            for command in ["check-config", "run"] {
                let output = world.agent.command(&[command]).await;
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(78), "{command} with {named} {mode:o}: {said}");
                assert!(said.contains(named) && said.contains("chmod 644"), "{command}: {said}");
            }
        }
        chmod(file, 0o640);
        assert_eq!(checked(&world.agent).await.0, Some(0), "{named}");
        // Only root can change a file's owner.
        if chown(file, Some(65_534), None).is_ok() {
            let (code, said) = checked(&world.agent).await;
            assert!(code == Some(78) && said.contains("chown root"), "{said}");
            chown(file, Some(0), None).unwrap();
        }
    }
    // A running agent keeps its current files.
    world.start_premium().await;
    chmod(&world.agent.config_path(), 0o666);
    world.agent.signal(libc::SIGHUP);
    let status = world.agent.status_within("the loose file", PATIENCE, |status| status.condition("config_rejected").is_some()).await;
    assert!(status.sentence("config_rejected").contains("chmod 644"));
    chmod(&world.agent.config_path(), 0o640);
    world.agent.signal(libc::SIGHUP);
    world.agent.status("the tight file", |status| status.condition("config_rejected").is_none()).await;
}
