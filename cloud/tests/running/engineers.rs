//! The engineers' experiments: each acts on the real parts, and the camera reports what the contract says.

use serde_json::{Value, json};

use super::{
    camera::{Camera, Clip},
    cloud::{Cloud, until},
};

/// A cloud with one simulated camera that is on Premium; its id.
async fn with_simulated(cloud: &Cloud) -> String {
    let joined = cloud.experiment(json!({ "experiment": "simulate", "account": "acct", "cameras": 1 })).await;
    let id = joined["cameras"][0].as_str().unwrap().to_owned();
    cloud.until("it is bound", |s| s["cameras"][0]["report"]["mode"] == "free").await;
    cloud.premium(&id).await;
    cloud.until("it reports Premium", |s| s["cameras"][0]["report"]["mode"] == "paid").await;
    id
}

/// Makes an experiment and waits for a report that says this of it: others may come before and after.
async fn makes(cloud: &Cloud, experiment: Value, outcome: &str, reason: &str) -> Value {
    let received = |overview: &Value| overview["reports"][0]["received_us"].as_i64().unwrap_or(0);
    let before = received(&cloud.overview().await);
    cloud.experiment(experiment.clone()).await;
    until(&format!("{experiment}: a report {outcome} {reason}"), || async {
        let overview = cloud.overview().await;
        let reports = overview["reports"].as_array().unwrap();
        let new = reports.iter().filter(|report| report["received_us"].as_i64().unwrap() > before);
        new.map(|report| &report["report"]).find(|report| report["outcome"] == outcome && report["reason"] == reason).cloned()
    })
    .await
}

#[tokio::test]
async fn an_account_with_ten_cameras_changes_at_once_and_every_camera_says_so() {
    let cloud = Cloud::start().await;
    let joined = cloud.experiment(json!({ "experiment": "simulate" })).await;
    let cameras: Vec<_> = joined["cameras"].as_array().unwrap().clone();
    assert_eq!(cameras.len(), 10);
    let all = |state: &Value, mode: &str| {
        let cameras = state["cameras"].as_array().unwrap();
        cameras.len() == 10 && cameras.iter().all(|camera| camera["status"] == "online" && camera["report"]["mode"] == mode)
    };
    cloud.until("ten cameras are bound and online", |s| all(s, "free")).await;
    cloud.premium(cameras[3].as_str().unwrap()).await;
    cloud.until("ten cameras are paid", |s| all(s, "paid")).await;
    cloud.act(json!({ "action": "cancel", "camera": cameras[7] })).await;
    cloud.until("ten cameras are Free", |s| all(s, "free")).await;
    // The eleventh joins a full account.
    cloud.premium(cameras[0].as_str().unwrap()).await;
    let more = cloud.experiment(json!({ "experiment": "simulate", "account": joined["account"], "cameras": 1 })).await;
    until("the eleventh reports that there is no seat", || async {
        let overview = cloud.overview().await;
        let mut reports = overview["reports"].as_array().unwrap().iter().map(|r| &r["report"]);
        reports.any(|r| r["device"] == more["cameras"][0] && r["reason"] == "seat_limit" && r["mode"] == "free").then_some(())
    })
    .await;
    assert_eq!(cloud.overview().await["simulated"], 11);
    assert_eq!(cloud.experiment(json!({ "experiment": "stop_simulated" })).await["stopped"], 11);
    cloud.until("they are gone", |s| s["cameras"].as_array().unwrap().iter().all(|camera| camera["status"] == "offline")).await;
}

#[tokio::test]
async fn duplicates_replays_and_wrong_keys_are_refused_for_what_they_are() {
    let cloud = Cloud::start().await;
    let id = with_simulated(&cloud).await;
    let of = |name: &str| json!({ "experiment": name, "camera": id });
    makes(&cloud, of("send_duplicate"), "duplicate", "duplicate").await;
    let stale = makes(&cloud, of("replay"), "stale", "stale").await;
    assert_eq!((&stale["judged"]["seq"], &stale["mode"]), (&json!(1), &json!("paid")), "{stale}");
    let unknown = makes(&cloud, of("unknown_key"), "rejected", "unknown_key").await;
    assert_eq!((&unknown["judged"]["seq"], &unknown["seq"], &unknown["mode"]), (&json!(3), &json!(2), &json!("paid")), "{unknown}");

    // No key is old yet; after a rotation there is one, and every camera has its document under the new one.
    let refused = cloud.try_experiment(of("old_key")).await.unwrap_err();
    assert!(refused.contains("rotate"), "{refused}");
    let renewed = makes(&cloud, json!({ "experiment": "rotate_key" }), "applied", "renewed").await;
    assert_eq!((&renewed["keyset"], &renewed["seq"], &renewed["mode"]), (&json!(2), &json!(3), &json!("paid")), "{renewed}");
    makes(&cloud, of("old_key"), "rejected", "revoked_key").await;
    let overview = cloud.overview().await;
    assert_eq!((&overview["keyset"], &overview["kid"], &overview["revoked"]), (&json!(2), &json!("care-2"), &json!(["care-1"])));
    assert!(overview["reports"].as_array().unwrap().len() >= 6, "{overview}");
}

