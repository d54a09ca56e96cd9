//! A care-cloud that was restored from a backup knows less than its cameras: `docs/operations.md#backing-up-care-cloud` says
//! what to do.

use care_tests::{
    care_cloud::{CareCloud, camera_of},
    wait::PATIENCE,
};

#[tokio::test]
async fn after_a_restore_a_reset_lets_a_camera_follow_its_cloud_again() {
    let mut cloud = CareCloud::start().await;
    cloud.camera("CAM-A", "acct-1").await;
    cloud.command(&["subscribe", "--camera", "CAM-A", "--plan", "premium"]).await;
    cloud.reported(&[("CAM-A", "premium", "paid")]).await;
    let copy = cloud.back_up().await;
    cloud.command(&["cancel", "--camera", "CAM-A"]).await;
    let cancelled = cloud.reported(&[("CAM-A", "free", "free")]).await;

    cloud.restore(&copy).await;
    let refused = |state: &serde_json::Value| camera_of(state, "CAM-A")["report"]["reason"] == "stale";
    let state = cloud.until("the camera to refuse the older document", PATIENCE, refused).await;
    let (camera, before) = (camera_of(&state, "CAM-A"), camera_of(&cancelled, "CAM-A"));
    assert_eq!(camera["plan"], "premium", "the copy's");
    assert_eq!((&camera["report"]["mode"], &camera["report"]["seq"]), (&"free".into(), &before["seq"]), "what it had accepted");

    cloud.command(&["experiment", "reset", "--camera", "CAM-A"]).await;
    cloud.reported(&[("CAM-A", "premium", "paid")]).await;
    cloud.command(&["cancel", "--camera", "CAM-A"]).await;
    cloud.reported(&[("CAM-A", "free", "free")]).await;
}
