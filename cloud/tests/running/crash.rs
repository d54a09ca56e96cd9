//! SIGKILL at every step from the click to the camera's report, and two processes on one database.

use std::collections::BTreeMap;

use care_cloud::{
    fail_point::{POINTS, VARIABLE},
    transport::client::{ClientError, Portal},
};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{
    camera::{Camera, Clip},
    cloud::{Cloud, until},
};

/// Dies at `point` of the second document's way, and is started again.
async fn survives(point: &'static str) {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    cloud.until("the first document is at the broker", |s| !s["switches"][0]["acked_us"].is_null()).await;
    let dir = cloud.kill();

    let cloud = Cloud::start_with(dir, &[], &[(VARIABLE, &format!("{point}:2"))]).await;
    let camera = Camera::with_files(&cloud, "CAM-A");
    let subscribe = json!({ "action": "subscribe", "camera": "CAM-A", "plan": "premium" });
    // Whether the person still gets an answer is another matter.
    drop(cloud.portal().post("/portal/act", &subscribe).await);
    if point.starts_with("report") {
        let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement"]).await;
        session.entitlement_of(2).await;
        session.publish_last(&camera.topic("report"), true, camera.report(1, 2, "premium", "paid")).await;
    }
    let dir = cloud.end().await;

    let cloud = Cloud::restart(dir).await;
    if point == "in_transaction" {
        // It never happened, and can be done again.
        assert_eq!(cloud.state().await["cameras"][0]["plan"], "free");
        cloud.act(subscribe).await;
    }
    // Its ports may have been taken meanwhile by another test.
    let camera = Camera::with_files(&cloud, "CAM-A");
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement"]).await;
    let document = session.entitlement_of(2).await;
    assert_eq!((&document["plan"], &document["reason"]), (&json!("premium"), &json!("subscribed")), "{point}");
    let state = cloud.until("the broker has it", |s| !s["switches"][0]["acked_us"].is_null()).await;
    let places: Vec<_> = state["switches"].as_array().unwrap().iter().map(|s| s["seq"].as_u64().unwrap()).collect();
    assert_eq!(places, [2, 1], "{point}: each place once, none left out");
    if point.starts_with("report") {
        // The broker kept the report, and delivers it again: as a message that was not acknowledged, and as a retained one.
        cloud.until("the report is known", |s| s["cameras"][0]["report"]["mode"] == "paid").await;
        let db = rusqlite::Connection::open(cloud.data().join("care.db")).unwrap();
        let reports: u64 = db.query_row("SELECT count(*) FROM reports", [], |row| row.get(0)).unwrap();
        assert_eq!(reports, 1, "{point}: the report once");
    }
    let orders = cloud.portal().get("/portal/accounts/acct-1/orders").await.unwrap();
    assert_eq!(orders.as_array().unwrap().len(), 1, "{point}: billed once");
}

#[tokio::test]
async fn a_kill_at_any_step_loses_and_repeats_no_document() {
    stream::iter(POINTS).for_each_concurrent(3, survives).await;
}

/// Cameras with two documents each: the state lists the last twenty.
const ROTATED: [&str; 9] = ["CAM-A", "CAM-B", "CAM-C", "CAM-D", "CAM-E", "CAM-F", "CAM-G", "CAM-H", "CAM-I"];

