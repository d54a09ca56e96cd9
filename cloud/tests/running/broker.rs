//! The broker: what its ACL allows, which certificates it accepts, and that it is restarted.

use serde_json::json;

use super::{
    camera::Camera,
    cloud::{Cloud, name, until},
};

/// How often the cloud has connected to the broker.
fn connections(cloud: &Cloud) -> usize {
    std::fs::read_to_string(cloud.dir.path().join("log")).unwrap().matches("connected to the broker").count()
}

#[tokio::test]
async fn s96_a_camera_takes_neither_the_clouds_client_id_nor_anothers_on_either_listener() {
    let cloud = Cloud::start().await;
    let (thief, victim) = (Camera::add(&cloud, "CAM-THIEF"), Camera::add(&cloud, "CAM-VICTIM"));
    cloud.until("both documents are at the broker", |s| s["switches"].as_array().unwrap().iter().all(|s| !s["acked_us"].is_null())).await;
    let devices = cloud.endpoints.broker.clone();
    let own = cloud.endpoints.broker_cloud.clone().expect("the cloud has a listener of its own");
    // Worst case: whoever stole the certificate knows the cloud's whole client id.
    let secret = std::fs::read_to_string(cloud.data().join("keys/client.secret")).unwrap();
    let mut watching = victim.mqtt(&["care/v1/CAM-VICTIM/entitlement"]).await;
    watching.entitlement().await;

    for id in ["care-cloud".to_owned(), format!("care-cloud:{secret}"), "CAM-VICTIM".to_owned()] {
        let mut posing =
            thief.posing_as(&id, &devices).mqtt(&["care/v1/+/report", "care/v1/CAM-VICTIM/#", "care/v1/CAM-THIEF/entitlement"]).await;
        // It is let in as what it is: its own documents, nobody else's.
        let first = posing.message().await;
        assert_eq!(first.topic, "care/v1/CAM-THIEF/entitlement", "posing as {id}");
        // What it says in the victim's name, or to it in the cloud's, reaches nobody.
        for topic in [victim.topic("report"), victim.topic("entitlement"), "care/v1/keyset".into()] {
            thief.posing_as(&id, &devices).mqtt(&[]).await.publish_last(&topic, true, "forged").await;
        }
        assert!(thief.posing_as(&id, &own).try_mqtt(&[]).await.is_err(), "no camera gets in at the cloud's listener");
    }

    // The victim was never thrown off, nor was the cloud: what it issues arrives on the connection that was there before.
    cloud.premium("CAM-VICTIM").await;
    loop {
        let message = watching.message_or_end().await.expect("the victim's own connection");
        assert_ne!(&message.payload[..], b"forged");
        let payload = super::camera::payload(std::str::from_utf8(&message.payload).unwrap());
        if payload["plan"] == "premium" {
            break;
        }
    }
    assert_eq!(connections(&cloud), 1, "the cloud stayed connected");
    assert!(cloud.state().await["cameras"].as_array().unwrap().iter().all(|camera| camera["report"].is_null()));
}

#[tokio::test]
async fn s96_a_certificate_with_the_clouds_name_has_no_more_rights_than_a_camera() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-VICTIM");
    cloud.until("the document is at the broker", |s| !s["switches"][0]["acked_us"].is_null()).await;
    // Provisioning refuses the name; a factory that signed it all the same gives nothing away.
    let authority =
        care_cloud::storage::pki::Authority::open(&care_cloud::storage::data_dir::DataDir::open(&cloud.data()).unwrap()).unwrap();
    let identity = authority.camera(&"care-cloud".parse().unwrap()).unwrap();
    let mut evil = Camera::stranger(&cloud);
    evil.id = "care-cloud".into();
    evil.tls = care_cloud::storage::pki::client_config(authority.ca.as_bytes(), Some(&identity)).unwrap();
    let mut session = evil.mqtt(&["care/v1/CAM-VICTIM/entitlement", "care/v1/+/report", "care/v1/keyset"]).await;
    assert_eq!(session.message().await.topic, "care/v1/keyset", "nothing of a camera's comes first");
    evil.mqtt(&[]).await.publish_last("care/v1/CAM-VICTIM/entitlement", true, "forged").await;
    let own = cloud.endpoints.broker_cloud.clone().unwrap();
    assert!(evil.posing_as("care-cloud", &own).try_mqtt(&[]).await.is_err());
    assert_eq!(connections(&cloud), 1);
    let victim = Camera::with_files(&cloud, "CAM-VICTIM");
    assert_eq!(victim.mqtt(&["care/v1/CAM-VICTIM/entitlement"]).await.entitlement().await["seq"], 1);
}

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
