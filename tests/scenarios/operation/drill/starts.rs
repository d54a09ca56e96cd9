//! Faults that a start finds: some end it, with a code that `explain` knows; with others the agent runs on less.

use std::{fs, os::unix::fs::PermissionsExt, os::unix::net::UnixListener};

use care_protocol::Mode;
use care_tests::{
    media::recorded,
    wait::RECONNECT,
    world::{DEVICE, World},
};
use rtsp_camera::{Camera, Codec, Options};

use super::{Drill, Fault, Group, MOST_LINES, Meeting, Shows};

/// The agent ends at its start; its last lines, `check-config` and `explain` say why and what to do.
async fn ends(drill: &mut Drill, world: &mut World, what: &str) {
    let Meeting { fault: Fault { shows, says, remedy, .. }, line, .. } = drill.fault(&world.agent, what);
    let Shows::Exit(code) = shows else { panic!("{what} is a condition") };
    world.agent.start_as_configured();
    assert_eq!(world.agent.ended().await.code(), Some(*code), "{what}");
    let checked = world.agent.command(&["check-config"]).await;
    let lines = world.agent.log().since(line);
    assert!(lines.len() < MOST_LINES, "{what}: {lines:#?}");
    for said in [lines.join("\n"), String::from_utf8_lossy(&checked.stderr).into_owned()] {
        assert!(says.iter().chain([remedy]).all(|word| said.contains(word)), "{what}: {says:?} and {remedy:?} in {said}");
    }
    assert_eq!(checked.status.code(), Some(*code), "{what}");
    let explained = tokio::process::Command::new(&world.agent.program).args(["explain", &code.to_string()]).output().await.unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("lists every fault"), "{explained}");
}

#[tokio::test]
async fn starts() {
    let mut drill = Drill::new(Group::Starts);
    let mut world = World::new().await;
    let premium = world.premium();
    world.issue(premium).await;
    world.agent.write_config();
    let good = fs::read_to_string(world.agent.config_path()).unwrap();
    let key = world.agent.config.key.clone();

    fs::write(world.agent.config_path(), good.replace("state_dir", "stat_dir")).unwrap();
    ends(&mut drill, &mut world, "A key of the configuration is misspelt").await;
    fs::write(world.agent.config_path(), good.replace(&world.agent.config.ca.display().to_string(), "/nowhere/ca.pem")).unwrap();
    ends(&mut drill, &mut world, "The CA file is missing").await;
    fs::write(world.agent.config_path(), &good).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    ends(&mut drill, &mut world, "Others may read the camera's key").await;
    let other = world.pki.ca.client(DEVICE);
    fs::write(&key, other.key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    ends(&mut drill, &mut world, "The key is not that of the certificate").await;
    world.pki.ca.client(DEVICE).write(world.agent.dir(), "device");

    // Everything that is missing at this start leaves the rest running.
    let whats = ["The agent's user was not made", "This build cannot read the configured source"];
    let config = world.agent.config.clone();
    let meetings = whats.map(|what| drill.fault(&world.agent, what));
    world.agent.without_gstreamer();
    world.agent.config.user = "kasa-care-agent-that-nobody-made".into();
    world.agent.config.source = Some(format!("file:{}", recorded().display()));
    world.agent.start();
    for meeting in &meetings {
        meeting.named(&world.agent).await;
    }
    let kinds = meetings.map(|meeting| {
        let kind = meeting.kind();
        meeting.lasts(&world.agent);
        kind
    });
    world.agent.stop().await;

    // The camera tells nothing of motion, and somebody has the address of the status page.
    let blind = drill.fault(&world.agent, "The camera sends no ONVIF metadata");
    let page = drill.fault(&world.agent, "Another program has the page's address");
    let camera = Camera::start(Options::new(care_tests::media::recorded_annex_b(), Codec::H264)).unwrap();
    world.agent.config = care_tests::agent::ConfigFile { source: Some(camera.url()), motion: "onvif".into(), ..config };
    // The agent has removed its own, unless it could not.
    let _ = fs::remove_file(&world.agent.config.status);
    let taken = UnixListener::bind(&world.agent.config.status).unwrap();
    world.agent.start();
    let Fault { says, remedy, .. } = page.fault;
    // Only the log can say so.
    let line = world.agent.logged(page.line, "the taken address", |line| line.contains(page.kind().name())).await;
    assert!(says.iter().chain([remedy]).all(|word| line.contains(word)), "{line}");
    drop(taken);
    fs::remove_file(&world.agent.config.status).unwrap();
    page.over(&world.agent).await;
    for kind in kinds {
        world.agent.condition_gone(kind.name()).await;
    }
    blind.named(&world.agent).await;
    blind.lasts(&world.agent);
    world.agent.status_within("paid", RECONNECT, |status| status.mode() == Mode::Paid.as_str()).await;
    drill.end();
}
