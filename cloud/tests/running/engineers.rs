//! The engineers' page: each experiment is made with the real parts, and cameras say of it what the contract says they must.

use serde_json::{Value, json};

use super::{
    camera::{Camera, Clip},
    cloud::Cloud,
};

/// A cloud with one simulated camera that is on Premium; its id.
async fn with_simulated(cloud: &Cloud) -> String {
    let joined = cloud.experiment(json!({ "experiment": "simulate", "account": "acct", "cameras": 1 })).await;
    let id = joined["cameras"][0].as_str().unwrap().to_owned();
    cloud.until("it reports that it is bound", |s| s["cameras"][0]["report"]["reason"] == "bound").await;
    cloud.premium(&id).await;
    cloud.until("it reports Premium", |s| s["cameras"][0]["report"]["mode"] == "paid").await;
    id
}

/// Waits until the newest report says this.
async fn reports(cloud: &Cloud, outcome: &str, reason: &str) -> Value {
    let what = format!("a report {outcome} {reason}");
    let state = cloud.until(&what, |s| {
        let report = &s["cameras"][0]["report"];
        report["outcome"] == outcome && report["reason"] == reason
    });
    state.await["cameras"][0]["report"].clone()
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
    let seatless = |s: &Value| {
        s["cameras"].as_array().unwrap().iter().any(|c| c["device"] == more["cameras"][0] && c["report"]["reason"] == "seat_limit")
    };
    cloud.until("the eleventh reports that there is no seat", seatless).await;
    assert_eq!(cloud.overview().await["simulated"], 11);
    assert_eq!(cloud.experiment(json!({ "experiment": "stop_simulated" })).await["stopped"], 11);
    cloud.until("they are gone", |s| s["cameras"].as_array().unwrap().iter().all(|camera| camera["status"] == "offline")).await;
}

#[tokio::test]
async fn duplicates_replays_and_wrong_keys_are_refused_for_what_they_are() {
    let cloud = Cloud::start().await;
    let id = with_simulated(&cloud).await;
    let make = async |name: &str| cloud.experiment(json!({ "experiment": name, "camera": id })).await;
    make("send_duplicate").await;
    reports(&cloud, "duplicate", "duplicate").await;
    make("replay").await;
    let stale = reports(&cloud, "stale", "stale").await;
    assert_eq!((&stale["judged"]["seq"], &stale["mode"]), (&json!(1), &json!("paid")), "{stale}");
    make("unknown_key").await;
    assert_eq!(reports(&cloud, "rejected", "unknown_key").await["mode"], "paid");

    // No key is old yet; after a rotation there is one, and every camera has its document under the new one.
    let refused = cloud.try_experiment(json!({ "experiment": "old_key", "camera": id })).await.unwrap_err();
    assert!(refused.contains("rotate"), "{refused}");
    let rotated = cloud.experiment(json!({ "experiment": "rotate_key" })).await;
    assert_eq!((&rotated["kid"], rotated["documents"].as_array().unwrap().len()), (&json!("care-2"), 1));
    let renewed = reports(&cloud, "applied", "renewed").await;
    assert_eq!((&renewed["keyset"], &renewed["mode"]), (&json!(2), &json!("paid")), "{renewed}");
    make("old_key").await;
    reports(&cloud, "rejected", "revoked_key").await;
    let overview = cloud.overview().await;
    assert_eq!((&overview["keyset"], &overview["kid"], &overview["revoked"]), (&json!(2), &json!("care-2"), &json!(["care-1"])));
    assert!(overview["reports"].as_array().unwrap().len() >= 6, "{overview}");
    let newest = &overview["reports"][0]["report"];
    assert_eq!((&newest["device"], &newest["reason"]), (&json!(id), &json!("revoked_key")));
}

#[tokio::test]
async fn an_expired_lease_means_free_until_the_document_is_written_anew() {
    let cloud = Cloud::start().await;
    let id = with_simulated(&cloud).await;
    cloud.experiment(json!({ "experiment": "expired_lease", "camera": id })).await;
    cloud.until("the camera has fallen back", |s| s["cameras"][0]["report"]["mode"] == "free").await;
    cloud.experiment(json!({ "experiment": "reissue", "camera": id })).await;
    let report = reports(&cloud, "applied", "renewed").await;
    assert_eq!(report["plan"], "premium");
    cloud.until("the camera is paid again", |s| s["cameras"][0]["report"]["mode"] == "paid").await;
}

#[tokio::test]
async fn a_reset_lowers_one_cameras_ratchet_and_its_document_binds_it_anew() {
    let cloud = Cloud::start().await;
    let id = with_simulated(&cloud).await;
    let reset = cloud.experiment(json!({ "experiment": "reset", "camera": id })).await;
    assert_eq!((&reset["to"], &reset["keyset"]), (&json!({ "epoch": 1, "seq": 1 }), &json!(2)));
    let said = |state: &Value| state["cameras"][0]["report"]["keyset"] == 2 && state["cameras"][0]["report"]["mode"] == "paid";
    let state = cloud.until("it is bound again, under the new keyset", said).await;
    assert_eq!(state["cameras"][0]["report"]["outcome"], "applied");
    let reports = cloud.overview().await["reports"].clone();
    let was_unbound = reports.as_array().unwrap().iter().any(|r| r["report"]["reason"] == "reset" && r["report"]["mode"] == "unbound");
    assert!(was_unbound, "in between nothing was in force: {reports:#}");
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
async fn what_cannot_be_done_is_said() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    for (experiment, word) in [
        (json!({ "experiment": "send_duplicate", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "unknown_key", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "reissue", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "reset", "camera": "NOBODY" }), "no camera"),
        (json!({ "experiment": "replay", "camera": "CAM-A" }), "only one document"),
        (json!({ "experiment": "simulate", "cameras": 1000 }), "at most"),
    ] {
        let refused = cloud.try_experiment(experiment.clone()).await.unwrap_err();
        assert!(refused.contains(word), "{experiment}: {refused}");
    }
}
