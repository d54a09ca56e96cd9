//! `examples/publisher`, run as its README says, against the real agent and Mosquitto: a cloud of 150 lines binds a
//! camera, gives it Premium, stores its clip and takes the plan away; and so do the fifteen lines of the README.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use care_tests::{
    agent::Agent,
    broker::{Broker, ISSUER_CN, reserve_port},
    media,
    pki::Pki,
    process::{Lines, Process},
    wait::{PATIENCE, until},
    world::DEVICE,
};
use tempfile::TempDir;
use tokio::process::Command;

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/publisher").join(file)
}

/// The publisher, its camera and its broker. The camera comes first, so that it is dropped first.
struct Stage {
    camera: Agent,
    publisher: Process,
    log: Lines,
    broker: Broker,
    dir: TempDir,
}

impl Stage {
    /// Starts broker and publisher, and configures the camera without starting it.
    async fn new() -> Self {
        let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
        let broker = Broker::start(&pki).await;
        std::fs::write(dir.path().join("ca.pem"), pki.ca.pem()).unwrap();
        pki.cloud_ca.client(ISSUER_CN).write(dir.path(), "cloud");
        pki.ca.server().write(dir.path(), "server");
        let (_port, api) = reserve_port();
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").arg(example("publisher.py")).arg(dir.path().join("data"));
        command.arg("localhost").arg(broker.issuer_addr.port().to_string());
        command.arg("127.0.0.1").arg(api.port().to_string()).arg(dir.path());
        let log = Lines::default();
        let publisher = Process::spawn("publisher.py", command, log.clone());
        let keys = until("the publisher's root key", PATIENCE, || log.find(0, |line| line.starts_with("root_keys = "))).await;

        let mut camera = Agent::new(&pki, DEVICE, broker.addr, &format!("https://{api}"));
        camera.config.root_key = keys.split('"').nth(3).expect("a public key").to_owned();
        camera.config.uplink_kbps = 100_000;
        camera.config.source = Some(format!("file:{}", media::recorded().display()));
        Self { camera, publisher, log, broker, dir }
    }

    async fn say(&mut self, command: &str) {
        self.publisher.say(command).await;
    }

    /// Waits for a line of the publisher with this beginning.
    async fn told(&self, beginning: &str) -> String {
        until(format!("the publisher to print {beginning:?}"), PATIENCE, || self.log.find(0, |line| line.starts_with(beginning))).await
    }

    /// Reports motion until the publisher has stored a clip.
    async fn clip_is_stored(&self) -> String {
        let mut motion = self.camera.motion().await;
        let started = Instant::now();
        loop {
            motion.report_motion().await;
            let moved = Instant::now();
            while moved.elapsed() < Duration::from_secs(8) {
                if let Some(line) = self.log.find(0, |line| line.starts_with(&format!("{DEVICE} stored motion "))) {
                    return line;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(started.elapsed() < PATIENCE, "something moves, and no clip is stored");
        }
    }
}

#[tokio::test]
async fn the_example_publisher_binds_gives_premium_stores_a_clip_and_cancels() {
    let mut stage = Stage::new().await;
    stage.say(&format!("bind {DEVICE} acct-5b1f")).await;
    stage.camera.start();
    stage.told(&format!("{DEVICE} applied bound 1 1 free free")).await;
    stage.say(&format!("premium {DEVICE}")).await;
    stage.told(&format!("{DEVICE} applied subscribed 1 2 premium paid")).await;

    let stored = stage.clip_is_stored().await;
    let words: Vec<_> = stored.split(' ').collect();
    let clip = std::fs::read(stage.dir.path().join("data/clips").join(DEVICE).join(words[3])).unwrap();
    assert_eq!(clip.len().to_string(), words[4]);
    assert_eq!(&clip[4..8], b"ftyp", "an MP4");

    stage.say(&format!("cancel {DEVICE}")).await;
    stage.told(&format!("{DEVICE} applied cancelled 1 3 free free")).await;
    the_shortest_publisher_cancels(&stage).await;

    // A restarted publisher has its keys and positions, and binds a reset camera only with a higher epoch.
    stage.camera.stop().await;
    let reset = stage.camera.command(&["factory-reset"]).await;
    assert!(reset.status.success(), "{reset:?}");
    stage.camera.start();
    stage.told(&format!("{DEVICE} applied unbound 0 0 None unbound")).await;
    stage.say(&format!("bind {DEVICE} acct-9d20")).await;
    stage.say(&format!("bind {DEVICE} acct-9d20")).await;
    stage.say(&format!("bind {DEVICE} acct-9d20")).await;
    stage.told(&format!("{DEVICE} applied bound 4 1 free free")).await;
    stage.camera.stop().await;
}

/// Runs the README's fifteen lines unchanged, except for the broker's port.
async fn the_shortest_publisher_cancels(stage: &Stage) {
    let readme = std::fs::read_to_string(example("README.md")).unwrap();
    let snippet = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a Python example");
    assert!(snippet.lines().count() <= 15, "{} lines", snippet.lines().count());
    assert_eq!(snippet.matches("port=8884").count(), 1);
    let snippet = snippet.replace("port=8884", &format!("port={}", stage.broker.issuer_addr.port()));
    std::fs::copy(stage.dir.path().join("data/2026-11.key"), stage.dir.path().join("2026-11.key")).unwrap();
    let output = Command::new("/usr/bin/python3").arg("-c").arg(snippet).current_dir(stage.dir.path()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stage.told(&format!("{DEVICE} applied cancelled 3 42 free free")).await;
}

#[test]
fn the_example_publisher_stays_below_150_lines() {
    let lines = std::fs::read_to_string(example("publisher.py")).unwrap().lines().count();
    assert!(lines < 150, "{lines} lines");
}
