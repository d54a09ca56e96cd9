//! Scenarios 30 to 35: what takes effect at a time.

use std::time::{Duration, Instant};

use care_protocol::{Cause, Mode, Outcome};
use care_tests::{
    cloud::{Document as Body, Sink},
    issuer::NOTHING,
    unix_now,
    wait::{PATIENCE, RECONNECT, holds, until},
    world::World,
};

#[tokio::test]
async fn s30_next_is_performed_on_time_after_a_reboot_and_with_the_broker_away() {
    let mut world = World::new().await;
    world.start_premium().await;
    let effective_at = unix_now() + 6;
    let pending = world.premium().then_free(effective_at);
    let pending = world.switch(pending, Mode::Paid).await;
    world.wire.cut().await;
    world.agent.kill().await;
    let mark = world.issuer.mark();
    world.agent.start();
    let status = world.agent.status("a plan after boot", |status| status.plan() == "premium").await;
    assert!(unix_now() < effective_at, "this machine is too slow for this test");
    assert_ne!(status.mode(), "free");

    world.agent.mode(Mode::Free).await;
    let now = unix_now();
    assert!((effective_at..effective_at + 3).contains(&now), "due at {effective_at}, free at {now}");
    world.wire.mend();
    let report = world.issuer.report_within(mark, RECONNECT, "the change", |report| report.cause == Cause::Next).await;
    assert!(pending.in_force(&report) && report.mode == Mode::Free && report.judged.is_none());
    assert!(report.at.as_second() >= i64::try_from(effective_at).unwrap());
}

#[tokio::test]
async fn s31_next_in_the_past_on_arrival_applies_now() {
    let mut world = World::new().await;
    world.start_premium().await;
    let late = world.premium().then_free(unix_now() - 10);
    let late = world.switch(late, Mode::Free).await;
    let report = world.issuer.in_force(&late, Mode::Free).await;
    assert_eq!(report.plan.unwrap().as_str(), "free");
}

#[tokio::test]
async fn s32_next_that_passes_while_the_camera_is_off_applies_before_the_first_upload() {
    let mut world = World::with_camera().await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let mut pending = world.premium().then_free(unix_now() + 8);
    pending.0.next.as_mut().unwrap().policy = NOTHING;
    let effective_at = pending.0.next.as_ref().unwrap().effective_at;
    let pending = world.start_with(pending, Mode::Paid).await;
    world.upload_in_flight(16_000).await;
    world.agent.stop().await;
    let asked = world.cloud.grants_asked();
    world.cloud.lock().sink = Sink::Swallow;
    until("the time of the change", Duration::from_secs(15), || (unix_now() > effective_at).then_some(())).await;

    let mark = world.issuer.mark();
    world.agent.start();
    let report = world.issuer.report_since(mark, "Free after boot", |report| pending.in_force(report) && report.mode == Mode::Free).await;
    assert_eq!(report.plan.unwrap().as_str(), "free");
    world.agent.motion().await.moved().await;
    holds("nothing is asked for", Duration::from_secs(4), || {
        (world.cloud.grants_asked() > asked).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;
    assert!(world.issuer.reports(mark).iter().all(|report| report.mode != Mode::Paid));
}

#[tokio::test]
async fn s35_another_nonce_is_no_answer_but_still_a_document() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    world.agent.stop().await;
    // Nothing retained, nobody answers: after boot, paid media waits.
    world.issuer.heard().answer = None;
    world.issuer.publish_entitlement("").await;
    world.cloud.lock().entitlement = Body::Silence;
    let (mark, gets) = (world.issuer.mark(), world.issuer.gets());
    world.agent.start();
    world.issuer.get_since(gets).await;

    world.issuer.answer("AAAAAAAAAAAAAAAAAAAAAA", &premium.token).await;
    let report = world.issuer.report_since(mark, "the duplicate", |report| premium.judged(report, Outcome::Duplicate)).await;
    assert_eq!(report.mode, Mode::Held);
    let (newer, gets) = (world.premium(), world.issuer.gets());
    let newer = world.sign(&newer);
    world.issuer.answer("AAAAAAAAAAAAAAAAAAAAAB", &newer.token).await;
    let report = world.issuer.judged(&newer, Outcome::Applied).await;
    assert!(newer.in_force(&report) && report.mode == Mode::Held, "judged as a document, confirming nothing: {report:?}");

    // A document applied while not confirmed sends a fresh get at once; its nonce counts.
    let get = world.issuer.get_since(gets).await;
    assert!(get.nonce.len() >= 22 && get.seq == newer.position.seq, "{get:?}");
    let asked = Instant::now();
    world.issuer.answer(&get.nonce, &newer.token).await;
    let report = world.issuer.in_force(&newer, Mode::Paid).await;
    assert_eq!(report.cause, Cause::Confirmed);
    assert!(asked.elapsed() < PATIENCE);
}
