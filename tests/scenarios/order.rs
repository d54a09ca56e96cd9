//! Scenarios 19 to 26: the order of documents.

use std::time::Duration;

use care_protocol::{MAX_INTEGER, Mode, Outcome};
use care_tests::{
    build::Build,
    cloud::Document as Body,
    in_each_build,
    wait::{PATIENCE, holds, until},
    world::{DEVICE, World},
};

#[tokio::test]
async fn s19_a_duplicate_is_acknowledged_again_and_not_written() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let writes = world.settled_writes().await;
    let (mark, sent) = (world.issuer.mark(), world.broker.sent_to(DEVICE));
    for _ in 0..3 {
        world.issuer.publish_entitlement(&premium.token).await;
    }
    let report = world.issuer.report_since(mark, "the duplicate", |report| premium.judged(report, Outcome::Duplicate)).await;
    assert!(premium.in_force(&report) && report.mode == Mode::Paid && report.cut.transfers == 0);
    until("three more copies sent", PATIENCE, || (world.broker.sent_to(DEVICE) >= sent + 3).then_some(())).await;
    world.everything_acknowledged().await;
    assert_eq!(world.settled_writes().await, writes);
}

#[tokio::test]
async fn s20_an_older_document_is_stale() {
    let mut world = World::new().await;
    world.start_premium().await;
    let older = world.free();
    let older = world.sign(&older);
    let newer = world.premium();
    let newer = world.switch(newer, Mode::Paid).await;
    world.issuer.publish_entitlement(&older.token).await;
    let report = world.issuer.judged(&older, Outcome::Stale).await;
    assert!(newer.in_force(&report) && report.mode == Mode::Paid);
    world.everything_acknowledged().await;
}

in_each_build!(s21_a_recorded_premium_document_replayed_after_the_cancel_is_stale);

async fn s21_a_recorded_premium_document_replayed_after_the_cancel_is_stale(build: Build) {
    let mut world = World::of(build).await;
    let recorded = world.start_premium().await;
    let cancel = world.free();
    let cancel = world.switch(cancel, Mode::Free).await;
    // By every path: retained, as an answer, and at the next start.
    world.hand_out(&recorded).await;
    let report = world.issuer.judged(&recorded, Outcome::Stale).await;
    assert!(cancel.in_force(&report) && report.mode == Mode::Free);
    world.agent.kill().await;
    let mark = world.issuer.mark();
    world.agent.start();
    world.issuer.report_since(mark, "the replay after boot", |report| recorded.judged(report, Outcome::Stale)).await;
    let gets = world.cloud.entitlement_gets();
    until("a GET, since nothing has confirmed", PATIENCE, || (world.cloud.entitlement_gets() > gets).then_some(())).await;
    holds("Free", Duration::from_secs(1), || {
        world
            .issuer
            .reports(mark)
            .into_iter()
            .find(|r| r.mode != Mode::Free || r.outcome == Outcome::Applied && !cancel.in_force(r))
            .map(|r| format!("{r:?}"))
    })
    .await;
}

#[tokio::test]
async fn s22_the_same_position_with_other_content_is_a_conflict_and_raises_an_alarm() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let mut forged = world.free();
    forged.0.seq = premium.position.seq.try_into().unwrap();
    let forged = world.sign(&forged);
    let seen = world.agent.log().len();
    world.issuer.publish_entitlement(&forged.token).await;
    let report = world.issuer.judged(&forged, Outcome::Conflict).await;
    assert!(premium.in_force(&report) && report.mode == Mode::Paid);
    world.everything_acknowledged().await;
    // The report's line also says `conflict`; the alarm is a separate line.
    world.agent.logged(seen, "the alarm", |line| line.contains("ERROR") && line.contains("document_conflict")).await;
    world.agent.status("the conflict", |status| status.condition("document_conflict").is_some()).await;
}

