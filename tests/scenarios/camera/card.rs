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

#[tokio::test]
async fn s94_three_cards_swapped_under_the_unit_each_get_their_recordings() {
    let mut world = World::with_camera().await;
    let slot = Slot::new(world.agent.dir());
    world.agent.config.recording = Some(slot.recordings());
    world.agent.config.allow_internal_storage = false;
    world.agent.under = slot.unit(&world.agent.config.state_dir);

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
