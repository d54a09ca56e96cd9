//! Scenario 94: the SD card is exchanged, removed or torn out while the agent runs; and cards that are slow, full, read-only or
//! broken.

use std::path::Path;

use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    card_slot::Slot,
    media::{every_frame_in, probe, recordings},
    status::Status,
    strace::Traced,
    wait::{PATIENCE, until},
    world::World,
};

/// Number of playable frames on a card.
async fn recorded_on(agent: &Agent, card: &Path) {
    let records = |status: &Status| status.0["media"]["recording"].get("fault").is_some_and(|fault| fault.is_null());
    let before = agent.status("recording again", records).await.recorded_and_lost().0;
    agent.status("more frames on the card", |status| status.recorded_and_lost().0 > before + 20).await;
    until("a segment", PATIENCE, || (!recordings(card).is_empty()).then_some(())).await;
}

/// A camera that records to the card in its slot and to nothing else.
async fn camera_with_a_slot() -> (World, Slot) {
    let mut world = World::with_camera().await;
    let slot = Slot::new(world.agent.dir());
    world.agent.config.recording = Some(slot.recordings());
    world.agent.config.allow_internal_storage = false;
    world.agent.under = slot.unit(&world.agent.config.state_dir);
    (world, slot)
}

#[tokio::test]
async fn s94_three_cards_swapped_under_the_unit_each_get_their_recordings() {
    let (mut world, slot) = camera_with_a_slot().await;

    // The first card is mounted before the service starts: a sandbox might keep that mount.
    let mut card = slot.insert("first");
    world.start_premium().await;
    let mut tried = Vec::new();
    for next in [Some("second"), Some("third"), None] {
        recorded_on(&world.agent, &card).await;
        world.agent.condition_gone("recording").await;
        tried.push(slot.eject().await);
        let sentence = world.agent.condition("recording").await;
        assert!(sentence.contains("no card is mounted"), "{sentence}");
        assert_eq!(slot.files_below_mount(), Vec::<String>::new(), "recorded below the mount point");
        assert!(every_frame_in(&recordings(&card)) > 10, "{:?}", recordings(&card));
        if let Some(next) = next {
            card = slot.insert(next);
        }
    }
    // Without a card, everything else works.
    world.upload_in_flight(1).await;
    eprintln!("umount was tried {tried:?} times");

    // The first card again, removed while the agent writes to it, then replaced at once.
    let first = slot.insert("first");
    let before = recordings(&first).len();
    until("a further segment on the first card", PATIENCE, || (recordings(&first).len() > before).then_some(())).await;
    slot.remove_in_use();
    let fourth = slot.insert("fourth");
    recorded_on(&world.agent, &fourth).await;
    assert_eq!(slot.files_below_mount(), Vec::<String>::new(), "recorded below the mount point");

    // Plan changes apply throughout.
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    world.agent.stop().await;
    every_frame_in(&recordings(&fourth));
}

#[tokio::test]
async fn s94_with_auto_the_card_is_found_at_its_usual_place_and_the_next_one_too() {
    let mut world = World::with_camera().await;
    let slot = Slot::new(world.agent.dir());
    world.agent.config.recording = Some("auto".into());
    world.agent.config.allow_internal_storage = false;
    world.agent.under = slot.as_mnt();
    world.start_premium().await;
    let sentence = world.agent.condition("recording").await;
    assert!(sentence.contains("no card is mounted at any of /mnt/mmcblk0p1"), "{sentence}");

    for name in ["first", "second"] {
        let card = slot.insert(name);
        recorded_on(&world.agent, &card).await;
        world.agent.condition_gone("recording").await;
        slot.eject().await;
        world.agent.condition("recording").await;
        assert_eq!(slot.files_below_mount(), Vec::<String>::new(), "recorded below the mount point");
        assert!(every_frame_in(&recordings(&card)) > 10, "{:?}", recordings(&card));
    }
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
}

