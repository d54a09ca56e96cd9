//! The API and the store: which documents a camera gets, which clips are granted, and that a cancel revokes a grant at the
//! beginning, in the middle and at the end of an upload.

use std::time::Duration;

use care_protocol::{DeviceId, Entitlement, Keyset, RootKeys};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    camera::{Camera, Clip, stored_file},
    cloud::Cloud,
};

#[tokio::test]
async fn a_camera_gets_its_own_documents_verifiable_and_dated_and_nobody_elses() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    Camera::add(&cloud, "CAM-B");
    let answer = camera.get("/v1/devices/CAM-A/entitlement").await;
    assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()), (200, "text/plain"));
    assert!(answer.headers().contains_key("date"));

    let config: toml::Table = std::fs::read_to_string(cloud.dir.path().join("CAM-A/config.toml")).unwrap().parse().unwrap();
    let roots = config["trust"]["root_keys"].as_table().unwrap().iter();
    let roots: RootKeys = roots.map(|(name, key)| (name.clone(), key.as_str().unwrap().parse().unwrap())).collect();
    let keyset = Keyset::verify(camera.get("/v1/keyset").await.body(), &roots, "care").unwrap().keyset;
    let device: DeviceId = "CAM-A".parse().unwrap();
    let verified = Entitlement::verify(answer.body(), Some(&keyset), "care", &device).unwrap();
    assert_eq!(verified.entitlement.seq.get(), 1);

    assert_eq!(camera.get("/v1/devices/CAM-B/entitlement").await.status(), 403);
    let mut other = Clip::new(10);
    other.epoch = 1;
    let forged = Camera { id: "CAM-B".into(), ..Camera::add(&cloud, "CAM-A") };
    assert_eq!(forged.ask(&other).await.status(), 403);
    // care-cloud's own certificate is no camera's: it comes from another authority.
    let request = axum::http::Request::get("/v1/devices/care-cloud/entitlement").body(http_body_util::Full::default()).unwrap();
    assert!(Camera::cloud_itself(&cloud).try_send(request).await.is_err());
}

#[tokio::test]
async fn a_granted_clip_is_stored_once_and_only_if_it_is_the_one_announced() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let clip = Clip::new(300_000);
    let grant = camera.granted(&clip).await;
    assert_eq!((&grant["method"], &grant["headers"]["content-type"]), (&json!("PUT"), &json!("video/mp4")));
    let snapshot = camera.granted(&Clip { kind: "snapshot", ..Clip::new(10) }).await;
    assert_eq!(snapshot["headers"]["content-type"], "video/mp4", "a clip of one frame");
    assert!(grant["url"].as_str().unwrap().starts_with(&cloud.endpoints.api));

    let mut forged = clip.body.clone();
    forged[7] ^= 1;
    assert_eq!(camera.put(&grant, forged).await.status(), 400);
    assert_eq!(stored_file(&cloud, &camera, &clip), None);
    assert_eq!(camera.put(&grant, clip.body[..1000].to_vec()).await.status(), 400);

    assert_eq!(camera.put(&grant, clip.body.clone()).await.status(), 200);
    assert_eq!(stored_file(&cloud, &camera, &clip).as_deref(), Some(&clip.body[..]));
    let again = camera.ask(&clip).await;
    assert_eq!((again.status().as_u16(), &again.body()[..]), (200, &br#"{"stored":true}"#[..]));
    assert_eq!(camera.put(&grant, clip.body.clone()).await.status(), 403, "a grant is good for one clip, once");
    // A URL that was tampered with is refused by its signature.
    let mut other = camera.granted(&Clip::new(9)).await;
    let mut url = other["url"].as_str().unwrap().to_owned();
    assert!(url.contains("X-Amz-Signature="), "{url}");
    let last = url.pop().unwrap();
    url.push(if last == '0' { '1' } else { '0' });
    other["url"] = url.into();
    assert_eq!(camera.put(&other, (0..9).collect()).await.status(), 403);
}

#[tokio::test]
async fn the_plan_in_force_judges_every_clip() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    let status = async |clip: &Clip| camera.ask(clip).await.status().as_u16();

    // Free: 12 s at most, 48 hours, five minutes between clips, no snapshots.
    let long = Clip { duration_ms: 12_001, ..Clip::new(10) };
    assert_eq!(status(&long).await, 402);
    assert_eq!(status(&Clip { kind: "snapshot", ..Clip::new(10) }).await, 402);
    assert_eq!(status(&Clip::new(10).started_ago(Duration::from_secs(49 * 3600))).await, 402);
    let first = Clip::new(10).started_ago(Duration::from_secs(600));
    let grant = camera.granted(&first).await;
    assert_eq!(camera.put(&grant, first.body.clone()).await.status(), 200);
    assert_eq!(status(&Clip::new(10).started_ago(Duration::from_secs(300))).await, 402);
    assert_eq!(status(&Clip::new(10)).await, 201);
    assert_eq!(status(&Clip { epoch: 2, ..Clip::new(10) }).await, 403);

    cloud.premium("CAM-A").await;
    assert_eq!(status(&long).await, 201);
    cloud.act(json!({ "action": "unbind", "camera": "CAM-A" })).await;
    assert_eq!(status(&Clip::new(10)).await, 403);
}