#[tokio::test]
async fn s23_the_higher_pair_wins_whatever_the_order() {
    for upgrade_is_higher in [true, false] {
        for higher_first in [true, false] {
            let mut world = World::new().await;
            let plus = world.plus();
            world.start_with(plus, Mode::Paid).await;
            let (lower, higher) = if upgrade_is_higher { (world.free(), world.premium()) } else { (world.premium(), world.free()) };
            let (lower, higher) = (world.sign(&lower), world.sign(&higher));
            world.cloud.lock().entitlement = Body::Token(higher.token.clone());
            world.issuer.heard().answer = Some(higher.token.clone());
            let order = if higher_first { [&higher, &lower] } else { [&lower, &higher] };
            for document in order {
                world.issuer.publish_entitlement(&document.token).await;
            }
            world.issuer.judged(&higher, Outcome::Applied).await;
            if higher_first {
                world.issuer.judged(&lower, Outcome::Stale).await;
            }
            world.everything_acknowledged().await;
            world.issuer.in_force(&higher, if upgrade_is_higher { Mode::Paid } else { Mode::Free }).await;
        }
    }
}

#[tokio::test]
async fn s24_seq_at_its_maximum_does_not_overflow_and_a_root_signed_reset_recovers() {
    let mut world = World::new().await;
    world.start_premium().await;
    world.position.seq = MAX_INTEGER - 1;
    let last = world.free();
    let last = world.switch(last, Mode::Free).await;

    world.position.seq = 41;
    let after = world.premium();
    let after = world.sign(&after);
    world.issuer.publish_entitlement(&after.token).await;
    let report = world.issuer.judged(&after, Outcome::Stale).await;
    assert!(last.in_force(&report));

    let reset = world.pki.keyset(8).resetting(1, DEVICE, 3, 41).sign(&world.pki.root);
    world.hand_out_keyset(&reset).await;
    world.hand_out(&after).await;
    let report = world.issuer.judged(&after, Outcome::Applied).await;
    assert_eq!(report.keyset, 8);
    world.issuer.in_force(&after, Mode::Paid).await;
}

#[tokio::test]
async fn s25_an_empty_retained_payload_is_not_a_cancel() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let (gets, sent) = (world.issuer.gets(), world.broker.sent_to(DEVICE));
    world.issuer.publish_entitlement("").await;
    world.issuer.get_since(gets).await;
    until("the empty payload sent", PATIENCE, || (world.broker.sent_to(DEVICE) > sent).then_some(())).await;
    world.everything_acknowledged().await;
    assert_eq!(world.agent.mode(Mode::Paid).await.seq(), premium.position.seq);
    let heard = world.issuer.heard();
    assert!(
        heard.reports.iter().all(|(_, report)| report.outcome != Outcome::Rejected && report.mode != Mode::Free),
        "{:?}",
        heard.reports
    );
}

#[tokio::test]
async fn s26_the_last_of_1000_documents_applies_with_few_flash_writes() {
    let mut world = World::new().await;
    world.start_premium().await;
    let before = world.settled_writes().await;
    let (memory, _) = world.agent.memory();
    let documents: Vec<_> = (0..1000).map(|i| if i % 2 == 0 { world.plus() } else { world.premium() }).collect();
    let documents: Vec<_> = documents.iter().map(|draft| world.sign(draft)).collect();
    let sent = world.broker.sent_to(DEVICE);
    let topic = world.issuer.topics().entitlement();
    for document in &documents {
        world.issuer.post(&topic, true, document.token.clone());
    }
    let last = documents.last().unwrap();
    world.cloud.lock().entitlement = Body::Token(last.token.clone());
    world.issuer.heard().answer = Some(last.token.clone());
    world.issuer.in_force(last, Mode::Paid).await;
    until("all 1,000 sent", PATIENCE, || (world.broker.sent_to(DEVICE) >= sent + 1000).then_some(())).await;
    world.everything_acknowledged().await;
    let writes = world.settled_writes().await - before;
    assert!((1..=100).contains(&writes), "{writes} writes");
    let (_, highest) = world.agent.memory();
    assert!(highest < memory + 16 * 1024 * 1024, "memory rose from {memory} to {highest}");
}
