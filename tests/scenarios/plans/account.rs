//! Scenarios 2, 4, 15, 16 and 87: what a change of an account means for each of its cameras, by care-cloud's own
//! rules.

use std::collections::BTreeSet;

use care_tests::{
    care_cloud::{CareCloud, camera_of, switch_of},
    wait::PATIENCE,
};

#[tokio::test]
async fn s02_premium_to_free_reaches_each_camera_of_the_account_in_its_own_document() {
    let mut cloud = CareCloud::start().await;
    let cameras = ["CAM-A", "CAM-B", "CAM-C"];
    for id in cameras {
        cloud.camera(id, "acct-1").await;
    }
    cloud.camera("CAM-OTHER", "acct-2").await;
    cloud.command(&["subscribe", "--camera", "CAM-A", "--plan", "premium"]).await;
    cloud.command(&["subscribe", "--camera", "CAM-OTHER", "--plan", "premium"]).await;
    let mut wanted: Vec<_> = cameras.iter().map(|id| (*id, "premium", "paid")).collect();
    wanted.push(("CAM-OTHER", "premium", "paid"));
    cloud.reported(&wanted).await;

    cloud.command(&["cancel", "--camera", "CAM-B"]).await;
    let mut wanted: Vec<_> = cameras.iter().map(|id| (*id, "free", "free")).collect();
    wanted.push(("CAM-OTHER", "premium", "paid"));
    let state = cloud.reported(&wanted).await;
    let digests: BTreeSet<_> = cameras.iter().map(|id| camera_of(&state, id)["report"]["digest"].to_string()).collect();
    assert_eq!(digests.len(), cameras.len(), "each camera has its own document: {digests:?}");
    for id in cameras {
        assert_eq!(switch_of(&state, id)["reason"], "cancelled");
    }
}

#[tokio::test]
async fn s04_premium_to_plus_for_one_camera_gives_the_others_free() {
    let mut cloud = CareCloud::start().await;
    for id in ["CAM-A", "CAM-B"] {
        cloud.camera(id, "acct-1").await;
    }
    cloud.command(&["subscribe", "--camera", "CAM-A", "--plan", "premium"]).await;
    cloud.reported(&[("CAM-A", "premium", "paid"), ("CAM-B", "premium", "paid")]).await;
    cloud.command(&["downgrade", "--camera", "CAM-A"]).await;
    let state = cloud.reported(&[("CAM-A", "plus", "paid"), ("CAM-B", "free", "free")]).await;
    assert_eq!(switch_of(&state, "CAM-A")["reason"], "downgraded");
}

/// An account with eleven cameras on Premium, where ten seats are taken.
async fn eleven_cameras() -> (CareCloud, serde_json::Value) {
    let mut cloud = CareCloud::start().await;
    let ids: Vec<_> = (1..=11).map(|n| format!("CAM-{n:02}")).collect();
    for id in &ids {
        cloud.camera(id, "acct-1").await;
    }
    cloud.command(&["subscribe", "--camera", "CAM-01", "--plan", "premium"]).await;
    let mut wanted: Vec<_> = ids[..10].iter().map(|id| (id.as_str(), "premium", "paid")).collect();
    wanted.push(("CAM-11", "free", "free"));
    let state = cloud.reported(&wanted).await;
    (cloud, state)
}

#[tokio::test]
async fn s15_the_eleventh_premium_camera_is_free_and_shown_as_without_a_seat() {
    let (_cloud, state) = eleven_cameras().await;
    assert_eq!(camera_of(&state, "CAM-11")["seatless"], true);
    assert_eq!(camera_of(&state, "CAM-10")["seatless"], false);
    assert_eq!(switch_of(&state, "CAM-11")["reason"], "seat_limit");
}

#[tokio::test]
async fn s16_a_freed_seat_upgrades_a_camera_with_a_new_document() {
    let (cloud, state) = eleven_cameras().await;
    let before = camera_of(&state, "CAM-11")["seq"].as_u64().unwrap();
    cloud.command(&["unbind", "--camera", "CAM-04"]).await;
    let state = cloud.reported(&[("CAM-11", "premium", "paid")]).await;
    assert_eq!(switch_of(&state, "CAM-11")["reason"], "upgraded");
    assert!(camera_of(&state, "CAM-11")["seq"].as_u64().unwrap() > before);
    assert_eq!(camera_of(&state, "CAM-04")["bound"], false);
}

#[tokio::test]
async fn s87_a_reset_camera_rejects_its_old_binding_until_it_is_added_again() {
    let mut cloud = CareCloud::start().await;
    cloud.camera("CAM-A", "acct-1").await;
    cloud.command(&["subscribe", "--camera", "CAM-A", "--plan", "plus"]).await;
    cloud.reported(&[("CAM-A", "plus", "paid")]).await;
    cloud.switch_off("CAM-A").await;
    // In transit when the camera is reset: a newer document of the old binding.
    cloud.command(&["subscribe", "--camera", "CAM-A", "--plan", "premium"]).await;
    cloud.factory_reset("CAM-A").await;
    cloud.switch_on("CAM-A");
    let state = cloud.until("the cloud knows of the reset", PATIENCE, |state| camera_of(state, "CAM-A")["reset"] == true).await;
    let seq = camera_of(&state, "CAM-A")["seq"].clone();
    assert_eq!(camera_of(&state, "CAM-A")["report"]["mode"], "unbound");
    // Neither an engineer nor a change of plan issues another document for that binding.
    cloud.command(&["experiment", "rotate-key"]).await;
    cloud.command(&["cancel", "--camera", "CAM-A"]).await;
    cloud.command(&["subscribe", "--camera", "CAM-A", "--plan", "plus"]).await;
    let state = cloud.state().await;
    assert_eq!((&camera_of(&state, "CAM-A")["seq"], &camera_of(&state, "CAM-A")["report"]["mode"]), (&seq, &"unbound".into()));

    // The same account adds the camera again: a higher epoch and its own subscription.
    cloud.command(&["bind", "--camera", "CAM-A", "--account", "acct-1"]).await;
    let state = cloud.reported(&[("CAM-A", "plus", "paid")]).await;
    assert_eq!((&camera_of(&state, "CAM-A")["epoch"], &camera_of(&state, "CAM-A")["reset"]), (&2.into(), &false.into()));
}
