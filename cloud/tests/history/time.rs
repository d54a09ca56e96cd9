//! Retention by time, after a crash, and with a store that cannot delete.

use std::collections::BTreeSet;

use care_cloud::{
    domain::actions::{Action, PaidPlan},
    schedule,
};

use super::world::{DAY, HOUR, World};

#[tokio::test]
async fn clips_leave_the_store_when_they_grow_too_old_for_their_plan_and_not_before() {
    let world = World::new();
    for (camera, model) in [("EC", "EC70"), ("KC", "KC420WS"), ("PLUS", "KC420WS"), ("PREM", "KC420WS")] {
        world.add(camera, model);
        world.stored(camera, &format!("{camera}-old"), HOUR);
        world.stored(camera, &format!("{camera}-new"), 0);
    }
    world.subscribe("PLUS", PaidPlan::Plus).await;
    world.subscribe("PREM", PaidPlan::Premium).await;
    let schedule = tokio::spawn(schedule::run(world.cloud.clone()));

    // Each camera's history in hours, from the catalogue's own figures in the FAQ; the first clip is an hour old at NOW.
    let mut passed = 0;
    for (camera, history) in [("EC", 12 * HOUR), ("KC", 48 * HOUR), ("PLUS", 14 * DAY), ("PREM", 30 * DAY)] {
        let (old, new) = (format!("{camera}-old"), format!("{camera}-new"));
        world.pass(history - HOUR - passed);
        passed = history - HOUR;
        // A sweep of our own: it has looked at this moment when it returns.
        world.cloud.sweep().await.unwrap();
        assert_eq!(world.listed(camera).await.len(), 2, "{camera}: exactly its history old is not too old");
        world.pass(1);
        world.until_listed(camera, &[&new]).await;
        assert!(!world.clips(camera).join(format!("{old}.mp4")).exists());
        world.pass(HOUR);
        world.until_listed(camera, &[]).await;
        passed += HOUR + 1;
    }
    schedule.abort();
    // Whatever the schedule had deleted and not yet booked.
    world.cloud.sweep().await.unwrap();
    assert_eq!(world.marked_gone(), 8);
}

#[tokio::test]
async fn a_change_of_plan_erases_what_it_must_from_the_store_itself() {
    let world = World::new();
    world.add("CAM", "KC420WS");
    world.subscribe("CAM", PaidPlan::Premium).await;
    for (clip, ago) in [("d20", 20 * DAY), ("d10", 10 * DAY), ("h47", 47 * HOUR)] {
        world.stored("CAM", clip, ago);
    }
    world.cloud.act(Action::Downgrade { camera: "CAM".parse().unwrap(), quote: None }).await.unwrap();
    assert_eq!(world.listed("CAM").await, BTreeSet::from(["d10".to_owned(), "h47".to_owned()]));
    world.cloud.act(Action::Cancel { camera: "CAM".parse().unwrap(), quote: None }).await.unwrap();
    assert_eq!(world.listed("CAM").await, BTreeSet::from(["h47".to_owned()]));
}

#[tokio::test]
async fn a_clip_marked_before_a_crash_still_goes_and_one_being_sent_again_stays() {
    let world = World::new();
    world.add("CAM", "KC420WS");
    world.stored("CAM", "crashed", HOUR);
    world.stored("CAM", "again", HOUR);
    world
        .cloud
        .db
        .read(|c| {
            c.execute_batch("UPDATE clips SET erased_at = 1")?;
            let grant = "INSERT INTO grants VALUES ('g', 'again', 'CAM', 1, 1, ?1, 'open', NULL)";
            Ok(c.execute(grant, [care_cloud::clock::now_us()])?)
        })
        .unwrap();
    world.cloud.sweep().await.unwrap();
    assert_eq!(world.listed("CAM").await, BTreeSet::from(["again".to_owned()]));
    assert_eq!(world.marked_gone(), 1);
}

#[tokio::test]
async fn an_object_that_cannot_be_deleted_is_not_booked_as_gone() {
    let world = World::new();
    world.add("CAM", "KC420WS");
    world.stored("CAM", "stuck", 3 * DAY);
    // A directory in the object's place cannot be unlinked, whoever we are.
    let stuck = world.clips("CAM").join("stuck.mp4");
    std::fs::remove_file(&stuck).unwrap();
    std::fs::create_dir(&stuck).unwrap();
    assert!(world.cloud.sweep().await.is_err());
    assert_eq!(world.marked_gone(), 0);
    std::fs::remove_dir(&stuck).unwrap();
    std::fs::write(&stuck, "x").unwrap();
    world.cloud.sweep().await.unwrap();
    assert_eq!(world.marked_gone(), 1);
}
