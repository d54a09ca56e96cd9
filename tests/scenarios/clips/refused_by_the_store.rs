//! Scenario 91: the store never accepts one clip, in each way that a store can refuse. All other clips leave; the
//! agent retries this one with growing pauses. Also what the agent says of a store or grant that is wrong for every
//! clip.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use care_protocol::{Mode, Policy};
use care_tests::{
    cloud::{GrantAnswer, PUT_FAULT_WORDS, PutFault, Sink, grant},
    issuer::PREMIUM,
    wait::{PATIENCE, until},
    world::World,
};

/// Clips of one second, so that there are soon many.
async fn short_clips() -> World {
    let mut world = World::with_camera().await;
    let premium = world.premium().limited(Policy { clip_max_s: 1, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    world
}

/// Reports motion until the condition holds.
async fn move_until(world: &World, what: &str, patience: Duration, mut wanted: impl FnMut(&World) -> bool) {
    let mut motion = world.agent.motion().await;
    let started = Instant::now();
    while !wanted(world) {
        assert!(started.elapsed() < patience, "after {patience:?} still waiting for {what}");
        motion.report_motion().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The clips in the store, in the order of arrival.
fn stored(world: &World) -> Vec<String> {
    let seen = world.cloud.lock();
    seen.puts.iter().filter(|put| put.complete == Some(true)).map(|put| put.clip.clone()).collect()
}

/// The times at which grants for this clip were requested.
fn tries(world: &World, clip: &str) -> Vec<Instant> {
    world.cloud.lock().asked.iter().filter(|(_, asked)| asked.clip == clip).map(|(at, _)| *at).collect()
}

/// Checks that the first clip fails in this way every time and the others are uploaded.
async fn one_clip_fails(fault: PutFault, words: &str) {
    let world = short_clips().await;
    let poison: Arc<Mutex<Option<String>>> = Arc::default();
    let first = poison.clone();
    world.cloud.lock().on_put = Some(Box::new(move |clip, _| {
        let mut poison = first.lock().unwrap();
        (poison.get_or_insert_with(|| clip.to_owned()) == clip).then_some(fault)
    }));
    let log = world.agent.log().len();
    move_until(&world, "eight other clips in the store", Duration::from_secs(100), |world| stored(world).len() >= 8).await;
    let poison = poison.lock().unwrap().clone().expect("a clip was put");
    let others = stored(&world);
    assert!(!others.contains(&poison));
    // The others were uploaded oldest first.
    let started_at =
        |clip: &String| world.cloud.lock().asked.iter().find(|(_, asked)| asked.clip == *clip).map(|(_, asked)| asked.started_at);
    let moments: Vec<_> = others.iter().map(started_at).collect();
    assert!(moments.is_sorted(), "{moments:?}");
    // The agent retries it although nothing else waits, and names it.
    let patience = Duration::from_secs(if fault == PutFault::Stall { 150 } else { 60 });
    until("four attempts", patience, || (tries(&world, &poison).len() >= 4).then_some(())).await;
    let status = world.agent.status("the clip that fails", |status| status.condition("clip_failing").is_some()).await;
    let sentence = status.sentence("clip_failing");
    assert!(sentence.contains(&poison) && sentence.contains(words), "{sentence}");
    assert_eq!(status.condition("uploads_failing"), None, "others can be uploaded");
    let gaps: Vec<Duration> = tries(&world, &poison).windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.windows(2).skip(1).all(|pair| pair[0] <= pair[1] * 2), "the pauses grow: {gaps:?}");
    let said = world.agent.log().since(log);
    let about_it = said.iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert!(about_it <= 4, "{about_it} warnings");
    // Once the store accepts it, the condition ends.
    world.cloud.lock().on_put = None;
    move_until(&world, "the clip in the store", Duration::from_secs(100), |world| stored(world).contains(&poison)).await;
    world.agent.status("that nothing fails", |status| status.condition("clip_failing").is_none()).await;
}

#[tokio::test]
async fn s91_a_clip_that_always_gets_500_delays_no_other() {
    one_clip_fails(PutFault::Status(500), PUT_FAULT_WORDS).await;
}

#[tokio::test]
async fn s91_a_clip_whose_connection_is_always_reset_delays_no_other() {
    one_clip_fails(PutFault::Reset, "sending the clip").await;
}

#[tokio::test]
async fn s91_a_clip_too_large_for_a_proxy_delays_no_other() {
    one_clip_fails(PutFault::Early(413), "413").await;
}

#[tokio::test]
async fn s91_a_clip_whose_upload_stalls_delays_no_other() {
    one_clip_fails(PutFault::Stall, "did not answer in time").await;
}

#[tokio::test]
async fn a_failing_store_is_named_with_its_error_until_it_accepts_a_clip() {
    let world = short_clips().await;
    world.cloud.lock().on_put = Some(Box::new(|_, _| Some(PutFault::Status(503))));
    move_until(&world, "uploads reported as failing", PATIENCE, |world| total_tries(world) >= 4).await;
    let status = world.agent.status("that uploads fail", |status| status.condition("uploads_failing").is_some()).await;
    let sentence = status.sentence("uploads_failing");
    let peer = world.cloud.addr.to_string();
    assert!(sentence.contains("503") && sentence.contains(PUT_FAULT_WORDS) && sentence.contains(&peer), "{sentence}");
    assert!(sentence.contains("20"), "and when: {sentence}");
    world.cloud.lock().on_put = None;
    until("a clip in the store", Duration::from_secs(100), || (!stored(&world).is_empty()).then_some(())).await;
    world.agent.status("that nothing fails", |status| status.condition("uploads_failing").is_none()).await;
}

fn total_tries(world: &World) -> usize {
    world.cloud.lock().puts.len()
}

#[tokio::test]
async fn an_unlisted_store_host_is_one_log_line_and_a_condition() {
    let world = short_clips().await;
    world.cloud.lock().grants = GrantAnswer::Body(grant("https://clips.example/k"));
    let log = world.agent.log().len();
    move_until(&world, "many misleading grants", PATIENCE, |world| world.cloud.grants_asked() >= 20).await;
    let status = world.agent.status("that grants mislead", |status| status.condition("grant_misleads").is_some()).await;
    assert!(status.sentence("grant_misleads").contains("clips.example:443"), "{:#}", status.0["conditions"]);
    let lines = world.agent.log().since(log).iter().filter(|line| line.contains("clips.example")).count();
    assert_eq!(lines, 1);
    world.cloud.lock().grants = GrantAnswer::Here;
    world.cloud.lock().sink = Sink::Swallow;
    world.agent.status_within("that none misleads", Duration::from_secs(150), |status| status.condition("grant_misleads").is_none()).await;
}