#[tokio::test]
async fn a_new_owner_does_not_wait_for_the_pause_after_the_old_owners_clip() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    let old = Clip::new(10).started_ago(Duration::from_secs(60));
    let grant = camera.granted(&old).await;
    assert_eq!(camera.put(&grant, old.body.clone()).await.status(), 200);
    assert_eq!(camera.ask(&Clip::new(10)).await.status(), 402, "five minutes between clips on Free");
    cloud.act(json!({ "action": "bind", "camera": "CAM-A", "account": "next" })).await;
    assert_eq!(stored_file(&cloud, &camera, &old), None);
    assert_eq!(camera.ask(&Clip { epoch: 2, ..Clip::new(10) }).await.status(), 201);
    // What the old owner's camera still has to send is nobody's.
    assert_eq!(camera.ask(&Clip::new(10)).await.status(), 403);
}

/// Two clips of Free must keep five minutes apart, however they are asked for and in whatever order they come.
#[tokio::test]
async fn grants_that_are_asked_for_side_by_side_keep_the_pause() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    let ago = |seconds| Clip::new(100).started_ago(Duration::from_secs(seconds));
    // Ten minutes full of clips, all asked for at once: two fit, at most.
    let clips: Vec<_> = (0..20).map(|n| ago(1000 + 30 * n)).collect();
    let answers = futures::future::join_all(clips.iter().map(|clip| camera.ask(clip))).await;
    let granted: Vec<_> = clips.iter().zip(&answers).filter(|(_, answer)| answer.status() == 201).map(|(clip, _)| clip).collect();
    assert!(answers.iter().all(|answer| [201, 402].contains(&answer.status().as_u16())));
    assert!((1..=2).contains(&granted.len()), "{} of 20 were granted", granted.len());
    for (n, one) in granted.iter().enumerate() {
        for other in &granted[n + 1..] {
            let apart = one.started_at.duration_since(other.started_at).abs();
            assert!(apart.as_secs() >= 300 + 8, "{apart}");
        }
    }

    // The later one is in the store, the earlier one comes after it: the same pause.
    let later = ago(200);
    let grant = camera.granted(&later).await;
    assert_eq!(camera.put(&grant, later.body.clone()).await.status(), 200);
    assert_eq!(camera.ask(&ago(200 + 8 + 299)).await.status(), 402);
    assert_eq!(camera.ask(&ago(200 + 8 + 301)).await.status(), 201);
}

/// A grant that is not used for a minute holds no other clip off; should both arrive after all, the first one stays.
#[tokio::test]
async fn of_two_clips_too_close_together_that_arrive_both_the_first_is_kept() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    let (slow, quick) = (Clip::new(100).started_ago(Duration::from_secs(60)), Clip::new(100));
    let grant = camera.granted(&slow).await;
    assert_eq!(camera.ask(&quick).await.status(), 402);
    let mut stream = camera.begin_put(&grant, slow.body.len(), &slow.body[..50]).await;
    cloud.until("the store has what was sent", |s| s["transfers"][0]["received"] == 50).await;
    let db = care_cloud::storage::db::Db::open(&cloud.data().join("care.db")).unwrap();
    db.read(|c| Ok(c.execute("UPDATE grants SET granted_at = granted_at - 61000000", [])?)).unwrap();
    let grant = camera.granted(&quick).await;
    assert_eq!(camera.put(&grant, quick.body.clone()).await.status(), 200);
    stream.write_all(&slow.body[50..]).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 403"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!((stored_file(&cloud, &camera, &slow), cloud.state().await["clips_stored"].as_u64()), (None, Some(1)));
}

