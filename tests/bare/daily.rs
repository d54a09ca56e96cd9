//! What every bare camera goes through: a first boot in 1970, a clip, a cancel in mid-upload, a crash, a hang, another
//! card, and a power cut in the middle of a switch.

use std::{path::PathBuf, process::Command};

use care_protocol::{Cause, Mode};
use care_tests::{
    bare_camera::{BareCamera, CARD, Model, STREAM},
    guest::{PATIENCE, STATE},
    media,
    steps::{a_cancel_cuts, closed, ends_incomplete, held, in_flight, in_force, silence, speak},
    wait::until,
    world::{DEVICE, World},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of a bare camera: scripts/bare-camera.sh"]
async fn s104_a_bare_camera_from_its_first_boot_to_a_power_cut() {
    let model = Model { clock: false, ..Model::default() };
    let (world, camera) = a_day(model, true).await;
    drop((camera, world));
}

/// The whole day of a camera of this model. The second boot has the clock that the first one lacked.
pub(crate) async fn a_day(model: Model, with_card: bool) -> (World, BareCamera) {
    let mut world = World::new().await;
    world.agent.config.source = Some(STREAM.to_owned());
    world.agent.config.recording = with_card.then(|| PathBuf::from(CARD).join("recordings"));
    world.agent.config.allow_internal_storage = false;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    let mut camera = BareCamera::new(&mut world, model);
    let booted = std::time::Instant::now();
    camera.start();
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    eprintln!("paid {:.1} s after power-on", booted.elapsed().as_secs_f64());
    if !model.clock {
        assert_eq!(camera.run("date +%Y").await.trim(), "1970", "something has set the camera's clock");
    }

    let clip = world.cloud.wait_for("a clip", PATIENCE, |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    let film = media::probe_bytes(&clip.body);
    assert!(film.starts_with_keyframe && film.height == 360 && film.complaints.is_empty(), "{film:?}");
    eprintln!("a clip of {:.1} s, {} bytes", film.duration(), clip.body.len());

    a_cancel_cuts(&mut world).await;
    if with_card {
        the_card_is_exchanged(&camera).await;
    }
    killed_it_is_restarted_and_closed(&mut world, &camera).await;
    hung_it_is_restarted(&mut world, &camera).await;
    the_power_goes_in_the_middle_of_a_switch(&mut world, &mut camera).await;
    assert_eq!(camera.console().count("Out of memory"), 0, "a process was killed for lack of memory");
    (world, camera)
}

async fn killed_it_is_restarted_and_closed(world: &mut World, camera: &BareCamera) {
    let premium = world.premium();
    let premium = world.issue(premium).await;
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    in_flight(world).await;
    // The cloud is silent from here on, so the agent decides alone.
    silence(world).await;
    let (before, mark) = (camera.agent().await.expect("the agent is running"), world.issuer.mark());
    camera.run(&format!("kill -KILL {before}")).await;
    let after = camera.restarted(before).await;
    let mark = held(&world.issuer, mark).await;
    closed(world).await;
    assert_eq!(camera.agent().await, Some(after), "it was restarted again");
    speak(world, &premium).await;
    in_force(&world.issuer, mark, &premium, Mode::Paid).await;
}

async fn hung_it_is_restarted(world: &mut World, camera: &BareCamera) {
    let (before, mark) = (camera.agent().await.expect("the agent is running"), world.issuer.mark());
    camera.run(&format!("kill -STOP {before}")).await;
    camera.restarted(before).await;
    // The cloud may confirm the plan before the report of the boot that holds is sent; then that one is not sent any more.
    world.issuer.report_within(mark, PATIENCE, "paid again", |report| (report.mode, report.cause) == (Mode::Paid, Cause::Confirmed)).await;
}

/// Recordings go to the card, and to the next one, and never to the flash beneath.
async fn the_card_is_exchanged(camera: &BareCamera) {
    let recorded = format!("{} && echo yes", media::has_recordings(&format!("{CARD}/recordings")));
    camera.eventually_prints("recordings on the first card", &recorded, "yes").await;
    camera.eventually_prints("the first card unmounted", &format!("umount {CARD} && echo yes"), "yes").await;
    assert_eq!(camera.run(&format!("ls -A {CARD}")).await, "", "recorded beneath the mount point");
    camera.run(&camera.model.cards.mount("/dev/vdd")).await;
    camera.eventually_prints("recordings on the second card", &recorded, "yes").await;
    camera.eventually_prints("the second card unmounted", &format!("umount {CARD} && echo yes"), "yes").await;
    for card in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let copied = Command::new("mcopy").arg("-s").arg("-i").arg(camera.card(card)).arg("::recordings").arg(dir.path()).output();
        let copied = copied.expect("mtools are installed");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let files = media::recordings(&dir.path().join("recordings"));
        let frames: usize = files.iter().map(|file| media::probe(file).pictures.len()).sum();
        eprintln!("card {card}: {} files, {frames} frames", files.len());
        assert!(frames > 0, "nothing plays on card {card}: {files:?}");
    }
}

async fn the_power_goes_in_the_middle_of_a_switch(world: &mut World, camera: &mut BareCamera) {
    let put = in_flight(world).await;
    until("everything acknowledged", PATIENCE, || (world.broker.acknowledged_by(DEVICE) >= world.broker.sent_to(DEVICE)).then_some(()))
        .await;
    // With the disk not writing, the switch reaches the cut and stops there.
    let stopped = camera.stop_writes().await;
    let free = world.free();
    let free = world.sign(&free);
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&free.token).await;
    ends_incomplete(world, &put).await;
    if stopped {
        assert!(world.broker.acknowledged_by(DEVICE) < world.broker.sent_to(DEVICE), "a document was acknowledged that is not on disk");
        assert_eq!(world.issuer.reports(mark).iter().filter(|report| report.persisted).count(), 0);
    }
    camera.cut_power().await;

    silence(world).await;
    let mark = world.issuer.mark();
    camera.model.clock = true;
    camera.start();
    if stopped {
        let mark = held(&world.issuer, mark).await;
        closed(world).await;
        speak(world, &free).await;
        in_force(&world.issuer, mark, &free, Mode::Free).await;
    } else {
        speak(world, &free).await;
        in_force(&world.issuer, mark, &free, Mode::Free).await;
    }
    assert!(world.issuer.reports(mark).iter().all(|report| report.mode != Mode::Paid), "it was paid in between");
    let state = camera.run(&format!("ls {STATE}")).await;
    assert!(state.contains("state"), "no state in {state}");
    // Support sees what happened before this boot.
    let ends = format!(r#"grep -o 'killed\|power_lost' {STATE}/timeline | sort -u | tr '\n' ' '"#);
    camera.eventually_prints("crash and power cut in the timeline on flash", &ends, "killed power_lost").await;
}
