//! What the broker's ACL allows, what it needs to let one in, and who looks after it.

use serde_json::json;

use super::{
    camera::Camera,
    cloud::{Cloud, name, until},
};

#[tokio::test]
async fn a_camera_reads_its_own_topics_and_the_keyset_and_nobody_elses() {
    let cloud = Cloud::start().await;
    let (a, b) = (Camera::add(&cloud, "CAM-A"), Camera::add(&cloud, "CAM-B"));
    cloud
        .until("both documents are at the broker", |s| {
            s["switches"].as_array().unwrap().iter().filter(|s| !s["acked_us"].is_null()).count() == 2
        })
        .await;

    // The others' come first: were they allowed, they would arrive before what is allowed.
    let filters = ["care/v1/CAM-B/#", "care/v1/+/entitlement", "care/v1/CAM-A/entitlement", "care/v1/keyset"];
    let mut session = a.mqtt(&filters).await;
    let mut seen = Vec::new();
    while !seen.iter().any(|topic| topic == "care/v1/keyset") {
        seen.push(session.message().await.topic);
    }
    assert!(seen.contains(&a.topic("entitlement")), "{seen:?}");
    assert!(seen.iter().all(|topic| !topic.contains("CAM-B")), "{seen:?}");

    // And B does get its own: the topic is not simply empty.
    assert_eq!(b.mqtt(&["care/v1/CAM-B/entitlement"]).await.entitlement().await["aud"], "CAM-B");
}

#[tokio::test]
async fn a_camera_writes_only_what_comes_from_a_camera_and_only_as_itself() {
    let cloud = Cloud::start().await;
    let (a, b) = (Camera::add(&cloud, "CAM-A"), Camera::add(&cloud, "CAM-B"));
    let mut watcher = Camera::cloud_itself(&cloud).mqtt(&["care/v1/+/status", "care/v1/+/report", "care/v1/+/get"]).await;
    let mut session = a.mqtt(&[]).await;
    for forbidden in [b.topic("status"), b.topic("report"), b.topic("get"), a.topic("entitlement"), "care/v1/keyset".into()] {
        session.publish(&forbidden, true, "forged").await;
    }
    session.publish(&a.topic("status"), true, "online").await;
    let first = watcher.message().await;
    assert_eq!((first.topic.as_str(), &first.payload[..]), ("care/v1/CAM-A/status", &b"online"[..]));

    let mut reader = a.mqtt(&["care/v1/keyset", "care/v1/CAM-A/entitlement"]).await;
    for _ in 0..2 {
        assert_ne!(&reader.message().await.payload[..], b"forged");
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate() {
    let cloud = Cloud::start().await;
    let stranger = Camera::stranger(&cloud);
    assert!(stranger.try_mqtt(&[]).await.is_err());
    let request = axum::http::Request::get("/v1/keyset").body(http_body_util::Full::default()).unwrap();
    assert!(stranger.try_send(request).await.is_err());
}

#[tokio::test]
async fn a_broker_that_dies_is_started_again_with_every_document() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.until("the document is at the broker", |s| !s["switches"][0]["acked_us"].is_null()).await;
    let first = cloud.mosquitto().expect("it runs");
    // Killed, it saves nothing: what it knew has to come from the database.
    assert!(std::process::Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    until("another Mosquitto", || async { cloud.mosquitto().filter(|pid| *pid != first) }).await;
    let mut session = until("a connection", || async { camera.try_mqtt(&["care/v1/CAM-A/entitlement"]).await.ok() }).await;
    assert_eq!(session.entitlement().await["seq"], 1);
}

#[tokio::test]
async fn no_broker_outlives_a_killed_cloud() {
    let cloud = Cloud::start().await;
    let pid = cloud.mosquitto().expect("it runs");
    let _dir = cloud.kill();
    until("Mosquitto to go as well", || async { (name(pid).as_deref() != Some("mosquitto")).then_some(()) }).await;
}

#[tokio::test]
async fn a_stopped_broker_stays_down_until_it_is_started() {
    let cloud = Cloud::start().await;
    cloud.set_broker(false).await;
    assert!(cloud.mosquitto().is_none());
    assert_eq!(cloud.state().await["broker_running"], false);
    cloud.set_broker(true).await;
    assert!(cloud.mosquitto().is_some());
    assert!(cloud.portal().post("/portal/broker", &json!({})).await.is_err());
}
