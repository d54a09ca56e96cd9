//! A camera that was reset to factory settings may have been sold: its last binding gets nothing more, and it uploads again only
//! once it is bound under a higher epoch.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    camera::{Camera, Clip, Session},
    cloud::{Cloud, name, until},
};

const NONCE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// What the agent says after a reset, and of a document that it refuses since.
fn reset_report(camera: &Camera) -> Value {
    let mut report = camera.report(0, 0, "free", "unbound");
    report["cause"] = "factory_reset".into();
    report["reason"] = "factory_reset".into();
    (report["judged"], report["digest"], report["plan"]) = (Value::Null, Value::Null, Value::Null);
    report
}

fn refusal(camera: &Camera, epoch: u64, seq: u64) -> Value {
    let mut report = reset_report(camera);
    report["cause"] = "document".into();
    report["outcome"] = "rejected".into();
    report["judged"] = json!({ "epoch": epoch, "seq": seq });
    report
}

async fn ask(session: &mut Session, camera: &Camera, nonce: &str, epoch: u64) {
    session.publish(&camera.topic("get"), false, json!({ "nonce": nonce, "epoch": epoch, "seq": 9 })).await;
}

fn documents(state: &Value, id: &str) -> usize {
    state["switches"].as_array().unwrap().iter().filter(|switch| switch["device"] == id).count()
}

#[tokio::test]
async fn s87_a_camera_that_was_reset_gets_nothing_more_and_keeps_its_subscription_until_it_is_bound_again() {
    // A lease of two seconds: a renewal is due every second.
    let cloud = Cloud::start_with(tempfile::tempdir().unwrap(), &["--lease", "2"], &[]).await;
    let (camera, other) = (Camera::add(&cloud, "CAM-A"), Camera::add(&cloud, "CAM-B"));
    cloud.act(json!({ "action": "subscribe", "camera": "CAM-A", "plan": "plus" })).await;
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement/answer"]).await;
    session.publish(&camera.topic("report"), true, camera.report(1, 2, "plus", "paid")).await;
    let grant = camera.granted(&Clip::new(100)).await;

    session.publish(&camera.topic("report"), true, reset_report(&camera)).await;
    let state = cloud.until("the cloud knows of the reset", |s| s["cameras"][0]["reset"] == true).await;
    let before = documents(&state, "CAM-A");
    let of_other = state["cameras"][1]["seq"].as_u64().unwrap();
    cloud.until("the other camera is renewed, twice", |s| s["cameras"][1]["seq"].as_u64().unwrap() >= of_other + 2).await;
    assert_eq!(cloud.state().await["cameras"][0]["seq"], state["cameras"][0]["seq"], "no renewal of the old binding");
    assert!(before >= 1);

    // Neither a get, nor a GET, nor an engineer, nor a change of plan brings out a document; nothing is taken from it either.
    ask(&mut session, &camera, NONCE, 1).await;
    assert_eq!(camera.get("/v1/devices/CAM-A/entitlement").await.status(), 404);
    assert_eq!(camera.ask(&Clip::new(100)).await.status(), 403);
    assert_eq!(camera.put(&grant, Clip::new(100).body).await.status(), 403, "what was granted before is taken back");
    assert!(cloud.try_experiment(json!({ "experiment": "reissue", "camera": "CAM-A" })).await.unwrap_err().contains("was reset"));
    cloud.experiment(json!({ "experiment": "rotate_key" })).await;
    cloud.act(json!({ "action": "subscribe", "camera": "CAM-A", "plan": "premium" })).await;
    assert_eq!(cloud.state().await["cameras"][0]["seq"], state["cameras"][0]["seq"]);
    let account = cloud.portal().get("/portal/accounts/acct-1").await.unwrap();
    let shown = &account["cameras"][0];
    assert_eq!((&shown["reset"], &shown["mode"], &shown["subscription"]["plan"]), (&json!(true), &json!("unbound"), &json!("premium")));

    // The same account adds it again: a higher epoch, the same subscription; now its get is answered.
    cloud.act(json!({ "action": "bind", "camera": "CAM-A", "account": "acct-1" })).await;
    let again = "BBBBBBBBBBBBBBBBBBBBBB";
    ask(&mut session, &camera, again, 1).await;
    let answer: Value = serde_json::from_slice(&session.message().await.payload).unwrap();
    assert_eq!(answer["nonce"], again, "the first get had no answer");
    let document = super::camera::payload(answer["token"].as_str().unwrap());
    assert_eq!((&document["epoch"], &document["plan"], &document["account"]), (&json!(2), &json!("premium"), &json!("acct-1")));
    let state = cloud.until("it is bound again", |s| s["cameras"][0]["reset"] == false).await;
    assert_eq!((&state["cameras"][0]["epoch"], &state["cameras"][0]["plan"]), (&json!(2), &json!("premium")));
    assert_eq!(camera.ask(&Clip { epoch: 2, ..Clip::new(100) }).await.status(), 201);
    drop(other);
}

