//! Scenarios 70, 76 and 77: an agent starts again after another firmware, a kill, a hang.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use care_protocol::{Cause, Mode};
use care_tests::{
    build::Build,
    cloud::{Document as Body, Sink},
    in_each_build,
    process::{Lines, Process},
    wait::{PATIENCE, holds, until},
    world::World,
};

const UNIT: &str = include_str!("../../../systemd/kasa-care-agent.service");

/// CRC-32 (IEEE), bit by bit, independent of the agent's implementation.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }))
}

/// Rewrites format and record in the newest slot of the state file, with a correct checksum.
fn rewrite(state_dir: &Path, change: impl Fn(&mut u32, &mut String)) {
    let path = state_dir.join("state");
    let mut file = std::fs::read(&path).unwrap();
    let slot_bytes = file.len() / 2;
    let word = |slot: &[u8], at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().unwrap());
    let sequence = |slot: &[u8]| u64::from_le_bytes(slot[16..24].try_into().unwrap());
    let newest = usize::from(sequence(&file[slot_bytes..]) > sequence(&file));
    let slot = &mut file[newest * slot_bytes..][..slot_bytes];
    let (mut format, length) = (word(slot, 8), word(slot, 12) as usize);
    let mut record = String::from_utf8(slot[32..32 + length].to_vec()).unwrap();
    assert_eq!(crc32(&[&slot[..28], record.as_bytes()].concat()), word(slot, 28), "the layout is the one this test was written for");
    change(&mut format, &mut record);
    slot[8..12].copy_from_slice(&format.to_le_bytes());
    slot[12..16].copy_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
    slot[32..32 + record.len()].copy_from_slice(record.as_bytes());
    let checksum = crc32(&[&slot[..28], record.as_bytes()].concat());
    slot[28..32].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(path, file).unwrap();
}

#[tokio::test]
async fn s70_the_state_of_a_newer_firmware_is_unreadable_and_never_misread() {
    type Change = fn(&mut u32, &mut String);
    let newer: [(&str, Change); 3] = [
        ("a newer slot", |format, _| *format = 2),
        ("a newer record", |_, record| *record = record.replacen("\"format\":1", "\"format\":2", 1)),
        ("a field to come", |_, record| *record = record.replacen('{', "{\"seats\":4,", 1)),
    ];
    let mut world = World::new().await;
    world.start_premium().await;
    for (name, change) in newer {
        world.agent.stop().await;
        rewrite(&world.agent.config.state_dir, change);
        // HTTPS is silent: the state alone decides.
        world.cloud.lock().entitlement = Body::Silence;
        world.agent.start();
        let status = world.agent.status(name, |status| status.warnings().contains("could not be read")).await;
        assert_eq!((status.mode(), status.seq()), ("unbound", 0), "{name}");
        world.agent.kill().await;

        // It is restored like any unreadable state (scenario 41).
        let premium = world.premium();
        let premium = world.sign(&premium);
        world.cloud.lock().entitlement = Body::Token(premium.token.clone());
        world.issuer.heard().answer = Some(premium.token.clone());
        world.issuer.publish_entitlement(&premium.token).await;
        world.agent.start();
        world.issuer.in_force(&premium, Mode::Paid).await;
    }
}

/// The control: the same rewrite without a change leaves the state valid.
#[tokio::test]
async fn s70_the_state_of_this_firmware_is_read() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    world.agent.stop().await;
    rewrite(&world.agent.config.state_dir, |_, _| {});
    world.cloud.lock().entitlement = Body::Silence;
    world.agent.start();
    world.agent.status("the plan", |status| status.seq() == premium.position.seq && status.plan() == "premium").await;
}

in_each_build!(s76_a_killed_agent_starts_with_the_gate_closed);

