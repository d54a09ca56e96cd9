//! From the commit to the camera and back: publishing survives a crash, every `get` is answered, an overdue report is noticed.

use serde_json::json;

use super::{
    camera::{Camera, payload},
    cloud::Cloud,
};

#[tokio::test]
async fn what_was_committed_before_a_crash_is_published_after_it() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.until("the first document is at the broker", |s| !s["switches"][0]["acked_us"].is_null()).await;

    // Without a broker the commit happens and the publish cannot: exactly the gap a crash may hit.
    cloud.set_broker(false).await;
    cloud.premium("CAM-A").await;
    let state = cloud.state().await;
    assert_eq!((&state["switches"][0]["seq"], &state["switches"][0]["published_us"]), (&json!(2), &json!(null)));
    let dir = cloud.kill();

    let cloud = Cloud::restart(dir).await;
    assert_eq!(cloud.endpoints, camera.endpoints, "cameras find it where it was");
    let document = camera.mqtt(&["care/v1/CAM-A/entitlement"]).await.entitlement_of(2).await;
    assert_eq!((&document["plan"], &document["reason"]), (&json!("premium"), &json!("subscribed")));
}

#[tokio::test]
async fn every_get_is_answered_with_its_nonce_and_the_newest_document() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement/answer"]).await;
    for nonce in ["AAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBB"] {
        session.publish(&camera.topic("get"), false, json!({ "nonce": nonce, "epoch": 0, "seq": 0 })).await;
        let answer: serde_json::Value = serde_json::from_slice(&session.message().await.payload).unwrap();
        assert_eq!(answer["nonce"], nonce);
        assert_eq!(payload(answer["token"].as_str().unwrap())["seq"], 2);
    }
    // Nonsense gets no answer and harms nothing: the next good one is answered.
    for nonsense in ["", "{}", "[1]", r#"{"nonce":"short","epoch":0,"seq":0}"#] {
        session.publish(&camera.topic("get"), false, nonsense).await;
    }
    session.publish(&camera.topic("get"), false, json!({ "nonce": "CCCCCCCCCCCCCCCCCCCCCC", "epoch": 0, "seq": 0 })).await;
    let answer: serde_json::Value = serde_json::from_slice(&session.message().await.payload).unwrap();
    assert_eq!(answer["nonce"], "CCCCCCCCCCCCCCCCCCCCCC");
}

#[tokio::test]
async fn a_camera_that_does_not_report_is_listed_and_its_document_sent_again() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement"]).await;
    session.publish(&camera.topic("status"), true, "online").await;
    assert_eq!(session.entitlement().await["seq"], 1);
    // Sent to a subscriber who is there, so without RETAIN: not the retained copy a second time.
    loop {
        let message = session.message().await;
        if !message.retain {
            break;
        }
    }
    let state = cloud.until("it is listed", |s| s["cameras"][0]["silent"] == true).await;
    assert_eq!(state["cameras"][0]["status"], "online");

    session.publish(&camera.topic("report"), true, camera.report(1, 1, "free", "free")).await;
    let state = cloud.until("the report has arrived", |s| s["cameras"][0]["silent"] == false).await;
    assert_eq!(state["cameras"][0]["report"]["mode"], "free");
    assert_eq!(state["switches"][0]["report"]["cut"]["micros"], 840);
}

#[tokio::test]
async fn a_period_that_ends_brings_its_document_on_time() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.act(json!({ "action": "subscribe", "camera": "CAM-A", "plan": "premium", "channel": "app_store" })).await;
    cloud.act(json!({ "action": "store_cancel", "camera": "CAM-A", "ends_in_s": 2 })).await;
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement"]).await;
    let announced = session.entitlement_of(3).await;
    assert_eq!((&announced["plan"], &announced["next"]["plan"]), (&json!("premium"), &json!("free")));
    let ended = session.entitlement_of(4).await;
    assert_eq!((&ended["plan"], &ended["next"]), (&json!("free"), &json!(null)));
    let late = ended["iat"].as_u64().unwrap() - announced["next"]["effective_at"].as_u64().unwrap();
    assert!(late <= 1, "{late} s late");
}