/// Dies at `point` while documents of many cameras are on their way together, and is started again.
async fn finishes_a_rotation(point: &'static str) {
    let cloud = Cloud::start().await;
    ROTATED.iter().for_each(|camera| drop(Camera::add(&cloud, camera)));
    let acked = |s: &Value| s["switches"].as_array().unwrap().iter().filter(|switch| !switch["acked_us"].is_null()).count();
    cloud.until("the first documents are at the broker", |s| acked(s) == ROTATED.len()).await;
    let dir = cloud.kill();

    let cloud = Cloud::start_with(dir, &[], &[(VARIABLE, &format!("{point}:2"))]).await;
    drop(cloud.try_experiment(json!({ "experiment": "rotate_key" })).await);
    let dir = cloud.end().await;

    // Nobody asks for the rest: the documents that the old key has signed are found.
    let cloud = Cloud::restart(dir).await;
    cloud.until("everything is at the broker", |s| acked(s) == 2 * ROTATED.len()).await;
    let db = rusqlite::Connection::open(cloud.data().join("care.db")).unwrap();
    let sql = "SELECT count(*), count(DISTINCT device), min(seq), max(seq) FROM documents WHERE seq > 1";
    let row = db.query_row(sql, [], |row| Ok([row.get::<_, u64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?])).unwrap();
    assert_eq!(row, [ROTATED.len() as u64, ROTATED.len() as u64, 2, 2], "{point}: each camera once");
    for camera in ROTATED {
        let topic = format!("care/v1/{camera}/entitlement");
        let document = Camera::with_files(&cloud, camera).mqtt(&[&topic]).await.entitlement().await;
        assert_eq!(document["seq"], 2, "{point}: the broker has nothing older");
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_change_for_many_loses_and_repeats_nothing() {
    let points = ["in_transaction", "committed", "given_to_library", "on_the_wire", "marks_in_transaction", "marked_acknowledged"];
    stream::iter(points).for_each_concurrent(2, finishes_a_rotation).await;
}

#[tokio::test]
async fn a_cancel_in_one_process_ends_an_upload_to_another() {
    let first = Cloud::start().await;
    let camera = Camera::add(&first, "CAM-A");
    first.premium("CAM-A").await;
    let one = first.portal();
    let second = Cloud::beside(&first, "second").await;

    let clip = Clip { duration_ms: 60_000, ..Clip::new(200_000) };
    let grant = camera.granted(&clip).await;
    let _stream = camera.begin_put(&grant, clip.body.len(), &clip.body[..100_000]).await;
    let transfer = async || one.get("/portal/state").await.unwrap()["transfers"][0].clone();
    until("the first has what was sent", || async { (transfer().await["received"] == 100_000).then_some(()) }).await;
    second.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    // The camera does not stop by itself: the store it sends to does.
    let ended = until("the upload has ended", || async { Some(transfer().await).filter(|t| !t["ended_us"].is_null()) }).await;
    assert_eq!((&ended["revoked"], &ended["stored"]), (&json!(true), &json!(false)), "{ended}");
}

async fn act(portal: &Portal, action: Value) -> Result<Value, ClientError> {
    portal.post("/portal/act", &action).await
}

#[tokio::test]
async fn two_processes_on_one_database_never_issue_one_place_twice() {
    let first = Cloud::start().await;
    let cameras = ["CAM-A", "CAM-B", "CAM-C"];
    for camera in cameras {
        Camera::add(&first, camera);
    }
    let one = first.portal();
    let second = Cloud::beside(&first, "second").await;
    let two = second.portal();
    assert_ne!(one.origin, two.origin);

    let (mut done, mut refused) = (BTreeMap::<&str, u64>::new(), 0);
    for _ in 0..6 {
        for action in ["subscribe", "cancel"] {
            let ask = |portal, camera| act(portal, json!({ "action": action, "camera": camera, "plan": "plus" }));
            let all = cameras.iter().flat_map(|camera| [(*camera, ask(&one, *camera)), (*camera, ask(&two, *camera))]);
            for (camera, answer) in futures::future::join_all(all.map(async |(camera, answer)| (camera, answer.await))).await {
                match answer {
                    Ok(_) => *done.entry(camera).or_default() += 1,
                    // One of the two comes too late; that is all that may be wrong.
                    Err(ClientError::Refused(why)) if why.contains("already") || why.contains("no subscription") => refused += 1,
                    Err(e) => panic!("{camera}: {e}"),
                }
            }
        }
    }
    assert_eq!((done.values().sum::<u64>(), refused), (36, 36));

    let db = rusqlite::Connection::open(first.data().join("care.db")).unwrap();
    let sql = "SELECT device, count(*), count(DISTINCT seq), min(seq), max(seq), max(epoch) FROM documents GROUP BY device";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get::<_, u64>(5)?])));
    for row in rows.unwrap() {
        let (device, figures) = row.unwrap();
        assert_eq!(figures, [13, 13, 1, 13, 1], "{device}: a document for each change, each in its own place");
    }
    // Whoever issued it, the broker has the newest.
    let camera = Camera::with_files(&first, "CAM-A");
    until("the newest document", || async {
        (camera.mqtt(&["care/v1/CAM-A/entitlement"]).await.entitlement().await["seq"] == 13).then_some(())
    })
    .await;
}
