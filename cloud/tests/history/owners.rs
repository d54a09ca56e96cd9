//! Clips recorded for one account never reach another.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use care_cloud::domain::actions::{Action, PaidPlan};

use super::world::{HOUR, World};

#[tokio::test]
async fn a_camera_that_moves_takes_nothing_of_its_old_owner_along() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.subscribe("CAM", PaidPlan::Premium).await;
    world.stored("CAM", "young", HOUR);
    // Its clock ran ahead.
    world.stored("CAM", "tomorrow", 0);
    world.cloud.db.read(|c| Ok(c.execute("UPDATE clips SET started_ms = started_ms + 86400000 WHERE clip = 'tomorrow'", [])?)).unwrap();
    assert_eq!(world.shown("ann", "CAM").await.len(), 2);
    assert!(world.shown("bob", "CAM").await.is_empty());
    assert_eq!(world.watch("bob", "CAM", "young").await.0, StatusCode::NOT_FOUND);

    world.act(Action::Bind { camera: "CAM".parse().unwrap(), account: "bob".into() }).await;
    for account in ["ann", "bob"] {
        assert!(world.shown(account, "CAM").await.is_empty(), "{account}");
        assert_eq!(world.watch(account, "CAM", "young").await.0, StatusCode::NOT_FOUND, "{account}");
    }
    assert_eq!(world.listed("CAM").await, BTreeSet::new(), "the store has nothing of it either");
    let view = care_cloud::portal::account_view::read(&world.cloud, "bob").await.unwrap().unwrap();
    assert_eq!((view.cameras[0].clips, view.cameras[0].latest.is_none()), (0, true));
    assert!(care_cloud::portal::account_view::read(&world.cloud, "ann").await.unwrap().unwrap().cameras.is_empty());
}

#[tokio::test]
async fn erased_clips_cannot_be_watched_even_before_the_store_has_deleted_them() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.stored("CAM", "stuck", HOUR);
    // The transaction alone, as if the program died before the store was told.
    let (device, issuer) = ("CAM".parse().unwrap(), world.cloud.issuer.clone());
    let bind = Action::Bind { camera: device, account: "bob".into() };
    world.cloud.db.transact(|tx| issuer.act(tx, &bind, world.cloud.clock.now_s())).unwrap();
    assert_eq!(world.listed("CAM").await.len(), 1);
    for account in ["ann", "bob"] {
        assert!(world.shown(account, "CAM").await.is_empty(), "{account}");
        assert_eq!(world.watch(account, "CAM", "stuck").await.0, StatusCode::NOT_FOUND, "{account}");
    }
    // A clip that slipped into the index under the old epoch is not the new owner's.
    world.cloud.db.read(|c| Ok(c.execute("UPDATE clips SET erased_at = NULL", [])?)).unwrap();
    assert!(world.shown("bob", "CAM").await.is_empty());
}

#[tokio::test]
async fn an_unbound_camera_leaves_nothing_behind() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.stored("CAM", "young", HOUR);
    let losses = {
        let (cloud, unbind) = (&world.cloud, Action::Unbind { camera: "CAM".parse().unwrap() });
        cloud.db.transact(|tx| cloud.issuer.preview(tx, &unbind, cloud.clock.now_s())).unwrap().losses
    };
    assert_eq!((losses[0].clips, losses[0].kept), (1, 0));
    world.act(Action::Unbind { camera: "CAM".parse().unwrap() }).await;
    assert_eq!(world.listed("CAM").await, BTreeSet::new());
    assert!(world.shown("ann", "CAM").await.is_empty());
}
