//! Scenario 93: a part that is missing at start disables only itself. A condition names it, and the agent uses it
//! once it appears.

use std::os::unix::net::UnixListener;

use care_protocol::Mode;
use care_tests::{
    card_slot::Slot,
    gstreamer_plugins::{add_plugin, only_plugins},
    media::{MotionSocket, recorded},
    world::World,
};

#[tokio::test]
async fn s93_the_agent_runs_without_its_status_page() {
    let mut world = World::new().await;
    let taken = UnixListener::bind(&world.agent.config.status).unwrap();
    world.start_premium().await;
    let line = world.agent.logged(0, "the status page", |line| line.contains("status_page")).await;
    assert!(line.contains("cannot listen on") && line.contains("in use"), "{line}");
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    drop(taken);
    std::fs::remove_file(&world.agent.config.status).unwrap();
    world.agent.condition_gone("status_page").await;
    world.agent.mode(Mode::Free).await;
}

#[tokio::test]
async fn s93_the_agent_runs_without_its_motion_socket_and_uses_it_once_it_appears() {
    let mut world = World::with_camera().await;
    let later = world.agent.dir().join("later");
    let motion = later.join("motion.sock");
    world.agent.config.motion = format!("socket:{}", motion.display());
    world.start_premium().await;
    world.agent.status("a picture", |status| status.0["media"]["frames"].as_u64() > Some(30)).await;
    let said = world.agent.condition("motion_socket").await;
    assert!(said.contains(&motion.display().to_string()) && said.contains("No such file"), "{said}");
    let told = world.agent.log().count("motion_socket");
    assert_eq!(told, 1, "{:#?}", world.agent.log().all());
    std::fs::create_dir(&later).unwrap();
    let mut socket = MotionSocket::open(&motion).await;
    world.agent.condition_gone("motion_socket").await;
    socket.report_motion().await;
    world.cloud.stored(1).await;
}

#[tokio::test]
async fn s93_the_agent_runs_without_its_recording_directory_and_uses_it_once_it_appears() {
    let mut world = World::with_camera().await;
    let card = world.agent.dir().join("later/recordings");
    world.agent.config.recording = Some(card.clone());
    world.start_premium().await;
    let said = world.agent.condition("recording").await;
    assert!(said.contains(&card.display().to_string()) && said.contains("No such file"), "{said}");
    world.upload_in_flight(1).await;
    std::fs::create_dir_all(&card).unwrap();
    world.agent.status("frames on the card", |status| status.recorded_and_lost().0 > 20).await;
    world.agent.condition_gone("recording").await;
}

#[tokio::test]
async fn s93_the_card_records_while_the_motion_socket_is_missing() {
    let mut world = World::with_camera().await;
    let slot = Slot::new(world.agent.dir());
    world.agent.config.motion = format!("socket:{}", world.agent.dir().join("later/motion.sock").display());
    world.agent.config.recording = Some(slot.recordings());
    world.agent.config.allow_internal_storage = false;
    world.agent.under = slot.unit(&world.agent.config.state_dir);
    slot.insert("card");
    world.start_premium().await;
    world.agent.status("frames on the card", |status| status.recorded_and_lost().0 > 20).await;
    world.agent.condition("motion_socket").await;
}

#[tokio::test]
async fn s93_a_missing_media_element_is_named_and_used_once_it_appears() {
    let mut world = World::with_camera().await;
    world.agent.config.source = Some(format!("file:{}", recorded().display()));
    let without_demuxer = ["coreelements", "app", "typefindfunctions", "videoparsersbad"];
    let folder = only_plugins(&mut world.agent, &without_demuxer);
    world.start_premium().await;
    let said = world.agent.condition("stream").await;
    assert!(said.contains("qtdemux"), "{said}");
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    add_plugin(&folder, "isomp4");
    world.agent.status("a picture", |status| status.0["media"]["frames"].as_u64() > Some(30)).await;
    world.agent.condition_gone("stream").await;
}
