//! Clips that arrive in parts while they are being filmed: in their order, judged as the clip, erased as the clip.

use serde_json::json;

use super::{
    camera::{Camera, Clip, stored_file},
    cloud::Cloud,
};

/// Part `index` of a clip, two seconds long.
fn part(clip: &Clip, index: u32, last: bool) -> Clip {
    Clip { duration_ms: 2000, body: vec![index as u8; 1000], part: Some((index, last)), ..clip.clone() }
}

async fn store(camera: &Camera, part: &Clip) {
    let grant = camera.granted(part).await;
    assert_eq!(camera.put(&grant, part.body.clone()).await.status(), 200);
}

#[tokio::test]
async fn parts_are_taken_in_their_order_and_once() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let clip = Clip::new(0);
    let status = async |part: &Clip| camera.ask(part).await.status().as_u16();
    assert_eq!(status(&part(&clip, 1, false)).await, 409, "the first is not there");
    let first = part(&clip, 0, false);
    let grant = camera.granted(&first).await;
    assert_eq!(status(&part(&clip, 1, false)).await, 409, "it is granted, and not there yet");
    assert_eq!(camera.put(&grant, first.body.clone()).await.status(), 200);
    assert_eq!(&camera.ask(&first).await.body()[..], br#"{"stored":true}"#, "asked again after a power cut");
    assert_eq!(status(&Clip { body: vec![9; 1000], ..first.clone() }).await, 409, "and not with another content");
    assert_eq!(status(&Clip { part: None, ..first.clone() }).await, 400, "nor as a whole");
    store(&camera, &part(&clip, 1, false)).await;
    assert_eq!(status(&part(&clip, 3, false)).await, 409);
    store(&camera, &part(&clip, 2, true)).await;
    assert_eq!(status(&part(&clip, 3, false)).await, 409, "the clip has ended");
    for index in 0..3 {
        assert_eq!(stored_file(&cloud, &camera, &part(&clip, index, false)), Some(vec![index as u8; 1000]));
    }
    // A grant for one part is none for another.
    let other = Clip::new(0);
    let mut grant = camera.granted(&part(&other, 0, false)).await;
    let moved = grant["url"].as_str().unwrap().replace(".0.mp4", ".1.mp4");
    grant["url"] = moved.into();
    assert_eq!(camera.put(&grant, vec![0; 1000]).await.status(), 403);
}

#[tokio::test]
async fn the_plan_judges_the_clip_and_not_the_part() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    // Free: twelve seconds, and five minutes between clips.
    let clip = Clip::new(0);
    for index in 0..6 {
        store(&camera, &part(&clip, index, false)).await;
    }
    assert_eq!(camera.ask(&part(&clip, 6, false)).await.status(), 402, "fourteen seconds");
    assert_eq!(camera.ask(&Clip::new(10)).await.status(), 402, "too soon after it");
    cloud.premium("CAM-A").await;
    store(&camera, &part(&clip, 6, true)).await;
}

/// Scenario 99, in the cloud: a cancel revokes the grant of a part, and the parts that the plan forbids go.
#[tokio::test]
async fn s99_a_change_of_owner_in_mid_clip_erases_every_part_and_takes_no_further_one() {
    let cloud = Cloud::start().await;
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let clip = Clip::new(0);
    store(&camera, &part(&clip, 0, false)).await;
    store(&camera, &part(&clip, 1, false)).await;
    let third = part(&clip, 2, false);
    let grant = camera.granted(&third).await;
    cloud.act(json!({ "action": "bind", "camera": "CAM-A", "account": "next" })).await;
    assert_eq!(camera.put(&grant, third.body.clone()).await.status(), 403);
    for index in 0..3 {
        assert_eq!(stored_file(&cloud, &camera, &part(&clip, index, false)), None, "part {index}");
    }
    assert_eq!(camera.ask(&third).await.status(), 403, "it is nobody's");
}
