//! Scenarios 97 to 99: a clip leaves in parts while it is being filmed.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use care_protocol::{Mode, Policy};
use care_tests::{
    build::Build,
    cloud::{CloudState, Put, Sink},
    in_each_build,
    issuer::PREMIUM,
    media::{FPS, boxes, probe},
    wait::{PATIENCE, holds, until},
    world::World,
};

/// Long enough that a clip is in the store in several parts while it is being filmed.
const LONG: Policy = Policy { clip_max_s: 14, ..PREMIUM };

/// A Premium camera whose clips leave in parts, and may be long.
async fn in_parts(build: Build) -> World {
    let mut world = World::with_camera_of(build).await;
    world.agent.config.while_recording = true;
    let premium = world.premium().limited(LONG);
    world.start_with(premium, Mode::Paid).await;
    world
}

/// Motion goes on, so that a clip gets as long as the plan allows, until the cloud's records satisfy `wanted`.
async fn in_motion<T>(world: &World, what: &str, wanted: impl FnMut(&CloudState) -> Option<T>) -> T {
    world.move_every(Duration::from_secs(1), what, wanted).await
}

/// The whole parts of the first clip that came in parts, in their order.
fn parts(seen: &CloudState) -> Vec<Put> {
    let Some(clip) = seen.asked.iter().find(|(_, asked)| asked.part.is_some()).map(|(_, asked)| asked.clip.clone()) else {
        return Vec::new();
    };
    seen.puts.iter().filter(|put| put.clip == clip && put.complete == Some(true)).cloned().collect()
}

fn joined(world: &World, parts: &[Put]) -> PathBuf {
    let file = world.agent.dir().join("joined.mp4");
    std::fs::write(&file, parts.iter().flat_map(|part| part.body.clone()).collect::<Vec<u8>>()).unwrap();
    file
}

in_each_build!(s97_each_second_of_a_clip_is_in_the_store_seconds_after_it_happened);

async fn s97_each_second_of_a_clip_is_in_the_store_seconds_after_it_happened(build: Build) {
    let world = in_parts(build).await;
    let clip = in_motion(&world, "the last part of a clip", |seen| {
        let last = seen.asked.iter().find(|(_, asked)| asked.part.is_some_and(|part| part.last))?.1.clone();
        let asked = seen.asked.iter().filter(|(_, asked)| asked.clip == last.clip).count();
        let stored = seen.puts.iter().filter(|put| put.clip == last.clip && put.complete == Some(true)).count();
        (stored == asked).then_some(last.clip)
    })
    .await;
    let (asked, puts) = {
        let seen = world.cloud.lock();
        let asked: Vec<_> = seen.asked.iter().filter(|(_, asked)| asked.clip == clip).cloned().collect();
        let puts: Vec<_> = seen.puts.iter().filter(|put| put.clip == clip).cloned().collect();
        (asked, puts)
    };
    let first = &asked[0].1;
    for (index, (_, part)) in asked.iter().enumerate() {
        let place = part.part.unwrap();
        assert_eq!((place.index as usize, place.last), (index, index + 1 == asked.len()));
        assert_eq!((part.kind, part.started_at, part.bytes), (first.kind, first.started_at, puts[index].body.len() as u64));
        assert!(part.duration_ms <= 4000 && part.bytes <= 2_000_000, "{part:?}");
    }
    let length: u64 = asked.iter().map(|(_, part)| part.duration_ms).sum();
    assert!(length > 9_000 && length <= u64::from(LONG.clip_max_s) * 1000, "{length} ms");
    assert_eq!(boxes(&puts[0].body)[..4], ["ftyp", "moov", "moof", "mdat"]);
    let whole = probe(&joined(&world, &puts));
    assert_eq!((whole.complaints.as_str(), whole.starts_with_keyframe), ("", true));
    assert!(whole.longest_step() < 1.5, "{:?}", whole.pts);
    assert!((whole.duration() - length as f64 / 1000.0).abs() < 0.2, "{} s of {length} ms", whole.duration());
    // What was asked for last had been filmed within the last seconds: parts do not pile up.
    let spread = asked.last().unwrap().0 - asked[0].0;
    let filmed = Duration::from_millis(length - asked.last().unwrap().1.duration_ms - asked[0].1.duration_ms);
    assert!(spread + Duration::from_secs(4) > filmed, "the parts came within {spread:?}, and {filmed:?} was filmed meanwhile");
}

in_each_build!(s98_a_camera_that_is_torn_off_the_wall_leaves_what_happened_until_then);

async fn s98_a_camera_that_is_torn_off_the_wall_leaves_what_happened_until_then(build: Build) {
    let mut world = in_parts(build).await;
    in_motion(&world, "four parts", |seen| (parts(seen).len() >= 4).then_some(())).await;
    world.agent.kill().await;
    let parts = parts(&world.cloud.lock());
    let left = probe(&joined(&world, &parts));
    assert_eq!((left.complaints.as_str(), left.starts_with_keyframe), ("", true));
    assert!(left.duration() >= 3.0 && left.pts.len() as f64 >= left.duration() * f64::from(FPS) - 2.0, "{:?}", left.pts);
}

in_each_build!(s99_a_cancel_in_mid_event_sends_no_further_byte);

async fn s99_a_cancel_in_mid_event_sends_no_further_byte(build: Build) {
    let mut world = in_parts(build).await;
    in_motion(&world, "a part", |seen| (!parts(seen).is_empty()).then_some(())).await;
    let clip = parts(&world.cloud.lock())[0].clip.clone();
    // The next one is on its way.
    world.cloud.lock().sink = Sink::StallAfter(4_000);
    until("a part on its way", PATIENCE, || {
        world.cloud.lock().puts.iter().any(|put| put.clip == clip && put.complete.is_none()).then_some(())
    })
    .await;
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    world.cloud.lock().sink = Sink::Swallow;
    let asked = world.cloud.lock().asked.iter().filter(|(_, asked)| asked.clip == clip).count();
    let cut = Instant::now();
    holds("no part of it is asked for", Duration::from_secs(6), || {
        let again = world.cloud.lock().asked.iter().filter(|(_, asked)| asked.clip == clip).count();
        (again > asked).then(|| format!("{:?} after the cut", cut.elapsed()))
    })
    .await;
    let status = world.agent.status("an empty spool", |status| status.spool("clips") == 0).await;
    assert_eq!(status.spool("bytes"), 0, "{:#}", status.0);
}