/// Firmware kills whoever uses a card that is pulled out.
#[tokio::test]
async fn killed_with_the_card_removed_the_agent_goes_on_with_what_it_knew_and_the_card_plays() {
    let (mut world, slot) = camera_with_a_slot().await;
    let mut card = slot.insert("card 0");
    world.start_premium().await;
    for next in 1..=3 {
        recorded_on(&world.agent, &card).await;
        // The document and the card at the same moment: neither may cost the other.
        let draft = if next % 2 == 1 { world.plus() } else { world.premium() };
        let document = world.switch(draft, Mode::Paid).await;
        slot.remove_in_use();
        world.agent.kill().await;
        assert!(every_frame_in(&recordings(&card)) > 10, "{:?}", recordings(&card));

        let log = world.agent.log().len();
        card = slot.insert(&format!("card {next}"));
        world.agent.start();
        assert_eq!(world.agent.ratchet_at_start(log).await, document.position);
        world.agent.mode(Mode::Paid).await;
    }
    recorded_on(&world.agent, &card).await;
    assert_eq!(slot.files_below_mount(), Vec::<String>::new(), "recorded below the mount point");
    world.agent.stop().await;
}

fn recording<'a>(status: &'a Status, field: &str) -> &'a serde_json::Value {
    &status.0["media"]["recording"][field]
}

/// A card whose syncs take 6 s each.
#[tokio::test]
async fn a_card_that_syncs_slowly_loses_no_frame_and_is_named() {
    let (mut world, slot) = camera_with_a_slot().await;
    let card = slot.insert("slow");
    world.start_premium().await;
    recorded_on(&world.agent, &card).await;
    let before = world.agent.status("recording", |status| status.recorded_and_lost().0 > 0).await.recorded_and_lost();
    let syncs = Traced::start(&world.agent, "media-card", "fdatasync,fsync", "fdatasync:delay_exit=6000000");
    let sentence = world.agent.condition("card_slow").await;
    assert!(sentence.contains("a power cut would have taken"), "{sentence}");
    syncs.injected("DELAYED", 2).await;
    let slow = |status: &Status| recording(status, "slow_syncs").as_u64() > Some(0) && status.recorded_and_lost().0 > before.0 + 100;
    let after = world.agent.status("slow syncs", slow).await;
    assert_eq!(after.recorded_and_lost().1, before.1, "frames were lost to the slow card");
    assert_eq!(recording(&after, "fault"), &serde_json::Value::Null);
    syncs.stop().await;
    world.agent.stop().await;
    every_frame_in(&recordings(&card));
}

/// As from a worn card: what it was given it fails to keep.
#[tokio::test]
async fn a_card_that_fails_to_sync_is_named_and_recorded_to_again_when_it_works() {
    let (mut world, slot) = camera_with_a_slot().await;
    let card = slot.insert("broken");
    world.start_premium().await;
    recorded_on(&world.agent, &card).await;
    let syncs = Traced::start(&world.agent, "media-card", "fdatasync,fsync", "fdatasync:error=EIO:when=2+");
    let sentence = world.agent.condition("recording").await;
    assert!(sentence.contains("syncing a recording in"), "{sentence}");
    let counted =
        |status: &Status| recording(status, "failed_syncs").as_u64() > Some(0) && recording(status, "lost")["unsynced"].as_u64() > Some(0);
    world.agent.status("the failed sync", counted).await;
    syncs.stop().await;
    world.agent.condition_gone("recording").await;
    recorded_on(&world.agent, &card).await;
    let status = world.agent.status("the stream", |_| true).await;
    assert_eq!(status.0["media"]["dropped"], 0, "the stream lost nothing");
    world.agent.stop().await;
    assert!(recordings(&card).len() > 1, "{:?}", recordings(&card));
}

/// The card has bytes left, but takes no more files. What is not the agent's stays.
#[tokio::test]
async fn on_a_card_that_takes_no_more_files_the_oldest_recording_gives_way_and_nothing_else() {
    let (mut world, slot) = camera_with_a_slot().await;
    let card = slot.insert_mounted("many", "nr_inodes=40");
    let old = |n: usize| card.join(format!("20240101T00000{n}Z-0000000{n}.mp4"));
    (0..6).for_each(|n| std::fs::write(old(n), b"film").unwrap());
    let mut foreign = 0;
    while std::fs::write(card.parent().unwrap().join(format!("photo-{foreign}.jpg")), b"").is_ok() {
        foreign += 1;
    }
    assert!(foreign > 20, "{foreign}");
    world.start_premium().await;
    let status = world.agent.status("recording", |status| status.recorded_and_lost().0 > 20).await;
    assert!(recording(&status, "fault").is_null() && recording(&status, "deleted").as_u64() >= Some(2), "{:#}", status.0["media"]);
    assert!(!old(0).exists() && !old(1).exists() && old(5).exists(), "{:?}", recordings(&card));
    let photos = std::fs::read_dir(card.parent().unwrap()).unwrap().filter(|entry| entry.as_ref().unwrap().path().extension().is_some());
    assert_eq!(photos.count(), foreign);
    world.agent.stop().await;
}

