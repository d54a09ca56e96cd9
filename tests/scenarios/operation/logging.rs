//! The log where there is no journal: BusyBox's syslogd, and a bounded file.

use std::{fs, io::Write, path::Path, time::Duration};

use care_protocol::Mode;
use care_tests::{
    process::{Lines, Process},
    wait::{PATIENCE, until},
    world::World,
};
use tokio::process::Command;

/// BusyBox's syslogd listens on /dev/log and nowhere else: it gets a /dev of its own, in which that is a link.
fn syslogd(dir: &Path) -> Process {
    let script = format!("mount -t tmpfs none /dev && ln -s {0}/socket /dev/log && exec busybox syslogd -n -O {0}/messages", dir.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    Process::spawn("syslogd", command, Lines::default())
}

#[tokio::test]
async fn busybox_syslogd_gets_every_line_whole() {
    let mut world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let messages = || fs::read_to_string(dir.path().join("messages")).unwrap_or_default();
    world.agent.environment = vec![("CARE_LOG_TO".into(), format!("syslog:{}/socket", dir.path().display()))];
    // Nobody listens yet: standard error takes the lines, and says so once.
    world.agent.start();
    world.agent.logged(0, "the fallback", |line| line.contains("cannot log to syslogd")).await;
    world.agent.logged(0, "being ready", |line| line.contains("agent: ready ")).await;
    let daemon = syslogd(dir.path());
    until("syslogd", PATIENCE, || dir.path().join("socket").exists().then_some(())).await;
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    let heard =
        until("the switch", PATIENCE, || Some(messages()).filter(|text| text.contains("report") && text.contains("mode=paid"))).await;
    let line = heard.lines().find(|line| line.contains("mode=paid")).unwrap();
    assert!(line.contains("daemon.info") && line.contains(&format!("kasa-care-agent[{}]: kasa_care_agent::", world.agent.pid())), "{line}");
    assert_eq!(world.agent.log().count("cannot log to syslogd"), 1);
    assert!(!heard.lines().any(|line| line.contains(" syslog.") && line.contains("kasa-care-agent[") && line.contains("<")), "{heard}");
    // It is started again, and the agent finds it.
    drop(daemon);
    fs::remove_file(dir.path().join("socket")).unwrap();
    fs::remove_file(dir.path().join("messages")).unwrap();
    let _next = syslogd(dir.path());
    until("the next syslogd", PATIENCE, || dir.path().join("socket").exists().then_some(())).await;
    world.agent.signal(libc::SIGHUP);
    until("a line", PATIENCE, || messages().contains("configuration read again").then_some(())).await;
}

#[tokio::test]
async fn a_log_file_stays_within_its_bound_and_a_full_disk_is_no_end() {
    let mut world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    // A small disk, for two files of three pages each.
    let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(dir.path()).status().unwrap();
    assert!(mount.success());
    let (path, older, other) = (dir.path().join("log"), dir.path().join("log.1"), dir.path().join("other"));
    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    world.agent.environment = vec![
        ("CARE_LOG_TO".into(), format!("file:{}", path.display())),
        ("CARE_LOG_BYTES".into(), "12288".into()),
        ("CARE_LOG".into(), "debug".into()),
    ];
    world.start_premium().await;
    // Each reload writes some lines.
    let agent = &world.agent;
    until("both files", PATIENCE, || {
        agent.signal(libc::SIGHUP);
        (size(&older) > 8_000 && size(&path) > 0).then_some(())
    })
    .await;
    assert!(size(&older) <= 12_288 && size(&path) <= 12_288);
    assert_eq!(agent.log().len(), 0, "nothing on standard error: {:?}", agent.log().all());
    // Something else takes all the space there is, and all that becomes free.
    let mut glutton = fs::OpenOptions::new().append(true).create(true).open(&other).unwrap();
    until("the full disk", PATIENCE, || {
        while glutton.write(&[0; 512]).is_ok() {}
        agent.signal(libc::SIGHUP);
        agent.log().find(0, |line| line.contains("cannot log to") && line.contains("No space left"))
    })
    .await;
    // Lines go on, and so does the agent.
    until("a line on standard error", PATIENCE, || {
        agent.signal(libc::SIGHUP);
        agent.log().find(0, |line| line.contains("configuration read again"))
    })
    .await;
    let free = world.free();
    world.switch(free, Mode::Free).await;
    drop(glutton);
    fs::remove_file(&other).unwrap();
    until("the file again", PATIENCE, || {
        world.agent.signal(libc::SIGHUP);
        fs::read_to_string(&path).is_ok_and(|text| text.contains("mode=free") || text.ends_with("configuration read again\n")).then_some(())
    })
    .await;
    world.agent.stop().await;
    let unmounted = std::process::Command::new("umount").arg(dir.path()).status().unwrap();
    assert!(unmounted.success(), "nothing holds the log's file system");
}

#[tokio::test]
async fn a_wrong_destination_is_refused_with_the_right_ones() {
    let mut world = World::new().await;
    world.agent.environment = vec![("CARE_LOG_TO".into(), "journal".into())];
    world.agent.start();
    let status = tokio::time::timeout(Duration::from_secs(20), world.agent.ended()).await.unwrap();
    assert_eq!(status.code(), Some(78));
    world.agent.logged(0, "the destinations", |line| line.contains("stderr, syslog, syslog:SOCKET or file:/PATH")).await;
}