#[tokio::test]
async fn an_expired_lease_means_free_until_the_document_is_written_anew() {
    let cloud = Cloud::start().await;
    let id = with_simulated(&cloud).await;
    makes(&cloud, json!({ "experiment": "expired_lease", "camera": id }), "applied", "renewed").await;
    cloud.until("the camera has fallen back", |s| s["cameras"][0]["report"]["mode"] == "free").await;
    let report = makes(&cloud, json!({ "experiment": "reissue", "camera": id }), "applied", "renewed").await;
    assert_eq!((&report["plan"], &report["mode"]), (&json!("premium"), &json!("paid")));
}

#[tokio::test]
async fn a_reset_reaches_its_camera_and_leaves_in_force_what_is() {
    let cloud = Cloud::start().await;
    let id = with_simulated(&cloud).await;
    let report = makes(&cloud, json!({ "experiment": "reset", "camera": id }), "duplicate", "duplicate").await;
    assert_eq!((&report["keyset"], &report["seq"], &report["mode"]), (&json!(2), &json!(2), &json!("paid")), "{report}");
}

#[tokio::test]
async fn grants_are_answered_with_402_for_as_long_as_an_engineer_wants() {
    let cloud = Cloud::start().await;
    let (a, b) = (Camera::add(&cloud, "CAM-A"), Camera::add(&cloud, "CAM-B"));
    cloud.premium("CAM-A").await;
    cloud.experiment(json!({ "experiment": "refuse_grants", "camera": "CAM-A", "seconds": 3600 })).await;
    assert_eq!(a.ask(&Clip::new(10)).await.status(), 402);
    assert_eq!(b.ask(&Clip::new(10)).await.status(), 201);
    cloud.experiment(json!({ "experiment": "refuse_grants", "camera": "CAM-A", "seconds": 0 })).await;
    assert_eq!(a.ask(&Clip::new(10)).await.status(), 201);
    cloud.experiment(json!({ "experiment": "refuse_grants", "seconds": 3600 })).await;
    assert_eq!((a.ask(&Clip::new(10)).await.status().as_u16(), b.ask(&Clip::new(10)).await.status().as_u16()), (402, 402));
}

#[tokio::test]
async fn the_broker_stops_and_starts_by_an_experiment() {
    let cloud = Cloud::start().await;
    let id = with_simulated(&cloud).await;
    cloud.experiment(json!({ "experiment": "broker", "run": false })).await;
    assert!(cloud.mosquitto().is_none());
    cloud.act(json!({ "action": "cancel", "camera": id })).await;
    cloud.experiment(json!({ "experiment": "broker", "run": true })).await;
    cloud.until("the camera is back and Free", |s| s["cameras"][0]["report"]["mode"] == "free").await;
}

#[tokio::test]
async fn history_can_be_made_and_is_the_owners_to_watch() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    cloud.experiment(json!({ "experiment": "add_history", "camera": "CAM-A", "clips": 30 })).await;
    let account = cloud.portal().get("/portal/accounts/acct-1").await.unwrap();
    assert_eq!(account["cameras"][0]["clips"], 30);
    let preview = cloud.portal().post("/portal/preview", &json!({ "action": "cancel", "camera": "CAM-A" })).await.unwrap();
    // Thirty days in thirty clips: those of today, of a day and of two days ago stay, unless a second has passed meanwhile.
    let kept = preview["losses"][0]["kept"].as_u64().unwrap();
    assert!(kept == 2 || kept == 3, "{preview}");
    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    let clips = cloud.portal().get("/portal/accounts/acct-1/cameras/CAM-A/clips").await.unwrap();
    assert_eq!(clips.as_array().unwrap().len() as u64, kept);
    let files = std::fs::read_dir(cloud.data().join("store/clips/CAM-A")).unwrap();
    let there = files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "mp4")).count();
    assert_eq!(there as u64, kept, "the rest is gone from the store");
    let orders = cloud.portal().get("/portal/accounts/acct-1/orders").await.unwrap();
    assert_eq!((&orders[0]["plan"], &orders[0]["running"]), (&json!("premium"), &json!(false)));
    assert_eq!(orders[0]["entries"][1]["kind"], "refund");
}

#[tokio::test]
async fn impossible_actions_are_refused_with_a_reason() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    for (experiment, word) in [
        (json!({ "experiment": "send_duplicate", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "unknown_key", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "reissue", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "reset", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "replay", "camera": "CAM-A" }), "only one document"),
        (json!({ "experiment": "simulate", "cameras": 2001 }), "at most"),
    ] {
        let refused = cloud.try_experiment(experiment.clone()).await.unwrap_err();
        assert!(refused.contains(word), "{experiment}: {refused}");
    }
}
