//! Playback as a video element asks for it.

use axum::http::{StatusCode, header};
use care_cloud::{clock::now_us, domain::actions::PaidPlan, portal::account_view};

use super::world::{DAY, HOUR, World};

#[tokio::test]
async fn a_clip_is_served_whole_or_in_the_range_that_is_asked_for() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.stored("CAM", "abcdefgh", HOUR);
    let (status, headers, body) = world.watch_range("ann", "CAM", "abcdefgh", None).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "abcdefgh"));
    assert_eq!(
        (&headers[header::CONTENT_TYPE], &headers[header::ACCEPT_RANGES], &headers[header::CONTENT_LENGTH]),
        (&"video/mp4".parse().unwrap(), &"bytes".parse().unwrap(), &"8".parse().unwrap())
    );
    assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("no-store"), "what is erased plays from no cache");

    for (range, part, said) in [("bytes=2-4", "cde", "bytes 2-4/8"), ("bytes=6-", "gh", "bytes 6-7/8"), ("bytes=-3", "fgh", "bytes 5-7/8")]
    {
        let (status, headers, body) = world.watch_range("ann", "CAM", "abcdefgh", Some(range)).await;
        assert_eq!((status, body.as_str()), (StatusCode::PARTIAL_CONTENT, part), "{range}");
        assert_eq!(headers[header::CONTENT_RANGE].to_str().unwrap(), said, "{range}");
    }
    let beyond = world.watch_range("ann", "CAM", "abcdefgh", Some("bytes=8-")).await;
    assert_eq!(beyond.0, StatusCode::RANGE_NOT_SATISFIABLE);
    let nonsense = world.watch_range("ann", "CAM", "abcdefgh", Some("furlongs=1-2")).await;
    assert_eq!((nonsense.0, nonsense.2.as_str()), (StatusCode::OK, "abcdefgh"));
}

#[tokio::test]
async fn a_clip_in_parts_is_served_as_one_file_while_it_is_being_filmed_and_afterwards() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.stored_in_parts("CAM", "shop", &["abc", "d", "efgh"], HOUR);
    let (status, headers, body) = world.watch_range("ann", "CAM", "shop", None).await;
    assert_eq!((status, body.as_str(), &headers[header::CONTENT_LENGTH]), (StatusCode::OK, "abcdefgh", &"8".parse().unwrap()));
    for (range, part, said) in [("bytes=2-4", "cde", "bytes 2-4/8"), ("bytes=3-3", "d", "bytes 3-3/8"), ("bytes=-3", "fgh", "bytes 5-7/8")]
    {
        let (status, headers, body) = world.watch_range("ann", "CAM", "shop", Some(range)).await;
        assert_eq!((status, body.as_str()), (StatusCode::PARTIAL_CONTENT, part), "{range}");
        assert_eq!(headers[header::CONTENT_RANGE].to_str().unwrap(), said, "{range}");
    }
    assert_eq!(world.watch_range("ann", "CAM", "shop", Some("bytes=8-")).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(world.watch("bob", "CAM", "shop").await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.listed("CAM").await, ["shop".to_owned()].into());
    assert_eq!(world.shown("ann", "CAM").await, ["shop"]);
}

#[tokio::test]
async fn a_clip_is_being_filmed_until_its_last_part_or_ten_minutes_after_the_newest() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.stored("CAM", "whole", HOUR);
    world.stored_in_parts("CAM", "shop", &["abc", "d"], HOUR);
    let being_filmed = async || {
        let clips = account_view::clips(&world.cloud, "ann", &"CAM".parse().unwrap()).await.unwrap();
        clips.into_iter().filter(|clip| clip.being_filmed).map(|clip| clip.clip).collect::<Vec<_>>()
    };
    let set = |sql: &str, value: i64| world.cloud.db.read(|c| Ok(c.execute(sql, [value])?)).unwrap();
    let newest = "UPDATE parts SET stored_at = ?1 WHERE part = 1";
    set(newest, now_us() - 599_000_000);
    assert_eq!(being_filmed().await, ["shop"]);
    set(newest, now_us() - 601_000_000);
    assert!(being_filmed().await.is_empty());
    set(newest, now_us());
    set("UPDATE parts SET last = ?1 WHERE part = 1", 1);
    assert!(being_filmed().await.is_empty(), "its last part is there");
}

