//! What every camera goes through. With care-cloud: a first connection, a clip, a cancel. With a scripted cloud:
//! another cancel, a crash, a hang, and a power cut in the middle of a switch.

use std::time::Duration;

use care_protocol::Mode;
use care_tests::{
    guest::{Guest, IDENTITY, Model, PATIENCE, STATE, Service},
    steps::{a_cancel_cuts, agent_says, closed, ends_incomplete, held, in_flight, in_force, silence, speak},
    wait::until,
    world::{DEVICE, World},
};

use crate::care_cloud;

/// Seconds from network-online to the broker on a camera that boots as fast as an idle machine emulates it.
const CONNECTED_WITHIN: f64 = 10.0;
/// Seconds that such a camera takes from power-on to network-online.
const BOOT: f64 = 20.0;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn a_camera_from_its_first_boot_to_a_power_cut() {
    let mut world = World::new().await;
    let (cloud, files) = care_cloud::with_a_camera().await;
    let mut camera = Guest::with(&mut world, Model::default(), &[(".", &files)]);
    camera.start();

    let online = camera.logged(0, "network-online", |line| line.contains("Reached target network-online.target")).await;
    let connected = camera.logged(0, "its connection", |line| agent_says(line, "connected")).await;
    let took = seconds(&connected) - seconds(&online);
    eprintln!("connected {took:.1} s after network-online, {:.1} s after power-on", seconds(&connected));
    // On a loaded machine, everything in the guest slows down equally.
    let slower = (seconds(&online) / BOOT).max(1.0);
    assert!(took <= CONNECTED_WITHIN * slower, "{slower:.1} times slower: {online}\n{connected}");

    care_cloud::a_plain_day(&cloud, &camera).await;
    it_goes_to_another_cloud(&mut world, &camera).await;
    let clip = world.cloud.wait_for("a clip", PATIENCE, |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    assert!(care_tests::media::probe_bytes(&clip.body).starts_with_keyframe, "the clip has no video");

    a_cancel_cuts(&mut world).await;
    killed_it_is_restarted_and_closed(&mut world, &camera).await;
    hung_it_is_restarted_by_the_watchdog(&mut world, &camera).await;
    the_power_goes_in_the_middle_of_a_switch(&mut world, &mut camera).await;
}

/// A new image with another identity.
async fn it_goes_to_another_cloud(world: &mut World, camera: &Guest) {
    let premium = world.premium();
    let premium = world.issue(premium).await;
    camera.run(&format!("systemctl stop kasa-care-agent; find {STATE} -mindepth 1 -delete")).await;
    for name in ["ca.pem", "device.pem", "device.key"] {
        let text = std::fs::read_to_string(world.agent.dir().join(name)).unwrap();
        camera.run(&format!("cat >{IDENTITY}/{name} <<'END'\n{text}\nEND")).await;
    }
    camera.configure(&world.agent.config.text()).await;
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
}

async fn killed_it_is_restarted_and_closed(world: &mut World, camera: &Guest) {
    let premium = world.premium();
    let premium = world.issue(premium).await;
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    in_flight(world).await;
    // The cloud is silent from here on, so the agent decides alone.
    silence(world).await;
    let (before, mark) = (camera.service().await, world.issuer.mark());
    camera.run("systemctl kill -s KILL kasa-care-agent").await;
    let after = restarted(camera, before).await;
    let mark = held(&world.issuer, mark).await;
    closed(world).await;
    assert_eq!(camera.service().await, after, "it was restarted again");
    speak(world, &premium).await;
    in_force(&world.issuer, mark, &premium, Mode::Paid).await;
}

async fn hung_it_is_restarted_by_the_watchdog(world: &mut World, camera: &Guest) {
    let (before, mark, seen) = (camera.service().await, world.issuer.mark(), camera.console().len());
    camera.run("systemctl kill -s STOP kasa-care-agent").await;
    camera.logged(seen, "the watchdog", |line| line.contains("kasa-care-agent.service: Watchdog timeout")).await;
    restarted(camera, before).await;
    let mark = held(&world.issuer, mark).await;
    world.issuer.report_within(mark, PATIENCE, "paid again", |report| report.mode == Mode::Paid).await;
}

async fn the_power_goes_in_the_middle_of_a_switch(world: &mut World, camera: &mut Guest) {
    let put = in_flight(world).await;
    until("everything acknowledged", PATIENCE, || (world.broker.acknowledged_by(DEVICE) >= world.broker.sent_to(DEVICE)).then_some(()))
        .await;
    // With the disk full, the switch reaches the cut and stops there.
    camera.run("fsfreeze --freeze /var/lib/kasa-care-agent").await;
    let free = world.free();
    let free = world.sign(&free);
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&free.token).await;
    ends_incomplete(world, &put).await;
    assert!(world.broker.acknowledged_by(DEVICE) < world.broker.sent_to(DEVICE), "a document was acknowledged that is not on disk");
    assert_eq!(world.issuer.reports(mark).iter().filter(|report| report.persisted).count(), 0);
    camera.cut_power().await;

    silence(world).await;
    let mark = world.issuer.mark();
    camera.start();
    let mark = held(&world.issuer, mark).await;
    closed(world).await;
    speak(world, &free).await;
    in_force(&world.issuer, mark, &free, Mode::Free).await;
    assert!(world.issuer.reports(mark).iter().all(|report| report.mode != Mode::Paid), "it was paid in between");
}

async fn restarted(camera: &Guest, before: Service) -> Service {
    let started = std::time::Instant::now();
    loop {
        let now = camera.service().await;
        if now.restarts > before.restarts && now.pid != 0 && now.pid != before.pid {
            return now;
        }
        assert!(started.elapsed() < PATIENCE, "systemd has not restarted the agent: {now:?}, before {before:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The seconds since power-on at the start of each journal line.
fn seconds(line: &str) -> f64 {
    let inside = line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'));
    inside.and_then(|(time, _)| time.trim().parse().ok()).unwrap_or_else(|| panic!("no time at the start of: {line}"))
}
