//! Scenario 94: the SD card is exchanged, removed or torn out while the agent runs.

use std::path::Path;

use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    card_slot::Slot,
    media::{every_frame_in, recordings},
    status::Status,
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

/// A card that is mounted `sync` takes each fragment before the write returns, here 0.7 s.
#[tokio::test]
async fn a_slow_card_mounted_sync_loses_no_frame_and_is_not_synced_again() {
    let (mut world, slot) = camera_with_a_slot().await;
    let card = slot.insert_mounted("slow", "sync");
    world.start_premium().await;
    recorded_on(&world.agent, &card).await;
    let before = world.agent.status("recording", |status| status.recorded_and_lost().0 > 0).await.recorded_and_lost();

    let trace = world.agent.dir().join("card.strace");
    let thread = world.agent.thread("media-sd");
    let arguments = ["-e", "trace=write,fdatasync", "-e", "inject=write:delay_exit=700000"];
    let mut strace = tokio::process::Command::new("strace")
        .args(["-p", &thread.to_string(), "-o"])
        .arg(&trace)
        .args(arguments)
        .kill_on_drop(true)
        .spawn()
        .expect("strace is installed");
    let delayed = |least: usize| {
        let calls = std::fs::read_to_string(&trace).unwrap_or_default();
        (calls.matches("(DELAYED)").count() >= least).then_some(())
    };
    until("slow writes", PATIENCE, || delayed(8)).await;
    let after = world.agent.status("more frames", |status| status.recorded_and_lost().0 > before.0 + 60).await.recorded_and_lost();
    assert_eq!(after.1, before.1, "frames were lost to the slow card");
    world.agent.stop().await;
    strace.wait().await.unwrap();
    let calls = std::fs::read_to_string(&trace).unwrap();
    assert!(calls.contains("write(") && !calls.contains("fdatasync("), "{calls}");
    every_frame_in(&recordings(&card));
}