/// As a file system remounts itself after an error.
#[tokio::test]
async fn a_card_that_turns_read_only_costs_recorded_frames_alone_and_they_are_counted() {
    let (mut world, slot) = camera_with_a_slot().await;
    let card = slot.insert("turning");
    world.start_premium().await;
    recorded_on(&world.agent, &card).await;
    slot.remount("turning", "ro");
    let sentence = world.agent.condition("recording").await;
    assert!(sentence.contains("Read-only file system"), "{sentence}");
    let counted = |status: &Status| recording(status, "lost")["read_only"].as_u64() > Some(20);
    let status = world.agent.status("lost frames", counted).await;
    assert_eq!(status.0["media"]["dropped"], 0, "the stream lost nothing");
    // Clips go on.
    world.upload_in_flight(1).await;
    slot.remount("turning", "rw");
    world.agent.condition_gone("recording").await;
    recorded_on(&world.agent, &card).await;
    world.agent.stop().await;
    recordings(&card).iter().for_each(|file| assert!(probe(file).starts_with_keyframe, "{}", file.display()));
}

/// What vfat may leave of the file that was open: half a fragment, and blocks that were never written.
#[tokio::test]
async fn what_a_power_cut_tore_plays_after_the_next_start() {
    let (mut world, slot) = camera_with_a_slot().await;
    let card = slot.insert("torn");
    world.start_premium().await;
    recorded_on(&world.agent, &card).await;
    world.agent.kill().await;
    let torn = recordings(&card).pop().unwrap();
    let before = every_frame_in(std::slice::from_ref(&torn));
    let mut bytes = std::fs::read(&torn).unwrap();
    bytes.truncate(bytes.len() - 1000);
    bytes.resize(bytes.len() + 20_000, 0);
    std::fs::write(&torn, &bytes).unwrap();
    // Its name alone has come to the card.
    let empty = torn.with_file_name(format!("{}99.mp4", torn.file_stem().unwrap().to_str().unwrap().strip_suffix("00").unwrap()));
    std::fs::write(&empty, b"").unwrap();
    world.agent.start();
    until("the torn file is mended", PATIENCE, || (std::fs::metadata(&torn).unwrap().len() < bytes.len() as u64 - 19_000).then_some(()))
        .await;
    until("the empty file is gone", PATIENCE, || (!empty.exists()).then_some(())).await;
    let probed = probe(&torn);
    assert!(probed.complaints.is_empty(), "{}", probed.complaints);
    let after = every_frame_in(std::slice::from_ref(&torn));
    assert!(after < before && after + 31 >= before, "{after} of {before} frames");
    world.agent.stop().await;
}

/// A card that is mounted `sync` takes each fragment before the write returns, here 0.7 s.
#[tokio::test]
async fn a_slow_card_mounted_sync_loses_no_frame_and_is_not_synced_again() {
    let (mut world, slot) = camera_with_a_slot().await;
    let card = slot.insert_mounted("slow", "sync");
    world.start_premium().await;
    recorded_on(&world.agent, &card).await;
    let before = world.agent.status("recording", |status| status.recorded_and_lost().0 > 0).await.recorded_and_lost();

    let writes = Traced::start(&world.agent, "media-sd", "write,fdatasync", "write:delay_exit=700000");
    let syncs = Traced::start(&world.agent, "media-card", "open,openat,fsync,fdatasync", "fsync:delay_exit=1");
    writes.injected("DELAYED", 8).await;
    let after = world.agent.status("more frames", |status| status.recorded_and_lost().0 > before.0 + 60).await.recorded_and_lost();
    assert_eq!(after.1, before.1, "frames were lost to the slow card");
    world.agent.stop().await;
    let (writes, syncs) = (writes.calls(), syncs.calls());
    assert!(writes.contains("write(") && !writes.contains("fdatasync("), "{writes}");
    assert!(syncs.contains("open") && !syncs.contains("sync("), "{syncs}");
    every_frame_in(&recordings(&card));
}
