//! The SD card: missing, write-protected, full of other files, failing, slow.

use std::{fs, io::Write};

use care_tests::{card_slot::Slot, strace::Traced, wait::PATIENCE, world::World};

use super::{Drill, Group, Meeting};

/// Other files take all the space there is, and all that recordings give back.
async fn flooded(agent: &care_tests::agent::Agent, meeting: &Meeting, path: &std::path::Path) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !agent.try_status().await.is_some_and(|status| meeting.is_named(&status)) {
        for piece in [&[0; 65_536][..], &[0; 512], &[0]] {
            while file.write(piece).is_ok() {}
        }
        assert!(std::time::Instant::now() < deadline, "a full card is not named");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn card() {
    let mut drill = Drill::new(Group::Card);
    let mut world = World::with_camera().await;
    let slot = Slot::new(world.agent.dir());
    world.agent.config.recording = Some(slot.recordings());
    world.agent.config.allow_internal_storage = false;
    world.agent.under = slot.unit(&world.agent.config.state_dir);
    world.start_premium().await;
    let agent = &world.agent;

    let missing = drill.fault(agent, "There is no card in the slot");
    missing.named(agent).await;
    let card = slot.insert("card");
    missing.over(agent).await;

    let protected = drill.fault(agent, "The card turns read-only");
    slot.remount("card", "ro");
    protected.named(agent).await;
    slot.remount("card", "rw");
    protected.over(agent).await;

    let full = drill.fault(agent, "The card is full of other files");
    let other = card.parent().unwrap().join("films");
    flooded(agent, &full, &other).await;
    full.named(agent).await;
    fs::remove_file(other).unwrap();
    full.over(agent).await;

    let failing = drill.fault(agent, "The card fails to keep what it was given");
    let syncs = Traced::start(agent, "media-card", "fdatasync,fsync", "fdatasync:error=EIO");
    syncs.attached().await;
    failing.named(agent).await;
    syncs.stop().await;
    failing.over(agent).await;

    // A minute after the last one.
    let slow = drill.fault(agent, "The card takes seconds for a sync");
    let syncs = Traced::start(agent, "media-card", "fdatasync,fsync", "fdatasync:delay_exit=6000000");
    syncs.attached().await;
    slow.named(agent).await;
    syncs.stop().await;
    slow.lasts(agent);
    drill.end();
}
