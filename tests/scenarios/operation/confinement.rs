//! What the agent gives up by itself when root starts it: its user, capabilities, new privileges, files. Read from
//! `/proc` of the running program, for every thread.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    media::{every_frame_in, recorded, recordings},
    wait::{PATIENCE, until},
    world::World,
};

const USER: &str = "kasa-care-agent";
const ID: u32 = 45_990;
const VIDEO: u32 = 45_044;

/// A firmware with a user of this name: its own `/etc/passwd` and `/etc/group` in a mount namespace. The agent's files are
/// those of an image: root's, and readable for the user.
fn give_the_camera_a_user(agent: &mut Agent) {
    let dir = agent.dir().to_owned();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(dir.join("passwd"), format!("root:x:0:0:root:/root:/bin/sh\n{USER}:x:{ID}:{ID}::/:/bin/false\n")).unwrap();
    fs::write(dir.join("group"), format!("root:x:0:\n{USER}:x:{ID}:\nvideo:x:{VIDEO}:{USER}\n")).unwrap();
    mode(&dir, 0o755);
    fs::create_dir(dir.join("run")).unwrap();
    chown(&agent.config.key, Some(ID), Some(ID)).unwrap();
    agent.config.status = dir.join("run/kasa-care-agent/status.sock");
    agent.config.motion = format!("socket:{}", dir.join("run/kasa-care-agent/motion.sock").display());
    if agent.config.source.is_some() {
        let film = dir.join("recorded.mp4");
        fs::copy(recorded(), &film).unwrap();
        mode(&film, 0o644);
        agent.config.source = Some(format!("file:{}", film.display()));
    }
    agent.config.user = USER.into();
    let (passwd, group) = (dir.join("passwd"), dir.join("group"));
    let script = format!("mount --bind '{}' /etc/passwd && mount --bind '{}' /etc/group && exec \"$@\"", passwd.display(), group.display());
    agent.under = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "camera"].map(str::to_owned).to_vec();
}

/// These fields of every thread's status.
fn of_every_thread(pid: i32, fields: &[&str]) -> Vec<Vec<String>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path().join("status"));
    let read = |path: PathBuf| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(path).ok()?;
        let field = |name: &&str| {
            let line = status.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(':')).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        Some(fields.iter().map(field).collect())
    };
    threads.filter_map(read).collect()
}

const PRIVILEGES: [&str; 6] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"];

fn assert_unprivileged(pid: i32) {
    let threads = of_every_thread(pid, &PRIVILEGES);
    assert!(threads.len() >= 4, "{threads:?}");
    let none = "0000000000000000";
    for thread in threads {
        assert_eq!(thread, [none, none, none, none, none, "1"], "{PRIVILEGES:?}");
    }
}

#[tokio::test]
async fn started_by_root_the_agent_becomes_its_user_and_does_its_whole_job() {
    let mut world = World::with_camera().await;
    give_the_camera_a_user(&mut world.agent);
    let card = world.agent.dir().join("card");
    fs::create_dir(&card).unwrap();
    chown(&card, Some(ID), Some(ID)).unwrap();
    world.agent.config.recording = Some(card.clone());
    world.start_premium().await;

    let pid = world.agent.pid();
    assert_unprivileged(pid);
    let id = format!("{ID} {ID} {ID} {ID}");
    for thread in of_every_thread(pid, &["Uid", "Gid", "Groups"]) {
        assert_eq!(thread, [id.clone(), id.clone(), format!("{VIDEO} {ID}")]);
    }
    let status = world.agent.status("its confinement", |status| !status.0["confinement"].is_null()).await;
    let confinement = &status.0["confinement"];
    assert_eq!(
        (&confinement["user"], &confinement["capabilities"], &confinement["no_new_privs"]),
        (&USER.into(), &false.into(), &true.into())
    );
    assert!(status.condition("runs_as_root").is_none());

    // A clip, the card, the state.
    world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    world.agent.status("frames on the card", |status| status.recorded_and_lost().0 > 20).await;
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.mode() & 0o777)).unwrap();
    assert_eq!(owner(&world.agent.state_file()), (ID, 0o600));
    assert_eq!(owner(&world.agent.dir().join("run/kasa-care-agent")), (ID, 0o750));
    world.agent.stop().await;
    assert!(every_frame_in(&recordings(&card)) > 20);

    // What an earlier agent left behind as root is handed over.
    chown(world.agent.state_file(), Some(0), Some(0)).unwrap();
    chown(&world.agent.config.state_dir, Some(0), Some(0)).unwrap();
    world.agent.start();
    world.agent.mode(Mode::Free).await;
    let upgrade = world.premium();
    world.switch(upgrade, Mode::Paid).await;
    assert_eq!(owner(&world.agent.state_file()), (ID, 0o600));
}