#[tokio::test]
async fn a_clip_in_parts_leaves_the_store_with_all_of_them() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.stored_in_parts("CAM", "old", &["abc", "d", "efgh"], 47 * HOUR);
    world.stored_in_parts("CAM", "new", &["abc", "d"], HOUR);
    world.pass(2 * HOUR);
    world.cloud.sweep().await.unwrap();
    assert_eq!(world.listed("CAM").await, ["new".to_owned()].into());
    assert_eq!(std::fs::read_dir(world.clips("CAM")).unwrap().count(), 2);
}

/// A camera's firmware may make the snapshot: a JPEG, which browsers show as a picture.
#[tokio::test]
async fn a_snapshot_is_served_as_what_its_first_bytes_say() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    let jpeg = [0xFF, 0xD8, 0xFF, 0xE0, 0, 2, 0xFF, 0xD9];
    for (clip, bytes) in [("still", &jpeg[..]), ("frame", b"\0\0\0\x18ftypiso6"), ("tiny", b"\xff")] {
        world.stored("CAM", clip, HOUR);
        world.cloud.db.read(|c| Ok(c.execute("UPDATE clips SET kind = 'snapshot' WHERE clip = ?1", [clip])?)).unwrap();
        std::fs::write(world.clips("CAM").join(format!("{clip}.mp4")), bytes).unwrap();
    }
    world.stored_in_parts("CAM", "part", &["x"], HOUR);
    world.cloud.db.read(|c| Ok(c.execute("UPDATE clips SET kind = 'snapshot' WHERE clip = 'part'", [])?)).unwrap();
    world.cloud.db.read(|c| Ok(c.execute("UPDATE parts SET bytes = 8 WHERE clip = 'part'", [])?)).unwrap();
    std::fs::write(world.clips("CAM").join("part.0.mp4"), jpeg).unwrap();
    // No snapshot, whatever it begins with.
    world.stored("CAM", "clip", HOUR);
    std::fs::write(world.clips("CAM").join("clip.mp4"), jpeg).unwrap();
    for (clip, expected) in
        [("still", "image/jpeg"), ("frame", "video/mp4"), ("tiny", "video/mp4"), ("part", "image/jpeg"), ("clip", "video/mp4")]
    {
        let (status, headers, _) = world.watch_range("ann", "CAM", clip, None).await;
        assert_eq!((status, headers[header::CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, expected), "{clip}");
    }
    let range = world.watch_range("ann", "CAM", "still", Some("bytes=0-1")).await;
    assert_eq!((range.0, &range.1[header::CONTENT_TYPE]), (StatusCode::PARTIAL_CONTENT, &"image/jpeg".parse().unwrap()));
}

#[tokio::test]
async fn another_accounts_clip_and_an_unknown_clip_are_not_served() {
    let world = World::new();
    world.add_to("ann", "CAM-A", "KC420WS");
    world.add_to("bob", "CAM-B", "KC420WS");
    world.stored("CAM-A", "hers", HOUR);
    for (account, camera, clip) in [("bob", "CAM-A", "hers"), ("bob", "CAM-B", "hers"), ("ann", "CAM-A", "never"), ("", "CAM-A", "hers")] {
        assert_eq!(world.watch(account, camera, clip).await.0, StatusCode::NOT_FOUND, "{account} {camera} {clip}");
    }
    for clip in ["../CAM-A/hers", "..%2f", "hers.mp4"] {
        assert_eq!(world.watch("ann", "CAM-A", clip).await.0, StatusCode::NOT_FOUND, "{clip}");
    }
}

#[tokio::test]
async fn a_clip_past_the_plans_history_is_not_shown_even_if_it_is_still_in_the_store() {
    let world = World::new();
    world.add_to("ann", "CAM", "KC420WS");
    world.subscribe("CAM", PaidPlan::Premium).await;
    world.stored("CAM", "d30", 30 * DAY);
    assert_eq!(world.shown("ann", "CAM").await, ["d30"]);
    world.cloud.clock.advance(1);
    assert!(world.listed("CAM").await.contains("d30"), "nobody has swept");
    assert!(world.shown("ann", "CAM").await.is_empty());
    assert_eq!(world.watch("ann", "CAM", "d30").await.0, StatusCode::NOT_FOUND);
}
