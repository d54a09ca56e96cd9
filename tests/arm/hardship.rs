//! Emulated cameras that lack something: flash space, memory, a clock, a writable root. Part of `make proof`.

use care_protocol::Mode;
use care_tests::{
    guest::{Guest, Model, PATIENCE},
    media::has_recordings,
    steps::{agent_says, in_force},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn the_agent_works_on_a_read_only_root() {
    works_on(Model { read_only: true, ..Model::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn a_camera_that_boots_in_1970_connects() {
    let camera = works_on(Model { without_clock: true, ..Model::default() }).await;
    let year = camera.run("date +%Y").await;
    assert_eq!(year.trim(), "1970", "the guest's clock was set by something else");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn memory_of_128_mb_is_enough() {
    works_on(Model { memory: 128, ..Model::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn memory_of_64_mb_is_enough() {
    let camera = works_on(Model { memory: 64, ..Model::default() }).await;
    assert_eq!(camera.console().count("Out of memory"), 0, "a process was killed for lack of memory");
    eprintln!("{}", camera.run("grep -E 'MemTotal|MemAvailable' /proc/meminfo; grep -E '^Pss:' /proc/$(systemctl show -p MainPID --value kasa-care-agent)/smaps_rollup").await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn on_a_full_disk_a_downgrade_is_kept_and_the_disk_reported() {
    let mut world = World::new().await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    let mut camera = Guest::new(&mut world, Model::default());
    camera.start();
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    // Fills everything except what the agent has preallocated.
    camera.run("dd if=/dev/zero of=/var/lib/kasa-care-agent/filler bs=4k 2>&1; sync").await;
    let left = camera.run("df --output=avail /var/lib/kasa-care-agent | tail -n 1").await;
    assert_eq!(left.trim(), "0");
    let mark = world.issuer.mark();
    let free = world.free();
    let free = world.issue(free).await;
    let report = in_force(&world.issuer, mark, &free, Mode::Free).await;
    assert!(report.persisted, "space for the record is preallocated: {report:?}");
    camera.cut_power().await;
    let mark = world.issuer.mark();
    camera.start();
    in_force(&world.issuer, mark, &free, Mode::Free).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn three_cards_are_swapped() {
    let mut world = World::new().await;
    world.agent.config.recording = Some("/mnt/sd/recordings".into());
    world.agent.config.allow_internal_storage = false;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    let mut camera = Guest::new(&mut world, Model::default());
    camera.start();
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    for card in ["first", "second", "third"] {
        camera.run("mkdir -p /mnt/sd && mount -t tmpfs -o size=16m card /mnt/sd").await;
        eventually_prints(
            &camera,
            &format!("recordings on the {card} card"),
            &format!("{} && echo yes", has_recordings("/mnt/sd/recordings")),
            "yes",
        )
        .await;
        eventually_prints(&camera, &format!("the {card} card unmounted"), "umount /mnt/sd && echo yes", "yes").await;
        let beneath = camera.run("ls -A /mnt/sd").await;
        assert_eq!(beneath, "", "recorded beneath the mount point after the {card} card");
    }
    // Nothing else was affected.
    let free = world.free();
    let free = world.issue(free).await;
    in_force(&world.issuer, 0, &free, Mode::Free).await;
}

/// Runs a script until it prints this text.
async fn eventually_prints(camera: &Guest, what: &str, script: &str, wanted: &str) {
    let began = std::time::Instant::now();
    while camera.run(&format!("({script}) 2>/dev/null")).await.trim() != wanted {
        assert!(began.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// Goes from first boot to paid, a clip and a cancel. Returns the running camera.
async fn works_on(model: Model) -> Guest {
    let mut world = World::new().await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    let mut camera = Guest::new(&mut world, model);
    camera.start();
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    let seen = camera.console().len();
    world.cloud.wait_for("a clip", PATIENCE, |seen| seen.puts.iter().find(|put| put.complete == Some(true)).map(drop)).await;
    let free = world.free();
    let free = world.issue(free).await;
    in_force(&world.issuer, 0, &free, Mode::Free).await;
    assert!(camera.console().find(seen, |line| agent_says(line, "panicked")).is_none());
    camera
}
