//! Scenarios 88 and 89: failures without an error. A broker grants the subscription and delivers nothing; the answer
//! to a poll is lost.

use std::time::{Duration, Instant};

use care_protocol::{Mode, Outcome};
use care_tests::{
    cloud::Document as Body,
    wait::{RECONNECT, until},
    world::World,
};

/// The ACL that operators copy, without the right to read.
fn deaf_acl() -> String {
    let lines: Vec<_> = include_str!("../../../deploy/mosquitto/cameras.acl").lines().filter(|line| !line.contains(" read ")).collect();
    lines.join("\n") + "\n"
}

#[tokio::test]
async fn s88_a_broker_that_grants_subscriptions_and_delivers_nothing_hides_no_cancel() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("deaf.acl");
    std::fs::write(&acl, deaf_acl()).unwrap();
    let mut world = World::with_broker(&format!("acl_file {}", acl.display())).await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    world.agent.start();
    // The broker lets the camera publish; HTTPS delivers what the broker withholds.
    world.issuer.in_force(&premium, Mode::Paid).await;
    let status = world.agent.status_within("a deaf broker", RECONNECT, |status| status.condition("broker_deaf").is_some()).await;
    assert!(status.sentence("broker_deaf").contains(&world.proxy.addr.to_string()), "{:#}", status.0["conditions"]);
    assert_eq!(status.mode(), "paid");
    let deaf = |report: &care_protocol::Report| report.detail.as_ref().is_some_and(|detail| detail.contains("granted the subscription"));
    world.issuer.report("that it hears nothing", deaf).await;
    let lines = world.agent.log().since(0);
    assert_eq!(lines.iter().filter(|line| line.contains("broker_deaf")).count(), 1, "said once: {lines:#?}");

    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    let report = world.issuer.report_within(0, RECONNECT, "the cancel", |report| cancel.judged(report, Outcome::Applied)).await;
    assert_eq!(report.mode, Mode::Free);

    // Once the ACL is repaired, the camera receives again and clears the condition.
    std::fs::write(&acl, include_str!("../../../deploy/mosquitto/cameras.acl")).unwrap();
    world.broker.restart().await;
    let hears = |status: &care_tests::status::Status| status.condition("broker_deaf").is_none();
    world.agent.status_within("a broker that delivers", RECONNECT, hears).await;
    let resubscribed = world.issuer.mark();
    let plus = world.plus();
    let plus = world.issue(plus).await;
    world.issuer.report_within(resubscribed, RECONNECT, "the new plan", |report| plus.judged(report, Outcome::Applied)).await;
}

/// The answer to a `get` proves nothing about the topic on which a change comes.
#[tokio::test]
async fn s88_a_broker_that_delivers_answers_and_no_entitlement_hides_no_cancel() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("answers.acl");
    let lines: Vec<_> =
        include_str!("../../../deploy/mosquitto/cameras.acl").lines().filter(|line| !line.ends_with("/entitlement")).collect();
    std::fs::write(&acl, lines.join("\n") + "\n").unwrap();
    let mut world = World::with_broker(&format!("acl_file {}", acl.display())).await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    world.agent.start();
    world.issuer.in_force(&premium, Mode::Paid).await;
    let status = world.agent.mode(Mode::Paid).await;
    assert!(status.condition("broker_deaf").is_none(), "{:#}", status.0["conditions"]);

    let cancelled = world.issuer.mark();
    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    let report = world.issuer.report_within(cancelled, RECONNECT, "the cancel", |report| cancel.judged(report, Outcome::Applied)).await;
    assert_eq!(report.mode, Mode::Free);
    world.agent.status_within("what the broker keeps", RECONNECT, |status| status.condition("broker_deaf").is_some()).await;
}

#[tokio::test]
async fn s89_without_a_broker_one_lost_poll_does_not_interrupt_paid_media() {
    let mut world = World::new().await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    // HTTPS only: the broker is unreachable.
    world.proxy.cut().await;
    world.agent.start();
    world.agent.mode(Mode::Paid).await;
    let asked = world.cloud.entitlement_gets();
    world.cloud.lock().entitlement = Body::Silence;
    until("the poll that is lost", RECONNECT, || (world.cloud.entitlement_gets() > asked).then_some(())).await;
    // Only its answer is lost.
    world.cloud.lock().entitlement = Body::Token(premium.token.clone());
    let lost = world.cloud.entitlement_gets();
    // The confirmation by the previous answer expires meanwhile.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(45) {
        let status = world.agent.try_status().await.expect("the agent answers");
        assert_eq!(status.mode(), "paid", "{:?} after the lost poll", began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(world.cloud.entitlement_gets() > lost, "it polled again");
    world.agent.mode(Mode::Paid).await;
}