#[tokio::test]
async fn a_clip_of_the_future_is_refused_as_its_own_fault() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let ahead = |seconds: i64| {
        let mut clip = Clip::new(100);
        clip.started_at += jiff::SignedDuration::from_secs(seconds);
        clip
    };
    // A camera's clock may be minutes ahead; not a day, and not a thousand times too large.
    assert_eq!(camera.ask(&ahead(9 * 60)).await.status(), 201);
    for seconds in [11 * 60, 86_400, 50 * 365 * 86_400] {
        let answer = camera.ask(&ahead(seconds)).await;
        assert_eq!(answer.status(), 422, "{seconds} s ahead");
        assert!(String::from_utf8_lossy(answer.body()).contains("the clip begins at"), "{:?}", answer.body());
    }
    // It left nothing behind that a later clip would have to keep a pause from.
    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    assert_eq!(camera.ask(&Clip::new(100).started_ago(Duration::from_secs(900))).await.status(), 201);
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    assert_eq!(camera.ask(&Clip { id: "../../etc/passwd".into(), ..Clip::new(10) }).await.status(), 400);
    assert_eq!(camera.get("/clips/CAM-A/x.mp4").await.status(), 403);
    assert_eq!(camera.get("/clips/?list-type=2").await.status(), 403);
    let request = axum::http::Request::post("/v1/devices/CAM-A/clips").body(http_body_util::Full::from(vec![b' '; 20_000])).unwrap();
    assert_eq!(camera.send(request).await.status(), 413);
}

#[tokio::test]
async fn a_cancel_takes_back_a_grant_that_was_not_used_yet() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let clip = Clip::new(1000);
    let grant = camera.granted(&clip).await;
    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    assert_eq!(camera.put(&grant, clip.body.clone()).await.status(), 403);
    assert_eq!(stored_file(&cloud, &camera, &clip), None);
    // What was sent all the same is on the store's count.
    let state = cloud.until("the PUT has ended", |s| !s["transfers"][0]["ended_us"].is_null()).await;
    let seen = &state["transfers"][0];
    assert_eq!((&seen["revoked"], &seen["after_reported"]), (&json!(true), &seen["received"]), "{seen}");
    // What Free allows comes under a new grant.
    let grant = camera.granted(&clip).await;
    assert_eq!(camera.put(&grant, clip.body.clone()).await.status(), 200);
}

#[tokio::test]
async fn a_renewal_or_an_upgrade_disturbs_no_upload() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.act(json!({ "action": "subscribe", "camera": "CAM-A", "plan": "plus" })).await;
    let clip = Clip::new(1000);
    let grant = camera.granted(&clip).await;
    cloud.premium("CAM-A").await;
    assert_eq!(camera.put(&grant, clip.body.clone()).await.status(), 200);
}

/// A camera that does not stop: what it sends is not kept, is counted, and its connection is closed.
#[tokio::test]
async fn a_cancel_ends_an_upload_in_its_middle_and_the_store_counts_what_still_comes() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let clip = Clip { duration_ms: 60_000, ..Clip::new(400_000) };
    let grant = camera.granted(&clip).await;
    let mut stream = camera.begin_put(&grant, clip.body.len(), &clip.body[..100_000]).await;
    let transfer = |state: &Value| state["transfers"][0].clone();
    cloud.until("the store has what was sent", |s| transfer(s)["received"] == 100_000).await;

    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement"]).await;
    session.entitlement_of(3).await;
    stream.write_all(&clip.body[100_000..150_000]).await.unwrap();
    stream.flush().await.unwrap();
    cloud.until("the store has read on", |s| transfer(s)["received"] == 150_000).await;
    session.publish(&camera.topic("report"), true, camera.report(1, 3, "free", "free")).await;
    cloud.until("the report has arrived", |s| !transfer(s)["after_reported"].is_null()).await;
    // It says that it has stopped, and has not. The store's linger may end before the rest is written.
    let rest = stream.write_all(&clip.body[150_000..200_000]).await;
    drop((rest, stream.flush().await));

    let mut answer = Vec::new();
    // The end may come as a reset.
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 403"), "{answer}");
    let state = cloud.until("the transfer has ended", |s| !transfer(s)["ended_us"].is_null()).await;
    let seen = transfer(&state);
    assert_eq!((&seen["revoked"], &seen["stored"]), (&json!(true), &json!(false)), "{seen}");
    assert_eq!(seen["after_published"].as_u64(), Some(seen["received"].as_u64().unwrap() - 100_000), "{seen}");
    assert_eq!(seen["after_reported"].as_u64(), Some(seen["received"].as_u64().unwrap() - 150_000), "{seen}");
    assert_eq!(stored_file(&cloud, &camera, &clip), None);
}

#[tokio::test]
async fn an_upload_that_completes_after_the_cancel_is_not_kept() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let clip = Clip { duration_ms: 60_000, ..Clip::new(50_000) };
    let grant = camera.granted(&clip).await;
    let mut stream = camera.begin_put(&grant, clip.body.len(), &clip.body[..49_000]).await;
    cloud.until("the store has what was sent", |s| s["transfers"][0]["received"] == 49_000).await;
    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    drop(stream.write_all(&clip.body[49_000..]).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 403"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(stored_file(&cloud, &camera, &clip), None);
    assert_eq!(cloud.state().await["clips_stored"], 0);
}