async fn s76_a_killed_agent_starts_with_the_gate_closed(build: Build) {
    let mut world = World::with_camera_of(build).await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let premium = world.start_premium().await;
    world.upload_in_flight(16_000).await;
    world.agent.kill().await;
    // Nothing confirms the recorded plan.
    world.issuer.heard().answer = None;
    world.issuer.publish_entitlement("").await;
    world.cloud.lock().entitlement = Body::Silence;
    world.cloud.lock().sink = Sink::Swallow;
    let (mark, asked) = (world.issuer.mark(), world.cloud.grants_asked());
    world.agent.start();
    let report = world.issuer.report_since(mark, "the boot", |report| report.cause == Cause::Boot).await;
    assert!(premium.in_force(&report) && report.mode == Mode::Held, "{report:?}");
    world.agent.motion().await.report_motion().await;
    holds("nothing beyond Free leaves", Duration::from_secs(4), || {
        (world.cloud.grants_asked() > asked).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;
    world.hand_out(&premium).await;
    world.agent.mode(Mode::Paid).await;
    world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    assert!(UNIT.lines().any(|line| line == "Restart=on-failure"), "systemd starts it again");
}

/// systemd's end of the notify socket.
struct Systemd {
    socket: UnixDatagram,
    last_alive: Option<Instant>,
    ready: bool,
}

impl Systemd {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, last_alive: None, ready: false }
    }

    fn hear(&mut self) -> &Self {
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&message[..length]).into_owned();
                    self.ready |= text.lines().any(|line| line == "READY=1");
                    if text.lines().any(|line| line == "WATCHDOG=1") {
                        self.last_alive = Some(Instant::now());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self,
                Err(error) => panic!("the notify socket: {error}"),
            }
        }
    }
}

in_each_build!(s77_a_hung_agent_does_not_feed_the_watchdog_and_restarts_with_the_gate_closed);

async fn s77_a_hung_agent_does_not_feed_the_watchdog_and_restarts_with_the_gate_closed(build: Build) {
    const WATCHDOG: Duration = Duration::from_secs(4);
    let mut world = World::of(build).await;
    let mut systemd = Systemd::listen(&world.agent.dir().join("notify"));
    world.agent.environment = vec![
        ("NOTIFY_SOCKET".into(), world.agent.dir().join("notify").display().to_string()),
        ("WATCHDOG_USEC".into(), WATCHDOG.as_micros().to_string()),
    ];
    let premium = world.start_premium().await;
    until("READY and a keep-alive", PATIENCE, || (systemd.hear().ready && systemd.last_alive.is_some()).then_some(())).await;

    // Only the control thread hangs, at its next wait; all other threads go on.
    let log = Lines::default();
    let mut strace = tokio::process::Command::new("strace");
    let calls = "epoll_wait,epoll_pwait,epoll_pwait2";
    strace.args([
        "-p",
        &world.agent.pid().to_string(),
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:delay_enter=600000000"),
    ]);
    let mut strace = Process::spawn("strace", strace, log.clone());
    until("strace", PATIENCE, || log.find(0, |line| line.contains("attached"))).await;
    until("no more keep-alives to the watchdog", Duration::from_secs(60), || {
        (systemd.hear().last_alive.is_some_and(|alive| alive.elapsed() > WATCHDOG)).then_some(())
    })
    .await;
    assert!(world.agent.try_status().await.is_some(), "the other threads keep running");
    strace.signal(libc::SIGKILL);
    strace.exited(PATIENCE).await;
    // The control: without the fault, the same agent is healthy again.
    let starved = Instant::now();
    until("a keep-alive", PATIENCE, || systemd.hear().last_alive.filter(|alive| *alive > starved)).await;

    // As systemd does with an agent that hangs.
    world.agent.signal(libc::SIGABRT);
    assert!(!world.agent.ended().await.success());
    world.issuer.heard().answer = None;
    world.issuer.publish_entitlement("").await;
    world.cloud.lock().entitlement = Body::Silence;
    let mark = world.issuer.mark();
    world.agent.start();
    let report = world.issuer.report_since(mark, "the boot", |report| report.cause == Cause::Boot).await;
    assert!(premium.in_force(&report) && report.mode == Mode::Held, "{report:?}");
    let seconds: u64 = UNIT.lines().find_map(|line| line.strip_prefix("WatchdogSec=")).unwrap().parse().unwrap();
    assert!((10..=60).contains(&seconds) && UNIT.lines().any(|line| line == "Restart=on-failure"));
}