#[tokio::test]
async fn s87_the_next_owner_binds_it_and_the_plus_of_the_last_one_ends_like_a_cancel() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.act(json!({ "action": "subscribe", "camera": "CAM-A", "plan": "plus" })).await;
    let mut session = camera.mqtt(&[]).await;
    session.publish(&camera.topic("report"), true, camera.report(1, 2, "plus", "paid")).await;
    session.publish(&camera.topic("report"), true, reset_report(&camera)).await;
    cloud.until("the cloud knows of the reset", |s| s["cameras"][0]["reset"] == true).await;
    cloud.act(json!({ "action": "bind", "camera": "CAM-A", "account": "next" })).await;
    let state = cloud.state().await;
    let bound = &state["cameras"][0];
    assert_eq!(
        (&bound["account"], &bound["epoch"], &bound["plan"], &bound["reset"]),
        (&json!("next"), &json!(2), &json!("free"), &json!(false))
    );
    let orders = cloud.portal().get("/portal/accounts/acct-1/orders").await.unwrap();
    assert!(orders[0]["balance"]["refunded"].as_u64().unwrap() > 0, "{orders:#}");
}

#[tokio::test]
async fn a_reset_that_is_told_late_does_not_stop_the_binding_that_followed_it() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    let mut session = camera.mqtt(&[]).await;
    session.publish(&camera.topic("report"), true, camera.report(1, 1, "free", "free")).await;
    // Reset without a network, and added again before the report could leave.
    cloud.act(json!({ "action": "bind", "camera": "CAM-A", "account": "acct-1" })).await;
    session.publish(&camera.topic("report"), true, reset_report(&camera)).await;
    session.publish(&camera.topic("status"), true, "online").await;
    let state = cloud.until("the report is in", |s| s["cameras"][0]["status"] == "online").await;
    assert_eq!(state["cameras"][0]["reset"], false);
    assert_eq!(camera.get("/v1/devices/CAM-A/entitlement").await.status(), 200);

    // That it refuses a document of the present binding is another matter: it was reset under this one, whatever was heard of it.
    session.publish(&camera.topic("report"), true, refusal(&camera, 2, 2)).await;
    cloud.until("the cloud knows of the reset", |s| s["cameras"][0]["reset"] == true).await;
    // And should it have a document of this binding in force after all, it was not.
    session.publish(&camera.topic("report"), true, camera.report(2, 2, "free", "free")).await;
    cloud.until("the cloud knows better", |s| s["cameras"][0]["reset"] == false).await;
}

#[tokio::test]
async fn a_broker_that_forgot_everything_gets_nothing_of_a_binding_that_was_reset() {
    let cloud = Cloud::start().await;
    let (camera, other) = (Camera::add(&cloud, "CAM-A"), Camera::add(&cloud, "CAM-B"));
    let mut session = camera.mqtt(&[]).await;
    session.publish(&camera.topic("report"), true, camera.report(1, 1, "free", "free")).await;
    session.publish(&camera.topic("report"), true, reset_report(&camera)).await;
    cloud.until("the cloud knows of the reset", |s| s["cameras"][0]["reset"] == true).await;
    let broker = cloud.mosquitto().expect("it runs");
    let dir = cloud.kill();
    until("Mosquitto to go as well", || async { (name(broker).as_deref() != Some("mosquitto")).then_some(()) }).await;
    std::fs::remove_file(dir.path().join("data/broker/mosquitto.db")).ok();
    let cloud = Cloud::restart(dir).await;
    let (camera, other) = (Camera::with_files(&cloud, &camera.id), Camera::with_files(&cloud, &other.id));
    assert_eq!(other.mqtt(&["care/v1/CAM-B/entitlement"]).await.entitlement().await["seq"], 1);
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement", "care/v1/keyset"]).await;
    assert_eq!(session.message().await.topic, "care/v1/keyset", "no document of the old binding comes first");
    let quiet = tokio::time::timeout(Duration::from_millis(500), session.message_or_end()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}