/// A file system that a power cut has harmed may refuse what root asks of it.
#[tokio::test]
async fn a_file_that_cannot_be_handed_over_does_not_keep_the_agent_from_starting() {
    let mut world = World::new().await;
    give_the_camera_a_user(&mut world.agent);
    let spool = world.agent.config.state_dir.join("spool");
    fs::create_dir_all(&spool).unwrap();
    for dir in [&world.agent.config.state_dir, &spool] {
        chown(dir, Some(ID), Some(ID)).unwrap();
    }
    fs::write(spool.join("0b2c1a44-6f0e-4f3d-9d53-7a1b8c2d4e5f.clip"), "roots").unwrap();
    let calls = world.agent.dir().join("calls");
    let refused = ["strace", "-D", "-f", "-qq", "-e", "trace=fchownat", "-e", "inject=fchownat:error=EUCLEAN", "-o"];
    world.agent.under.extend(refused.map(str::to_owned));
    world.agent.under.push(calls.display().to_string());
    world.start_premium().await;
    let calls = fs::read_to_string(calls).unwrap();
    assert!(calls.contains("EUCLEAN") && calls.contains("INJECTED"), "nothing was refused: {calls}");
}

#[tokio::test]
async fn a_file_that_the_configuration_did_not_name_stays_closed_and_a_reload_says_so() {
    let mut world = World::new().await;
    give_the_camera_a_user(&mut world.agent);
    let here = world.agent.config.ca.clone();
    // Everyone may read it, says its mode.
    let elsewhere = tempfile::tempdir().unwrap();
    let there = elsewhere.path().join("ca.pem");
    fs::copy(&here, &there).unwrap();
    for (path, mode) in [(elsewhere.path(), 0o755), (&there, 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    world.agent.start();
    let status = world.agent.status("its confinement", |status| status.0["confinement"]["user"] == USER).await;
    if status.0["confinement"]["landlock"].is_null() {
        return eprintln!("skipped: this kernel has no Landlock");
    }

    // By the kernel: the file is named by a link in a directory that may be read, and has good contents and mode.
    fs::remove_file(&here).unwrap();
    symlink(&there, &here).unwrap();
    let said = world.agent.condition("certificate_rejected").await;
    assert!(said.contains("Permission denied") && said.contains("ca.pem"), "{said}");
    fs::remove_file(&here).unwrap();
    fs::copy(&there, &here).unwrap();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o644)).unwrap();
    world.agent.condition_gone("certificate_rejected").await;

    // By a new configuration: no riddle, but what to do.
    world.agent.config.ca = there.clone();
    world.agent.write_config();
    world.agent.signal(libc::SIGHUP);
    let said = world.agent.condition("config_rejected").await;
    assert!(said.contains(&there.display().to_string()) && said.contains("since its start"), "{said}");
    let advised = world.agent.log().find(0, |line| line.contains("config_rejected") && line.contains("Restart the agent"));
    assert!(advised.is_some(), "{:#?}", world.agent.log().all());
    world.agent.stop().await;
    world.agent.start_as_configured();
    world.agent.status("connected again", |status| status.0["link"]["up"] == true).await;
    world.agent.condition_gone("config_rejected").await;
}

#[tokio::test]
async fn without_its_user_the_agent_runs_as_root_without_capabilities_and_says_so() {
    let mut world = World::with_camera().await;
    world.agent.config.user = "kasa-care-agent-that-nobody-made".into();
    world.start_premium().await;
    let said = world.agent.condition("runs_as_root").await;
    assert!(said.contains("no user kasa-care-agent-that-nobody-made"), "{said}");
    assert_unprivileged(world.agent.pid());
    world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    world.agent.stop().await;

    // Asked for, it is no condition.
    world.agent.config.user = "root".into();
    world.agent.start();
    let status = world.agent.mode(Mode::Free).await;
    assert!(status.condition("runs_as_root").is_none());
    assert_eq!(status.0["confinement"]["user"], "root");
}

#[tokio::test]
async fn a_key_that_the_agents_user_cannot_read_is_named_before_the_start() {
    let mut world = World::new().await;
    give_the_camera_a_user(&mut world.agent);
    chown(&world.agent.config.key, Some(0), Some(0)).unwrap();
    world.agent.write_config();
    for command in ["check-config", "run"] {
        let output = world.agent.command(&[command]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{command}: {said}");
        let right = format!("chown {USER} {}", world.agent.config.key.display());
        assert!(said.contains("broker.client_key") && said.contains(&right), "{command}: {said}");
    }
}

#[tokio::test]
async fn what_a_starter_has_confined_already_is_left_as_it_is() {
    let mut world = World::with_camera().await;
    let dir = world.agent.dir().to_owned();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    for path in [&world.agent.config.key, &world.agent.config.state_dir] {
        chown(path, Some(ID), Some(ID)).unwrap();
    }
    world.agent.config.user = USER.into();
    let under = format!("setpriv --reuid {ID} --regid {ID} --clear-groups --no-new-privs --bounding-set=-all");
    world.agent.under = under.split(' ').map(str::to_owned).collect();
    world.start_premium().await;
    let status = world.agent.status("its confinement", |status| !status.0["confinement"].is_null()).await;
    assert_eq!(status.0["confinement"]["user"], ID.to_string(), "a number without a name");
    assert!(status.0["confinement"]["landlock"].is_null(), "the starter's sandbox counts");
    assert!(status.condition("runs_as_root").is_none());
    assert_unprivileged(world.agent.pid());
    until("a process of its own user", PATIENCE, || {
        of_every_thread(world.agent.pid(), &["Uid"]).iter().all(|thread| thread[0].starts_with(&ID.to_string())).then_some(())
    })
    .await;
}
