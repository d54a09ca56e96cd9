//! Bare cameras with less: 26 MB for Linux, JFFS2 on NOR flash, a full flash, and power cuts while the state is written.
//! Part of `make proof`.

use std::time::Duration;

use care_protocol::{Mode, Report};
use care_tests::{
    bare_camera::{BareCamera, Board, Memory, Model},
    guest::PATIENCE,
    steps::{in_force, silence},
    wait::until,
    world::World,
};

use crate::daily::a_day;

/// Power cuts in a row.
const CUTS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of a bare camera: scripts/bare-camera.sh"]
async fn a_day_with_26_mb_for_linux() {
    a_day(Model { memory: Memory::Small, ..Model::default() }, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of a bare camera: scripts/bare-camera.sh"]
async fn a_day_on_jffs2_with_26_mb_for_linux() {
    a_day(Model { board: Board::Nor, memory: Memory::Small, clock: false, ..Model::default() }, false).await;
}

/// A plan changes every 300 ms, and the power goes at some moment of it, again and again: jffs2 finds its own half-written
/// nodes at the next mount, collects garbage because the state alone outgrows the flash, and every document that was
/// acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of a bare camera: scripts/bare-camera.sh"]
async fn acknowledged_documents_survive_power_cuts_on_jffs2() {
    let mut world = World::new().await;
    let mut camera = BareCamera::new(&mut world, Model { board: Board::Nor, memory: Memory::Small, clock: false, ..Model::default() });
    let first = world.premium();
    let first = world.issue(first).await;
    camera.start();
    in_force(&world.issuer, 0, &first, Mode::Paid).await;
    let mut random = 20_261_130_u64;
    for cut in 1..=CUTS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let changes = 12 + (random >> 60);
        for number in 0..changes {
            let draft = if number % 2 == 0 { world.free() } else { world.premium() };
            tokio::time::sleep(Duration::from_millis(250 + (random >> 40) % 100)).await;
            world.issue(draft).await;
        }
        // The last one is on its way, being written, or has just been.
        tokio::time::sleep(Duration::from_millis((random >> 33) % 60)).await;
        camera.cut_power().await;
        let published = world.position.seq;
        let persisted = |report: &Report| report.persisted.then_some(report.seq);
        let acknowledged = world.issuer.reports(0).iter().filter_map(persisted).max().expect("the first was reported");
        silence(&world).await;
        let gets = world.issuer.gets();
        camera.start();
        let get = until("a get after the boot", PATIENCE, || world.issuer.heard().gets.get(gets).map(|(_, get)| get.clone())).await;
        eprintln!("cut {cut}: (3, {}) on record, reported to {acknowledged}, published to {published}", get.seq);
        assert!((acknowledged..=published).contains(&get.seq), "{} is on record, not {acknowledged} to {published}", get.seq);
        let again = world.premium();
        let again = world.issue(again).await;
        in_force(&world.issuer, 0, &again, Mode::Paid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of a bare camera: scripts/bare-camera.sh"]
async fn on_a_full_flash_a_downgrade_holds_and_an_upgrade_waits_for_room() {
    for board in [Board::Virt, Board::Nor] {
        full_flash(board).await;
    }
}

async fn full_flash(board: Board) {
    let mut world = World::new().await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    let mut camera = BareCamera::new(&mut world, Model { board, memory: Memory::Small, ..Model::default() });
    camera.start();
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;
    // More than the flash has; random, because JFFS2 compresses.
    let said = camera.run("dd if=/dev/urandom of=/filler bs=4k count=2000 2>&1; sync; df /overlay").await;
    assert!(said.contains("No space left"), "{said}");
    let mark = world.issuer.mark();
    let free = world.free();
    let free = world.issue(free).await;
    let report = in_force(&world.issuer, mark, &free, Mode::Free).await;
    eprintln!("{board:?}: with a full flash the downgrade is persisted: {}", report.persisted);
    camera.run("rm /filler; sync").await;
    let mark = world.issuer.mark();
    let premium = world.premium();
    let premium = world.issue(premium).await;
    in_force(&world.issuer, mark, &premium, Mode::Paid).await;
    camera.cut_power().await;
    let mark = world.issuer.mark();
    camera.start();
    in_force(&world.issuer, mark, &premium, Mode::Paid).await;
}
